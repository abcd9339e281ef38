"""What every storage promises. One suite, run over each of them."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from drkit.errors import IntegrityError, ObjectExists, ObjectNotFound, StorageUnavailable, UsageError
from drkit.storage import Storage, open_storage
from drkit.storage.base import MAX_OBJECT
from drkit.storage.cached import CachedStorage
from drkit.storage.local.directory import LocalStorage
from drkit.storage.s3.bucket import S3Storage
from tests.support.faulty_storage import FaultyStorage
from tests.support.memory_storage import MemoryStorage
from tests.support.s3 import Backend, moto_backend, moto_server_backend, radosgw_backend

BACKENDS: dict[str, type[Storage]] = {
    "memory": MemoryStorage,
    "local": LocalStorage,
    "faulty": FaultyStorage,
    "cached": CachedStorage,
    "moto": S3Storage,
    "moto-server": S3Storage,
    "radosgw": S3Storage,
    "radosgw-tls": S3Storage,
}


SLOW = {"moto-server"}  # an interpreter of its own that answers one request after the other


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in BACKENDS],
)
def backend(request: pytest.FixtureRequest) -> Iterator[tuple[str, Backend | None]]:
    """The backends, one after the other; those in S3 check in the end who it was that answered."""
    match request.param:
        case "moto":
            context = moto_backend()
        case "moto-server":
            context = moto_server_backend()
        case "radosgw" | "radosgw-tls":
            context = radosgw_backend(request.getfixturevalue("s3_server"), tls=request.param == "radosgw-tls")
        case _:
            yield request.param, None
            return
    with context as made:
        yield request.param, made


@pytest.fixture
def storage(backend: tuple[str, Backend | None], tmp_path: Path) -> Iterator[Storage]:
    """An empty storage. A suite that silently tests another backend than it names proves nothing: see the asserts."""
    name, in_s3 = backend
    made: Storage
    if in_s3 is not None:
        made = in_s3.open(f"{secrets.token_hex(8)}/prefix")
    elif name == "local":
        made = open_storage(str(tmp_path / "repository"), create=True)
    elif name == "cached":
        made = CachedStorage(MemoryStorage(), tmp_path / "copies.sqlite")
    else:
        made = FaultyStorage(MemoryStorage()) if name == "faulty" else MemoryStorage()
    assert type(made) is BACKENDS[name]
    yield made
    if isinstance(made, LocalStorage):
        assert made.root == tmp_path / "repository", "the objects went somewhere else"
        assert list(made.root.glob("tmp/*")) == [], "a finished call left something behind"
    if in_s3 is not None:
        keys(made)  # even a test that asked for nothing has talked to its backend
        in_s3.check()


def put_all(storage: Storage, names: Sequence[str]) -> None:
    """Several at a time: a server of its own takes its time for each."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: storage.put(key, b"x"), names))


def keys(storage: Storage, prefix: str = "") -> list[str]:
    return [info.key for info in storage.list(prefix)]


def test_put_then_get_returns_the_same_bytes(storage: Storage) -> None:
    every_byte = bytes(range(256)) * 5
    storage.put("packs/aa/one", every_byte)
    assert storage.get("packs/aa/one") == every_byte
    assert type(storage.get("packs/aa/one")) is bytes
    assert storage.stat("packs/aa/one") == ("packs/aa/one", len(every_byte))


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, lambda b: memoryview(b"x" + b + b"x")[1:-1]])
@pytest.mark.parametrize("content", [b"", b"a", b"some text" * 1000])
def test_put_takes_every_kind_of_buffer(
    storage: Storage, make: Callable[[bytes], bytes | bytearray | memoryview], content: bytes
) -> None:
    storage.put("buffer", make(content))
    assert storage.get("buffer") == content


def test_put_keeps_no_reference_to_the_buffer(storage: Storage) -> None:
    buffer = bytearray(b"before")
    storage.put("object", buffer)
    buffer[:] = b"after!"
    assert storage.get("object") == b"before"


