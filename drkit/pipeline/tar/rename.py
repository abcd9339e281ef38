"""Writing a member under another name: its pax header gets the new path, and no other byte changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from drkit.engine.helper.pax import pax_record
from drkit.errors import IntegrityError
from drkit.pipeline.tar.frames import BLOCK, Frame, TarFramer, member_records


def renamed(pieces: Iterable[bytes | memoryview], name: bytes, link: bytes) -> Iterator[bytes | memoryview]:
    """Yield the raw bytes of one member under `name`, linking to `link` unless that is empty.

    Raises IntegrityError when the member ends within its headers.
    """
    head = bytearray()
    source = iter(pieces)
    framer = TarFramer()
    for piece in source:
        head += piece
        frame = next(framer.frames(memoryview(bytes(head)), 0), None)
        if frame is not None:
            yield _headers(bytes(head[: frame.data]), frame, name, link)
            yield bytes(head[frame.data :])
            yield from source
            return
    raise IntegrityError("a member ends within its headers", hint="Run drkit verify.")


def _headers(old: bytes, frame: Frame, name: bytes, link: bytes) -> bytes:
    records = member_records(old)
    # A sparse member's name is in a record of its own; its header has another, which only tar uses.
    records[b"GNU.sparse.name" if b"GNU.sparse.name" in records else b"path"] = name
    if link or frame.link:
        records[b"linkpath"] = link or frame.link
    body = b"".join(pax_record(key, value) for key, value in records.items())
    template = bytearray(frame.header)
    template[0:100] = b"PaxHeaders/renamed".ljust(100, b"\0")
    template[124:136] = b"%011o\0" % len(body)
    template[156:157] = b"x"
    template[157:257] = bytes(100)
    template[345:500] = bytes(155)
    template[148:156] = b" " * 8
    template[148:156] = b"%06o\0 " % sum(template)
    return bytes(template) + body + bytes(-len(body) % BLOCK) + frame.header
