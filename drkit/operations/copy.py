"""`drkit copy`: bring snapshots to the mirror, without reading a source volume or opening the data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from drkit.access.access import Access, open_access
from drkit.catalog.find import by_id, readable_snapshots
from drkit.errors import DrkitError, IntegrityError, PartialFailure
from drkit.events import LOGGED, Events
from drkit.repository.format.snapshot import SNAPSHOT_PREFIX, Snapshot
from drkit.repository.mirror.mirror import open_mirror
from drkit.repository.mirror.transfer import Transfer
from drkit.repository.repository import Repository
from drkit.storage import keep_reserve

log = logging.getLogger(__name__)


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
class Copies:
    """What a run of copy did. `bytes` counts what was sent, also for snapshots that failed."""

    url: str
    copied: list[CopiedSnapshot] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """Snapshots that the mirror has."""
    failed: list[NotCopied] = field(default_factory=list)
    bytes: int = 0

    @property
    def error(self) -> PartialFailure | None:
        """The error that the exit code tells: None when nothing failed."""
        if not self.failed:
            return None
        named = "; ".join(f"{each.snapshot}: {each.error}" for each in self.failed)
        return PartialFailure(
            f"{len(self.failed)} snapshots could not be copied to {self.url}: {named}",
            hint="Run drkit check on the repository; the others are safe in the mirror.",
        )


def copy(
    source: Repository,
    access: Access,
    references: Sequence[str] = (),
    *,
    host: str,
    events: Events = LOGGED,
) -> Copies:
    """Copy the named snapshots, or all, that the mirror at `access` does not have, the newest first.

    A damaged snapshot, or one that needs a damaged pack, fails; the others are copied, and each is committed as soon as
    it is whole. Raises UsageError for a place that is no mirror of `source`, whatever the storages raise, and
    RepositoryLocked when a prune of the mirror fenced us: what was copied before stays.
    """
    mirror = open_mirror(source, open_access(access, cached=True))
    done = copy_into(source, mirror, references, host=host, events=events)
    keep_reserve(mirror.storage)
    return done


def copy_into(
    source: Repository,
    mirror: Repository,
    references: Sequence[str] = (),
    *,
    host: str,
    events: Events = LOGGED,
) -> Copies:
    """As `copy`, into a mirror that is open."""
    snapshots, damaged = readable_snapshots(source)
    there = {snapshot.original for snapshot in readable_snapshots(mirror)[0]}
    done = Copies(mirror.storage.url)
    if references:
        chosen = {each.id: each for each in (by_id(snapshots, reference, damaged) for reference in references)}
        snapshots = [snapshot for snapshot in snapshots if snapshot.id in chosen]
    else:
        done.failed = [NotCopied(error.object_name.removeprefix(SNAPSHOT_PREFIX), error.message) for error in damaged]
    transfer = Transfer(source, mirror, host=host, events=events)
    planned = []
    for snapshot in reversed(snapshots):
        if snapshot.original in there:
            done.skipped.append(snapshot.id)
            continue
        try:
            transfer.plan(snapshot)
        except IntegrityError as error:
            done.failed.append(NotCopied(snapshot.id, error.message))
        else:
            planned.append(snapshot)
    for snapshot in planned:
        if snapshot.original in there:  # as another copy of it, just now
            done.skipped.append(snapshot.id)
            continue
        before = transfer.bytes_sent
        try:
            record = transfer.copy(snapshot)
        except IntegrityError as error:
            done.failed.append(NotCopied(snapshot.id, error.message))
        else:
            there.add(snapshot.original)
            done.copied.append(CopiedSnapshot(snapshot.id, record.id, transfer.bytes_sent - before))
    for damage in transfer.damage.values():
        log.warning("%s: what it lists was sent again; run drkit check on the mirror", damage.message)
    done.bytes = transfer.bytes_sent
    return done


@dataclass
class Mirrored:
    """What became of the copies after a backup. `status` is `ok`, `partial` or `failed`."""

    url: str
    status: str = "ok"
    error: str | None = None
    hint: str | None = None
    copies: Copies | None = None


def mirror_backup(
    open_source: Callable[[], Repository],
    access: Access,
    *,
    host: str,
    events: Events = LOGGED,
) -> Mirrored:
    """Copy to the mirror what it lacks. Whatever fails is in the result: the backup itself is good."""
    try:
        copies = copy(open_source(), access, host=host, events=events)
    except DrkitError as error:
        return Mirrored(access.url, "failed", error.message, error.hint)
    if (partial := copies.error) is not None:
        return Mirrored(access.url, "partial", partial.message, partial.hint, copies)
    return Mirrored(access.url, copies=copies)


def mirror_error(mirrored: Mirrored, snapshot: Snapshot) -> PartialFailure | None:
    """The error that a backup's exit code tells of its mirror."""
    if mirrored.status == "ok":
        return None
    return PartialFailure(
        f"snapshot {snapshot.id} is safe in the repository, but the mirror {mirrored.url} is behind: {mirrored.error}",
        hint=mirrored.hint or "Run drkit copy.",
    )