def test_a_large_object(storage: Storage) -> None:
    large = b"0123456789abcdef" * (40 * 1024 * 1024 // 16)
    storage.put("large", large)
    assert storage.stat("large").size == len(large)
    assert storage.get("large", len(large) - 3, 3) == large[-3:]
    assert storage.get("large") == large


@pytest.mark.parametrize("second", [b"second", b"firsu", b"", b"first and more"])
def test_a_second_put_raises_and_changes_nothing(storage: Storage, second: bytes) -> None:
    storage.put("config", b"first")
    with pytest.raises(ObjectExists, match="config"):
        storage.put("config", second)
    assert storage.get("config") == b"first"
    assert keys(storage) == ["config"]


def test_a_second_put_of_the_same_bytes_changes_nothing(storage: Storage) -> None:
    """Where answers can be lost it is the retry of a put that succeeded, and succeeds too; elsewhere it is refused."""
    storage.put("config", b"first")
    if isinstance(storage, S3Storage):
        storage.put("config", b"first")
    else:
        with pytest.raises(ObjectExists, match="config"):
            storage.put("config", b"first")
    assert storage.get("config") == b"first"
    assert keys(storage) == ["config"]


@pytest.mark.parametrize("second", [b"first", b"second"])
def test_a_storage_that_looks_before_it_writes_refuses_a_second_put_too(storage: Storage, second: bytes) -> None:
    storage = storage.single_writer()
    storage.put("config", b"first")
    if second != b"first" or not isinstance(storage, S3Storage):
        with pytest.raises(ObjectExists, match="config"):
            storage.put("config", second)
    assert storage.get("config") == b"first"


def test_what_a_store_does_not_know_is_absent(storage: Storage) -> None:
    storage.put("config", b"x")
    assert not storage.traits.locks
    assert storage.renew_locks(["config"], lambda key: True) == 0
    assert not storage.holds_locks("probe/locked")
    assert list(storage.shadowed_objects()) == list(storage.foreign_files()) == []
    storage.fetch_ahead(["config"])
    with storage.released_reserve():
        assert storage.get("config") == b"x"
    for path in storage.root.glob("tmp/reserve-*") if isinstance(storage, LocalStorage) else []:
        path.unlink()
    if not isinstance(storage, S3Storage):
        assert storage.try_tampering() is None


def test_only_one_of_many_concurrent_puts_wins(storage: Storage) -> None:
    writers = 16
    ready = threading.Barrier(writers)
    won: list[int] = []
    lost: list[int] = []

    def write(number: int) -> None:
        ready.wait()
        try:
            storage.put("snapshots/run", b"%d" % number * 1000)
        except ObjectExists:
            lost.append(number)
        else:
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(lost) == writers - 1
    assert storage.get("snapshots/run") == b"%d" % won[0] * 1000


def test_puts_and_deletes_in_one_directory_do_not_disturb_each_other(storage: Storage) -> None:
    """A storage that removes directories with their last object must not fail a writer who was about to use one."""
    failures: list[BaseException] = []

    def churn(name: str) -> None:
        try:
            for round_ in range(25 if isinstance(storage, S3Storage) else 100):
                key = f"sessions/run/{name}"
                storage.put(key, b"%d" % round_)
                assert storage.get(key) == b"%d" % round_
                storage.delete(key)
        except BaseException as error:  # noqa: BLE001 (carried to the main thread)
            failures.append(error)

    threads = [threading.Thread(target=churn, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert keys(storage) == []


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, None, b"0123456789"),
        (3, None, b"3456789"),
        (10, None, b""),
        (0, 0, b""),
        (0, 4, b"0123"),
        (6, 4, b"6789"),
        (10, 0, b""),
    ],
)
def test_ranges(storage: Storage, offset: int, length: int | None, expected: bytes) -> None:
    storage.put("digits", b"0123456789")
    assert storage.get("digits", offset, length) == expected


@pytest.mark.parametrize(("offset", "length"), [(0, 11), (9, 2), (10, 1), (11, 0), (11, None), (1 << 40, 1)])
def test_a_range_beyond_the_end_is_an_integrity_error(storage: Storage, offset: int, length: int | None) -> None:
    storage.put("packs/aa/digits", b"0123456789")
    with pytest.raises(IntegrityError, match="packs/aa/digits") as caught:
        storage.get("packs/aa/digits", offset, length)
    assert caught.value.object_name == "packs/aa/digits"


@pytest.mark.parametrize(
    ("offset", "length", "size"), [(0, None, 10), (3, None, 7), (0, 10, 10), (2, 5, 5), (0, 4, 4), (10, None, 0)]
)
def test_no_more_is_read_than_the_limit(storage: Storage, offset: int, length: int | None, size: int) -> None:
    storage.put("packs/aa/digits", b"0123456789")
    whole = storage.get("packs/aa/digits", offset, length)
    assert storage.get("packs/aa/digits", offset, length, limit=size) == whole
    if size:
        with pytest.raises(IntegrityError, match=rf"packs/aa/digits .*{size} bytes.*{size - 1}") as caught:
            storage.get("packs/aa/digits", offset, length, limit=size - 1)
        assert caught.value.object_name == "packs/aa/digits"
        assert caught.value.hint


def test_a_range_within_the_limit_of_an_object_beyond_it(storage: Storage) -> None:
    storage.put("packs/aa/digits", b"0123456789")
    assert storage.get("packs/aa/digits", 4, 3, limit=3) == b"456"


@pytest.mark.parametrize("prefix", ["", "snapshots/"])
def test_a_listed_object_has_the_same_limit(storage: Storage, prefix: str) -> None:
    """Also where a copy of it is at hand: there by `fetch_ahead`, or by a get."""
    storage.put("snapshots/one", b"0123456789")
    assert keys(storage, prefix) == ["snapshots/one"]
    storage.fetch_ahead(["snapshots/one"])
    for _ in range(2):
        with pytest.raises(IntegrityError, match=r"snapshots/one .*10 bytes"):
            storage.get("snapshots/one", limit=9)
        assert storage.get("snapshots/one", limit=10) == b"0123456789"


def test_no_range_is_larger_than_any_object(storage: Storage) -> None:
    """An index that somebody forged can ask for any range."""
    storage.put("packs/aa/digits", b"0123456789")
    with pytest.raises(IntegrityError, match="packs/aa/digits"):
        storage.get("packs/aa/digits", 0, 1 << 32)


