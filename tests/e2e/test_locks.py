"""`repository.lock` on the command line: a locked bucket from init to restore as of a time, and a thief's attempts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tests.support.lab import Lab
from tests.support.s3 import S3Server, bucket, locked_bucket


@pytest.fixture
def s3_lab(lab: Lab, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Lab:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    lab.s3 = {"endpoint": s3_server.http}
    return lab


@pytest.fixture
def locked(s3_lab: Lab, s3_server: S3Server) -> Iterator[Lab]:
    with locked_bucket(s3_server.client()) as name:
        s3_lab.s3 |= {"url": f"s3://{name}/lab", "lock": {"mode": "governance", "period": "1h"}}  # type: ignore[dict-item]
        yield s3_lab


def test_what_a_thief_deletes_is_restored_as_of_a_time_before(locked: Lab, s3_server: S3Server) -> None:
    volume = locked.volume("data", {"a/b": b"content" * 1000})
    locked.write_policy(volume, retention={"keep_last": 5})
    made = locked.json("init")
    assert (made["writers"], made["capabilities"]["locks"]) == ("single", True)
    assert locked.json("backup")["locks_renewed"] == 0, "all of it is young"
    locked.s3["lock"] = {"mode": "governance", "period": "3h"}  # type: ignore[assignment]
    locked.write_policy(volume, retention={"keep_last": 5})
    assert locked.json("backup")["locks_renewed"] > 5
    time.sleep(1.5)
    before = datetime.now(UTC).isoformat()
    time.sleep(1.5)
    name = locked.s3["url"].split("/")[2]
    client = s3_server.client()
    for entry in client.list_objects_v2(Bucket=name)["Contents"]:
        client.delete_object(Bucket=name, Key=entry["Key"])
    assert locked.drkit("snapshots").code == 10, "it looks as if there were no repository"
    shown = locked.json("snapshots", "--as-of", before)
    assert len(shown["snapshots"]) == 2
    assert locked.json("verify", "--as-of", before)["status"] == "ok"
    name = locked.forget_later(f"{volume.name}-back")
    to = ("--volume", volume.name, "--to-volume", name)
    assert locked.json("restore", "latest", *to, "--as-of", before)["verified"] is True
    assert (locked.find(name).files / "a/b").read_bytes() == b"content" * 1000


def test_a_bucket_without_object_lock_is_refused_at_init(s3_lab: Lab, s3_server: S3Server) -> None:
    with bucket(s3_server.client()) as name:
        s3_lab.s3 |= {"url": f"s3://{name}/lab", "lock": {"mode": "governance", "period": "1h"}}  # type: ignore[dict-item]
        s3_lab.write_policy("data")
        result = s3_lab.drkit("init")
        assert result.code == 13
        assert "a locked object could be deleted, or none could be locked at all" in result.stderr
        assert "hint: Create a bucket with object lock enabled" in result.stderr
        assert "Contents" not in s3_server.client().list_objects_v2(Bucket=name)
    assert not s3_lab.identity.exists()


@pytest.mark.parametrize(
    ("lock", "code", "reason", "hint"),
    [
        ({"mode": "compliance", "period": "1h"}, 0, "", ""),
        ({"mode": "governance", "period": "1h"}, 1, "bypassing governance", "s3:BypassGovernanceRetention"),
        (None, 1, "delete its version", "Set repository.lock in the policy"),
    ],
    ids=["compliance", "governance", "none"],
)
def test_tampering(locked: Lab, s3_server: S3Server, lock: object, code: int, reason: str, hint: str) -> None:
    """The tests' credentials own the bucket, so they may bypass governance; nobody may bypass compliance."""
    del locked.s3["lock"]
    if lock:
        locked.s3["lock"] = lock  # type: ignore[assignment]
    locked.write_policy("data")
    verdict = locked.json("doctor", "--tamper", code=code)
    assert verdict["survives"] == (code == 0)
    assert reason in verdict["reason"]
    assert hint in verdict["hint"]
    assert verdict["left"] == []
    assert len(verdict["attempts"]) == (5 if lock else 3)
    print(json.dumps(verdict["attempts"], indent=1))
    name = locked.s3["url"].split("/")[2]
    found = s3_server.client().list_object_versions(Bucket=name)
    assert "Versions" not in found and "DeleteMarkers" not in found


def test_a_directory_does_not_survive(lab: Lab) -> None:
    lab.init("data")
    verdict = lab.json("doctor", "--tamper", code=1)
    assert "is a directory" in verdict["reason"]
    assert lab.drkit("snapshots", "--as-of", "2026-01-01").code == 2
