"""Where drkit was installed from, as pip and others note it, and what is said of it."""

from __future__ import annotations

import json
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import pytest

from drkit.report.program import source
from drkit.report.program.source import PACKAGE, Source, installed_source

COMMIT, SHA256 = "0a" * 20, "0b" * 32


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site directory with drkit installed in it, where the package that runs seems to lie."""
    directory = tmp_path / "site"
    (directory / "drkit").mkdir(parents=True)
    info = directory / "drkit-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: drkit\nVersion: 0.1.0\n")
    (info / "WHEEL").write_text("Wheel-Version: 1.0\nTag: py3-none-any\n")
    monkeypatch.setattr(source, "PACKAGE", directory / "drkit")
    monkeypatch.setattr(source, "distributions", lambda name: Distribution.discover(name=name, path=[str(directory)]))
    return info


def noted(site: Path, document: Any) -> Source:
    (site / "direct_url.json").write_text(json.dumps(document))
    return installed_source()


def test_a_version_control_system_with_the_commit(site: Path) -> None:
    git = {"url": "https://git.example.com/drkit.git", "vcs_info": {"vcs": "git", "commit_id": COMMIT}}
    lines = ("git+https://git.example.com/drkit.git", f"commit {COMMIT}")
    assert noted(site, git) == Source(lines, f"git+https://git.example.com/drkit.git@{COMMIT}")
    part = noted(site, {**git, "subdirectory": "python"})
    assert part == Source(lines, f"git+https://git.example.com/drkit.git@{COMMIT}#subdirectory=python")


def test_an_archive_with_its_hash(site: Path) -> None:
    url = "https://example.com/drkit-0.1.0-py3-none-any.whl"
    archive = {"url": url, "archive_info": {"hash": f"sha256={SHA256}", "hashes": {"sha256": SHA256}}}
    assert noted(site, archive) == Source((url, f"sha256 {SHA256}"), f"{url}#sha256={SHA256}")
    # Without a hash it need not be the same the next time.
    assert noted(site, {"url": url, "archive_info": {}}) == Source((url,), None)


@pytest.mark.parametrize(
    "document",
    [
        {"url": "file:///root/my%20drkit", "dir_info": {}},
        {"url": "file:///root/drkit.whl", "archive_info": {"hashes": {"sha256": SHA256}}},
        {"url": "file:///root/drkit.git", "vcs_info": {"vcs": "git", "commit_id": COMMIT}},
    ],
    ids=["directory", "archive", "repository"],
)
def test_what_lies_on_this_host_is_no_source_for_another(site: Path, document: Any) -> None:
    found = noted(site, document)
    assert "/root/" in found.lines[0]
    assert found.requirement is None


def test_a_directory_is_named_as_a_path(site: Path) -> None:
    assert noted(site, {"url": "file:///root/my%20drkit", "dir_info": {}}).lines[0] == "/root/my drkit"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:hunter2@git.example.com/drkit.git", "git+https://git.example.com/drkit.git"),
        ("https://hunter2@git.example.com/drkit.git", "git+https://git.example.com/drkit.git"),
        ("https://git.example.com/drkit.git?token=hunter2", "git+https://git.example.com/drkit.git"),
        ("ssh://git@git.example.com:22/drkit.git", "git+ssh://git@git.example.com:22/drkit.git"),
    ],
)
def test_no_secret_of_an_address_is_shown(site: Path, url: str, shown: str) -> None:
    found = noted(site, {"url": url, "vcs_info": {"vcs": "git", "commit_id": COMMIT}})
    assert found.lines[0] == shown
    # Without its secret it would not be found again.
    assert found.requirement == (None if "hunter2" in url else f"{shown}@{COMMIT}")


def test_an_index_is_not_named_and_never_asked(site: Path) -> None:
    found = installed_source()
    assert "not recorded" in found.lines[0]
    assert found.requirement is None


@pytest.mark.parametrize(
    "text", ["{", "[]", "3", '{"url": "https://x", "vcs_info": {}}', '{"url": "http://[", "x": 1}']
)
def test_a_damaged_note_is_as_good_as_none(site: Path, text: str) -> None:
    (site / "direct_url.json").write_text(text)
    assert installed_source().requirement is None


def test_a_working_copy_is_what_runs_whatever_was_installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "PACKAGE", PACKAGE)
    found = noted(site, {"url": "https://example.com/drkit", "vcs_info": {"vcs": "git", "commit_id": COMMIT}})
    assert found == Source((str(PACKAGE.parent), "a working copy on the host of this kit"), None)
