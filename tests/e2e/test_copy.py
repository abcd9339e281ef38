"""A repository in a directory and its mirror in a bucket: the one is lost, the other restores, and makes it anew."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drkit.errors import AccessDenied
from drkit.repository.keys.wraps import data_key_wraps
from drkit.repository.repository import Repository
from drkit.storage import open_storage
from tests.support.lab import Lab, Volume, fill
from tests.support.s3 import S3Server, bucket
from tests.support.treecompare import compare_trees, describe


@pytest.fixture
def place(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The keys of the policy for a mirror in radosgw."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    with bucket(s3_server.client()) as name:
        yield {"url": f"s3://{name}/mirror", "endpoint": s3_server.https, "ca_bundle": s3_server.ca}


def bare(lab: Lab, place: dict[str, str]) -> dict[str, str]:
    """What a host knows that has no policy."""
    return {
        "DRKIT_REPOSITORY": place["url"],
        "DRKIT_ENDPOINT": place["endpoint"],
        "DRKIT_CA_BUNDLE": place["ca_bundle"],
        "DRKIT_IDENTITY_FILE": str(lab.identity),
        "DRKIT_STATE_DIR": str(lab.directory / "bare-state"),
    }


def on_bare_host(lab: Lab, place: dict[str, str], *arguments: str | Path) -> dict[str, Any]:
    result = lab.run(*arguments, "--json", env=bare(lab, place))
    assert result.code == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def assert_same(original: Volume, restored: Volume) -> None:
    found = compare_trees(original.files, restored.files)
    assert not found, describe(found)


def test_the_mirror_outlives_the_repository_and_makes_it_anew(
    lab: Lab, place: dict[str, str], rng: random.Random
) -> None:
    volume = lab.volume("data", {f"file-{number}": rng.randbytes(50_000) for number in range(100)})
    fill(volume.files, {"large": rng.randbytes(40 << 20)})
    lab.init(volume, mirror=place)

    # Without a mirror there, the backup is good all the same, and says what to type.
    result = lab.drkit("backup", "--json")
    assert result.code == 3
    early = json.loads(result.stdout)
    assert (early["status"], early["mirror"]["status"], early["mirror"]["url"]) == ("ok", "failed", place["url"])
    assert f"snapshot {early['snapshot']} is safe in the repository" in result.stderr
    assert f"drkit init --repository {place['url']} --mirror-of {lab.repository}" in result.stderr

    made = lab.json("init", "--mirror-of", lab.repository)
    assert (made["url"], made["mirror_of"]) == (place["url"], str(lab.repository))
    fill(volume.files, {"later": rng.randbytes(3000)})
    document = lab.json("backup")
    snapshot, mirrored = document["snapshot"], document["mirror"]
    assert mirrored["status"] == "ok"
    assert [each["snapshot"] for each in mirrored["copied"]] == [snapshot, early["snapshot"]]
    assert mirrored["bytes"] > 40 << 20
    again = lab.json("copy")
    assert (again["copied"], again["bytes"], set(again["skipped"])) == ([], 0, {snapshot, early["snapshot"]})
    assert lab.json("verify", "--repository", place["url"])["errors"] == []

    # The directory burns.
    shutil.rmtree(lab.repository)
    listing = on_bare_host(lab, place, "snapshots")["snapshots"]
    assert {each["copy_of"] for each in listing} == {snapshot, early["snapshot"]}
    name = lab.forget_later(f"{volume.name}-from-mirror")
    restored = on_bare_host(lab, place, "restore", snapshot, "--volume", volume.name, "--to-volume", name)
    assert restored["verified"] is True
    assert_same(volume, lab.find(name))

    # It is made anew from the mirror.
    made = lab.json("init", "--mirror-of", place["url"])
    assert made["url"] == str(lab.repository)
    back = lab.json("copy", "--repository", place["url"], "--to", str(lab.repository))
    assert len(back["copied"]) == 2
    assert lab.json("verify")["errors"] == []
    assert lab.json("check", "--packs")["errors"] == []
    assert_same(volume, lab.restore(volume))
    by_mirror_id = lab.json("ls", listing[0]["id"])
    assert by_mirror_id["entries"]

    # And goes on: only what is new is sent.
    fill(volume.files, {"newest": rng.randbytes(3000)})
    document = lab.json("backup")
    assert [each["snapshot"] for each in document["mirror"]["copied"]] == [document["snapshot"]]
    assert document["mirror"]["bytes"] < 8 << 20
    assert len(document["mirror"]["skipped"]) == 2


def test_a_write_only_host_fills_its_mirror(lab: Lab, tmp_path: Path, rng: random.Random) -> None:
    volume = lab.volume("data", {"file": rng.randbytes(500_000)})
    mirror = tmp_path / "mirror"
    lab.init(volume, mirror={"url": str(mirror)})
    key = lab.directory / "meta.key"
    lab.json("key", "host-key", key)
    policy = json.loads(lab.policy.read_text())
    del policy["repository"]["identity_file"]
    policy["repository"]["meta_key_file"] = str(key)
    lab.policy.write_text(json.dumps(policy))
    hidden = lab.identity.rename(lab.directory / "in-the-safe.txt")
    lab.json("init", "--mirror-of", lab.repository)
    document = lab.json("backup")
    assert document["mirror"]["status"] == "ok"
    opened = Repository.open_write_only(open_storage(str(mirror)), key.read_text(), source="test")
    with pytest.raises(AccessDenied):
        opened.keys.get(data_key_wraps(opened.storage)[0].key_id)
    shutil.rmtree(lab.repository)
    hidden.rename(lab.identity)
    lab.write_policy(volume)
    name = lab.forget_later(f"{volume.name}-restored")
    lab.json("restore", "latest", "--repository", str(mirror), "--volume", volume.name, "--to-volume", name)
    assert_same(volume, lab.find(name))


def test_a_mirror_out_of_reach_leaves_the_backup_good(lab: Lab, rng: random.Random) -> None:
    volume = lab.volume("data", {"file": rng.randbytes(1000)})
    lab.init(volume, mirror={"url": "s3://bucket/prefix", "endpoint": "http://127.0.0.1:9", "region": "x"})
    result = lab.run(
        "backup", "--json", "--policy", lab.policy, env={"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
    )
    assert result.code == 3, result.stderr
    document = json.loads(result.stdout)
    assert (document["status"], document["mirror"]["status"]) == ("ok", "failed")
    assert document["mirror"]["error"]
    assert "is safe in the repository, but the mirror s3://bucket/prefix is behind" in result.stderr
    assert [each["id"] for each in lab.snapshots()] == [document["snapshot"]]


def test_bad_places(lab: Lab, tmp_path: Path, rng: random.Random) -> None:
    volume = lab.volume("data", {"file": rng.randbytes(1000)})
    lab.init(volume)
    lab.backup()
    place = tmp_path / "place"
    assert "no mirror is named" in lab.fails(2, "copy")
    assert "holds no drkit repository" in lab.fails(10, "copy", "--to", str(tmp_path))
    said = lab.fails(10, "init", "--repository", str(place), "--mirror-of", str(tmp_path / "nothing"))
    assert "nothing" in said
    assert not place.exists()
    before = sorted(map(lab.key, lab.objects()))
    assert "mirror of itself" in lab.fails(2, "init", "--mirror-of", str(lab.repository))
    assert "takes none of these options" in lab.fails(
        2, "init", "--mirror-of", str(place), "--escrow-recipient", "age1x"
    )
    assert "was not made as a mirror" in lab.fails(2, "copy", "--to", str(lab.repository))
    assert sorted(map(lab.key, lab.objects())) == before
    lab.json("init", "--repository", str(place), "--mirror-of", str(lab.repository))
    assert "holds a repository already" in lab.fails(
        1, "init", "--repository", str(place), "--mirror-of", str(lab.repository)
    )
    assert "was not found" in lab.fails(1, "copy", "zzzz", "--to", str(place))
    done = lab.drkit("copy", "--to", str(place))
    assert done.code == 0
    assert "copied 1 snapshot to" in done.stdout
    listing = lab.drkit("snapshots", "--repository", str(place))
    assert "COPY OF" in listing.stdout
    pruned = lab.json("prune", "--repository", str(place))
    assert pruned["status"] == "ok"


def test_a_flipped_bit_in_the_repository_does_not_reach_the_mirror(
    lab: Lab, tmp_path: Path, rng: random.Random
) -> None:
    volume = lab.volume("data", {"file": rng.randbytes(300_000)})
    place = tmp_path / "place"
    lab.init(volume)
    first = lab.backup()
    fill(volume.files, {"second": rng.randbytes(300_000)})
    before = set(lab.objects("packs/"))
    second = lab.backup()
    pack = max(set(lab.objects("packs/")) - before, key=lambda path: path.stat().st_size)
    body = bytearray(pack.read_bytes())
    body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    pack.unlink()
    pack.write_bytes(body)
    lab.json("init", "--repository", str(place), "--mirror-of", str(lab.repository))
    document = lab.json("copy", "--to", str(place), code=3)
    assert [each["snapshot"] for each in document["copied"]] == [first]
    assert [each["snapshot"] for each in document["failed"]] == [second]
    assert lab.key(pack) in document["failed"][0]["error"]
    assert lab.json("verify", "--repository", str(place))["errors"] == []
