"""Keys: wrapped for recipients, labelled, and opened with age identities."""
