"""Opening a repository with the keys that an access names."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

from drkit.access.access import Access
from drkit.access.identities import IdentitySource
from drkit.access.opening import open_repository
from drkit.repository.keys.identity import generate_identity
from drkit.repository.repository import Repository
from drkit.storage import open_storage
from tests.support.events import RecordedEvents


def test_what_an_identity_command_writes_to_stderr_reaches_the_events(tmp_path: Path) -> None:
    identity, url = generate_identity(), str(tmp_path / "repository")
    now = datetime(2026, 11, 24, tzinfo=UTC)
    Repository.create(open_storage(url, create=True), identity, [identity.recipient], now=now)
    script = f"import sys; sys.stderr.write('asking the safe'); print({identity.secret_text()!r})"
    events = RecordedEvents()
    source = IdentitySource(command=(sys.executable, "-c", script))
    open_repository(Access(url, identity=source), events=events)
    assert events.notes == [f"{sys.executable}: asking the safe"]
