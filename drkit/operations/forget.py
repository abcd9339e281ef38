"""`drkit forget`: remove snapshot records by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from drkit.catalog.find import by_id, readable_snapshots
from drkit.catalog.shrunk import standing
from drkit.errors import DrkitError, RetentionRefused, StorageFull
from drkit.events import Warned
from drkit.operations.context import Context, found_at
from drkit.operations.remembered import remembered
from drkit.repository.absence import Expected, missing_in
from drkit.repository.forgot import note_forgotten, numbers_of
from drkit.repository.format.kinds import Status
from drkit.repository.format.snapshot import SNAPSHOT_PREFIX, Snapshot
from drkit.repository.lines import lines_of
from drkit.repository.repository import Repository


@dataclass
class ForgetResult:
    snapshots: list[str] = field(default_factory=list)
    """Those that were removed."""
    explained: list[str] = field(default_factory=list)
    """Those that were looked for, and are not any more: nothing was removed."""
    left: int = 0
    """Snapshots that are still there."""
    warnings: list[Warned] = field(default_factory=list)


def forget(context: Context, references: Sequence[str], *, yes_really: bool = False) -> ForgetResult:
    """Remove these records, and note on this host that it was on purpose. Raises what `forget_snapshots` raises."""
    repository = context.repository
    done = forget_snapshots(repository, references, yes_really=yes_really, known=remembered(context, repository))
    context.state.seen.note_removed(found_at(context.access, repository), [*done.snapshots, *done.explained])
    done.warnings = context.warnings
    return done


def forget_snapshots(
    repository: Repository, references: Sequence[str], *, yes_really: bool = False, known: Sequence[Expected] = ()
) -> ForgetResult:
    """Remove these records, or none if one of them must stay. Their data stays until the next prune.

    A note in the repository says first that it was on purpose; also of a record that is gone already and that another
    record names, or that is `known`, by its whole id. Raises RetentionRefused, unless `yes_really`, for such a record,
    for a snapshot that is the newest to hold some target as `ok`, for one that is pinned since the capture after it
    shrank, and for a damaged record, whose content is unknown.
    """
    snapshots, damaged = readable_snapshots(repository)
    repository.refuse_newer()
    broken = {error.object_name.removeprefix(SNAPSHOT_PREFIX) for error in damaged}
    lost = {each.record.id: each for each in missing_in(repository, snapshots, known)}
    gone = lost.keys() - broken
    chosen = list(
        dict.fromkeys(
            name if name in broken or name in gone else by_id(snapshots, name, damaged).id for name in references
        )
    )
    if not yes_really:
        for run_id in chosen:
            if run_id in gone:
                raise RetentionRefused(
                    f"snapshot {run_id} is {lost[run_id].problem}",
                    hint="Find out why. With --yes-really nobody looks for it any more.",
                )
        _refuse(snapshots, chosen, broken)
    numbers = numbers_of(snapshot for snapshot in snapshots if snapshot.id in chosen and snapshot.id not in gone)
    for run_id in chosen:
        if run_id in lost:
            numbers.setdefault(lost[run_id].owners[0], []).append(lost[run_id].record.sequence)
    try:
        note_forgotten(repository, numbers)
    except StorageFull:
        with repository.storage.released_reserve():
            note_forgotten(repository, numbers)
    done = ForgetResult(explained=[each for each in chosen if each in gone], left=len(snapshots) + len(damaged))
    for run_id in chosen:
        if run_id in gone:
            continue
        try:
            repository.storage.delete(SNAPSHOT_PREFIX + run_id)
        except StorageFull:
            with repository.storage.released_reserve():
                repository.storage.delete(SNAPSHOT_PREFIX + run_id)
        except DrkitError as error:
            error.add_note(f"forgotten before: {', '.join(done.snapshots) or 'none'}")
            raise
        done.snapshots.append(run_id)
        done.left -= 1
    repository.storage.keep_reserve()
    return done


def _refuse(snapshots: list[Snapshot], chosen: list[str], broken: set[str]) -> None:
    hint = "Add --yes-really to remove it all the same."
    for run_id in chosen:
        if run_id in broken:
            raise RetentionRefused(f"snapshot {run_id} is damaged: nobody can say what it holds", hint=hint)
    lines = lines_of(snapshots)
    newest = {
        (line.host, line.origins, line.policy, target.kind, target.name): snapshot.id
        for line in lines
        for snapshot in line.snapshots  # oldest first
        for target in snapshot.targets
        if target.status == Status.OK
    }
    for (host, _, _, kind, name), run_id in newest.items():
        if run_id in chosen:
            raise RetentionRefused(
                f"snapshot {run_id} is the newest that holds {kind} {name} of host {host} completely", hint=hint
            )
    for line in lines:
        for shrunk in standing(line.snapshots):
            for run_id in (each.id for each in line.snapshots if each.original == shrunk.pins and each.id in chosen):
                raise RetentionRefused(
                    f"snapshot {run_id} is pinned: {shrunk.title} of host {line.host} had lost most of what it held "
                    f"there when snapshot {shrunk.newest.snapshot.id} was made",
                    hint=f"If that is right: drkit accept {shrunk.name}, and the next drkit backup. {hint}",
                )
