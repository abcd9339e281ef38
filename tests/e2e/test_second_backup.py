"""A second backup takes over what has not changed, reads what has, and heals what the repository has lost.

The last of these tests by name: by then the volume that all of them share is old enough.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from drkit.repository.keys.identity import parse_identity
from drkit.repository.keys.wraps import format_meta_key
from drkit.repository.repository import Repository
from drkit.storage import open_storage
from tests.support.lab import Lab, Volume
from tests.support.treecompare import compare_trees, describe

MIB = 1 << 20
LARGE = 8 * MIB


def assert_same(original: Volume, restored: Volume) -> None:
    found = compare_trees(original.files, restored.files)
    assert not found, describe(found)


def back_up(lab: Lab) -> dict[str, Any]:
    """The report on the one target, which must be ok."""
    [target] = lab.json("backup")["targets"]
    assert (target["status"], target["error"]) == ("ok", None)
    return dict(target)


def packs_with_data(lab: Lab) -> list[Path]:
    return [path for path in lab.objects("packs/") if path.read_bytes()[:8] == b"DRKITP1d"]


def packs_with_trees(lab: Lab) -> list[Path]:
    return [path for path in lab.objects("packs/") if path.read_bytes()[:8] == b"DRKITP1t"]


def flip(path: Path, offset: int) -> None:
    """Flip one bit, in place of the object: a real disk asks nobody for permission."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.chmod(0o600)
    path.write_bytes(data)


def test_an_unchanged_volume_is_not_read_again(lab: Lab, aged_volume: Volume) -> None:
    lab.init(aged_volume)
    first = back_up(lab)
    objects = set(lab.objects("packs/"))

    second = back_up(lab)

    assert first["bytes_read"] > 4 * LARGE
    assert (second["bytes_read"], second["bytes_stored"]) == (0, 0)
    assert (second["files"], second["bytes"]) == (first["files"], first["bytes"])
    assert set(lab.objects("packs/")) == objects
    assert_same(aged_volume, lab.restore(aged_volume))


def test_only_what_changed_is_read(lab: Lab, aged_volume_to_change: Volume) -> None:
    volume = aged_volume_to_change
    lab.init(volume)
    back_up(lab)
    files = volume.files
    with (files / "large-1").open("r+b") as file:
        file.seek(4 * MIB)
        file.write(b"changed")
    (files / "many" / "file-0007").write_bytes(b"new content")
    (files / "many" / "file-0008").unlink()
    (files / "many" / "file-0009").chmod(0o600)
    (files / "added").write_bytes(b"added")

    second = back_up(lab)

    # large-1, and a few headers and small files: the directories `.` and `many` changed too.
    assert LARGE < second["bytes_read"] < LARGE + MIB
    # Content-defined chunks: around the changed bytes only.
    assert second["bytes_stored"] < 6 * MIB
    assert_same(volume, lab.restore(volume))
    changes = lab.json("diff", *[snapshot["id"] for snapshot in lab.snapshots()])["changes"]
    assert {(each["change"], each["path"]) for each in changes} >= {
        ("M", "large-1"),
        ("M", "many/file-0007"),
        ("-", "many/file-0008"),
        ("U", "many/file-0009"),
        ("+", "added"),
    }


def test_a_policy_that_excludes_more_is_obeyed_without_reading(lab: Lab, aged_volume: Volume) -> None:
    lab.init(aged_volume)
    first = back_up(lab)
    lab.write_policy({"name": aged_volume.name, "exclude": ["/large-2", "/large-3"]})

    second = back_up(lab)

    # Small files that shared a chunk with them may be read again, but no large one.
    assert second["bytes_read"] < 4 * MIB
    assert second["files"] == first["files"] - 2
    restored = lab.restore(aged_volume)
    assert not (restored.files / "large-2").exists()
    assert (restored.files / "large-1").read_bytes() == (aged_volume.files / "large-1").read_bytes()


