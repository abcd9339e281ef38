"""`drkit doctor`: is everything able to work? Each part is tried on its own: one run shows all that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from drkit.access.access import Access, open_access, open_repository, read_recipients
from drkit.access.identities import key_file_problem
from drkit.engine.client import Engine
from drkit.engine.helper.image import ensure_helper
from drkit.engine.helper.probe import probe_helper
from drkit.errors import DrkitError, StorageUnavailable, reason
from drkit.policy import Policy
from drkit.storage import LOCK_HINT, Storage
from drkit.storage.probe import Capabilities, probe_storage

SKEW_TOLERATED = timedelta(minutes=1)
SKEW_REFUSED = timedelta(minutes=10)  # S3 servers refuse requests from fifteen on


@dataclass(frozen=True)
class Finding:
    """What one look showed. `status` is ok, warning or failed; a failure has the exit code of its error."""

    check: str
    status: str
    detail: str
    hint: str | None = None
    exit_code: int = 0


def diagnose(policy: Policy | None, access: Access, engine: Callable[[], Engine], *, now: datetime) -> list[Finding]:
    """Look at keys, storage, clock, repository, engine and helper. Leaves nothing behind but a helper image."""
    return [
        *_tried("keys", lambda: _keys(access)),
        *_tried("storage", lambda: _storage(access, now)),
        *_tried("repository", lambda: _repository(access)),
        *_tried("engine", lambda: _engine(engine())),
        *_tried("helper", lambda: _helper(engine(), policy.helper.image if policy else "auto")),
    ]


def worst(findings: list[Finding]) -> Finding | None:
    """The failure with the highest exit code, None without one: damage before an engine that is down, and so on."""
    failures = [finding for finding in findings if finding.status == "failed"]
    return max(failures, key=lambda finding: finding.exit_code, default=None)


def _tried(check: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except DrkitError as error:
        yield _failed(check, error)


def _ok(check: str, detail: str) -> Finding:
    return Finding(check, "ok", detail)


def _warning(check: str, detail: str, hint: str) -> Finding:
    return Finding(check, "warning", detail, hint)


def _failed(check: str, error: DrkitError) -> Finding:
    return Finding(check, "failed", error.message, error.hint, error.exit_code)


def _keys(access: Access) -> Iterator[Finding]:
    for path in access.secret_files():
        problem = _unreadable(path) or key_file_problem(path)
        if problem:
            yield _warning("keys", problem, f"Make it private and readable to drkit: chmod 600 {path}.")
        else:
            yield _ok("keys", f"{path} is private")
    if access.recipients_file is not None:
        count = len(read_recipients(access.recipients_file))
        yield _ok("keys", f"{access.recipients_file} names {count} recipient{'' if count == 1 else 's'}")


def _unreadable(path: Path) -> str | None:
    try:
        path.open("rb").close()
    except OSError as error:
        return f"{path} cannot be read: {reason(error)}"
    return None


def _storage(access: Access, now: datetime) -> Iterator[Finding]:
    storage = open_access(access)
    found = probe_storage(storage)
    yield from _capabilities(storage, found)
    problem = storage.permission_problem()
    if problem:
        yield _warning("storage", problem, "Let drkit's user own the directory, with mode 0700.")
    yield from _clock(storage, now)


def _capabilities(storage: Storage, found: Capabilities) -> Iterator[Finding]:
    if found.unusable:
        hint = LOCK_HINT if found.locks is False else "Keep the repository elsewhere."
        yield _failed("storage", StorageUnavailable(f"{storage.url}: {found.unusable}", hint=hint))
        return
    yield _ok("storage", f"{storage.url}: puts, gets, ranges and listings work")
    if found.unsafe:
        hint = "Let one drkit at a time write there; a repository made by drkit init on it sees to that."
        yield _warning("storage", f"writers: one at a time, since {found.unsafe}", hint)
    else:
        yield _ok("storage", "writers: many at a time, of eight that raced for a key one won, in every round")
    if not found.deletes:
        hint = "Deletes are needed by prune, and to end a run; allow them on this key or on another host's."
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


def _repository(access: Access) -> Iterator[Finding]:
    repository = open_repository(access)
    snapshots = sum(1 for _ in repository.storage.list("snapshots/"))
    mode = "one writer at a time" if repository.single_writer else "many writers"
    yield _ok("repository", f"{repository.id.hex()} opens: {snapshots} snapshots, {mode}")
    if repository.damage:
        raise repository.damage[0]
    if not repository.single_writer and (reason := probe_storage(repository.storage).unsafe):
        raise StorageUnavailable(
            f"the repository takes many writers, but its store does not: {reason}",
            hint="Let one drkit at a time work on it, and move it with a copy to a repository made here.",
        )


def _engine(engine: Engine) -> Iterator[Finding]:
    version = engine.version()
    yield _ok("engine", f"Docker Engine {version.get('Version', 'of unknown version')} answers")


def _helper(engine: Engine, image: str) -> Iterator[Finding]:
    helper = ensure_helper(engine, image)
    found = probe_helper(engine, helper)
    lost = [name for name, kept in found.checks.items() if not kept]
    yield _ok("helper", f"{helper.tar} from {helper.source}, over {found.transport}")
    if helper.full and not found.complete:
        raise DrkitError(f"the helper does not keep {', '.join(lost)}", hint="Build it anew: drkit helper build.")
    if lost:
        yield _warning("helper", f"does not keep: {', '.join(lost)}", "See `drkit helper probe`.")
