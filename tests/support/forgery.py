"""Objects that an attacker can make: with a public recipient alone, or with the meta key."""

from __future__ import annotations

import base64
import hashlib
import json

from drkit.repository.keys.identity import wrap
from drkit.repository.keys.wraps import new_key
from drkit.storage.base import Storage


def forge_wrap(storage: Storage, repository_id: bytes, prefix: str, recipient: str, *, first: bool) -> str:
    """Store a wrap of another key below `prefix`, ground so that it sorts before or behind all that are there."""
    there = sorted(info.key for info in storage.list(prefix))
    while True:
        fields = {
            "repository": repository_id.hex(),
            "for": prefix.split("/")[1],
            "key": base64.b64encode(new_key()).decode(),
        }
        body = wrap(json.dumps(fields).encode(), [recipient])
        key = prefix + hashlib.sha256(body).hexdigest()
        if (key < there[0]) if first else (key > there[-1]):
            storage.put(key, body)
            return key
