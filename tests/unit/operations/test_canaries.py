"""Secrets are planted wherever a policy or an engine can hold one, and looked for in all that the meta key opens."""

from __future__ import annotations

import json
import os
import random
import string
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from drkit.catalog.find import ANY
from drkit.engine.client import Engine
from drkit.engine.image_identity import image_identity
from drkit.errors import IntegrityError
from drkit.operations.context import Context
from drkit.operations.policy import show_policy
from drkit.pipeline.documents import write_documents
from drkit.pipeline.image_archive import PassingArchive
from drkit.policy import load_policy
from drkit.repository.commit.marks import put_mark
from drkit.repository.commit.session import Session
from drkit.repository.format.digest import keyed_digest
from drkit.repository.format.kinds import Status
from drkit.repository.format.snapshot import Snapshot, Target, format_time
from drkit.repository.keys.identity import Identity
from drkit.repository.keys.wraps import format_meta_key
from drkit.repository.proofs import add_proof
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter
from drkit.storage import open_storage
from drkit.storage.cached import CachedStorage
from drkit.targets import image as image_kind
from drkit.targets import volume as volume_kind
from drkit.targets.base import RestoreOptions, Restoring
from drkit.targets.pipes import description_of
from tests.support import fake_engine
from tests.support.fake_engine import FakeEngine, backup, docker_archive, with_its_id
from tests.support.leaks import leaks, leaks_in_files
from tests.support.meta_view import MetaView
from tests.support.repositories import create

NOW = datetime(2100, 3, 9, 1, 2, 3, tzinfo=UTC)
"""So late that every file is settled."""
IMAGE = "shop/api:1"
POLICY = """\
# {policy comment}
version: 1
name: shop
host: web
repository:
  url: {url}
  recipients_file: {directory}/recipients.txt
  identity_command: [pass, show, {policy value}]
protect:
  volumes: [{{name: shop_data, exclude: [cache]}}, {{name: shop_nas}}, {{name: shop_broken}}]
  images: [{{ref: "shop/api:1"}}]
retention: {{keep_last: 3, keep_within: 48h}}
"""


