"""What the tests share: trees full of oddities, and a comparator that trusts nothing of drkit."""
