"""The running drkit itself: where it was installed from, and what of it can be kept beside a repository."""
