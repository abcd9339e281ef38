"""The helper: the image that reads and writes volumes, its containers, and how their streams reach us."""
