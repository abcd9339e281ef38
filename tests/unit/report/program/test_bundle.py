"""drkit beside its own repository: packed, stored, and installed from there on a host without a network."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest

from drkit import __version__
from drkit.errors import AccessDenied, DrkitError, IntegrityError, RepositoryError, StorageFull
from drkit.report.program import bundle
from drkit.report.program.bundle import (
    BY_HAND,
    PackedProgram,
    Program,
    check_program,
    pack_program,
    store_program,
    stored_programs,
)
from drkit.report.program.wheels import Wheel
from drkit.repository.check import check_repository
from drkit.storage import open_storage
from drkit.storage.base import validate_key
from tests.support.faulty_storage import FaultyStorage
from tests.support.memory_storage import MemoryStorage
from tests.support.mirroring import copy_all, make_mirror
from tests.support.pruning import prune_now
from tests.support.repositories import create, write_snapshot

RUN, CONTENT = "20250309t010203z-00000001", {"data": {b"": bytes(512), b"file": bytes(1024)}}
PROJECT = Path(__file__).resolve().parents[4]
FORMAT = (PROJECT / "drkit/repository/FORMAT.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def packed() -> PackedProgram:
    return pack_program()


def small(monkeypatch: pytest.MonkeyPatch) -> PackedProgram:
    """A program without its wheels, which take their time."""
    monkeypatch.setattr(bundle, "_wheels", lambda: iter(()))
    return pack_program()


# --- the real one


@pytest.mark.slow
@pytest.mark.xdist_group("packed program")
def test_a_bare_python_installs_it_and_reads_the_repository(packed: PackedProgram, tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "repository"), create=True)
    repository, identity = create(storage)
    write_snapshot(repository, [identity.recipient], RUN, CONTENT)
    about = store_program(storage, packed)
    identity_file = tmp_path / "identity.txt"
    identity_file.touch(mode=0o600)
    identity_file.write_text(identity.secret_text() + "\n")
    subprocess.run(["tar", "-xf", tmp_path / "repository" / about.key], cwd=tmp_path, check=True)
    venv.create(tmp_path / "venv", with_pip=True)
    tools = tmp_path / "venv" / "bin"
    bare = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "DRKIT_IDENTITY_FILE": str(identity_file)}

    def run(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=bare, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done
        return done.stdout

    run(tools / "pip", "install", "--no-index", "--find-links", "program", "drkit")
    assert run(tools / "pip", "check").strip() == "No broken requirements found."
    assert __version__ in run(tools / "drkit", "--version")
    where = run(tools / "python", "-c", "import drkit; print(drkit.__file__)")
    assert where.startswith(str(tmp_path))
    assert RUN in run(tools / "drkit", "snapshots", "--repository", tmp_path / "repository")
    # The program that reads by hand needs nothing that is not there.
    shown = run(tools / "python", f"program/{BY_HAND}", tmp_path / "repository", identity_file)
    assert shown == f"{RUN} volume:data\n"


@pytest.mark.slow
@pytest.mark.xdist_group("packed program")
def test_it_is_packed_to_the_same_bytes(packed: PackedProgram) -> None:
    assert pack_program() == packed


@pytest.mark.slow
@pytest.mark.xdist_group("packed program")
def test_it_fits_in_one_object_and_holds_no_more_than_needed(packed: PackedProgram) -> None:
    assert len(packed.data) < 60 << 20
    held = check_program(packed.data)
    assert held[:2] == ["program/FORMAT.md", "program/by_hand.py"]
    packages = {name.removeprefix("program/").partition("-")[0] for name in held[2:]}
    assert packages >= {"drkit", "boto3", "botocore", "cryptography", "cffi", "pyrage", "zstandard", "tzdata"}
    assert packages.isdisjoint({"pytest", "mypy", "moto", "pip", "setuptools"})
    with tarfile.open(fileobj=io.BytesIO(packed.data)) as tar:
        assert {(entry.uid, entry.gid, entry.mtime, entry.mode) for entry in tar} == {(0, 0, 0, 0o644)}


# --- what does not need the wheels


def test_it_has_what_reads_a_repository_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = small(monkeypatch)
    with tarfile.open(fileobj=io.BytesIO(packed.data)) as tar:
        texts = {entry.name: (tar.extractfile(entry) or io.BytesIO()).read().decode() for entry in tar}
    [program] = re.findall(r"```python\n(.*?)```", FORMAT, re.DOTALL)
    assert texts == {"program/FORMAT.md": FORMAT, "program/by_hand.py": program}


def test_its_key_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    key, digest, needs = small(monkeypatch).about
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    machine = os.uname().machine
    assert key == f"program/drkit-{__version__}-cp{python.replace('.', '')}-{machine}-{digest[:12]}.tar"
    assert needs.startswith(f"CPython {python}, Linux {machine}, ")
    monkeypatch.setattr(bundle, "__version__", "1.0+Git.Ä")
    validate_key(small(monkeypatch).about.key)


def test_another_content_has_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    first = small(monkeypatch)
    monkeypatch.setattr(bundle, "BY_HAND", "other.py")
    assert small(monkeypatch).about.key != first.about.key


def test_a_drkit_that_is_not_installed_cannot_be_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "distribution", lambda: None)
    with pytest.raises(DrkitError, match="not installed") as caught:
        pack_program()
    assert caught.value.hint


def test_notes_of_another_version_are_not_packed_with_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "__version__", "9.9")
    with pytest.raises(DrkitError, match=r"drkit 9\.9: what is installed says that it is"):
        pack_program()


# --- storing


def test_it_is_stored_once_and_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    packed, storage = small(monkeypatch), FaultyStorage(MemoryStorage())
    assert store_program(storage, packed) == packed.about
    assert stored_programs(storage) == [packed.about.key]
    assert store_program(storage, packed) == packed.about
    assert [call.kind for call in storage.calls if call.key == packed.about.key] == [
        "stat",
        "put",
        "get",
        "stat",
        "get",
    ]


def test_one_that_somebody_else_stores_meanwhile_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    packed, inner = small(monkeypatch), MemoryStorage()
    storage = FaultyStorage(inner)
    storage.on_call = lambda call: inner.objects.update({call.key: packed.data}) if call.kind == "put" else None
    assert store_program(storage, packed) == packed.about


@pytest.mark.parametrize("stored", [b"", b"evil"])
def test_another_content_in_its_place_is_never_taken_for_it(monkeypatch: pytest.MonkeyPatch, stored: bytes) -> None:
    packed, storage = small(monkeypatch), MemoryStorage()
    storage.objects[packed.about.key] = stored
    with pytest.raises(
        IntegrityError, match=r"the program is not stored: object program/.* is not what was stored"
    ) as caught:
        store_program(storage, packed)
    assert caught.value.hint == "Delete it. Then run drkit key kit --with-program."
    assert storage.objects[packed.about.key] == stored


@pytest.mark.parametrize("error", [StorageFull("no space left", hint="Free space."), AccessDenied("denied")])
def test_what_hinders_storing_it_is_named_with_the_next_command(
    monkeypatch: pytest.MonkeyPatch, error: RepositoryError
) -> None:
    packed, storage = small(monkeypatch), FaultyStorage(MemoryStorage())
    storage.fail(error, kind="put")
    with pytest.raises(type(error), match=f"the program is not stored: {error.message}") as caught:
        store_program(storage, packed)
    assert (caught.value.hint or "").endswith("un drkit key kit --with-program.")
    assert stored_programs(storage) == []


def test_wheels_are_looked_at_once_more_when_they_are_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "_wheels", lambda: iter([Wheel("x-1-py3-none-any.whl", b"no zip")]))
    with pytest.raises(IntegrityError, match=r"x-1-py3-none-any\.whl is not a whole wheel"):
        store_program(MemoryStorage(), pack_program())


def test_check_prune_and_copy_leave_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    storage, mirror = MemoryStorage(), MemoryStorage()
    repository, identity = create(storage)
    write_snapshot(repository, [identity.recipient], RUN, CONTENT)
    about = store_program(storage, small(monkeypatch))
    storage.objects["stranger"] = b""
    report = check_repository(repository)
    assert report.ok
    assert report.notes == {"stranger": "not part of the repository"}
    prune_now(repository)
    assert stored_programs(storage) == [about.key]
    make_mirror(repository, mirror)
    copy_all(repository, mirror)
    assert stored_programs(mirror) == []


def test_facts_are_a_plain_document() -> None:
    assert Program("k", "s", "n")._asdict() == {"key": "k", "sha256": "s", "needs": "n"}
