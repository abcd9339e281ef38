"""A reader of format 1 that was written from drkit/repository/FORMAT.md and knows nothing of drkit's code.

It stands for whoever has to read a repository when drkit is gone. It takes nothing on trust that can be checked.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import blake3
import msgpack
import pyrage
import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

PACK = struct.Struct("<32sII")
ENTRY = struct.Struct("<32s16sIII")
EXTENT = struct.Struct("<32sII")
TREE_KEY = bytes(16)


class Place(NamedTuple):
    pack: str
    key_id: bytes
    offset: int
    sealed_size: int
    size: int


class Entry(NamedTuple):
    """A member, its raw bytes put together and checked."""

    path: bytes
    stat: bytes
    leader: bytes
    symlink: bytes
    settled: bool
    raw: bytes


class IndependentReader:
    def __init__(self, root: Path, identity_text: str) -> None:
        self.root = root
        lines = [line for line in identity_text.splitlines() if line.startswith("AGE-SECRET-KEY-1")]
        self.identity = pyrage.x25519.Identity.from_str(lines[0])
        config = json.loads((root / "config").read_bytes())
        assert (config["format"], config["version"]) == ("drkit repository", 1)
        assert config.get("key_ids", "derived") == "derived"
        self.derived = "key_ids" in config
        self.id = bytes.fromhex(config["id"])
        self._mac = config.pop("mac")
        self._canonical = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
        [self.meta_key] = [key for key in self._wrapped_keys("meta") if self._is_meta_key(key)][:1]
        self.keys = {TREE_KEY: self._subkey("tree chunk")}
        self.lying: set[str] = set()
        """Index objects that say of a pack something else than the pack's own directory."""
        self.places: dict[bytes, list[Place]] = {}
        for pack_id, entries in self._index().items():
            for chunk_id, key_id, offset, sealed_size, size in entries:
                self.places.setdefault(chunk_id, []).append(Place(pack_id, key_id, offset, sealed_size, size))

    def _is_meta_key(self, key: bytes) -> bool:
        return blake3.blake3(self._canonical, key=self._subkey("config", key)).hexdigest() == self._mac

    def _data_keys(self, key_id: bytes) -> list[bytes]:
        """The key that fits the id; in a repository of an earlier version, where none does, those that may be it."""
        keys = self._wrapped_keys(key_id.hex())
        naming = self._subkey("key id")
        fitting = [key for key in keys if blake3.blake3(key, key=naming).digest()[:16] == key_id]
        return fitting[:1] or ([] if self.derived else keys)

    def _wrapped_keys(self, name: str) -> list[bytes]:
        found = []
        for path in (self.root / "keys" / name).iterdir():
            body = path.read_bytes()
            if hashlib.sha256(body).hexdigest() != path.name:
                continue
            try:
                wrap = json.loads(pyrage.decrypt(body, [self.identity]))
            except pyrage.DecryptError:
                continue
            if (wrap["repository"], wrap["for"]) == (self.id.hex(), name):
                key = base64.b64decode(wrap["key"], validate=True)
                assert len(key) == 32
                found.append(key)
        return found

    def _subkey(self, label: str, meta_key: bytes | None = None) -> bytes:
        info = b"drkit 1 " + label.encode("ascii")
        return HKDF(algorithm=SHA256(), length=32, salt=self.id, info=info).derive(meta_key or self.meta_key)

    @staticmethod
    def _unseal(key: bytes, sealed: bytes, associated: bytes) -> bytes:
        frame = AESGCM(key).decrypt(sealed[:12], sealed[12:], associated)
        size = zstandard.frame_content_size(frame)
        assert size >= 0
        plain = zstandard.ZstdDecompressor().decompress(frame)
        assert len(plain) == size
        return plain

    @staticmethod
    def _opens(key: bytes, sealed: bytes, associated: bytes) -> bool:
        try:
            AESGCM(key).decrypt(sealed[:12], sealed[12:], associated)
        except InvalidTag:
            return False
        return True

    def _open(self, kind: str, name: bytes, sealed: bytes) -> bytes:
        associated = b"drkit 1 " + kind.encode() + b"\0" + self.id + name
        return self._unseal(self._subkey("object"), sealed, associated)

    def _index(self) -> dict[str, list[Any]]:
        """The entries of every pack that is there, as its own directory tells; whether the index agrees is noted."""
        packs = {path.name: self._directory(path) for path in (self.root / "packs").glob("*/*")}
        for path in (self.root / "index").iterdir():
            body = path.read_bytes()
            assert hashlib.sha256(body).hexdigest() == path.name
            payload = self._open("index", b"", body)
            position = 0
            while position < len(payload):
                pack_id, pack_size, count = PACK.unpack_from(payload, position)
                position += PACK.size
                end = position + count * ENTRY.size
                assert end <= len(payload)
                listed = (pack_size, list(ENTRY.iter_unpack(payload[position:end])))
                position = end
                if packs.get(pack_id.hex()) != listed:
                    self.lying.add(path.name)
        return {name: entries for name, (_, entries) in packs.items()}

    def _directory(self, path: Path) -> tuple[int, list[Any]]:
        """The size of a pack, and what it says that it holds."""
        body = path.read_bytes()
        assert hashlib.sha256(body).hexdigest() == path.name
        kind = body[:8]
        assert kind in (b"DRKITP1d", b"DRKITP1t")
        length, magic = struct.unpack("<I8s", body[-12:])
        assert magic == b"DRKITEND"
        entries = list(ENTRY.iter_unpack(self._open("pack", body[:24], body[-12 - length : -12])))
        assert all((entry[1] == TREE_KEY) == (kind == b"DRKITP1t") for entry in entries)
        end = 24
        for entry in entries:  # one behind the other
            assert entry[2] == end
            end += entry[3]
        assert end == len(body) - 12 - length
        return len(body), entries

    def chunk(self, chunk_id: bytes) -> bytes:
        """The content of a chunk, from the first pack where it opens and has its name."""
        found = (self._content(chunk_id, place) for place in self.places[chunk_id])
        return next(content for content in found if content is not None)

    def _content(self, chunk_id: bytes, place: Place) -> bytes | None:
        body = (self.root / "packs" / place.pack[:2] / place.pack).read_bytes()
        sealed = body[place.offset : place.offset + place.sealed_size]
        associated = self.id + place.key_id + chunk_id
        keys = [self.keys[place.key_id]] if place.key_id in self.keys else self._data_keys(place.key_id)
        right = next((key for key in keys if self._opens(key, sealed, associated)), None)
        if right is None:
            return None
        self.keys[place.key_id] = right
        content = self._unseal(right, sealed, associated)
        naming = "tree id" if place.key_id == TREE_KEY else "chunk id"
        named = blake3.blake3(content, key=self._subkey(naming)).digest() == chunk_id
        return content if named and len(content) == place.size else None

    def snapshots(self) -> dict[str, Any]:
        """The records by run id, in order."""
        records = {}
        for path in sorted((self.root / "snapshots").iterdir()):
            line, _, second = self._open("snapshot", path.name.encode(), path.read_bytes()).partition(b"\n")
            record, about = json.loads(line), json.loads(second or b"{}")
            if "fenced" in record:
                continue
            if "origin" in record:
                message = b"drkit 1 record\0" + self.id + line
                public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(record["origin"]))
                public.verify(bytes.fromhex(about["signature"]), message)
                assert record["sequence"] >= 1
            if "copy" in about:
                assert about["copy"]["id"] == path.name
                record |= {"copy_of": record.get("copy_of", record["id"]), **about["copy"]}
            assert record["id"] == path.name
            records[path.name] = record
        return records

    def trees(self, part: Any) -> Iterator[list[str]]:
        """Every list named `tree` in a record, or in a part of one."""
        if isinstance(part, dict):
            for name, value in part.items():
                if name == "tree" and isinstance(value, list):
                    yield value
                else:
                    yield from self.trees(value)
        elif isinstance(part, list):
            for each in part:
                yield from self.trees(each)

    def recipients(self) -> dict[str, dict[str, str]]:
        """Whom the wraps of each key are for, as labels say: purpose -> hash of a wrap that is there -> recipient."""
        found: dict[str, dict[str, str]] = {}
        for path in sorted((self.root / "keys" / "recipients").glob("*/*")):
            body, purpose = path.read_bytes(), path.parent.name
            assert hashlib.sha256(body).hexdigest() == path.name
            for name, about in json.loads(self._open("recipients", purpose.encode(), body))["wraps"].items():
                if (self.root / "keys" / purpose / name).exists():
                    found.setdefault(purpose, {})[name] = about["recipient"]
        return found

    def proofs(self) -> list[Any]:
        """All proofs in order; their chain is whole."""
        found: list[Any] = []
        previous = None
        for number, path in enumerate(sorted((self.root / "proofs").iterdir()), start=1):
            body = path.read_bytes()
            proof = json.loads(self._open("proof", path.name.encode(), body))
            assert (path.name, proof["number"], proof["previous"]) == (f"{number:010d}", number, previous)
            previous = hashlib.sha256(body).hexdigest()
            found.append(proof)
        return found

    def forgotten(self) -> dict[tuple[str, str, str], set[int]]:
        """The numbers that were removed on purpose, by origin, host and policy."""
        found: dict[tuple[str, str, str], set[int]] = {}
        for path in sorted((self.root / "forgot").glob("*/*")):
            body = path.read_bytes()
            assert hashlib.sha256(body).hexdigest() == path.name
            note = json.loads(self._open("forgot", path.parent.name.encode(), body))
            series = [note["origin"], note["host"], note["policy"]]
            text = json.dumps(series, separators=(", ", ": "), ensure_ascii=True).encode()
            assert blake3.blake3(text, key=self._subkey("series")).digest()[:16].hex() == path.parent.name
            numbers = found.setdefault((series[0], series[1], series[2]), set())
            for first, last in note["sequences"]:
                numbers.update(range(first, last + 1))
        return found

    def marks(self) -> dict[str, set[bytes]]:
        """What prunes have condemned, by prune id."""
        found = {}
        for path in (self.root / "marks").iterdir():
            payload = self._open("mark", path.name.encode(), path.read_bytes())
            if payload.startswith(b'{"requires":'):
                line, _, payload = payload.partition(b"\n")
                assert json.loads(line)["requires"] == []
            assert len(payload) % 32 == 0
            found[path.name] = {payload[at : at + 32] for at in range(0, len(payload), 32)}
        return found

    def sessions(self) -> dict[str, Any]:
        """The runs that have not ended."""
        return {
            path.parent.name: json.loads(self._open("session", path.parent.name.encode(), path.read_bytes()))
            for path in (self.root / "sessions").glob("*/*")
        }

    def entries(self, tree: list[str]) -> Iterator[Entry]:
        unpacker = msgpack.Unpacker(raw=False, use_list=False)
        unpacker.feed(b"".join(self.chunk(bytes.fromhex(name)) for name in tree))
        digest_key = self._subkey("member digest")
        for path, stat, leader, symlink, digest, settled, extents in unpacker:
            pieces = EXTENT.iter_unpack(extents)
            raw = b"".join(self.chunk(name)[start : start + length] for name, start, length in pieces)
            assert blake3.blake3(raw, key=digest_key).digest() == digest
            assert len(raw) % 512 == 0
            yield Entry(path, stat, leader, symlink, settled, raw)

    def documents(self, tree: list[str]) -> dict[str, bytes]:
        """The files of a tree of documents, by name. Each has its salt in the first record of its extended header."""
        found = {}
        for entry in self.entries(tree):
            assert re.fullmatch(rb"76 comment=[0-9a-f]{64}\n", entry.raw[512:588])
            with tarfile.open(fileobj=io.BytesIO(entry.raw + bytes(1024))) as tar:
                [member] = tar.getmembers()
                file = tar.extractfile(member)
                assert file is not None
                assert member.name.encode() == entry.path
                found[member.name] = file.read()
        return found

    def tar(self, tree: list[str]) -> bytes:
        return b"".join(entry.raw for entry in self.entries(tree)) + bytes(1024)
