"""The bytes of a snapshot record, and what is taken for one.

The payload of `snapshots/<run id>` is one or two lines of JSON. The first is the record. The second, if there is one,
holds the signature of the first, and in a mirror also what makes the record a copy: so a copy keeps the original's
record, byte for byte, and its signature.

Whoever holds the meta key can write a record, not only drkit: every field is checked here, once, where it is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import Any

from drkit.errors import IntegrityError, RepositoryError
from drkit.repository.format.fields import (
    DECODER,
    MAX_LIST,
    MAX_NAME,
    TREE,
    Check,
    a_count,
    a_flag,
    a_list,
    a_name,
    a_number,
    a_run_id,
    a_status,
    a_text,
    a_time,
    a_tree,
    an_object,
    any_text,
    build,
    counts,
    hex_bytes,
    optional,
    or_empty,
)
from drkit.repository.format.names import display_path
from drkit.repository.format.sealing import KEY_SIZE, SIGNATURE_SIZE, SigningKey, is_signed
from drkit.repository.format.snapshot import (
    NAMES_KEPT,
    Documents,
    FileSystem,
    NameList,
    Previous,
    Snapshot,
    Target,
)

FENCED = "fenced"
"""The field that makes a record a tombstone: a prune has fenced the run, which can no longer commit."""
_DOMAIN = b"drkit 1 record\0"
_REQUIRED = {"id", "time", "host", "policy", "status", "targets", "kind", "name", "tree"}


def tombstone(run_id: str, *, by: str) -> bytes:
    """Return the payload of a tombstone: prune `by` took the run's name. A prune's own says that it may delete."""
    return json.dumps({FENCED: run_id, "by": by}).encode()


# --- writing


def encode_snapshot(snapshot: Snapshot, key: SigningKey | None = None, *, repository_id: bytes = b"") -> bytes:
    """Return the payload of a record, signed with the `key` of its origin if that is given.

    Empty fields are left out. Raises RepositoryError for a snapshot that no reader would take.
    """
    line = json.dumps(_plain(snapshot), ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode()
    if key is None:
        payload = line
    else:
        signature = key.sign(_signed_message(repository_id, line))
        payload = line + b"\n" + json.dumps({"signature": signature.hex()}).encode()
    try:
        decode_snapshot(payload, source=f"the record of run {snapshot.id}", repository_id=repository_id)
    except IntegrityError as error:
        raise RepositoryError(f"{error.message}: no reader would take it, so it was not stored") from error
    return payload


def copied_payload(payload: bytes, run_id: str, via: list[str]) -> bytes:
    """Return the payload of a copy: the record as it is, its signature, and what makes it a copy."""
    line, _, second = payload.partition(b"\n")
    about = {**(json.loads(second) if second else {}), "copy": {"id": run_id, "via": via}}
    return line + b"\n" + json.dumps(about).encode()


def _plain(item: Any) -> dict[str, Any]:
    plain = {}
    for each in fields(item):
        value = getattr(item, each.name)
        if each.name in ("unknown", "_bytes"):
            continue
        if is_dataclass(value):
            value = _plain(value)
        elif isinstance(value, list) and value and is_dataclass(value[0]):
            value = [_plain(part) for part in value]
        if value or (each.name in _REQUIRED and not isinstance(item, Documents)):
            plain[each.name] = value
    return plain


def _signed_message(repository_id: bytes, line: bytes) -> bytes:
    return _DOMAIN + repository_id + line


# --- reading


def decode_snapshot(payload: bytes, *, source: str, repository_id: bytes = b"") -> Snapshot | None:
    """Read a record; None for a tombstone. Fields that this version does not know are passed over, but not their trees.

    Raises IntegrityError naming `source`, the storage key the payload came from: also for a record that names an origin
    but does not bear its signature.
    """
    try:
        line, _, second = payload.partition(b"\n")
        raw = DECODER.decode(line.decode())
        if not isinstance(raw, dict):
            raise ValueError("it is not an object")
        if FENCED in raw:
            return None
        snapshot = build(Snapshot, _SNAPSHOT, raw)
        snapshot.unknown = list(_unknown_trees(raw))
        if not snapshot.origin:  # nobody vouches for these
            snapshot.sequence, snapshot.previous, snapshot.adopted, snapshot.fork = 0, None, [], ""
        elif not snapshot.sequence:
            raise ValueError("sequence: a signed record counts from 1")
        names = [(target.kind, target.name) for target in snapshot.targets]
        if len(set(names)) != len(names):
            raise ValueError("two targets have the same kind and name")
        about = build(_About, _ABOUT, DECODER.decode(second.decode()) if second else {})
        if about.copy is not None:
            snapshot.copy_of = snapshot.original
            snapshot.id, snapshot.via = about.copy.id, about.copy.via
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{source} is not a snapshot record: {error}", object_name=source) from error
    if snapshot.origin and not is_signed(
        bytes.fromhex(snapshot.origin), about.signature, _signed_message(repository_id, line)
    ):
        raise IntegrityError(
            f"{source} names the origin {snapshot.origin[:16]}, but is not signed by it: somebody else wrote it",
            hint="Find out who holds the meta key.",
            object_name=source,
        )
    return snapshot


@dataclass
class _Copy:
    id: str
    via: list[str]


@dataclass
class _About:
    """The second line."""

    signature: bytes = b""
    copy: _Copy | None = None


_Path = tuple[Any, ...]
"""Where a value stands: the path of what holds it, and its key or position there. Empty for the record itself."""


def _unknown_trees(raw: dict[str, Any]) -> Iterator[Target]:
    """Yield the lists named `tree`, at any depth, that no known field holds. Raises ValueError for too many of them.

    Paths are spelled for these alone: a record can have millions of values below a long key.
    """
    waiting: list[tuple[_Path, str, Any]] = []
    for name, value in raw.items():
        if name == "targets":
            for number, target in enumerate(value):
                waiting += [
                    (((((), name), number), key), key, _without_tree(part) if key == "documents" else part)
                    for key, part in target.items()
                    if key != TREE
                ]
        else:
            waiting.append((((), name), name, _without_tree(value) if name in ("helper", "documents") else value))
    found = 0
    while waiting:
        path, name, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [((path, key), key, part) for key, part in value.items() if isinstance(part, (dict, list))]
        elif isinstance(value, list) and name == TREE:
            found += 1
            if found > MAX_LIST:
                raise ValueError(f"more than {MAX_LIST} lists named {TREE}")
            yield Target("tree", _spelled(path), tree=a_tree(value))
        elif isinstance(value, list):
            waiting += [((path, at), "", part) for at, part in enumerate(value) if isinstance(part, (dict, list))]


def _spelled(path: _Path) -> str:
    """Return a path as people write it, such as `targets[0].parts[1].tree`. Raises ValueError for a long one."""
    steps: list[str] = []
    size = 0
    while path:
        path, step = path
        steps.append(f"[{step}]" if isinstance(step, int) else f".{step}")
        size += len(steps[-1])
        if size > MAX_NAME:
            raise ValueError(f"a list named {TREE} at a path of more than {MAX_NAME} characters")
    return display_path("".join(reversed(steps)).removeprefix(".").encode("utf-8", "surrogatepass"))


def _without_tree(value: Any) -> Any:
    return {key: part for key, part in value.items() if key != TREE}


def _helper(value: Any) -> dict[str, Any]:
    a_tree(an_object(value).get(TREE, []))
    return an_object(value)


def _names(value: Any) -> NameList:
    return build(NameList, _NAME_LIST, value)


def _previous(value: Any) -> Previous:
    return build(Previous, _PREVIOUS, value)


def _documents(value: Any) -> Documents:
    return build(Documents, _DOCUMENTS, value)


def _filesystem(value: Any) -> FileSystem:
    return build(FileSystem, _FILESYSTEM, value)


def _copy(value: Any) -> _Copy:
    return build(_Copy, _COPY, value)


def _target(value: Any) -> Target:
    return build(Target, _TARGET, value)


def _signature(value: Any) -> bytes:
    return bytes.fromhex(hex_bytes(SIGNATURE_SIZE, value))


_origin = partial(hex_bytes, KEY_SIZE)
_texts = partial(a_list, a_text)
_NAME_LIST: dict[str, Check] = {"count": a_count, "names": lambda value: a_list(a_text, value)[:NAMES_KEPT]}
_PREVIOUS: dict[str, Check] = {"id": a_run_id, "sequence": a_count}
_DOCUMENTS: dict[str, Check] = {"tree": a_tree}
_digests = partial(a_list, partial(hex_bytes, 32))
_FILESYSTEM: dict[str, Check] = {
    "type": a_name,
    "place": or_empty(partial(hex_bytes, 32)),
    "root": a_count,
    "below": _digests,
    "excluded": _digests,
}
_COPY: dict[str, Check] = {"id": a_run_id, "via": partial(a_list, a_run_id)}
_ABOUT: dict[str, Check] = {"signature": _signature, "copy": _copy}
_TARGET: dict[str, Check] = {
    "kind": a_name,
    "name": a_name,
    "status": a_status,
    "error": optional(a_text),
    "started": or_empty(a_time),
    "seconds": a_number,
    "downtime_seconds": a_number,
    "quiesce": a_text,
    "files": a_count,
    "bytes": a_count,
    "bytes_read": a_count,
    "bytes_stored": a_count,
    "torn": _names,
    "vanished": _names,
    "skipped": _names,
    "lost": _texts,
    "flags": partial(a_list, a_name),
    "pins": or_empty(a_run_id),
    "accepted": or_empty(a_run_id),
    "exclude": partial(a_list, any_text),
    "encoding": a_text,
    "source": an_object,
    "documents": _documents,
    "trusted_xattrs": a_flag,
    "filesystem": optional(_filesystem),
    "tree": a_tree,
    "aligned": a_flag,
}
_SNAPSHOT: dict[str, Check] = {
    "id": a_run_id,
    "time": a_time,
    "host": a_name,
    "policy": a_name,
    "status": a_status,
    "targets": partial(a_list, _target),
    "finished": or_empty(a_time),
    "origin": or_empty(_origin),
    "sequence": a_count,
    "previous": optional(_previous),
    "adopted": partial(a_list, _origin),
    "fork": or_empty(_origin),
    "requires": partial(a_list, a_name),
    "chosen": a_flag,
    "policy_text": any_text,
    "policy_digest": a_text,
    "retention": an_object,
    "schedule": an_object,
    "objectives": an_object,
    "unprotected": counts,
    "documents": _documents,
    "drkit": a_text,
    "compression": a_text,
    "helper": _helper,
    "copy_of": or_empty(a_run_id),
    "via": partial(a_list, a_run_id),
}
