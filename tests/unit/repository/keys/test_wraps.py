"""Identities, recipients, wrapped keys, and the sealing below them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import hashes, hmac

from drkit.errors import AccessDenied, IntegrityError, UsageError
from drkit.repository.format.objects import ObjectSealer
from drkit.repository.format.sealing import OVERHEAD, Cipher, derive_key
from drkit.repository.keys.identity import (
    Identity,
    generate_identity,
    parse_identity,
    parse_recipients,
    wrap,
)
from drkit.repository.keys.labels import LABEL_PREFIX, Holder
from drkit.repository.keys.wraps import (
    ESCROW_PREFIX,
    META_PREFIX,
    TREE_KEY_ID,
    KeyRing,
    MetaKeys,
    data_key_prefix,
    format_meta_key,
    get_wrap,
    new_key,
    open_escrow,
    opened_keys,
    parse_meta_key,
    put_escrow,
    put_key,
)
from tests.support.memory_storage import MemoryStorage

REPOSITORY = bytes(range(16))
OTHER = bytes(16)


def open_key(storage: MemoryStorage, prefix: str, repository_id: bytes, identities: list[Identity]) -> bytes:
    """The key in the first wrap that opens."""
    return next(opened_keys(storage, prefix, repository_id, identities))[1]


@pytest.fixture(scope="module")
def alice() -> Identity:
    return generate_identity()


@pytest.fixture(scope="module")
def bob() -> Identity:
    return generate_identity()


@pytest.fixture(scope="module")
def mallory() -> Identity:
    return generate_identity()


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


SEALER = ObjectSealer(bytes(32), REPOSITORY)


def put_wraps(storage: MemoryStorage, prefix: str, repository_id: bytes, key: bytes, recipients: list[str]) -> None:
    """A key as versions without labels stored it."""
    put_key(storage, SEALER, prefix, repository_id, key, [Holder(recipient) for recipient in recipients])
    for name in [name for name in storage.objects if name.startswith(LABEL_PREFIX)]:
        del storage.objects[name]


# --- identities -------------------------------------------------------------------------------------------------------


def test_an_identity_file_is_read_like_age_reads_it(alice: Identity) -> None:
    text = f"# created: now\n# public key: {alice.recipient}\n  {alice.secret_text()}  \n"
    assert parse_identity(text, source="identity.txt").recipient == alice.recipient


def test_no_secret_is_ever_shown(alice: Identity) -> None:
    secret = alice.secret_text()
    assert secret not in repr(alice)
    assert secret not in str(alice)
    damaged = secret[:-1] + ("Q" if secret[-1] != "Q" else "P")
    with pytest.raises(AccessDenied, match=r"identity in identity\.txt is damaged") as caught:
        parse_identity(damaged, source="identity.txt")
    assert damaged[20:] not in f"{caught.value} {caught.value.hint}"
    with pytest.raises(AccessDenied, match=r"identity\.txt holds no age identity"):
        parse_identity("# nothing\n", source="identity.txt")


def test_recipients_are_read_with_line_numbers(alice: Identity, bob: Identity) -> None:
    text = f"# ours\n\n{alice.recipient}\n {bob.recipient} \n{alice.recipient}\n"
    assert parse_recipients(text, source="r.txt") == [alice.recipient, bob.recipient]
    with pytest.raises(UsageError, match=r"r\.txt:2: 'age1nonsense' is not a recipient that can be"):
        parse_recipients("# one\nage1nonsense\n", source="r.txt")
    with pytest.raises(UsageError, match=r"r\.txt names no recipient"):
        parse_recipients("# none\n", source="r.txt")
    with pytest.raises(UsageError, match=r"r\.txt:1 is a secret key") as caught:
        parse_recipients(alice.secret_text(), source="r.txt")
    assert alice.secret_text() not in str(caught.value)


def test_only_the_recipient_unwraps(alice: Identity, bob: Identity, mallory: Identity) -> None:
    wrapped = wrap(b"secret", [alice.recipient, bob.recipient])
    assert alice.unwrap(wrapped) == bob.unwrap(wrapped) == b"secret"
    assert mallory.unwrap(wrapped) is None
    assert alice.unwrap(b"no age file") is None


# --- wrapped keys -----------------------------------------------------------------------------------------------------


def test_each_recipient_has_a_wrap_of_its_own(storage: MemoryStorage, alice: Identity, bob: Identity) -> None:
    key = new_key()
    put_wraps(storage, META_PREFIX, REPOSITORY, key, [alice.recipient, bob.recipient])
    names = list(storage.objects)
    assert len(names) == 2
    for name in names:
        assert name == META_PREFIX + hashlib.sha256(storage.objects[name]).hexdigest()
        assert [identity.unwrap(storage.objects[name]) is None for identity in (alice, bob)].count(True) == 1
    for identity in (alice, bob):
        assert open_key(storage, META_PREFIX, REPOSITORY, [identity]) == key


def test_a_wrong_identity_is_denied_and_named(storage: MemoryStorage, alice: Identity, mallory: Identity) -> None:
    put_wraps(storage, META_PREFIX, REPOSITORY, new_key(), [alice.recipient])
    with pytest.raises(AccessDenied, match=f"the identity {mallory.recipient} opens no key") as caught:
        open_key(storage, META_PREFIX, REPOSITORY, [mallory])
    assert "identity_file" in (caught.value.hint or "")


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("damage", [flip, lambda data: data[:-1], lambda data: b""])
def test_a_damaged_wrap_is_passed_over_while_another_opens(
    storage: MemoryStorage, alice: Identity, bob: Identity, damage: Callable[[bytes], bytes]
) -> None:
    key = new_key()
    put_wraps(storage, META_PREFIX, REPOSITORY, key, [alice.recipient, bob.recipient])
    hers = next(name for name, body in storage.objects.items() if alice.unwrap(body))
    storage.objects[hers] = damage(storage.objects[hers])
    assert open_key(storage, META_PREFIX, REPOSITORY, [bob]) == key
    assert open_key(storage, META_PREFIX, REPOSITORY, [alice, bob]) == key
    # Alice's is the damaged one: that is damage, not a wrong identity.
    with pytest.raises(IntegrityError) as caught:
        open_key(storage, META_PREFIX, REPOSITORY, [alice])
    assert caught.value.object_name == hers
    with pytest.raises(IntegrityError, match="is damaged"):
        get_wrap(storage, hers)


def test_no_wrap_at_all(storage: MemoryStorage, alice: Identity) -> None:
    with pytest.raises(IntegrityError, match="keys/meta/ holds no key"):
        open_key(storage, META_PREFIX, REPOSITORY, [alice])


def test_a_wrap_that_an_interrupted_init_left_is_passed_over(storage: MemoryStorage, alice: Identity) -> None:
    """The next init makes another repository id, and its wraps come to lie beside the stray ones in any order."""
    for _ in range(4):
        put_wraps(storage, META_PREFIX, OTHER, new_key(), [alice.recipient])
    key = new_key()
    put_wraps(storage, META_PREFIX, REPOSITORY, key, [alice.recipient])
    assert open_key(storage, META_PREFIX, REPOSITORY, [alice]) == key


def test_a_key_of_another_repository_is_never_used(storage: MemoryStorage, alice: Identity) -> None:
    put_wraps(storage, META_PREFIX, OTHER, new_key(), [alice.recipient])
    with pytest.raises(IntegrityError, match="is a key of another repository") as caught:
        open_key(storage, META_PREFIX, REPOSITORY, [alice])
    assert caught.value.object_name in storage.objects


def test_a_wrap_moved_to_another_key_is_never_used(storage: MemoryStorage, alice: Identity) -> None:
    """Who can write to the storage, without any key, can rename a wrap and still name it by its hash."""
    first, second = b"1" * 16, b"2" * 16
    put_wraps(storage, data_key_prefix(first), REPOSITORY, new_key(), [alice.recipient])
    [name] = storage.objects
    for prefix in (data_key_prefix(second), META_PREFIX):
        moved = prefix + name.rpartition("/")[2]
        storage.objects[moved] = storage.objects[name]
        with pytest.raises(IntegrityError, match="holds another key") as caught:
            open_key(storage, prefix, REPOSITORY, [alice])
        assert caught.value.object_name == moved


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"repository": "000102030405060708090a0b0c0d0e0f", "for": "meta", "key": "AAAA"}',
        b'{"repository": "000102030405060708090a0b0c0d0e0f", "for": "meta", "key": 5}',
        b'{"repository": "000102030405060708090a0b0c0d0e0f", "for": "meta", "key": "*"}',
    ],
)
def test_what_a_wrap_may_not_hold(storage: MemoryStorage, alice: Identity, payload: bytes) -> None:
    body = wrap(payload, [alice.recipient])
    name = META_PREFIX + hashlib.sha256(body).hexdigest()
    storage.put(name, body)
    with pytest.raises(IntegrityError) as caught:
        open_key(storage, META_PREFIX, REPOSITORY, [alice])
    assert caught.value.object_name == name


def test_fields_that_this_version_does_not_know_are_passed_over(storage: MemoryStorage, alice: Identity) -> None:
    put_wraps(storage, META_PREFIX, REPOSITORY, bytes(32), [alice.recipient])
    [name] = storage.objects
    fields = json.loads(alice.unwrap(storage.objects.pop(name)) or b"")
    body = wrap(json.dumps({**fields, "later": [1]}).encode(), [alice.recipient])
    storage.put(META_PREFIX + hashlib.sha256(body).hexdigest(), body)
    assert open_key(storage, META_PREFIX, REPOSITORY, [alice]) == bytes(32)


def test_the_meta_key_file(alice: Identity) -> None:
    key = new_key()
    text = format_meta_key(key, REPOSITORY)
    assert parse_meta_key(text, REPOSITORY, source="meta.key") == key
    with pytest.raises(AccessDenied, match=r"meta\.key is a key of another repository"):
        parse_meta_key(text, OTHER, source="meta.key")
    with pytest.raises(AccessDenied, match=r"meta\.key does not hold a key"):
        parse_meta_key(alice.secret_text(), REPOSITORY, source="meta.key")


@pytest.mark.slow
def test_escrow(storage: MemoryStorage, alice: Identity) -> None:
    with pytest.raises(AccessDenied, match="holds no passphrase-wrapped identity"):
        open_escrow(storage, "secret")
    name = put_escrow(storage, SEALER, alice, "secret")
    assert name.startswith(ESCROW_PREFIX)
    with pytest.raises(AccessDenied, match="the passphrase opens no identity"):
        open_escrow(storage, "wrong")
    damaged = ESCROW_PREFIX + "0" * 64
    storage.objects[damaged] = b"damaged"
    assert open_escrow(storage, "secret").recipient == alice.recipient
    del storage.objects[name]
    with pytest.raises(IntegrityError, match="is damaged") as caught:
        open_escrow(storage, "secret")
    assert caught.value.object_name == damaged


def test_the_key_ring(storage: MemoryStorage, alice: Identity, mallory: Identity) -> None:
    meta = MetaKeys.derive(new_key(), REPOSITORY)
    key_id, key = b"k" * 16, new_key()
    put_wraps(storage, data_key_prefix(key_id), REPOSITORY, key, [alice.recipient])
    ring = KeyRing(storage, REPOSITORY, meta, [alice], derived=False)
    assert ring.get(key_id) == key
    assert ring.get(TREE_KEY_ID) == meta.tree
    storage.objects.clear()
    assert ring.get(key_id) == key
    ring.add(b"n" * 16, bytes(32))
    assert ring.get(b"n" * 16) == bytes(32)
    with pytest.raises(AccessDenied, match="the meta key alone"):
        KeyRing(storage, REPOSITORY, meta, []).get(key_id)


def test_only_a_key_that_fits_its_id_is_used(storage: MemoryStorage, alice: Identity) -> None:
    """However many others somebody has wrapped for a public key, and however they sort."""
    meta = MetaKeys.derive(new_key(), REPOSITORY)
    key = new_key()
    key_id = meta.data_key_id(key)
    prefix = data_key_prefix(key_id)
    for _ in range(8):
        put_wraps(storage, prefix, REPOSITORY, new_key(), [alice.recipient])
    with pytest.raises(IntegrityError, match="holds another one") as caught:
        KeyRing(storage, REPOSITORY, meta, [alice]).get(key_id)
    assert caught.value.object_name == prefix
    assert "No pack is to blame" in (caught.value.hint or "")
    put_wraps(storage, prefix, REPOSITORY, key, [alice.recipient])
    assert KeyRing(storage, REPOSITORY, meta, [alice]).get(key_id) == key
    assert KeyRing(storage, REPOSITORY, meta, [alice], derived=False).get(key_id) == key


def test_among_keys_of_a_random_id_a_chunk_decides(storage: MemoryStorage, alice: Identity) -> None:
    meta = MetaKeys.derive(new_key(), REPOSITORY)
    key, key_id = new_key(), b"r" * 16
    for each in (new_key(), key, new_key()):
        put_wraps(storage, data_key_prefix(key_id), REPOSITORY, each, [alice.recipient])
    ring = KeyRing(storage, REPOSITORY, meta, [alice], derived=False, opens_chunk=lambda _, tried: tried == key)
    assert ring.get(key_id) == key
    with pytest.raises(IntegrityError, match="holds another one"):
        KeyRing(storage, REPOSITORY, meta, [alice], derived=False).get(key_id)


# --- sealing ----------------------------------------------------------------------------------------------------------


def test_subkeys_are_those_of_rfc_5869() -> None:
    """Extract and expand, by hand."""
    prk = hmac.HMAC(b"salt", hashes.SHA256())
    prk.update(b"secret")
    okm = hmac.HMAC(prk.finalize(), hashes.SHA256())
    okm.update(b"drkit 1 label" + b"\x01")
    assert derive_key(b"secret", salt=b"salt", label="label") == okm.finalize()


def test_every_subkey_is_another_one() -> None:
    keys = MetaKeys.derive(bytes(32), REPOSITORY)
    subkeys = [keys.chunk_id, keys.tree_id, keys.member, keys.tree, keys.objects, keys.config]
    others = MetaKeys.derive(bytes(32), OTHER)
    assert len({*subkeys, keys.meta_key, others.objects}) == 8
    assert keys.meta_key.hex() not in repr(keys)


def test_whatever_is_changed_does_not_open() -> None:
    cipher = Cipher(bytes(32))
    sealed = cipher.seal(b"plain", b"associated")
    assert cipher.open(sealed, b"associated") == b"plain"
    assert len(sealed) == len(b"plain") + OVERHEAD
    assert cipher.seal(b"plain", b"associated") != sealed
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 0x40
        with pytest.raises(IntegrityError, match="does not authenticate"):
            cipher.open(bytes(changed), b"associated")
    for length in range(len(sealed)):
        with pytest.raises(IntegrityError):
            cipher.open(sealed[:length], b"associated")
    with pytest.raises(IntegrityError):
        cipher.open(sealed, b"other")
    with pytest.raises(IntegrityError):
        Cipher(bytes(31) + b"1").open(sealed, b"associated")


def test_an_object_opens_only_as_what_it_is() -> None:
    sealer = ObjectSealer(bytes(32), REPOSITORY)
    sealed = sealer.seal("snapshot", b"name", b"payload")
    assert sealer.open("snapshot", b"name", sealed, source="snapshots/name") == b"payload"
    assert sealer.open("index", b"", sealer.seal("index", b"", b""), source="index/0") == b""
    for other, kind, name in [
        (sealer, "session", b"name"),
        (sealer, "snapshot", b"other"),
        (ObjectSealer(bytes(32), OTHER), "snapshot", b"name"),
    ]:
        with pytest.raises(IntegrityError, match="snapshots/name: sealed data does not authenticate") as caught:
            other.open(kind, name, sealed, source="snapshots/name")
        assert caught.value.object_name == "snapshots/name"
