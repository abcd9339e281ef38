"""The program beside a new repository: what is made when it cannot be stored, and what the kit says of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pyrage
import pytest

from drkit.access.access import Access
from drkit.errors import AccessDenied, DrkitError, RepositoryError, StorageFull
from drkit.operations import init as operation
from drkit.operations import keys
from drkit.operations.context import Context
from drkit.operations.init import init
from drkit.policy import Policy, load_policy
from drkit.report.program import bundle
from drkit.report.program.bundle import stored_programs
from drkit.report.recovery_kit import kit_text
from drkit.repository.keys.identity import generate_identity
from drkit.storage import Storage, open_storage
from tests.conftest import DrkitCli
from tests.support.faulty_storage import FaultyStorage

NOW = datetime(2025, 3, 9, 1, 2, 3, tzinfo=UTC)


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    repository = {
        "url": str(tmp_path / "repository"),
        "recipients_file": str(tmp_path / "recipients.txt"),
        "identity_file": str(tmp_path / "identity.txt"),
    }
    document = {"version": 1, "name": "shop", "repository": repository, "protect": {"volumes": [{"name": "data"}]}}
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def policy(policy_file: Path, monkeypatch: pytest.MonkeyPatch) -> Policy:
    """A policy; programs are packed without their wheels, which take their time."""
    monkeypatch.setattr(bundle, "_wheels", lambda: iter(()))
    return load_policy(policy_file)


def stored(policy: Policy) -> list[str]:
    return stored_programs(open_storage(policy.repository.url))


def test_the_kit_names_the_program_that_is_stored(policy: Policy, tmp_path: Path) -> None:
    with Context(now=NOW, policy=policy) as context:
        made = init(context, with_program=True, kit_file=tmp_path / "kit.html")
    assert made.error is None
    assert made.program is not None
    assert stored(policy) == [made.program.key]
    assert made.program.sha256 in kit_text(made.kit)
    assert made.program.sha256 in (tmp_path / "kit.html").read_text()


@pytest.mark.parametrize("error", [StorageFull("no space left", hint="Free space."), AccessDenied("not allowed")])
def test_a_program_that_cannot_be_stored_leaves_a_whole_repository_and_its_kit(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: RepositoryError
) -> None:
    reason = error.message

    def failing(access: Access, *, create: bool, **more: object) -> Storage:
        storage = FaultyStorage(open_storage(access.url, create=create))
        storage.fail(error, kind="put", prefix="program/")
        return storage

    monkeypatch.setattr(operation, "open_access", failing)
    with Context(now=NOW, policy=policy) as context:
        made = init(context, with_program=True, kit_file=tmp_path / "kit.html")
    assert made.program is None
    assert made.error is error
    whole = f"repository {made.repository_id} is made and whole"
    assert made.error.message == f"{whole}, but the program is not stored: {reason}"
    assert (made.error.hint or "").endswith("un drkit key kit --with-program.")
    assert "never install it by that name" in kit_text(made.kit)
    assert made.repository_id in (tmp_path / "kit.html").read_text()
    with Context(now=NOW, policy=policy) as context:
        again = keys.kit(context, html=False, with_program=True)
    assert again.program is not None
    assert stored(policy) == [again.program.key]


def test_a_program_that_cannot_be_packed_ends_init_before_anything_is_made(
    policy_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "distribution", lambda: None)
    with (
        Context(now=NOW, policy=load_policy(policy_file)) as context,
        pytest.raises(DrkitError, match="cannot pack drkit"),
    ):
        init(context, with_program=True, kit_file=tmp_path / "kit.html")
    assert [path for path in (tmp_path / "repository").rglob("*") if path.is_file()] == []
    assert {path.name for path in tmp_path.iterdir()} == {"policy.yaml", "repository"}


def test_a_kit_without_the_program_that_is_there_says_so(policy: Policy, tmp_path: Path) -> None:
    with Context(now=NOW, policy=policy) as context:
        init(context)
    with Context(now=NOW, policy=policy) as context:
        assert keys.kit(context, html=False).warnings == []
        assert keys.kit(context, html=False, with_program=True).warnings == []
        [warning] = keys.kit(context, html=False).warnings
    assert stored(policy)[0] in warning.message
    assert "--with-program" in (warning.hint or "")


def test_nothing_is_stored_where_the_kit_could_not_be_written(policy: Policy, tmp_path: Path) -> None:
    with Context(now=NOW, policy=policy) as context:
        init(context)
        with pytest.raises(DrkitError, match="exists, and is not overwritten"):
            keys.kit(context, html=False, file=tmp_path / "policy.yaml", with_program=True)
    assert stored(policy) == []


def test_a_mirror_is_made_without_a_program(policy_file: Path, tmp_path: Path, drkit_cli: DrkitCli) -> None:
    place = tmp_path / "mirror"
    arguments = ["--policy", policy_file, "--repository", place, "--mirror-of", tmp_path / "repository"]
    done = drkit_cli("init", *arguments, "--with-program")
    assert done.code == 2
    assert "a mirror is created without a recovery kit" in done.stderr
    assert "drkit key kit --with-program --repository MIRROR" in done.stderr
    assert not place.exists()


class Somebody:
    """At a terminal, with an identity under a passphrase; wants no copy of it in the repository."""

    def passphrase(self, name: str) -> str:
        return "five random words"

    def new_passphrase(self, question: str) -> str:
        raise AssertionError("asked for a new passphrase")


def test_who_is_offered_no_passphrase_is_still_asked_for_that_of_the_identity(policy: Policy) -> None:
    """As with --json on a terminal."""
    assert policy.repository.identity_file is not None
    text = generate_identity().file_text(NOW)
    policy.repository.identity_file.write_bytes(pyrage.passphrase.encrypt(text.encode(), "five random words"))
    policy.repository.identity_file.chmod(0o600)
    with Context(now=NOW, policy=policy, asker=Somebody()) as context:
        made = init(context, offer_passphrase=False)
    assert not made.identity_created and not made.second_home
