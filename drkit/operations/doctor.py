"""`drkit doctor`: can everything work? Each part is tested on its own, so one run shows everything that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import chain
from pathlib import Path

from drkit.access.access import Access
from drkit.access.identities import key_file_problem
from drkit.access.opening import open_access, read_recipients
from drkit.catalog.find import readable_snapshots
from drkit.errors import DrkitError, IntegrityError, ObjectNotFound, StorageUnavailable, counted, reason
from drkit.events import Warned
from drkit.operations.apart import REPOSITORY, overlaps, passing, stores
from drkit.operations.context import Context
from drkit.operations.recipients import addition_hint, compared
from drkit.operations.remembered import remembered
from drkit.repository.absence import missing_in
from drkit.repository.format.snapshot import outline
from drkit.repository.repository import CONFIG, Repository
from drkit.storage import LOCK_HINT, Storage
from drkit.storage.probe import Capabilities, probe_storage
from drkit.targets import plan_targets
from drkit.targets.helper import ensure_helper, probe

SKEW_TOLERATED = timedelta(minutes=1)
SKEW_REFUSED = timedelta(minutes=10)  # S3 servers refuse requests from fifteen on


class Severity(StrEnum):
    """How bad a finding is, the worst last."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Finding:
    """What one test found. A failure has the exit code of its error."""

    check: str
    status: Severity
    detail: str
    hint: str | None = None
    exit_code: int = 0


@dataclass
class Diagnosis:
    """All findings, in the order of the tests."""

    findings: list[Finding] = field(default_factory=list)
    warnings: list[Warned] = field(default_factory=list)

    @property
    def status(self) -> Severity:
        order = list(Severity)
        return max((finding.status for finding in self.findings), key=order.index, default=Severity.OK)

    @property
    def exit_code(self) -> int:
        """The highest exit code of all findings, 0 without a failure: damage outranks an engine that is down."""
        return max((finding.exit_code for finding in self.findings), default=0)


def diagnose(context: Context) -> Diagnosis:
    """Test keys, storage, clock, repository, engine and helper. Leaves nothing behind but a helper image.

    Scratch objects are put, and removed, in a repository and in an empty place. What holds anything else is only read.
    """
    access = context.access
    found: list[Capabilities] = []
    return Diagnosis(
        [
            *_tried("keys", lambda: _keys(access)),
            *_tried("storage", lambda: _storage(context, found)),
            *_tried("repository", lambda: _repository(context, found)),
            *_tried("engine", lambda: _engine(context)),
            *_tried("helper", lambda: _helper(context)),
        ],
        context.warnings,
    )


