"""Snapshots: what the record of one run tells. `record.py` has their bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from drkit.repository.format.kinds import Kind, Status

SNAPSHOT_PREFIX = "snapshots/"
NAMES_KEPT = 1000
NAME_BYTES_KEPT = 64 * 1024
"""Bytes of all names in one list. Names come from volumes: they must never size a record."""
YEARS = range(1970, 9999)
"""The years of times in records: in every zone on earth such a time can still be told."""


@dataclass
class NameList:
    """Paths to which something happened: all are counted; the first 1,000 are named, of at most 64 KiB together.

    The names are escaped for display.
    """

    count: int = 0
    names: list[str] = field(default_factory=list)
    _bytes: int = field(default=0, init=False, repr=False, compare=False)

    def add(self, name: str) -> None:
        self.count += 1
        self._bytes += len(name.encode())
        if len(self.names) < NAMES_KEPT and self._bytes <= NAME_BYTES_KEPT:
            self.names.append(name)

    @classmethod
    def of(cls, names: Iterable[str]) -> NameList:
        listing = cls()
        for name in names:
            listing.add(name)
        return listing


@dataclass
class Documents:
    """A tree of files that are data, such as inspect documents: the chunk ids of its tree."""

    tree: list[str] = field(default_factory=list)


@dataclass
class FileSystem:
    """Where a captured directory lies, as far as two captures can compare it."""

    type: str
    """As the kernel calls it, such as `ext4`."""
    place: str = ""
    """A salted digest of its source and of the directory of it that is mounted, in hex: neither can be guessed."""
    root: int = 0
    """The inode of the directory."""
    below: list[str] = field(default_factory=list)
    """Salted digests, in hex, of what was mounted below the directory: where, and the same as for `place`."""
    excluded: list[str] = field(default_factory=list)
    """The same of what was mounted in a directory that the patterns leave out."""


@dataclass
class Target:
    """One target in a snapshot. `tree` holds the ids of the tree's chunks; it is empty for a failed target."""

    kind: str
    """A `Kind`, or one that this version does not know."""
    name: str
    status: Status = Status.OK
    error: str | None = None
    started: str = ""
    seconds: float = 0.0
    downtime_seconds: float = 0.0
    quiesce: str = ""
    """The quiesce mode that was achieved."""
    files: int = 0
    bytes: int = 0
    bytes_read: int = 0
    bytes_stored: int = 0
    torn: NameList = field(default_factory=NameList)
    vanished: NameList = field(default_factory=NameList)
    skipped: NameList = field(default_factory=NameList)
    lost: list[str] = field(default_factory=list)
    """What this capture could not record, in words: the reduced fidelity of a stock helper, trusted xattrs."""
    flags: list[str] = field(default_factory=list)
    """`shrunk`, `gone`, `anomaly`, `safety` or `pinned`: what retention and status must know."""
    pins: str = ""
    """Where it is `shrunk`: the id of the snapshot that holds what it held before, and that retention leaves alone."""
    accepted: str = ""
    """The id of the snapshot whose capture, as it was, the operator accepted as the measure of this one."""
    exclude: list[str] = field(default_factory=list)
    encoding: str = ""
    """What wrote the tar stream. Members are reused only between captures with the same encoding."""
    source: dict[str, Any] = field(default_factory=dict)
    """Identity and shape of what was captured, never a value that could be a secret: see FORMAT.md, section 8."""
    documents: Documents = field(default_factory=Documents)
    """The engine's descriptions of what was captured."""
    trusted_xattrs: bool = False
    filesystem: FileSystem | None = None
    """None where no helper told it: for images, and in records of earlier versions."""
    tree: list[str] = field(default_factory=list)
    aligned: bool = False
    """Whether it says that every chunk of its tree starts at a record. Readers must not rely on it."""

    @property
    def title(self) -> str:
        """What messages call it, such as "volume db"."""
        return f"{self.kind} {self.name}"

    def make_partial(self, why: str) -> None:
        """Say that something was captured, but not all, or that it is not what the target holds."""
        self.status = Status.PARTIAL
        self.error = f"{self.error}; {why}" if self.error else why

    @property
    def reduced(self) -> bool:
        """Whether a stock helper wrote it, which records less than the volume holds."""
        return self.encoding.endswith(", stock")


