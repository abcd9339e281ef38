"""Repository format 1: keys, sealing, chunks, packs, index, trees and snapshot records (see FORMAT.md)."""
