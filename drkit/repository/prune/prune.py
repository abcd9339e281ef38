"""`Prune`: one prune of a repository, in the order of protocol.PRUNE.

What it plans before it stores its mark is only a guess. What goes is decided after the mark, from a second reading. A
prune can be cut short anywhere: the next one deletes what it leaves behind.
"""

from __future__ import annotations

import time
from collections.abc import Set
from dataclasses import dataclass, field

from drkit.errors import (
    AccessDenied,
    DrkitError,
    IntegrityError,
    ObjectNotFound,
    RepositoryLocked,
    RetentionRefused,
)
from drkit.events import LOGGED, Events
from drkit.repository.commit import session as session_module
from drkit.repository.commit.marks import MARK_PREFIX, condemned, put_mark, require_marks
from drkit.repository.commit.protocol import PRUNE, Actions, Step, perform
from drkit.repository.commit.records import fence_run, is_taken
from drkit.repository.commit.session import Session, list_sessions, remove_session, session_info
from drkit.repository.commit.single_writer import require_single_writer
from drkit.repository.forgot import note_forgotten
from drkit.repository.format.packs import pack_key
from drkit.repository.format.snapshot import SNAPSHOT_PREFIX, Snapshot
from drkit.repository.index import PackListing, put_index
from drkit.repository.keys.wraps import data_key_prefix
from drkit.repository.pack_reader import stored_packs
from drkit.repository.prune.confirm import key_ids, require_truth, unproven
from drkit.repository.prune.plan import Choose, PrunePlan, live_snapshots, plan_prune
from drkit.repository.prune.reindex import replace_index
from drkit.repository.prune.repack import Repacker
from drkit.repository.prune.survey import ID_SIZE, Survey, survey
from drkit.repository.repository import Repository

POLL_SECONDS = 2.0
_INTERVALS = 2
"""A run is fenced if no heartbeat has come for so many heartbeat intervals."""


class Clock:
    """The monotonic clock that a prune waits by; a test has its own."""

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@dataclass
class Done:
    """What a prune has done. Sizes in bytes."""

    forgotten: list[str] = field(default_factory=list)
    packs_deleted: int = 0
    bytes_deleted: int = 0
    packs_stored: int = 0
    bytes_stored: int = 0
    keys_deleted: int = 0
    fenced: list[str] = field(default_factory=list)
    spared: list[bytes] = field(default_factory=list)
    """Packs of the plan that turned out to be needed, or without which something might be lost."""
    damaged: list[IntegrityError] = field(default_factory=list)
    """Damage to packs whose chunks were to be moved: these packs stay."""
    denied: list[str] = field(default_factory=list)
    """Objects that the storage refused to delete now: a later prune tries again."""


@dataclass
class Options:
    """`max_repack`: bytes of chunks to move at most. `grace`: seconds to wait before the second reading."""

    max_repack: int
    yes_really: bool = False
    grace: float = 0.0


