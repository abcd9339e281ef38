"""One tool's turn on one set, and the parts that bound every tool, each measured alone."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.debian import Debian
from benchmarks.measure import (
    MIB,
    BenchError,
    Command,
    Measure,
    apparent_size,
    forget_pages,
    measure,
    output,
    settle,
)
from benchmarks.s3 import COPY, REPOSITORY, Bucket
from benchmarks.tools import TAR_CREATE, TAR_EXTRACT, Job, Tool
from benchmarks.volumes import create_volume, empty_files, read_digest, volume_path, wait_until_files_are_cheap

Figures = dict[str, float]
LOADER_IMAGE = f"drkit-bench-loader-{os.getpid()}"


def run_tool(tool: Tool, job: Job) -> Figures:
    """First backup, unchanged second backup, restore: the figures of one tool in one round."""
    source = job.data.volume.path
    figures: Figures = {}
    measure(tool.init(job))
    for phase in ("first", "second"):
        command = tool.backup(job)
        settle(source)
        result = measure(command)
        tool.check_backup(result.stdout)
        figures |= _figures(phase, result)
        if phase == "first":
            figures["repository_bytes"] = job.stored_bytes()
    target = Path() if tool.makes_target else create_volume(job.target).path
    command = tool.restore(job, target)
    wait_until_files_are_cheap(job.probes)
    settle(source)
    if not job.bucket:
        forget_pages(job.repository)
    result = measure(command)
    figures |= _figures("restore", result)
    # drkit reports success once everything is on the disk; the others leave data in memory that a power cut would take.
    start = time.monotonic()
    os.sync()
    figures["durable_seconds"] = result.seconds + time.monotonic() - start
    figures |= {f"{name}_seconds": seconds for name, seconds in tool.restore_phases(result.stdout).items()}
    restored = volume_path(job.target)
    if (digest := read_digest(restored)) != job.data.digest:
        raise BenchError(f"{tool.name} restored something else: {digest} instead of {job.data.digest}")
    empty_files(restored)
    return figures


def _figures(phase: str, result: Measure) -> Figures:
    return {
        f"{phase}_seconds": result.seconds,
        f"{phase}_cpu_seconds": result.cpu_seconds,
        f"{phase}_machine_cpu_seconds": result.machine_cpu_seconds,
        f"{phase}_peak_bytes": result.peak_bytes,
    }


def run_on_s3(tool: Tool, job: Job, bucket: Bucket) -> dict[str, Figures]:
    """One tool's turn in the bucket, which is empty again at the end. After drkit, boto3 moves the same objects."""
    figures = {tool.name: run_tool(tool, job)}
    if tool.name == "drkit":
        figures["boto3"] = run_boto3(bucket, job.work / "objects")
    bucket.empty()
    return figures


def run_boto3(bucket: Bucket, directory: Path) -> Figures:
    """The transfers of the repository in the bucket, by boto3 alone: its objects stored again and read back."""
    directory.mkdir()
    bucket.run("save", f"{REPOSITORY}/", directory)
    figures: Figures = {}
    os.sync()
    for phase, verb, arguments in (("first", "put", [directory]), ("restore", "get", [])):
        result = bucket.run(verb, f"{COPY}/", *arguments)
        moved, seconds = result.stdout.split()
        if int(moved) != apparent_size(directory):
            raise BenchError(f"boto3 {verb} moved {int(moved)} bytes instead of {apparent_size(directory)}")
        # Only the transfers count as seconds; loading Python and boto3 counts as CPU.
        figures |= {**_figures(phase, result), f"{phase}_seconds": float(seconds)}
    return figures


