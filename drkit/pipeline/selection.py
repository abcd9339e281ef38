"""Which members of a tree a restore writes: all of them, or those that patterns choose and what these depend on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from drkit.errors import IntegrityError
from drkit.pipeline.paths import parents
from drkit.pipeline.select import Patterns, literal_prefix
from drkit.repository.format.names import display_path
from drkit.repository.format.snapshot import Target
from drkit.repository.format.tree import Member
from drkit.repository.reader import ChunkReader
from drkit.repository.tree_search import Range, TreeSearch, at, below, is_searchable, starting_with


class Selected(NamedTuple):
    """A member to write, under `path` and as a link to `leader`. In a subset they may differ from the member's own."""

    member: Member
    path: bytes
    leader: bytes

    @property
    def as_recorded(self) -> bool:
        return (self.path, self.leader) == (self.member.path, self.member.leader)


@dataclass(frozen=True)
class Selection:
    """A subset of a tree. Parent directories come along with their recorded metadata.

    If the leader of hard links is not selected, the first selected link to it becomes its heir: it is written with the
    leader's content, and the other selected links link to it.
    """

    paths: frozenset[bytes]
    heirs: dict[bytes, bytes] = field(default_factory=dict)
    """Path of a leader that is not selected -> path of its heir."""
    ranges: tuple[Range, ...] = ()
    """Where bisection found these members and their leaders. Empty if the whole tree was read."""


def select_paths(reader: ChunkReader, target: Target, patterns: Sequence[str]) -> Selection:
    """Choose the members that match gitignore patterns, by bisection if these and the tree allow it."""
    found = _select_by_search(reader, target, patterns) if is_searchable(target) else None
    return found or select_members(reader.members(target), Patterns(patterns))


def select_members(members: Iterable[Member], patterns: Patterns) -> Selection:
    """Choose the members that match. The selection is empty when none does."""
    return _selection(_matching(members, patterns))


def pattern_ranges(pattern: str) -> tuple[Range, ...]:
    """Return where the paths that match a pattern lie; nothing if that can be anywhere."""
    prefix, whole = literal_prefix(pattern) or (b"", False)
    if whole:
        return at(prefix), below(prefix)
    return (starting_with(prefix),) if prefix.strip(b"\xff") else ()


def _select_by_search(reader: ChunkReader, target: Target, patterns: Sequence[str]) -> Selection | None:
    """None if the whole tree must be read: to be sure that nothing matches, or since something does not fit.

    The patterns are matched one by one: none of them takes back what another one chooses.
    """
    search = TreeSearch(reader, target)
    chosen: dict[bytes, bytes] = {}
    ranges: list[Range] = []
    try:
        for pattern in patterns:
            places = pattern_ranges(pattern)
            matching = _matching(search.members(places), Patterns([pattern]))
            if not matching:
                return None
            chosen |= matching
            ranges += places
        selection = _selection(dict(sorted(chosen.items())))
        others = {*selection.paths, *selection.heirs} - chosen.keys()
        ranges += map(at, others)
        if {member.path for member in search.members(map(at, others))} != others:
            return None
    except IntegrityError:
        return None
    return replace(selection, ranges=tuple(ranges))


def _matching(members: Iterable[Member], patterns: Patterns) -> dict[bytes, bytes]:
    """Return the leaders of the members that match, by path."""
    return {
        member.path: member.leader for member in members if patterns.match(member.path, directory=member.type == "d")
    }


def _selection(chosen: dict[bytes, bytes]) -> Selection:
    heirs: dict[bytes, bytes] = {}
    for path, leader in chosen.items():
        if leader and leader not in chosen:
            heirs.setdefault(leader, path)
    with_parents = set(chosen)
    for path in chosen:
        with_parents.update(parents(path))
    return Selection(frozenset(with_parents) if chosen else frozenset(), heirs)


def selected_members(members: Callable[[], Iterable[Member]], selection: Selection | None) -> Iterator[Selected]:
    """Yield what a restore writes, in bytewise path order: all members where `selection` is None."""
    leaders: dict[bytes, Member] = {}
    for member in members():
        if selection is None:
            yield Selected(member, member.path, member.leader)
            continue
        if member.path in selection.heirs:
            leaders[member.path] = member
        if member.path not in selection.paths:
            continue
        heir = selection.heirs.get(member.leader) if member.leader else None
        if heir == member.path:
            if member.leader not in leaders:
                raise IntegrityError(
                    f"the tree holds {display_path(member.path)} before what it links to", hint="Run drkit check."
                )
            yield Selected(leaders[member.leader], member.path, b"")
        else:
            yield Selected(member, member.path, heir or member.leader)
