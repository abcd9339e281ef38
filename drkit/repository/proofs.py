"""Proofs: what was shown to work, and when. They form a chain: each holds the hash of the one before.

`proofs/<number>` is a sealed object of kind `proof`. Numbers count from 1, and an existing one cannot be created again:
of two proofs made at once, one comes second, and the chain never forks. Whoever notes number and hash of a proof can
tell later whether it, or any proof before it, was changed or removed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from drkit.errors import IntegrityError, ObjectExists
from drkit.repository.format.names import content_name
from drkit.repository.format.sealing import random_bytes
from drkit.repository.format.snapshot import format_time, parse_time
from drkit.repository.repository import Repository
from drkit.storage.seen import put_seen

PROOF_PREFIX = "proofs/"
_DIGITS = 10


@dataclass(frozen=True)
class Proof:
    """One proof. `digest`: SHA-256 of the object in hex. `about`: the fields that its kind defines (see FORMAT.md)."""

    number: int
    kind: str
    time: str
    host: str
    drkit: str
    previous: str | None
    about: dict[str, Any]
    digest: str


def add_proof(
    repository: Repository, kind: str, about: Mapping[str, Any], *, now: datetime, host: str, version: str
) -> Proof:
    """Append a proof to the chain. Raises what the storage raises; the proof may then exist or not."""
    while True:
        newest = _newest(repository)
        number = newest[0] + 1 if newest else 1
        previous = newest[1] if newest else None
        fields = {
            "number": number,
            "kind": kind,
            "time": format_time(now),
            "host": host,
            "drkit": version,
            "previous": previous,
            "nonce": random_bytes(16).hex(),
            "about": dict(about),
        }
        key = _key(number)
        body = repository.objects.seal("proof", _name(number), json.dumps(fields).encode())
        try:
            put_seen(repository.storage, key, body)
        except ObjectExists:
            if repository.storage.get(key) != body:  # equal bytes are our own: only the answer was lost
                continue
        return _decode(repository, key, body)


def read_proofs(repository: Repository) -> Iterator[Proof | IntegrityError]:
    """Yield all proofs in order; one that is damaged, or breaks the chain, as the error that names it.

    The oldest proofs may have been deleted; a gap after the first one that is there is an error.
    """
    before: tuple[int, str] | None = None
    for info in list(repository.storage.list(PROOF_PREFIX)):
        body = repository.storage.get(info.key)
        try:
            proof = _decode(repository, info.key, body)
            if before is not None and (proof.number, proof.previous) != (before[0] + 1, before[1]):
                raise IntegrityError(
                    f"{info.key} does not continue {_key(before[0])}: a proof was changed or removed",
                    hint="Compare it with the proofs that reports and people have noted.",
                    object_name=info.key,
                )
        except IntegrityError as error:
            yield error
        else:
            yield proof
        number = _number(info.key)
        before = (number, content_name(body)) if number else before


def _newest(repository: Repository) -> tuple[int, str] | None:
    """Number and hash of the last proof. Even a damaged one has both: damage does not end the chain."""
    newest = None
    for info in repository.storage.list(PROOF_PREFIX):
        if number := _number(info.key):
            newest = number, info.key
    if newest is None:
        return None
    return newest[0], content_name(repository.storage.get(newest[1]))


def _decode(repository: Repository, key: str, body: bytes) -> Proof:
    number = _number(key)
    if not number:
        raise IntegrityError(f"{key} is not a valid name of a proof", object_name=key)
    payload = repository.objects.open("proof", _name(number), body, source=key)
    try:
        fields = json.loads(payload)
        parse_time(fields["time"])
        proof = Proof(
            number=fields["number"],
            kind=str(fields["kind"]),
            time=fields["time"],
            host=str(fields["host"]),
            drkit=str(fields["drkit"]),
            previous=fields["previous"],
            about=dict(fields["about"]),
            digest=content_name(body),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{key} is not a proof: {error}", object_name=key) from None
    if proof.number != number:
        raise IntegrityError(f"{key} holds proof {proof.number}", object_name=key)
    return proof


def _name(number: int) -> bytes:
    return b"%0*d" % (_DIGITS, number)


def _key(number: int) -> str:
    return PROOF_PREFIX + _name(number).decode()


def _number(key: str) -> int:
    """The number in a storage key; 0 if this is not the key of a proof."""
    name = key.removeprefix(PROOF_PREFIX)
    return int(name) if name.isascii() and name.isdigit() and len(name) == _DIGITS else 0
