"""The commit protocol: its steps and their order, sessions, marks, records, and the guard for single-writer stores."""
