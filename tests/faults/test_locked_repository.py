"""A whole repository in a bucket with object lock, on a real server: pruned, renewed, attacked, read."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from drkit.errors import AccessDenied
from drkit.operations.keys import add_recipient, key_list, rewrap_keys
from drkit.repository.check import check_repository
from drkit.repository.format.names import LOCKED_PREFIXES
from drkit.repository.keys.identity import Identity, generate_identity
from drkit.repository.keys.wraps import META_PREFIX, data_key_prefix, data_key_wraps
from drkit.repository.locks import renew_locks
from drkit.repository.repository import Repository
from drkit.storage import open_storage
from drkit.storage.s3.bucket import S3Storage, open_bucket
from drkit.storage.s3.settings import ObjectLock, S3Settings
from tests.support.forgery import forge_wrap
from tests.support.pruning import debris, prune_now
from tests.support.repositories import NOW, Content, random_content, read_everything, write_snapshot
from tests.support.s3 import IMPATIENT, S3Server, credentials, locked_bucket

Open = Callable[[float], S3Storage]


@pytest.fixture
def opened(s3_server: S3Server) -> Iterator[Open]:
    with credentials(s3_server.access_key, s3_server.secret_key), locked_bucket(s3_server.client()) as name:

        def open_with(seconds: float) -> S3Storage:
            lock = ObjectLock("governance", timedelta(seconds=seconds), LOCKED_PREFIXES)
            return open_bucket(f"s3://{name}/r", S3Settings(endpoint=s3_server.http, lock=lock), IMPATIENT)

        yield open_with


def make(storage: S3Storage, rng: random.Random) -> tuple[Identity, dict[str, dict[str, Content]]]:
    """A repository with two snapshots, `old` and `kept`, that share nothing."""
    identity = generate_identity()
    repository = Repository.create(storage, identity, [identity.recipient], now=NOW, single_writer=True)
    made = {run: {"v": random_content(rng, 4)} for run in ("old", "kept")}
    for run, contents in made.items():
        write_snapshot(repository, [identity.recipient], run, contents)
    return identity, made


def locked_until(s3_server: S3Server, storage: S3Storage) -> dict[str, float]:
    """By key, how many seconds its newest version stays locked."""
    bucket, _, prefix = storage.url.removeprefix("s3://").partition("/")
    found = {}
    for version in storage.versions(""):
        head = s3_server.client().head_object(Bucket=bucket, Key=f"{prefix}/{version.key}", VersionId=version.id)
        until = head.get("ObjectLockRetainUntilDate")
        found[version.key] = (until - storage.now()).total_seconds() if until else 0.0
    return found


def test_prune_waits_for_locks_and_what_goes_is_not_renewed(
    opened: Open, s3_server: S3Server, rng: random.Random
) -> None:
    storage = opened(12)
    started = time.monotonic()
    identity, made = make(storage, rng)
    repository = Repository.open(storage, [identity])
    done = prune_now(repository, "p1", "old")
    assert done.forgotten == [] and "snapshots/old" in done.denied, "its record is locked, so it is still whole"
    assert read_everything(Repository.open(storage, [identity])) == made
    assert [info.key for info in storage.list("marks/")] == ["marks/p1"], "what is condemned stays condemned"
    assert [info.key for info in storage.list("snapshots/")] == ["snapshots/kept", "snapshots/old"], "no tombstone"
    longer = opened(3600)
    count = renew_locks(Repository.open(longer, [identity]), {"kept"})
    before = locked_until(s3_server, storage)
    renewed = {key for key, seconds in before.items() if seconds > 60}
    assert count == len(renewed)
    assert {"config", "snapshots/kept"} <= renewed
    assert "snapshots/old" not in renewed
    assert renew_locks(Repository.open(longer, [identity]), {"kept"}) == 0
    while time.monotonic() < started + 20:
        time.sleep(1)
    done = prune_now(Repository.open(storage, [identity]), "p2", "old")
    assert done.forgotten == ["old"]
    assert done.packs_deleted >= 2
    after = Repository.open(storage, [identity])
    assert read_everything(after) == {"kept": made["kept"]}
    assert check_repository(after).ok
    assert renewed <= set(locked_until(s3_server, storage)), "nothing that was renewed is gone"
    print(f"renewed {count}, deleted {done.packs_deleted} packs; refused {done.denied}; left {debris(after)}")


def test_a_thief_hides_and_writes_over_everything_and_it_is_read_all_the_same(
    opened: Open, s3_server: S3Server, rng: random.Random
) -> None:
    storage = opened(120)
    identity, made = make(storage, rng)
    # The server tells its time in whole seconds, and dates versions so: a second of distance on both sides.
    time.sleep(1.1)
    before = storage.now()
    time.sleep(1.1)
    bucket, _, prefix = storage.url.removeprefix("s3://").partition("/")
    client = s3_server.client()
    keys = [info.key for info in storage.list("")]
    for number, key in enumerate(keys):
        if key.startswith("packs/") or number % 2:
            client.delete_object(Bucket=bucket, Key=f"{prefix}/{key}")
        elif key != "config":
            client.put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=b"a thief was here")
    if not any(info.key == "config" for info in storage.list("")):
        [config] = [version for version in storage.versions("config") if version.marker]
        storage.ask("delete_object", "delete", "config", VersionId=config.id)
    settings = replace(storage._settings, lock=None, as_of=before)
    past = Repository.open(open_storage(storage.url, s3=settings), [identity])
    assert read_everything(past) == made
    assert check_repository(past).ok
    shadowed = dict(storage.shadowed_objects())
    assert len(shadowed) == len(keys) - 1, "all but config"
    assert {how.split()[0] for how in shadowed.values()} == {"hidden", "written"}


def test_check_names_what_is_hidden(opened: Open, s3_server: S3Server, rng: random.Random) -> None:
    storage = opened(120)
    identity, _ = make(storage, rng)
    repository = Repository.open(storage, [identity])
    assert check_repository(repository).ok
    bucket, _, prefix = storage.url.removeprefix("s3://").partition("/")
    s3_server.client().delete_object(Bucket=bucket, Key=f"{prefix}/snapshots/old")
    report = check_repository(repository)
    assert list(report.findings) == ["snapshots/old"]
    assert "hidden by a delete marker since" in report.findings["snapshots/old"].problem


def test_forged_wraps_that_nobody_can_delete_change_nothing(opened: Open, rng: random.Random) -> None:
    storage = opened(120)
    identity, made = make(storage, rng)
    repository = Repository.open(storage, [identity])
    prefixes = [META_PREFIX, *(data_key_prefix(wrap.key_id) for wrap in data_key_wraps(storage))]
    forged = [forge_wrap(storage, repository.id, prefix, identity.recipient, first=True) for prefix in prefixes]
    repository = Repository.open(storage, [identity])
    assert read_everything(repository) == made
    report = check_repository(repository)
    assert report.ok
    assert all("another key" in report.notes[key] for key in forged)
    [holder] = key_list(repository).holders
    assert (holder.recipient, holder.opens) == (identity.recipient, 3)
    deputy = generate_identity()
    add_recipient(repository, deputy.recipient)
    assert read_everything(Repository.open(storage, [deputy])) == made
    assert rewrap_keys(repository, [identity.recipient, deputy.recipient]).removed == 0
    with pytest.raises(AccessDenied, match="3 wraps could not be deleted"):
        rewrap_keys(repository, [identity.recipient])
    rewrap_keys(repository, [identity.recipient, deputy.recipient])
    assert read_everything(Repository.open(storage, [identity])) == made
