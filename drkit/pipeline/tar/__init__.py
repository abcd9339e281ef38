"""Tar framing: where members begin and end, and writing one under another name."""
