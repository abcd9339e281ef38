"""Labels: whom a wrapped key is for. An age file does not tell; whoever holds the meta key may know.

`keys/recipients/<meta, key id or escrow>/<hash>` is a sealed object of kind `recipients`, named by the SHA-256 of its
bytes. It is stored before the wraps it names, so every wrap has one, except wraps that earlier versions wrote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from drkit.errors import IntegrityError, ObjectNotFound
from drkit.repository.format.layout import kind_of
from drkit.repository.format.limits import SEALED
from drkit.repository.format.names import content_name
from drkit.repository.format.objects import ObjectSealer
from drkit.storage.acknowledged import put_seen
from drkit.storage.base import Storage

LABEL_PREFIX = "keys/recipients/"
KIND = "recipients"
MAX_NAME = 60

_RECIPIENT = re.compile("age1[a-z0-9]{1,3000}|ssh-(ed25519|rsa) [A-Za-z0-9+/]{1,3000}={0,2}")


class Holder(NamedTuple):
    """Whoever opens a wrap: a public key, and what people call it."""

    recipient: str
    name: str = ""


class Label(NamedTuple):
    """One label: its storage key, and the holders of the wraps it names by their hashes."""

    key: str
    purpose: str
    holders: dict[str, Holder]


def put_label(storage: Storage, sealer: ObjectSealer, purpose: str, holders: Mapping[str, Holder]) -> None:
    """Store a label for wraps of one key, given by their hashes. `purpose` is `meta`, a key id in hex, or `escrow`."""
    wraps = {
        name: {"recipient": holder.recipient} | ({"name": holder.name} if holder.name else {})
        for name, holder in holders.items()
    }
    body = sealer.seal(KIND, purpose.encode(), json.dumps({"wraps": wraps}).encode())
    put_seen(storage, f"{LABEL_PREFIX}{purpose}/{content_name(body)}", body)


def read_labels(storage: Storage, sealer: ObjectSealer, keys: Iterable[str]) -> Iterator[Label]:
    """Yield the labels among these storage keys.

    A label that does not open is left out: it is damaged, which `check` reports, or an interrupted init left it. The
    wraps that it names then count as unlabelled, which loses no key.
    """
    for key in keys:
        if kind_of(key) != KIND:
            continue
        purpose, _, _ = key.removeprefix(LABEL_PREFIX).partition("/")
        try:
            body = storage.get(key, limit=SEALED[KIND].stored)
            payload = sealer.open(KIND, purpose.encode(), body, source=key)
            wraps = json.loads(payload)["wraps"]
            holders = {name: _holder(each["recipient"], each.get("name", "")) for name, each in wraps.items()}
        except (IntegrityError, ObjectNotFound, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
        yield Label(key, purpose, holders)


def _holder(recipient: str, name: str) -> Holder:
    """Whoever holds the meta key can write labels, so nothing in them may steer a terminal or break a page."""
    if not _RECIPIENT.fullmatch(recipient):
        raise ValueError("a label names something that is not an age recipient")
    return Holder(recipient, name if is_name(name) else "")


def is_name(text: str) -> bool:
    """Whether a recipient may be given this name."""
    return len(text) <= MAX_NAME and text.isprintable()
