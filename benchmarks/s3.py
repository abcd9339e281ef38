"""A bucket to measure in, on the S3 server that scripts/s3 runs on this host and that stores objects in memory."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import ROOT, BenchError, Command, Measure, measure

SERVER = ROOT / "scripts" / "s3"
CLIENT_PROGRAM = ROOT / "benchmarks" / "boto3_alone.py"
REGION = "us-east-1"
REPOSITORY = "repository"
"""The prefix of a tool's repository; drkit and restic append the slash."""
COPY = "copy"
"""The prefix of the same objects, stored by boto3 alone."""


@dataclass(frozen=True)
class Bucket:
    """A bucket for one repository at a time. `python` is an interpreter that has boto3 and drkit."""

    python: Path
    endpoint: str
    name: str
    access_key: str
    secret_key: str

    @property
    def env(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def run(self, verb: str, *arguments: str | Path) -> Measure:
        """Have benchmarks/boto3_alone.py do `verb` in this bucket."""
        argv = [self.python, CLIENT_PROGRAM, self.endpoint, verb, self.name, *arguments]
        return measure(Command(argv, env={**self.env, "PYTHONPATH": str(ROOT)}))

    def stored_bytes(self) -> int:
        return int(self.run("size", f"{REPOSITORY}/").stdout)

    def empty(self) -> None:
        """Delete everything, and make the server free the memory now rather than in the middle of the next run."""
        self.run("empty")
        _server("collect")


@contextlib.contextmanager
def new_bucket(python: Path) -> Iterator[Bucket]:
    """A new bucket in the S3 server of this copy of the project, which is stopped again if it was started here."""
    was_running = subprocess.run([SERVER, "status"], capture_output=True, check=False).returncode == 0
    _server("start")
    try:
        names = ("HTTP", "ACCESS_KEY", "SECRET_KEY")
        values = " ".join(f'"$DRKIT_S3_{name}"' for name in names)
        said = measure(Command(["bash", "-c", f"""eval "$("$0" env)" && printf '%s\\n' {values}""", SERVER])).stdout
        endpoint, access_key, secret_key = said.decode().splitlines()
        made = Bucket(python, endpoint, f"drkit-bench-{os.getpid()}", access_key, secret_key)
        made.run("create")
        try:
            yield made
        finally:
            if was_running:
                made.empty()
                made.run("delete")
    finally:
        if not was_running:
            _server("stop")


def find_python(drkit: Sequence[str]) -> Path:
    """The interpreter beside the measured drkit, which has the same boto3."""
    found = shutil.which(drkit[0])
    python = Path(found).with_name("python") if found else None
    if python is None or not python.exists():
        raise BenchError(
            f"no python beside {drkit[0]}, to run boto3\nhint: Name the drkit of a virtual environment with --drkit."
        )
    return python


def _server(verb: str) -> None:
    measure(Command([SERVER, verb]))
