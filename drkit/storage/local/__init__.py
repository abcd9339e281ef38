"""A directory as a storage: files written whole and durable, and space set aside for a full disk."""
