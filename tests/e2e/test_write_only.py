"""A host that holds the meta key alone: it backs up and looks, and reads nothing that is stored."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from drkit.errors import AccessDenied
from drkit.repository.format.packs import DATA_MAGIC
from drkit.repository.repository import Repository
from drkit.storage import open_storage
from tests.support.lab import Lab, Volume, fill

CANARY = b"canary-of-the-plaintext-8d1f"


def write_only(lab: Lab, *volumes: Volume) -> Path:
    """A policy of the same repository with the meta key alone; the key's file."""
    key = lab.directory / "meta.key"
    lab.json("key", "host-key", key)
    policy = json.loads(lab.write_policy(*volumes).read_text())
    del policy["repository"]["identity_file"]
    policy["repository"]["meta_key_file"] = str(key)
    lab.policy.write_text(json.dumps(policy))
    return key


def test_a_write_only_host_backs_up_and_looks_but_does_not_read(
    lab: Lab, aged_volume_to_change: Volume, rng: random.Random
) -> None:
    volume = aged_volume_to_change
    lab.init(volume)
    key = write_only(lab, volume)
    assert key.stat().st_mode & 0o777 == 0o600
    hidden = lab.identity.rename(lab.directory / "in-the-safe.txt")
    first = lab.json("backup")
    assert first["status"] == "ok"
    fill(volume.files, {"many/canary": CANARY * 100, "many/new": rng.randbytes(3000)})
    second = lab.json("backup")
    [before], [after] = first["targets"], second["targets"]
    assert before["bytes_read"] > 30 << 20
    assert after["bytes_read"] < 1 << 20, "it is not incremental"
    assert after["files"] == before["files"] + 2
    # It looks.
    assert [snapshot["id"] for snapshot in lab.snapshots()] == [first["snapshot"], second["snapshot"]]
    entries = lab.json("ls", "latest", volume.name, "many")["entries"]
    assert "many/canary" in {entry["path"] for entry in entries}
    assert len(lab.json("find", "canary")["matches"]) == 1
    changes = lab.json("diff", first["snapshot"], second["snapshot"])["changes"]
    assert {"many/canary", "many/new"} <= {change["path"] for change in changes}
    assert lab.json("check")["status"] == "ok"
    assert len(lab.json("key", "list")["recipients"]) == 1
    assert lab.json("restore", "latest", "--volume", volume.name, "--to-volume", f"{lab.name}-x", "--dry-run")["files"]
    # It does not read, and makes nothing while it fails.
    tar, new = lab.directory / "x.tar", f"{lab.name}-x"
    for verb in (
        ["restore", "latest", "--volume", volume.name, "--to-volume", new],
        ["restore", "latest", "--volume", volume.name, "--to-volume", new, "--path", "many/canary"],
        ["verify"],
        ["verify", second["snapshot"]],
        ["export", "latest", "--volume", volume.name, "-o", str(tar)],
        ["key", "add", "age1qyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqs3290gq"],
        ["key", "rewrap"],
        ["key", "remove", "x"],
        ["key", "passphrase", "--passphrase-file", str(key)],
    ):
        said = lab.fails(12, *verb)
        assert "needs an identity; this host holds the meta key alone" in said, verb
        assert "identity_file, or DRKIT_IDENTITY_FILE" in said
    assert not tar.exists()
    assert not lab.exists(new)
    assert lab.helpers() == []
    nothing_readable(lab, key)
    # With the identity, brought back, all is there.
    env = {"DRKIT_IDENTITY_FILE": str(hidden)}
    assert lab.drkit("verify", env=env).code == 0
    exported = lab.drkit("export", "latest", "--volume", volume.name, "-o", tar, env=env)
    assert exported.code == 0, exported
    assert CANARY in tar.read_bytes()


def nothing_readable(lab: Lab, key: Path) -> None:
    """The canary is in no object; and the meta key opens no data key, so no chunk of data."""
    assert not any(CANARY in path.read_bytes() for path in lab.objects())
    repository = Repository.open_write_only(open_storage(str(lab.repository)), key.read_text(), source="meta.key")
    data = [path for path in lab.objects("packs/") if path.read_bytes().startswith(DATA_MAGIC)]
    assert len(data) >= 2
    samples = repository.index.samples()
    assert len(samples) >= 3  # trees, and two runs
    for key_id in samples:
        if key_id != bytes(16):
            with pytest.raises(AccessDenied):
                repository.keys.get(key_id)
    # The key's file alone derives subkeys; none of them opens a data chunk.
    from drkit.errors import IntegrityError
    from drkit.repository.format.sealing import Cipher

    meta = repository.meta
    for key_id, chunk_id in samples.items():
        place = repository.index.get(chunk_id)
        assert place is not None
        sealed = repository.storage.get(
            f"packs/{place.pack_id.hex()[:2]}/{place.pack_id.hex()}", place.offset, place.sealed_size
        )
        opened = []
        for subkey in (meta.meta_key, meta.tree, meta.objects, meta.chunk_id, meta.tree_id, meta.member, meta.config):
            try:
                opened.append(Cipher(subkey).open(sealed, repository.id + key_id + chunk_id))
            except IntegrityError:
                continue
        assert len(opened) == (key_id == bytes(16))
