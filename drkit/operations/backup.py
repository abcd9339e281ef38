"""`drkit backup`: one run of one policy, one snapshot."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import partial

from drkit import __version__
from drkit.access.access import Access, open_repository, read_recipients
from drkit.access.identities import AskPassphrase
from drkit.catalog.find import previous_target, readable_snapshots
from drkit.catalog.kept import still_kept
from drkit.engine.client import Engine
from drkit.engine.helper.image import HelperImage, helper_archive
from drkit.engine.images import ImageIdentity, inspect_image, save_image
from drkit.errors import (
    AccessDenied,
    CaptureFailed,
    DrkitError,
    IntegrityError,
    ObjectExists,
    ObjectNotFound,
    PartialFailure,
    RepositoryLocked,
    RepositoryNotFound,
    StorageUnavailable,
)
from drkit.host.name import host_id
from drkit.host.seen import SeenRepositories
from drkit.operations.keys import recipient_differences
from drkit.operations.plan import Planned, Ready
from drkit.pipeline.capture import Capture, can_take_over, capture_stream, capture_volume, take_over
from drkit.pipeline.select import Patterns
from drkit.pipeline.stream import iterator_readinto
from drkit.policy import Policy
from drkit.repository.format.kinds import Status
from drkit.repository.format.snapshot import SNAPSHOT_PREFIX, Snapshot, Target, format_time, parse_time
from drkit.repository.locks import renew_locks
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter
from drkit.storage import keep_reserve

log = logging.getLogger(__name__)

# What is wrong with the repository ends a run; whatever else is wrong, is wrong with the target at hand.
_OF_THE_REPOSITORY = (
    AccessDenied,
    IntegrityError,
    ObjectExists,
    ObjectNotFound,
    RepositoryLocked,
    RepositoryNotFound,
    StorageUnavailable,
)

STOCK_LOSSES = (
    "xattrs, ACLs and file capabilities",
    "mtimes below a second",
    "holes of sparse files",
    "notice of files that changed while they were read",
)
TRUSTED_LOSS = "trusted.* xattrs, where files have them: set trusted_xattrs in the policy to keep them"

TargetProgress = Callable[[str, str, int], None]
"""Told kind and name of a target, and bytes read of it since it was told last."""


def backup(
    policy: Policy,
    access: Access,
    engine: Engine,
    ready: Ready,
    *,
    now: datetime,
    seen: SeenRepositories,
    accept_repository: str | None = None,
    ask: AskPassphrase | None = None,
    progress: TargetProgress = lambda kind, name, count: None,
    renewed: Callable[[int], None] = lambda count: None,
) -> Snapshot:
    """Capture the targets that are `ready` and commit one snapshot of all that could be captured.

    A target that fails is in the snapshot as `failed`, with its error, and makes the snapshot `partial`. When all fail,
    nothing is committed and the returned record says `failed`. Errors of the repository end the run: raises whatever
    the storage raised, and no snapshot exists. A repository other than the one `seen` remembers is an IntegrityError,
    before anything is sent to it, unless `accept_repository` is its id. `renewed` is told how many locks were renewed.
    """
    clock = time.monotonic()
    recipients = read_recipients(policy.repository.recipients_file)
    host = host_id(policy)
    repository = open_repository(access, ask)
    seen.require_same(repository, accepted=accept_repository)
    for difference in recipient_differences(repository, recipients):
        log.warning("%s", difference, extra={"hint": "Run drkit key rewrap where the identity is."})
    keep_reserve(repository.storage)
    snapshots, damaged = readable_snapshots(repository)
    listed = [snapshot.id for snapshot in snapshots]
    listed += [error.object_name.removeprefix(SNAPSHOT_PREFIX) for error in damaged]
    seen.tell_if_set_back(repository, listed)
    record = Snapshot(
        ready.run_id, format_time(now), host, policy.name, Status.OK, [], policy_text=policy.text, drkit=__version__
    )
    with (
        RunWriter(repository, ready.run_id, recipients, host=host) as writer,
        ChunkReader(repository) as reader,
    ):
        for error in writer.damage:
            log.warning("%s: what it lists is stored again; run drkit check", error.message)
        run = _Run(repository, reader, writer, engine, ready, now, progress)
        for plan in ready.targets:
            previous = previous_target(snapshots, host, policy.name, plan.kind, plan.name)
            record.targets.append(run.capture(plan, previous))
        failed = [target for target in record.targets if target.status == "failed"]
        record.status = (
            Status.OK if not failed else Status.FAILED if len(failed) == len(record.targets) else Status.PARTIAL
        )
        if record.status != "failed":
            if ready.helper is not None:
                record.helper = _store_helper(run, ready.helper, snapshots)
            record.finished = format_time(now + timedelta(seconds=time.monotonic() - clock))
            writer.commit(record)
            listed.append(record.id)
    seen.remember(repository, listed)
    if repository.storage.locks and record.status != "failed":
        renewed(_renew_locks(repository, record, [*snapshots, record], policy, now))
    return record


def _renew_locks(
    repository: Repository, record: Snapshot, snapshots: Sequence[Snapshot], policy: Policy, now: datetime
) -> int:
    try:
        return renew_locks(repository, still_kept(snapshots, policy, record.host, now))
    except DrkitError as error:
        error.message = f"snapshot {record.id} is stored, but older locks could not be renewed: {error.message}"
        raise


@dataclass(frozen=True)
class _Run:
    repository: Repository
    reader: ChunkReader
    writer: RunWriter
    engine: Engine
    ready: Ready
    now: datetime
    progress: TargetProgress

    def capture(self, plan: Planned, previous: Target | None) -> Target:
        """Capture one target. What is wrong with it is in the result; what is wrong with the repository raises."""
        target = Target(plan.kind, plan.name, exclude=list(plan.exclude), trusted_xattrs=plan.trusted_xattrs)
        clock, stored = time.monotonic(), self.writer.bytes_stored
        try:
            if plan.problem:
                raise CaptureFailed(f"{plan.kind} {plan.name}: {plan.problem}")
            target.started = format_time(min(self.now, self.engine.time()))
            if plan.kind == "volume":
                self._volume(plan, target, previous)
            else:
                self._image(plan, target, previous)
            self.writer.flush()
        except _OF_THE_REPOSITORY:
            raise
        except DrkitError as error:
            target.status, target.error = Status.FAILED, error.message
            target.tree, target.files, target.bytes = [], 0, 0
        target.seconds = round(time.monotonic() - clock, 3)
        target.bytes_stored = self.writer.bytes_stored - stored
        return target

    def shared(self, target: Target) -> Capture:
        return Capture(
            self.engine,
            self.repository,
            self.reader,
            self.writer,
            parse_time(target.started).timestamp() if target.started else self.now.timestamp(),
            lambda count: self.progress(target.kind, target.name, count),
        )

    def _volume(self, plan: Planned, target: Target, previous: Target | None) -> None:
        document = self.engine.volume(plan.name)
        if document is None:
            raise CaptureFailed(f"volume {plan.name}: there is no such volume")
        target.source = {
            key: document.get(key) for key in ("Name", "Driver", "Options", "Labels", "Scope", "CreatedAt")
        }
        target.lost = [] if plan.trusted_xattrs else [TRUSTED_LOSS]
        helper = self.ready.helper
        assert helper is not None  # made when a volume was planned
        if not helper.full:
            target.lost = list(STOCK_LOSSES)
        start = partial(self.ready.standby.take, plan.name)
        capture_volume(self.shared(target), helper, start, target, Patterns(plan.exclude), previous)

    def _image(self, plan: Planned, target: Target, previous: Target | None) -> None:
        image = inspect_image(self.engine, plan.name)
        target.source = asdict(image)
        if previous is not None and _same_image(previous, image) and can_take_over(self.shared(target), previous):
            take_over(self.shared(target), target, previous)
            return
        names = capture_stream(self.shared(target), target, iterator_readinto(save_image(self.engine, image)))
        if b"manifest.json" not in names:
            raise CaptureFailed(f"image {plan.name}: the engine's archive has no manifest.json")


def _same_image(previous: Target, image: ImageIdentity) -> bool:
    source = asdict(image)
    return all(previous.source.get(key) == _as_json(source[key]) for key in ("image_id", "tags"))


def _as_json(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _store_helper(run: _Run, helper: HelperImage, snapshots: Sequence[Snapshot]) -> dict[str, object]:
    """Keep the helper image in the repository: a bare host without a registry restores with it."""
    about = asdict(helper)
    for snapshot in reversed(snapshots):
        if snapshot.helper.get("image_id") == helper.image_id and snapshot.helper.get("tree"):
            stored = Target("image", "helper", tree=snapshot.helper["tree"])
            if can_take_over(run.shared(stored), stored):
                take_over(run.shared(stored), stored, stored)
                return {**about, "tree": stored.tree}
    stored = Target("image", "helper")
    try:
        capture_stream(run.shared(stored), stored, iterator_readinto(helper_archive(run.engine, helper)))
    except _OF_THE_REPOSITORY:
        raise
    except DrkitError as error:
        log.warning("the helper image could not be kept in the snapshot: %s", error.message)
        return about
    return {**about, "tree": stored.tree}


def backup_error(record: Snapshot) -> DrkitError | None:
    """The error that a run's exit code tells: None when every target is ok."""
    failed = [target for target in record.targets if target.status == "failed"]
    if not failed:
        return None
    named = "; ".join(f"{target.kind} {target.name}: {target.error}" for target in failed)
    if record.status == "failed":
        return CaptureFailed(
            f"no target could be captured, no snapshot was made: {named}", hint="Run drkit backup again."
        )
    return PartialFailure(
        f"{len(failed)} of {len(record.targets)} targets failed: {named}",
        hint=f"The others are safe in snapshot {record.id}.",
    )
