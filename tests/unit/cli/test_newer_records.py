"""A snapshot of a newer drkit, with a kind that this one does not know: it is listed, exported, copied and kept."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from drkit.repository.format.digest import keyed_digest
from drkit.repository.format.snapshot import Snapshot, format_time
from drkit.repository.format.tree import EXTENT, Member, TreeWriter, encode_member
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter
from drkit.storage import open_storage
from tests.conftest import CliResult, DrkitCli
from tests.support.repositories import NOW, create, write_snapshot

OLD, NEWER = "20250308t010203z-00000000", "20250309t010203z-00000001"
PART = "targets[1].parts[0].tree"
FILES: dict[str, dict[str, bytes]] = {
    "own": {"surface/rock": b"red\n", "moon": b"phobos\n"},
    "part": {"core": b"iron\n"},
    "data": {"a": b"content\n"},
}


@dataclass
class Galaxy:
    """A repository with an ordinary snapshot and one of a newer drkit, and the command line."""

    directory: Path
    cli: DrkitCli
    repository: Repository

    def run(self, *arguments: str | Path, code: int = 0, at: Path | None = None) -> CliResult:
        env = {"DRKIT_IDENTITY_FILE": str(self.directory / "identity.txt")}
        done = self.cli(*arguments, "--repository", at or self.directory / "repository", env=env)
        assert done.code == code, done
        return done

    def json(self, *arguments: str | Path, code: int = 0, at: Path | None = None) -> dict[str, Any]:
        return dict(json.loads(self.run(*arguments, "--json", code=code, at=at).stdout))

    def exported(self, target: str, *, reference: str = NEWER, at: Path | None = None) -> dict[str, bytes]:
        out = self.directory / "out.tar"
        out.unlink(missing_ok=True)
        self.run("export", reference, "--target", target, "-o", out, at=at)
        with tarfile.open(out) as tar:
            return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


@pytest.fixture
def galaxy(tmp_path: Path, drkit_cli: DrkitCli) -> Galaxy:
    storage = open_storage(str(tmp_path / "repository"), create=True)
    repository, identity = create(storage)
    (tmp_path / "identity.txt").touch(0o600)
    (tmp_path / "identity.txt").write_text(identity.secret_text() + "\n")
    write_snapshot(repository, [identity.recipient], OLD, {"data": {b"": bytes(512)}})
    opened = Repository.open(storage, [identity])
    with RunWriter(opened, NEWER, [identity.recipient], host="host") as writer:
        trees = {name: put_files(opened, writer, files) for name, files in FILES.items()}
        snapshot = Snapshot(NEWER, format_time(NOW), "host", "policy", "ok", [])
        targets = [
            {"kind": "volume", "name": "data", "status": "ok", "files": 1, "tree": trees["data"]},
            {"kind": "planet", "name": "mars", "status": "ok", "files": 3, "parts": [{"tree": trees["part"]}]},
            {"kind": "planet", "name": "data", "status": "ok", "files": 2, "tree": trees["own"]},
        ]
        record = {"id": NEWER, "time": snapshot.time, "host": "host", "policy": "policy", "status": "ok"}
        writer.commit(snapshot, json.dumps({**record, "targets": targets}).encode())
    return Galaxy(tmp_path, drkit_cli, opened)


def put_files(repository: Repository, writer: RunWriter, files: Mapping[str, bytes]) -> list[str]:
    """In an order that is not that of paths: only volumes promise one."""
    tree = TreeWriter(writer.put_tree)
    for name, content in files.items():
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        raw = entry.tobuf() + content.ljust(512, b"\0")
        extents = EXTENT.pack(writer.put_data(raw), 0, len(raw))
        stat = b"f 644 0 0 %d 1 1 7 1" % len(content)
        digest = keyed_digest(repository.meta.member, raw)
        tree.add(encode_member(Member(name.encode(), stat, b"", b"", digest, False, extents)))
    return [chunk_id.hex() for chunk_id in tree.finish()]


def test_snapshots_shows_it(galaxy: Galaxy) -> None:
    said = galaxy.run("snapshots").stdout
    assert "planet mars (made by a newer drkit)" in said
    listed = galaxy.json("snapshots")["snapshots"][1]["targets"]
    assert [(each["kind"], each["name"]) for each in listed] == [
        ("volume", "data"),
        ("planet", "mars"),
        ("planet", "data"),
    ]


def test_ls_lists_what_it_holds(galaxy: Galaxy) -> None:
    def paths(*arguments: str) -> list[str]:
        return [entry["path"] for entry in galaxy.json("ls", NEWER, *arguments)["entries"]]

    assert paths("planet:data") == ["surface/rock", "moon"]
    assert paths("volume:data") == ["a"]
    assert paths(PART) == paths(f"tree:{PART}") == ["core"]
    assert paths("planet:data", "surface") == ["surface/rock"]
    ambiguous = galaxy.run("ls", NEWER, "data", code=2).stderr
    assert f"hint: Name one of: volume:data, planet:data, tree:{PART}." in ambiguous
    parts_alone = galaxy.run("ls", NEWER, "mars", code=1).stderr
    assert f"planet mars has no files of its own in snapshot {NEWER}, made by a newer drkit" in parts_alone
    assert f"tree:{PART}" in parts_alone
    assert "holds no venus" in galaxy.run("ls", NEWER, "venus", code=1).stderr


def test_it_is_exported_as_a_tar(galaxy: Galaxy) -> None:
    for reference in (NEWER, "latest"):
        assert galaxy.exported("planet:data", reference=reference) == FILES["own"]
        assert galaxy.exported(f"tree:{PART}", reference=reference) == FILES["part"]
        assert galaxy.exported("volume:data", reference=NEWER) == FILES["data"]
        said = galaxy.run("export", reference, "--target", "planet:mars", "-o", "x.tar", code=1).stderr
        assert "planet mars has no files of its own" in said
        assert "made by a newer drkit" in said
        assert f"hint: What holds files: volume:data, planet:data, tree:{PART}." in said
    assert "holds no planet venus" in galaxy.run("export", NEWER, "--target", "planet:venus", code=1).stderr
    document = galaxy.json("export", NEWER, "--target", "planet:data", "-o", galaxy.directory / "y.tar")
    assert (document["planet"], document["files"], document["status"]) == ("data", 2, "ok")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--target", "planet"),
        ("--target", ":mars"),
        ("--target", "planet:"),
        ("--target", "planet:mars", "--volume", "data"),
    ],
)
def test_what_export_does_not_understand(galaxy: Galaxy, arguments: tuple[str, ...]) -> None:
    assert "hint: Give --target KIND:NAME alone" in galaxy.run("export", NEWER, *arguments, code=2).stderr


def test_find_searches_it(galaxy: Galaxy) -> None:
    def found(pattern: str) -> list[tuple[str, str]]:
        return [(each["target"], each["path"]) for each in galaxy.json("find", pattern)["matches"]]

    assert found("rock") == [("data", "surface/rock")]
    assert found("core") == [(PART, "core")]


def test_diff_says_what_it_does_not_compare(galaxy: Galaxy) -> None:
    done = galaxy.run("diff", OLD, NEWER)
    assert f"warning: not compared: {PART} of snapshot {NEWER}, made by a newer drkit" in done.stderr
    assert {"+ planet data: moon", "+ planet data: surface/rock", "+ volume data: a"} <= set(done.stdout.splitlines())
    assert galaxy.json("diff", NEWER, NEWER)["changes"] == []


def test_diff_of_trees_in_another_order_shows_only_what_differs(galaxy: Galaxy) -> None:
    """As those of images, which come in the engine's order."""
    later, [key] = "20250310t010203z-00000002", galaxy.repository.identities
    repository = Repository.open(galaxy.repository.storage, [key])
    with RunWriter(repository, later, [key.recipient], host="host") as writer:
        files = {"moon": b"deimos, not phobos\n", "surface/rock": b"red\n"}
        target = {"kind": "planet", "name": "data", "tree": put_files(repository, writer, files)}
        snapshot = Snapshot(later, format_time(NOW), "host", "policy", "ok", [])
        record = {"id": later, "time": snapshot.time, "host": "host", "policy": "policy", "status": "ok"}
        writer.commit(snapshot, json.dumps({**record, "targets": [target]}).encode())
    changes = galaxy.json("diff", NEWER, later)["changes"]
    assert [(each["change"], each["path"]) for each in changes if each["target"] == "planet data"] == [("M", "moon")]


