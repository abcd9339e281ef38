"""Backup and proven disaster recovery for Docker hosts."""

__version__ = "0.1.0"
