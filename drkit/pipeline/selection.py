"""Which members of a tree a restore writes: all of them, or those that patterns choose and what these depend on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from drkit.pipeline.paths import parents
from drkit.pipeline.select import Patterns
from drkit.repository.format.tree import Member


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


def select_members(members: Iterable[Member], patterns: Patterns) -> Selection:
    """Choose the members that match. The selection is empty when none does."""
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
            yield Selected(leaders[member.leader], member.path, b"")
        else:
            yield Selected(member, member.path, heir or member.leader)