def test_check_and_verify_read_all_of_it(galaxy: Galaxy) -> None:
    galaxy.run("forget", OLD, "--yes-really")  # whose content is no tar
    assert galaxy.json("check")["status"] == "ok"
    assert galaxy.json("verify")["status"] == "ok"
    assert galaxy.json("verify", NEWER)["status"] == "ok"
    data = [path for path in (galaxy.directory / "repository/packs").rglob("*") if path.is_file()]
    for path in data:
        body = bytearray(path.read_bytes())
        if body.startswith(b"DRKITP1d"):
            for at in range(24, len(body) - 200, 100):
                body[at] ^= 1
            path.chmod(0o600)
            path.write_bytes(body)
    errors = galaxy.json("verify", code=20)["errors"]
    files = {name for error in errors for name in error.get("files", [])}
    assert any("planet data" in name for name in files), errors
    assert any(PART in name for name in files), errors


def test_prune_and_forget_keep_it(galaxy: Galaxy) -> None:
    galaxy.run("forget", OLD, "--yes-really")
    galaxy.run("prune", "--yes-really")
    assert galaxy.exported(f"tree:{PART}") == FILES["part"]
    assert galaxy.exported("planet:data") == FILES["own"]
    assert galaxy.json("check")["status"] == "ok"
    refused = galaxy.run("forget", NEWER, code=23).stderr
    assert f"snapshot {NEWER} is the newest that holds" in refused
    galaxy.run("forget", NEWER, "--yes-really")
    assert galaxy.json("snapshots")["snapshots"] == []


def test_copy_takes_all_of_it_along(galaxy: Galaxy) -> None:
    mirror = galaxy.directory / "mirror"
    galaxy.run("init", "--mirror-of", galaxy.directory / "repository", at=mirror)
    galaxy.run("copy", "--to", mirror)
    [_, copy] = galaxy.json("snapshots", at=mirror)["snapshots"]
    assert copy["copy_of"] == NEWER
    assert galaxy.exported(f"tree:{PART}", at=mirror) == FILES["part"]
    assert galaxy.exported("planet:data", at=mirror) == FILES["own"]
    assert galaxy.json("check", at=mirror)["status"] == "ok"
