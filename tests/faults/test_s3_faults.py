"""S3 over a bad network: what fails is tried again, within limits; what is said to be stored is stored, once and whole.

Everything goes to the tests' own radosgw through a proxy that fails a seeded share of the requests.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from drkit.errors import DrkitError, ObjectExists, ObjectNotFound, RepositoryLocked, StorageUnavailable
from drkit.events import Collected
from drkit.repository.check import check_repository
from drkit.repository.format import packs
from drkit.repository.format.snapshot import SNAPSHOT_PREFIX
from drkit.repository.repository import Repository
from drkit.storage.retry import RetryPolicy
from drkit.storage.s3.bucket import S3Storage, open_bucket
from drkit.storage.s3.settings import S3Settings
from tests.support.lab import Lab
from tests.support.repositories import create, random_content, read_everything, write_snapshot
from tests.support.s3 import S3Server, bucket, credentials
from tests.support.toxic_proxy import FAULTS, ToxicProxy, scripted, seeded

STUBBORN = RetryPolicy(attempts=20, total=120, first_wait=0.01, longest_wait=0.05, connect=2, read=0.7)
HASTY = RetryPolicy(attempts=3, total=2, first_wait=0.01, longest_wait=0.05, connect=1, read=0.4)


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[ToxicProxy]:
    with ToxicProxy(s3_server.http) as proxy:
        yield proxy


@pytest.fixture
def place(s3_server: S3Server) -> Iterator[str]:
    """A bucket's URL."""
    with credentials(s3_server.access_key, s3_server.secret_key), bucket(s3_server.client()) as name:
        yield f"s3://{name}/toxic"


def through(proxy: ToxicProxy, place: str, policy: RetryPolicy = STUBBORN) -> S3Storage:
    return open_bucket(place, S3Settings(endpoint=proxy.url, region="us-east-1"), policy)


def directly(server: S3Server, place: str) -> S3Storage:
    return open_bucket(place, S3Settings(endpoint=server.http, region="us-east-1"))


def puts(proxy: ToxicProxy) -> int:
    return sum(request.method == "PUT" for request in proxy.seen)


# --- one request ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
def test_a_put_that_fails_once_is_stored_once(proxy: ToxicProxy, place: str, s3_server: S3Server, fault: str) -> None:
    storage = through(proxy, place)
    body = bytes(range(256)) * 4000
    proxy.choose = scripted(fault, method="PUT")
    storage.put("packs/aa/one", body)
    again = 0 if fault in ("trickle", "truncate") else 1  # truncated within the head: the status line has arrived
    assert proxy.done == {fault: 1}
    assert (puts(proxy), storage.retries) == (1 + again, again)
    assert directly(s3_server, place).get("packs/aa/one") == body


@pytest.mark.parametrize("fault", ["lost", "blackhole"])
def test_a_lost_answer_does_not_hide_that_the_key_was_taken(proxy: ToxicProxy, place: str, fault: str) -> None:
    storage = through(proxy, place)
    storage.put("snapshots/run", b"by another one")
    proxy.choose = scripted(fault, method="PUT")
    with pytest.raises(ObjectExists, match="snapshots/run"):
        storage.put("snapshots/run", b"by this one!!!")
    assert storage.get("snapshots/run") == b"by another one"


def test_reading_back_survives_the_network_too(proxy: ToxicProxy, place: str) -> None:
    """The put's answer is lost, and so are the first answers to what asks whether it worked."""
    storage = through(proxy, place)
    left = {"PUT": ["lost", None, None], "GET": ["truncate", "500"]}
    proxy.choose = lambda request: left[request.method].pop(0) if left.get(request.method) else None
    storage.put("config", b"x" * 5000)
    assert storage.get("config") == b"x" * 5000
    assert proxy.done == {"lost": 1, "truncate": 1, "500": 1}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("span", [(0, None), (1000, 50_000), (70_000, None)])
def test_a_get_returns_every_byte_or_asks_again(
    proxy: ToxicProxy, place: str, fault: str, span: tuple[int, int | None]
) -> None:
    storage = through(proxy, place)
    body = random.Random(1).randbytes(100_000)
    storage.put("packs/aa/one", body)
    proxy.choose = scripted(fault, method="GET")
    offset, length = span
    assert storage.get("packs/aa/one", offset, length) == body[offset : None if length is None else offset + length]
    assert storage.retries == (0 if fault == "trickle" else 1)


@pytest.mark.parametrize("fault", FAULTS)
def test_listing_stat_and_delete_are_tried_again(proxy: ToxicProxy, place: str, fault: str) -> None:
    storage = through(proxy, place)
    for number in range(5):
        storage.put(f"index/{number}", b"x")
    proxy.choose = scripted(fault)
    assert len(list(storage.list("index/"))) == 5
    proxy.choose = scripted(fault)
    assert storage.stat("index/1").size == 1
    proxy.choose = scripted(fault)
    storage.delete("index/1")
    proxy.choose = scripted(fault)
    with pytest.raises(ObjectNotFound):
        storage.stat("index/1")
    assert proxy.done == {fault: 4}


@pytest.mark.parametrize("fault", ["500", "503", "reset", "lost", "blackhole"])
def test_what_does_not_pass_ends_as_an_error_in_time(proxy: ToxicProxy, place: str, fault: str) -> None:
    """No empty listing, no missing object: an error, after as many attempts as were allowed."""
    storage = through(proxy, place, HASTY)
    proxy.choose = lambda request: fault
    for call in (
        lambda: storage.put("config", b"x" * 1000),
        lambda: storage.get("config"),
        lambda: storage.stat("config"),
        lambda: list(storage.list("")),
        lambda: storage.delete("config"),
    ):
        with pytest.raises(StorageUnavailable, match=r"given up after 3 attempts") as caught:
            call()
        assert caught.value.hint
        assert place in caught.value.message
    assert storage.retries == 10
    assert len(proxy.seen) >= 15


