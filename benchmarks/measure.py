"""Run a command and say what it cost, with caches and disk in a known state before."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MIB = 1 << 20


class BenchError(Exception):
    """This run cannot yield a figure."""


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def output(*argv: str | Path) -> str:
    """What an auxiliary command prints. Its failure ends the benchmark."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{shlex.join(map(str, argv))} exited with {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip()


@dataclass(frozen=True)
class Command:
    argv: Sequence[str | Path]
    cwd: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measure:
    seconds: float
    cpu_seconds: float
    """Of the process and its children, without drkit's helper: that is a child of the engine."""
    peak_bytes: int
    """The largest resident size that any process of the tree reached. It is never less than this program's own, because
    the kernel counts that for a child until exec. So this program stays small: others read the data sets."""
    machine_cpu_seconds: float
    """Of the whole machine: the helper, the engine, the kernel's writeback, and everything else that was busy."""
    stdout: bytes


def measure(command: Command) -> Measure:
    """Run a command to its end. Any exit status but 0 ends the benchmark."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        machine = _machine_cpu_seconds()
        start = time.monotonic()
        process = subprocess.Popen(
            command.argv,
            cwd=command.cwd,
            env={**os.environ, **command.env},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - start
        machine = _machine_cpu_seconds() - machine
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            tail = (out.read() + err.read())[-2000:].decode(errors="replace")
            raise BenchError(f"{shlex.join(map(str, command.argv))} exited with {process.returncode}:\n{tail}")
        return Measure(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, machine, out.read())


def _machine_cpu_seconds() -> float:
    total = Path("/proc/stat").read_text().splitlines()[0]
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, total.split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def settle(source: Path) -> None:
    """Write back what earlier runs left dirty, and bring the source into the page cache."""
    os.sync()
    deadline = time.monotonic() + 30
    while _dirty_bytes() > 16 * MIB and time.monotonic() < deadline:
        time.sleep(0.2)
    output("bash", "-o", "pipefail", "-c", f"tar -c -f - -C {shlex.quote(str(source))} . | cat >/dev/null")


def _dirty_bytes() -> int:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return sum(int(fields[name].split()[0]) * 1024 for name in ("Dirty", "Writeback"))


def forget_pages(directory: Path) -> None:
    """Make the next reader of these files read them from the disk, as on the day of a restore."""
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def apparent_size(directory: Path) -> int:
    return sum(os.lstat(os.path.join(path, name)).st_size for path, _, names in os.walk(directory) for name in names)
