"""Marks: what a prune has condemned, announced before anything is deleted."""

from __future__ import annotations

from collections.abc import Iterable

from drkit.errors import IntegrityError, ObjectNotFound
from drkit.repository.format.fields import DECODER, a_list, a_name
from drkit.repository.format.layout import kind_of
from drkit.repository.format.limits import SEALED
from drkit.repository.format.objects import ObjectSealer
from drkit.repository.format.requires import made_by_newer, unknown
from drkit.storage.acknowledged import put_seen
from drkit.storage.base import Storage

MARK_PREFIX = "marks/"
ID_SIZE = 32
_HEADER = b'{"requires":'
"""How a mark of a newer drkit may begin. Ids are hashes: none of them begins like this."""
MAX_IDS = SEALED["mark"].payload // ID_SIZE
"""How many packs and wraps one mark can list, which is how many one prune can delete."""

Marks = dict[str, frozenset[bytes]]
"""By prune id, the ids of condemned packs and of condemned wraps of data keys."""


def put_mark(storage: Storage, sealer: ObjectSealer, prune_id: str, ids: Iterable[bytes]) -> None:
    """Announce what a prune may delete. The mark was seen: without it, runs would count on what goes."""
    put_seen(storage, MARK_PREFIX + prune_id, sealer.seal("mark", prune_id.encode(), b"".join(sorted(ids))))


def read_marks(storage: Storage, sealer: ObjectSealer) -> tuple[Marks, IntegrityError | None]:
    """Read all marks, up to the first that does not open, and return the error that names it.

    With such a mark nobody knows what is condemned: whoever goes on may rely on nothing that was there before.
    """
    marks: Marks = {}
    for info in storage.list(MARK_PREFIX):
        if kind_of(info.key) != "mark":
            continue
        try:
            marks[info.key.removeprefix(MARK_PREFIX)] = get_mark(storage, sealer, info.key)
        except ObjectNotFound:
            continue  # that prune has ended since the listing
        except IntegrityError as error:
            return marks, IntegrityError(
                f"{error.message}: what this mark condemns is unknown",
                # A mark binds others, not its own prune, which knows what it deletes. So it may go once that is dead.
                hint=f"Once no drkit prune is at work there, from any host, delete {info.key} from {storage.url}.",
                object_name=info.key,
            )
    return marks, None


def require_marks(storage: Storage, sealer: ObjectSealer) -> Marks:
    """Read all marks. Raises IntegrityError for one that does not open."""
    marks, unreadable = read_marks(storage, sealer)
    if unreadable is not None:
        raise unreadable
    return marks


def get_mark(storage: Storage, sealer: ObjectSealer, key: str) -> frozenset[bytes]:
    """Read one mark. Raises IntegrityError, ObjectNotFound, and DrkitError for a mark that a newer drkit made."""
    name = key.removeprefix(MARK_PREFIX)
    payload = sealer.open("mark", name.encode(), storage.get(key, limit=SEALED["mark"].stored), source=key)
    if payload.startswith(_HEADER):
        line, _, payload = payload.partition(b"\n")
        try:
            names = unknown(a_list(a_name, DECODER.decode(line.decode())["requires"]))
        except (ValueError, TypeError, RecursionError) as error:
            raise IntegrityError(f"{key} does not say what it requires: {error}", object_name=key) from None
        if names:
            raise made_by_newer(key, storage.url, names)
    if len(payload) % ID_SIZE:
        raise IntegrityError(f"{key} does not hold a whole number of ids", object_name=key)
    return frozenset(payload[start : start + ID_SIZE] for start in range(0, len(payload), ID_SIZE))


def condemned(marks: Marks) -> frozenset[bytes]:
    """Everything that any of these marks lists."""
    return frozenset().union(*marks.values())
