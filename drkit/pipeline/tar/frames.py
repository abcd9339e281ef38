"""Framing of tar streams: where each member starts and ends, its name and what it links to. Nothing else is parsed.

POSIX.1-2001 (pax) and ustar as GNU tar, BusyBox and Go write them, with GNU long names and GNU sparse 1.0 members.
`tarfile` takes five to ten times as long.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from drkit.errors import CaptureFailed

BLOCK = 512
ZERO_BLOCK = bytes(BLOCK)
END_OF_ARCHIVE = ZERO_BLOCK * 2
MAX_EXTENDED = 8 * 1024 * 1024
"""Largest extended header in bytes. It holds all xattrs of a file; the kernel allows 64 KiB for each value."""

HARD_LINK = ord("1")
SYMLINK = ord("2")
PAX = ord("x")

_EXTENDED = frozenset(b"xgLK")


class Frame(NamedTuple):
    """One member: bytes [start, end) of the stream, its content from `data` on. Offsets count from the stream's start.

    `size` is that of the stored content without padding, `header` the member's own block, `flag` its type. `real_size`
    is that of the file: of a sparse one, only some is stored.
    """

    start: int
    data: int
    end: int
    size: int
    name: bytes
    link: bytes
    flag: int
    header: bytes
    real_size: int


class TarFramer:
    """Finds the members of a stream that comes piece by piece."""

    def __init__(self) -> None:
        self.next = 0
        """Offset of the next member's first header: no byte before it is needed again."""
        self.ended = False
        """Whether both zero blocks of the end marker were seen."""

    def frames(self, view: memoryview, base: int) -> Iterator[Frame]:
        """Yield the members whose headers are all in `view`, which begins at offset `base` of the stream.

        Raises CaptureFailed for bytes that are not a tar header.
        """
        limit = len(view)
        while not self.ended:
            start = position = self.next - base
            name = link = b""
            size = real_size = -1
            while True:
                if position + BLOCK > limit:
                    return
                header = bytes(view[position : position + BLOCK])
                flag = header[156]
                if flag not in _EXTENDED:
                    break
                length = _stored_size(header)
                if length > MAX_EXTENDED:
                    raise CaptureFailed(f"a tar header of {length} bytes is larger than any file system allows")
                body = position + BLOCK
                position = body + _padded(length)
                if position + BLOCK > limit:
                    return
                if flag == PAX:
                    records = bytes(view[body : body + length])
                    # Most members have a single record, the mtime with its nanoseconds.
                    if not (records[3:9] == b"mtime=" and records.find(b"\n") == length - 1):
                        fields = pax_records(records)
                        name = fields.get(b"GNU.sparse.name", fields.get(b"path", name))
                        link = fields.get(b"linkpath", link)
                        if b"size" in fields:
                            size = _decimal(fields[b"size"])
                        if b"GNU.sparse.realsize" in fields:
                            real_size = _decimal(fields[b"GNU.sparse.realsize"])
                elif flag == 0x4C:  # L
                    name = bytes(view[body : body + length]).rstrip(b"\0")
                elif flag == 0x4B:  # K
                    link = bytes(view[body : body + length]).rstrip(b"\0")
            if header == ZERO_BLOCK:
                if start != position:
                    raise CaptureFailed("the tar stream ends within a member's headers")
                if position + 2 * BLOCK > limit:
                    return
                if view[position + BLOCK : position + 2 * BLOCK] != ZERO_BLOCK:
                    raise CaptureFailed("the tar stream has a single zero block")
                self.ended = True
                self.next += 2 * BLOCK
                return
            if header[257:262] != b"ustar":
                raise CaptureFailed(f"no tar header at offset {base + position} of the stream")
            if size < 0:
                size = _stored_size(header)
            if not name:
                name = header[:100].partition(b"\0")[0]
                # GNU's own format ("ustar  ") keeps something else where POSIX has the prefix.
                if header[345] and header[262:263] != b" ":
                    name = header[345:500].partition(b"\0")[0] + b"/" + name
            if not link and header[157]:
                link = header[157:257].partition(b"\0")[0]
            data = base + position + BLOCK
            if real_size < 0:
                real_size = size
            frame = Frame(base + start, data, data + _padded(size), size, name, link, flag, header, real_size)
            self.next = frame.end
            yield frame


def read_number(text: bytes) -> int:
    """Read a number field: octal text or, if its first bit is set, base 256 in two's complement."""
    if text[0] & 0x80:
        half = 1 << (8 * len(text) - 1)
        number = int.from_bytes(text, "big") - half
        return number - half if text[0] & 0x40 else number
    digits = text.strip(b"\0 ")
    try:
        if digits and not digits.isdigit():  # int() would accept signs and underscores
            raise ValueError
        return int(digits or b"0", 8)
    except ValueError:
        raise CaptureFailed(f"a tar header has the number {text!r}") from None


def _stored_size(header: bytes) -> int:
    size = read_number(header[124:136])
    if size < 0:
        raise CaptureFailed(f"a tar header has the size {size}")
    return size


def _decimal(text: bytes) -> int:
    if not text.isdigit():
        raise CaptureFailed("a tar stream has a garbled extended header")
    return int(text)


def _padded(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK * BLOCK


def pax_records(data: bytes) -> dict[bytes, bytes]:
    """Read pax records, each `LENGTH KEY=VALUE\\n` with a length that counts itself.

    Raises CaptureFailed for garbled ones.
    """
    fields: dict[bytes, bytes] = {}
    position = 0
    try:
        while position < len(data):
            blank = data.index(b" ", position)
            end = position + _decimal(data[position:blank])
            key, equals, value = data[blank + 1 : end - 1].partition(b"=")
            if not equals or data[end - 1 : end] != b"\n":
                raise ValueError
            fields[key] = value
            position = end
    except ValueError:
        raise CaptureFailed("a tar stream has a garbled extended header") from None
    return fields


def member_records(headers: bytes) -> dict[bytes, bytes]:
    """Return the pax records of one member from its headers, its own block included. GNU long names are left out."""
    fields: dict[bytes, bytes] = {}
    position = 0
    while position + BLOCK < len(headers):
        length = read_number(headers[position + 124 : position + 136])
        if headers[position + 156] == PAX:
            fields |= pax_records(headers[position + BLOCK : position + BLOCK + length])
        position += BLOCK + _padded(length)
    return fields
