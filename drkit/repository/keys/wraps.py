"""The keys of a repository: one meta key for its structure, and for each run one data key for its content.

`keys/meta/<wrap-id>` and `keys/<key-id>/<wrap-id>` are age files, one for each recipient. A wrap-id is the SHA-256 of
the object, so that damage shows before any decryption. `keys/escrow/<wrap-id>` is an identity under a passphrase. A
label tells whom a wrap is for (see labels.py).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from drkit.errors import AccessDenied, IntegrityError
from drkit.repository.format.digest import keyed_digest
from drkit.repository.format.layout import kind_of
from drkit.repository.format.limits import WRAP, require_within
from drkit.repository.format.names import check_content_name, content_name
from drkit.repository.format.objects import ObjectSealer
from drkit.repository.format.sealing import KEY_SIZE, derive_key, random_bytes
from drkit.repository.keys.identity import (
    Identity,
    parse_identity,
    shown_recipient,
    unwrap_with_passphrase,
    wrap,
    wrap_with_passphrase,
)
from drkit.repository.keys.labels import LABEL_PREFIX, Holder, put_label
from drkit.storage.acknowledged import put_seen
from drkit.storage.base import Storage

META_PREFIX = "keys/meta/"
ESCROW_PREFIX = "keys/escrow/"
KEY_ID_SIZE = 16
TREE_KEY_ID = bytes(KEY_ID_SIZE)
"""The key id of tree chunks: they are sealed with a key derived from the meta key, not with a data key."""
_WRAP = re.compile("keys/([0-9a-f]{32})/([0-9a-f]{64})")
_LABEL = re.compile(f"{LABEL_PREFIX}([0-9a-f]{{32}})/[0-9a-f]{{64}}")


@dataclass(frozen=True, repr=False)
class MetaKeys:
    """The meta key and the subkeys derived from it. They open structure, never data."""

    meta_key: bytes
    chunk_id: bytes
    tree_id: bytes
    member: bytes
    tree: bytes
    objects: bytes
    config: bytes
    key_id: bytes
    series: bytes

    @classmethod
    def derive(cls, meta_key: bytes, repository_id: bytes) -> MetaKeys:
        def subkey(label: str) -> bytes:
            return derive_key(meta_key, salt=repository_id, label=label)

        return cls(
            meta_key=meta_key,
            chunk_id=subkey("chunk id"),
            tree_id=subkey("tree id"),
            member=subkey("member digest"),
            tree=subkey("tree chunk"),
            objects=subkey("object"),
            config=subkey("config"),
            key_id=subkey("key id"),
            series=subkey("series"),
        )

    def data_key_id(self, key: bytes) -> bytes:
        """The id of a data key. Nobody without the meta key can make another key that fits an id."""
        return keyed_digest(self.key_id, key)[:KEY_ID_SIZE]


def _payload(repository_id: bytes, purpose: str, key: bytes) -> bytes:
    fields = {"repository": repository_id.hex(), "for": purpose, "key": base64.b64encode(key).decode()}
    return json.dumps(fields).encode()


def _key_from_payload(payload: bytes, repository_id: bytes, purpose: str, *, source: str) -> bytes:
    """Return the key. The payload tells what it is for, so that a wrap cannot be moved to another key's place."""
    try:
        fields = json.loads(payload)
        owner, use, key = fields["repository"], fields["for"], base64.b64decode(fields["key"], validate=True)
    except (ValueError, KeyError, TypeError):
        raise IntegrityError(f"{source} does not hold a key", object_name=source) from None
    if owner != repository_id.hex():
        raise IntegrityError(f"{source} is a key of another repository", object_name=source)
    if use != purpose or len(key) != KEY_SIZE:
        raise IntegrityError(f"{source} holds another key than its place says", object_name=source)
    return key


def _purpose(prefix: str) -> str:
    """`meta`, or the id of a data key."""
    return prefix.split("/")[1]


def new_key() -> bytes:
    return random_bytes(KEY_SIZE)


def put_key(
    storage: Storage,
    sealer: ObjectSealer,
    prefix: str,
    repository_id: bytes,
    key: bytes,
    holders: Sequence[Holder],
) -> list[str]:
    """Store `key` wrapped once to each holder, so that one wrap can be deleted without touching the others.

    The label comes first: a crash may leave a label too many, but never a wrap whose holder nobody knows. All of them
    were seen after they were stored: without its wraps, what a key seals is lost. Returns the wraps' storage keys.
    """
    payload = _payload(repository_id, _purpose(prefix), key)
    bodies = [(holder, wrap(payload, [holder.recipient])) for holder in holders]
    return _put_wraps(storage, sealer, prefix, bodies)


