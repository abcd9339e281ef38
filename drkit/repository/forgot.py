"""Notes of what was forgotten on purpose: which numbers of a series may be missing.

`forgot/<digest>/<hash>` is a sealed object of kind `forgot`; the digest is of origin, host and policy, under a key that
only holders of the meta key have. Notes are cumulative: whoever adds to one stores the union of all notes of the series
as a new one, then deletes those that they read. What is there is there, whatever a note says.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from drkit.errors import DrkitError, IntegrityError, ObjectNotFound
from drkit.repository.format.digest import keyed_digest
from drkit.repository.format.fields import (
    DECODER,
    MAX_NUMBER,
    a_count,
    a_list,
    a_name,
    build,
    hex_bytes,
)
from drkit.repository.format.layout import kind_of
from drkit.repository.format.limits import SEALED
from drkit.repository.format.names import check_content_name, content_name
from drkit.repository.format.sealing import KEY_SIZE
from drkit.repository.format.snapshot import Snapshot
from drkit.repository.repository import Repository
from drkit.storage.acknowledged import put_seen

FORGOT_PREFIX = "forgot/"
_KIND = "forgot"
_ATTEMPTS = 100
"""How often somebody else may come first, or delete what was just listed."""

Ranges = list[tuple[int, int]]
"""Numbers as first and last of each stretch, in order."""


class Owner(NamedTuple):
    """Whose numbers a note speaks of."""

    origin: str
    host: str
    policy: str


def owner_of(snapshot: Snapshot) -> Owner:
    return Owner(snapshot.origin, snapshot.host, snapshot.policy)


def numbers_of(snapshots: Iterable[Snapshot]) -> dict[Owner, list[int]]:
    """Return the numbers of the signed ones among these."""
    numbers: dict[Owner, list[int]] = defaultdict(list)
    for each in snapshots:
        if each.origin:
            numbers[owner_of(each)].append(each.sequence)
    return numbers


@dataclass
class Forgotten:
    """All that the notes say. `damaged`: notes that cannot be read, and explain nothing."""

    ranges: dict[Owner, Ranges] = field(default_factory=dict)
    damaged: list[IntegrityError] = field(default_factory=list)

    def explains(self, owner: Owner, number: int) -> bool:
        """Whether this number is missing on purpose, or would be."""
        ranges = self.ranges.get(owner, [])
        place = bisect_right(ranges, number, key=lambda each: each[0])
        return place > 0 and number <= ranges[place - 1][1]


def read_forgotten(repository: Repository) -> Forgotten:
    """Read all notes: after the records, if the question is what is missing, since a note comes before a deletion."""
    for _ in range(_ATTEMPTS):
        found = Forgotten()
        try:
            for key in _keys(repository, FORGOT_PREFIX):
                _read_into(found, repository, key)
        except ObjectNotFound:  # somebody stored a newer one in its place: begin again
            continue
        return found
    raise IntegrityError(
        f"{FORGOT_PREFIX} of {repository.storage.url} changes faster than it can be read",
        hint="Run the same command again.",
        object_name=FORGOT_PREFIX,
    )


def note_forgotten(repository: Repository, going: Mapping[Owner, Iterable[int]]) -> None:
    """Say that these numbers go on purpose. Durable, and seen, on return: so call it before deleting the records."""
    for owner, numbers in going.items():
        added = ranges_of(numbers)
        if added:
            _change(repository, owner, partial(_joined, added))


def note_present(repository: Repository, present: Mapping[Owner, Iterable[int]]) -> None:
    """Take these numbers out of the notes: a copy has brought their records back."""
    notes = read_forgotten(repository)
    for owner, numbers in present.items():
        back = [number for number in set(numbers) if notes.explains(owner, number)]
        if back:
            _change(repository, owner, partial(without, numbers=back))


def ranges_of(numbers: Iterable[int]) -> Ranges:
    return merged([(number, number) for number in numbers])


def merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Return the same numbers in the fewest stretches, in order."""
    result: Ranges = []
    for first, last in sorted(ranges):
        if result and first <= result[-1][1] + 1:
            result[-1] = result[-1][0], max(result[-1][1], last)
        else:
            result.append((first, last))
    return result


