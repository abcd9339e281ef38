"""What `pip install .` brings along: drkit and nothing else, whatever lies beside it in the directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pathspec
import pytest

from drkit import __version__
from tests.conftest import PROJECT

DATA = {"drkit/py.typed", "drkit/policy/example.yaml", "drkit/repository/FORMAT.md"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project after a quickstart, and after builds of other versions of it."""
    copy = tmp_path / "project"
    unneeded = shutil.ignore_patterns("__pycache__", "golden")
    for name in ("drkit", "policies", "scripts", "benchmarks", "tests", "docs"):
        if (PROJECT / name).exists():
            shutil.copytree(PROJECT / name, copy / name, ignore=unneeded)
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(PROJECT / name, copy)
    demo = copy / "drkit-demo"
    overlay = demo / "engine/data/overlay2/0123/merged/usr/lib/python3"
    overlay.mkdir(parents=True)
    (overlay / "site.py").write_text("")
    (overlay / "root").symlink_to("/")
    os.mkfifo(overlay / "fifo")
    (demo / os.fsdecode(b"odd\xff name")).mkdir()
    (demo / "identity.txt").write_text("AGE-SECRET-KEY-1")
    (demo / "unreadable").mkdir(mode=0)
    for stale in ("drkit/retention.py", "drkit-demo/identity.txt", "drkit_demo/__init__.py"):
        (copy / "build/lib" / stale).parent.mkdir(parents=True, exist_ok=True)
        (copy / "build/lib" / stale).write_text("left by an earlier build\n")
    compiled = copy / "drkit/__pycache__"
    compiled.mkdir()
    (compiled / "errors.cpython-311.pyc").write_bytes(b"")
    return copy


def build_wheel(project: Path, into: Path) -> Path:
    """Build as pip does in an environment that has the build requirements."""
    backend = tomllib.loads((project / "pyproject.toml").read_text())["build-system"]["build-backend"]
    into.mkdir()
    program = f"import sys, {backend} as backend; backend.build_wheel(sys.argv[1])"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", program, str(into)]
    done = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    [wheel] = into.glob("*.whl")
    return wheel


def test_a_wheel_holds_drkit_and_nothing_else(project: Path, tmp_path: Path) -> None:
    wheel = build_wheel(project, tmp_path / "wheels")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        metadata = {name.partition("/")[2] for name in names if name.startswith(f"drkit-{__version__}.dist-info/")}
        assert b"drkit.cli.main:main" in archive.read(f"drkit-{__version__}.dist-info/entry_points.txt")
    modules = {str(path.relative_to(PROJECT)) for path in (PROJECT / "drkit").rglob("*.py")}
    assert {name for name in names if ".dist-info/" not in name} == modules | DATA
    assert {"METADATA", "RECORD", "WHEEL", "entry_points.txt"} <= metadata
    assert len(modules | DATA) + len(metadata) == len(names)


@pytest.mark.parametrize("name", ["identity.txt", "repository/config", "venv/bin/drkit"])
def test_git_never_sees_the_demo(name: str) -> None:
    ignored = pathspec.GitIgnoreSpec.from_lines((PROJECT / ".gitignore").read_text().splitlines())
    assert ignored.match_file(f"drkit-demo/{name}")
    assert not ignored.match_file("drkit/policy/example.yaml")