def _tried(check: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except DrkitError as error:
        yield _failed(check, error)


def _ok(check: str, detail: str) -> Finding:
    return Finding(check, Severity.OK, detail)


def _warning(check: str, detail: str, hint: str) -> Finding:
    return Finding(check, Severity.WARNING, detail, hint)


def _failed(check: str, error: DrkitError) -> Finding:
    return Finding(check, Severity.FAILED, error.message, error.hint, error.exit_code)


def _keys(access: Access) -> Iterator[Finding]:
    for path in access.secret_files():
        problem = _unreadable(path) or key_file_problem(path)
        if problem and not path.exists():
            hint = "Put it there. Where there is no repository yet, drkit init makes an identity."
            yield _warning("keys", problem, hint)
        elif problem:
            yield _warning("keys", problem, f"Make it private and readable to drkit: chmod 600 {path}.")
        else:
            yield _ok("keys", f"{path} is private")
    if access.recipients_file is not None:
        count = len(read_recipients(access.recipients_file))
        yield _ok("keys", f"{access.recipients_file} names {counted(count, 'recipient')}")


def _unreadable(path: Path) -> str | None:
    try:
        path.open("rb").close()
    except OSError as error:
        return f"{path} cannot be read: {reason(error)}"
    return None


def _storage(context: Context, found: list[Capabilities]) -> Iterator[Finding]:
    """Test the storage, and add what it can do to `found`."""
    storage = open_access(context.access, events=context.events)
    foreign = _foreign(storage)
    if foreign is not None:
        yield _warning(
            "storage",
            f"{storage.url} holds no repository, but {foreign}: nothing was tried there",
            "Name the place of the repository, or an empty one.",
        )
        return
    found.append(probe_storage(storage))
    yield from _capabilities(storage, found[0])
    problem = storage.permission_problem()
    if problem:
        yield _warning("storage", problem, "Let drkit's user own the directory, with mode 0700.")
    yield from _clock(storage, context.now)


def _foreign(storage: Storage) -> str | None:
    """Return the name of something in a place that is not a repository's; None in a repository and an empty place."""
    try:
        storage.stat(CONFIG)
    except ObjectNotFound:
        keys = (info.key for info in storage.list(""))
        return next(chain(keys, storage.foreign_files()), None)
    return None


def _capabilities(storage: Storage, found: Capabilities) -> Iterator[Finding]:
    if found.unusable:
        hint = LOCK_HINT if found.locks is False else "Keep the repository elsewhere."
        yield _failed("storage", StorageUnavailable(f"{storage.url}: {found.unusable}", hint=hint))
        return
    yield _ok("storage", f"{storage.url}: puts, gets, ranges and listings work")
    if found.unsafe:
        hint = "Let one drkit at a time write there; a repository that drkit init creates there enforces that."
        yield _warning("storage", f"writers: one at a time, since {found.unsafe}", hint)
    else:
        yield _ok("storage", "writers: many at a time; in every round, one of eight racing writers won")
    if not found.deletes:
        hint = "Prune needs deletes, and so does the end of a run. Allow them for this key or for another host's."
        yield _warning("storage", "objects cannot be deleted with this key", hint)
    if found.locks:
        yield _ok("storage", "locks: a locked object could not be deleted")
    nature = found.nature
    known = {
        "file system": nature.file_system,
        "versioning": _words(nature.versioning),
        "object lock": _words(nature.object_lock),
    }
    yield _ok(
        "storage", ", ".join(f"{name}: {value}" for name, value in known.items() if value) or "nothing more known"
    )


def _words(value: bool | None) -> str | None:
    return None if value is None else "on" if value else "off"


def _clock(storage: Storage, now: datetime) -> Iterator[Finding]:
    there = storage.server_time()
    if there is None:
        return
    skew = abs(there - now)
    if skew <= SKEW_TOLERATED:
        yield _ok("clock", "agrees with the server's")
        return
    detail = f"differs from the server's by {skew.total_seconds():.0f} s"
    if skew > SKEW_REFUSED:
        yield _failed("clock", StorageUnavailable(detail, hint="Set this host's clock (`timedatectl`)."))
    else:
        yield _warning("clock", detail, "Set this host's clock (`timedatectl`).")


def _repository(context: Context, found: list[Capabilities]) -> Iterator[Finding]:
    repository = context.repository
    known = remembered(context, repository)
    snapshots, damaged = readable_snapshots(repository)
    mode = "one writer at a time" if repository.single_writer else "many writers"
    count = counted(len(snapshots) + len(damaged), "snapshot")
    yield _ok("repository", f"{repository.id.hex()} opens: {count}, {mode}")
    for error in damaged:
        yield _failed("repository", error)
    for each in missing_in(repository, [outline(snapshot) for snapshot in snapshots], known):
        if each.key not in {error.object_name for error in damaged}:
            yield _failed("repository", IntegrityError(f"{each.key} is {each.problem}", hint="Run drkit check."))
    if repository.damage:
        raise repository.damage[0]
    yield from _holders(context, repository)
    unsafe = found[0].unsafe if found else None
    if unsafe and not repository.single_writer:
        raise StorageUnavailable(
            f"the repository takes many writers, but its store does not: {unsafe}",
            hint="Let one drkit at a time use it, and copy it to a mirror created here with drkit init.",
        )


def _holders(context: Context, repository: Repository) -> Iterator[Finding]:
    """Whether a backup would go to everybody who opens the repository, and to whom else."""
    if context.access.recipients_file is None:
        return
    recipients = read_recipients(context.access.recipients_file)
    found = compared(context, repository, recipients)
    if found.loss is not None:
        raise found.loss
    if found.addition is not None:
        yield _warning("repository", found.addition, addition_hint(found))


def _places(context: Context) -> Iterator[Finding]:
    """Whether what drkit writes lies apart from what it protects, and lasts."""
    if context.policy is None:
        return
    for ours in stores(context):
        problem = passing(ours.path)
        if problem is not None and not (problem.in_memory and ours.what == REPOSITORY):  # which the storage told
            yield _warning("engine", problem.message(ours), "Keep it on a disk, best on another one than the data.")
    if not context.engine.is_local:
        yield _ok("engine", "it is not reached through a socket of this host: directories are not compared")
        return
    found = list(overlaps(context, plan_targets(context.policy, context.engine)))
    for each in found:
        yield _failed("engine", each.error)
    if not found:
        yield _ok("engine", "no protected volume holds the repository, or anything else that drkit writes")


def _engine(context: Context) -> Iterator[Finding]:
    version = context.engine.version()
    yield _ok("engine", f"Docker Engine {version.get('Version', 'of unknown version')} answers")
    yield from _places(context)


def _helper(context: Context) -> Iterator[Finding]:
    helper = ensure_helper(context.engine, context.state, context.helper_image)
    found = probe(context.engine, context.state, helper)
    lost = [name for name, kept in found.checks.items() if not kept]
    yield _ok("helper", f"{helper.image_id[:19]}: {helper.tar} from {helper.source}, over {found.transport}")
    if helper.full and not found.complete:
        raise DrkitError(f"the helper does not keep {', '.join(lost)}", hint="Build it again: drkit helper build.")
    if lost:
        yield _warning("helper", f"does not keep: {', '.join(lost)}", "See `drkit helper probe`.")
