"""`drkit backup`: one run of one policy, one snapshot."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import partial

from drkit import __version__
from drkit.engine.client import Engine
from drkit.engine.helper import Helper, ensure_helper, helper_archive
from drkit.engine.images import ImageIdentity, inspect_image, save_image
from drkit.engine.process import HelperProcess
from drkit.engine.volumes import match_volumes, start_capture
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
    UsageError,
)
from drkit.operations.access import Access, open_repository, read_recipients
from drkit.operations.find_snapshot import previous_target, readable_snapshots
from drkit.operations.host import host_id
from drkit.operations.host_state import SeenRepositories
from drkit.operations.identities import AskPassphrase
from drkit.operations.kept import still_kept
from drkit.operations.keys import recipient_differences
from drkit.pipeline.capture import Capture, can_take_over, capture_stream, capture_volume, take_over
from drkit.pipeline.select import Patterns
from drkit.pipeline.standby import StandBy
from drkit.pipeline.stream import iterator_readinto
from drkit.policy import Policy
from drkit.repository.locks import renew_locks
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository
from drkit.repository.sealing import random_bytes
from drkit.repository.snapshot import SNAPSHOT_PREFIX, Snapshot, Target, format_time, new_run_id, parse_time
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


@dataclass(frozen=True)
class Planned:
    """A target as the policy and the engine name it. `problem`: why it cannot be captured at all."""

    kind: str
    name: str
    exclude: tuple[str, ...] = ()
    trusted_xattrs: bool = False
    problem: str | None = None


def plan_targets(policy: Policy, engine: Engine) -> list[Planned]:
    """Resolve what the policy protects. A pattern that matches nothing is a target that fails, not a silent gap."""
    planned: dict[tuple[str, str], Planned] = {}
    for entry in sorted(policy.protect.volumes, key=lambda entry: entry.name is None):
        names = [entry.name] if entry.name else match_volumes(engine, entry.match or "")
        if not names:
            planned["volume", str(entry.match)] = Planned("volume", str(entry.match), problem="no volume matches")
        for name in names:
            missing = None if engine.volume(name) else "there is no such volume"
            found = Planned("volume", name, entry.exclude, entry.trusted_xattrs, missing)
            planned.setdefault(("volume", name), found)
    for image in policy.protect.images:
        missing = None if engine.image(image.ref) else "there is no such image"
        planned.setdefault(("image", image.ref), Planned("image", image.ref, problem=missing))
    return list(planned.values())


def choose(planned: Sequence[Planned], names: Sequence[str]) -> list[Planned]:
    """Return the targets of these names, all without names. Raises UsageError for a name that is none of them."""
    unknown = [name for name in names if name not in {target.name for target in planned}]
    if unknown:
        known = ", ".join(target.name for target in planned)
        raise UsageError(f"the policy has no target {unknown[0]}", hint=f"Its targets are: {known}.")
    return [target for target in planned if not names or target.name in names]


def backup(
    policy: Policy,
    access: Access,
    engine: Engine,
    *,
    now: datetime,
    names: Sequence[str] = (),
    seen: SeenRepositories,
    accept_repository: str | None = None,
    ask: AskPassphrase | None = None,
    progress: TargetProgress = lambda kind, name, count: None,
    renewed: Callable[[int], None] = lambda count: None,
) -> Snapshot:
    """Capture the policy's targets and commit one snapshot of all that could be captured.

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
    planned = choose(plan_targets(policy, engine), names)
    run_id = new_run_id(now, random_bytes(4))
    helper = None
    if any(target.kind == "volume" and not target.problem for target in planned):
        helper = ensure_helper(engine, policy.helper.image, run_id=run_id)
    keep_reserve(repository.storage)
    snapshots, damaged = readable_snapshots(repository)
    listed = [snapshot.id for snapshot in snapshots]
    listed += [error.object_name.removeprefix(SNAPSHOT_PREFIX) for error in damaged]
    seen.tell_if_set_back(repository, listed)
    record = Snapshot(run_id, format_time(now), host, policy.name, "ok", [], policy_text=policy.text, drkit=__version__)
    with (
        _standby(engine, helper, planned, run_id) as standby,
        RunWriter(repository, run_id, recipients, host=host) as writer,
        ChunkReader(repository) as reader,
    ):
        for error in writer.damage:
            log.warning("%s: what it lists is stored again; run drkit check", error.message)
        run = _Run(repository, reader, writer, engine, helper, standby, now, progress)
        for plan in planned:
            previous = previous_target(snapshots, host, policy.name, plan.kind, plan.name)
            record.targets.append(run.capture(plan, previous))
        failed = [target for target in record.targets if target.status == "failed"]
        record.status = "ok" if not failed else "failed" if len(failed) == len(record.targets) else "partial"
        if record.status != "failed":
            if helper is not None:
                record.helper = _store_helper(run, helper, snapshots)
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


def _standby(engine: Engine, helper: Helper | None, planned: Sequence[Planned], run_id: str) -> StandBy:
    """The helpers of all volumes that are there, in the order in which they are captured."""
    volumes = {target.name: target for target in planned if target.kind == "volume" and not target.problem}

    def start(name: str) -> HelperProcess:
        assert helper is not None  # made when a volume was planned
        trusted = volumes[name].trusted_xattrs
        return start_capture(engine, helper, name, run_id=run_id, trusted_xattrs=trusted, held=True)

    return StandBy(start, list(volumes))


@dataclass(frozen=True)
class _Run:
    repository: Repository
    reader: ChunkReader
    writer: RunWriter
    engine: Engine
    helper: Helper | None
    standby: StandBy
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
            target.status, target.error = "failed", error.message
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
        assert self.helper is not None  # made when a volume was planned
        if not self.helper.full:
            target.lost = list(STOCK_LOSSES)
        start = partial(self.standby.take, plan.name)
        capture_volume(self.shared(target), self.helper, start, target, Patterns(plan.exclude), previous)

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


def _store_helper(run: _Run, helper: Helper, snapshots: Sequence[Snapshot]) -> dict[str, object]:
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
