"""`drkit snapshots`, `ls`, `find` and `diff` through the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.support.lab import Lab, Volume, fill


class Library(NamedTuple):
    """Two snapshots of two volumes; between them files of the first were changed."""

    lab: Lab
    one: Volume
    two: Volume
    first: str
    second: str


@pytest.fixture(scope="module")
def library(module_lab: Lab) -> Iterator[Library]:
    lab = module_lab
    one = lab.volume("one", {"etc/app.conf": b"a=1\n", "data/log": b"x" * 3000, "data/old": b"old", "becomes": b"file"})
    two = lab.volume("two", {"only": b"two"})
    (one.files / "link").symlink_to("etc/app.conf")
    (one.files / "data" / "hard").hardlink_to(one.files / "data" / "log")
    (one.files / "esc\x1b[31m\nline").write_bytes(b"")
    (one.files / os.fsdecode(b"caf\xe9")).write_bytes(b"")
    (one.files / "grün").write_bytes(b"")
    (one.files / "odd-time").write_bytes(b"")
    os.utime(one.files / "odd-time", ns=(0, -(10**9) * 10**8))
    os.chown(one.files / "etc" / "app.conf", 33, 34)
    (one.files / "etc" / "app.conf").chmod(0o640)
    lab.init(one, two)
    first = lab.backup()
    fill(one.files, {"etc/app.conf": b"a=2\n", "etc/new.conf": b"new"})
    (one.files / "data" / "old").unlink()
    (one.files / "odd-time").chmod(0o600)
    (one.files / "becomes").unlink()
    (one.files / "becomes").mkdir()
    yield Library(lab, one, two, first, lab.backup())


def entries(library: Library, *arguments: str) -> dict[str, dict[str, Any]]:
    return {entry["path"]: entry for entry in library.lab.json("ls", *arguments)["entries"]}


def test_ls_lists_every_file_with_what_it_is(library: Library) -> None:
    found = entries(library, library.first, library.one.name)
    assert list(found) == sorted(found, key=lambda path: "" if path == "." else path)
    conf = found["etc/app.conf"]
    assert {key: conf[key] for key in ("type", "mode", "uid", "gid", "size", "link")} == {
        "type": "f",
        "mode": "640",
        "uid": 33,
        "gid": 34,
        "size": 4,
        "link": "",
    }
    assert found["."]["type"] == "d"
    assert (found["link"]["type"], found["link"]["link"]) == ("l", "etc/app.conf")
    assert {found["data/hard"]["link"], found["data/log"]["link"]} == {"", "data/hard"}
    assert r"caf\xe9" in found
    assert r"esc\x1b[31m\x0aline" in found
    assert "grün" in found


def test_ls_prints_one_safe_line_a_file(library: Library) -> None:
    result = library.lab.drkit("ls", library.first, library.one.name)
    assert result.code == 0, result
    assert "\x1b" not in result.stdout
    lines = result.stdout.splitlines()
    assert len(lines) == len(entries(library, library.first, library.one.name))
    assert [line for line in lines if line.endswith(" link -> etc/app.conf")]
    assert [line for line in lines if "1966-10-31" in line and line.endswith("odd-time")]
    for encoding in ("ascii", "latin-1"):
        narrow = library.lab.drkit("ls", library.first, library.one.name, env={"PYTHONIOENCODING": encoding})
        assert narrow.code == 0, narrow


def test_ls_of_a_path_shows_what_is_at_and_below_it(library: Library) -> None:
    for path in ("data", "/data/"):
        found = entries(library, library.first, library.one.name, path)
        assert sorted(found) == ["data", "data/hard", "data/log", "data/old"]
    assert list(entries(library, "latest", library.two.name)) == [".", "only"]
    said = library.lab.fails(1, "ls", library.first, library.one.name, "no/such")
    assert "no/such" in said


def test_ls_needs_to_know_which_target(library: Library) -> None:
    said = library.lab.fails(2, "ls", library.first)
    assert library.one.name in said
    assert library.two.name in said
    said = library.lab.fails(1, "ls", library.first, "nonsense")
    assert library.one.name in said


def test_find_looks_into_every_snapshot(library: Library) -> None:
    found = library.lab.json("find", "*.conf")["matches"]
    assert [(each["snapshot"], each["target"], each["path"]) for each in found] == [
        (library.first, library.one.name, "etc/app.conf"),
        (library.second, library.one.name, "etc/app.conf"),
        (library.second, library.one.name, "etc/new.conf"),
    ]
    assert library.lab.json("find", "data/")["matches"][0]["path"] == "data"
    assert library.lab.json("find", "nothing-like-it")["matches"] == []
    shown = library.lab.drkit("find", "only").stdout.splitlines()
    assert [line.split()[0] for line in shown] == [library.first, library.second]
    assert "invalid pattern" in library.lab.fails(2, "find", "!")


def test_diff_tells_what_happened_to_each_path(library: Library) -> None:
    document = library.lab.json("diff", library.first, library.second)
    assert (document["old"], document["new"]) == (library.first, library.second)
    changes = {each["path"]: each["change"] for each in document["changes"]}
    assert {path: changes[path] for path in changes if path not in (".", "data", "etc")} == {
        "becomes": "T",
        "data/old": "-",
        "etc/app.conf": "M",
        "etc/new.conf": "+",
        "odd-time": "U",
    }
    assert {each["target"] for each in document["changes"]} == {f"volume {library.one.name}"}
    shown = library.lab.drkit("diff", library.first, "latest")
    assert f"- volume {library.one.name}: data/old" in shown.stdout.splitlines()
    assert library.lab.json("diff", library.first, library.first)["changes"] == []


def test_snapshots_lists_them_oldest_first_for_everyone(library: Library) -> None:
    listing = library.lab.snapshots()
    assert [snapshot["id"] for snapshot in listing] == [library.first, library.second]
    shown = library.lab.drkit("snapshots")
    assert [line.split()[0] for line in shown.stdout.splitlines()] == ["ID", library.first, library.second]
    assert library.one.name in shown.stdout
    assert library.lab.json("snapshots", "--host", "nobody")["snapshots"] == []
    bare = library.lab.run(
        "snapshots",
        "--repository",
        library.lab.repository,
        "--json",
        env={"DRKIT_IDENTITY_FILE": str(library.lab.identity)},
    )
    assert [snapshot["id"] for snapshot in json.loads(bare.stdout)["snapshots"]] == [library.first, library.second]