def put_escrow(storage: Storage, sealer: ObjectSealer, identity: Identity, passphrase: str) -> str:
    """Store the identity under a passphrase, so that it outlives the host. Returns its storage key."""
    body = wrap_with_passphrase(identity.secret_text().encode(), passphrase)
    return _put_wraps(storage, sealer, ESCROW_PREFIX, [(Holder(identity.recipient), body)])[0]


def _put_wraps(
    storage: Storage, sealer: ObjectSealer, prefix: str, bodies: Sequence[tuple[Holder, bytes]]
) -> list[str]:
    for _, body in bodies:
        require_within(WRAP, len(body), f"a wrap in {prefix}")
    names = [content_name(body) for _, body in bodies]
    put_label(
        storage, sealer, _purpose(prefix), {name: holder for name, (holder, _) in zip(names, bodies, strict=True)}
    )
    for name, (_, body) in zip(names, bodies, strict=True):
        put_seen(storage, prefix + name, body)
    return [prefix + name for name in names]


def data_key_prefix(key_id: bytes) -> str:
    return f"keys/{key_id.hex()}/"


class DataKeyWrap(NamedTuple):
    """`keys/<key id>/<id>`: one wrap of a data key; both ids in binary."""

    key_id: bytes
    id: bytes


class LabelName(NamedTuple):
    """`keys/recipients/<key id>/<hash>`, the label of a data key; `key_id` in binary."""

    key_id: bytes
    key: str


def data_key_wraps(storage: Storage) -> list[DataKeyWrap]:
    """Return the wraps of all data keys that are there. Other objects below keys/ are left out."""
    return data_key_wraps_and_labels(storage)[0]


def data_key_wraps_and_labels(storage: Storage) -> tuple[list[DataKeyWrap], list[LabelName]]:
    """Return also the labels of all data keys, even of keys that are gone, from the same listing."""
    wraps, labels = [], []
    for info in storage.list("keys/"):
        if match := _WRAP.fullmatch(info.key):
            wraps.append(DataKeyWrap(bytes.fromhex(match[1]), bytes.fromhex(match[2])))
        elif match := _LABEL.fullmatch(info.key):
            labels.append(LabelName(bytes.fromhex(match[1]), info.key))
    return wraps, labels


def usable_keys(wraps: Iterable[DataKeyWrap], condemned: Container[bytes] = ()) -> set[bytes]:
    """Return the ids of the keys that have a wrap and none that is condemned, and the key id of trees.

    A fenced run may still store packs after its key was deleted: nobody may refer to chunks in them.
    """
    wraps = list(wraps)
    return {TREE_KEY_ID, *(wrap.key_id for wrap in wraps)} - {wrap.key_id for wrap in wraps if wrap.id in condemned}


def get_wrap(storage: Storage, name: str) -> bytes:
    """Return a wrapped key, still wrapped. Raises IntegrityError when its bytes are damaged, ObjectNotFound."""
    body = storage.get(name, limit=WRAP)
    check_content_name(name, body)
    return body


def opened_keys(
    storage: Storage, prefix: str, repository_id: bytes, identities: Sequence[Identity]
) -> Iterator[tuple[str, bytes]]:
    """Yield the names of the wraps below `prefix` that one of `identities` opens, and the keys in them.

    Anybody can wrap a key of their own for a public recipient: which of them is right, the caller has to find out. A
    wrap that is damaged, or that an interrupted init left behind for a repository that was never made, does not matter
    if another one opens. Where none does, this raises AccessDenied when all wraps are whole and none is for these
    identities, IntegrityError when damage could be the reason.
    """
    damaged: list[IntegrityError] = []
    found = opens = False
    for name in _wraps(storage, prefix):
        found = True
        try:
            opened = open_wrap(storage, name, repository_id, identities)
        except IntegrityError as error:
            damaged.append(error)
            continue
        if opened is not None:
            opens = True
            yield name, opened[1]
    if opens:
        return
    if damaged:
        raise IntegrityError(
            f"no key can be opened: {damaged[0].message}",
            hint="Restore that object from a copy of the repository.",
            object_name=damaged[0].object_name,
        )
    if not found:
        raise IntegrityError(f"{prefix} holds no key", hint="Run drkit check.", object_name=prefix)
    recipients = ", ".join(shown_recipient(identity.recipient) for identity in identities)
    if prefix != META_PREFIX:
        raise AccessDenied(
            f"the identity {recipients} does not open the data key {_purpose(prefix)}: it opens only part of the data",
            hint="See with drkit key list who opens all of it, and let them run drkit key rewrap.",
        )
    raise AccessDenied(
        f"the identity {recipients} opens no key of this repository",
        hint="Name the identity that the repository was made with: identity_file, or DRKIT_IDENTITY_FILE.",
    )


