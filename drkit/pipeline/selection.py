"""Which members of a tree a restore writes: all, or those that patterns choose, with what they cannot do without."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from drkit.pipeline.paths import parents
from drkit.pipeline.select import Patterns
from drkit.repository.format.tree import Member


class Selected(NamedTuple):
    """A member to write, under `path` and as a link to `leader`: they differ from the member's own only in subsets."""

    member: Member
    path: bytes
    leader: bytes

    @property
    def as_recorded(self) -> bool:
        return (self.path, self.leader) == (self.member.path, self.member.leader)


@dataclass(frozen=True)
class Selection:
    """A subset of a tree. Parent directories come along with their recorded metadata.

    A hard link whose content lies with a member that was not selected takes over that content: the first such link in
    order is written in place of its leader, the others link to it.
    """

    paths: frozenset[bytes]
    heirs: dict[bytes, bytes] = field(default_factory=dict)
    """Path of a leader that is not selected -> path of the first selected link to it."""


def select_members(members: Iterable[Member], patterns: Patterns) -> Selection:
    """Choose the members that match. An empty selection means that nothing matched."""
    chosen: dict[bytes, bytes] = {}
    for member in members:
        if patterns.match(member.path, directory=member.type == "d"):
            chosen[member.path] = member.leader
    heirs: dict[bytes, bytes] = {}
    for path, leader in chosen.items():
        if leader and leader not in chosen:
            heirs.setdefault(leader, path)
    with_parents = set(chosen)
    for path in chosen:
        with_parents.update(parents(path))
    return Selection(frozenset(with_parents) if chosen else frozenset(), heirs)


def selected_members(members: Callable[[], Iterable[Member]], selection: Selection | None) -> Iterator[Selected]:
    """Yield what a restore writes, in bytewise path order; all members without a selection."""
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
            yield Selected(leaders[member.leader], member.path, b"")
        else:
            yield Selected(member, member.path, heir or member.leader)
