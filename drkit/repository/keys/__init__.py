"""Keys: wrapped for recipients, labelled, and the age identities that open them."""
