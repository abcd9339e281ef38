"""What an object is, by its key. Objects under any other name are not part of the repository: nobody reads them."""

from __future__ import annotations

import re

_HASH = "[0-9a-f]{64}"
_KEY_ID = "[0-9a-f]{32}"
_NAME = "[a-z0-9._-]+"
_KINDS = {
    "config": "config",
    "wrap": f"keys/(?:meta|{_KEY_ID})/{_HASH}",
    "escrow": f"keys/escrow/{_HASH}",
    "recipients": f"keys/recipients/(?:meta|escrow|{_KEY_ID})/{_HASH}",
    "pack": "packs/([0-9a-f]{2})/\\1[0-9a-f]{62}",
    "index": f"index/{_HASH}",
    "snapshot": f"snapshots/{_NAME}",
    "session": f"sessions/{_NAME}/[0-9]+",
    "mark": f"marks/{_NAME}",
    "forgot": f"forgot/[0-9a-f]{{32}}/{_HASH}",
    "proof": "proofs/(?!0{10})[0-9]{10}",
    "program": f"program/{_NAME}",
}
_PATTERNS = {kind: re.compile(pattern) for kind, pattern in _KINDS.items()}


def kind_of(key: str) -> str | None:
    """Return the kind of object that has such a key: that of a sealed object as it is sealed, or `config`, `wrap`,
    `escrow`, the whole `pack`, `program`. None for a key that no object of a repository has."""
    return next((kind for kind, pattern in _PATTERNS.items() if pattern.fullmatch(key)), None)
