"""What a backup run writes: session, data key, packs, index, and the commit.

It keeps the order of protocol.BACKUP, which makes a crash at any point harmless.
"""

from __future__ import annotations

import mmap
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

from drkit.errors import AccessDenied, IntegrityError, RepositoryLocked
from drkit.events import LOGGED, Events
from drkit.repository.commit.marks import condemned, read_marks
from drkit.repository.commit.protocol import OPENING, STORING, Actions, Step, perform
from drkit.repository.commit.records import commit_run, is_taken
from drkit.repository.commit.session import Session
from drkit.repository.commit.single_writer import require_single_writer
from drkit.repository.format.compression import Compression
from drkit.repository.format.packs import DATA_MAGIC, TREE_MAGIC, Entry, PackBuilder, pack_buffer, pack_key
from drkit.repository.format.record import encode_snapshot
from drkit.repository.format.snapshot import Snapshot
from drkit.repository.index import Index, IndexBatch, PackListing
from drkit.repository.index_loading import index_for_writing
from drkit.repository.keys.identity import shown_recipient
from drkit.repository.keys.labels import Holder
from drkit.repository.keys.wraps import TREE_KEY_ID, data_key_prefix, new_key, open_wrap, put_key
from drkit.repository.pack_reader import stored_packs
from drkit.repository.repository import Repository
from drkit.tuning import keep_freed_memory

WORKERS = 2
IN_FLIGHT = 4 * 1024 * 1024
"""Bytes of chunks that wait for the workers. With these, three packs and Python itself, a run takes 230 MB."""


@dataclass
class _Sealing:
    chunk_id: bytes
    key_id: bytes
    size: int
    sealed: Future[bytearray]


