"""Which storage a URL opens."""

from __future__ import annotations

from pathlib import Path

import pytest

from drkit.errors import RepositoryNotFound, UsageError
from drkit.storage import local_path, open_storage
from drkit.storage.local.directory import LocalStorage


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("/var/backups/drkit", "/var/backups/drkit"),
        ("/with space/and%20percent", "/with space/and%20percent"),
        ("file:///var/backups/drkit", "/var/backups/drkit"),
        ("file://localhost/var/backups", "/var/backups"),
        ("file:///with%20space", "/with space"),
    ],
)
def test_paths_and_file_urls(url: str, path: str) -> None:
    assert local_path(url) == Path(path)


def test_a_relative_path_counts_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = open_storage("backups/here", create=True)
    monkeypatch.chdir("/")
    storage.put("config", b"x")
    assert storage.url == str(tmp_path / "backups/here")
    assert (tmp_path / "backups/here/config").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://", "names no S3 bucket"),
        ("s3://Bucket/prefix", "names no S3 bucket"),
        ("s3://a/prefix", "names no S3 bucket"),
        ("s3://key:secret@bucket/prefix", "names no S3 bucket"),
        ("s3://bucket//prefix", "prefix"),
        ("s3://bucket/../other", "prefix"),
        ("s3://bucket/white space", "prefix"),
        ("sftp://host/path", "unknown repository scheme 'sftp'"),
        ("sftp:user@host:/path", "unknown repository scheme 'sftp'"),
        ("http://[half", "not a repository URL"),
        ("file://host/path", "absolute path"),
        ("file://", "absolute path"),
        ("file:///a?b", "nothing else"),
        ("file:///a%00b", "NUL"),
        ("", "not a repository URL"),
        ("a\0b", "not a repository URL"),
    ],
)
def test_other_urls_are_refused(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        open_storage(url, create=True)
    assert caught.value.hint


def test_a_missing_directory_is_no_repository(tmp_path: Path) -> None:
    with pytest.raises(RepositoryNotFound, match="no such file or directory") as caught:
        open_storage(str(tmp_path / "missing"))
    assert caught.value.hint is not None
    assert "drkit init" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("create", [False, True])
def test_a_file_is_no_repository(tmp_path: Path, create: bool) -> None:
    (tmp_path / "file").write_text("precious")
    for url in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises((RepositoryNotFound, UsageError), match="not a directory"):
            open_storage(str(url), create=create)
    assert (tmp_path / "file").read_text() == "precious"


def test_create_takes_an_existing_directory_as_it_is(tmp_path: Path) -> None:
    directory = tmp_path / "repository"
    directory.mkdir(mode=0o750)
    (directory / "config").write_bytes(b"x")
    storage = open_storage(str(directory), create=True)
    assert storage.get("config") == b"x"
    assert directory.stat().st_mode & 0o7777 == 0o750


def test_a_symbolic_link_to_the_repository(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    storage = open_storage(str(tmp_path / "link"))
    assert isinstance(storage, LocalStorage)
    storage.put("packs/aa/one", b"x")
    assert [info.key for info in storage.list("")] == ["packs/aa/one"]
    assert (tmp_path / "real/packs/aa/one").read_bytes() == b"x"
