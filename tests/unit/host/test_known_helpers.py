"""What a host remembers of the helper images that it built, of its scratch volumes and of its restored copies."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from drkit.errors import DrkitError
from drkit.host.known_helpers import KnownHelper, KnownHelpers
from drkit.host.restored_copies import RestoredCopies
from drkit.host.scratch_volumes import ScratchVolumes
from tests.support.events import RecordedEvents

IMAGE_ID, OTHER_ID = "sha256:" + "0a" * 32, "sha256:" + "0b" * 32
KNOWN = KnownHelper("ENGINE /data", "amd64", IMAGE_ID, "host", "1.34", "3")


@pytest.fixture
def events() -> RecordedEvents:
    return RecordedEvents()


@pytest.fixture
def helpers(tmp_path: Path, events: RecordedEvents) -> KnownHelpers:
    return KnownHelpers(tmp_path / "state" / "helpers", events)


def test_a_helper_is_known_for_its_engine_and_architecture_alone(helpers: KnownHelpers) -> None:
    assert helpers.of("ENGINE /data", "amd64") is None
    assert helpers.all() == []
    helpers.note(KNOWN)
    assert helpers.of("ENGINE /data", "amd64") == KNOWN
    assert helpers.of("ENGINE /data", "arm64") is None
    assert helpers.of("OTHER /data", "amd64") is None
    assert helpers.path(KNOWN.engine, KNOWN.arch).stat().st_mode & 0o777 == 0o600
    helpers.note(replace(KNOWN, arch="arm64"))
    helpers.note(replace(KNOWN, image_id=OTHER_ID))
    assert sorted(known.arch for known in helpers.all()) == ["amd64", "arm64"]
    found = helpers.of("ENGINE /data", "amd64")
    assert found is not None and found.image_id == OTHER_ID


def _written(**changed: object) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(json.dumps({**asdict(KNOWN), **changed}))

    return write


def _replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.unlink()
        make(path)

    return change


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text(""),
        lambda path: path.write_text("[]"),
        lambda path: path.write_bytes(b"\xff"),
        lambda path: path.write_text("[" * 50_000),
        lambda path: path.write_text(path.read_text()[:-5]),
        _written(image_id="sha256:0a0a"),
        _written(image_id="alpine:3"),
        _written(image_id=5),
        _written(engine="OTHER /data"),
        _written(arch="arm64"),
        _written(more="x"),
        lambda path: path.chmod(0o666),
        lambda path: path.chmod(0o620),
        lambda path: os.chown(path, 4242, 0),
        _replaced(lambda path: path.mkdir()),
        _replaced(lambda path: os.mkfifo(path, 0o600)),
        _replaced(lambda path: path.symlink_to("/etc/hostname")),
    ],
)
def test_a_file_that_cannot_be_trusted_is_as_if_none_had_been_built(
    helpers: KnownHelpers, events: RecordedEvents, damage: Callable[[Path], object]
) -> None:
    helpers.note(KNOWN)
    damage(helpers.path(KNOWN.engine, KNOWN.arch))

    assert helpers.of(KNOWN.engine, KNOWN.arch) is None
    assert helpers.of(KNOWN.engine, KNOWN.arch) is None

    [warning] = events.warnings
    assert str(helpers.path(KNOWN.engine, KNOWN.arch)) in warning
    assert "another is built" in warning
    if not helpers.path(KNOWN.engine, KNOWN.arch).is_dir():
        helpers.note(KNOWN)
        assert helpers.of(KNOWN.engine, KNOWN.arch) == KNOWN


def test_a_directory_that_cannot_be_written_is_told_by_note_alone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    helpers = KnownHelpers(tmp_path / "file" / "helpers")
    with helpers.building():
        assert helpers.all() == []
    with pytest.raises(DrkitError) as caught:
        helpers.note(KNOWN)
    assert caught.value.hint is not None and "DRKIT_STATE_DIR" in caught.value.hint


# --- volumes that are not data


def test_a_scratch_volume_is_known_while_it_is_in_use(tmp_path: Path) -> None:
    scratch = ScratchVolumes(tmp_path / "scratch")
    removed: list[str] = []
    with scratch.one() as name, scratch.one() as other:
        assert name != other
        assert scratch.made(name) and scratch.made(other)
        assert not ScratchVolumes(tmp_path / "other").made(name)
        scratch.remove_left(removed.append)
        assert removed == [], "it is in use"
    assert not scratch.made(name)


def test_what_a_killed_run_left_is_removed_by_the_next_and_only_that(tmp_path: Path) -> None:
    scratch = ScratchVolumes(tmp_path / "scratch")
    with pytest.raises(KeyboardInterrupt), scratch.one() as name:
        raise KeyboardInterrupt
    (tmp_path / "scratch" / "production").touch()
    assert scratch.made(name)

    def refuse(volume: str) -> None:
        raise DrkitError(volume)

    scratch.remove_left(refuse)
    assert scratch.made(name), "it is not removed yet"
    removed: list[str] = []
    scratch.remove_left(removed.append)
    assert removed == [name]
    assert not scratch.made(name)


def test_scratch_volumes_need_no_state(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    scratch = ScratchVolumes(tmp_path / "file" / "scratch")
    with scratch.one() as name:
        assert name.startswith("drkit-probe-")
        assert not scratch.made(name)
    scratch.remove_left(lambda volume: pytest.fail(volume))


def test_a_copy_is_known_by_the_restore_that_made_it(tmp_path: Path) -> None:
    copies = RestoredCopies(tmp_path / "state" / "copies")
    assert copies.made_by("data-restored") is None
    copies.note("data-restored", "0011")
    copies.note("data-restored", "2233")
    assert copies.made_by("data-restored") == "2233"
    (tmp_path / "state" / "copies" / "data-restored").write_bytes(b"\xff")
    assert copies.made_by("data-restored") is None