def _joined(one: Ranges, other: Ranges) -> Ranges:
    return merged([*one, *other])


def without(ranges: Ranges, numbers: Iterable[int]) -> Ranges:
    """Return the ranges, which are in order, without some numbers."""
    cut: Ranges = []
    gone = sorted(set(numbers))
    for first, last in ranges:
        for number in gone[bisect_left(gone, first) : bisect_right(gone, last)]:
            if first < number:
                cut.append((first, number - 1))
            first = number + 1
        if first <= last:
            cut.append((first, last))
    return cut


# --- one series


def _change(repository: Repository, owner: Owner, change: Callable[[Ranges], Ranges]) -> None:
    """Store the changed union of a series' notes as a new note, then delete those that it replaces.

    No name recurs, so whoever deletes a note deletes what they read: of two at once, neither loses what the other adds.
    """
    prefix = f"{FORGOT_PREFIX}{_digest(repository, owner)}/"
    failed = DrkitError(
        f"others change {prefix} of {repository.storage.url} all the time", hint="Run the same command again."
    )
    for _ in range(_ATTEMPTS):
        found, opened = Forgotten(), []
        try:
            for key in _keys(repository, prefix):
                if _read_into(found, repository, key):
                    opened.append(key)
        except ObjectNotFound:
            continue
        known = found.ranges.get(owner, [])
        wanted = change(known)
        if wanted == known and len(opened) <= 1:
            return
        repository.refuse_newer()
        try:
            _put(repository, owner, prefix, wanted)
        except IntegrityError as error:  # dropped by the store; or somebody has replaced it with a union of theirs
            failed = error
            continue
        for key in opened:
            repository.storage.delete(key)
        return
    raise failed


def _put(repository: Repository, owner: Owner, prefix: str, ranges: Ranges) -> None:
    payload = {**owner._asdict(), "sequences": ranges, "requires": []}
    body = repository.objects.seal(_KIND, _name_of(prefix), json.dumps(payload).encode())
    put_seen(repository.storage, prefix + content_name(body), body, locked=False)


def _name_of(key: str) -> bytes:
    """What a note is sealed for: the digest of its series."""
    return key.split("/")[1].encode()


def _read_into(found: Forgotten, repository: Repository, key: str) -> bool:
    """Add what a note says. False if it is damaged. Raises ObjectNotFound."""
    try:
        body = repository.storage.get(key, limit=SEALED[_KIND].stored)
        check_content_name(key, body)
        payload = repository.objects.open(_KIND, _name_of(key), body, source=key)
        try:
            note = build(_Note, _NOTE, DECODER.decode(payload.decode()))
        except (ValueError, TypeError, RecursionError) as error:
            raise IntegrityError(f"{key} is not a note of what was forgotten: {error}", object_name=key) from None
        owner = Owner(note.origin, note.host, note.policy)
        if _digest(repository, owner) != key.split("/")[1]:
            raise IntegrityError(f"{key} speaks of another series than its name", object_name=key)
    except IntegrityError as error:
        found.damaged.append(error)
        return False
    repository.note_requirements(key, note.requires)
    found.ranges[owner] = merged([*found.ranges.get(owner, []), *note.sequences])
    return True


@dataclass
class _Note:
    origin: str
    host: str
    policy: str
    sequences: Ranges
    requires: list[str] = field(default_factory=list)


def _stretch(value: Any) -> tuple[int, int]:
    first, last = a_list(a_count, value)
    if not 1 <= first <= last <= MAX_NUMBER:
        raise ValueError("not a stretch of numbers from 1")
    return first, last


_NOTE = {
    "origin": lambda value: hex_bytes(KEY_SIZE, value),
    "host": a_name,
    "policy": a_name,
    "sequences": lambda value: a_list(_stretch, value, longest=MAX_NUMBER),  # the size of the note is limit enough
    "requires": lambda value: a_list(a_name, value),
}


def _keys(repository: Repository, prefix: str) -> list[str]:
    return [info.key for info in repository.storage.list(prefix) if kind_of(info.key) == _KIND]


def _digest(repository: Repository, owner: Owner) -> str:
    """The name of a series, which tells nothing to whoever holds the storage alone."""
    return keyed_digest(repository.meta.series, json.dumps([*owner]).encode())[:16].hex()