def run_limits(debian: Debian, job: Job) -> Figures:
    """The parts that no tool of this kind can do without, each measured alone: the lower bounds of drkit's paths."""
    source = job.data.volume.path
    zstd = debian.command("zstd")
    plain, packed = job.work / "plain.tar", job.work / "packed.zst"
    figures: Figures = {}

    def timed(name: str, *argv: str | Path, cwd: Path | None = None) -> None:
        result = measure(Command(argv, cwd=cwd))
        figures[f"{name}_seconds"] = result.seconds
        figures[f"{name}_cpu_seconds"] = result.cpu_seconds

    settle(source)
    timed("scan", "bash", "-c", r"find . -printf '%y %m %U %G %s %T@ %C@ %D %i %n %P\0' | cat >/dev/null", cwd=source)
    # Into a pipe: tar does not even read the files if its output is /dev/null.
    timed("read", "bash", "-o", "pipefail", "-c", f"{TAR_CREATE} | cat >/dev/null", cwd=source)
    measure(Command(["bash", "-c", f"{TAR_CREATE} >{shlex.quote(str(plain))}"], cwd=source))
    os.sync()
    null = Path(os.devnull)
    timed("zstd_one_core", *zstd, "-q", "-f", "-3", "--single-thread", plain, "-o", null)
    timed("zstd_all_cores", *zstd, "-q", "-f", "-3", "-T0", plain, "-o", null)
    measure(Command([*zstd, "-q", "-3", "-T0", plain, "-o", packed]))
    timed("unzstd", *zstd, "-q", "-f", "-d", packed, "-o", null)
    os.sync()
    figures["write_seconds"] = _write_packs(job.work, packed.stat().st_size)
    packed.unlink()
    target = create_volume(job.target).path
    wait_until_files_are_cheap(job.probes)
    os.sync()
    timed("extract", "bash", "-c", f"{TAR_EXTRACT} <{shlex.quote(str(plain))}", cwd=target)
    empty_files(target)
    run_loader = ("/ld.so", "--version")
    timed("container", "docker", "run", "--rm", "--network=none", "--log-driver=none", LOADER_IMAGE, *run_loader)
    return figures


@contextlib.contextmanager
def loader_image(debian: Debian) -> Iterator[None]:
    """The smallest image that runs: the dynamic loader is a program that needs no library."""
    with tempfile.TemporaryFile() as archive:
        with tarfile.open(fileobj=archive, mode="w", dereference=True) as tar:
            tar.add(debian.loader, "ld.so")
        archive.seek(0)
        subprocess.run(["docker", "import", "-", LOADER_IMAGE], stdin=archive, stdout=subprocess.DEVNULL, check=True)
    try:
        yield
    finally:
        output("docker", "image", "rm", "--force", LOADER_IMAGE)


def _write_packs(directory: Path, size: int) -> float:
    """Seconds to make `size` bytes durable, in files as large as a pack."""
    block = os.urandom(MIB)
    start = time.monotonic()
    for _ in range(0, size, 32 * MIB):
        with tempfile.NamedTemporaryFile(dir=directory, buffering=0) as stream:
            for _ in range(32):
                stream.write(block)
            os.fsync(stream.fileno())
    return time.monotonic() - start


def bounds(limits: Mapping[str, float], cores: int) -> dict[str, tuple[str, float]]:
    """For each path of drkit, the part that bounds it and the seconds that this part takes alone."""
    read, write = limits["read_seconds"], limits["write_seconds"]
    pack_cpu = (limits["read_cpu_seconds"] + limits["zstd_one_core_cpu_seconds"]) / cores
    unpack_cpu = (limits["extract_cpu_seconds"] + limits["unzstd_cpu_seconds"]) / cores
    extract, unzstd = limits["extract_seconds"], limits["unzstd_seconds"]

    def slowest(**parts: float) -> tuple[str, float]:
        name = max(parts, key=parts.__getitem__)
        return name.replace("_", " "), parts[name]

    name, seconds = slowest(tar_extract=extract, zstd_decompress=unzstd, CPU_of_tar_and_zstd=unpack_cpu)
    return {
        "first": slowest(tar_read=read, fsynced_writes=write, CPU_of_tar_and_zstd=pack_cpu),
        "second": ("scan, in one container", limits["scan_seconds"] + limits["container_seconds"]),
        "restore": (f"{name}, then tar read to verify", seconds + read),
    }
