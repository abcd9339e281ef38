"""`drkit restore`: a volume, some of its paths, or an image, back from a snapshot.

Plan, create, write, verify; success is said only after the restored data was captured again and compared.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from drkit.engine import volumes
from drkit.engine.client import Engine
from drkit.engine.helper.image import HelperImage, ensure_helper, load_helper
from drkit.engine.image_identity import ImageIdentity, check_tags, load_image
from drkit.engine.labels import LABEL_RESTORE
from drkit.engine.volumes import VolumePlan, harmless_options
from drkit.errors import DrkitError
from drkit.host.restore_journal import RestoreJournal
from drkit.pipeline.extract import Restore, extracted, raw_stream, verifier
from drkit.pipeline.select import Patterns
from drkit.pipeline.selection import Selection, select_members, selected_members
from drkit.pipeline.stream import Progress
from drkit.repository.format.sealing import random_bytes
from drkit.repository.format.snapshot import Snapshot, Target
from drkit.repository.holders.custody import require_identity
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RestorePlan:
    """What a restore will do. `notes` are differences from the original that the operator must know."""

    snapshot: Snapshot
    target: Target
    volume: str
    options: VolumePlan
    selection: Selection | None
    files: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Restored:
    """What was restored, and verified. Seconds by phase: extract, verify."""

    name: str
    files: int
    bytes: int
    seconds: float
    phases: dict[str, float]


def plan_restore(
    engine: Engine,
    repository: Repository,
    snapshot: Snapshot,
    target: Target,
    *,
    to_volume: str | None = None,
    paths: Sequence[str] = (),
    same_device: bool = False,
    journal: RestoreJournal,
) -> RestorePlan:
    """Decide everything before anything is changed. Raises DrkitError when the volume exists or no path matches."""
    volume = to_volume or target.name
    there = volumes.inspect(engine, volume)
    unfinished = journal.unfinished(volume)
    if there is not None and (unfinished is None or (there.get("Labels") or {}).get(LABEL_RESTORE) != unfinished):
        raise DrkitError(
            f"volume {volume} exists, and a restore never writes into a volume that is there",
            hint=f"Restore beside it: --to-volume {volume}-restored; or remove it: docker volume rm {volume}.",
        )
    selection, files = None, target.files
    if paths:
        with ChunkReader(repository) as reader:
            selection = select_members(reader.members(target), Patterns(paths))
        files = len(selection.paths)
        if not files:
            raise DrkitError(
                f"no path in {target.kind} {target.name} matches {', '.join(paths)}",
                hint=f"See what there is: drkit ls {snapshot.id} {target.name}.",
            )
    source = target.source
    options = harmless_options(str(source.get("Driver") or "local"), source.get("Options"), same_device=same_device)
    notes = [f"not taken over from the original: {reason}" for reason in options.dropped]
    if target.reduced:
        notes += [f"not in this snapshot: {loss}" for loss in target.lost]
    if target.torn.count:
        notes.append(f"{target.torn.count} files changed while they were captured, {target.torn.names[0]} among them")
    if unfinished is not None:
        notes.append(
            f"an earlier restore into {volume} was interrupted: what it wrote is removed and the restore starts anew"
        )
    return RestorePlan(snapshot, target, volume, options, selection, files, tuple(notes))


def restore_volume(
    engine: Engine,
    repository: Repository,
    plan: RestorePlan,
    *,
    same_device: bool = False,
    journal: RestoreJournal,
    progress: Progress = lambda count: None,
) -> Restored:
    """Create the volume, write into it, verify it. On any failure the volume is removed again."""
    require_identity(repository, "restoring")
    restore_id = random_bytes(8).hex()
    helper = restore_helper(engine, repository, plan.snapshot, plan.target, run_id=restore_id)
    unfinished = journal.unfinished(plan.volume)
    if unfinished is not None:
        volumes.remove_restored(engine, plan.volume, restore_id=unfinished)
    started = time.monotonic()
    with ChunkReader(repository) as reader:
        restore = Restore(
            engine, helper, reader, repository.meta.member, plan.target, plan.selection, restore_id, progress
        )
        journal.begin(plan.volume, restore_id)
        try:
            made = volumes.create_restored(
                engine, plan.volume, plan.target.source, restore_id=restore_id, same_device=same_device
            )
            for reason in made.plan.dropped[len(plan.options.dropped) :]:
                log.warning("not taken over from the original: %s", reason)
            with verifier(restore, plan.volume) as verify, extracted(restore, plan.volume):
                written = time.monotonic()
                files, size = verify()
        except BaseException:
            _undo(engine, plan.volume, restore_id, journal)
            raise
        journal.end(plan.volume)
    ended = time.monotonic()
    phases = {"extract": round(written - started, 3), "verify": round(ended - written, 3)}
    return Restored(plan.volume, files, size, round(ended - started, 3), phases)


def _undo(engine: Engine, volume: str, restore_id: str, journal: RestoreJournal) -> None:
    """Remove what is not verified: it must not pass for restored. Where that fails, the journal tells the next run."""
    try:
        volumes.remove_restored(engine, volume, restore_id=restore_id)
    except DrkitError as error:
        log.warning("volume %s: not verified, and not removed (%s): run the restore again", volume, error.message)
    else:
        journal.end(volume)


def restore_helper(
    engine: Engine, repository: Repository, snapshot: Snapshot, target: Target, *, run_id: str
) -> HelperImage:
    """Return a helper that can write this target: one that is here, a new one, or the one kept in the repository."""
    try:
        return ensure_helper(engine, "auto", run_id=run_id)
    except DrkitError:
        tree = snapshot.helper.get("tree")
        if not tree or not repository.identities:
            raise
        stored = Target("image", "drkit helper", tree=tree)
        with ChunkReader(repository) as reader:
            everything = selected_members(lambda: reader.members(stored), None)
            return load_helper(engine, (bytes(piece) for piece in raw_stream(reader, everything)))


def restore_image(engine: Engine, repository: Repository, target: Target, progress: Progress) -> Restored:
    """Load an image, and check its id and tags afterwards. Raises DrkitError when a tag is another image's here."""
    require_identity(repository, "restoring")
    names = {item.name for item in fields(ImageIdentity)}
    source: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in target.source.items()
    }
    image = ImageIdentity(**{key: value for key, value in source.items() if key in names})
    check_tags(engine, image)
    started = time.monotonic()
    size = 0
    with ChunkReader(repository) as reader:

        def archive() -> Iterator[bytes]:
            nonlocal size
            for piece in raw_stream(reader, selected_members(lambda: reader.members(target), None)):
                size += len(piece)
                progress(len(piece))
                yield bytes(piece)

        load_image(engine, image, archive())
    seconds = round(time.monotonic() - started, 3)
    return Restored(target.name, target.files, size, seconds, {"load": seconds})
