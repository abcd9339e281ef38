"""What a prune would remove, and whether it may: a plan, made from one reading of the repository."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, field

from drkit.errors import IntegrityError, RetentionRefused
from drkit.repository.commit.marks import Marks, read_marks
from drkit.repository.format.packs import ENTRY, Entry
from drkit.repository.format.snapshot import Snapshot
from drkit.repository.keys.wraps import DataKeyWrap, LabelName, data_key_labels, data_key_wraps
from drkit.repository.prune.survey import Survey, index_damage, survey
from drkit.repository.repository import Repository

Choose = Callable[[list[Snapshot]], Set[str]]
"""Told all snapshots, returns the ids of those to forget."""


@dataclass
class PrunePlan:
    """Sizes in bytes. Packs are in one of `dead`, `moving` and `debris`."""

    survey: Survey
    snapshots: frozenset[str]
    """Every snapshot there is, `forget` among them."""
    forget: frozenset[str]
    marks: Marks
    """Those of other prunes: of the dead among them, as the living ones are waited for."""
    dead: dict[bytes, int] = field(default_factory=dict)
    """Packs that hold nothing that is needed."""
    moving: dict[bytes, int] = field(default_factory=dict)
    """Packs of which less than half is needed, each with the size of what is."""
    postponed: dict[bytes, int] = field(default_factory=dict)
    """The same, beyond what one prune is to move."""
    debris: dict[bytes, int] = field(default_factory=dict)
    """Packs that no index object lists: of runs that were cut short, or have not yet got that far."""
    wraps: list[DataKeyWrap] = field(default_factory=list)
    """Wraps of data keys that no chunk is sealed with."""
    labels: list[LabelName] = field(default_factory=list)
    """Their labels, and those of keys that are gone."""

    @property
    def packs(self) -> Set[bytes]:
        return self.dead.keys() | self.moving.keys() | self.debris.keys()

    @property
    def ids(self) -> set[bytes]:
        """What a mark lists."""
        return {*self.packs, *(wrap.id for wrap in self.wraps)}

    @property
    def doubtful(self) -> frozenset[bytes]:
        return frozenset().union(*self.marks.values())

    @property
    def bytes_stored(self) -> int:
        return sum(self.survey.stored.values())

    @property
    def bytes_moved(self) -> int:
        return sum(self.moving.values())

    @property
    def bytes_freed(self) -> int:
        return sum(self.survey.stored[pack_id] for pack_id in self.packs) - self.bytes_moved

    def refuse_too_much(self, *, yes_really: bool) -> None:
        """Raise RetentionRefused when more than half of all data would go: more often a mistake than a wish."""
        if not yes_really and 2 * self.bytes_freed > self.bytes_stored:
            share = 100 * self.bytes_freed // self.bytes_stored
            raise RetentionRefused(
                f"this prune would remove {share}% of the data: {self.bytes_freed} of {self.bytes_stored} bytes",
                hint="Look at drkit prune --dry-run, then run drkit prune --yes-really if it is right.",
            )


def plan_prune(repository: Repository, choose: Choose, max_repack: int) -> PrunePlan:
    """Read everything, decide what could go. `max_repack`: how many bytes of chunks to move at most.

    Raises RetentionRefused where there is no snapshot, IntegrityError for damage that leaves open what is needed.
    """
    # Before everything else: what is made later is not condemned.
    wraps = data_key_wraps(repository.storage)
    labels = data_key_labels(repository.storage)
    marks = read_marks(repository.storage, repository.objects)
    snapshots = live_snapshots(repository)
    if not snapshots:
        raise RetentionRefused(
            f"{repository.storage.url} shows no snapshot: nothing says what is still needed",
            hint="Check that this is the right repository, then run drkit backup.",
        )
    forget = frozenset(choose(snapshots))
    kept = [snapshot for snapshot in snapshots if snapshot.id not in forget]
    doubtful: frozenset[bytes] = frozenset().union(*marks.values())
    found = survey(repository, kept, doubtful=doubtful)
    if found.damaged and found.unlisted:
        raise index_damage(found)
    plan = PrunePlan(found, frozenset(snapshot.id for snapshot in snapshots), forget, marks)
    _sort_packs(plan, max_repack)
    if repository.is_mirror:
        return plan  # a copy could bring a key back, under the names that its wraps had before
    # Keys of packs that are moved wait for the next prune: a new pack must hold nothing under a key in our own mark,
    # or another prune could not tell it from what is better not relied on.
    used = found.key_ids(frozenset(plan.dead))
    plan.wraps = [wrap for wrap in wraps if wrap.key_id not in used]
    plan.labels = [label for label in labels if label.key_id not in used]
    return plan


def live_snapshots(repository: Repository) -> list[Snapshot]:
    """Return every snapshot. Raises IntegrityError for a damaged record: what it needs nobody knows."""
    snapshots = []
    for record in repository.snapshots():
        if isinstance(record, IntegrityError):
            raise IntegrityError(
                f"{record.message}: what this snapshot needs cannot be told, so nothing is removed",
                hint="Restore that object from a copy of the repository, or drkit forget it.",
                object_name=record.object_name,
            )
        record.policy_text = ""  # not needed here, and the largest part of a record
        snapshots.append(record)
    return snapshots


def _sort_packs(plan: PrunePlan, max_repack: int) -> None:
    """Sort packs into those that go, those that are worth moving, most gain for the least work first, and the rest."""
    worth: list[tuple[float, bytes, int]] = []
    for number, pack in enumerate(plan.survey.packs):
        needed = sum(Entry(*ENTRY.unpack(entry)).sealed_size for entry in plan.survey.needed(number))
        if not needed:
            plan.dead[pack.pack_id] = pack.size
        elif 2 * needed < pack.size:
            worth.append((needed / pack.size, pack.pack_id, needed))
    moved = 0
    for _, pack_id, needed in sorted(worth):
        moved += needed
        (plan.moving if moved <= max_repack else plan.postponed)[pack_id] = needed
    plan.debris = {pack_id: plan.survey.stored[pack_id] for pack_id in plan.survey.unlisted}
