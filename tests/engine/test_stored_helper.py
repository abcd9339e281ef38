"""Helper images that a snapshot brings, on a real engine: what an intruder put there, and what is left of it."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import docker
import pytest

from drkit.engine import images
from drkit.engine.client import Engine
from drkit.engine.helper.build import Built, build_from_host
from drkit.engine.helper.host_tools import HostImage, host_image, image_archive
from drkit.engine.helper.image import HelperImage
from drkit.engine.helper.stored import helper_archive, load_helper
from drkit.errors import DrkitError, IntegrityError
from drkit.host.state import HostState
from drkit.targets import helper as choice
from tests.support.events import RecordedEvents


@pytest.fixture(scope="module")
def engine(engine_url: str) -> Iterator[Engine]:
    with Engine.connect(engine_url, RecordedEvents()) as engine:
        yield engine


@pytest.fixture(scope="module")
def api(engine_url: str) -> Iterator[docker.APIClient]:
    with closing(docker.APIClient(base_url=engine_url, timeout=120)) as api:
        yield api


@pytest.fixture
def state(tmp_path: Path, engine: Engine) -> HostState:
    return HostState(tmp_path / "state", engine.events)


@pytest.fixture
def no_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host where no helper can be built."""

    def fail(*arguments: object, **options: object) -> Built:
        raise DrkitError("no tools here", hint="Install them.")

    monkeypatch.setattr(choice, "build_from_host", fail)
    monkeypatch.setattr(choice, "build_from_alpine", lambda *arguments, **options: None)


@pytest.fixture
def own(engine: Engine) -> HelperImage:
    return build_from_host(engine).helper


@pytest.fixture(scope="module")
def liar() -> HostImage:
    """An image whose tar says that it is GNU tar, and does nothing."""
    script = b"#!/bin/sh\n[ \"$1\" != --version ] || echo 'tar (GNU tar) 1.34'\n"
    honest = host_image({})
    layer = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(honest.archive)) as image,
        tarfile.open(fileobj=image.extractfile("0/layer.tar")) as given,
        tarfile.open(fileobj=layer, mode="w") as made,
    ):
        for member in given:
            content = given.extractfile(member)
            data = script if member.name == "bin/tar" else content.read() if content else b""
            member.size = len(data)
            made.addfile(member, io.BytesIO(data))
    return image_archive(layer.getvalue(), {})


def everything(api: docker.APIClient) -> dict[str, list[str] | None]:
    return {image["Id"]: image["RepoTags"] for image in api.images(all=True)}


def stored(archive: bytes) -> Callable[[str], Iterator[bytes]]:
    return lambda image_id: iter([archive])


@pytest.mark.usefixtures("no_tools")
def test_a_stored_helper_that_does_not_work_is_removed_again(
    engine: Engine, api: docker.APIClient, state: HostState, liar: HostImage
) -> None:
    before = everything(api)
    with pytest.raises(DrkitError) as caught:
        choice.helper_for_restore(engine, state, liar.image_id, stored(liar.archive), run_id="test")
    assert f"helper image {liar.image_id[:19]} from repository does not work: " in caught.value.message
    assert everything(api) == before
    assert state.helpers.all() == []


@pytest.mark.usefixtures("no_tools")
def test_an_archive_under_a_false_id_never_reaches_the_engine(
    engine: Engine, api: docker.APIClient, state: HostState, liar: HostImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> list[str]:
        raise AssertionError("it was loaded")

    monkeypatch.setattr(images, "load", fail)
    before = everything(api)
    with pytest.raises(IntegrityError, match="no configuration has that id"):
        choice.helper_for_restore(engine, state, f"sha256:{'0a' * 32}", stored(liar.archive), run_id="test")
    assert everything(api) == before


def test_a_load_moves_no_tag_and_brings_no_other_image(
    engine: Engine, api: docker.APIClient, own: HelperImage, busybox_image: str, unique_name: str
) -> None:
    """An archive as earlier versions stored it has tags; this one claims production's, and holds its image too."""
    production = api.inspect_image(busybox_image)["Id"]
    api.tag(own.image_id, unique_name, "helper")
    archive = b"".join(images.save(engine, [f"{unique_name}:helper"]))
    api.remove_image(own.image_id, force=True)
    assert api.inspect_image(busybox_image)["Id"] == production
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(archive)) as given, tarfile.open(fileobj=out, mode="w") as made:
        for member in given:
            content = given.extractfile(member)
            data = content.read() if content else b""
            if member.name == "manifest.json":
                [image] = json.loads(data)
                data = json.dumps([{**image, "RepoTags": [busybox_image]}]).encode()
            elif member.name == "repositories":
                data = json.dumps({"drkit-test/busybox": {"1": "x"}}).encode()
            member.size = len(data)
            made.addfile(member, io.BytesIO(data))

    loaded = load_helper(engine, iter([out.getvalue()]), own.image_id, run_id="test")

    assert (loaded.helper.image_id, loaded.helper.source, loaded.new) == (own.image_id, "repository", True)
    assert not loaded.helper.privileged
    assert api.inspect_image(busybox_image)["Id"] == production
    assert api.inspect_image(own.image_id)["RepoTags"] == []
    again = load_helper(engine, helper_archive(engine, own), own.image_id, run_id="test")
    assert not again.new, "the engine had it"


@pytest.mark.usefixtures("no_tools")
def test_without_an_id_nothing_is_even_asked_of_the_repository(engine: Engine, state: HostState) -> None:
    def ask(image_id: str) -> Iterator[bytes]:
        raise AssertionError(image_id)

    with pytest.raises(DrkitError, match="no tools here") as caught:
        choice.helper_for_restore(engine, state, None, ask, run_id="test")
    assert caught.value.hint == "Install them. Or allow the one that the kit names: --trust-helper ID."
    with pytest.raises(DrkitError, match=f"No snapshot keeps the one with the id sha256:{'0a' * 32}"):
        choice.helper_for_restore(engine, state, f"sha256:{'0a' * 32}", lambda image_id: None, run_id="test")


def test_a_helper_that_was_built_and_does_not_work_is_neither_kept_nor_noted(
    engine: Engine, api: docker.APIClient, state: HostState, liar: HostImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Say that the packages of an Alpine image are broken: then the host's tools serve."""
    events = engine.events
    assert isinstance(events, RecordedEvents)
    api.load_image(liar.archive)

    def alpine(engine: Engine, *, run_id: str) -> Built:
        return Built(HelperImage(liar.image_id, "alpine", "1.34", engine.arch(), full=True), new=True)

    monkeypatch.setattr(choice, "build_from_alpine", alpine)
    monkeypatch.setattr(type(state.helpers), "lasts", lambda self: True)
    helper = choice.ensure_helper(engine, state)
    assert helper.source == "host"
    assert liar.image_id not in everything(api)
    assert [known.image_id for known in state.helpers.all()] == [helper.image_id]
    assert any("trying another way" in note for note in events.notes)
    assert choice.ensure_helper(engine, state) == helper
