"""Giving back space: what is needed, what may go, and the prune itself."""