def test_what_no_storage_gives_back_none_takes(storage: Storage) -> None:
    with pytest.raises(StorageUnavailable, match=r"packs/aa/one: .* more than"):
        storage.put("packs/aa/one", bytes(MAX_OBJECT + 1))
    assert keys(storage) == []


@pytest.mark.parametrize(("offset", "length"), [(-1, None), (0, -1)])
def test_a_negative_range_is_a_bug(storage: Storage, offset: int, length: int | None) -> None:
    storage.put("digits", b"0123456789")
    with pytest.raises(ValueError, match="negative"):
        storage.get("digits", offset, length)


@pytest.mark.parametrize("key", ["missing", "packs/missing", "packs", "packs/aa/object/below", "packs/aa"])
def test_a_missing_object(storage: Storage, key: str) -> None:
    storage.put("packs/aa/object", b"x")
    with pytest.raises(ObjectNotFound, match=key):
        storage.get(key)
    with pytest.raises(ObjectNotFound, match=key):
        storage.get(key, 1, 2)
    with pytest.raises(ObjectNotFound, match=key):
        storage.stat(key)
    storage.delete(key)
    assert keys(storage) == ["packs/aa/object"]


def test_delete_twice(storage: Storage) -> None:
    storage.put("marks/one", b"x")
    storage.put("marks/two", b"y")
    storage.delete("marks/one")
    storage.delete("marks/one")
    assert keys(storage) == ["marks/two"]
    with pytest.raises(ObjectNotFound):
        storage.get("marks/one")


def test_a_key_is_free_again_after_delete(storage: Storage) -> None:
    storage.put("sessions/run/1", b"old")
    storage.delete("sessions/run/1")
    storage.put("sessions/run/1", b"new")
    assert storage.get("sessions/run/1") == b"new"


# Bytewise: "-" and "." sort before "/", "0" and "_" after it. A walk over directories has another order.
ORDERED = ["a-b", "a.b", "a/-", "a/x", "a/x-y", "a/x.z/1", "a/x0", "a0", "a_b", "ab/c", "b", "b-/a", "b0"]


def test_listings_are_ordered_by_key_bytewise(storage: Storage) -> None:
    assert sorted(ORDERED) == ORDERED
    for key in reversed(ORDERED):
        storage.put(key, key.encode())
    assert [(info.key, info.size) for info in storage.list("")] == [(key, len(key)) for key in ORDERED]


@pytest.mark.parametrize(
    "prefix", ["", "a", "a/", "a/x", "a/x.", "a/x.z/", "ab", "ab/c", "ab/c/", "b", "c", "c/d/", "-"]
)
def test_listings_by_prefix(storage: Storage, prefix: str) -> None:
    for key in ORDERED:
        storage.put(key, b"")
    assert keys(storage, prefix) == [key for key in ORDERED if key.startswith(prefix)]


def test_an_empty_storage_lists_as_empty(storage: Storage) -> None:
    assert keys(storage) == []
    assert keys(storage, "packs/") == []


def test_over_a_thousand_objects_in_one_prefix(storage: Storage) -> None:
    expected = sorted(f"index/{number:x}" for number in range(1100))
    put_all(storage, expected)
    assert keys(storage) == expected
    assert keys(storage, "index/") == expected


def test_over_a_thousand_prefixes(storage: Storage) -> None:
    expected = sorted(f"keys/{number:x}/wrap" for number in range(1100))
    put_all(storage, expected)
    assert keys(storage) == expected
    assert keys(storage, "keys/44") == [key for key in expected if key.startswith("keys/44")]


BAD_KEYS = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "a/..",
    "../a",
    "a/../b",
    "a/./b",
    "A",
    "packs/AA",
    "a b",
    "a\n",
    "a\0",
    "a\\b",
    "a:b",
    "a*",
    "é",
    "٣",
    "a/" + "b" * 256,
    "/".join(["a" * 200] * 6),
    "tmp",
    "tmp/a",
]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_bad_keys_are_refused(storage: Storage, key: str) -> None:
    with pytest.raises(UsageError):
        storage.put(key, b"x")
    with pytest.raises(UsageError):
        storage.get(key)
    with pytest.raises(UsageError):
        storage.stat(key)
    with pytest.raises(UsageError):
        storage.delete(key)
    assert keys(storage) == []


@pytest.mark.parametrize("key", ["a", "0", "-", "_", "...", ".a", "a..b", "a/" + "b" * 255, "tmpfile", "a/tmp/b"])
def test_good_keys_are_taken(storage: Storage, key: str) -> None:
    storage.put(key, b"x")
    assert keys(storage) == [key]
    assert storage.get(key) == b"x"


@pytest.mark.parametrize("prefix", ["/", "/a", "a//", "../", "a/../", "./", "A", "a b", "a\n", "*", "tmp/", "tmp/0"])
def test_bad_prefixes_are_refused(storage: Storage, prefix: str) -> None:
    with pytest.raises(UsageError):
        list(storage.list(prefix))