class Shop:
    """A host, its engine, and a canary in each place; `secrets` are all by name."""

    def __init__(self, directory: Path, rng: random.Random) -> None:
        self._rng = rng
        self.directory = directory
        self.secrets: dict[str, bytes] = {}
        self.storage = open_storage(str(directory / "repository"), create=True)
        created, self.identity = create(self.storage)
        self.meta_key = format_meta_key(created.meta.meta_key, created.id)
        (directory / "recipients.txt").write_text(self.identity.recipient + "\n")
        self.engine = FakeEngine(NOW)
        self._make_volumes()
        self._make_image()
        names = {name: self.canary(name) for name in ("policy comment", "policy value")}
        self.policy_text = POLICY.format(url=directory / "repository", directory=directory, **names)
        (directory / "policy.yaml").write_text(self.policy_text)
        self.runs: list[Snapshot] = []

    def canary(self, name: str) -> str:
        text = "canary-" + "".join(self._rng.choices(string.ascii_letters, k=24))
        self.secrets[name] = text.encode()
        return text

    def _make_volumes(self) -> None:
        for name, driver, options in (
            ("shop_data", "local", None),
            (
                "shop_nas",
                "local",
                {"type": "cifs", "o": f"addr=nas,password={self.canary('option')}", "device": "//n/s"},
            ),
            ("shop_broken", "vendor/nas", {"token": self.canary("plugin option"), "device": self.canary("device")}),
        ):
            self.engine.volumes[name] = {
                "Name": name,
                "Driver": driver,
                "Options": options,
                "Labels": {"com.docker.compose.config-hash": self.canary(f"label of {name}"), "empty": ""},
                "Scope": "local",
                "CreatedAt": "2026-01-01T00:00:00Z",
                "Mountpoint": f"/var/lib/{self.canary(f'mountpoint of {name}')}",
                "Status": {"node": self.canary(f"status of {name}")},
            }
            self.engine.files[name] = self.directory / name
            (self.directory / name / "cache").mkdir(parents=True)
        (self.directory / "shop_data" / "file").write_text(self.canary("content"))
        os.setxattr(self.directory / "shop_data" / "file", "user.secret", self.canary("xattr").encode())
        (self.directory / "shop_data" / "cache" / "x").write_text(self.canary("excluded"))
        refusal = (
            f"error while mounting volume: data: addr=10.0.0.5,password={self.canary('refusal')}: invalid argument"
        )
        self.engine.refusals["shop_broken"] = refusal

    def _make_image(self) -> None:
        document = {
            "RepoTags": [IMAGE, f"other/{self.canary('tag of another').lower()}:1"],
            "RepoDigests": ["shop/api@sha256:" + "cd" * 32],
            "Os": "linux",
            "Architecture": "amd64",
            "Size": 1000,
            "RootFS": {"Type": "layers", "Layers": ["sha256:" + "01" * 32]},
            "GraphDriver": {"Data": {"UpperDir": self.canary("upper directory")}},
            "Comment": self.canary("image comment"),
            "Config": {
                "Env": [f"PASSWORD={self.canary('environment')}"],
                "Cmd": ["run", f"--token={self.canary('command')}"],
                "Entrypoint": [self.canary("entrypoint")],
                "Labels": {"build": self.canary("image label")},
                "Healthcheck": {"Test": ["CMD", self.canary("health check")]},
                "User": "",
            },
        }
        self.engine.images[IMAGE] = with_its_id(document)

    def context(self, repository: Repository) -> Context:
        environ = {"DRKIT_STATE_DIR": str(self.directory / "state")}
        later = NOW + timedelta(days=len(self.runs))
        context = Context(now=later, policy=load_policy(self.directory / "policy.yaml"), environ=environ)
        context.__dict__["repository"] = repository
        return context

    def opened(self, *identities: Identity) -> Repository:
        storage = CachedStorage(self.storage, self.directory / "cache" / "copies.sqlite")
        if identities:
            return Repository.open(storage, identities)
        return Repository.open_write_only(storage, self.meta_key, source="meta.key")

    def backup(self) -> Snapshot:
        """As a host that holds the meta key alone."""
        with self.context(self.opened()) as context:
            self.runs.append(backup(context, self.engine, f"2100030{len(self.runs) + 1}t010203z-00000000"))
        return self.runs[-1]

    def stored(self, repository: Repository) -> Snapshot:
        snapshots = [each for each in repository.snapshots() if isinstance(each, Snapshot)]
        return snapshots[-1]

    def keys(self) -> list[str]:
        return [info.key for info in self.storage.list("")]


@pytest.fixture
def shop(tmp_path: Path, rng: random.Random) -> Shop:
    return Shop(tmp_path, rng)


def fill_every_kind(shop: Shop) -> None:
    """Objects that only stay while something is at work, and evidence."""
    repository = shop.opened(shop.identity)
    add_proof(repository, "key", {"recipient": shop.identity.recipient}, now=NOW, host="web", version="1")
    put_mark(shop.storage, repository.objects, "20990101t000000z-00000001", [bytes(32)])
    session = Session(shop.storage, repository.objects, "20990101t000000z-00000002", host="web")
    session._put()


def test_the_meta_key_opens_no_secret_and_the_identity_all(shop: Shop) -> None:
    shown = shop.backup()
    assert [target.status for target in shown.targets] == ["ok", "ok", "failed", "ok"]
    fill_every_kind(shop)
    view = MetaView(shop.storage, shop.meta_key)
    kinds = {"index", "snapshots", "sessions", "marks", "proofs", "labels", "pack directory", "tree chunk"}
    assert set(view.kinds) == kinds
    assert b"shop_data" in b"".join(view.texts.values()), "nothing was opened"
    found = {f"{where}: {name}" for where, text in view.texts.items() for name in leaks(text, shop.secrets)}
    for place in ("cache", "state"):
        assert list((shop.directory / place).iterdir())
        found |= leaks_in_files(shop.directory / place, shop.secrets)
    assert found == set()
    reads_back(shop)