def tree_chunk_ids(target: Target) -> list[bytes]:
    return [bytes.fromhex(chunk_id) for chunk_id in target.tree]


@dataclass
class Previous:
    """The record before, in the series that a record continues."""

    id: str
    sequence: int


@dataclass
class Snapshot:
    """The record of one run. Times are RFC 3339 in UTC."""

    id: str
    time: str
    host: str
    policy: str
    status: Status
    targets: list[Target]
    finished: str = ""
    origin: str = ""
    """The public Ed25519 key of the installation that signed the record, in hex. Empty: nobody signed it."""
    sequence: int = 0
    """Counts the records of one origin, host and policy; 0 in a record that nobody signed."""
    previous: Previous | None = None
    adopted: list[str] = field(default_factory=list)
    """Other origins whose series this one continues."""
    fork: str = ""
    """The origin whose state directory this installation found to be in use elsewhere; empty once that is settled."""
    requires: list[str] = field(default_factory=list)
    """What a program must know of to write to, prune or copy the repository."""
    chosen: bool = False
    """Whether the run was told which targets to capture: what it lacks is not gone."""
    policy_text: str = ""
    """Only in records of earlier versions: the policy is a document now."""
    policy_digest: str = ""
    """Tells whether two records were made under the same policy text; nobody else can confirm a guess of it."""
    retention: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    objectives: dict[str, Any] = field(default_factory=dict)
    unprotected: dict[str, int] = field(default_factory=dict)
    """By kind, how many things on the host no policy entry covers."""
    documents: Documents = field(default_factory=Documents)
    """The policy's text."""
    drkit: str = ""
    compression: str = ""
    """How hard the run compressed what it stored, see `Compression`; empty in records of earlier versions."""
    helper: dict[str, Any] = field(default_factory=dict)
    """The helper image: id, source, tar version, architecture, and the chunk ids of its archive."""
    copy_of: str = ""
    """In a mirror: the id of the run that captured this, however many copies lie between."""
    via: list[str] = field(default_factory=list)
    """The ids of the copies between that run and this one, oldest first."""
    unknown: list[Target] = field(default_factory=list)
    """Trees in fields that this version does not know, as targets named after the field. Never written."""

    @property
    def original(self) -> str:
        """The id that a snapshot shares with all of its copies."""
        return self.copy_of or self.id

    @property
    def names(self) -> list[str]:
        """Every id by which people may know this snapshot."""
        return [self.id, *([self.copy_of] if self.copy_of else []), *self.via]

    def target(self, kind: str, name: str) -> Target | None:
        return next((target for target in self.targets if (target.kind, target.name) == (kind, name)), None)


def outline(snapshot: Snapshot) -> Snapshot:
    """Return what tells the place of a record among others, without what it holds, which can be large."""
    return replace(snapshot, targets=[], policy_text="", helper={}, documents=Documents(), unknown=[])


def stored_helper(snapshot: Snapshot) -> Target:
    """Return the helper image stored with a snapshot, as a target; its tree is empty where none is stored."""
    return Target(Kind.IMAGE, "drkit helper", tree=snapshot.helper.get("tree", []))


def stored_documents(snapshot: Snapshot) -> Iterator[Target]:
    """Yield the documents of a snapshot, as targets; one whose tree is empty holds none."""
    yield Target("documents", "of the run", tree=snapshot.documents.tree)
    for target in snapshot.targets:
        yield Target("documents", f"of {target.title}", tree=target.documents.tree)


def stored_trees(snapshot: Snapshot) -> Iterator[Target]:
    """Yield every tree that a snapshot refers to, whatever field holds it: all are kept, copied and checked."""
    every = [*snapshot.targets, stored_helper(snapshot), *stored_documents(snapshot), *snapshot.unknown]
    yield from (target for target in every if target.tree)


def format_time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> datetime:
    """Raises ValueError for what is not a time in UTC, and for a year that not every zone could tell."""
    moment = datetime.fromisoformat(text)
    if moment.utcoffset() != timedelta(0):
        raise ValueError(f"{text} is not in UTC")
    if moment.year not in YEARS:
        raise ValueError(f"{text} is in no year that a record can have")
    return moment
