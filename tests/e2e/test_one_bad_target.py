"""One target that cannot be planned, started or read: the others are backed up, and it is named once, with its hint."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import docker
import pytest

from tests.conftest import PROJECT
from tests.support.engine_proxy import Answer, EngineProxy, Request, refusal
from tests.support.lab import Lab, Result, laboratory
from tests.support.volume_plugin import SPECS, VolumePlugin

DEAD = (
    'get {}: error while checking if volume "{}" exists in driver "nas": Post "http://%2Frun%2Fnas.sock/VolumeDriver.Get"'
    ": dial unix /run/nas.sock: connect: connection refused"
)


class Two:
    """A healthy volume and a bad one, and a backup of both through a proxy that knows the bad one."""

    def __init__(self, lab: Lab, engine_url: str) -> None:
        self.lab, self._engine_url = lab, engine_url
        self.good = lab.volume("good", {"file": b"content"})
        self.bad = lab.volume("bad", {"file": b"content"})

    def backup(self, choose: Callable[[Request], Answer | None], *arguments: str, verb: str = "backup") -> Result:
        with EngineProxy(self._engine_url, self.lab.directory, choose) as proxied:
            return self.lab.drkit(verb, *arguments, env=proxied.env)

    def looks_at(self, name: str, answer: Answer) -> Callable[[Request], Answer | None]:
        return lambda request: answer if request.path.split("?")[0] == f"/volumes/{name}" else None


@pytest.fixture
def two(lab: Lab, engine_url: str) -> Two:
    return Two(lab, engine_url)


def only_bad_failed(result: Result, title: str, *, hinted: bool = True) -> dict[str, Any]:
    """The document of the bad target, after a look at all that was said."""
    assert result.code == 3, result
    document = json.loads(result.stdout)
    *others, bad = sorted(document["targets"], key=lambda target: target["status"] == "failed")
    assert [target["status"] for target in others] == ["ok"]
    assert (bad["status"], f"{bad['kind']} {bad['name']}") == ("failed", title)
    assert bool(bad["hint"]) is hinted
    hint = f"{bad['hint']} " if hinted else ""
    assert f"hint: {hint}The others are safe in snapshot {document['snapshot']}." in result.stderr
    assert result.stderr.count(f"{title}: ") == 1, result.stderr
    assert f"1 of 2 targets failed: {title}: " in result.stderr
    return dict(bad)


# --- of which the engine cannot tell


def test_a_volume_whose_driver_is_dead_fails_alone(two: Two) -> None:
    two.lab.init(two.good, two.bad)
    dead = two.looks_at(two.bad.name, refusal(500, DEAD.format(two.bad.name, two.bad.name)))
    bad = only_bad_failed(two.backup(dead, "--json"), f"volume {two.bad.name}")
    assert "connection refused" in bad["error"]
    assert f"docker volume inspect {two.bad.name}" in bad["hint"]
    # What the engine said may quote a secret, and is not in the record.
    [_, recorded] = two.lab.json("snapshots")["snapshots"][0]["targets"]
    assert recorded["status"] == "failed"
    assert "nas.sock" not in two.lab.drkit("snapshots", "--json").stdout
    # A plan says the same of both, and goes on.
    planned = json.loads(two.backup(dead, "--dry-run", "--json").stdout)["targets"]
    assert [bool(it["problem"]) for it in planned] == [False, True]
    assert planned[1]["hint"] == bad["hint"]
    assert two.backup(dead, verb="doctor").code == 0


@pytest.mark.parametrize(
    "answer",
    [
        refusal(500, "no"),
        Answer(200, b"null"),
        Answer(200, b"[1]"),
        Answer(200, b"<html>", "text/html"),
        Answer(200, b""),
        Answer(403, b"a proxy says no", "text/plain"),
    ],
)
def test_whatever_the_engine_answers_for_one_volume_or_image_the_others_are_backed_up(two: Two, answer: Answer) -> None:
    image = two.lab.image("app", {"file": b"app"})
    two.lab.init(two.good, two.bad)
    only_bad_failed(two.backup(two.looks_at(two.bad.name, answer), "--json"), f"volume {two.bad.name}")
    two.lab.write_policy(two.good, images=[image])
    odd = lambda request: answer if request.path.endswith(f"{image}/json") else None  # noqa: E731
    only_bad_failed(two.backup(odd, "--json"), f"image {image}")


def test_a_pattern_whose_listing_fails_fails_alone(two: Two) -> None:
    two.lab.init(two.good, {"match": f"{two.lab.name}-b*"})
    listing = lambda request: refusal(500, "list nas: dead") if request.path.startswith("/volumes?") else None  # noqa: E731
    bad = only_bad_failed(two.backup(listing, "--json"), f"volume {two.lab.name}-b*")
    assert "list nas: dead" in bad["error"]


@pytest.mark.parametrize("ref", ["a" * 300 + ":1", "sha256:0cdc48"])
def test_a_reference_that_no_image_can_have_fails_alone(two: Two, ref: str) -> None:
    two.lab.init(two.good, images=[ref])
    bad = only_bad_failed(two.lab.drkit("backup", "--json"), f"image {ref}")
    assert "not a valid image reference" in bad["error"]
    assert f"{two.lab.policy}:1: protect.images[0].ref" in two.lab.fails(2, "policy", "check")


# --- that cannot be read


def test_a_helper_that_cannot_be_started_for_one_volume_fails_that_one(two: Two) -> None:
    two.lab.init(two.bad, two.good)

    def refuse(request: Request) -> Answer | None:
        if request.path.startswith("/containers/create"):
            return refusal(500, "no space left on device") if next(refusals, False) else None
        return None

    refusals: Iterator[bool] = iter([True])
    bad = only_bad_failed(two.backup(refuse, "--json"), f"volume {two.bad.name}", hinted=False)
    assert "no space left on device" in bad["error"]


def test_without_a_helper_the_images_are_backed_up(two: Two) -> None:
    image = two.lab.image("app", {"file": b"app"})
    two.lab.init(two.bad, images=[image])
    # The helper is known by its id.
    none = lambda request: refusal(500, "no images") if "/images/sha256:" in request.path else None  # noqa: E731
    only_bad_failed(two.backup(none, "--json"), f"volume {two.bad.name}")


# --- all of them, and the engine itself


def test_where_all_are_bad_the_capture_failed(two: Two) -> None:
    two.lab.init(two.good, two.bad)
    result = two.backup(lambda request: refusal(500, "no") if request.path.startswith("/volumes/") else None, "--json")
    assert result.code == 15, result
    for volume in (two.good, two.bad):
        assert result.stderr.count(f"volume {volume.name}: ") == 1
        assert f"docker volume inspect {volume.name}" in result.stderr
    assert two.lab.snapshots() == []


def test_an_engine_that_is_away_ends_the_run(two: Two) -> None:
    two.lab.init(two.good, two.bad)
    dropped = Answer(0)
    seen = two.backup(lambda request: dropped, "--json")
    assert seen.code == 14, seen
    gone: list[Request] = []

    def go(request: Request) -> Answer | None:
        if gone or request.path == f"/volumes/{two.bad.name}":
            gone.append(request)
            return dropped
        return None

    assert two.backup(go, "--json").code == 14
    assert two.lab.snapshots() == []


# --- for real


class Own(NamedTuple):
    """An engine, and the directory where it alone looks for plugins."""

    host: str
    specs: Path


@pytest.fixture
def engine_apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Own]:
    """An engine waits 15 s for a dead plugin at every listing, for as long as it runs: no other test is to do so."""
    place = tmp_path_factory.mktemp("engine")
    root, specs, script = place / "root", place / "specs", PROJECT / "scripts" / "engine"
    specs.mkdir()
    SPECS.mkdir(parents=True, exist_ok=True)
    apart = ["unshare", "--mount", "sh", "-ec", 'mount --bind "$1" "$2"; exec "$3" start --root "$4"', "sh"]
    subprocess.run([*apart, specs, SPECS, script, root], check=True)
    try:
        told = subprocess.run([script, "env", "--root", root], check=True, capture_output=True, text=True).stdout
        host = next(line.split("=", 1)[1].strip("'\"") for line in told.splitlines() if "DOCKER_HOST=" in line)
        yield Own(host, specs)
    finally:
        subprocess.run([script, "remove", "--root", root], check=True)


def test_a_volume_plugin_with_a_dead_socket(engine_apart: Own, tmp_path: Path, unique_name: str) -> None:
    api = docker.APIClient(base_url=engine_apart.host, timeout=120)
    driver = f"{unique_name}-nas"
    with VolumePlugin(driver, tmp_path, engine_apart.specs) as plugin, laboratory(api, tmp_path, unique_name) as lab:
        good = lab.volume("good", {"file": b"content"})
        api.create_volume(f"{lab.name}-bad", driver=driver)
        plugin.die()
        lab.init(good, f"{lab.name}-bad")
        result = lab.drkit("backup", "--json", env={**os.environ, "DOCKER_HOST": engine_apart.host})
        bad = only_bad_failed(result, f"volume {lab.name}-bad")
        assert "connection refused" in bad["error"] or "no such file" in bad["error"]
