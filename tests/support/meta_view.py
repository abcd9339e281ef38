"""All that whoever holds the meta key, and no identity, can see of a repository."""

from __future__ import annotations

from collections import Counter

from drkit.repository.format.packs import open_directory
from drkit.repository.keys.wraps import TREE_KEY_ID
from drkit.repository.repository import Repository
from drkit.storage.base import Storage

_SEALED = {"index": "index", "snapshots": "snapshot", "sessions": "session", "marks": "mark", "proofs": "proof"}


class MetaView:
    """`texts` are names, raw bytes, and every sealed object and tree chunk, opened; `kinds` counts what was opened.

    `chunk_ids` are the names of data chunks. What is sealed as metadata and does not open is an error.
    """

    def __init__(self, storage: Storage, meta_key: str) -> None:
        self.repository = Repository.open_write_only(storage, meta_key, source="meta.key")
        self.texts: dict[str, bytes] = {}
        self.kinds: Counter[str] = Counter()
        self.chunk_ids: set[bytes] = set()
        for info in storage.list(""):
            body = storage.get(info.key)
            self.texts[f"name of {info.key}"] = info.key.encode()
            self.texts[f"bytes of {info.key}"] = body
            self._open(info.key, body)

    def _open(self, key: str, body: bytes) -> None:
        kind, _, name = key.partition("/")
        objects = self.repository.objects
        if kind == "packs":
            self._open_pack(key, body)
        elif kind in _SEALED:
            name = {"index": "", "sessions": name.partition("/")[0]}.get(kind, name)
            self._saw(kind, key, objects.open(_SEALED[kind], name.encode(), body, source=key))
        elif name.startswith("recipients/"):
            self._saw("labels", key, objects.open("recipients", name.split("/")[1].encode(), body, source=key))
        else:
            assert kind in ("config", "keys"), key

    def _open_pack(self, key: str, body: bytes) -> None:
        entries = open_directory(self.repository.objects, body[:24], body, len(body), source=key)
        assert entries
        self.kinds["pack directory"] += 1
        for entry in entries:
            self.texts[f"entry of {key}"] = entry.chunk_id + entry.key_id
            if entry.key_id != TREE_KEY_ID:
                self.chunk_ids.add(entry.chunk_id)
                continue
            sealed = body[entry.offset : entry.offset + entry.sealed_size]
            chunk = self.repository.chunks.open(entry.chunk_id, sealed, entry.key_id, entry.size)
            self._saw("tree chunk", f"{key} {entry.chunk_id.hex()}", chunk)

    def _saw(self, kind: str, key: str, payload: bytes) -> None:
        self.kinds[kind] += 1
        self.texts[f"payload of {key}"] = payload
