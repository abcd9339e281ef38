"""Mirrors: copies of snapshots in a second place, made without opening the data."""
