"""The secret of a host: made once, the same ever after, and no reason to stop where it cannot be kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from drkit.host.secret import HostSecret
from tests.support.events import RecordedEvents

REPOSITORY, OTHER = b"r" * 16, b"s" * 16


def test_it_is_made_once_and_nobody_else_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "documents.key"
    salt = HostSecret(path).salt(REPOSITORY)
    assert len(salt) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert HostSecret(path).salt(REPOSITORY) == salt
    assert HostSecret(path).salt(OTHER) != salt
    assert salt.hex() not in path.read_text()
    assert HostSecret(tmp_path / "other").salt(REPOSITORY) != salt


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"00" * 31, b"zz" * 32])
def test_one_that_is_damaged_is_replaced_and_told(tmp_path: Path, content: bytes) -> None:
    path, events = tmp_path / "documents.key", RecordedEvents()
    path.write_bytes(content)
    salt = HostSecret(path, events).salt(REPOSITORY)
    assert ["documents are stored once more" in text for text in events.warnings] == [True]
    assert HostSecret(path, events).salt(REPOSITORY) == salt
    assert len(events.warnings) == 1


def test_where_it_cannot_be_kept_a_run_has_one_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    events = RecordedEvents()
    secret = HostSecret(tmp_path / "file" / "documents.key", events)
    assert secret.salt(REPOSITORY) == secret.salt(REPOSITORY)
    assert "documents are stored again by every backup" in events.warnings[-1]
