"""Which helper runs: the one that this host built, whatever images, tags, volumes and snapshots say of themselves."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import docker
import pytest

from drkit.engine.helper import host_tools
from tests.support.lab import PROJECT, Lab, Result, Volume, finish

FILES = {"a/file": b"content" * 1000, "b": b"small"}
EVIL = [
    {"drkit.helper.image": "2", "drkit.helper.source": "alpine", "drkit.helper.tar": "1.35"},
    {"drkit.helper.image": "2", "drkit.helper.source": "host"},
    {"drkit.helper.image": "3"},
    {"drkit.helper": "run", "drkit.helper.image": "3", "drkit.helper.source": "stock"},
]


@contextmanager
def labelled_image(lab: Lab, labels: dict[str, str]) -> Iterator[str]:
    """An image that says of itself that it is drkit's helper; it would do everything that a helper is asked, badly."""
    lines = "".join(f'LABEL {key}="{value}"\n' for key, value in labels.items())
    text = f"FROM drkit-test/busybox:1\n{lines}"
    built = [json.loads(line) for line in lab.api.build(fileobj=io.BytesIO(text.encode()), rm=True) if line.strip()]
    [image_id] = [each["aux"]["ID"] for each in built if "aux" in each]
    lab.api.tag(image_id, "drkit-helper", "host-000000000000")
    try:
        yield image_id
    finally:
        lab.api.remove_image(image_id, force=True)


def fresh(lab: Lab) -> Path:
    """Let the host know no helper; where it would be noted."""
    shutil.rmtree(lab.state / "helpers")
    return lab.state / "helpers"


def noted(lab: Lab) -> dict[str, Any]:
    [file] = (lab.state / "helpers").glob("*.json")
    fields: dict[str, Any] = json.loads(file.read_text())
    return fields


def seconds(stamp: str) -> str:
    """A time of the engine's as its events take it."""
    cut = re.sub(r"([.][0-9]{6})[0-9]*Z", r"\1+00:00", stamp)
    return f"{datetime.fromisoformat(cut).timestamp():.6f}"


@contextmanager
def started_images(lab: Lab) -> Iterator[set[str]]:
    """The images of the containers that start meanwhile, when the context has ended."""
    since = lab.api.info()["SystemTime"]
    found: set[str] = set()
    yield found
    until = lab.api.info()["SystemTime"]
    events = lab.api.events(since=seconds(since), until=seconds(until), filters={"event": "start"}, decode=True)
    found |= {event["from"] for event in events}


# --- images that say what they are ------------------------------------------------------------------------------------


def test_images_with_drkits_labels_are_not_run(lab: Lab) -> None:
    """With all the labels that drkit ever gave its own, or with some of them, and newer than its own."""
    volume = lab.volume("data", FILES)
    lab.init(volume)
    own = noted(lab)["image_id"]
    with ExitStack() as stack:
        for labels in EVIL:
            assert stack.enter_context(labelled_image(lab, labels)) != own
        for known in (True, False):
            if not known:
                fresh(lab)
            with started_images(lab) as started:
                lab.backup()
            assert started == {own}
    assert noted(lab)["image_id"] == own


def test_a_tag_that_somebody_moves_does_not_matter(lab: Lab, busybox_image: str) -> None:
    volume = lab.volume("data", FILES)
    lab.init(volume)
    own = noted(lab)["image_id"]
    tag = f"host-{own.removeprefix('sha256:')[:12]}"
    lab.api.tag(busybox_image, "drkit-helper", tag, force=True)
    try:
        for known in (True, False):
            if not known:
                fresh(lab)
            lab.backup()
            assert noted(lab)["image_id"] == own
            assert lab.api.inspect_image(f"drkit-helper:{tag}")["Id"] == lab.api.inspect_image(busybox_image)["Id"]
    finally:
        lab.api.tag(own, "drkit-helper", tag, force=True)


