"""`drkit copy`: bring snapshots to the mirror, without reading a source volume or opening the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from drkit.access.access import Access
from drkit.access.opening import open_access
from drkit.catalog.find import by_id, readable_snapshots
from drkit.errors import DrkitError, IntegrityError, PartialFailure, counted
from drkit.events import LOGGED, Events, Warned
from drkit.operations.context import Context
from drkit.repository.absence import missing, named_before
from drkit.repository.commit.marks import require_marks
from drkit.repository.forgot import Forgotten, Owner, note_forgotten, note_present, numbers_of
from drkit.repository.format.kinds import Status
from drkit.repository.format.snapshot import SNAPSHOT_PREFIX, Snapshot
from drkit.repository.mirror.mirror import open_mirror
from drkit.repository.mirror.transfer import Transfer
from drkit.repository.repository import Repository


@dataclass(frozen=True)
class CopiedSnapshot:
    """`copy` is the id in the mirror; `bytes` were sent for it."""

    snapshot: str
    copy: str
    bytes: int


@dataclass(frozen=True)
class NotCopied:
    snapshot: str
    error: str


@dataclass
class CopyResult:
    """What a run of copy did. `bytes` counts what was sent, also for snapshots that failed."""

    url: str
    copied: list[CopiedSnapshot] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """Snapshots that the mirror has."""
    failed: list[NotCopied] = field(default_factory=list)
    bytes: int = 0
    warnings: list[Warned] = field(default_factory=list)

    @property
    def error(self) -> PartialFailure | None:
        """The error that decides the exit code: None if nothing failed."""
        if not self.failed:
            return None
        named = "; ".join(f"{each.snapshot}: {each.error}" for each in self.failed)
        return PartialFailure(
            f"{counted(len(self.failed), 'snapshot')} could not be copied to {self.url}: {named}",
            hint="Run drkit check on the repository; the others are safe in the mirror.",
        )


def copy(context: Context, references: Sequence[str] = (), *, to: str | None = None) -> CopyResult:
    """Copy the snapshots that the mirror (at `to`, else the policy's) lacks, newest first: the named ones, or all.

    A damaged snapshot, or one that needs a damaged pack, fails; the others are copied, and each is committed as soon as
    it is whole. Raises UsageError for a place that is not a mirror of the repository, whatever the storages raise, and
    RepositoryLocked when a prune of the mirror fenced us: what was copied before stays.
    """
    return _copy(context, context.mirror_access(to), references)


def _copy(context: Context, place: Access, references: Sequence[str] = ()) -> CopyResult:
    source = context.repository
    mirror = open_mirror(source, open_access(place, cached=True, events=context.events))
    done = copy_into(source, mirror, references, host=context.host, events=context.events)
    mirror.storage.keep_reserve()
    context.warn_of_damage()
    done.warnings = context.warnings
    return done


def copy_into(
    source: Repository,
    mirror: Repository,
    references: Sequence[str] = (),
    *,
    host: str,
    events: Events = LOGGED,
) -> CopyResult:
    """As `copy`, into a mirror that is open.

    Raises IntegrityError for a mark of the mirror that does not open: a copy would have to send every chunk again for
    each snapshot, and could not tell which keys are about to go.
    """
    require_marks(mirror.storage, mirror.objects)
    snapshots, damaged = readable_snapshots(source)
    mirrored = readable_snapshots(mirror)[0]
    there = {_identity(snapshot) for snapshot in mirrored}
    source.refuse_newer()
    mirror.refuse_newer()
    done = CopyResult(mirror.storage.url)
    if references:
        chosen = {each.id: each for each in (by_id(snapshots, reference, damaged) for reference in references)}
        snapshots = [snapshot for snapshot in snapshots if snapshot.id in chosen]
    else:
        done.failed = [NotCopied(error.object_name.removeprefix(SNAPSHOT_PREFIX), error.message) for error in damaged]
    transfer = Transfer(source, mirror, host=host, events=events)
    planned = []
    for snapshot in reversed(snapshots):
        if _identity(snapshot) in there:
            done.skipped.append(snapshot.id)
            continue
        try:
            transfer.plan(snapshot)
        except IntegrityError as error:
            done.failed.append(NotCopied(snapshot.id, error.message))
        else:
            planned.append(snapshot)
    _note_gaps(mirror, planned, mirrored)
    arrived: list[Snapshot] = []
    for snapshot in planned:
        if _identity(snapshot) in there:  # another copy of it was copied just now
            done.skipped.append(snapshot.id)
            continue
        before = transfer.bytes_sent
        try:
            record = transfer.copy(snapshot)
        except IntegrityError as error:
            done.failed.append(NotCopied(snapshot.id, error.message))
        else:
            there.add(_identity(snapshot))
            arrived.append(snapshot)
            done.copied.append(CopiedSnapshot(snapshot.id, record.id, transfer.bytes_sent - before))
    # Also those of a copy that was cut short before it came to this: a note must not hide that they go one day.
    note_present(mirror, numbers_of([*mirrored, *arrived]))
    for damage in transfer.damage.values():
        events.warn(f"mirror: {damage.message}", hint=damage.hint)
    done.bytes = transfer.bytes_sent
    return done


def _note_gaps(mirror: Repository, planned: Sequence[Snapshot], there: Sequence[Snapshot]) -> None:
    """Note in the mirror what the copies name as the ones before them and it does not hold, before they are there.

    Such a record was forgotten in the source, could not be copied, or is yet to come: then the note is taken back.
    """
    numbers: dict[Owner, list[int]] = {}
    for gap in missing(there, Forgotten(), named_before(planned)):
        numbers.setdefault(gap.owners[0], []).append(gap.record.sequence)
    note_forgotten(mirror, numbers)


def _identity(snapshot: Snapshot) -> tuple[str, str]:
    """What a snapshot shares with its copies alone: anybody can write a record that says whose copy it is."""
    return snapshot.original, snapshot.origin


@dataclass
class MirrorResult:
    """How copying to the mirror after a backup ended. `copies` is None where copying failed as a whole."""

    url: str
    status: Status = Status.OK
    error: str | None = None
    hint: str | None = None
    copies: CopyResult | None = None

    def error_of(self, snapshot: Snapshot) -> PartialFailure | None:
        """The error of the mirror, for the exit code of a backup."""
        if self.status == Status.OK:
            return None
        return PartialFailure(
            f"snapshot {snapshot.id} is safe in the repository, but the mirror {self.url} is behind: {self.error}",
            hint=self.hint or "Run drkit copy.",
        )


def copy_to_mirror(context: Context) -> MirrorResult:
    """Copy to the policy's mirror what it lacks. Whatever fails is in the result: the backup itself is good."""
    place = context.mirror_access()
    try:
        copies = _copy(context, place)
    except DrkitError as error:
        return MirrorResult(place.url, Status.FAILED, error.message, error.hint)
    if (partial := copies.error) is not None:
        return MirrorResult(place.url, Status.PARTIAL, partial.message, partial.hint, copies)
    return MirrorResult(place.url, copies=copies)
