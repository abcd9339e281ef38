"""Opening and creating a repository: its config, its keys, and all that depends on them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from drkit.errors import AccessDenied, DrkitError, IntegrityError, ObjectExists, ObjectNotFound, RepositoryNotFound
from drkit.repository.chunks import ChunkSealer
from drkit.repository.commit.records import list_snapshots
from drkit.repository.directories import Directories
from drkit.repository.format import limits
from drkit.repository.format.chunker import ALGORITHM, DATA_CHUNKS, TREE_CHUNKS, ChunkerParameters
from drkit.repository.format.digest import keyed_digest
from drkit.repository.format.fields import a_list, a_name
from drkit.repository.format.objects import ObjectSealer
from drkit.repository.format.packs import ENTRY, Entry, pack_key
from drkit.repository.format.requires import made_by_newer, unknown
from drkit.repository.format.sealing import random_bytes
from drkit.repository.format.snapshot import SNAPSHOT_PREFIX, Snapshot, format_time
from drkit.repository.index import Index, Location, PackedListing
from drkit.repository.index_loading import add_unlisted_packs, index_for_reading, lie
from drkit.repository.keys import wraps as keys
from drkit.repository.keys.identity import Identity
from drkit.repository.keys.labels import Holder
from drkit.repository.keys.wraps import KeyRing, MetaKeys
from drkit.storage.acknowledged import put_seen
from drkit.storage.base import Storage

FORMAT = "drkit repository"
VERSION = 1
CONFIG = "config"


@dataclass(frozen=True)
class Config:
    """The immutable object `config`. `mac` is a keyed BLAKE3 of the canonical JSON of the other fields."""

    repository_id: bytes
    fields: dict[str, Any]
    mac: bytes

    def canonical(self) -> bytes:
        return json.dumps(self.fields, sort_keys=True, separators=(",", ":")).encode()

    def is_made_with(self, meta_key: bytes) -> bool:
        """Whether this is the meta key of the repository: only who holds it can make the `mac`."""
        meta = MetaKeys.derive(meta_key, self.repository_id)
        return keyed_digest(meta.config, self.canonical()) == self.mac


def _chunker_fields(parameters: ChunkerParameters) -> dict[str, Any]:
    return {
        "algorithm": ALGORITHM,
        "minimum": parameters.minimum,
        "average": parameters.average,
        "maximum": parameters.maximum,
    }


def read_config(storage: Storage) -> Config:
    """Read `config`. Raises RepositoryNotFound, IntegrityError, or DrkitError for another format version."""
    damaged = f"{CONFIG} of {storage.url} is damaged"
    cure = "Restore the object config from a copy of the repository."
    try:
        body = storage.get(CONFIG, limit=limits.CONFIG)
    except ObjectNotFound:
        raise RepositoryNotFound(
            f"{storage.url} holds no drkit repository", hint="Check the URL, or create one with drkit init."
        ) from None
    except IntegrityError as error:
        raise IntegrityError(f"{damaged}: {error.message}", hint=cure, object_name=CONFIG) from None
    try:
        fields = json.loads(body)
        mac = bytes.fromhex(fields.pop("mac"))
        repository_id = bytes.fromhex(fields["id"])
        name, version = fields["format"], fields["version"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{damaged}: {error}", hint=cure, object_name=CONFIG) from None
    if name != FORMAT or not isinstance(version, int) or len(repository_id) != 16:
        raise IntegrityError(f"{damaged}: it does not describe a drkit repository", hint=cure, object_name=CONFIG)
    if version != VERSION:
        raise DrkitError(
            f"{storage.url} is a repository of format {version}, this drkit reads format {VERSION}",
            hint="Install a drkit that knows this format; nothing was changed.",
        )
    try:
        a_list(a_name, fields.get("requires", []))
    except ValueError:
        raise IntegrityError(f"{damaged}: requires is not a list of names", hint=cure, object_name=CONFIG) from None
    return Config(repository_id, fields, mac)


def put_config(storage: Storage, meta: MetaKeys, fields: dict[str, Any]) -> None:
    """Create `config`. From then on the storage holds a repository."""
    mac = keyed_digest(meta.config, Config(b"", fields, b"").canonical())
    body = json.dumps({**fields, "mac": mac.hex()}, sort_keys=True, indent=1).encode() + b"\n"
    limits.require_within(limits.CONFIG, len(body), CONFIG)
    put_seen(storage, CONFIG, body)


def require_no_repository(storage: Storage) -> None:
    """Raise ObjectExists if the storage holds a repository already."""
    try:
        storage.stat(CONFIG)
    except ObjectNotFound:
        return
    raise ObjectExists(f"{storage.url} holds a repository already", hint="Use it, or name another place.")


class Repository:
    """An open repository. With the meta key it reads structure, with identities also data."""

    def __init__(self, storage: Storage, config: Config, meta_key: bytes, identities: Sequence[Identity]) -> None:
        self.single_writer = config.fields.get("writers", "many") != "many"
        """Whether the store takes one writer at a time (commit/single_writer.py), also where a setting is unknown."""
        self.storage = storage = storage.single_writer() if self.single_writer else storage
        self.id = config.repository_id
        self.meta = MetaKeys.derive(meta_key, self.id)
        if keyed_digest(self.meta.config, config.canonical()) != config.mac:
            raise IntegrityError(
                f"{CONFIG} of {storage.url} does not authenticate: it was changed after init",
                hint="Restore the object config from a copy of the repository.",
                object_name=CONFIG,
            )
        self.is_mirror = config.fields.get("mirror", False) is not False
        """Whether copies may be made into it. No prune deletes data keys there, see mirror/mirror.py."""
        self.chunkers = config.fields.get("chunkers", {})
        self.config_mac = config.mac
        """Different for every other repository, even one with the same id: the meta key goes into it."""
        self.identities = tuple(identities)
        self.derived_key_ids = config.fields.get("key_ids") == "derived"
        """Whether the id of every data key tells the right key. Else, for keys of an earlier version, a chunk does."""
        self.keys = KeyRing(
            storage,
            self.id,
            self.meta,
            identities,
            derived=self.derived_key_ids,
            opens_chunk=lambda key_id, key: self.opens_chunk(key_id, key) is True,
        )
        self.objects = ObjectSealer(self.meta.objects, self.id)
        self.chunks = ChunkSealer(self.meta, self.keys, self.id)
        self.directories = Directories(storage, self.objects)
        """What packs themselves say: it counts where the index lies."""
        self._index: Index | None = None
        self._index_is_complete = False
        self._correcting = threading.RLock()
        self.damage: list[IntegrityError] = []
        """Damage that was found while index and chunks were read, and could be worked around. Each is there once."""
        self._noted: set[str] = set()
        self.damaged_records: dict[str, str] = {}
        """What is wrong with records that were read, by storage key."""
        self.newer: dict[str, list[str]] = {}
        """What objects that were read require, and this version does not know, by storage key."""
        self.note_requirements(CONFIG, config.fields.get("requires", []))

    @classmethod
    def open(cls, storage: Storage, identities: Sequence[Identity]) -> Repository:
        """Open with identities. Raises AccessDenied when none of them opens the meta key."""
        config = read_config(storage)
        wrong = []
        for name, meta_key in keys.opened_keys(storage, keys.META_PREFIX, config.repository_id, identities):
            if config.is_made_with(meta_key):
                return cls(storage, config, meta_key, identities)
            wrong.append(name)
        raise IntegrityError(
            f"{CONFIG} of {storage.url} does not authenticate with any key that the identity opens: it was changed "
            f"after init, or {wrong[0]} holds a key that somebody put there",
            hint="Restore config and keys/meta/ from a copy of the repository. No pack is to blame.",
            object_name=CONFIG,
        )

    @classmethod
    def open_write_only(cls, storage: Storage, meta_key_text: str, *, source: str) -> Repository:
        """Open with a meta key file alone, for backups and structure: no data can be read."""
        config = read_config(storage)
        return cls(storage, config, keys.parse_meta_key(meta_key_text, config.repository_id, source=source), ())

    @classmethod
    def create(
        cls,
        storage: Storage,
        identity: Identity,
        recipients: Sequence[str],
        *,
        now: datetime,
        single_writer: bool = False,
    ) -> Repository:
        """Make an empty repository. `config` comes last: until it exists there is no repository.

        `single_writer` is for a store that does not decide atomically who creates a key. Raises ObjectExists when a
        repository is there already, which stays as it is.
        """
        require_no_repository(storage)
        if single_writer:
            storage = storage.single_writer()
        if identity.recipient not in recipients:
            raise AccessDenied(
                f"the identity {identity.recipient} is not among the recipients of the new repository",
                hint="Add it to recipients_file.",
            )
        repository_id, meta_key = random_bytes(16), keys.new_key()
        fields = {
            "format": FORMAT,
            "version": VERSION,
            "id": repository_id.hex(),
            "created": format_time(now),
            "chunkers": {"data": _chunker_fields(DATA_CHUNKS), "tree": _chunker_fields(TREE_CHUNKS)},
            "key_ids": "derived",
            **({"writers": "single"} if single_writer else {}),
        }
        meta = MetaKeys.derive(meta_key, repository_id)
        holders = [Holder(recipient) for recipient in recipients]
        sealer = ObjectSealer(meta.objects, repository_id)
        keys.put_key(storage, sealer, keys.META_PREFIX, repository_id, meta_key, holders)
        put_config(storage, meta, fields)
        return cls.open(storage, [identity])

    @property
    def index(self) -> Index:
        """The whole index, read at first use. For reading only: a writer must count on less, see index_for_writing."""
        if self._index is None:
            self._index, damage = index_for_reading(self.storage, self.objects)
            self.note(damage)
        return self._index

    @property
    def index_is_read(self) -> bool:
        return self._index is not None

    def reload_index(self) -> Index:
        """Read the index again: a prune may have moved chunks since."""
        self._index, self._index_is_complete = None, False
        self.directories.expect_changes()
        return self.index

    def look_in_packs(self, chunk_id: bytes) -> Location | None:
        """Return where packs' own directories place a chunk that the index does not know.

        First in packs that no index object lists: those of interrupted runs, or of lost index objects. Then in all.
        """
        with self._correcting:
            index = self.index
            if not self._index_is_complete:
                self._index_is_complete = True
                self.note(add_unlisted_packs(index, self.storage, self.objects))
            if chunk_id not in index:
                for pack in self.directories.holders(chunk_id)[:1]:
                    self.note([lie(pack.pack_id)])
                    index.correct(pack)
            return index.get(chunk_id)

    def note_found_elsewhere(
        self,
        chunk_id: bytes,
        pack: PackedListing,
        entry: Entry,
        *,
        lying: PackedListing | None,
        error: IntegrityError | AccessDenied,
    ) -> None:
        """Remember that a chunk was read from this entry of a pack, and the damage that was worked around.

        `lying` is what the pack where the chunk should lie says itself, if the index says something else of it;
        otherwise `error` tells what is wrong there.
        """
        with self._correcting:
            if lying is not None:
                self.note([lie(lying.pack_id)])
            elif isinstance(error, IntegrityError):
                self.note([error])
            if self._index is not None:
                if lying is not None:
                    self._index.correct(lying)
                self._index.move(chunk_id, pack, entry)

    def correct(self, pack_id: bytes) -> bool:
        """Hold what the index says of a pack against the pack's own directory. Whether that changed the index."""
        own = self.directories.of(pack_id)
        with self._correcting:
            if own is None or self.index.agrees(own):
                return False
            self.note([lie(pack_id)])
            self.index.correct(own)
        return True

    def note(self, damage: Iterable[IntegrityError]) -> None:
        """Remember damage that was worked around."""
        for error in damage:
            if error.message not in self._noted:
                self._noted.add(error.message)
                self.damage.append(error)

    def opens_chunk(self, key_id: bytes, key: bytes) -> bool | None:
        """Whether a key opens a chunk that was sealed under this key id. None without such a chunk.

        That chunks are sealed under it counts only if a pack's own directory says so.
        """
        doubted: set[bytes] = set()
        for chunk_id, place in self.index.sealed_with(key_id):
            if place.pack_id in doubted:
                continue
            if self._opens(key, key_id, chunk_id, place):
                return True
            own = self.directories.of(place.pack_id)
            for chunk_id, sealed_with, *rest in ENTRY.iter_unpack(own.entries) if own is not None else ():
                if sealed_with == key_id:
                    return self._opens(key, key_id, chunk_id, Location(place.pack_id, key_id, *rest))
            doubted.add(place.pack_id)
        return None

    def _opens(self, key: bytes, key_id: bytes, chunk_id: bytes, place: Location) -> bool:
        try:
            sealed = self.storage.get(pack_key(place.pack_id), place.offset, place.sealed_size)
        except (IntegrityError, ObjectNotFound):
            return False
        return self.chunks.is_sealed_with(key, key_id, chunk_id, sealed)

    def snapshots(self) -> Iterator[Snapshot | IntegrityError]:
        """Yield every snapshot record, oldest first; a damaged one as the error that names it."""
        for record in list_snapshots(self.storage, self.objects):
            if isinstance(record, Snapshot):
                self.note_requirements(SNAPSHOT_PREFIX + record.id, record.requires)
            else:
                self.damaged_records[record.object_name] = record.message
            yield record

    def note_requirements(self, key: str, requires: Sequence[str]) -> None:
        """Remember what an object that was read requires, for `refuse_newer`."""
        names = unknown(requires)
        if names:
            self.newer[key] = names

    def refuse_newer(self) -> None:
        """Raise DrkitError if anything that was read requires more than this version knows.

        Whoever stores or deletes calls this after reading the records, and before changing anything: what a newer
        version stored could be lost, or not fit.
        """
        for key, names in self.newer.items():
            raise made_by_newer(key, self.storage.url, names)
