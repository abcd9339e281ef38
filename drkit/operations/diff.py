"""`drkit diff`: what changed between two snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from drkit.catalog.find import find_snapshots
from drkit.operations.context import Context
from drkit.repository.format.kinds import Kind
from drkit.repository.format.names import display_path
from drkit.repository.format.snapshot import Snapshot, Target
from drkit.repository.format.tree import Member
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository


@dataclass(frozen=True)
class Change:
    """`+` added, `-` removed, `M` content changed, `U` only metadata changed, `T` type changed."""

    target: str
    change: str
    path: str


@dataclass(frozen=True)
class DiffResult:
    """`changes` are read from the repository as they are iterated, target by target, in bytewise path order."""

    old: Snapshot
    new: Snapshot
    changes: Iterator[Change]


def diff(context: Context, old: str, new: str) -> DiffResult:
    """Compare two snapshots, named by id, a part of it, or `latest`.

    What is in fields that this version does not know is not compared, which is a warning.
    """
    before, after = find_snapshots(context.repository, [old, new])
    context.warn_of_newer()
    context.warn_of_damaged_records()
    for snapshot in (before, after):
        for tree in snapshot.unknown:
            context.events.warn(f"not compared: {tree.name} of snapshot {snapshot.id}, made by a newer drkit")
    return DiffResult(before, after, diff_snapshots(context.repository, before, after))


def diff_snapshots(repository: Repository, old: Snapshot, new: Snapshot) -> Iterator[Change]:
    """Yield what changed between two snapshots, target by target, in bytewise path order."""
    with ChunkReader(repository) as reader:
        for kind, name in sorted({(target.kind, target.name) for target in [*old.targets, *new.targets]}):
            before, after = old.target(kind, name), new.target(kind, name)
            if before and after and before.tree == after.tree:
                continue
            yield from _diff_target(f"{kind} {name}", _members(reader, before), _members(reader, after))


def _members(reader: ChunkReader, target: Target | None) -> Iterator[Member]:
    """The members in the order of their paths. Only those of a volume are stored so."""
    members = reader.members(target) if target is not None and target.tree else ()
    if target is None or target.kind == Kind.VOLUME:
        return iter(members)
    return iter(sorted(members, key=lambda member: member.path))


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
