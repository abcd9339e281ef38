"""The loop and the commit of a backup."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from typing import NamedTuple

from drkit import __version__
from drkit.access.opening import read_recipients
from drkit.catalog.find import previous_target, readable_snapshots
from drkit.catalog.kept import still_kept
from drkit.engine.helper.image import HelperImage
from drkit.engine.helper.stored import helper_archive
from drkit.errors import CaptureFailed, DrkitError, RepositoryError, about
from drkit.events import Events
from drkit.host.installation import Installation
from drkit.host.seen import Found
from drkit.host.series import Series
from drkit.operations.context import Context, found_at
from drkit.operations.losses import Losses
from drkit.operations.policy import POLICY_DOCUMENT
from drkit.operations.recipients import require_recipients
from drkit.operations.remembered import remembered
from drkit.pipeline.capture import can_take_over, capture_stream, take_over
from drkit.pipeline.documents import write_documents
from drkit.pipeline.stream import iterator_readinto
from drkit.repository.absence import missing_in
from drkit.repository.format.compression import Compression
from drkit.repository.format.digest import keyed_digest
from drkit.repository.format.kinds import Kind, Status
from drkit.repository.format.limits import SEALED
from drkit.repository.format.names import plain_text
from drkit.repository.format.snapshot import SNAPSHOT_PREFIX, Documents, Snapshot, Target, format_time, stored_helper
from drkit.repository.locks import renew_locks
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter
from drkit.targets import KINDS
from drkit.targets.base import Capturing, Planned, Ready
from drkit.targets.pipes import capture_of

_ROOM = SEALED["snapshot"].payload // 2
"""Bytes of a record for what it says of its targets; the other half is for the chunks of their trees."""


class Ran(NamedTuple):
    """The record of a run, how many locks were renewed, what was lost since the run before, and what failed.

    `failures` has the error of each target that failed, by its title.
    """

    snapshot: Snapshot
    locks_renewed: int
    losses: list[DrkitError]
    failures: dict[str, DrkitError]


def run(context: Context, ready: Ready, *, accept_repository: str | None, chosen: bool = False) -> Ran:
    """Capture the targets that are `ready` and commit one snapshot of all that could be captured.

    `chosen`: these are not all targets of the policy. The record says `failed`, and nothing is stored, where all
    targets failed. Raises what `backup` raises.
    """
    clock = time.monotonic()
    policy, events = context.required_policy, context.events
    recipients = read_recipients(policy.repository.recipients_file)
    host = context.host
    repository = context.repository
    found = found_at(context.access, repository)
    seen = context.state.seen
    seen.require_same(found, accepted=accept_repository)
    holders = require_recipients(context, repository, recipients)
    repository.storage.keep_reserve()
    snapshots, damaged = _readable(context, repository, found)
    compression = Compression(policy.repository.compression)
    salt = context.state.documents.salt(repository.id)
    installation = Installation(context.state)
    series = Series(installation, repository, host, policy.name, events=events)
    before = series.prepare(snapshots)
    record = Snapshot(
        ready.run_id,
        format_time(context.now),
        host,
        policy.name,
        Status.OK,
        [],
        policy_digest=keyed_digest(salt, policy.text.encode()).hex(),
        retention=policy.retention.recorded() if policy.retention is not None else {},
        drkit=__version__,
        compression=compression,
        chosen=chosen,
    )
    with (
        RunWriter(repository, ready.run_id, recipients, host=host, compression=compression) as writer,
        ChunkReader(repository) as reader,
    ):
        _warn_of_damage(writer, events)
        capturing = Capturing(
            context.engine, repository, reader, writer, ready, salt, context.now, events, context.state.restores
        )
        accepted = installation.series(repository, host, policy.name).accepted
        losses = Losses(before, installation.origin, accepted, damaged, reader, events)
        failures = _capture_all(capturing, record, before, losses)
        if not chosen:
            record.targets += losses.gone(policy, context.engine, ready.targets)
        record.status = _status_of(record.targets)
        if record.status != Status.FAILED:
            if ready.helper is not None:
                record.helper = _keep_helper(capturing, ready.helper, before)
            documents = {POLICY_DOCUMENT: policy.text.encode()}
            record.documents = write_documents(writer, repository.meta.member, salt, documents)
            record.finished = format_time(context.now + timedelta(seconds=time.monotonic() - clock))
            series.commit(writer, record)
        context.warn_of_damage(told=writer.damage)
    for target in record.targets:
        if target.title in failures:  # with all that was said, for whoever looks at this run
            target.error = plain_text(failures[target.title].message)
    stored = [record] if record.status != Status.FAILED else []
    seen.remember(found, [*(each.id for each in [*snapshots, *stored]), *damaged], holders)
    if not stored:
        return Ran(record, 0, [], failures)
    return Ran(record, _renew_locks(context, record, [*snapshots, record]), losses.fresh, failures)


def _readable(context: Context, repository: Repository, found: Found) -> tuple[list[Snapshot], list[str]]:
    """Return the snapshots, oldest first, and the ids of those whose records are damaged. Warns of what is missing."""
    known = remembered(context, repository)
    snapshots, errors = readable_snapshots(repository)
    repository.refuse_newer()
    context.warn_of_damaged_records()
    damaged = [error.object_name.removeprefix(SNAPSHOT_PREFIX) for error in errors]
    listed = [*(snapshot.id for snapshot in snapshots), *damaged]
    lost = [each for each in missing_in(repository, snapshots, known) if each.record.id not in listed]
    for each in lost:
        context.events.warn(
            f"{each.key} is {each.problem}", hint="Find out who removed it, or whether the repository was set back."
        )
    context.state.seen.warn_if_set_back(found, [*listed, *(each.record.id for each in lost)])
    return snapshots, damaged


def _warn_of_damage(writer: RunWriter, events: Events) -> None:
    if writer.unreadable_mark is not None:
        events.warn(
            f"{writer.unreadable_mark.message}: this run relies on nothing older, and stores everything again",
            hint=writer.unreadable_mark.hint,
        )
    for error in writer.damage:
        events.warn(error.message, hint=error.hint)


def _capture_all(
    capturing: Capturing, record: Snapshot, before: Sequence[Snapshot], losses: Losses
) -> dict[str, DrkitError]:
    """Capture the targets into the record. Returns the errors of those that failed, by title."""
    failures: dict[str, DrkitError] = {}
    room = _ROOM
    for planned in capturing.ready.targets:
        previous = previous_target(before, planned.kind, planned.name)
        target, failure = _capture(capturing, planned, previous, room)
        losses.judge(target)
        record.targets.append(target)
        if failure is not None:
            failures[target.title] = failure
        room -= _size(target)
    return failures


def _status_of(targets: Sequence[Target]) -> Status:
    failed = sum(target.status == Status.FAILED for target in targets)
    if failed == len(targets):
        return Status.FAILED if targets else Status.OK
    return Status.OK if all(target.status == Status.OK for target in targets) else Status.PARTIAL


def _renew_locks(context: Context, record: Snapshot, snapshots: Sequence[Snapshot]) -> int:
    if not context.repository.storage.traits.locks:
        return 0
    try:
        kept = still_kept(snapshots, context.required_policy, record.host, context.now)
        return renew_locks(context.repository, kept)
    except DrkitError as error:
        error.message = f"snapshot {record.id} is stored, but older locks could not be renewed: {error.message}"
        raise


def _size(target: Target) -> int:
    """How many bytes a target takes in a record, without the chunks of its tree."""
    return len(json.dumps(asdict(replace(target, tree=[]))))


def _capture(
    capturing: Capturing, planned: Planned, previous: Target | None, room: int
) -> tuple[Target, DrkitError | None]:
    """Capture one target. Its own errors are in the result; those of the repository are raised.

    The target holds an error as it is recorded, where the meta key alone opens it. The error itself comes beside it.
    What a target says of itself may take `room` bytes of the record: text from a volume or an image fails its own one.
    """
    target = Target(planned.kind, planned.name, exclude=list(planned.exclude), trusted_xattrs=planned.trusted_xattrs)
    clock, stored = time.monotonic(), capturing.writer.bytes_stored
    failure = None
    try:
        if planned.problem:
            raise CaptureFailed(about(target.title, planned.problem), hint=planned.hint, said=planned.said)
        target.started = format_time(min(capturing.now, capturing.engine.time()))
        KINDS[planned.kind].capture(capturing, planned, target, previous)
        capturing.writer.flush()
        if (size := _size(target)) > room:
            target = Target(planned.kind, planned.name, started=target.started)
            raise CaptureFailed(f"{target.title}: its texts take {size} bytes, and the record has {room} left")
    except RepositoryError:
        raise
    except DrkitError as error:
        target.status, target.error = Status.FAILED, plain_text(error.own_words)
        target.tree, target.documents, target.files, target.bytes = [], Documents(), 0, 0
        failure = error
    target.seconds = round(time.monotonic() - clock, 3)
    target.bytes_stored = capturing.writer.bytes_stored - stored
    return target, failure


def _keep_helper(capturing: Capturing, helper: HelperImage, snapshots: Sequence[Snapshot]) -> dict[str, object]:
    """Keep the helper image in the repository: a bare host without a registry restores with it."""
    about = asdict(helper)
    for snapshot in reversed(snapshots):
        stored = stored_helper(snapshot)
        if snapshot.helper.get("image_id") == helper.image_id and stored.tree:
            shared = capture_of(capturing, stored)
            if can_take_over(shared, stored):
                take_over(shared, stored)
                return {**about, "tree": stored.tree}
    stored = Target(Kind.IMAGE, "helper")
    try:
        archive = iterator_readinto(helper_archive(capturing.engine, helper))
        capture_stream(capture_of(capturing, stored), archive)
    except RepositoryError:
        raise
    except DrkitError as error:
        capturing.events.warn(f"the helper image could not be kept in the snapshot: {error.message}")
        return about
    return {**about, "tree": stored.tree}
