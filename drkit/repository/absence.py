"""Records that should be there and are not: absence is not permission to free what they needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from drkit.repository.forgot import Forgotten, Owner, owner_of, read_forgotten
from drkit.repository.format.snapshot import SNAPSHOT_PREFIX, Previous, Snapshot
from drkit.repository.repository import Repository


@dataclass(frozen=True)
class Expected:
    """A record that somebody knows of. `origins`: whose it can be, the likeliest first; `known_by`, in words."""

    host: str
    policy: str
    origins: tuple[str, ...]
    record: Previous
    known_by: str
    is_numbered_otherwise: bool = False
    """A record with this id is there, but not with this number: whoever holds the meta key can claim any."""

    @property
    def owners(self) -> list[Owner]:
        return [Owner(origin, self.host, self.policy) for origin in self.origins]

    @property
    def key(self) -> str:
        return SNAPSHOT_PREFIX + self.record.id

    @property
    def problem(self) -> str:
        cure = f"drkit forget {self.record.id} --yes-really"
        if self.is_numbered_otherwise:
            return (
                f"there, but not as number {self.record.sequence}, and no note says that this number was removed on "
                f"purpose: {self.known_by}. If nobody has to look for that number: {cure}"
            )
        return f"gone, and no note says that it was removed on purpose: {self.known_by}. If it was: {cure}"


def named_before(snapshots: Iterable[Snapshot]) -> Iterator[Expected]:
    """Yield what signed records name as the one before them."""
    for each in snapshots:
        if each.previous is not None:
            yield Expected(
                each.host,
                each.policy,
                (each.origin, *each.adopted),
                each.previous,
                f"snapshot {each.id} names it as the one before",
            )


def missing(snapshots: Sequence[Snapshot], notes: Forgotten, remembered: Iterable[Expected] = ()) -> list[Expected]:
    """Return what is expected, and neither there nor explained by a note; each once.

    `remembered`: what a host knows that it stored, read before the snapshots were listed.
    """
    there = {(owner_of(each), each.original, each.sequence) for each in snapshots if each.origin}
    ids = {each.original for each in snapshots if each.origin}
    lost: dict[str, Expected] = {}
    for each in [*remembered, *named_before(snapshots)]:
        number = each.record.sequence
        if not any((owner, each.record.id, number) in there or notes.explains(owner, number) for owner in each.owners):
            lost.setdefault(each.record.id, replace(each, is_numbered_otherwise=each.record.id in ids))
    return list(lost.values())


def missing_in(
    repository: Repository, snapshots: Sequence[Snapshot], remembered: Iterable[Expected] = ()
) -> list[Expected]:
    """As `missing`, with the notes of a repository whose `snapshots` were listed before."""
    return missing(snapshots, read_forgotten(repository), remembered)
