"""`drkit policy show`: the policy of a lost host, from a snapshot."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from drkit.pipeline.documents import write_documents
from drkit.repository.format.snapshot import Snapshot, format_time
from drkit.repository.keys.wraps import format_meta_key
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter
from drkit.storage import open_storage
from tests.conftest import CliResult, DrkitCli
from tests.support.repositories import NOW, create

TEXT = "# caf\u00e9\nversion: 1\nname: shop\n\n"


@dataclass
class Lost:
    """A repository, and a bare host that holds the identity."""

    directory: Path
    cli: DrkitCli
    repository: Repository

    def write(self, run_id: str, *, text: bytes | None = None, host: str = "web", **fields: Any) -> None:
        recipients = [self.repository.identities[0].recipient]
        repository = Repository.open(self.repository.storage, self.repository.identities)
        snapshot = Snapshot(run_id, format_time(NOW), host, "shop", "ok", [], **fields)
        with RunWriter(repository, run_id, recipients, host=host) as writer:
            if text is not None:
                files = {"policy.yaml": text}
                snapshot.documents = write_documents(writer, repository.meta.member, bytes(32), files)
            writer.commit(snapshot)

    def show(self, *arguments: str, code: int = 0) -> CliResult:
        env = {"DRKIT_IDENTITY_FILE": str(self.directory / "identity.txt")}
        repository = self.directory / "repository"
        done = self.cli("policy", "show", *arguments, "--repository", repository, env=env)
        assert done.code == code, done
        return done


@pytest.fixture
def lost(tmp_path: Path, drkit_cli: DrkitCli) -> Lost:
    repository, identity = create(open_storage(str(tmp_path / "repository"), create=True))
    (tmp_path / "identity.txt").touch(0o600)
    (tmp_path / "identity.txt").write_text(identity.secret_text() + "\n")
    return Lost(tmp_path, drkit_cli, Repository.open(repository.storage, [identity]))


def test_it_prints_the_text_as_it_was(lost: Lost) -> None:
    lost.write("20250309t010203z-00000000", text=b"name: first\n")
    lost.write("20250310t010203z-00000000", text=TEXT.encode())
    assert lost.show().stdout == TEXT
    assert lost.show("latest").stdout == TEXT
    assert lost.show("20250309").stdout == "name: first\n"
    document = json.loads(lost.show("--json").stdout)
    assert document == {"snapshot": "20250310t010203z-00000000", "host": "web", "policy": "shop", "text": TEXT}


def test_records_of_earlier_versions_have_it_themselves(lost: Lost) -> None:
    lost.write("20250309t010203z-00000000", policy_text=TEXT)
    assert lost.show().stdout == TEXT
    lost.write("20250310t010203z-00000000")
    assert "snapshot 20250310t010203z-00000000 holds no policy" in lost.show(code=1).stderr


def test_two_hosts_are_told_apart(lost: Lost) -> None:
    lost.write("20250309t010203z-00000000", text=b"of: web\n")
    lost.write("20250310t010203z-00000000", text=b"of: db\n", host="db")
    assert "latest is ambiguous" in lost.show(code=2).stderr
    assert lost.show("--host", "web").stdout == "of: web\n"


def test_a_forged_one_steers_no_terminal(lost: Lost) -> None:
    lost.write("20250309t010203z-00000000", text=b"a: \x1b[2J\x07\xc2\x9b31m\xff\tb\n")
    assert lost.show().stdout == "a: \\x1b[2J\\x07\\x9b31m\\xff\tb\n"


def test_it_is_data(lost: Lost) -> None:
    lost.write("20250309t010203z-00000000", text=TEXT.encode())
    key = lost.directory / "meta.key"
    key.touch(0o600)
    key.write_text(format_meta_key(lost.repository.meta.meta_key, lost.repository.id))
    (lost.directory / "recipients.txt").write_text(lost.repository.identities[0].recipient)
    policy = lost.directory / "policy.yaml"
    where = {"url": str(lost.directory / "repository"), "recipients_file": str(lost.directory / "recipients.txt")}
    protect = {"volumes": [{"name": "data"}]}
    policy.write_text(
        json.dumps(
            {"version": 1, "name": "shop", "host": "web", "repository": {**where, "meta_key_file": str(key)}}
            | {"protect": protect}
        )
    )
    done = lost.cli("policy", "show", "--policy", policy)
    assert (done.code, done.stdout) == (12, "")
    assert "reading a policy needs an identity; this host holds the meta key alone" in done.stderr
