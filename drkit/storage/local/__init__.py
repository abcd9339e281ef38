"""A directory as a storage: files written whole and durable, and a reserve of space for the day the disk is full."""
