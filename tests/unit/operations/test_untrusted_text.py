"""Text that images, volumes and helpers choose: it never makes a record too large, at worst it fails its own target."""

from __future__ import annotations

from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest

from drkit.engine import image_identity, volumes
from drkit.engine.image_identity import ImageIdentity
from drkit.errors import CaptureFailed
from drkit.operations import backup_run
from drkit.repository.format.kinds import Kind, Status
from drkit.repository.format.limits import SEALED
from drkit.repository.format.names import plain_text
from drkit.repository.format.record import encode_snapshot
from drkit.repository.format.snapshot import Snapshot, Target, format_time
from drkit.targets import KINDS, image, volume
from drkit.targets.base import Planned
from tests.support.repositories import NOW

ROOM = SEALED["snapshot"].payload // 2
CAPTURING: Any = SimpleNamespace(
    engine=SimpleNamespace(time=lambda: NOW),
    now=NOW,
    writer=SimpleNamespace(bytes_stored=0, flush=lambda: None, put_data=bytes, put_tree=bytes),
    ready=SimpleNamespace(helper=None),
    repository=SimpleNamespace(meta=SimpleNamespace(member=bytes(32))),
    salt=bytes(32),
)


def capture(monkeypatch: pytest.MonkeyPatch, act: Any, room: int = ROOM) -> Target:
    monkeypatch.setitem(KINDS, Kind.VOLUME, SimpleNamespace(capture=act))
    target, _ = backup_run._capture(CAPTURING, Planned(Kind.VOLUME, "v", exclude=("*.tmp",)), None, room)
    return target


@pytest.mark.parametrize("text", ["x", "é", "\x1b", "\udc80"])
def test_a_long_error_is_cut(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    def act(*rest: Any) -> None:
        raise CaptureFailed(f"volume v: the helper said: {text * 10_000_000}")

    target = capture(monkeypatch, act)
    assert target.status == Status.FAILED
    error = target.error or ""
    assert error.startswith("volume v: the helper said: ")
    assert error.endswith(" ...")
    assert len(error) <= 4096
    assert len(encode_snapshot(Snapshot("1", format_time(NOW), "h", "p", Status.PARTIAL, [target]))) < 100_000


@pytest.mark.parametrize("size", [0, 1, 20, 4095, 4096])
def test_a_short_error_is_whole(size: int) -> None:
    assert plain_text("x" * size) == "x" * size
    assert len(plain_text("\x1b" * 4096)) <= 4096
    assert plain_text("x" * 5000).startswith("x" * 4000)


@pytest.mark.parametrize("field", ["Labels", "Options"])
def test_a_volume_with_a_huge_label_fails_alone_and_before_it_is_read(
    monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    document = {"Name": "v", "Driver": "local", field: {"note": "x" * (10 << 20)}}
    monkeypatch.setattr(volumes, "inspect", lambda engine, name: document)
    target = capture(monkeypatch, volume.capture)
    assert (target.status, target.tree) == (Status.FAILED, [])
    assert "volume.json has" in (target.error or "")
    assert len(str(target.source)) < 1000


def test_an_image_with_a_huge_label_fails_alone_and_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    document = {"Id": "sha256:0", "Config": {"Labels": {"note": "x" * (10 << 20)}}}
    monkeypatch.setattr(image_identity.images, "inspect", lambda engine, ref: document)
    target = capture(monkeypatch, image.capture)
    assert target.status == Status.FAILED
    assert "image.json has" in (target.error or "")
    assert len(str(target.source)) < 1000


def test_an_image_with_20_000_tags_and_digests_is_described_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    document = {
        "Id": "sha256:0",
        "RepoTags": [f"registry.example.com/shop/api-{number}:latest" for number in range(20_000)],
        "RepoDigests": [f"registry.example.com/shop/api-{number}@sha256:{number:064x}" for number in range(20_000)],
    }
    monkeypatch.setattr(image_identity.images, "inspect", lambda engine, ref: document)
    description = image_identity.describe_image(CAPTURING.engine, "registry.example.com/shop/api-7:latest")
    found = image_identity.image_identity(description, "registry.example.com/shop/api-7:latest")
    assert found.tags == ("registry.example.com/shop/api-7:latest",)
    assert len(found.repo_digests) == 100
    assert len(str(asdict(found))) < 20_000
    assert found.same_image(ImageIdentity(**{**asdict(found), "repo_digests": ()}))


def test_the_target_for_which_the_record_has_no_room_fails_and_the_next_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def act(capturing: Any, planned: Planned, target: Target, previous: Target | None) -> None:
        target.name = f"v{len(sizes)}"
        target.source = {"Labels": {"note": "x" * sizes.pop(0)}}
        target.tree = ["00" * 32] * 1000

    room, targets, sizes = 300_000, [], [100_000, 100_000, 150_000, 50_000]
    while sizes:
        targets.append(capture(monkeypatch, act, room))
        room -= backup_run._size(targets[-1])
        assert room > 0
    assert [target.status for target in targets] == [Status.OK, Status.OK, Status.FAILED, Status.OK]
    assert "the record has" in (targets[2].error or "")
    assert (targets[2].tree, targets[2].source) == ([], {})
    record = Snapshot("1", format_time(NOW), "h", "p", Status.PARTIAL, targets)
    assert len(encode_snapshot(record)) < 300_000 + 3 * 67 * 1000 + 1000
