"""A bucket as a storage. Only `settings` is loaded before a bucket is opened."""
