"""One verb per module: its options, one call of an operation, and how the result is shown."""
