"""`drkit doctor`: can everything work? Each part is tested on its own, so one run shows everything that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from drkit.access.access import Access
from drkit.access.identities import key_file_problem
from drkit.access.opening import open_access, read_recipients
from drkit.catalog.find import readable_snapshots
from drkit.engine.client import Engine
from drkit.errors import DrkitError, IntegrityError, StorageUnavailable, counted, reason
from drkit.events import Warned
from drkit.operations.context import Context
from drkit.operations.remembered import remembered
from drkit.repository.absence import missing_in
from drkit.repository.format.snapshot import outline
from drkit.storage import LOCK_HINT, Storage
from drkit.storage.probe import Capabilities, probe_storage
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
    """Test keys, storage, clock, repository, engine and helper. Leaves nothing behind but a helper image."""
    access = context.access
    found: list[Capabilities] = []
    return Diagnosis(
        [
            *_tried("keys", lambda: _keys(access)),
            *_tried("storage", lambda: _storage(context, found)),
            *_tried("repository", lambda: _repository(context, found)),
            *_tried("engine", lambda: _engine(context.engine)),
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
        if problem:
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
    found.append(probe_storage(storage))
    yield from _capabilities(storage, found[0])
    problem = storage.permission_problem()
    if problem:
        yield _warning("storage", problem, "Let drkit's user own the directory, with mode 0700.")
    yield from _clock(storage, context.now)


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
    unsafe = found[0].unsafe if found else None
    if unsafe and not repository.single_writer:
        raise StorageUnavailable(
            f"the repository takes many writers, but its store does not: {unsafe}",
            hint="Let one drkit at a time use it, and copy it to a mirror created here with drkit init.",
        )


def _engine(engine: Engine) -> Iterator[Finding]:
    version = engine.version()
    yield _ok("engine", f"Docker Engine {version.get('Version', 'of unknown version')} answers")


def _helper(context: Context) -> Iterator[Finding]:
    helper = ensure_helper(context.engine, context.state, context.helper_image)
    found = probe(context.engine, context.state, helper)
    lost = [name for name, kept in found.checks.items() if not kept]
    yield _ok("helper", f"{helper.image_id[:19]}: {helper.tar} from {helper.source}, over {found.transport}")
    if helper.full and not found.complete:
        raise DrkitError(f"the helper does not keep {', '.join(lost)}", hint="Build it again: drkit helper build.")
    if lost:
        yield _warning("helper", f"does not keep: {', '.join(lost)}", "See `drkit helper probe`.")
