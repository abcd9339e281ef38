"""A repository that an intruder has written, and what of it reaches the engine: the image that it names, or nothing."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from drkit.engine import images
from drkit.engine.client import Engine
from drkit.engine.image_identity import image_identity
from drkit.errors import DrkitError, IntegrityError
from drkit.host.restore_journal import RestoreJournal
from drkit.repository.format.digest import keyed_digest
from drkit.repository.format.kinds import Status
from drkit.repository.format.snapshot import Snapshot, Target
from drkit.repository.format.tree import EXTENT, Member, TreeWriter, encode_member
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter
from drkit.targets import image as image_kind
from drkit.targets.base import Restored, RestoreOptions, Restoring
from tests.support.events import RecordedEvents
from tests.support.memory_storage import MemoryStorage
from tests.support.repositories import create

NOW = datetime(2026, 3, 9, tzinfo=UTC)
Members = list[tuple[str, bytes]]
"""Paths in the tree, and raw bytes of the members, whatever these call themselves."""


def raw(name: str, content: bytes = b"", *, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.size = kind, link, len(content)
    return entry.tobuf(tarfile.PAX_FORMAT) + content + bytes(-len(content) % 512)


class Stored(NamedTuple):
    """An image that was saved and is gone from the engine, and one that production uses."""

    engine: Engine
    name: str
    image_id: str
    source: dict[str, Any]
    files: dict[str, bytes]
    production: str
    production_id: str

    @property
    def config(self) -> str:
        return next(name for name in self.files if name.endswith(".json") and name != "manifest.json")

    @property
    def layer(self) -> str:
        return next(name for name in self.files if name.endswith("layer.tar"))

    def members(self, **changed: Any) -> Members:
        """All members as they were saved; the manifest with other fields."""
        manifest = json.loads(self.files["manifest.json"])
        manifest[0] |= changed
        files = self.files | {"manifest.json": json.dumps(manifest).encode()}
        return [(name, raw(name, content)) for name, content in files.items()]

    def there(self) -> dict[str, list[str]]:
        return {image["Id"]: sorted(image["RepoTags"] or []) for image in images.find(self.engine)}


def an_image(engine: Engine, name: str, content: bytes) -> str:
    layer = raw("file", content) + bytes(1024)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/x"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    files = {"config.json": config, "manifest.json": manifest}
    members = raw("layer.tar", layer) + b"".join(raw(path, json.dumps(each).encode()) for path, each in files.items())
    images.load(engine, [members + bytes(1024)])
    found = images.inspect(engine, name)
    assert found is not None
    return str(found["Id"])


@pytest.fixture
def stored(engine_url: str, unique_name: str, rng: random.Random) -> Iterator[Stored]:
    with Engine.connect(engine_url) as engine:
        name, production = f"{unique_name}-app:1", f"{unique_name}-production:1"
        image_id = an_image(engine, name, rng.randbytes(5000))
        production_id = an_image(engine, production, rng.randbytes(5000))
        described = images.inspect(engine, name)
        assert described is not None
        source = image_kind._source(image_identity(described, name), name) | {"config": described["Config"]}
        saved = io.BytesIO(b"".join(images.save(engine, [name])))
        with tarfile.open(fileobj=saved) as tar:
            files = {entry.name: tar.extractfile(entry).read() for entry in tar if entry.isfile()}  # type: ignore[union-attr]
        images.remove(engine, name)
        yield Stored(engine, name, image_id, source, files, production, production_id)
        for left in (name, production):
            images.remove(engine, left)


def restored(
    stored: Stored, members: Members, tmp_path: Path, events: RecordedEvents | None = None, **source: Any
) -> Restored:
    """Restore from a repository whose tree has these members."""
    repository, identity = create(MemoryStorage())
    target = Target("image", stored.name, source=stored.source | source)
    with RunWriter(repository, "run", [identity.recipient], host="host") as writer:
        tree = TreeWriter(writer.put_tree)
        for path, content in members:
            extents = EXTENT.pack(writer.put_data(content), 0, len(content))
            digest = keyed_digest(repository.meta.member, content)
            member = Member(path.encode(), b"f 644 0 0 5 0 0 0 1", b"", b"", digest, False, extents)
            tree.add(encode_member(member))
        target.tree = [chunk_id.hex() for chunk_id in tree.finish()]
        snapshot = Snapshot("run", "2026-03-09T00:00:00Z", "host", "policy", Status.OK, [target])
        writer.commit(snapshot)
    opened = Repository.open(repository.storage, [identity])
    restoring = Restoring(lambda: stored.engine, opened, RestoreJournal(tmp_path), events or RecordedEvents())
    plan = image_kind.plan_restore(restoring, snapshot, target, RestoreOptions())
    return image_kind.restore(restoring, plan)


def test_the_saved_archive_restores(stored: Stored, tmp_path: Path) -> None:
    before = stored.there()
    done = restored(stored, stored.members(), tmp_path)
    assert done.unresolved == ()
    assert stored.there() == before | {stored.image_id: [stored.name]}


def naming_production(stored: Stored) -> Members:
    return stored.members(RepoTags=[stored.name, stored.production])


def with_repositories(stored: Stored) -> Members:
    repository, tag = stored.production.split(":")
    legacy = {repository: {tag: stored.layer.split("/")[0]}}
    stored.files["repositories"] = json.dumps(legacy).encode()
    return stored.members(RepoTags=None)


def with_an_index(stored: Stored) -> Members:
    """What an engine with containerd's store would read instead of the manifest."""
    annotations = {"io.containerd.image.name": f"docker.io/library/{stored.production}"}
    descriptor = {"mediaType": "x", "digest": stored.image_id, "size": 1, "annotations": annotations}
    index = json.dumps({"schemaVersion": 2, "manifests": [descriptor]}).encode()
    layout = b'{"imageLayoutVersion": "1.0.0"}'
    return [*stored.members(), ("index.json", raw("index.json", index)), ("oci-layout", raw("oci-layout", layout))]


