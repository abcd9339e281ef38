"""How fast drkit is. `run` compares it with other tools on real volumes, `prune` times what a prune plans."""
