"""One module per verb: backup, restore, verify and so on. Returns results; prints nothing."""
