"""Whether a target lost most of what it held, by the captures before: pure decisions.

The disk behind a volume that is not mounted, a volume that was emptied by mistake: such a capture succeeds. So each is
compared with the last good one of its series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from drkit.errors import counted
from drkit.repository.format.kinds import Status
from drkit.repository.format.snapshot import FileSystem, Snapshot, Target

SHRUNK = "shrunk"
MANY_FILES = 100
MANY_BYTES = 64 << 20
"""What a loss of half must come to before it is worth a word, unless all is lost: small volumes vary."""
BACK = 0.9
"""The share of what was lost from which on it counts as back: some of it may rightly be gone since."""


class Size(NamedTuple):
    """What a capture holds, without the root of the volume. `bytes` is the apparent size."""

    files: int
    bytes: int

    @classmethod
    def of(cls, target: Target) -> Size:
        return cls(max(target.files - 1, 0), target.bytes)

    def __str__(self) -> str:
        return f"{counted(self.files, 'file')} of {counted(self.bytes, 'byte')}"


class Capture(NamedTuple):
    """A capture of a target in a snapshot."""

    snapshot: Snapshot
    target: Target


@dataclass(frozen=True)
class Before:
    """What a capture is compared with."""

    last: Capture | None
    """The newest one that is `ok`, or that the operator accepted."""
    pinned: Capture | None = None
    """The one that held more, if `last` is shrunk."""
    unreadable: str = ""
    """The id of the snapshot that has that one, if its record cannot be read."""


@dataclass(frozen=True)
class Loss:
    """A capture lost much of what the one in the snapshot `since` held.

    `moved`: it lies elsewhere than that one, so it may be another volume altogether. `fresh`: it lost it since the last
    capture; otherwise this was said before.
    """

    since: str
    now: Size
    then: Size | None
    """None where it cannot be told any more."""
    moved: bool = False
    fresh: bool = False

    def __str__(self) -> str:
        then = f"{self.then} in snapshot {self.since}" if self.then else f"more in snapshot {self.since}"
        return f"{then}, {self.now} now"


def captures_before(
    before: Sequence[Snapshot], kind: str, name: str, *, accepted: str = "", damaged: Sequence[str] = ()
) -> Before:
    """Return what a capture of a target is compared with, among the snapshots of its series, oldest first.

    `accepted`: the id of the snapshot whose capture the operator accepted as it was. `damaged`: the ids of the
    snapshots that cannot be read.
    """
    last = next(
        (
            each
            for each in _captures(before, kind, name)
            if each.target.status == Status.OK or each.snapshot.original == accepted
        ),
        None,
    )
    if last is None or SHRUNK not in last.target.flags or last.snapshot.original == accepted:
        return Before(last)
    pins = last.target.pins
    pinned = next((each for each in _captures(before, kind, name) if each.snapshot.original == pins), None)
    return Before(last, pinned, pins if pinned is None and pins in damaged else "")


def _captures(before: Sequence[Snapshot], kind: str, name: str) -> Iterator[Capture]:
    """Yield the captures of a target that hold something, newest first."""
    for snapshot in reversed(before):
        target = snapshot.target(kind, name)
        if target is not None and target.status != Status.FAILED:
            yield Capture(snapshot, target)


def loss(target: Target, before: Before, *, origin: str, size: Callable[[Target], Size] = Size.of) -> Loss | None:
    """Return what a capture lost, None if that is not worth a word.

    `origin` is that of the installation that made it: others tell file systems by other digests. `size` tells what
    an earlier capture held, as it compares with this one.
    """
    if before.last is None:
        return None
    last, now = before.last, Size.of(target)
    then = size(last.target)
    less = now.files < then.files or now.bytes < then.bytes
    if less and last.snapshot.origin == origin and is_elsewhere(target.filesystem, last.target.filesystem):
        return Loss(last.snapshot.original, now, then, moved=True, fresh=True)
    fresh = _lost_half(then, now)
    if before.unreadable:
        return Loss(before.unreadable, now, None, fresh=fresh)
    if before.pinned is not None:
        held = size(before.pinned.target)
        if fresh or not _is_back(held, now):
            return Loss(before.pinned.snapshot.original, now, held, fresh=fresh)
    return Loss(last.snapshot.original, now, then, fresh=True) if fresh else None


def is_elsewhere(one: FileSystem | None, other: FileSystem | None) -> bool:
    """Whether two captured directories are not the same, or `one` lacks what was mounted below the `other`.

    What is not known of both tells nothing. What the patterns leave out by now is not missing.
    """
    if one is None or other is None:
        return False
    if not {*other.below} <= {*one.below, *one.excluded}:
        return True
    pairs = ((one.type, other.type), (one.place, other.place), (one.root, other.root))
    return any(here and there and here != there for here, there in pairs)


def _lost_half(then: Size, now: Size) -> bool:
    if (then.files and not now.files) or (then.bytes and not now.bytes):
        return True
    files, size = then.files - now.files, then.bytes - now.bytes
    half = (files > 0 and 2 * files >= then.files) or (size > 0 and 2 * size >= then.bytes)
    return half and (files >= MANY_FILES or size >= MANY_BYTES)


def _is_back(then: Size, now: Size) -> bool:
    return now.files >= BACK * then.files and now.bytes >= BACK * then.bytes


class Standing(NamedTuple):
    """A target that is shrunk in the newest snapshot of its line that has it as `ok`. `pins`: the id that is named."""

    kind: str
    name: str
    newest: Capture
    pins: str
    pinned: Snapshot | None

    @property
    def title(self) -> str:
        return self.newest.target.title


def standing(snapshots: Sequence[Snapshot]) -> list[Standing]:
    """Return the targets of a line, whose snapshots are given oldest first, that are shrunk as they stand."""
    newest: dict[tuple[str, str], Capture] = {}
    for snapshot in snapshots:
        for target in snapshot.targets:
            if target.status == Status.OK:
                newest[target.kind, target.name] = Capture(snapshot, target)
    by_original = {snapshot.original: snapshot for snapshot in snapshots}
    return [
        Standing(kind, name, capture, capture.target.pins, by_original.get(capture.target.pins))
        for (kind, name), capture in sorted(newest.items())
        if SHRUNK in capture.target.flags
    ]
