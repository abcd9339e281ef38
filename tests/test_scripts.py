"""The other scripts: what they refuse, and that running them twice changes nothing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.conftest import PROJECT


def run(*command: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **(env or {})}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_images_are_made_once(engine_url: str, data_image: str) -> None:
    again = run(PROJECT / "scripts/test-images")
    assert again.returncode == 0, again.stderr
    assert again.stderr == ""


def test_an_unknown_image_is_refused(engine_url: str) -> None:
    refused = run(PROJECT / "scripts/test-images", "windows")
    assert refused.returncode == 1
    assert "busybox, alpine or data" in refused.stderr


def test_images_without_an_engine_say_how_to_get_one() -> None:
    refused = run(PROJECT / "scripts/test-images", env={"DOCKER_HOST": "unix:///nonexistent"})
    assert refused.returncode == 1
    assert "scripts/engine start" in refused.stderr


def test_the_demo_refuses_a_directory_with_something_in_it(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for arguments in ([], ["--clean"]):
        refused = run(PROJECT / "scripts/quickstart", *arguments, env={"DRKIT_DEMO_DIR": str(tmp_path)})
        assert refused.returncode == 1
        assert str(tmp_path) in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_engine_needs_root(tmp_path: Path) -> None:
    # In a user namespace of its own nobody is root, and the project can still be read wherever it lies.
    refused = run("unshare", "--user", PROJECT / "scripts/engine", "start", "--root", tmp_path / "engine")
    assert refused.returncode == 1
    assert "must run as root" in refused.stderr
