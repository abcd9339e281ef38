"""What this host remembers: the repositories it has seen, restores under way, private files."""