def test_a_stock_image_is_named_and_not_the_beginning_of_an_id(lab: Lab, stock_alpine_image: str) -> None:
    """The engine would take it for one. It is asked for the name that the reference means, which no registry has."""
    volume = lab.volume("data", FILES)
    short = lab.api.inspect_image(stock_alpine_image)["Id"].removeprefix("sha256:")[:10]
    lab.init(volume, helper={"image": short})
    assert f"drkit: pull of image {short}: " in lab.fails(1, "backup")
    assert lab.snapshots() == []
    lab.write_policy(volume, helper={"image": stock_alpine_image})
    lab.backup()


# --- volumes that say what they are -----------------------------------------------------------------------------------


def test_labels_hide_no_volume(lab: Lab) -> None:
    volumes = [
        lab.volume("plain", FILES),
        lab.volume("helper", FILES, labels={"drkit.helper": "run"}),
        lab.volume("restore", FILES, labels={"drkit.restore": "0011223344556677"}),
        lab.volume("both", FILES, labels={"drkit.restore": "", "drkit.helper": "", "drkit.scratch": "1"}),
    ]
    lab.init({"match": f"{lab.name}-*"})
    targets = lab.json("backup")["targets"]
    assert {target["name"]: target["status"] for target in targets} == {volume.name: "ok" for volume in volumes}


def test_a_restored_copy_is_left_out_by_name_as_long_as_nobody_uses_it(lab: Lab, busybox_image: str) -> None:
    volume = lab.volume("data", FILES)
    lab.init({"match": f"{lab.name}-*"})
    lab.backup()
    copy = lab.restore(volume, name=f"{lab.name}-copy")
    label = lab.api.inspect_volume(copy.name)["Labels"]["drkit.restore"]
    claims = lab.volume("claims", FILES, labels={"drkit.restore": label})

    def captured(code: int = 0) -> tuple[set[str], str]:
        result = lab.drkit("backup", "--json")
        assert result.code == code, result
        return {target["name"] for target in json.loads(result.stdout)["targets"]}, result.stderr

    names, said = captured()
    assert names == {volume.name, claims.name}
    assert f"volume {copy.name} is not backed up: a copy that drkit restored here" in said
    # A container mounts it, even a stopped one: it has become production.
    host = lab.api.create_host_config(binds=[f"{copy.name}:/data"])
    box = lab.api.create_container(busybox_image, "true", host_config=host)["Id"]
    names, said = captured()
    assert copy.name in names and "not backed up" not in said
    lab.api.remove_container(box)
    names, said = captured()
    assert names == {volume.name, claims.name}, "it is left out again, and not gone"
    # Somebody made another one of that name, which holds less than it did when it was production.
    lab.remove(copy)
    lab.api.create_volume(copy.name)
    names, said = captured(3)
    assert copy.name in names and "not backed up" not in said


def test_a_policy_that_names_a_copy_has_it(lab: Lab) -> None:
    volume = lab.volume("data", FILES)
    lab.init(volume)
    lab.backup()
    copy = lab.restore(volume)
    lab.write_policy(copy, {"match": f"{lab.name}-*"})
    assert {target["name"] for target in lab.json("backup")["targets"]} == {volume.name, copy.name}


def test_what_took_the_original_name_is_production(lab: Lab) -> None:
    volume = lab.volume("data", FILES)
    lab.init({"match": f"{lab.name}-*"})
    lab.backup()
    lab.remove(volume)
    assert lab.drkit("restore", "latest", "--volume", volume.name).code == 0
    [target] = lab.json("backup")["targets"]
    assert (target["name"], target["status"]) == (volume.name, "ok")


def test_a_scratch_volume_of_a_probe_is_not_data_and_a_left_one_goes(lab: Lab) -> None:
    volume = lab.volume("data", FILES)
    lab.init({"match": f"{lab.name}-*"}, {"match": "drkit-probe-*"})
    name = lab.forget_later("drkit-probe-0123456789abcdef")
    lab.api.create_volume(name, labels={"drkit.helper": "probe"})
    # Of another host's drkit, or somebody's: it is captured.
    assert {target["name"] for target in lab.json("backup")["targets"]} == {volume.name, name}
    (lab.state / "scratch").mkdir(mode=0o700, exist_ok=True)
    (lab.state / "scratch" / name).touch()
    result = lab.drkit("backup")
    assert f"volume {name} is not backed up: drkit made it to try a helper out" in result.stderr
    assert lab.run("helper", "probe").code == 0
    assert not lab.exists(name)
    assert list((lab.state / "scratch").iterdir()) == []


