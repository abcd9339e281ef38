"""Volumes: captured by a helper that reads them, restored by one that writes, verified by capturing them again."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drkit.engine import containers, volumes
from drkit.engine.client import Engine
from drkit.engine.helper.image import HelperImage
from drkit.engine.helper.reading import start_capture
from drkit.engine.helper.writing import start_extract
from drkit.errors import CaptureFailed, DrkitError, IntegrityError, counted
from drkit.host.restore_journal import RestoreNote
from drkit.host.undisturbed import undisturbed
from drkit.pipeline.unentered import find_tests
from drkit.policy import Policy
from drkit.repository.format.fields import Check, a_name, an_object, any_text, build, optional
from drkit.repository.format.kinds import Kind
from drkit.repository.format.names import plain_text
from drkit.repository.format.snapshot import NameList
from drkit.targets.base import Capturing, Planned, Restored, RestoreOptions, RestorePlan, Restoring
from drkit.targets.doubts import doubts_after, doubts_before
from drkit.targets.helper import helper_for_restore

if TYPE_CHECKING:
    from drkit.host.state import HostState
    from drkit.pipeline.extract import Restore
    from drkit.pipeline.selection import Selection
    from drkit.repository.format.snapshot import Snapshot, Target
    from drkit.repository.reader import ChunkReader

DOCUMENT = "volume.json"
_STATE = ("Mountpoint", "Status", "UsageData")
"""What the engine says of a volume that changes while the volume stays the same."""
STOCK_LOSSES = (
    "xattrs, ACLs and file capabilities",
    "mtimes below a second",
    "holes of sparse files",
    "notice of files that changed while they were read",
)
NO_MATCH = "no volume matches"
_LIST = "List the volumes there are: docker volume ls."
TRUSTED_LOSS = "trusted.* xattrs, where files have them: set trusted_xattrs in the policy to keep them"
TRUSTED_NOT_WRITTEN = "trusted.* xattrs, where files have them: a helper that a snapshot brought must not write them"


def plan(policy: Policy, engine: Engine) -> list[Planned]:
    """Resolve names before patterns. A pattern that matches nothing is a target that fails, not a silent gap."""
    planned: dict[str, Planned] = {}
    for entry in sorted(policy.protect.volumes, key=lambda entry: entry.name is None):
        if entry.name:
            names = [entry.name]
        else:
            pattern = Planned(Kind.VOLUME, str(entry.match), problem=NO_MATCH, hint=_LIST)
            try:
                names = volumes.match(engine, pattern.name)
            except DrkitError as error:
                names, pattern = [], pattern.failing(engine, error)
            if not names:
                planned[pattern.name] = pattern
        for name in names:
            if name not in planned:
                planned[name] = _planned(engine, Planned(Kind.VOLUME, name, entry.exclude, entry.trusted_xattrs))
    return list(planned.values())


def _planned(engine: Engine, target: Planned) -> Planned:
    try:
        there = volumes.inspect(engine, target.name)
    except DrkitError as error:
        return target.failing(engine, error)
    if there is None:
        return replace(target, problem="there is no such volume", hint=_LIST)
    return replace(target, places=tuple(_places(there)))


def _places(document: Mapping[str, Any]) -> Iterator[Path]:
    options = document.get("Options") or {}
    for path in (document.get("Mountpoint"), options.get("device") if document.get("Driver") == "local" else None):
        if isinstance(path, str) and path.startswith("/"):
            yield Path(path)


def own_volume(engine: Engine, state: HostState, name: str) -> str | None:
    """Return why a volume is drkit's own and not data, as far as this host can prove that; None for any other.

    A label proves nothing: anybody can put drkit's on a production volume. This host's state must know the volume too,
    and a restored copy must not be in use by any container, or it has become production.
    """
    if state.scratch.made(name):
        return "drkit made it to try a helper out"
    restore_id = state.copies.made_by(name)
    if restore_id is None:
        return None
    document = volumes.inspect(engine, name)
    if (
        document is None
        or not volumes.is_restored(document, restore_id)
        or containers.find_users(engine, name, str(document.get("Mountpoint") or ""))
    ):
        return None
    return "a copy that drkit restored here, and no container uses it"


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
    doubts = list(doubts_before(capturing.engine, capturing.restores, document, helper.image_id))
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
    doubts += doubts_after(capturing.engine, target, document, helper.image_id)
    for doubt in doubts:
        target.make_partial(plain_text(doubt))


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
    unfinished = restoring.state.restores.unfinished(name)
    volumes.require_absent(restoring.engine, name, unless_restore=unfinished.restore_id if unfinished else None)
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
            f"an earlier restore into {name} was interrupted: if nothing else was written there since, what it wrote "
            "is removed, and the restore starts again"
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
    """Create the volume, write into it, verify it. On any failure the volume is removed again, if nothing else uses it.

    A volume that turns out to hold something is left as it is.
    """
    # Deferred: see base.py.
    from drkit.pipeline.extract import NotEmpty, extracted, verifier
    from drkit.repository.holders.custody import require_identity
    from drkit.repository.reader import ChunkReader

    engine, repository, journal = restoring.engine, restoring.repository, restoring.state.restores
    require_identity(repository, "restoring")
    original = _original(restoring, plan.target)
    assert original is not None  # there is an identity
    restore_id = secrets.token_hex(8)
    seed = secrets.randbits(32)
    helper = _restore_helper(restoring, plan, run_id=restore_id)
    unfinished = journal.unfinished(plan.name)
    if unfinished is not None:
        _remove_earlier(restoring, helper, plan, unfinished)
    started = time.monotonic()
    with ChunkReader(repository) as reader:
        work = _work(restoring, plan, helper, reader, restore_id, seed)
        journaled = RestoreNote(
            restore_id, helper.image_id, plan.snapshot.id, plan.target.name, tuple(plan.options.paths)
        )
        journal.begin(plan.name, journaled)
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
        except NotEmpty as error:
            journal.end(plan.name)
            raise DrkitError(
                f"volume {plan.name} holds {error.message}, although it is new: its driver gives existing data. "
                "Nothing is written, and the volume is left, since to remove it may remove what it holds",
                hint=f"See what it is: docker volume inspect {plan.name}. Restore beside it: --to-volume NAME.",
            ) from error
        except BaseException:
            with undisturbed():
                _undo(restoring, helper, plan, journaled)
            raise
        journal.end(plan.name)
    if plan.name != plan.target.name:
        _note_copy(restoring, plan.name, restore_id)
    ended = time.monotonic()
    phases = {"extract": round(written - started, 3), "verify": round(ended - written, 3)}
    lost = (TRUSTED_NOT_WRITTEN,) if plan.target.trusted_xattrs and not work.trusted_xattrs else ()
    return Restored(
        plan.name,
        verified.members,
        verified.bytes,
        round(ended - started, 3),
        phases,
        helper=helper,
        lost=lost,
        sample={"seed": seed, "files": verified.sampled},
    )


def _work(
    restoring: Restoring, plan: RestorePlan, helper: HelperImage, reader: ChunkReader, restore_id: str, seed: int
) -> Restore:
    # Deferred: see base.py.
    from drkit.pipeline.extract import Restore

    trusted_xattrs = plan.target.trusted_xattrs and helper.privileged
    asked: dict[str, Any] = {"run_id": restore_id, "trusted_xattrs": trusted_xattrs}
    capture = partial(start_capture, restoring.engine, helper, plan.name, held=True, **asked)
    return Restore(
        what=f"volume {plan.name}",
        start_extract=partial(start_extract, restoring.engine, helper, plan.name, **asked),
        start_sampled=partial(capture, sampled=True),
        start_capture=capture,
        full=helper.full,
        seed=seed,
        reader=reader,
        member_key=restoring.repository.meta.member,
        target=plan.target,
        selection=plan.selection,
        events=restoring.events,
        trusted_xattrs=trusted_xattrs,
    )


def _note_copy(restoring: Restoring, volume: str, restore_id: str) -> None:
    """Let no pattern of a policy take the copy for a new volume; see `own_volume`."""
    try:
        restoring.state.copies.note(volume, restore_id)
    except DrkitError as error:
        restoring.events.warn(f"{error.message}: a pattern that matches {volume} will back it up too", hint=error.hint)


def _undo(restoring: Restoring, helper: HelperImage, plan: RestorePlan, note: RestoreNote) -> None:
    """Remove a volume that is not verified. If that fails, the journal tells the next run."""
    # Deferred: see base.py.
    from drkit.targets.unfinished import remove_unfinished

    try:
        remove_unfinished(restoring, helper, plan.name, note, plan.target)
    except DrkitError as error:
        restoring.events.warn(
            f"not verified, and not removed: {error.message}",
            hint=error.hint or "Run the restore again.",
        )
    else:
        restoring.state.restores.end(plan.name)


def _remove_earlier(restoring: Restoring, helper: HelperImage, plan: RestorePlan, note: RestoreNote) -> None:
    """Remove what an interrupted restore into this volume left. Raises LeftAlone where somebody uses it since."""
    # Deferred: see base.py.
    from drkit.catalog.find import readable_snapshots
    from drkit.targets.unfinished import remove_unfinished

    snapshots, _ = readable_snapshots(restoring.repository)
    written = [
        target
        for snapshot in snapshots
        for target in snapshot.targets
        if (snapshot.id, target.kind, target.name) == (note.snapshot, Kind.VOLUME, note.target)
    ]
    remove_unfinished(restoring, helper, plan.name, note, written[0] if written else None)


def _restore_helper(restoring: Restoring, plan: RestorePlan, *, run_id: str) -> HelperImage:
    """Return a helper that can write a volume; see helper.py for the one that a snapshot may bring."""
    # Deferred: see base.py.
    from drkit.repository.format.snapshot import Snapshot, stored_helper
    from drkit.targets.pipes import archive_of

    def stored(image_id: str) -> Iterator[bytes] | None:
        others = (record for record in restoring.repository.snapshots() if isinstance(record, Snapshot))
        for snapshot in chain([plan.snapshot], others):
            if snapshot.helper.get("image_id") == image_id and snapshot.helper.get("tree"):
                return archive_of(restoring.repository, stored_helper(snapshot))
        return None

    return helper_for_restore(restoring.engine, restoring.state, plan.options.trust_helper, stored, run_id=run_id)
