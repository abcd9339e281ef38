"""Opening and creating a repository: its config, its keys, and all that depends on them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from drkit.errors import AccessDenied, DrkitError, IntegrityError, ObjectExists, ObjectNotFound, RepositoryNotFound
from drkit.repository.chunks import ChunkSealer
from drkit.repository.commit.records import list_snapshots
from drkit.repository.format.chunker import ALGORITHM, DATA_CHUNKS, TREE_CHUNKS, ChunkerParameters
from drkit.repository.format.digest import keyed_digest
from drkit.repository.format.objects import ObjectSealer
from drkit.repository.format.packs import pack_key
from drkit.repository.format.sealing import random_bytes
from drkit.repository.format.snapshot import SNAPSHOT_PREFIX, Snapshot, format_time
from drkit.repository.index import Index, add_unlisted_packs, index_for_reading
from drkit.repository.keys import wraps as keys
from drkit.repository.keys.identity import Identity
from drkit.repository.keys.labels import Holder
from drkit.repository.keys.wraps import KeyRing, MetaKeys
from drkit.storage.base import Storage
from drkit.storage.seen import put_seen

FORMAT = "drkit repository"
VERSION = 1
CONFIG = "config"
KNOWN: frozenset[str] = frozenset()
"""What `requires` may name: nothing yet."""


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
    try:
        body = storage.get(CONFIG)
    except ObjectNotFound:
        raise RepositoryNotFound(
            f"{storage.url} holds no drkit repository", hint="Check the URL, or create one with drkit init."
        ) from None
    damaged = f"{CONFIG} of {storage.url} is damaged"
    cure = "Restore the object config from a copy of the repository."
    try:
        fields = json.loads(body)
        mac = bytes.fromhex(fields.pop("mac"))
        repository_id = bytes.fromhex(fields["id"])
        name, version = fields["format"], fields["version"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{damaged}: {error}", hint=cure, object_name=CONFIG) from None
    requires = fields.get("requires", [])
    if not isinstance(requires, list) or not all(isinstance(each, str) and each.isprintable() for each in requires):
        raise IntegrityError(f"{damaged}: requires is not a list of names", hint=cure, object_name=CONFIG)
    if name != FORMAT or not isinstance(version, int) or len(repository_id) != 16:
        raise IntegrityError(f"{damaged}: it does not describe a drkit repository", hint=cure, object_name=CONFIG)
    if version != VERSION:
        raise DrkitError(
            f"{storage.url} is a repository of format {version}, this drkit reads format {VERSION}",
            hint="Install a drkit that knows this format; nothing was changed.",
        )
    return Config(repository_id, fields, mac)


def put_config(storage: Storage, meta: MetaKeys, fields: dict[str, Any]) -> None:
    """Create `config`. From then on the storage holds a repository."""
    mac = keyed_digest(meta.config, Config(b"", fields, b"").canonical())
    put_seen(storage, CONFIG, json.dumps({**fields, "mac": mac.hex()}, sort_keys=True, indent=1).encode() + b"\n")


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
        self._index: Index | None = None
        self._index_is_complete = False
        self.damage: list[IntegrityError] = []
        """Damage that was found while the index was read, and could be worked around."""
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
            self._index, self.damage = index_for_reading(self.storage, self.objects)
        return self._index

    def reload_index(self) -> Index:
        """Read the index again: a prune may have moved chunks since."""
        self._index, self._index_is_complete = None, False
        return self.index

    def complete_index(self) -> Index:
        """The index with packs that no index object lists: those of interrupted runs, or of lost index objects."""
        index = self.index
        if not self._index_is_complete:
            self._index_is_complete = True
            self.damage += add_unlisted_packs(index, self.storage, self.objects)
        return index

    def opens_chunk(self, key_id: bytes, key: bytes) -> bool | None:
        """Whether a key opens a chunk that was sealed under this key id. None without such a chunk."""
        chunk_id = self.index.samples().get(key_id)
        place = self.index.get(chunk_id) if chunk_id else None
        if chunk_id is None or place is None:
            return None
        sealed = self.storage.get(pack_key(place.pack_id), place.offset, place.sealed_size)
        return self.chunks.is_sealed_with(key, key_id, chunk_id, sealed)

    def snapshots(self) -> Iterator[Snapshot | IntegrityError]:
        """Yield every snapshot record, oldest first; a damaged one as the error that names it."""
        for record in list_snapshots(self.storage, self.objects):
            if isinstance(record, Snapshot):
                self.note_requirements(SNAPSHOT_PREFIX + record.id, record.requires)
            yield record

    def note_requirements(self, key: str, requires: Sequence[str]) -> None:
        """Remember what an object that was read requires, for `refuse_newer`."""
        unknown = [name for name in requires if name not in KNOWN]
        if unknown:
            self.newer[key] = unknown

    def refuse_newer(self) -> None:
        """Raise DrkitError if anything that was read requires more than this version knows.

        Whoever stores or deletes calls this after reading the records, and before changing anything: what a newer
        version stored could be lost, or not fit.
        """
        for key, names in self.newer.items():
            raise DrkitError(
                f"{key} of {self.storage.url} was made by a newer drkit: it requires {', '.join(names)}, "
                "which this one does not know",
                hint="Install a newer drkit. Nothing was changed.",
            )
