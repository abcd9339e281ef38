"""Mirrors: copies of snapshots in a second place, moved without opening them."""
