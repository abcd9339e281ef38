"""`drkit snapshots`, `ls`, `find` and `diff`: looking into snapshots without restoring anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from drkit.errors import DrkitError, UsageError
from drkit.pipeline.select import Patterns
from drkit.repository.format.names import display_path
from drkit.repository.format.snapshot import Snapshot, Target
from drkit.repository.format.tree import Member
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository


class Listed(NamedTuple):
    """A member as ls shows it. `mode` is octal text, `mtime` seconds since the epoch as text; paths are escaped."""

    type: str
    mode: str
    uid: int
    gid: int
    size: int
    mtime: str
    path: str
    link: str


@dataclass(frozen=True)
class Found:
    snapshot: Snapshot
    target: Target
    entry: Listed


@dataclass(frozen=True)
class Change:
    """`+` added, `-` removed, `M` content changed, `U` only metadata changed, `T` type changed."""

    target: str
    change: str
    path: str


def listed(member: Member) -> Listed:
    kind, mode, uid, gid, size, mtime = member.stat.decode("ascii").split(" ")[:6]
    link = display_path(member.leader or member.symlink) if member.leader or member.symlink else ""
    return Listed(kind, mode, int(uid), int(gid), int(size), mtime, display_path(member.path), link)


def choose_target(snapshot: Snapshot, name: str | None) -> Target:
    """Return the named target, or the only one. Raises UsageError naming the choices."""
    fitting = [target for target in snapshot.targets if target.tree and name in (None, target.name)]
    if len(fitting) == 1:
        return fitting[0]
    choices = ", ".join(target.name for target in snapshot.targets if target.tree)
    if not fitting:
        raise DrkitError(f"snapshot {snapshot.id} holds no {name}", hint=f"It holds: {choices}.")
    raise UsageError(f"snapshot {snapshot.id} holds several targets", hint=f"Name one of: {choices}.")


def list_members(repository: Repository, target: Target, path: str | None) -> Iterator[Listed]:
    """Yield the members at and below `path`, all without one. Raises DrkitError when there is none."""
    wanted = path.strip("/").encode("utf-8", "surrogateescape") if path and path.strip("/") not in ("", ".") else b""
    seen = False
    with ChunkReader(repository) as reader:
        for member in reader.members(target):
            if not wanted or member.path == wanted or member.path.startswith(wanted + b"/"):
                seen = True
                yield listed(member)
    if not seen:
        raise DrkitError(
            f"{target.kind} {target.name} holds no {path}", hint="See all paths: drkit ls SNAPSHOT TARGET."
        )


def find_members(repository: Repository, snapshots: list[Snapshot], pattern: str) -> Iterator[Found]:
    """Yield every member, in every snapshot, whose path matches a gitignore pattern."""
    with ChunkReader(repository) as reader:
        for snapshot in snapshots:
            for target in snapshot.targets:
                patterns = Patterns([pattern])
                for member in reader.members(target) if target.tree else ():
                    if patterns.match_alone(member.path, directory=member.type == "d"):
                        yield Found(snapshot, target, listed(member))


def diff_snapshots(repository: Repository, old: Snapshot, new: Snapshot) -> Iterator[Change]:
    """Yield what changed between two snapshots, target by target, in bytewise path order."""
    with ChunkReader(repository) as reader:
        for kind, name in sorted({(target.kind, target.name) for target in [*old.targets, *new.targets]}):
            before, after = old.target(kind, name), new.target(kind, name)
            if before and after and before.tree == after.tree:
                continue
            yield from _diff_target(f"{kind} {name}", _members(reader, before), _members(reader, after))


def _members(reader: ChunkReader, target: Target | None) -> Iterator[Member]:
    return iter(reader.members(target) if target is not None and target.tree else ())


def _diff_target(name: str, before: Iterator[Member], after: Iterator[Member]) -> Iterator[Change]:
    old, new = next(before, None), next(after, None)
    while old is not None or new is not None:
        if new is None or (old is not None and old.path < new.path):
            assert old is not None
            yield Change(name, "-", display_path(old.path))
            old = next(before, None)
        elif old is None or new.path < old.path:
            yield Change(name, "+", display_path(new.path))
            new = next(after, None)
        else:
            if old.digest != new.digest:
                yield Change(name, _kind_of_change(old, new), display_path(new.path))
            old, new = next(before, None), next(after, None)


def _kind_of_change(old: Member, new: Member) -> str:
    """Tell content from metadata by what the scan saw: with the same size and mtime only metadata changed."""
    if old.type != new.type:
        return "T"
    before, after = old.stat.split(b" "), new.stat.split(b" ")
    if old.type == "f" and before[4:6] != after[4:6]:
        return "M"
    return "M" if old.symlink != new.symlink or old.leader != new.leader else "U"
