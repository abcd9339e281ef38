"""Snapshot records: one run of one policy. The record's existence is the commit."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from drkit.errors import IntegrityError
from drkit.repository.format.digest import DIGEST_SIZE
from drkit.repository.format.kinds import Kind, Status

SNAPSHOT_PREFIX = "snapshots/"
FENCED = "fenced"
"""The field that makes a record a tombstone: a prune has fenced the run, which can no longer commit."""
NAMES_KEPT = 1000


@dataclass
class NameList:
    """Paths to which something happened: all are counted, the first 1,000 are named (escaped for display)."""

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.names) < NAMES_KEPT:
            self.names.append(name)

    @classmethod
    def of(cls, names: Iterable[str]) -> NameList:
        listing = cls()
        for name in names:
            listing.add(name)
        return listing


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
    files: int = 0
    bytes: int = 0
    bytes_read: int = 0
    bytes_stored: int = 0
    torn: NameList = field(default_factory=NameList)
    vanished: NameList = field(default_factory=NameList)
    skipped: NameList = field(default_factory=NameList)
    lost: list[str] = field(default_factory=list)
    """What this capture could not record, in words: the reduced fidelity of a stock helper, trusted xattrs."""
    exclude: list[str] = field(default_factory=list)
    encoding: str = ""
    """What wrote the tar stream. Members are reused only between captures with the same encoding."""
    source: dict[str, Any] = field(default_factory=dict)
    """The engine's own description: a volume's driver, options and labels; an image's id, tags and platform."""
    trusted_xattrs: bool = False
    tree: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """What messages call it, such as "volume db"."""
        return f"{self.kind} {self.name}"

    @property
    def reduced(self) -> bool:
        """Whether a stock helper wrote it, which records less than the volume holds."""
        return self.encoding.endswith(", stock")


def tree_chunk_ids(target: Target) -> list[bytes]:
    return [bytes.fromhex(chunk_id) for chunk_id in target.tree]


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
    policy_text: str = ""
    drkit: str = ""
    helper: dict[str, Any] = field(default_factory=dict)
    """The helper image: id, source, tar version, architecture, and the chunk ids of its archive."""
    copy_of: str = ""
    """In a mirror: the id of the run that captured this, however many copies lie between."""
    via: list[str] = field(default_factory=list)
    """The ids of the copies between that run and this one, oldest first."""

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


def stored_helper(snapshot: Snapshot) -> Target:
    """Return the helper image stored with a snapshot, as a target; its tree is empty where none is stored."""
    return Target(Kind.IMAGE, "drkit helper", tree=snapshot.helper.get("tree", []))


def stored_trees(snapshot: Snapshot) -> Iterable[Target]:
    """Yield every tree of a snapshot: those of its targets, and that of the helper image stored with it."""
    yield from (target for target in [*snapshot.targets, stored_helper(snapshot)] if target.tree)


def copied(snapshot: Snapshot, random: bytes) -> Snapshot:
    """Return the record of a copy. It is a run of its own, whose id sorts like that of the original."""
    run_id = f"{snapshot.original.partition('-')[0]}-{random.hex()}"
    via = [*snapshot.via, snapshot.id] if snapshot.copy_of else []
    return replace(snapshot, id=run_id, copy_of=snapshot.original, via=via)


def format_time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.utcoffset() != timedelta(0):
        raise ValueError(f"{text} is not in UTC")
    return moment


def tombstone(run_id: str, *, by: str) -> bytes:
    """Return the payload of a tombstone: prune `by` took the run's name. A prune's own says that it may delete."""
    return json.dumps({FENCED: run_id, "by": by}).encode()


def encode_snapshot(snapshot: Snapshot) -> bytes:
    record = asdict(snapshot)
    if not snapshot.copy_of:
        del record["copy_of"], record["via"]
    return json.dumps(record, ensure_ascii=True, separators=(",", ":")).encode()


def decode_snapshot(payload: bytes, *, source: str) -> Snapshot | None:
    """Read a record; None for a tombstone. Fields that this version does not know are ignored.

    Raises IntegrityError naming `source`, the storage key the payload came from.
    """
    try:
        raw = json.loads(payload)
        if FENCED in raw:
            return None
        if not isinstance(raw["targets"], list):
            raise TypeError("targets is not a list")
        raw["targets"] = [_target(entry) for entry in raw["targets"]]
        _check_tree(raw.get("helper", {}).get("tree", []))
        raw["status"] = _status(raw["status"])
        snapshot = Snapshot(**_known(Snapshot, raw))
        parse_time(snapshot.time)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{source} is not a snapshot record: {error}", object_name=source) from error
    return snapshot


def _status(text: Any) -> Any:
    """A `Status`, or text that a newer drkit wrote, which to this one is none of them."""
    if not isinstance(text, str):
        raise TypeError("a status is not text")
    return Status(text) if text in set(Status) else text


def _target(raw: dict[str, Any]) -> Target:
    for name in ("torn", "vanished", "skipped"):
        raw[name] = NameList(**_known(NameList, raw.get(name, {})))
    _check_tree(raw.get("tree", []))
    raw["status"] = _status(raw.get("status", Status.OK))
    return Target(**_known(Target, raw))


def _check_tree(tree: Any) -> None:
    """Raise ValueError for what is not a tree: whoever holds the meta key can write a record, not only drkit."""
    # All ids at once: in 10,000 records they are most of what is read.
    digits = 2 * DIGEST_SIZE
    if not (isinstance(tree, list) and set(map(len, tree)) <= {digits}):
        raise ValueError("a tree is not a list of chunk ids")
    if len(bytes.fromhex("".join(tree))) != DIGEST_SIZE * len(tree):  # fromhex skips blanks
        raise ValueError("a tree is not a list of chunk ids")


def _known(record: type, raw: dict[str, Any]) -> dict[str, Any]:
    names = _field_names(record)
    return raw if raw.keys() <= names else {key: raw[key] for key in raw.keys() & names}


@cache
def _field_names(record: type) -> frozenset[str]:
    return frozenset(item.name for item in fields(record))