class Prune:
    """One prune. `run` takes the steps of protocol.PRUNE, each of which is a method."""

    def __init__(
        self,
        repository: Repository,
        prune_id: str,
        choose: Choose,
        options: Options,
        *,
        host: str,
        clock: Clock | None = None,
        events: Events = LOGGED,
    ) -> None:
        self._repository = repository
        self._storage = repository.storage
        self._id = prune_id
        self._choose = choose
        self._options = options
        self._clock = clock or Clock()
        self._events = events
        self._session = Session(self._storage, repository.objects, prune_id, host=host, prune=True)
        self._sessions: dict[str, frozenset[int]] = {}
        self._dead: frozenset[str] = frozenset()
        self._snapshots: list[Snapshot] = []
        self._doubtful: frozenset[bytes] = frozenset()
        self._moving: list[int] = []
        self._moved: list[PackListing] = []
        self._going: set[bytes] = set()
        self._survey: Survey
        self._committed = False
        self.plan: PrunePlan
        self.done = Done()
        self._actions: Actions = {
            Step.PLAN_PRUNE: self._plan_prune,
            Step.OPEN_SESSION: self._open_session,
            Step.STORE_MARK: self._store_mark,
            Step.LIST_SESSIONS: self._list_sessions,
            Step.SETTLE_SESSIONS: self._settle_sessions,
            Step.FORGET: self._forget,
            Step.WAIT_GRACE: self._wait_grace,
            Step.READ_MARKS: self._read_marks,
            Step.READ_SNAPSHOTS: self._read_snapshots,
            Step.READ_INDEX: self._read_index,
            Step.STORE_PACKS: self._store_packs,
            Step.STORE_INDEX: self._store_index,
            Step.LIST_PACKS: self._list_packs,
            Step.CREATE_RECORD: self._create_record,
            Step.REPLACE_INDEX: self._replace_index,
            Step.DELETE_PACKS: self._delete_packs,
            Step.DELETE_KEYS: self._delete_keys,
            Step.DELETE_MARKS: self._delete_marks,
            Step.DELETE_RECORD: self._delete_record,
            Step.CLOSE_SESSION: self._close_session,
        }

    def run(self) -> Done:
        """Prune. Whatever this raises, no snapshot has lost anything.

        Raises RetentionRefused for what must not go, RepositoryLocked when another prune is at work or has fenced this
        one, IntegrityError when the repository is too damaged to tell what is needed.
        """
        try:
            perform(self._actions, PRUNE)
        except (IntegrityError, ObjectNotFound) as error:
            fenced = not self._committed and is_taken(self._storage, self._id)
            self._withdraw(error)
            if fenced:  # the prune that fenced us goes on, and deletes what we wanted to read
                raise self._fenced() from error
            raise
        except BaseException as error:
            self._withdraw(error)
            raise
        return self.done

    def _fenced(self) -> RepositoryLocked:
        return RepositoryLocked(
            f"prune {self._id} was fenced by another one while it stood still", hint="Run drkit prune again."
        )

    def _withdraw(self, error: BaseException) -> None:
        """Remove our mark. Once something may be half deleted the mark stays, and the next prune deletes the rest."""
        try:
            self._storage.delete((SNAPSHOT_PREFIX if self._committed else MARK_PREFIX) + self._id)
        except DrkitError as second:
            error.add_note(f"what prune {self._id} leaves behind could not be removed either: {second}")
        finally:
            self._session.abandon(error)

    # -- what might go, and announcing it

    def _plan_prune(self) -> None:
        self.plan = plan_prune(self._repository, self._choose, self._options.max_repack)
        self.plan.refuse_too_much(yes_really=self._options.yes_really)

    def _open_session(self) -> None:
        self._session.open()
        self._dead = require_single_writer(
            self._storage, self._id, single_writer=self._repository.single_writer, events=self._events
        )

    def _store_mark(self) -> None:
        put_mark(self._storage, self._repository.objects, self._id, self.plan.ids)

    def _list_sessions(self) -> None:
        self._sessions = {run: beats for run, beats in list_sessions(self._storage).items() if run != self._id}

    def _settle_sessions(self) -> None:
        """Wait until every run that may use a condemned pack has ended; fence those without a heartbeat.

        Of two prunes the one with the later id withdraws, so that they never wait for each other.
        """
        patience = _INTERVALS * session_module.HEARTBEAT_SECONDS
        since = dict.fromkeys(self._sessions, self._clock.now())
        told: set[str] = set()
        while True:
            current = list_sessions(self._storage)
            now = self._clock.now()
            for run, beats in list(self._sessions.items()):
                if run not in current:
                    del self._sessions[run]
                elif current[run] != beats:
                    self._sessions[run], since[run] = current[run], now
                    self._give_way_to(run, current[run])
                elif now - since[run] > patience or run in self._dead:
                    self._fence(run)
                    del self._sessions[run]
                elif run not in told:
                    told.add(run)
                    host = session_info(self._storage, self._repository.objects, run, beats).host
                    self._events.note(f"waiting for run {run} of host {host or 'unknown'} to end")
            if not self._sessions:
                return
            self._clock.sleep(min(POLL_SECONDS, session_module.HEARTBEAT_SECONDS / 4))

    def _give_way_to(self, run: str, beats: frozenset[int]) -> None:
        info = session_info(self._storage, self._repository.objects, run, beats)
        if info.prune and run < self._id:
            raise RepositoryLocked(
                f"prune {run} of host {info.host} is at work in {self._storage.url}",
                hint="Wait until it has ended, then run drkit prune again.",
            )

    def _fence(self, run: str) -> None:
        """Take the key that the run needs to commit. If the key is taken, the run has committed or is fenced already.

        In single-writer mode the key decides nothing: we have waited for the run, and it counts as dead. The key still
        stops a run that wakes up later, since that looks before it writes, unless it looked just before this call.
        """
        if fence_run(self._storage, self._repository.objects, run, by=self._id):
            self.done.fenced.append(run)
            self._events.note(f"fenced run {run}: it showed no sign of life")
        remove_session(self._storage, run)

    def _forget(self) -> None:
        self._refuse_loss({info.key.removeprefix(SNAPSHOT_PREFIX) for info in self._storage.list(SNAPSHOT_PREFIX)})
        note_forgotten(self._repository, self.plan.numbers)
        for run_id in sorted(self.plan.forget):
            if self._delete(SNAPSHOT_PREFIX + run_id):
                self.done.forgotten.append(run_id)

    def _refuse_loss(self, there: Set[str]) -> None:
        lost = sorted(self.plan.snapshots - self.plan.forget - there)
        if lost:
            raise RetentionRefused(
                f"snapshot {lost[0]} was there when this prune began, and is not there now ({len(lost)} in all)",
                hint="If nobody has forgotten it, the storage lists too little; otherwise run drkit prune again.",
            )

    def _wait_grace(self) -> None:
        if self._options.grace:
            self._clock.sleep(self._options.grace)

    # -- what goes

    def _read_marks(self) -> None:
        marks = require_marks(self._storage, self._repository.objects)
        self._doubtful = condemned({prune: ids for prune, ids in marks.items() if prune != self._id})

    def _read_snapshots(self) -> None:
        self._snapshots = live_snapshots(self._repository)
        self._refuse_loss({snapshot.id for snapshot in self._snapshots})

    def _read_index(self) -> None:
        self._survey = self._second_survey()
        new_damage = {error.object_name for error in self._survey.damaged} - {
            error.object_name for error in self.plan.survey.damaged
        }
        if new_damage:
            raise IntegrityError(f"{min(new_damage)} is damaged", hint="Run drkit check.", object_name=min(new_damage))
        for number, pack in enumerate(self._survey.packs):
            if pack.pack_id not in self.plan.packs:
                continue
            if next(self._survey.needed(number), None) is None:
                self._going.add(pack.pack_id)
            elif pack.pack_id in self.plan.moving:
                self._moving.append(number)
            else:
                self.done.spared.append(pack.pack_id)
        self._going |= self._survey.unlisted & self.plan.packs
        self._spare_unproven()

    def _spare_unproven(self) -> None:
        """Of the packs that would go, leave those out whose chunks are not surely held by others."""
        require_truth(self._repository, self._survey, self.plan.packs & self._survey.stored.keys())
        moving = {self._survey.packs[number].pack_id: number for number in self._moving}
        spared = unproven(self._repository, self._survey, [*self._going, *moving])
        self._going -= spared
        self._moving = [number for pack_id, number in moving.items() if pack_id not in spared]
        self.done.spared += sorted(spared)

    def _second_survey(self) -> Survey:
        """Return the first survey if nothing has changed since: then the trees need not be read again."""
        first = self.plan.survey
        same = {snapshot.id for snapshot in self._snapshots} == self.plan.snapshots - self.plan.forget
        if same and self._doubtful <= self.plan.doubtful and first.is_current(self._storage):
            return first
        return survey(self._repository, self._snapshots, going=frozenset(self.plan.packs), doubtful=self._doubtful)

    def _store_packs(self) -> None:
        repacker = Repacker(self._storage, self._repository.objects, self._events)
        for number in self._moving:
            pack = self._survey.packs[number]
            try:
                repacker.move(pack.pack_id, {entry[:ID_SIZE] for entry in self._survey.needed(number)})
            except IntegrityError as error:
                if error.object_name != pack_key(pack.pack_id):
                    raise
                self.done.damaged.append(error)
            else:
                self._going.add(pack.pack_id)
        self._moved = repacker.finish()
        self.done.packs_stored = len(self._moved)
        self.done.bytes_stored = sum(pack.size for pack in self._moved)

    def _store_index(self) -> None:
        put_index(self._storage, self._repository.objects, (pack.packed() for pack in self._moved))

    def _list_packs(self) -> None:
        if not self._moved:
            return  # there is nothing to look for: the largest listing of all would be read in vain
        stored = stored_packs(self._storage)
        for pack in self._moved:
            if stored.get(pack.pack_id) != pack.size:
                key = pack_key(pack.pack_id)
                raise IntegrityError(f"{key}, which this prune stored, is not there", object_name=key)

    def _create_record(self) -> None:
        """From here on this prune deletes. If it was fenced before, it must not."""
        if not fence_run(self._storage, self._repository.objects, self._id, by=self._id):
            raise self._fenced()
        self._committed = True

    # -- deleting

    def _replace_index(self) -> None:
        replace_index(self._storage, self._repository.objects, self._survey, self._going, self._delete)

    def _delete_packs(self) -> None:
        for pack_id in sorted(self._going):
            size = self._survey.stored.get(pack_id, 0)
            if self._delete(pack_key(pack_id)):
                self.done.packs_deleted += 1
                self.done.bytes_deleted += size
            self._events.progress("prune", size)

    def _delete_keys(self) -> None:
        """Delete those wraps of keys without chunks that were there before the mark, then the labels of such keys.

        A run that still goes on has made its key after the mark: for all others we have waited.
        """
        used = self._survey.key_ids(frozenset(self._going))
        used |= {entry.key_id for pack in self._moved for entry in pack.entries}
        used |= key_ids(self._repository, self.done.spared)
        for wrap in self.plan.wraps:
            if wrap.key_id not in used and self._delete(data_key_prefix(wrap.key_id) + wrap.id.hex()):
                self.done.keys_deleted += 1
        for label in self.plan.labels:
            if label.key_id not in used:
                self._delete(label.key)

    def _delete_marks(self) -> None:
        """Delete our own mark and those of prunes that were cut short: what is left of the packs in them is needed.

        A mark stays as long as something in it could still be deleted. So a prune that wakes up after years finds
        everything it condemned deleted, or needed since before its mark.
        """
        if self.done.denied:
            return
        for prune in self.plan.marks:
            self._delete(MARK_PREFIX + prune)
        self._delete(MARK_PREFIX + self._id)

    def _delete_record(self) -> None:
        self._delete(SNAPSHOT_PREFIX + self._id)

    def _close_session(self) -> None:
        self._session.close()

    def _delete(self, key: str) -> bool:
        """Whether the object is gone. What the storage refuses to delete now (object lock) is left to a later prune."""
        try:
            self._storage.delete(key)
        except AccessDenied:
            self.done.denied.append(key)
            return False
        return True
