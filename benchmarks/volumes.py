"""Where the data is: volumes of the engine, created, filled with a set and read back."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.data import VERSION, Digest
from benchmarks.measure import ROOT, BenchError, output, say

DATA_PROGRAM = ROOT / "benchmarks" / "data.py"
LABEL = "drkit.bench"
SETTLED_AGE = 130.0
"""drkit reads again what changed less than 120 s before a capture: on a younger set both would be first backups."""


@dataclass(frozen=True)
class Volume:
    name: str
    path: Path


def find_volume(name: str) -> Volume | None:
    if name not in output("docker", "volume", "ls", "-q", "--filter", f"label={LABEL}").split():
        return None
    return Volume(name, volume_path(name))


def create_volume(name: str) -> Volume:
    output("docker", "volume", "create", "--label", f"{LABEL}=1", name)
    return Volume(name, volume_path(name))


def remove_volume(name: str) -> None:
    output("docker", "volume", "rm", "--force", name)


def volume_path(name: str) -> Path:
    path = Path(output("docker", "volume", "inspect", "-f", "{{.Mountpoint}}", name))
    if not path.is_dir():
        raise BenchError(f"volume {name} has no directory {path} here: this needs root and an engine on this host")
    return path


def empty_files(directory: Path) -> None:
    """Free a tree's space and keep its inodes.

    ext4 does not reuse an inode for some minutes after its file was deleted, and looks at every such inode for each new
    file. After 50,000 deletions the next restore would take three times as long, whichever tool does it.
    """
    for path, _, names in os.walk(directory):
        for name in names:
            os.truncate(os.path.join(path, name), 0)


def wait_until_files_are_cheap(directory: Path) -> None:
    """Wait out recent deletions by others: see `empty_files`. Leaves its probes in `directory`."""
    deadline = time.monotonic() + 400
    said = False
    while True:
        probe = Path(tempfile.mkdtemp(dir=directory))
        times = _seconds_to_make(probe) / _seconds_to_make(probe)  # the second time the files exist
        if times < 8:
            return
        if time.monotonic() > deadline:
            say(f"creating a file still costs {times:.0f} times finding it: restores of small files will look slow")
            return
        if not said:
            say(f"creating a file costs {times:.0f} times finding it, because many were deleted lately: waiting")
            said = True
        time.sleep(20)


def _seconds_to_make(directory: Path) -> float:
    start = time.process_time()
    for name in range(1_000):
        (directory / str(name)).touch()
    return time.process_time() - start


@contextlib.contextmanager
def engine() -> Iterator[None]:
    """The engine of DOCKER_HOST, else the private one of scripts/engine, stopped again if it was started here."""
    if os.environ.get("DOCKER_HOST"):
        yield
        return
    script = ROOT / "scripts" / "engine"
    was_running = subprocess.run([script, "status"], capture_output=True, check=False).returncode == 0
    output(script, "start")
    try:
        for name in ("DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
            os.environ.pop(name, None)
        os.environ["DOCKER_HOST"] = output("bash", "-c", 'eval "$("$0" env)" && echo "$DOCKER_HOST"', script)
        yield
    finally:
        if not was_running:
            output(script, "stop")


def read_digest(directory: Path) -> Digest:
    files, size, sha256 = output(sys.executable, DATA_PROGRAM, "digest", directory).split()
    return Digest(int(files), int(size), sha256)


@dataclass(frozen=True)
class DataSet:
    name: str
    volume: Volume
    digest: Digest

    def __str__(self) -> str:
        return f"{self.name}: {self.digest.files:,} files, {self.digest.bytes / 1e9:.2f} GB"


def ensure_set(name: str, seed: int, cache: Path) -> DataSet:
    """The set in its volume: the one that an earlier run kept, if not a byte of it changed, else a new one."""
    volume_name = f"drkit-bench-{name.lower()}-{seed}-v{VERSION}"
    record = cache / f"{volume_name}.json"
    volume = find_volume(volume_name)
    if volume and record.exists():
        digest = read_digest(volume.path)
        if list(digest) == json.loads(record.read_text()):
            return DataSet(name, volume, digest)
    if volume:
        remove_volume(volume_name)
    say(f"making set {name}")
    volume = create_volume(volume_name)
    output(sys.executable, DATA_PROGRAM, "make", name, str(seed), volume.path)
    digest = read_digest(volume.path)
    record.write_text(json.dumps(digest))
    return DataSet(name, volume, digest)


def wait_until_settled(sets: Sequence[DataSet]) -> None:
    newest = max(os.lstat(path).st_ctime for each in sets for path, _, _ in os.walk(each.volume.path))
    wait = newest + SETTLED_AGE - time.time()
    if wait > 0:
        say(f"the data is fresh: waiting {wait:.0f} s, because drkit reads again what changed within 120 s of a backup")
        time.sleep(wait)
