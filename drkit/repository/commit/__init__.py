"""The commit protocol: the order of its steps, sessions, marks, and the guard for stores with one writer."""
