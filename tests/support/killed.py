"""A change of the keys in a process of its own, which is killed at one of its storage calls."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from drkit.operations.keys import add_recipient, remove_recipient, rewrap
from drkit.repository.identity import parse_identity
from drkit.repository.repository import Repository
from drkit.storage import open_storage
from tests.support.faulty_storage import Call, FaultyStorage


def change_keys(directory: Path, secret: str, verb: str, recipients: list[str], kill_at: int = 0) -> None:
    """Do one verb of `drkit key`. SIGKILL comes before the call of this number; 0 lets it end."""

    def on_call(call: Call) -> None:
        if call.number == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    storage = FaultyStorage(open_storage(str(directory)), on_call=on_call)
    repository = Repository.open(storage, [parse_identity(secret, source="test")])
    if verb == "add":
        add_recipient(repository, recipients[0], "new")
    elif verb == "remove":
        remove_recipient(repository, recipients[0])
    elif verb == "rewrap":
        rewrap(repository, recipients)
    else:
        raise ValueError(verb)
