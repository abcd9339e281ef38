"""`drkit find`: paths in all snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from drkit.catalog.find import Scope, readable_snapshots
from drkit.errors import IntegrityError
from drkit.operations.context import Context
from drkit.operations.ls import Listed, listed
from drkit.pipeline.select import Patterns
from drkit.pipeline.selection import pattern_ranges
from drkit.repository.format.snapshot import Snapshot, Target
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository
from drkit.repository.tree_search import members_in


@dataclass(frozen=True)
class Match:
    """A member whose path matches."""

    snapshot: Snapshot
    target: Target
    entry: Listed


@dataclass(frozen=True)
class FindResult:
    """`matches` are read from the repository as they are iterated. `damaged`: records that could not be searched."""

    matches: Iterator[Match]
    damaged: list[IntegrityError]

    @property
    def error(self) -> IntegrityError | None:
        """The error that decides the exit code."""
        return next(iter(self.damaged), None)


def find(context: Context, pattern: str, scope: Scope) -> FindResult:
    """Find every member whose path matches a gitignore pattern, in every snapshot of the scope."""
    records, damaged = readable_snapshots(context.repository)
    context.warn_of_newer()
    admitted = [record for record in records if scope.admits(record)]
    return FindResult(find_members(context.repository, admitted, pattern), damaged)


def find_members(repository: Repository, snapshots: list[Snapshot], pattern: str) -> Iterator[Match]:
    """Yield every member, in every snapshot, whose path matches a gitignore pattern.

    Trees in fields that this version does not know are searched too.
    """
    ranges = pattern_ranges(pattern)
    with ChunkReader(repository) as reader:
        for snapshot in snapshots:
            for target in [*snapshot.targets, *snapshot.unknown]:
                patterns = Patterns([pattern])
                for member in members_in(reader, target, ranges) if ranges else reader.members(target):
                    if patterns.match_alone(member.path, directory=member.type == "d"):
                        yield Match(snapshot, target, listed(member))
