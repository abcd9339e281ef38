"""Proofs: what was shown to work, and when. They form a chain: each holds the hash of the one before.

`proofs/<number>` is a sealed object of kind `proof`. Numbers count from 1, and an existing one cannot be created again:
of two proofs made at once, one comes second, and the chain never forks. Whoever notes number and hash of a proof can
tell later whether it, or any proof before it, was changed or removed.

Whoever can write to the storage can put anything under a number. So the chain goes on after the last proof that opens,
at the next number that is free: what lies there and does not open is damage, and neither ends the chain nor joins it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any

from drkit.errors import IntegrityError, ObjectExists, ObjectNotFound
from drkit.repository.format.digest import DIGEST_SIZE
from drkit.repository.format.fields import (
    DECODER,
    Check,
    a_count,
    a_list,
    a_name,
    a_text,
    a_time,
    an_object,
    build,
    hex_bytes,
    optional,
)
from drkit.repository.format.layout import kind_of
from drkit.repository.format.limits import SEALED
from drkit.repository.format.names import content_name
from drkit.repository.format.sealing import random_bytes
from drkit.repository.format.snapshot import format_time
from drkit.repository.repository import Repository
from drkit.storage.acknowledged import put_seen

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
    requires: list[str] = field(default_factory=list)
    digest: str = ""


def add_proof(
    repository: Repository, kind: str, about: Mapping[str, Any], *, now: datetime, host: str, version: str
) -> Proof:
    """Append a proof to the chain. Raises what the storage raises; the proof may then exist or not."""
    while True:
        previous, number = _end(repository)
        repository.refuse_newer()
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
            if not _holds(repository, key, body):  # equal bytes are our own: only the answer was lost
                continue
        return _decode(repository, key, body)


def read_proofs(repository: Repository) -> Iterator[Proof | IntegrityError]:
    """Yield all proofs in order; one that is damaged, or breaks the chain, as the error that names it.

    The oldest proofs may have been deleted; a proof that does not name the one before it is an error.
    """
    before: Proof | None = None
    for key in _keys(repository):
        try:
            proof = _decode(repository, key, _read(repository, key))
        except IntegrityError as error:
            yield error
            continue
        if before is None or proof.previous == before.digest:
            yield proof
        else:
            yield IntegrityError(
                f"{key} does not continue {_key(before.number)}: a proof was changed or removed",
                hint="Compare it with the proofs that reports and people have noted.",
                object_name=key,
            )
        before = proof


def _end(repository: Repository) -> tuple[str | None, int]:
    """Return the hash of the last proof that opens, None without one, and the lowest free number after it."""
    keys = _keys(repository)
    taken = set(keys)
    last = next(filter(None, (_opened(repository, key) for key in reversed(keys))), None)
    number = last.number + 1 if last else 1
    while _key(number) in taken:
        number += 1
    if number >= 10**_DIGITS:  # only whoever holds the meta key can bring this about
        key = _key(number - 1)
        raise IntegrityError(f"no proof can follow {key}, the last number there is", object_name=key)
    return last.digest if last else None, number


def _keys(repository: Repository) -> list[str]:
    return [info.key for info in repository.storage.list(PROOF_PREFIX) if kind_of(info.key) == "proof"]


def _opened(repository: Repository, key: str) -> Proof | None:
    try:
        return _decode(repository, key, _read(repository, key))
    except (IntegrityError, ObjectNotFound):
        return None


def _holds(repository: Repository, key: str, body: bytes) -> bool:
    try:
        return _read(repository, key) == body
    except (IntegrityError, ObjectNotFound):  # too large to be a proof, or deleted since
        return False


def _read(repository: Repository, key: str) -> bytes:
    return repository.storage.get(key, limit=SEALED["proof"].stored)


def _decode(repository: Repository, key: str, body: bytes) -> Proof:
    number = int(key.removeprefix(PROOF_PREFIX))
    payload = repository.objects.open("proof", _name(number), body, source=key)
    try:
        proof = build(Proof, _FIELDS, DECODER.decode(payload.decode()))
    except (ValueError, TypeError, RecursionError) as error:
        raise IntegrityError(f"{key} is not a proof: {error}", object_name=key) from None
    if proof.number != number:
        raise IntegrityError(f"{key} holds proof {proof.number}", object_name=key)
    repository.note_requirements(key, proof.requires)
    return replace(proof, digest=content_name(body))


_FIELDS: dict[str, Check] = {
    "number": a_count,
    "kind": a_name,
    "time": a_time,
    "host": a_text,
    "drkit": a_text,
    "previous": optional(partial(hex_bytes, DIGEST_SIZE)),
    "about": an_object,
    "requires": partial(a_list, a_name),
}


def _name(number: int) -> bytes:
    return b"%0*d" % (_DIGITS, number)


def _key(number: int) -> str:
    return PROOF_PREFIX + _name(number).decode()
