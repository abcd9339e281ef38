"""One module a verb: backup, restore, verify and so on. Returns records; prints nothing."""
