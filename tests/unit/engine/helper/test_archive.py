"""Archives of helper images, honest and hostile: what is loaded is the content that the id stands for, nothing else."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from drkit.engine.helper.archive import checked_image, write_image
from drkit.errors import IntegrityError


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


LAYERS = [b"a layer" * 1000, b"another" * 1000]
CONFIG = json.dumps({"architecture": "amd64", "rootfs": {"diff_ids": [digest(layer) for layer in LAYERS]}}).encode()
IMAGE_ID = digest(CONFIG)


def tar(members: Mapping[str, bytes], **types: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def saved(manifest: Any = None, **more: bytes) -> bytes:
    """As an engine saves it: any order, names and tags of its own, and files that only older engines read."""
    if manifest is None:
        manifest = [{"Config": "c.json", "RepoTags": ["production:1"], "Layers": ["x/layer.tar", "y/layer.tar"]}]
    members = {
        "x/layer.tar": LAYERS[0],
        "x/VERSION": b"1.0",
        "c.json": CONFIG,
        "manifest.json": json.dumps(manifest).encode(),
        "y/layer.tar": LAYERS[1],
        "repositories": b'{"production": {"1": "x"}}',
    }
    return tar({**members, **more})


def pieces(archive: bytes) -> Iterator[bytes]:
    for start in range(0, len(archive), 777):
        yield archive[start : start + 777]


def checked(archive: bytes, image_id: str = IMAGE_ID) -> bytes:
    with checked_image(pieces(archive), image_id) as image:
        assert image.architecture == "amd64"
        return b"".join(image.pieces())


def contents(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return {member.name: opened.extractfile(member).read() for member in opened}  # type: ignore[union-attr]


def test_only_what_the_id_stands_for_is_left_and_no_name() -> None:
    found = contents(checked(saved(evil=b"x")))
    [image] = json.loads(found.pop("manifest.json"))
    assert image["RepoTags"] is None
    assert found.pop(image["Config"]) == CONFIG
    assert [found.pop(layer) for layer in image["Layers"]] == LAYERS
    assert found == {}


def test_the_same_image_gives_the_same_archive_whoever_saved_it() -> None:
    out = io.BytesIO()
    write_image(out, CONFIG, [(len(layer), io.BytesIO(layer)) for layer in LAYERS])
    assert checked(saved()) == checked(out.getvalue()) == out.getvalue()


def test_one_layer_twice() -> None:
    config = json.dumps({"architecture": "amd64", "rootfs": {"diff_ids": [digest(LAYERS[0])] * 2}}).encode()
    found = contents(checked(saved(**{"c.json": config}), digest(config)))
    [image] = json.loads(found["manifest.json"])
    assert [found[layer] for layer in image["Layers"]] == [LAYERS[0]] * 2


def sparse_bomb() -> bytes:
    """A file that claims a petabyte, in a few bytes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo("bomb")
        holes = b"0\n".ljust(512, b"\0")
        entry.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 50)}
        entry.size = len(holes)
        archive.addfile(entry, io.BytesIO(holes))
    return out.getvalue()


ENTRY = {"Config": "c.json", "RepoTags": None, "Layers": []}


@pytest.mark.parametrize(
    ("archive", "problem"),
    [
        (b"", "does not hold that image"),
        (b"garbage" * 1000, "does not hold that image"),
        (saved()[:9000], "does not hold that image"),
        (sparse_bomb(), "several images, or none"),
        (saved([]), "several images, or none"),
        (saved([ENTRY, ENTRY]), "several images, or none"),
        (saved({"Config": "c.json"}), "several images, or none"),
        (saved(**{"manifest.json": b"{"}), "does not hold that image"),
        (saved(**{"manifest.json": b"[" * 100_000}), "does not hold that image"),
        (saved(**{"manifest.json": b" " * (5 << 20)}), "manifest.json has"),
        (saved(**{"c.json": CONFIG.replace(b"amd64", b"arm64")}), "no configuration has that id"),
        (saved(**{"x/layer.tar": b"another layer"}), "is not in it"),
        (tar({"manifest.json": b"[{}]"}), "no configuration has that id"),
    ],
)
def test_anything_else_is_refused(archive: bytes, problem: str) -> None:
    with pytest.raises(IntegrityError, match=problem) as caught:
        checked(archive)
    assert IMAGE_ID[:19] in caught.value.message


@pytest.mark.parametrize("config", [b"5", b"{}", b'{"rootfs": 5}', b'{"rootfs": {"diff_ids": [5]}}', b"no json"])
def test_a_configuration_that_is_none_is_refused(config: bytes) -> None:
    with pytest.raises(IntegrityError):
        checked(saved(**{"c.json": config}), digest(config))


def test_another_image_beside_the_right_one_is_not_what_is_loaded() -> None:
    """The id decides, not what the manifest calls the configuration."""
    evil = CONFIG.replace(b"amd64", b"arm64")
    manifest = [{"Config": "evil.json", "RepoTags": ["alpine:3.22"], "Layers": []}]
    found = contents(checked(saved(manifest, **{"evil.json": evil})))
    assert evil not in found.values()
    assert CONFIG in found.values()
