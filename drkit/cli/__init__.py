"""The command line: parse, call one operation, render, exit. No logic."""

import gc
import os

# What holds for the process is set before anything large is loaded. At Python's own pace a twentieth of a short run,
# and a fifth of a listing of 10,000 snapshots, goes into looking for cycles, again and again, where there are none.
gc.set_threshold(50_000, 20, 100)
# Nor has pydantic to look through every installed package for plugins (0.02 s), of which none shall alter a policy.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
