"""The bytes of format 1: names, sealing, chunks, packs, trees, records (see FORMAT.md). Nothing here uses a storage."""
