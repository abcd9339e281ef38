"""One backup run's writes: session, data key, packs, index, and the commit.

The order makes every crash harmless; it is that of protocol.BACKUP.
"""

from __future__ import annotations

import mmap
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from drkit.errors import IntegrityError, RepositoryLocked
from drkit.repository.commit.marks import read_marks
from drkit.repository.commit.protocol import OPENING, STORING, perform
from drkit.repository.commit.session import Session
from drkit.repository.commit.single_writer import require_sole_writer
from drkit.repository.format.packs import DATA_MAGIC, TREE_MAGIC, Entry, PackBuilder, pack_buffer, pack_key
from drkit.repository.format.sealing import random_bytes
from drkit.repository.format.snapshot import Snapshot, create_record, encode_snapshot, is_taken
from drkit.repository.index import MAX_ENTRIES, Index, PackListing, load_index, put_index, stored_packs
from drkit.repository.keys.labels import Holder
from drkit.repository.keys.wraps import KEY_ID_SIZE, TREE_KEY_ID, data_key_prefix, new_key, put_key
from drkit.repository.repository import Repository
from drkit.tuning import keep_freed_memory

WORKERS = 2
IN_FLIGHT = 8 * 1024 * 1024
"""Bytes of chunks that wait for the workers. With it, three packs and Python itself a run takes 230 MB."""


@dataclass
class _Sealing:
    chunk_id: bytes
    key_id: bytes
    size: int
    sealed: Future[bytearray]