def reads_back(shop: Shop) -> None:
    """The identity gives all of it, but for what is state, is excluded, or belongs to a target that failed."""
    repository = shop.opened(shop.identity)
    snapshot = shop.stored(repository)
    restoring = restoring_with(shop, repository)
    for name in ("shop_data", "shop_nas"):
        target = snapshot.target("volume", name)
        assert target is not None
        original = volume_kind._original(restoring, target)
        assert original is not None
        there = shop.engine.volumes[name]
        assert all(getattr(original, key) == there[key] for key in ("Driver", "Options", "Labels"))
    target = snapshot.target("image", IMAGE)
    assert target is not None
    described = description_of(repository, target, image_kind.DOCUMENT)
    restored, there = image_kind._identity(target, described), image_identity(shop.engine.images[IMAGE], IMAGE)
    assert replace(restored, repo_digests=()) == replace(there, repo_digests=())
    assert described["Comment"].encode() == shop.secrets["image comment"]
    with shop.context(repository) as context:
        assert show_policy(context, "latest", ANY).text == shop.policy_text


def restoring_with(shop: Shop, repository: Repository) -> Restoring:
    with shop.context(repository) as context:
        return Restoring(lambda: cast("Engine", shop.engine), repository, context.state, context.events)


def test_an_unchanged_second_backup_stores_no_document_again(shop: Shop) -> None:
    shop.backup()
    before = set(shop.keys())
    for volume in shop.engine.volumes.values():
        volume["Status"] = {"node": "another"}
        volume["Mountpoint"] = "/elsewhere"
    shop.engine.images[IMAGE]["Metadata"] = {"LastTagTime": "2100-01-01"}
    shop.engine.images[IMAGE]["RepoTags"].append("one/more:1")
    shop.backup()
    assert set(shop.keys()) - before == {f"snapshots/{shop.runs[-1].id}"}
    first, second = shop.runs
    assert first.policy_digest == second.policy_digest
    assert first.documents == second.documents
    # Whatever changes is stored, and the policy's digest tells.
    shop.engine.volumes["shop_nas"]["Labels"]["empty"] = "no more"
    (shop.directory / "policy.yaml").write_text(shop.policy_text + "# changed\n")
    third = shop.backup()
    assert third.policy_digest != second.policy_digest
    assert third.documents != second.documents
    assert [old.documents == new.documents for old, new in zip(second.targets, third.targets, strict=True)] == [
        True,
        False,
        True,
        True,
    ]


def test_the_digest_of_the_policy_confirms_no_guess(shop: Shop) -> None:
    digest = shop.backup().policy_digest
    repository = shop.opened()
    text = shop.policy_text.encode()
    meta = repository.meta
    keys = (meta.meta_key, meta.config, meta.objects, meta.chunk_id, meta.tree_id, meta.tree, meta.member, bytes(32))
    assert digest not in {keyed_digest(key, text).hex() for key in keys}
    assert digest == keyed_digest(restored_salt(shop, repository), text).hex()


def restored_salt(shop: Shop, repository: Repository) -> bytes:
    with shop.context(repository) as context:
        return context.state.documents.salt(repository.id)


def test_a_new_state_directory_stores_documents_once_more_and_harms_nothing(shop: Shop) -> None:
    first = shop.backup()
    (shop.directory / "state" / "documents.key").unlink()
    second = shop.backup()
    assert second.policy_digest != first.policy_digest
    assert second.documents != first.documents
    assert [target.tree for target in second.targets] == [target.tree for target in first.targets]
    reads_back(shop)


