"""The archive of one image, while it passes and when it was stored: graph drivers' and containerd's."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from drkit.engine.image_identity import ImageIdentity, image_identity
from drkit.errors import CaptureFailed
from drkit.pipeline.image_archive import PassingArchive, StoredArchive
from drkit.pipeline.members import unscanned_member
from drkit.pipeline.stream import MemberStream, iterator_readinto
from drkit.repository.format.kinds import Status
from drkit.repository.format.snapshot import Snapshot, Target
from drkit.repository.format.tree import TreeWriter, encode_member
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter
from tests.support.fake_engine import docker_archive, tar_of, with_its_id
from tests.support.memory_storage import MemoryStorage
from tests.support.repositories import create

DOCUMENT: dict[str, Any] = with_its_id(
    {
        "RepoTags": ["app:1"],
        "Os": "linux",
        "Architecture": "amd64",
        "RootFS": {"Layers": [f"sha256:{number:064x}" for number in range(3)]},
        "Config": {"Cmd": ["/x"]},
    }
)
IMAGE = image_identity(DOCUMENT, "app:1")


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def containerd_archive(*, root: str = "", more: Mapping[str, bytes] | None = None) -> tuple[ImageIdentity, bytes]:
    """An image known by its index, which names its manifest and one of another platform that is not there."""
    config = json.dumps(
        {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": DOCUMENT["RootFS"]["Layers"]}}
    ).encode()
    layers = [b"layer %d" % number for number in range(3)]
    blob = "blobs/sha256/"
    manifest = json.dumps({"config": {"digest": digest(config)}}).encode()
    absent = {"digest": f"sha256:{'ee' * 32}", "platform": {"architecture": "arm64"}}
    index = json.dumps({"manifests": [absent, {"digest": digest(manifest)}]}).encode()
    names = {"io.containerd.image.name": "docker.io/library/production:1"}
    descriptor = {"mediaType": "index", "digest": root or digest(index), "size": len(index), "annotations": names}
    files = {blob + digest(content)[7:]: content for content in (config, manifest, index, *layers)}
    about = [
        {
            "Config": blob + digest(config)[7:],
            "RepoTags": ["app:1"],
            "Layers": [blob + digest(layer)[7:] for layer in layers],
        }
    ]
    files |= {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps({"manifests": [descriptor, descriptor]}).encode(),
        "manifest.json": json.dumps(about).encode(),
    }
    return replace(IMAGE, image_id=digest(index)), tar_of(files | (more or {}))


def passed(archive: bytes, rng: random.Random) -> PassingArchive:
    """Have it go by in pieces of any size."""
    passing = PassingArchive()

    def pieces() -> Any:
        position = 0
        while position < len(archive):
            size = rng.choice([1, 100, 511, 512, 513, 5000, 1 << 20])
            yield archive[position : position + size]
            position += size

    assert b"".join(passing.watched(pieces())) == archive
    return passing


@pytest.mark.parametrize("round_", range(10))
def test_an_archive_that_holds_the_image_under_its_tag_passes(rng: random.Random, round_: int) -> None:
    passed(docker_archive(DOCUMENT, ["app:1"]), rng).require(IMAGE, ["app:1"])
    passed(docker_archive(DOCUMENT, None), rng).require(IMAGE, [])
    image, archive = containerd_archive()
    passed(archive, rng).require(image, ["docker.io/library/app:1"])


def test_a_layer_that_is_there_twice_is_a_link_once(rng: random.Random) -> None:
    document = with_its_id(DOCUMENT | {"RootFS": {"Layers": [f"sha256:{number:064x}" for number in (1, 2, 1)]}})
    archive = docker_archive(document, None)
    files = files_of(archive)
    config = next(iter(files))
    layers = [f"{number:064x}/layer.tar" for number in range(3)]
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        for name, content in (
            (config, files[config]),
            (layers[0], b"one"),
            (layers[1], b"two"),
            ("manifest.json", json.dumps([{"Config": config, "Layers": layers}]).encode()),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo(layers[2])
        link.type, link.linkname = tarfile.SYMTYPE, f"../{layers[0]}"
        tar.addfile(link)
    image = image_identity(document, "app:1")
    passed(output.getvalue(), rng).require(image, [])
    with stored(output.getvalue(), image) as there:
        sent = files_of(b"".join(there.untagged()))
    assert json.loads(sent["manifest.json"])[0]["Layers"] == [layers[0], layers[1], layers[0]]
    assert set(sent) == {config, layers[0], layers[1], "manifest.json"}


@pytest.mark.parametrize(
    ("archive", "tags", "problem"),
    [
        (docker_archive(DOCUMENT, ["app:1", "production:1"]), ["app:1"], "names app:1, production:1, not app:1"),
        (docker_archive(DOCUMENT, None), ["app:1"], "names no tag"),
        (docker_archive(DOCUMENT, ["app:1"]), [], "not none"),
        (docker_archive(with_its_id(DOCUMENT | {"Os": "windows"}), ["app:1"]), ["app:1"], "it holds image"),
        (tar_of({"manifest.json": b"[]"}), [], "it holds 0 images"),
        (tar_of({"manifest.json": b"{}"}), [], "no list of images"),
        (tar_of({"x": b""}), [], "manifest.json is missing"),
        (containerd_archive(root=f"sha256:{'ab' * 32}")[1], ["app:1"], "it holds image"),
    ],
)
def test_an_archive_of_something_else_does_not(
    archive: bytes, tags: list[str], problem: str, rng: random.Random
) -> None:
    with pytest.raises(ValueError, match=problem):
        passed(archive, rng).require(IMAGE, tags)


def test_a_member_that_is_there_twice_is_not_passed(rng: random.Random) -> None:
    archive = docker_archive(DOCUMENT, ["app:1"])
    members = archive[: archive.rindex(b"manifest.json")]
    twice = members + tar_of({"manifest.json": b"[]"})[:1024] + archive[len(members) :]
    with pytest.raises(ValueError, match=r"manifest\.json is in it twice"):
        passed(twice, rng).require(IMAGE, ["app:1"])


def test_bytes_that_are_no_tar_are_a_failed_capture(rng: random.Random) -> None:
    with pytest.raises(CaptureFailed):
        passed(b"x" * 5000, rng)


def test_large_members_pass_without_being_kept(rng: random.Random) -> None:
    """Memory stays as it is, whatever is in an archive."""
    passing = PassingArchive()
    entry = tarfile.TarInfo("layer.tar")
    entry.size = 64 << 20
    held = 0

    def pieces() -> Any:
        yield entry.tobuf()
        for _ in range(64):
            yield b"{" * (1 << 20)

    for _ in passing.watched(pieces()):
        held = max(held, len(passing._held))
    assert held <= 2 << 20
    assert passing._texts == {}


@contextmanager
def stored(archive: bytes, image: ImageIdentity) -> Iterator[StoredArchive]:
    """The archive in a repository."""
    repository, identity = create(MemoryStorage())
    target = Target("image", "app:1")
    with RunWriter(repository, "run", [identity.recipient], host="host") as writer:
        tree = TreeWriter(writer.put_tree)
        for item in MemberStream(iterator_readinto([archive]), repository.meta.member, writer.put_data):
            tree.add(encode_member(unscanned_member(item)))
        target.tree = [chunk_id.hex() for chunk_id in tree.finish()]
        writer.commit(Snapshot("run", "2026-03-09T00:00:00Z", "host", "policy", Status.OK, [target]))
    with ChunkReader(Repository.open(repository.storage, [identity])) as reader:
        yield StoredArchive(reader, target, image)


def files_of(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]


def test_what_a_graph_driver_saved_is_sent_without_names() -> None:
    archive = docker_archive(DOCUMENT, ["app:1", "production:1"])
    with stored(archive, IMAGE) as there:
        assert there.tags == ("app:1", "production:1")
        sent = files_of(b"".join(there.untagged()))
    was = files_of(archive)
    assert json.loads(sent.pop("manifest.json")) == [{**json.loads(was.pop("manifest.json"))[0], "RepoTags": None}]
    assert sent == was


def test_what_containerd_saved_is_sent_with_its_blobs_and_without_names() -> None:
    image, archive = containerd_archive(more={"blobs/sha256/../x": b"x", "repositories": b"{}", "VERSION": b"1"})
    with stored(archive, image) as there:
        sent = files_of(b"".join(there.untagged()))
    was = files_of(archive)
    assert {name for name in was if name.startswith("blobs/") and ".." not in name} < set(sent)
    assert set(was) - set(sent) == {"blobs/sha256/../x", "repositories", "VERSION"}
    [descriptor] = json.loads(sent["index.json"])["manifests"]
    assert descriptor.keys() == {"mediaType", "digest", "size"}
    assert descriptor["digest"] == image.image_id
    assert "production" not in b"".join(sent.values()).decode()