class RunWriter:
    """Writes one run. A context manager: left without `commit` it has changed nothing that a snapshot shows.

    Not for several threads at once: one caller, its own workers behind it.
    """

    def __init__(
        self, repository: Repository, run_id: str, recipients: Sequence[str], *, host: str, verb: str = "backup"
    ) -> None:
        """Open the run's session and read the index. `verb` is what to run again after an error."""
        keep_freed_memory()
        self._again = f"drkit {verb} again"
        self._repository = repository
        self._storage = repository.storage
        self.run_id = run_id
        self._recipients = recipients
        self._session = Session(self._storage, repository.objects, run_id, host=host)
        self._condemned: frozenset[bytes] = frozenset()
        self._index = Index()
        self.damage: list[IntegrityError] = []
        try:
            perform(self, OPENING)
        except BaseException as error:
            self._session.abandon(error)
            raise
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="drkit-seal")
        # Packs on their way to the storage while the next one is filled; each more is 33 MB of memory.
        self._parallel_puts = self._storage.traits.parallel_puts
        self._uploader = ThreadPoolExecutor(self._parallel_puts, thread_name_prefix="drkit-put")
        self._sealing: deque[_Sealing] = deque()
        self._in_flight = 0
        self._new: set[bytes] = set()
        self._builders: dict[bytes, PackBuilder] = {}
        # By kind of pack: few trees fill a buffer, and one that did, for data, would be memory for nothing.
        self._buffers: defaultdict[bytes, list[mmap.mmap]] = defaultdict(list)
        self._uploads: deque[Future[PackListing]] = deque()
        self._unindexed: list[PackListing] = []
        self._used: set[bytes] = set()
        self._data_key_id: bytes | None = None
        self._snapshot: Snapshot | None = None
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
        """Store a chunk as it was sealed elsewhere, unless the repository has it; whether it was stored.

        It is not opened, so the caller answers for its bytes, and for a wrap of its key that is there before.
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
        """Whether a prune was about to delete this wrap of a data key when the run began."""
        return wrap_id in self._condemned

    def chunk_size(self, chunk_id: bytes) -> int | None:
        """Return the size in bytes of a chunk that a tree may refer to, None when there is none."""
        location = self._index.get(chunk_id)
        return None if location is None else location.size

    def use(self, chunk_ids: Iterable[bytes]) -> None:
        """Refer to chunks that are in the repository. Raises IntegrityError for one that is not."""
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
        """Make durable and list in the index what was put so far, though no snapshot refers to it yet."""
        self.flush()
        self._store_index()

    def commit(self, snapshot: Snapshot) -> None:
        """Make everything durable, then create the snapshot record: on return the snapshot exists.

        Raises RepositoryLocked when a prune fenced this run; IntegrityError when a referenced pack is not there.
        """
        if snapshot.id != self.run_id:
            raise ValueError(f"run {self.run_id} cannot commit the record of run {snapshot.id}")
        self._snapshot = snapshot
        perform(self, STORING)

    # -- the steps of protocol.BACKUP

    def _open_session(self) -> None:
        self._session.open()
        require_sole_writer(self._storage, self.run_id, single_writer=self._repository.single_writer)

    def _read_marks(self) -> None:
        marks = read_marks(self._storage, self._repository.objects)
        self._condemned = frozenset().union(*marks.values())

    def _read_index(self) -> None:
        self._index, self.damage = load_index(self._storage, self._repository.objects, without=self._condemned)

    def _store_packs(self) -> None:
        self.flush()
        if self._new:  # an earlier failure of this run, which its caller passed over
            raise IntegrityError(f"{len(self._new)} chunks of this run were not stored", hint=f"Run {self._again}.")

    def _store_index(self) -> None:
        put_index(self._storage, self._repository.objects, self._unindexed)
        self._unindexed.clear()

    def _list_packs(self) -> None:
        """Raise IntegrityError unless one listing shows every referenced pack in its full size."""
        stored = stored_packs(self._storage)
        missing = [pack_id for pack_id in self._used if stored.get(pack_id) != self._index.pack_sizes[pack_id]]
        if missing:
            if is_taken(self._storage, self.run_id):
                raise self._fenced()
            key = pack_key(missing[0])
            raise IntegrityError(
                f"{len(missing)} packs that this run refers to are missing or cut short, {key} among them",
                hint=f"Run drkit check, then {self._again}.",
                object_name=key,
            )

    def _create_record(self) -> None:
        assert self._snapshot is not None
        body = self._repository.objects.seal("snapshot", self.run_id.encode(), encode_snapshot(self._snapshot))
        if not create_record(self._storage, self.run_id, body):
            raise self._fenced()

    def _fenced(self) -> RepositoryLocked:
        silent = f" (its last sign of life failed: {self._session.problem})" if self._session.problem else ""
        return RepositoryLocked(
            f"the run {self.run_id} was fenced by a prune while it stood still{silent}", hint=f"Run {self._again}."
        )

    def _close_session(self) -> None:
        self._session.close()

    # -- what stands behind them

    @property
    def _data_key(self) -> bytes:
        """The id of this run's data key. It is made, and its wraps are stored, before the first chunk under it."""
        if self._data_key_id is None:
            key_id, key = random_bytes(KEY_ID_SIZE), new_key()
            repository, holders = self._repository, [Holder(recipient) for recipient in self._recipients]
            put_key(self._storage, repository.objects, data_key_prefix(key_id), repository.id, key, holders)
            self._repository.keys.add(key_id, key)
            self._data_key_id = key_id
        return self._data_key_id

    def _put(self, data: bytes, *, tree: bool) -> bytes:
        chunk_id = self._repository.chunks.chunk_id(data, tree=tree)
        location = self._index.get(chunk_id)
        if location is not None:
            self._used.add(location.pack_id)
        elif chunk_id not in self._new:
            self._new.add(chunk_id)
            key_id = TREE_KEY_ID if tree else self._data_key
            sealed = self._workers.submit(self._repository.chunks.seal, chunk_id, data, key_id)
            self._sealing.append(_Sealing(chunk_id, key_id, len(data), sealed))
            self._in_flight += len(data)
            while self._in_flight > IN_FLIGHT or (self._sealing and self._sealing[0].sealed.done()):
                self._take_sealed()
        return chunk_id

    def _take_sealed(self) -> None:
        """Move the oldest sealed chunk into its pack: packs keep the order of the stream, as restores read it."""
        oldest = self._sealing.popleft()
        self._in_flight -= oldest.size
        self._add(oldest.chunk_id, oldest.key_id, oldest.sealed.result(), oldest.size)

    def _add(self, chunk_id: bytes, key_id: bytes, sealed: bytearray | memoryview, size: int) -> None:
        magic = TREE_MAGIC if key_id == TREE_KEY_ID else DATA_MAGIC
        builder = self._builders.get(magic)
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
        self._index.add(pack)
        self._used.add(pack.pack_id)
        self._new.difference_update(entry.chunk_id for entry in pack.entries)
        self._unindexed.append(pack)
        if sum(len(listing.entries) for listing in self._unindexed) >= MAX_ENTRIES:
            self._store_index()