def test_what_a_lost_pack_held_is_stored_again(lab: Lab, aged_volume: Volume) -> None:
    lab.init(aged_volume)
    back_up(lab)
    lost = max(packs_with_data(lab), key=lambda path: path.stat().st_size)
    lost.unlink()
    lab.json("check", code=20)

    second = back_up(lab)

    assert second["bytes_read"] > 0
    assert_same(aged_volume, lab.restore(aged_volume))
    # The first snapshot names the same chunks: it is whole again too, and nothing needs the pack that was lost.
    assert lab.json("verify")["errors"] == []


def test_a_lost_tree_makes_the_next_backup_a_full_one(lab: Lab, aged_volume: Volume) -> None:
    lab.init(aged_volume)
    first = back_up(lab)
    for path in packs_with_trees(lab):
        path.unlink()

    result = lab.drkit("backup", "--json")

    assert result.code == 0, result
    assert "the tree of its last snapshot is gone" in result.stderr
    assert json.loads(result.stdout)["targets"][0]["bytes_read"] == first["bytes_read"]
    assert_same(aged_volume, lab.restore(aged_volume))
    assert back_up(lab)["bytes_read"] == 0


def test_a_damaged_tree_stops_the_backup_until_it_is_moved_away(lab: Lab, aged_volume: Volume) -> None:
    """A new snapshot would refer to the same damaged chunks: it must not claim to be good."""
    lab.init(aged_volume)
    back_up(lab)
    damaged = packs_with_trees(lab)
    for path in damaged:
        flip(path, 100)
    said = lab.fails(20, "backup")
    assert [path for path in damaged if lab.key(path) in said]
    assert len(lab.snapshots()) == 1
    for path in damaged:
        path.rename(lab.directory / path.name)
    back_up(lab)
    assert_same(aged_volume, lab.restore(aged_volume))


def test_a_damaged_index_does_not_stop_the_backups(lab: Lab, aged_volume: Volume) -> None:
    lab.init(aged_volume)
    first = back_up(lab)
    damaged = lab.objects("index/")
    for path in damaged:
        flip(path, 40)

    result = lab.drkit("backup", "--json")

    assert result.code == 0, result
    assert lab.key(damaged[0]) in result.stderr
    assert lab.objects("sessions/") == []
    for path in damaged:
        path.unlink()
    for snapshot in lab.snapshots()[1:]:
        name = lab.forget_later(f"{lab.name}-{snapshot['id']}")
        lab.json("restore", snapshot["id"], "--volume", aged_volume.name, "--to-volume", name)
        assert_same(aged_volume, lab.find(name))
    assert back_up(lab)["bytes_read"] == 0
    assert first["files"] == back_up(lab)["files"]


def test_a_host_with_the_meta_key_alone_backs_up_but_cannot_read(lab: Lab, aged_volume: Volume) -> None:
    lab.init(aged_volume)
    identity = parse_identity(lab.identity.read_text(), source="test")
    repository = Repository.open(open_storage(str(lab.repository)), [identity])
    meta_key = lab.directory / "meta.key"
    meta_key.touch(0o600)
    meta_key.write_text(format_meta_key(repository.meta.meta_key, repository.id))
    keys = {"url": str(lab.repository), "recipients_file": str(lab.recipients)}
    lab.write_policy(aged_volume, repository={**keys, "meta_key_file": str(meta_key)})

    lab.backup()
    [second] = lab.json("backup")["targets"]

    assert (second["status"], second["bytes_read"]) == ("ok", 0)
    assert lab.json("check")["status"] == "ok"
    assert len(lab.json("ls", "latest")["entries"]) > 500
    said = lab.fails(12, "restore", "latest", "--volume", aged_volume.name, "--to-volume", f"{lab.name}-new")
    assert "needs an identity" in said
    assert not lab.exists(f"{lab.name}-new")
    lab.write_policy(aged_volume)
    assert_same(aged_volume, lab.restore(aged_volume))
