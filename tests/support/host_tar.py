"""What a helper does, done by the host's own find and GNU tar with the helper's own options, and no engine."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from drkit.engine.helper.reading import SCAN_FORMAT, TAR_CREATE, Reading
from drkit.engine.helper.writing import TAR_EXTRACT
from drkit.pipeline.paths import listed_name
from drkit.pipeline.reuse import READ, ReusePlan, plan_reuse, read_everything, reused_members
from drkit.pipeline.scan import Entry, Scan, read_scan
from drkit.pipeline.select import Patterns
from drkit.pipeline.stream import MemberStream, iterator_readinto
from drkit.repository.format.snapshot import Target
from drkit.repository.format.tree import Member, TreeWriter, encode_member
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter


def mounts_record(root: Path, kind: str | None = None) -> bytes:
    """What a helper tells first: the mount that holds a directory, as if the directory were mounted as its volume.

    `kind` is told in place of the file system's real type.
    """
    found = ""
    for line in Path("/proc/self/mountinfo").read_text(encoding="ascii").splitlines():
        fields = line.split(" ")
        if root.is_relative_to(fields[4]):
            fields[4] = "/volume"
            found = " ".join(fields)
    if kind is not None:
        found = f"1 0 8:1 / /volume rw - {kind} /dev/sda1 rw"
    return f"mounts\n{found}\n\0\0".encode()


def scan_output(root: Path) -> bytes:
    """The records that a helper prints: the mounts, those of find, and the end."""
    found = subprocess.run(["find", ".", "-printf", SCAN_FORMAT], cwd=root, check=True, capture_output=True)
    return mounts_record(root) + found.stdout + b"end 0\0\0"


def scan_directory(root: Path, exclude: Sequence[str] = ()) -> Scan:
    return read_scan(iterator_readinto([scan_output(root)]), Patterns(exclude), what=str(root), full=True)


def create_tar(root: Path, paths: Iterable[bytes]) -> bytes:
    """The tar of these paths below `root`, in this order."""
    listing = b"".join(listed_name(path) + b"\0" for path in paths)
    return subprocess.run(
        ["sh", "-c", f"exec {TAR_CREATE} {Reading.HOLES_TOLD}"],
        cwd=root,
        env={"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        input=listing,
        capture_output=True,
        check=True,
    ).stdout


def extract_tar(archive: bytes, root: Path) -> None:
    root.mkdir(exist_ok=True)
    subprocess.run(["sh", "-c", f"exec {TAR_EXTRACT}"], cwd=root, input=archive, capture_output=True, check=True)


def capture_directory(
    repository: Repository,
    writer: RunWriter,
    target: Target,
    root: Path,
    *,
    previous: Target | None = None,
    settled: bool = True,
    exclude: Sequence[str] = (),
) -> ReusePlan:
    """Capture a directory like a volume. `settled` says of what is read that an equal stat proves it unchanged."""
    scan = scan_directory(root, exclude)
    plan = read_everything(scan)
    tree = TreeWriter(writer.put_tree)
    with ChunkReader(repository) as reader:
        kept: dict[int, Member] = {}
        if previous is not None:
            earlier = list(reader.members(previous))
            plan = plan_reuse(scan, lambda: earlier, writer.chunk_size)
            kept = dict(reused_members(plan, scan, earlier))
            writer.use(plan.chunk_ids)
        wanted = [(number, entry) for number, entry in enumerate(scan) if plan.flags[number] == READ]
        read = dict(_read(repository, writer, root, wanted, settled)) if wanted else {}
    for number in range(len(scan)):
        tree.add(encode_member(kept[number] if number in kept else read[number]))
    target.files = len(scan)
    target.tree = [chunk_id.hex() for chunk_id in tree.finish()]
    target.aligned = tree.aligned
    return plan


def _read(
    repository: Repository, writer: RunWriter, root: Path, wanted: list[tuple[int, Entry]], settled: bool
) -> Iterable[tuple[int, Member]]:
    archive = create_tar(root, (entry.path for _, entry in wanted))
    stream = MemberStream(iterator_readinto([archive]), repository.meta.member, writer.put_data)
    for item, (number, entry) in zip(stream, wanted, strict=True):
        yield (
            number,
            Member(entry.path, entry.stat, item.leader, item.symlink, item.digest, settled, item.extents),
        )
    assert stream.ended
