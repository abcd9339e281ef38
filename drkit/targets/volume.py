"""Volumes: captured by a helper that reads them, restored by one that writes, verified by capturing them again."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from drkit.engine import volumes
from drkit.engine.client import Engine
from drkit.engine.helper.image import HelperImage, ensure_helper, load_helper
from drkit.engine.helper.launch import remove_helpers
from drkit.engine.helper.reading import start_capture
from drkit.engine.helper.writing import start_extract
from drkit.errors import CaptureFailed, DrkitError, IntegrityError, counted
from drkit.pipeline.unentered import find_tests
from drkit.policy import Policy
from drkit.repository.format.fields import Check, a_name, an_object, any_text, build, optional
from drkit.repository.format.kinds import Kind
from drkit.repository.format.names import plain_text
from drkit.repository.format.snapshot import NameList
from drkit.targets.base import Capturing, Planned, Restored, RestoreOptions, RestorePlan, Restoring

if TYPE_CHECKING:
    from drkit.pipeline.selection import Selection
    from drkit.repository.format.snapshot import Snapshot, Target

DOCUMENT = "volume.json"
_STATE = ("Mountpoint", "Status", "UsageData")
"""What the engine says of a volume that changes while the volume stays the same."""
STOCK_LOSSES = (
    "xattrs, ACLs and file capabilities",
    "mtimes below a second",
    "holes of sparse files",
    "notice of files that changed while they were read",
)
TRUSTED_LOSS = "trusted.* xattrs, where files have them: set trusted_xattrs in the policy to keep them"


def plan(policy: Policy, engine: Engine) -> list[Planned]:
    """Resolve names before patterns. A pattern that matches nothing is a target that fails, not a silent gap."""
    planned: dict[str, Planned] = {}
    for entry in sorted(policy.protect.volumes, key=lambda entry: entry.name is None):
        names = [entry.name] if entry.name else volumes.match(engine, entry.match or "")
        if not names:
            planned[str(entry.match)] = Planned(Kind.VOLUME, str(entry.match), problem="no volume matches")
        for name in names:
            missing = None if volumes.inspect(engine, name) else "there is no such volume"
            planned.setdefault(name, Planned(Kind.VOLUME, name, entry.exclude, entry.trusted_xattrs, missing))
    return list(planned.values())


def capture(capturing: Capturing, planned: Planned, target: Target, previous: Target | None) -> None:
    # Deferred: see base.py.
    from drkit.pipeline.capture import capture_directory
    from drkit.pipeline.select import Patterns
    from drkit.targets.pipes import capture_of, describe

    document = volumes.inspect(capturing.engine, planned.name)
    if document is None:
        raise CaptureFailed(f"volume {planned.name}: there is no such volume")
    target.source = _source(document)
    target.quiesce = "none"
    describe(capturing, target, DOCUMENT, {key: document[key] for key in document.keys() - set(_STATE)})
    target.lost = [] if planned.trusted_xattrs else [TRUSTED_LOSS]
    helper = capturing.ready.helper
    assert helper is not None  # exists if a volume was planned
    if not helper.full:
        target.lost = list(STOCK_LOSSES)
    start = partial(capturing.ready.standby.take, planned.name)
    start_again = partial(
        start_capture,
        capturing.engine,
        helper,
        planned.name,
        run_id=capturing.ready.run_id,
        trusted_xattrs=planned.trusted_xattrs,
        unentered=find_tests(planned.exclude),
    )
    capture_directory(capture_of(capturing, target), helper, start, start_again, Patterns(planned.exclude), previous)


def _source(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the record tells of a volume: identity and shape. The values of options and labels are data."""
    about = {key: plain_text(str(document.get(key) or ""), 255) for key in ("Name", "Driver", "Scope", "CreatedAt")}
    options = NameList.of(plain_text(name) for name in sorted(document.get("Options") or {}))
    labels = NameList.of(plain_text(name) for name in sorted(document.get("Labels") or {}))
    return about | {
        "OptionNames": {"count": options.count, "names": options.names},
        "LabelNames": {"count": labels.count, "names": labels.names},
    }


@dataclass(frozen=True)
class _Original:
    """What a restored volume is made like."""

    Driver: str | None = None
    Options: dict[str, str] | None = None
    Labels: dict[str, str] | None = None


def _original(restoring: Restoring, target: Target) -> _Original | None:
    """Return how the volume was made; None on a host without an identity, where that cannot be read.

    Raises IntegrityError for what no engine says of a volume.
    """
    if not target.documents.tree:  # of an earlier version
        described = target.source
    elif not restoring.repository.identities:
        return None
    else:
        # Deferred: see base.py.
        from drkit.targets.pipes import description_of

        described = description_of(restoring.repository, target, DOCUMENT)
    try:
        return build(_Original, _ORIGINAL, described)
    except ValueError as error:
        raise IntegrityError(
            f"{DOCUMENT} of {target.title} does not describe a volume: {error}",
            hint=f"Create a volume yourself, and fill it from drkit export SNAPSHOT --volume {target.name}.",
            object_name=DOCUMENT,
        ) from None


def _texts(value: Any) -> dict[str, str]:
    return {any_text(name): any_text(text) for name, text in an_object(value).items()}


_ORIGINAL: Mapping[str, Check] = {"Driver": optional(a_name), "Options": optional(_texts), "Labels": optional(_texts)}