def test_nobody_answers(place: str) -> None:
    events = Collected()
    storage = open_bucket(place, S3Settings(endpoint="http://127.0.0.1:1", region="us-east-1"), HASTY, events)
    with pytest.raises(StorageUnavailable, match=r"http://127.0.0.1:1 cannot be reached \(given up after 3 attempts"):
        list(storage.list(""))
    [warning] = events.warnings
    assert "attempt 2 of 3 failed" in warning.message


def test_what_asking_again_cannot_change_is_asked_once(proxy: ToxicProxy, place: str, s3_server: S3Server) -> None:
    storage = through(proxy, place)
    missing = through(proxy, f"{place[:-12]}-nonesuch/x")
    with pytest.raises(ObjectNotFound):
        storage.get("config")
    with pytest.raises(DrkitError, match="no such bucket"):
        missing.get("config")
    with credentials(s3_server.access_key, "wrong"), pytest.raises(DrkitError, match="SignatureDoesNotMatch"):
        through(proxy, place).get("config")
    assert len(proxy.seen) == 3
    assert storage.retries == missing.retries == 0


# --- a repository -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few megabytes are many requests."""
    monkeypatch.setattr(packs, "PACK_SIZE", 200_000)


@pytest.mark.usefixtures("small_packs")
def test_backup_and_restore_with_a_third_of_the_requests_failing(
    proxy: ToxicProxy, place: str, s3_server: S3Server, rng: random.Random
) -> None:
    storage = through(proxy, place)
    proxy.choose = seeded(rng, 0.3)
    repository, identity = create(storage)
    contents = {f"run-{number}": {"data": random_content(rng, 30)} for number in range(2)}
    for run, content in contents.items():
        write_snapshot(repository, [identity.recipient], run, content)
    read = read_everything(Repository.open(through(proxy, place), [identity]))
    assert read == contents
    print(f"{len(proxy.seen)} requests, faults {dict(proxy.done)}, retries {storage.retries}")
    assert storage.retries > 0
    assert set(proxy.done) > {"500", "503"}

    proxy.choose = lambda request: None
    clean = Repository.open(directly(s3_server, place), [identity])
    assert check_repository(clean).ok
    assert read_everything(clean) == contents
    assert list(clean.storage.list("sessions/")) == []


@pytest.mark.usefixtures("small_packs")
@pytest.mark.parametrize("turn", range(4))
def test_a_backup_that_gives_up_has_changed_nothing_that_a_snapshot_shows(
    proxy: ToxicProxy, place: str, s3_server: S3Server, rng: random.Random, turn: int
) -> None:
    storage = through(proxy, place, HASTY)
    repository, identity = create(storage)
    contents = {"run-0": {"data": random_content(rng)}}
    write_snapshot(repository, [identity.recipient], "run-0", contents["run-0"])

    proxy.choose = seeded(rng, 0.6)
    content = {"data": random_content(rng, 30)}
    try:
        write_snapshot(repository, [identity.recipient], "run-1", content)
    except (StorageUnavailable, RepositoryLocked) as error:
        print(f"gave up: {error.message}")
        assert "Traceback" not in error.message
        committed = False
    else:
        committed = True

    clean = Repository.open(directly(s3_server, place), [identity])
    there = {info.key.removeprefix(SNAPSHOT_PREFIX) for info in clean.storage.list(SNAPSHOT_PREFIX)}
    # An error may hide a commit whose every answer was lost; a success never hides that there is none.
    assert there in ({"run-0", "run-1"}, *([] if committed else [{"run-0"}]))
    assert check_repository(clean).ok
    expected = {**contents, **({"run-1": content} if "run-1" in there else {})}
    assert read_everything(clean) == expected


# --- drkit ------------------------------------------------------------------------------------------------------------


def test_drkit_backs_up_and_restores_with_a_third_of_the_requests_failing(
    lab: Lab, proxy: ToxicProxy, place: str, rng: random.Random
) -> None:
    volume = lab.volume("data", {f"file-{number}": rng.randbytes(4 << 20) for number in range(12)})
    lab.s3 = {"url": place, "endpoint": proxy.url, "region": "us-east-1"}
    lab.init(volume)
    proxy.choose = seeded(rng, 0.3, ("500", "503", "reset", "lost", "truncate", "trickle"))
    lab.backup()
    restored = lab.restore(volume)
    assert lab.json("verify")["status"] == "ok"
    for path in volume.files.iterdir():
        assert (restored.files / path.name).read_bytes() == path.read_bytes()
    print(f"{len(proxy.seen)} requests, faults {dict(proxy.done)}")
    assert len(proxy.done) > 3


def test_drkit_says_that_the_storage_is_gone(lab: Lab, proxy: ToxicProxy, place: str) -> None:
    volume = lab.volume("data", {"file": b"content"})
    lab.s3 = {"url": place, "endpoint": proxy.url, "region": "us-east-1"}
    lab.init(volume)
    lab.backup()
    lab.s3["endpoint"] = "http://127.0.0.1:1"
    lab.write_policy(volume)
    said = lab.fails(13, "backup")
    assert "http://127.0.0.1:1 cannot be reached (given up after" in said
    assert "hint: Check repository.endpoint and the network" in said
