"""Finding a snapshot, and deciding which ones stay."""