class RunWriter:
    """Writes one run. A context manager: unless `commit` was called, leaving it changes nothing that a snapshot shows.

    One thread at a time may call it; it has worker threads of its own.
    """

    def __init__(
        self,
        repository: Repository,
        run_id: str,
        recipients: Sequence[str],
        *,
        host: str,
        verb: str = "backup",
        events: Events = LOGGED,
        compression: Compression = Compression.DEFAULT,
    ) -> None:
        """Open the run's session and read the index. Errors advise the user to run `verb` again.

        Chunks that the repository has stay as they are, however they were compressed.

        Raises RepositoryLocked where another run works and the store takes one writer at a time, and DrkitError for
        what a newer drkit stored (see Repository.refuse_newer).
        """
        repository.refuse_newer()
        keep_freed_memory()
        self._again = f"drkit {verb} again"
        self._repository = repository
        self._storage = repository.storage
        self.run_id = run_id
        self._recipients = recipients
        self._events = events
        self._compression = compression
        self._session = Session(self._storage, repository.objects, run_id, host=host)
        self._condemned: frozenset[bytes] = frozenset()
        self._index = Index()
        self.unreadable_mark: IntegrityError | None = None
        """A mark that does not open. What it condemns is unknown: this run relies on nothing that it has not stored."""
        self.damage: list[IntegrityError] = []
        """Index objects that cannot be read: this run stores again what only they list."""
        self._actions: Actions = {
            Step.OPEN_SESSION: self._open_session,
            Step.READ_MARKS: self._read_marks,
            Step.READ_INDEX: self._read_index,
            Step.STORE_PACKS: self._store_packs,
            Step.STORE_INDEX: self._store_index,
            Step.LIST_PACKS: self._list_packs,
            Step.CREATE_RECORD: self._create_record,
            Step.CLOSE_SESSION: self._close_session,
        }
        try:
            with self._telling_a_fence():
                perform(self._actions, OPENING)
        except BaseException as error:
            self._session.abandon(error)
            raise
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="drkit-seal")
        # Packs on their way to the storage while the next one is filled; each takes 33 MB of memory.
        self._parallel_puts = self._storage.traits.parallel_puts
        self._uploader = ThreadPoolExecutor(self._parallel_puts, thread_name_prefix="drkit-put")
        self._sealing: deque[_Sealing] = deque()
        self._in_flight = 0
        self._new: set[bytes] = set()
        self._builders: dict[bytes, PackBuilder] = {}
        # One list for each kind of pack: trees seldom fill a buffer, and one that data has filled would waste memory.
        self._buffers: defaultdict[bytes, list[mmap.mmap]] = defaultdict(list)
        self._uploads: deque[Future[PackListing]] = deque()
        self._unindexed = IndexBatch(self._storage, repository.objects)
        self._used: set[bytes] = set()
        self._data_key_id: bytes | None = None
        self._record = b""
        self.bytes_stored = 0
        """Bytes of sealed chunks this run added."""

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._workers.shutdown(wait=True, cancel_futures=True)
        self._uploader.shutdown(wait=True, cancel_futures=True)
        if error is None:
            self._close_session()
        else:
            self._session.abandon(error)

    def put_data(self, data: bytes) -> bytes:
        """Store a chunk of data unless the repository has it; return its id."""
        return self._put(data, tree=False)

    def put_tree(self, data: bytes) -> bytes:
        """Store a chunk of a tree unless the repository has it; return its id."""
        return self._put(data, tree=True)

    def put_sealed(self, entry: Entry, sealed: memoryview) -> bool:
        """Store a chunk as it was sealed elsewhere, unless the repository has it. Returns whether it was stored.

        It is not opened: the caller must have checked its bytes, and stored a wrap of its key before.
        """
        location = self._index.get(entry.chunk_id)
        if location is not None:
            self._used.add(location.pack_id)
        if location is not None or entry.chunk_id in self._new:
            return False
        self._new.add(entry.chunk_id)
        self._add(entry.chunk_id, entry.key_id, sealed, entry.size)
        return True

    def is_condemned(self, wrap_id: bytes) -> bool:
        """Whether a prune may have been about to delete this wrap of a data key when the run began."""
        return self.unreadable_mark is not None or wrap_id in self._condemned

    def chunk_size(self, chunk_id: bytes) -> int | None:
        """Return the size in bytes of a chunk that a tree may refer to, None if there is no such chunk."""
        location = self._index.get(chunk_id)
        return None if location is None else location.size

    def use(self, chunk_ids: Iterable[bytes]) -> None:
        """Refer to chunks that the repository has. Raises IntegrityError for one that it has not."""
        for chunk_id in chunk_ids:
            location = self._index.get(chunk_id)
            if location is None:
                raise IntegrityError(f"chunk {chunk_id.hex()} is in no index", hint="Run drkit check.")
            self._used.add(location.pack_id)

    def flush(self) -> None:
        """Wait until every chunk put so far is durable in a pack."""
        while self._sealing:
            self._take_sealed()
        for magic in list(self._builders):
            self._close_pack(magic)
        while self._uploads:
            self._take_upload()

    def keep(self) -> None:
        """Make durable what was put so far and list it in the index, although no snapshot refers to it yet."""
        self.flush()
        self._store_index()

    def commit(self, snapshot: Snapshot, payload: bytes | None = None) -> None:
        """Make everything durable, then create the snapshot record. On return the snapshot exists, and was seen.

        `payload` is the record as it is to be stored, such as a signed one. Raises RepositoryLocked when a prune has
        fenced this run, IntegrityError when a referenced pack, or anything else that this run stored, is not there.
        """
        if snapshot.id != self.run_id:
            raise ValueError(f"run {self.run_id} cannot commit the record of run {snapshot.id}")
        self._record = payload or encode_snapshot(snapshot)
        perform(self._actions, STORING)

    # -- the steps of protocol.BACKUP

    def _open_session(self) -> None:
        self._session.open()
        require_single_writer(
            self._storage, self.run_id, single_writer=self._repository.single_writer, events=self._events
        )

    def _read_marks(self) -> None:
        marks, self.unreadable_mark = read_marks(self._storage, self._repository.objects)
        self._condemned = condemned(marks)

    def _read_index(self) -> None:
        if self.unreadable_mark is None:
            self._index, self.damage = index_for_writing(
                self._storage, self._repository.objects, without=self._condemned
            )

    def _store_packs(self) -> None:
        self.flush()
        if self._new:  # an earlier call failed, and the caller went on
            raise IntegrityError(f"{len(self._new)} chunks of this run were not stored", hint=f"Run {self._again}.")

    def _store_index(self) -> None:
        with self._telling_a_fence():
            self._unindexed.store()

    def _list_packs(self) -> None:
        """Raise IntegrityError unless one listing shows every referenced pack at its full size."""
        stored = stored_packs(self._storage)
        missing = [pack_id for pack_id in self._used if stored.get(pack_id) != self._index.pack_sizes[pack_id]]
        if missing:
            key = pack_key(missing[0])
            with self._telling_a_fence():
                raise IntegrityError(
                    f"{len(missing)} packs that this run refers to are missing or cut short, {key} among them",
                    hint=f"Run drkit check, then {self._again}.",
                    object_name=key,
                )

    def _create_record(self) -> None:
        if not commit_run(self._storage, self._repository.objects, self.run_id, self._record):
            raise self._fenced()

    @contextmanager
    def _telling_a_fence(self) -> Iterator[None]:
        """Explain what is missing, if it is, by a prune that fenced this run and deletes what it stored."""
        try:
            yield
        except IntegrityError as error:
            if is_taken(self._storage, self.run_id):
                raise self._fenced() from error
            raise

    def _fenced(self) -> RepositoryLocked:
        silent = f" (its last heartbeat failed: {self._session.problem})" if self._session.problem else ""
        return RepositoryLocked(
            f"the run {self.run_id} was fenced by a prune while it stood still{silent}", hint=f"Run {self._again}."
        )

    def _close_session(self) -> None:
        self._session.close()

    # -- the way of a chunk into a pack, and of a pack into the storage

    @property
    def _data_key(self) -> bytes:
        """The id of this run's data key. The key is made, and its wraps are stored, before the first chunk under it."""
        if self._data_key_id is None:
            repository, holders = self._repository, [Holder(recipient) for recipient in self._recipients]
            key = new_key()
            key_id = repository.meta.data_key_id(key)
            with self._telling_a_fence():
                wraps = put_key(self._storage, repository.objects, data_key_prefix(key_id), repository.id, key, holders)
                self._require_opens(wraps, key)
            self._repository.keys.add(key_id, key)
            self._data_key_id = key_id
        return self._data_key_id

    def _require_opens(self, wraps: Sequence[str], key: bytes) -> None:
        """Raise AccessDenied where identities are at hand, and none opens what this run is about to seal.

        The wraps are read back from the storage. A write-only host has no identity: there nobody can try.
        """
        identities = self._repository.identities
        if not identities:
            return
        for wrap in wraps:
            opened = open_wrap(self._storage, wrap, self._repository.id, identities)
            if opened is not None and opened[1] == key:
                return
        raise AccessDenied(
            f"the identity {', '.join(shown_recipient(each.recipient) for each in identities)} does not open the "
            f"data key of this run, which is wrapped for {', '.join(map(shown_recipient, self._recipients))}",
            hint="Name the public key of the identity in recipients_file.",
        )

    def _put(self, data: bytes, *, tree: bool) -> bytes:
        chunk_id = self._repository.chunks.chunk_id(data, tree=tree)
        location = self._index.get(chunk_id)
        if location is not None:
            self._used.add(location.pack_id)
        elif chunk_id not in self._new:
            self._new.add(chunk_id)
            key_id = TREE_KEY_ID if tree else self._data_key
            sealed = self._workers.submit(self._repository.chunks.seal, chunk_id, data, key_id, self._compression)
            self._sealing.append(_Sealing(chunk_id, key_id, len(data), sealed))
            self._in_flight += len(data)
            while self._in_flight > IN_FLIGHT or (self._sealing and self._sealing[0].sealed.done()):
                self._take_sealed()
        return chunk_id

    def _take_sealed(self) -> None:
        """Move the oldest sealed chunk into its pack: packs keep the order of the stream, in which restores read it."""
        oldest = self._sealing.popleft()
        self._in_flight -= oldest.size
        self._add(oldest.chunk_id, oldest.key_id, oldest.sealed.result(), oldest.size)

    def _add(self, chunk_id: bytes, key_id: bytes, sealed: bytearray | memoryview, size: int) -> None:
        magic = TREE_MAGIC if key_id == TREE_KEY_ID else DATA_MAGIC
        builder = self._builders.get(magic)
        if builder is not None and not builder.has_room(len(sealed)):
            self._close_pack(magic)
            builder = None
        if builder is None:
            free = self._buffers[magic]
            builder = self._builders[magic] = PackBuilder(magic, free.pop() if free else pack_buffer())
        builder.add(chunk_id, key_id, sealed, size)
        self.bytes_stored += len(sealed)
        if builder.full:
            self._close_pack(magic)

    def _close_pack(self, magic: bytes) -> None:
        while len(self._uploads) >= self._parallel_puts:
            self._take_upload()
        self._uploads.append(self._uploader.submit(self._store_pack, magic, self._builders.pop(magic)))

    def _store_pack(self, magic: bytes, builder: PackBuilder) -> PackListing:
        pack_id = builder.finish(self._repository.objects)
        self._storage.put(pack_key(pack_id), builder.body)
        self._buffers[magic].append(builder.buffer)
        return PackListing(pack_id, builder.size, builder.entries)

    def _take_upload(self) -> None:
        pack = self._uploads.popleft().result()
        listing = pack.packed()
        self._index.add(listing)
        self._used.add(pack.pack_id)
        self._new.difference_update(entry.chunk_id for entry in pack.entries)
        self._unindexed.add(listing)
        if self._unindexed.full:
            self._store_index()