def wrong_key(prefix: str, wraps: Sequence[str]) -> IntegrityError:
    """The error for wraps that open, none of which holds the right key."""
    return IntegrityError(
        f"no wrap in {prefix} holds the right key: {wraps[0]} holds another one, which somebody put there",
        hint="Restore the right wrap from a copy of the repository. No pack is to blame.",
        object_name=prefix,
    )


def open_wrap(
    storage: Storage, name: str, repository_id: bytes, identities: Sequence[Identity]
) -> tuple[Identity, bytes] | None:
    """Return the key in one wrap and the identity that opened it; None if none of them does.

    Raises IntegrityError when it is damaged or holds another key than its place says, and ObjectNotFound.
    """
    body = get_wrap(storage, name)
    for identity in identities:
        payload = identity.unwrap(body)
        if payload is not None:
            return identity, _key_from_payload(payload, repository_id, _purpose(name), source=name)
    return None


def open_escrow(storage: Storage, passphrase: str) -> Identity:
    """Return the identity that is stored under this passphrase. Raises AccessDenied, or IntegrityError for damage."""
    names = list(_wraps(storage, ESCROW_PREFIX))
    if not names:
        raise AccessDenied("this repository holds no passphrase-wrapped identity", hint="Use the identity file itself.")
    damaged: list[IntegrityError] = []
    for name in names:
        try:
            secret = unwrap_with_passphrase(get_wrap(storage, name), passphrase, source=name)
        except IntegrityError as error:
            damaged.append(error)
            continue
        if secret is not None:
            return parse_identity(secret.decode(), source=name)
    if damaged:
        raise damaged[0]
    raise AccessDenied("the passphrase opens no identity in this repository", hint="Check the recovery kit.")


def _wraps(storage: Storage, prefix: str) -> Iterator[str]:
    return (info.key for info in storage.list(prefix) if kind_of(info.key) in ("wrap", "escrow"))


def parse_meta_key(text: str, repository_id: bytes, *, source: str) -> bytes:
    """Read a meta key file: the JSON that the wraps hold, in the clear. Raises AccessDenied for anything else."""
    try:
        return _key_from_payload(text.encode(), repository_id, _purpose(META_PREFIX), source=source)
    except IntegrityError as error:
        raise AccessDenied(error.message, hint="Write it again on a host that holds the identity.") from None


def format_meta_key(meta_key: bytes, repository_id: bytes) -> str:
    return _payload(repository_id, _purpose(META_PREFIX), meta_key).decode() + "\n"


class KeyRing:
    """Opens data keys as they are needed, and keeps them. Without identities (a write-only host) it opens none."""

    def __init__(
        self,
        storage: Storage,
        repository_id: bytes,
        meta: MetaKeys,
        identities: Sequence[Identity],
        *,
        derived: bool = True,
        opens_chunk: Callable[[bytes, bytes], bool] = lambda key_id, key: False,
    ) -> None:
        """`derived`: the id of every data key tells the right key. Where it need not, in repositories of an earlier
        version, `opens_chunk` says whether a key opens a chunk that was sealed under a key id.
        """
        self._storage = storage
        self._repository_id = repository_id
        self._meta = meta
        self._identities = identities
        self._derived = derived
        self._opens_chunk = opens_chunk
        self._keys: dict[bytes, bytes] = {TREE_KEY_ID: meta.tree}

    def add(self, key_id: bytes, key: bytes) -> None:
        self._keys[key_id] = key

    def fits(self, key_id: bytes, key: bytes) -> bool | None:
        """Whether this is the key of that id; None where only a chunk can tell."""
        if self._meta.data_key_id(key) == key_id:
            return True
        return False if self._derived else None

    def get(self, key_id: bytes) -> bytes:
        """Return a key. Raises AccessDenied without an identity for it, IntegrityError where none is right."""
        if key_id not in self._keys:
            if not self._identities:
                raise AccessDenied(
                    "reading data needs an identity; this host holds the meta key alone",
                    hint="Restore and verify where the identity is: identity_file, or DRKIT_IDENTITY_FILE.",
                )
            self._keys[key_id] = self._open(key_id)
        return self._keys[key_id]

    def _open(self, key_id: bytes) -> bytes:
        prefix = data_key_prefix(key_id)
        names: list[str] = []
        doubtful: dict[bytes, None] = {}
        for name, key in opened_keys(self._storage, prefix, self._repository_id, self._identities):
            fits = self.fits(key_id, key)
            if fits:
                return key
            names.append(name)
            if fits is None:
                doubtful[key] = None
        if len(doubtful) == 1:
            return next(iter(doubtful))
        right = next((key for key in doubtful if self._opens_chunk(key_id, key)), None)
        if right is None:
            raise wrong_key(prefix, names)
        return right
