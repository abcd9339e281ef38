"""The series of this installation: its records of one host and policy, signed and numbered.

The key and the numbers are in the state directory. A record signed with our key that we did not commit means that this
directory was copied, or set back: somebody else goes on with the same key. Then this installation makes a new key and
begins a new series, whose records name the old origin in `fork` until somebody says which is which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from drkit.errors import DrkitError, IntegrityError, ObjectNotFound
from drkit.events import LOGGED, Events
from drkit.host.installation import Installation, SeriesState
from drkit.host.throwaway import is_throwaway
from drkit.repository.absence import Expected
from drkit.repository.commit.records import get_snapshot
from drkit.repository.format.fields import MAX_NUMBER
from drkit.repository.format.record import encode_snapshot
from drkit.repository.format.sealing import SigningKey
from drkit.repository.format.snapshot import SNAPSHOT_PREFIX, Previous, Snapshot
from drkit.repository.lines import adopted_by, forks, lines_of, short
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter

SETTLE = (
    "On the machine that goes on: drkit host adopt. If both go on, on the one that began as a copy: drkit host fork. "
    "Then the next drkit backup of that machine settles it."
)


@dataclass(frozen=True)
class _Next:
    """Where the next record stands."""

    key: SigningKey
    state: SeriesState
    sequence: int
    previous: Previous | None


class Series:
    """One run's view of the series: `prepare` before anything is captured, then `commit`."""

    def __init__(
        self,
        installation: Installation,
        repository: Repository,
        host: str,
        policy: str,
        *,
        events: Events = LOGGED,
        throwaway: Callable[[Path], bool] = is_throwaway,
    ) -> None:
        self._installation = installation
        self._repository = repository
        self._host, self._policy = host, policy
        self._events = events
        self._throwaway = throwaway
        self._seen: list[Snapshot] = []
        self._listed: set[str] = set()

    def prepare(self, snapshots: Sequence[Snapshot]) -> list[Snapshot]:
        """Make this installation's key and state, and return what a capture may build upon, oldest first.

        `snapshots` are all that are listed, read before this call. Warns of every fork. Raises DrkitError where the
        state directory cannot be written, or is new in a container that does not keep it although another installation
        has snapshots of this host and policy.
        """
        self._listed = {each.id for each in snapshots}
        self._seen = [each for each in snapshots if (each.host, each.policy) == (self._host, self._policy)]
        with self._installation.held(self._repository, self._host, self._policy):
            if self._installation.key() is None:
                self._look_at_others()
            place = self._settle(self._seen)
        self._warn(place)
        signed = [each for each in self._seen if each.origin]
        if not signed:
            return self._seen
        return _in_order(signed, {place.key.public.hex(), *place.state.adopted})

    def commit(self, writer: RunWriter, record: Snapshot) -> None:
        """Give the record its place in the series, sign it and commit the run with it. Raises what the writer raises.

        A crash leaves either a number that no record has, or a record that the next run finds to be ours.
        """
        with self._installation.held(self._repository, self._host, self._policy):
            place = self._settle([*self._seen, *self._listed_since()])
            state = place.state
            record.origin, record.sequence, record.previous = state.origin, place.sequence, place.previous
            record.adopted, record.fork = list(state.adopted), state.fork
            this = Previous(record.id, record.sequence)
            state.pending = [*state.pending, this]
            self._installation.save(self._repository, state)
            writer.commit(record, encode_snapshot(record, place.key, repository_id=self._repository.id))
            state.newest, state.pending = this, []
            state.place = self._repository.config_mac.hex()
            try:
                self._installation.save(self._repository, state)
            except DrkitError as error:  # the next run finds the record of the pending commit
                self._events.warn(f"snapshot {record.id} is stored, but {error.message}", hint=error.hint)

    def _listed_since(self) -> list[Snapshot]:
        """Read the records that were stored since the run began."""
        found = []
        for info in list(self._repository.storage.list(SNAPSHOT_PREFIX)):
            if info.key.removeprefix(SNAPSHOT_PREFIX) in self._listed:
                continue
            try:
                snapshot = get_snapshot(self._repository.storage, self._repository.objects, info.key)
            except (ObjectNotFound, IntegrityError):  # check names what is damaged
                continue
            if snapshot is not None and (snapshot.host, snapshot.policy) == (self._host, self._policy):
                found.append(snapshot)
        return found

    def _settle(self, snapshots: Sequence[Snapshot]) -> _Next:
        """Find our place among these, which were listed before; with a new key if others use ours. Saves the state."""
        state = self._installation.series(self._repository, self._host, self._policy)
        key = self._installation.key() or self._installation.new_key("")
        origin = key.public.hex()
        _take_pending(state, snapshots, self._repository)
        copied = ""
        if state.origin and state.origin != origin:
            copied = state.origin  # found in another series, or the key was lost
        elif _is_used_elsewhere(state, snapshots, origin) or adopted_by(snapshots, self._host, self._policy, origin):
            copied = origin
            key = self._installation.new_key(origin)
            origin = key.public.hex()
        if copied:
            begin_again(state, copied)
        state.origin = origin
        self._installation.save(self._repository, state)
        place = self._next(key, state, snapshots)
        if place.sequence > MAX_NUMBER:
            raise DrkitError(
                f"the series of host {self._host}, policy {self._policy} has reached the last number there is, which "
                "no honest installation does",
                hint="Find out who holds the meta key, and forget the snapshot with that number.",
            )
        return place

    def _next(self, key: SigningKey, state: SeriesState, snapshots: Sequence[Snapshot]) -> _Next:
        ours = _in_order(snapshots, {state.origin, *state.adopted})
        before = [Previous(each.original, each.sequence) for each in ours[-1:]]
        numbers = [each.sequence for each in (*before, state.newest, *state.pending) if each]
        if state.newest and state.place == self._repository.config_mac.hex():
            before.append(state.newest)  # also where it is gone: then this is how others learn of it
        previous = max(before, key=lambda each: each.sequence, default=None)
        return _Next(key, state, 1 + max(numbers, default=0), previous)

    def _look_at_others(self) -> None:
        """Say what it means that this installation is new, while others have snapshots of the same host and policy."""
        others = [line for line in lines_of(self._seen) if line.signed]
        if not others:
            return
        what = f"{others[-1].title}, comes from another installation"
        directory = self._installation.directory.parent
        if self._throwaway(directory):
            raise DrkitError(
                f"{what}, and the state directory {directory} is new: it is in a container, and goes with it",
                hint="Keep it on a volume that DRKIT_STATE_DIR names. If this host was rebuilt, then say drkit host "
                "adopt; if it is another one, drkit host fork.",
            )
        self._events.warn(
            f"{what}: this one begins a series of its own",
            hint="If this host was rebuilt, let it go on with that series: drkit host adopt.",
        )

    def _warn(self, place: _Next) -> None:
        state = place.state
        if state.fork:
            self._events.warn(
                f"the state directory of this host was copied, or set back: records of origin {short(state.fork)} are "
                f"not its own, so it signs as origin {short(state.origin)} and has begun a series of its own",
                hint=SETTLE,
            )
        for fork in forks(self._seen):
            if fork.marked not in (state.origin, *state.adopted):  # else the record of this run settles or repeats it
                self._events.warn(f"host {fork.host}, policy {fork.policy}: {fork.why}", hint=SETTLE)


