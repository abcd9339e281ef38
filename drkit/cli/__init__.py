"""The command line: parse, call one operation, render, exit. No logic."""

from drkit import tuning

tuning.collect_rarely()
tuning.skip_pydantic_plugins()
