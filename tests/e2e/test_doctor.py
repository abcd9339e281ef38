"""`drkit doctor`, and `drkit init` in S3: on a real engine, a real directory, a real bucket."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab import Lab, fill
from tests.support.s3 import S3Server, bucket, unique_bucket


@pytest.fixture
def s3_lab(lab: Lab, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A laboratory whose repository lies in a bucket of the tests' own server."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    with bucket(s3_server.client()) as name:
        lab.s3 = {"url": f"s3://{name}/lab", "endpoint": s3_server.https, "ca_bundle": s3_server.ca}
        yield lab


def diagnosis(lab: Lab, code: int = 0) -> dict[str, list[dict[str, Any]]]:
    document = lab.json("doctor", code=code)
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in document["findings"]:
        found.setdefault(finding["check"], []).append(finding)
    assert (document["status"] == "failed") == (code != 0)
    return found


def test_everything_is_well_in_a_directory(lab: Lab) -> None:
    lab.init("data")
    found = diagnosis(lab)
    assert list(found) == ["keys", "storage", "repository", "engine", "helper"]
    assert {each["status"] for each in found["storage"]} == {"ok"}
    assert "file system" in found["storage"][-1]["detail"]
    assert list(lab.repository.glob("probe")) == []


def test_what_is_wrong_is_named_with_its_cure(lab: Lab) -> None:
    lab.init("data")
    lab.identity.chmod(0o644)
    lab.repository.chmod(0o777)
    found = diagnosis(lab)
    assert [each["status"] for each in found["keys"]] == ["warning", "ok"]
    assert "chmod 600" in found["keys"][0]["hint"]
    assert any("writable by every user" in each["detail"] for each in found["storage"])


def test_the_exit_code_is_that_of_the_failure(lab: Lab) -> None:
    lab.write_policy("data")
    found = diagnosis(lab, code=10)
    assert found["repository"][0]["status"] == "failed"
    assert found["engine"][0]["status"] == "ok"
    result = lab.run("doctor", "--policy", lab.policy, env={"DOCKER_HOST": "unix:///nonexistent"})
    assert result.code == 14
    lab.json("init")
    result = lab.run("doctor", "--policy", lab.policy, env={"DOCKER_HOST": "unix:///nonexistent"})
    assert result.code == 14
    assert "failed   engine" in result.stdout


def everything(directory: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """What is in a directory, with inodes, times and contents."""
    return {
        str(path.relative_to(directory)): (
            path.lstat().st_ino,
            path.lstat().st_mtime_ns,
            path.lstat().st_ctime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in [directory, *directory.rglob("*")]
    }


@pytest.mark.parametrize("holding", [["tmp/notes", f"tmp/{32 * 'a'}"], ["lost+found/x", "packs/a"]])
def test_a_directory_that_is_somebody_elses_is_only_looked_at(lab: Lab, holding: list[str]) -> None:
    lab.init("data")
    lab.repository = lab.directory / "somebody's"
    lab.write_policy("data")
    fill(lab.repository, dict.fromkeys(holding, b"somebody's"))
    before = everything(lab.repository)
    found = diagnosis(lab, code=10)
    assert [each["status"] for each in found["storage"]] == ["warning"]
    assert any(path in found["storage"][0]["detail"] for path in holding)
    for verb in ("check", "prune"):
        lab.fails(10, verb)
    assert everything(lab.repository) == before
    lab.json("init")
    lab.json("doctor")
    lab.drkit("prune", "--yes-really")
    after = everything(lab.repository)
    assert {path: after.get(path) for path in holding} == {path: before[path] for path in holding}


READING = (
    ["snapshots"],
    ["ls", "latest"],
    ["find", "file"],
    ["diff", "{snapshot}", "{snapshot}"],
    ["check", "--packs"],
    ["verify"],
    ["export", "latest", "--volume", "{volume}", "-o", "/dev/stdout"],
    ["restore", "latest", "--volume", "{volume}", "--to-volume", "new", "--dry-run"],
    ["prune", "--dry-run"],
    ["backup", "--dry-run"],
    ["key", "list"],
    ["key", "kit"],
    ["host", "show"],
    ["policy", "show"],
)


def test_verbs_that_read_write_nothing(lab: Lab) -> None:
    """Neither into the repository nor beside it; so they work where the disk is mounted read-only."""
    volume = lab.volume("data", {"file": b"content"})
    lab.init(volume)
    snapshot = lab.backup()
    before = everything(lab.repository), everything(lab.state), sorted(path.name for path in lab.directory.iterdir())
    mount = f"mount --bind {lab.repository} {lab.repository} && mount -o remount,bind,ro {lab.repository} && "
    lines = [
        f"{sys.executable} -m drkit {' '.join(verb)} -p {lab.policy}".format(snapshot=snapshot, volume=volume.name)
        for verb in READING
    ]
    for prefix, some in (("", lines), (mount, lines[:6])):
        script = f"{prefix}set -e; " + "; ".join(f"{line} >/dev/null" for line in some)
        subprocess.run(
            ["unshare", "-m", "bash", "-c", script], env=lab.environment(), cwd=lab.directory, check=True, timeout=120
        )
        now = everything(lab.repository), everything(lab.state), sorted(path.name for path in lab.directory.iterdir())
        assert now == before
    script = f"{mount}{sys.executable} -m drkit doctor -p {lab.policy}"
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", script],
        env=lab.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, "read-only" in done.stdout) == (12, True), done
    assert everything(lab.repository) == before[0]


def test_s3_from_init_to_restore(s3_lab: Lab, s3_server: S3Server) -> None:
    volume = s3_lab.volume("data", {"a/b": b"content" * 1000, "c": b""})
    s3_lab.write_policy(volume)
    made = s3_lab.json("init")
    assert made["writers"] == "many"
    assert f"export DRKIT_ENDPOINT={s3_server.https}" in made["recovery_kit"]
    found = diagnosis(s3_lab)
    assert [each["detail"] for each in found["clock"]] == ["agrees with the server's"]
    assert "versioning: off" in found["storage"][-1]["detail"]
    s3_lab.backup()
    s3_lab.backup()
    assert len(s3_lab.snapshots()) == 2
    assert s3_lab.json("check")["status"] == "ok"
    assert s3_lab.json("verify")["status"] == "ok"
    assert (s3_lab.restore(volume).files / "a/b").read_bytes() == b"content" * 1000
    bare = s3_lab.run(
        "snapshots",
        "--json",
        env={
            "DRKIT_REPOSITORY": s3_lab.s3["url"],
            "DRKIT_ENDPOINT": s3_server.https,
            "DRKIT_CA_BUNDLE": s3_server.ca,
            "DRKIT_IDENTITY_FILE": str(s3_lab.identity),
        },
    )
    assert bare.code == 0, bare.stderr
    assert len(json.loads(bare.stdout)["snapshots"]) == 2


def test_a_bucket_with_versioning_is_for_a_single_writer_and_says_so(s3_lab: Lab, s3_server: S3Server) -> None:
    """radosgw ignores conditions there."""
    client = s3_server.client()
    client.put_bucket_versioning(Bucket=s3_lab.s3["url"].split("/")[2], VersioningConfiguration={"Status": "Enabled"})
    volume = s3_lab.volume("data", {"a": b"content"})
    s3_lab.write_policy(volume)
    result = s3_lab.drkit("init", "--json")
    assert result.code == 0, result.stderr
    assert json.loads(result.stdout)["writers"] == "single"
    assert "takes one writer at a time, since a second write replaces the first" in result.stderr
    assert [each["status"] for each in diagnosis(s3_lab)["storage"]] == ["ok", "warning", "ok"]
    s3_lab.backup()
    s3_lab.restore(volume)


@pytest.mark.parametrize(
    ("change", "env", "code", "said"),
    [
        ({"url": f"s3://{unique_bucket()}/x"}, {}, 10, "there is no such bucket"),
        ({}, {"AWS_SECRET_ACCESS_KEY": "canary-of-a-secret"}, 12, "403 SignatureDoesNotMatch"),
        ({}, {"AWS_ACCESS_KEY_ID": "canary-of-a-key"}, 12, "403 InvalidAccessKeyId"),
        ({"ca_bundle": None}, {}, 13, "does not verify"),
        ({"ca_bundle": "/nonexistent.pem"}, {}, 2, "ca_bundle /nonexistent.pem cannot be read"),
        ({"credentials_file": "/nonexistent.ini"}, {}, 12, "credentials file /nonexistent.ini cannot be read"),
        ({"profile": "nobody"}, {}, 12, "ProfileNotFound"),
        ({"storage_class": "STANDARD_IA"}, {}, 13, "400 InvalidArgument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_what_is_wrong_with_s3_is_said_and_makes_nothing(
    s3_lab: Lab, s3_server: S3Server, change: dict[str, str], env: dict[str, str], code: int, said: str
) -> None:
    before = s3_lab.s3["url"].split("/")[2]
    s3_lab.s3 = {key: value for key, value in {**s3_lab.s3, **change}.items() if value is not None}
    s3_lab.write_policy("data")
    for verb in ("init", "--debug init", "-v init"):
        words = verb.split()
        options = [word for word in words if word == "--debug"]
        more = [word for word in words if word == "-v"]
        result = s3_lab.run(*options, "init", *more, "--policy", s3_lab.policy, env=env)
        assert said in result.stderr
        assert "canary" not in result.stdout + result.stderr
        if not options:
            assert (result.code, "hint: " in result.stderr) == (code, True), result.stderr
    assert not s3_lab.identity.exists()
    assert "Contents" not in s3_server.client().list_objects_v2(Bucket=before)