def plan_restore(restoring: Restoring, snapshot: Snapshot, target: Target, options: RestoreOptions) -> RestorePlan:
    """Plan to create a new volume. Raises DrkitError if the volume exists, and if no path matches."""
    name = options.to or target.name
    unfinished = restoring.journal.unfinished(name)
    volumes.require_absent(restoring.engine, name, unless_restore=unfinished)
    selection = _selected(restoring, target, options) if options.paths else None
    files = target.files if selection is None else len(selection.paths)
    if not files and options.paths:
        raise DrkitError(
            f"no path in {target.title} matches {', '.join(options.paths)}",
            hint=f"See what there is: drkit ls {snapshot.id} {target.name}.",
        )
    original = _original(restoring, target)
    if original is None:
        details: dict[str, Any] = {"driver": target.source.get("Driver"), "options": None}
        notes = ["its driver options and labels are data, which this host cannot read: this plan leaves them out"]
    else:
        made = volumes.harmless_options(original.Driver or "local", original.Options, same_device=options.same_device)
        details = {"driver": made.driver, "options": made.options}
        notes = _not_taken_over(made.dropped)
    notes += [f"not in this snapshot: {loss}" for loss in target.lost if target.reduced or loss != TRUSTED_LOSS]
    if target.torn.count:
        notes.append(
            f"{counted(target.torn.count, 'file')} changed during the capture, {target.torn.names[0]} among them"
        )
    if unfinished is not None:
        notes.append(
            f"an earlier restore into {name} was interrupted: what it wrote is removed and the restore starts again"
        )
    return RestorePlan(snapshot, target, options, name, files, details, tuple(notes), selection)


def _not_taken_over(reasons: Iterable[str]) -> list[str]:
    return [f"not taken over from the original: {reason}" for reason in reasons]


def _selected(restoring: Restoring, target: Target, options: RestoreOptions) -> Selection:
    # Deferred: see base.py.
    from drkit.pipeline.selection import select_paths
    from drkit.repository.reader import ChunkReader

    with ChunkReader(restoring.repository) as reader:
        return select_paths(reader, target, options.paths)


def restore(restoring: Restoring, plan: RestorePlan) -> Restored:
    """Create the volume, write into it, verify it. On any failure the volume is removed again."""
    # Deferred: see base.py.
    from drkit.pipeline.extract import Restore, extracted, verifier
    from drkit.repository.holders.custody import require_identity
    from drkit.repository.reader import ChunkReader

    engine, repository, journal = restoring.engine, restoring.repository, restoring.journal
    require_identity(repository, "restoring")
    original = _original(restoring, plan.target)
    assert original is not None  # there is an identity
    restore_id = secrets.token_hex(8)
    seed = secrets.randbits(32)
    helper = _restore_helper(restoring, plan.snapshot, run_id=restore_id)
    unfinished = journal.unfinished(plan.name)
    if unfinished is not None:
        _remove(engine, plan.name, unfinished)
    started = time.monotonic()
    with ChunkReader(repository) as reader:
        process: dict[str, Any] = {"run_id": restore_id, "trusted_xattrs": plan.target.trusted_xattrs}
        work = Restore(
            f"volume {plan.name}",
            partial(start_extract, engine, helper, plan.name, **process),
            partial(start_capture, engine, helper, plan.name, held=True, sampled=True, **process),
            partial(start_capture, engine, helper, plan.name, held=True, **process),
            helper.full,
            seed,
            reader,
            repository.meta.member,
            plan.target,
            plan.selection,
            restoring.events,
        )
        journal.begin(plan.name, restore_id)
        try:
            made = volumes.create_restored(
                engine, plan.name, asdict(original), restore_id=restore_id, same_device=plan.options.same_device
            )
            for note in _not_taken_over(made.plan.dropped):
                if note not in plan.notes:
                    restoring.events.warn(note)
            with verifier(work) as verify, extracted(work):
                written = time.monotonic()
                verified = verify()
        except BaseException:
            _undo(restoring, plan.name, restore_id)
            raise
        journal.end(plan.name)
    ended = time.monotonic()
    phases = {"extract": round(written - started, 3), "verify": round(ended - written, 3)}
    sample = {"seed": seed, "files": verified.sampled}
    return Restored(plan.name, verified.members, verified.bytes, round(ended - started, 3), phases, sample)


def _undo(restoring: Restoring, volume: str, restore_id: str) -> None:
    """Remove a volume that is not verified. If that fails, the journal tells the next run."""
    try:
        _remove(restoring.engine, volume, restore_id)
    except DrkitError as error:
        restoring.events.warn(
            f"volume {volume}: not verified, and not removed: {error.message}", hint="Run the restore again."
        )
    else:
        restoring.journal.end(volume)


def _remove(engine: Engine, volume: str, restore_id: str) -> None:
    remove_helpers(engine, restore_id)
    volumes.remove_restored(engine, volume, restore_id=restore_id)


def _restore_helper(restoring: Restoring, snapshot: Snapshot, *, run_id: str) -> HelperImage:
    """Return a helper that can write a volume: one on this engine, a new one, or the one kept in the repository."""
    try:
        return ensure_helper(restoring.engine, "auto", run_id=run_id)
    except DrkitError:
        if not snapshot.helper.get("tree") or not restoring.repository.identities:
            raise
    # Deferred: see base.py.
    from drkit.repository.format.snapshot import stored_helper
    from drkit.targets.pipes import archive_of

    return load_helper(restoring.engine, archive_of(restoring.repository, stored_helper(snapshot)))