def test_an_image_cannot_make_a_container_drkits_own(lab: Lab) -> None:
    """What an image brings is merged into a container's labels; a restore removes helpers of its own run alone."""
    volume = lab.volume("data", FILES)
    lab.init(volume)
    lab.backup()
    new = lab.forget_later(f"{lab.name}-new")
    (lab.state / "restores").mkdir(mode=0o700, exist_ok=True)
    (lab.state / "restores" / new).write_text("00112233")
    with labelled_image(lab, {"drkit.helper": "00112233"}) as image:
        box = lab.api.create_container(image, "true")["Id"]
        try:
            assert lab.api.inspect_container(box)["Config"]["Labels"]["drkit.helper"] == "00112233"
            assert lab.drkit("restore", "latest", "--volume", volume.name, "--to-volume", new).code == 0
            assert lab.api.inspect_container(box)["Id"] == box
        finally:
            lab.api.remove_container(box)


# --- the state of this host -------------------------------------------------------------------------------------------


def change(lab: Lab, **fields: str) -> None:
    [file] = (lab.state / "helpers").glob("*.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


@pytest.fixture
def foreign(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The id of an image of another architecture."""
    monkeypatch.setattr(host_tools, "HOST_ARCH", "s390x")
    made = host_tools.image_archive(bytes(1024), {})
    lab.api.load_image(made.archive)
    yield made.image_id
    lab.api.remove_image(made.image_id)


def test_a_state_that_is_wrong_gives_another_helper_and_is_told(lab: Lab, foreign: str) -> None:
    volume = lab.volume("data", FILES)
    lab.init(volume)
    own = noted(lab)
    gone = f"sha256:{'0a' * 32}"
    for fields, said in (
        ({"image_id": gone}, f"helper image {gone[:19]}: no longer in the engine; another takes its place"),
        ({"image_id": foreign}, f"helper image {foreign[:19]}: made for s390x, the engine runs"),
        ({"image_id": "drkit-test/busybox:1", "recipe": "0"}, "it is damaged"),
    ):
        change(lab, **fields)
        result = lab.drkit("backup")
        assert result.code == 0, result
        assert said in result.stderr
        assert noted(lab) == own


def test_a_state_that_cannot_be_written_is_told_and_every_run_builds(lab: Lab) -> None:
    fresh(lab).touch()  # a file, where the directory should be
    for _ in range(2):
        result = lab.run("helper", "probe")
        assert result.code == 0, result
        assert "every run builds the helper image again" in result.stderr


def test_two_first_runs_at_once_build_one_helper(lab: Lab) -> None:
    fresh(lab)
    first, second = (lab.start("helper", "probe", "--json") for _ in range(2))
    results = [finish(process) for process in (first, second)]
    assert [result.code for result in results] == [0, 0], results
    ids = {json.loads(result.stdout)["helper"]["image_id"] for result in results}
    assert ids == {noted(lab)["image_id"]}
    # The one that waited built nothing, and so has nothing to say of a new helper.
    assert sum("the next one builds" in result.stderr for result in results) <= 1


@contextmanager
def relayed(path: str) -> Iterator[str]:
    """The engine behind a socket, as one that answers on a TCP port of this machine."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def copy(source: socket.socket, target: socket.socket) -> None:
            with suppress(OSError):
                while data := source.recv(1 << 16):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

        def connect(client: socket.socket) -> None:
            with client, socket.socket(socket.AF_UNIX) as engine:
                engine.connect(path)
                back = threading.Thread(target=copy, args=(engine, client))
                back.start()
                copy(client, engine)
                back.join()

        def serve() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=connect, args=server.accept()[:1], daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def test_an_engine_has_one_helper_by_whatever_address_it_is_reached(lab: Lab, engine_url: str) -> None:
    volume = lab.volume("data", FILES)
    lab.init(volume)
    before = noted(lab)
    with relayed(engine_url.removeprefix("unix://")) as address:
        result = lab.drkit("backup", env={"DOCKER_HOST": address})
    assert result.code == 0, result
    assert noted(lab) == before


# --- a bare host ------------------------------------------------------------------------------------------------------


class BareHost:
    """A host with an engine that has never seen drkit, an empty state directory, and no GNU find to build a helper."""

    def __init__(self, lab: Lab, directory: Path, engine: str) -> None:
        self.lab, self.directory = lab, directory
        self.api = docker.APIClient(base_url=engine, timeout=60)
        self.env = {
            "DOCKER_HOST": engine,
            "DRKIT_REPOSITORY": str(lab.repository),
            "DRKIT_IDENTITY_FILE": str(lab.identity),
            "DRKIT_STATE_DIR": str(directory / "state"),
        }
        self.find = directory / "find"
        self.find.write_text("#!/bin/sh\necho BusyBox\n")
        self.find.chmod(0o755)

    def run(self, *arguments: str, env: Mapping[str, str] | None = None, tools: bool = False) -> Result:
        hide = 'mount --bind "$0" /usr/bin/find; ' if not tools else ""
        command = ["unshare", "--mount", "sh", "-ec", f'{hide}exec "$@"', str(self.find)]
        process = subprocess.Popen(
            [*command, sys.executable, "-m", "drkit", *arguments],
            env=self.lab.environment({**self.env, **(env or {})}),
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return finish(process)

    def volumes(self) -> list[str]:
        return [volume["Name"] for volume in self.api.volumes()["Volumes"] or []]

    def images(self) -> set[str]:
        return {image["Id"] for image in self.api.images(all=True)}


@pytest.fixture(scope="module")
def other_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = str(tmp_path_factory.mktemp("bare") / "engine")
    script = str(PROJECT / "scripts" / "engine")
    subprocess.run([script, "start", "--root", root], check=True, capture_output=True, timeout=120)
    try:
        told = subprocess.run([script, "env", "--root", root], check=True, capture_output=True, text=True).stdout
        yield next(line.partition("DOCKER_HOST=")[2] for line in told.splitlines() if "DOCKER_HOST=" in line)
    finally:
        subprocess.run([script, "remove", "--root", root], check=True, capture_output=True, timeout=120)


@pytest.fixture
def bare(lab: Lab, tmp_path: Path, other_engine: str) -> Iterator[BareHost]:
    directory = tmp_path / "bare"
    directory.mkdir()
    host = BareHost(lab, directory, other_engine)
    with closing(host.api):
        yield host
        for name in host.volumes():
            host.api.remove_volume(name)
        for image in host.images():
            host.api.remove_image(image, force=True)


def saved(lab: Lab, **entry: Any) -> Volume:
    volume = lab.volume("data", FILES)
    lab.init({"name": volume.name, **entry})
    lab.backup()
    return volume


def test_a_bare_host_runs_a_stored_helper_only_under_the_id_of_the_kit(bare: BareHost) -> None:
    volume = saved(bare.lab)
    kit = bare.lab.drkit("key", "kit").stdout
    [image_id] = re.findall(r"Helper image   (sha256:[0-9a-f]{64})", kit)
    assert image_id == noted(bare.lab)["image_id"]
    restore = ["restore", "latest", "--volume", volume.name]

    refused = bare.run(*restore)
    assert refused.code == 1
    assert "no helper can be built here: helper image: /usr/bin/find is not GNU find" in refused.stderr
    assert "--trust-helper ID" in refused.stderr
    assert image_id not in refused.stderr, "nobody should copy it from there"
    for trusted, code in ((image_id[:30], 2), (image_id.removeprefix("sha256:"), 2), (f"sha256:{'0a' * 32}", 1)):
        result = bare.run(*restore, "--trust-helper", trusted)
        assert (result.code, "Traceback" in result.stderr) == (code, False), result
    assert (bare.images(), bare.volumes()) == (set(), [])

    done = bare.run(*restore, "--trust-helper", image_id, "--json")

    assert done.code == 0, done
    document = json.loads(done.stdout)
    assert (document["verified"], document["lost"]) == (True, [])
    assert document["verified_by"] == f"the stored helper {image_id[:19]} alone"
    assert (document["helper"]["image_id"], document["helper"]["source"]) == (image_id, "repository")
    assert "alone verifies it" in done.stderr
    restored = Path(bare.api.inspect_volume(volume.name)["Mountpoint"])
    assert (restored / "a" / "file").read_bytes() == FILES["a/file"]
    assert [image["RepoTags"] for image in bare.api.images()] in ([None], [["<none>:<none>"]])
    # It is trusted for that restore alone, and never noted as a helper that was built here.
    assert list((bare.directory / "state" / "helpers").glob("*.json")) == []
    again = [*restore, "--to-volume", "again"]
    assert bare.run(*again).code == 1
    said = bare.run(*again, "--trust-helper", image_id)
    assert f"verified by the stored helper {image_id[:19]} alone" in said.stdout


def test_where_a_helper_can_be_built_a_stored_one_does_not_run(bare: BareHost) -> None:
    volume = saved(bare.lab)
    image_id = noted(bare.lab)["image_id"]
    restore = ["restore", "latest", "--volume", volume.name, "--trust-helper", f"sha256:{'0a' * 32}", "--json"]
    done = bare.run(*restore, tools=True)
    assert done.code == 0, done
    document = json.loads(done.stdout)
    assert document["verified_by"] == "own helper"
    assert document["helper"]["source"] == "host"
    assert document["helper"]["image_id"] == image_id, "the same tools give the same id"


def test_the_id_in_this_hosts_state_is_enough(bare: BareHost) -> None:
    """The engine's data is gone, and so are the tools; the state says which image was built here."""
    volume = saved(bare.lab)
    assert bare.run("helper", "build", tools=True).code == 0
    for image in bare.images():
        bare.api.remove_image(image, force=True)
    done = bare.run("restore", "latest", "--volume", volume.name, "--json")
    assert done.code == 0, done
    assert json.loads(done.stdout)["helper"]["source"] == "repository"


@contextmanager
def created_capabilities(api: docker.APIClient) -> Iterator[list[list[str]]]:
    """The capabilities that each container was given that is created meanwhile."""
    found: list[list[str]] = []
    events = api.events(decode=True, filters={"event": "create", "type": "container"})

    def watch() -> None:
        for event in events:
            with suppress(docker.errors.NotFound):
                found.append(api.inspect_container(event["id"])["HostConfig"]["CapAdd"])

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    yield found
    events.close()
    watching.join(10)


def test_a_stored_helper_gets_no_sys_admin_and_what_that_loses_is_told(bare: BareHost) -> None:
    lab = bare.lab
    volume = lab.volume("data", FILES)
    os.setxattr(volume.files / "b", "trusted.overlay.opaque", b"y")
    os.setxattr(volume.files / "b", "user.kept", b"y")
    lab.init({"name": volume.name, "trusted_xattrs": True})
    lab.backup()
    with created_capabilities(bare.api) as capabilities:
        done = bare.run(
            "restore", "latest", "--volume", volume.name, "--trust-helper", noted(lab)["image_id"], "--json"
        )
    assert done.code == 3, done
    document = json.loads(done.stdout)
    assert (document["status"], document["verified"]) == ("partial", True)
    assert "trusted.* xattrs" in document["lost"][0]
    assert "restored without trusted.* xattrs" in done.stderr
    restored = Path(bare.api.inspect_volume(volume.name)["Mountpoint"])
    assert os.listxattr(restored / "b") == ["user.kept"]
    assert capabilities, "no helper was seen"
    assert all("SYS_ADMIN" not in each for each in capabilities), capabilities