def test_the_record_keeps_what_a_host_with_the_meta_key_needs(shop: Shop) -> None:
    shop.backup()
    snapshot = shop.stored(shop.opened())
    data, nas, broken, image = snapshot.targets
    assert nas.source == {
        "Name": "shop_nas",
        "Driver": "local",
        "Scope": "local",
        "CreatedAt": "2026-01-01T00:00:00Z",
        "OptionNames": {"count": 3, "names": ["device", "o", "type"]},
        "LabelNames": {"count": 2, "names": ["com.docker.compose.config-hash", "empty"]},
    }
    assert data.source["OptionNames"] == {"count": 0, "names": []}
    assert (data.quiesce, data.exclude) == ("none", ["cache"])
    assert (broken.tree, broken.documents.tree, broken.status) == ([], [], Status.FAILED)
    assert image.source == {
        "image_id": shop.engine.images[IMAGE]["Id"],
        "tags": [IMAGE],
        "repo_digests": ["shop/api@sha256:" + "cd" * 32],
        "os": "linux",
        "architecture": "amd64",
        "variant": "",
        "size": 1000,
        "layers": ["sha256:" + "01" * 32],
    }
    assert snapshot.policy_text == ""
    assert snapshot.retention == {
        "keep_last": 3,
        **dict.fromkeys(("keep_hourly", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly"), 0),
        "keep_within": "2d",
        "min_keep": 1,
        "timezone": "UTC",
    }


def test_the_operator_is_shown_what_the_engine_said_and_the_record_is_not(shop: Shop) -> None:
    shown = shop.backup().targets[2]
    assert shown.error == f"container 0123456789ab: {shop.engine.refusals['shop_broken']}"
    recorded = shop.stored(shop.opened()).targets[2]
    assert recorded.error is not None
    assert recorded.error.startswith("container 0123456789ab: for a reason that was shown, but is not recorded")


def test_a_plan_without_the_identity_says_what_it_cannot_know(shop: Shop) -> None:
    shop.backup()
    shop.engine.volumes.pop("shop_nas")
    for identities, knows in (((), False), ((shop.identity,), True)):
        repository = shop.opened(*identities)
        snapshot = shop.stored(repository)
        target = snapshot.target("volume", "shop_nas")
        assert target is not None
        restoring = restoring_with(shop, repository)
        plan = volume_kind.plan_restore(restoring, snapshot, target, RestoreOptions())
        unknown = [note for note in plan.notes if "driver options and labels are data" in note]
        assert bool(unknown) is not knows
        assert plan.details == {"driver": "local", "options": {} if knows else None}


def test_the_archive_of_another_image_that_an_earlier_version_kept_is_not_taken_over(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(PassingArchive, "require", lambda *rest: None)
        other = with_its_id(shop.engine.images[IMAGE] | {"Os": "plan9"})
        earlier.setattr(fake_engine, "docker_archive", lambda document, tags: docker_archive(other, tags))
        kept = shop.backup().targets[3]
    made = shop.backup().targets[3]
    again = shop.backup().targets[3]
    assert kept.source == made.source == again.source
    assert kept.tree != made.tree == again.tree


# --- what an image or a volume may say of itself


def an_image(change: Callable[[dict[str, Any]], None], shop: Shop) -> dict[str, Any]:
    document = cast("dict[str, Any]", json.loads(json.dumps(shop.engine.images[IMAGE])))
    change(document)
    return document


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.update(Os="linux" * 1000),
        lambda image: image.update(Architecture="\x1b[31m"),
        lambda image: image.update(Variant="v" * 256),
        lambda image: image.update(Size=-1),
        lambda image: image.update(Id="x" * 5000),
        lambda image: image["RootFS"].update(Layers=["sha256:0"] * 1001),
        lambda image: image["RootFS"].update(Layers=["x" * 5000]),
        lambda image: image["Config"].update(Env=["A=" + "x" * (5 << 20)]),
    ],
)
def test_an_image_that_says_too_much_fails_alone(shop: Shop, change: Callable[[dict[str, Any]], None]) -> None:
    shop.engine.images[IMAGE] = an_image(change, shop)
    shown = shop.backup()
    assert [target.status for target in shown.targets] == ["ok", "ok", "failed", "failed"]
    assert shop.stored(shop.opened()).targets[3].error


def test_names_that_somebody_else_chose_never_size_a_record(shop: Shop) -> None:
    shop.engine.images[IMAGE]["RepoTags"] += [f"flood/{number}:1" for number in range(20_000)]
    shop.engine.images[IMAGE]["RepoDigests"] = [f"flood/{number}@sha256:{'ab' * 32}" for number in range(20_000)]
    shop.engine.volumes["shop_data"]["Labels"] = {f"label-{number}\x1b": "x" for number in range(20_000)}
    shop.engine.volumes["shop_nas"]["Labels"] = {"l" * 100_000: "x"}
    shop.backup()
    data, nas, _, image = shop.stored(shop.opened()).targets
    assert data.source["LabelNames"]["count"] == 20_000
    assert len(data.source["LabelNames"]["names"]) == 1000
    assert data.source["LabelNames"]["names"][0] == r"label-0\x1b"
    assert len(json.dumps(nas.source)) < 6000
    assert image.source["tags"] == [IMAGE]
    assert len(json.dumps(image.source)) < 80_000
    reads_back(shop)


@pytest.mark.parametrize(
    "change",
    [
        {"image_id": 5},
        {"image_id": None},
        {"layers": "x"},
        {"tags": [5]},
        {"tags": ["\x1b"]},
        {"size": "big"},
    ],
)
def test_a_forged_source_of_an_image_is_damage_and_no_crash(shop: Shop, change: dict[str, Any]) -> None:
    shop.backup()
    repository = shop.opened(shop.identity)
    target = shop.stored(repository).targets[3]
    target.source |= change
    restoring = restoring_with(shop, repository)
    plan = image_kind.plan_restore(restoring, shop.runs[0], target, RestoreOptions())
    with pytest.raises(IntegrityError, match=next(iter(change))):
        image_kind.restore(restoring, plan)


def test_records_of_earlier_versions_restore_as_before(shop: Shop) -> None:
    """They have all of it in `source`, which a host with the meta key alone reads too."""
    restoring = restoring_with(shop, shop.opened())
    source = {"Name": "v", "Driver": "local", "Options": None, "Labels": {"app": "shop"}, "Scope": "local"}
    original = volume_kind._original(restoring, Target("volume", "v", source=source))
    assert original == volume_kind._Original("local", None, {"app": "shop"})
    image = image_identity(shop.engine.images[IMAGE], IMAGE)
    recorded = json.loads(json.dumps(asdict(image)))
    assert image_kind._identity(Target("image", IMAGE, source=recorded), None) == image


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"Labels": {"a": 5}}',
        b'{"Options": []}',
        b'{"Driver": "local\\u001b"}',
        b'{"Driver": 5}',
        b'{"Labels": {"\\ud800": "x"}}',
    ],
)
def test_a_forged_document_of_a_volume_is_damage_and_no_crash(shop: Shop, text: bytes) -> None:
    shop.engine.volumes.pop("shop_nas")
    repository = shop.opened(shop.identity)
    target = Target("volume", "shop_nas")
    with RunWriter(repository, "20990101t000000z-00000003", [shop.identity.recipient], host="web") as writer:
        files = {volume_kind.DOCUMENT: text}
        target.documents = write_documents(writer, repository.meta.member, bytes(32), files)
        record = Snapshot(writer.run_id, format_time(NOW), "web", "shop", Status.OK, [target])
        writer.commit(record)
    with pytest.raises(IntegrityError, match=r"volume\.json of volume shop_nas"):
        volume_kind.plan_restore(restoring_with(shop, repository), record, target, RestoreOptions())
