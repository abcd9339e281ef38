"""A bucket as a storage. Nothing here is loaded before a bucket is opened, but `settings`."""
