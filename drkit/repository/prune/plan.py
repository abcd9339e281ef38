"""What a prune would remove, and whether it may: a plan, made from one reading of the repository."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, field
from itertools import accumulate

from drkit.errors import IntegrityError, RetentionRefused
from drkit.repository.commit.marks import MAX_IDS, Marks, condemned, require_marks
from drkit.repository.forgot import Owner, numbers_of
from drkit.repository.format.digest import DIGEST_SIZE
from drkit.repository.format.packs import ENTRY, Entry, is_small
from drkit.repository.format.snapshot import Snapshot
from drkit.repository.keys.wraps import (
    KEY_ID_SIZE,
    TREE_KEY_ID,
    DataKeyWrap,
    LabelName,
    data_key_wraps_and_labels,
)
from drkit.repository.prune.confirm import require_truth
from drkit.repository.prune.survey import Survey, index_damage, survey
from drkit.repository.repository import Repository

MANY_SMALL = 16
"""So many small packs of one kind are merged: each run with small changes stores two, and a run lists all packs."""

Choose = Callable[[list[Snapshot]], Set[str]]
"""Takes all snapshots, returns the ids of those to forget."""


@dataclass
class PrunePlan:
    """Sizes in bytes. Packs are in one of `dead`, `moving` and `debris`."""

    survey: Survey
    snapshots: frozenset[str]
    """Every snapshot there is, including those to forget."""
    forget: frozenset[str]
    marks: Marks
    """Marks left by prunes that died; live prunes are waited for."""
    numbers: dict[Owner, list[int]] = field(default_factory=dict)
    """The numbers of those to forget, for the notes that say that they went on purpose."""
    dead: dict[bytes, int] = field(default_factory=dict)
    """Packs in which nothing is needed."""
    moving: dict[bytes, int] = field(default_factory=dict)
    """Packs of which less than half is needed, and small ones if there are many, each with the size of that part."""
    postponed: dict[bytes, int] = field(default_factory=dict)
    """More of these, beyond what one prune may move."""
    debris: dict[bytes, int] = field(default_factory=dict)
    """Packs that no index object lists: of runs that were cut short, or have not stored their index yet."""
    wraps: list[DataKeyWrap] = field(default_factory=list)
    """Wraps of data keys without any chunk."""
    labels: list[LabelName] = field(default_factory=list)
    """Labels of these wraps, and of keys that are gone."""

    @property
    def packs(self) -> Set[bytes]:
        return self.dead.keys() | self.moving.keys() | self.debris.keys()

    @property
    def ids(self) -> set[bytes]:
        """What a mark lists."""
        return {*self.packs, *(wrap.id for wrap in self.wraps)}

    @property
    def doubtful(self) -> frozenset[bytes]:
        """What dead prunes have condemned, and may have half deleted."""
        return condemned(self.marks)

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
        """Raise RetentionRefused if more than half of all data would go, which is usually a mistake."""
        if not yes_really and 2 * self.bytes_freed > self.bytes_stored:
            share = 100 * self.bytes_freed // self.bytes_stored
            raise RetentionRefused(
                f"this prune would remove {share}% of the data: {self.bytes_freed} of {self.bytes_stored} bytes",
                hint="Look at drkit prune --dry-run; if that is right, run drkit prune --yes-really.",
            )


def plan_prune(repository: Repository, choose: Choose, max_repack: int) -> PrunePlan:
    """Read everything, and decide what could go. `max_repack`: how many bytes of chunks may be moved.

    Raises RetentionRefused if there is no snapshot, IntegrityError for damage that hides what is needed and for an
    index that says of a pack that would go something else than the pack itself.
    """
    # Listed first, so that no key that is made later is condemned.
    wraps, labels = data_key_wraps_and_labels(repository.storage)
    marks = require_marks(repository.storage, repository.objects)
    snapshots = live_snapshots(repository)
    if not snapshots:
        raise RetentionRefused(
            f"{repository.storage.url} shows no snapshot, so nothing tells what is still needed",
            hint="Check that this is the right repository, then run drkit backup.",
        )
    forget = frozenset(choose(snapshots))
    staying = [snapshot for snapshot in snapshots if snapshot.id not in forget]
    found = survey(repository, staying, doubtful=condemned(marks))
    if found.damaged and found.unlisted:
        raise index_damage(found)
    plan = PrunePlan(found, frozenset(snapshot.id for snapshot in snapshots), forget, marks)
    plan.numbers = numbers_of(snapshot for snapshot in snapshots if snapshot.id in forget)
    _sort_packs(plan, max_repack)
    room = _fit_one_mark(plan)
    require_truth(repository, found, plan.packs)
    if repository.is_mirror:
        return plan  # a copy could bring a key back, and its wraps would have the same names as before
    # Keys of packs that are moved are left to the next prune. A new pack must hold no chunk under a key in our mark, or
    # other prunes could not tell it from a pack that they must not count on.
    used = found.key_ids(frozenset(plan.dead))
    unused = [wrap for wrap in wraps if wrap.key_id not in used]
    plan.wraps = unused[:room]
    used |= {wrap.key_id for wrap in unused[room:]}
    plan.labels = [label for label in labels if label.key_id not in used]
    return plan


def _fit_one_mark(plan: PrunePlan) -> int:
    """Leave to the next prune the packs that do not fit in one mark. Return how many more ids do."""
    room = MAX_IDS
    for packs in (plan.dead, plan.moving, plan.debris):
        for pack_id in list(packs)[room:]:
            del packs[pack_id]
        room -= len(packs)
    return room


def live_snapshots(repository: Repository) -> list[Snapshot]:
    """Return every snapshot. Raises IntegrityError for a damaged record, since nobody knows what that needs, and
    DrkitError for what a newer drkit stored.
    """
    snapshots = []
    for record in repository.snapshots():
        if isinstance(record, IntegrityError):
            raise IntegrityError(
                f"{record.message}: what this snapshot needs is unknown, so nothing is removed",
                hint="Restore that object from a copy of the repository, or drkit forget it.",
                object_name=record.object_name,
            )
        record.policy_text = ""  # not needed here, and the largest part of a record
        snapshots.append(record)
    repository.refuse_newer()
    return snapshots


def _sort_packs(plan: PrunePlan, max_repack: int) -> None:
    """Sort packs: those that go, those that are worth moving (most gain for least work first), and the rest."""
    worth: list[tuple[float, bytes, int]] = []
    small: dict[bool, list[tuple[int, bytes]]] = {True: [], False: []}
    left_over: set[bool] = set()
    for number, pack in enumerate(plan.survey.packs):
        needed = sum(Entry(*ENTRY.unpack(entry)).sealed_size for entry in plan.survey.needed(number))
        of_trees = pack.entries[DIGEST_SIZE : DIGEST_SIZE + KEY_ID_SIZE] == TREE_KEY_ID
        if not needed:
            plan.dead[pack.pack_id] = pack.size
        elif 2 * needed < pack.size:
            worth.append((needed / pack.size, pack.pack_id, needed))
            left_over.add(of_trees)
        elif is_small(pack.size):
            small[of_trees].append((needed, pack.pack_id))
    moved = 0
    for _, pack_id, needed in sorted(worth):
        moved += needed
        (plan.moving if moved <= max_repack else plan.postponed)[pack_id] = needed
    for of_trees, packs in small.items():
        # What is moved anyway may end in one more small pack. Without it in this count, the next prune would have work.
        if len(packs) + (of_trees in left_over) >= MANY_SMALL:
            moved = _merge(plan, sorted(packs), moved, max_repack)
    plan.debris = {pack_id: plan.survey.stored[pack_id] for pack_id in plan.survey.unlisted}


def _merge(plan: PrunePlan, packs: list[tuple[int, bytes]], moved: int, max_repack: int) -> int:
    """Plan to move small packs of one kind together, at least two of them; return what is moved in all."""
    within = sum(total <= max_repack for total in accumulate((needed for needed, _ in packs), initial=moved)) - 1
    within = within if within > 1 else 0  # one alone would only become another one
    plan.moving |= {pack_id: needed for needed, pack_id in packs[:within]}
    plan.postponed |= {pack_id: needed for needed, pack_id in packs[within:]}
    return moved + sum(needed for needed, _ in packs[:within])
