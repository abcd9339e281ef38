"""Tar framing: where members begin and end, and how one is written under another name."""
