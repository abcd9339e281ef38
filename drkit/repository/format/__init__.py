"""The bytes of format 1, and nothing that decides: names, sealing, chunks, packs, trees, records (see FORMAT.md)."""
