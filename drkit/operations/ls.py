"""`drkit ls`: the files of a snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from drkit.catalog.find import Scope, by_newer, find_snapshot, names_of_trees
from drkit.errors import DrkitError, UsageError
from drkit.operations.context import Context
from drkit.repository.format.names import display_path
from drkit.repository.format.snapshot import Snapshot, Target
from drkit.repository.format.tree import Member
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository
from drkit.repository.tree_search import at, below, members_in


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
class LsResult:
    """`entries` are read from the repository as they are iterated: errors come then."""

    snapshot: Snapshot
    entries: Iterator[Listed]


def ls(context: Context, reference: str, target: str | None, path: str | None, scope: Scope) -> LsResult:
    """List the members at and below `path`, or all without a path. `target` may be None if there is only one."""
    record = find_snapshot(context.repository, reference, scope)
    context.warn_of_newer()
    context.warn_of_damaged_records()
    return LsResult(record, list_members(context.repository, choose_target(record, target), path))


def listed(member: Member) -> Listed:
    kind, mode, uid, gid, size, mtime = member.stat.decode("ascii").split(" ")[:6]
    link = display_path(member.leader or member.symlink) if member.leader or member.symlink else ""
    return Listed(kind, mode, int(uid), int(gid), int(size), mtime, display_path(member.path), link)


def choose_target(snapshot: Snapshot, name: str | None) -> Target:
    """Return the target with this name, or this KIND:NAME, or the only one.

    Trees in fields that this version does not know are found too. Raises DrkitError or UsageError, naming the choices.
    """
    trees = [target for target in [*snapshot.targets, *snapshot.unknown] if target.tree]
    fitting = [each for each in trees if name in (None, each.name, f"{each.kind}:{each.name}")]
    if len(fitting) == 1:
        return fitting[0]
    names = [each.name for each in trees]
    choices = ", ".join(names if len(set(names)) == len(names) else names_of_trees(snapshot)) or "nothing"
    if fitting:
        raise UsageError(f"snapshot {snapshot.id} holds several targets", hint=f"Name one of: {choices}.")
    empty = next((target for target in snapshot.targets if target.name == name), None)
    if empty is None:
        what = name or "files"
        raise DrkitError(f"snapshot {snapshot.id} holds no {what}", hint=f"It holds: {choices}.")
    why = f": {empty.error}" if empty.error else by_newer(empty)
    raise DrkitError(
        f"{empty.title} has no files of its own in snapshot {snapshot.id}{why}", hint=f"What holds files: {choices}."
    )


def list_members(repository: Repository, target: Target, path: str | None) -> Iterator[Listed]:
    """Yield the members at and below `path`, or all without a path. Raises DrkitError if there are none."""
    wanted = path.strip("/").encode("utf-8", "surrogateescape") if path and path.strip("/") not in ("", ".") else b""
    seen = False
    with ChunkReader(repository) as reader:
        ranges = (at(wanted), below(wanted))
        for member in members_in(reader, target, ranges) if wanted else reader.members(target):
            seen = True
            yield listed(member)
    if not seen:
        raise DrkitError(f"{target.title} holds no {path}", hint="See all paths: drkit ls SNAPSHOT TARGET.")