def newest_records(installation: Installation, repository: Repository) -> list[Expected]:
    """Return the newest record of each series that this installation committed to this very repository.

    Whoever looks for them reads this before the snapshots are listed. Raises DrkitError for a damaged file.
    """
    return [
        Expected(
            state.host,
            state.policy,
            (state.origin, *state.adopted),
            state.newest,
            "this host remembers it as the newest that it stored",
        )
        for state in installation.remembered(repository)
        if state.newest is not None
    ]


def begin_again(state: SeriesState, copied: str) -> None:
    """Begin a new series beside that of the origin `copied`."""
    state.fork = "" if copied in state.adopted else copied
    state.adopted = state.adopted if copied in state.adopted else []
    state.newest, state.pending, state.place = None, [], ""


def _in_order(snapshots: Iterable[Snapshot], origins: set[str]) -> list[Snapshot]:
    ours = [each for each in snapshots if each.origin in origins]
    return sorted(ours, key=lambda each: (each.sequence, each.original, each.id))


def _take_pending(state: SeriesState, snapshots: Iterable[Snapshot], repository: Repository) -> None:
    """Count a commit that a crash or a lost answer cut short as done if its record is there, however late it came."""
    there = {snapshot.original: snapshot for snapshot in snapshots if snapshot.origin == state.origin}
    for pending in state.pending:  # oldest first
        if pending.id in there:
            state.newest = pending
            state.place = "" if there[pending.id].copy_of else repository.config_mac.hex()
            state.pending = [each for each in state.pending if each.sequence > pending.sequence]


def _is_used_elsewhere(state: SeriesState, snapshots: Iterable[Snapshot], origin: str) -> bool:
    """Whether a record bears our signature that we did not commit. Older ones are not looked at: retention goes on."""
    newest = state.newest or Previous("", 0)
    return any(
        each.origin == origin and each.sequence >= newest.sequence and each.original != newest.id for each in snapshots
    )