def calling_itself_something_else(stored: Stored) -> Members:
    """The tree says that it is the configuration; the engine would have read a second manifest."""
    return [
        (path, raw("manifest.json", stored.files[path]) if path == stored.config else content)
        for path, content in stored.members()
    ]


@pytest.mark.parametrize(
    "archive", [naming_production, with_repositories, with_an_index, calling_itself_something_else]
)
def test_no_tag_but_its_own_is_set(stored: Stored, tmp_path: Path, archive: Callable[[Stored], Members]) -> None:
    before = stored.there()
    events = RecordedEvents()
    done = restored(stored, archive(stored), tmp_path, events)
    assert done.unresolved == ()
    assert stored.there() == before | {stored.image_id: [stored.name]}
    warned = [text for text in events.warnings if f"its archive also names '{stored.production}'" in text]
    assert bool(warned) is (archive is naming_production)


def two_images(stored: Stored) -> Members:
    manifest = json.loads(stored.files["manifest.json"]) * 2
    return [*no_manifest(stored), ("manifest.json", raw("manifest.json", json.dumps(manifest).encode()))]


def two_manifests(stored: Stored) -> Members:
    return [*stored.members(), ("manifest.json", raw("manifest.json", stored.files["manifest.json"]))]


def no_manifest(stored: Stored) -> Members:
    return [member for member in stored.members() if member[0] != "manifest.json"]


def endless_manifest(stored: Stored) -> Members:
    return [*no_manifest(stored), ("manifest.json", raw("manifest.json", b"[" * 1_000_000))]


def a_layer_that_is_a_link(stored: Stored) -> Members:
    link = raw(stored.layer, kind=tarfile.SYMTYPE, link="/etc/shadow")
    return [(path, link if path == stored.layer else content) for path, content in stored.members()]


def two_members_in_one(stored: Stored) -> Members:
    more = raw("manifest.json", stored.files["manifest.json"])
    return [(path, content + more if path == stored.layer else content) for path, content in stored.members()]


def another_configuration(stored: Stored) -> Members:
    config = json.loads(stored.files[stored.config]) | {"config": {"Cmd": ["/intruder"]}}
    changed = raw(stored.config, json.dumps(config).encode())
    return [(path, changed if path == stored.config else content) for path, content in stored.members()]


@pytest.mark.parametrize(
    ("archive", "problem"),
    [
        (two_images, "it holds 2 images"),
        (two_manifests, "is in it twice"),
        (no_manifest, "manifest.json is missing"),
        (endless_manifest, "not JSON"),
        (a_layer_that_is_a_link, "not one plain file"),
        (two_members_in_one, "not one plain file"),
        (another_configuration, "it holds image sha256:"),
        (lambda stored: stored.members(Config="../../etc/passwd"), "not a path in it"),
        (lambda stored: stored.members(Config="/etc/passwd"), "not a path in it"),
        (lambda stored: stored.members(Config=["x"]), "does not describe an image"),
        (lambda stored: stored.members(Layers=["x/layer.tar"]), "no such file"),
        (lambda stored: stored.members(Layers=[]), "names 0 layers"),
        (lambda stored: stored.members(Layers=[stored.layer] * 2), "names 2 layers"),
        (lambda stored: stored.members(Layers="x"), "does not describe an image"),
    ],
)
def test_what_is_not_the_archive_of_one_image_is_damage_and_is_not_sent(
    stored: Stored, tmp_path: Path, archive: Callable[[Stored], Members], problem: str
) -> None:
    before = stored.there()
    with pytest.raises(IntegrityError, match=problem) as caught:
        restored(stored, archive(stored), tmp_path)
    assert f"the archive of image {stored.name} is not loaded" in caught.value.message
    assert stored.there() == before


@pytest.mark.parametrize(
    "source",
    [
        {"image_id": f"sha256:{'ab' * 32}"},
        {"image_id": "sha256:ab"},
        {"image_id": "production:1"},
        {"layers": [f"sha256:{'ab' * 32}"]},
        {"architecture": "arm64"},
        {"tags": ["production:1"]},
        {"tags": ["\N{CYRILLIC SMALL LETTER A}pp:1"]},
    ],
)
def test_a_record_that_does_not_fit_its_archive_is_damage(
    stored: Stored, tmp_path: Path, source: dict[str, Any]
) -> None:
    before = stored.there()
    with pytest.raises(IntegrityError):
        restored(stored, stored.members(), tmp_path, **source)
    assert stored.there() == before


def test_a_layer_that_is_not_the_image_s_is_refused_by_the_engine_and_leaves_nothing(
    stored: Stored, tmp_path: Path
) -> None:
    before = stored.there()
    intruder = raw(stored.layer, raw("file", b"intruder") + bytes(1024))
    members = [(path, intruder if path == stored.layer else content) for path, content in stored.members()]
    with pytest.raises(DrkitError, match="invalid diffID"):
        restored(stored, members, tmp_path)
    assert stored.there() == before


def test_a_record_whose_name_was_found_by_less_says_that_its_name_is_not_there(stored: Stored, tmp_path: Path) -> None:
    """As earlier versions made them: the first digits of an id, saved without a tag."""
    done = restored(stored._replace(name="da"), stored.members(RepoTags=None), tmp_path, tags=[])
    assert done.unresolved == ("da:latest",)
    images.remove(stored.engine, stored.image_id)
