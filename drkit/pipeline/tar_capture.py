"""Having the tar of helpers read what a plan says, and proving that all of it came."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from drkit.engine.client import Engine
from drkit.engine.helper.messages import TarReport, classify_tar_stderr
from drkit.engine.helper.process import HelperProcess
from drkit.engine.helper.reading import Reading
from drkit.errors import CaptureFailed
from drkit.events import Events
from drkit.pipeline.filesystems import Proof
from drkit.pipeline.listing import requested
from drkit.pipeline.members import content_size, scanned_member, unscanned_member
from drkit.pipeline.paths import member_path
from drkit.pipeline.readings import readings
from drkit.pipeline.reuse import READ, ReusePlan
from drkit.pipeline.scan import Entry, Scan
from drkit.pipeline.select import Patterns
from drkit.pipeline.spool import Spool
from drkit.pipeline.stream import MemberStream, ReadInto, watched
from drkit.repository.format.names import display_path
from drkit.repository.format.snapshot import Target
from drkit.repository.format.tree import encode_member
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter

SETTLE_SECONDS = 120
"""How much older than its capture a file's times must be before equal times prove equal content.

A write through mmap leaves ctime and mtime as they are while the page stays dirty (30 s by default, more under load),
and a file system with coarse timestamps hides a second write within its tick.
"""


@dataclass(frozen=True)
class Capture:
    """What capturing one target works with. The functions below fill in `target`.

    `started` is the engine's clock, in seconds since the epoch. `events` are told the bytes read, under `what` as the
    task. `salt` is unknown to whoever may not guess where a directory lies.
    """

    engine: Engine
    repository: Repository
    reader: ChunkReader
    writer: RunWriter
    target: Target
    started: float
    events: Events
    salt: bytes

    def stream(self, readinto: ReadInto) -> MemberStream:
        """Read a tar stream into chunks."""
        watching = watched(readinto, partial(self.events.progress, self.target.title))
        return MemberStream(watching, self.repository.meta.member, self.writer.put_data)


class Scanned(NamedTuple):
    """A helper that has scanned its directory, and waits to be asked for members."""

    process: HelperProcess
    scan: Scan
    exclude: Patterns


Again = Callable[[], AbstractContextManager[Scanned]]
"""Gives another helper for the same directory."""


@dataclass
class Flaws:
    """The paths that tar read while they changed, those that vanished before it read them, and before find did.

    `unlinked` are further links where inode numbers prove nothing: each was taken for a file, or a stock helper for a
    link.
    """

    torn: set[bytes] = field(default_factory=set)
    missing: set[bytes] = field(default_factory=set)
    unlisted: set[bytes] = field(default_factory=set)
    unlinked: set[bytes] = field(default_factory=set)

    @property
    def again(self) -> set[bytes]:
        """What is to be read again."""
        return self.torn | self.missing

    def update(self, other: Flaws) -> None:
        self.torn |= other.torn
        self.missing |= other.missing
        self.unlisted |= other.unlisted
        self.unlinked |= other.unlinked


def read_planned(
    capture: Capture, first: Scanned, again: Again, plan: ReusePlan, spools: ExitStack
) -> tuple[list[Spool], Flaws]:
    """Read what the plan says, of the first scan, and return the members in one spool for each way of reading.

    A tar reads in one way and takes one list, so each further way has a helper of its own, whose scan is not used.
    """
    members: list[Spool] = []
    flaws = Flaws()
    for reading, part in readings(first.scan, plan) if plan.reads else ():
        spool = spools.enter_context(Spool())
        with nullcontext(first) if not members else again() as helper:
            flaws.update(_read_part(capture, helper, first.scan, part, reading, spool))
        members.append(spool)
    return members, flaws


def _read_part(
    capture: Capture, helper: Scanned, scan: Scan, plan: ReusePlan, reading: Reading, members: Spool
) -> Flaws:
    """Have tar read what the plan says, add what comes to `members`, and prove that the stream is whole."""
    split = None if scan.full else next((entry.path for entry in scan if b"\n" in entry.path), None)
    if split is not None:
        raise CaptureFailed(
            f"{capture.target.title}: the stock helper cannot ask for {display_path(split)}, whose name has a newline",
            hint="Remove helper.image from the policy: drkit's own helper keeps every name.",
        )
    expected = ((number, entry) for number, entry in enumerate(scan) if plan.flags[number] == READ)
    settled_before = capture.started - SETTLE_SECONDS
    missing: set[bytes] = set()
    unlinked: set[bytes] = set()
    proof = scan.file_systems.proof
    wanted = (path for flag, path in zip(plan.flags, scan.paths(), strict=True) if flag == READ)
    with requested(helper.process, wanted, reading) as readinto:
        stream = capture.stream(readinto)
        for item in stream:
            path = member_path(item.frame.name)
            found = _await(path, expected, missing)
            if found is None:
                raise CaptureFailed(f"{capture.target.title}: tar sent {display_path(path)}, which was not asked for")
            number, entry = found
            if scan.full:
                proven = proof(path) == Proof.CONTENT
                member = scanned_member(item, entry, settled_before=settled_before if proven else None)
                if reading != Reading.HOLES_TOLD and entry.stat[:1] != b"d" and not entry.stat.endswith(b" 1"):
                    unlinked.add(path)
            else:
                member = unscanned_member(item)
                if item.leader and proof(path) == Proof.NOTHING:
                    unlinked.add(path)
            members.add(number, encode_member(member), content_size(member))
    missing.update(entry.path for _, entry in expected)
    capture.target.bytes_read += stream.bytes_read
    require_end(capture, stream)
    messages = _messages_of(helper, capture)
    lost = missing.difference(messages.vanished)
    if lost:
        raise CaptureFailed(
            f"{capture.target.title}: {len(lost)} files did not come, {display_path(min(lost))} among them",
            hint="Run drkit backup again.",
        )
    unlisted = set() if helper.scan.complete else set(messages.vanished).difference(scan.paths())
    return Flaws(set(messages.torn), missing, unlisted, unlinked)


def _await(path: bytes, expected: Iterator[tuple[int, Entry]], missing: set[bytes]) -> tuple[int, Entry] | None:
    """Advance to the entry of `path` and return it, None when it is not expected; those passed over are `missing`."""
    for item in expected:
        if item[1].path == path:
            return item
        missing.add(item[1].path)
    return None


def require_end(capture: Capture, stream: MemberStream) -> None:
    if not stream.ended:
        raise CaptureFailed(
            f"the stream of {capture.target.title} broke off after {stream.bytes_read} bytes",
            hint="Look at the engine's log, then run drkit backup again.",
        )


def _messages_of(helper: Scanned, capture: Capture) -> TarReport:
    """Return what tar said of single files. Raises CaptureFailed for an end that its messages do not explain."""
    end = helper.process.finish()
    excluded = partial(helper.scan.is_excluded, helper.exclude)
    messages = classify_tar_stderr(end.stderr, truncated=end.stderr_truncated, excluded=excluded)
    silent = not helper.scan.complete and not any(line.startswith(b"find: ") for line in end.stderr.split(b"\n"))
    if silent or not messages.explains(end.code):
        reason = messages.unknown[0] if messages.unknown and not end.oom_killed else end.describe()
        if silent:
            reason = "find failed, and did not say why"
        raise CaptureFailed(
            f"{capture.target.title}: {reason}", hint="Run drkit helper probe, then drkit backup again."
        )
    return messages
