"""What a member means, however its bytes spell it.

For members whose bytes differ after a restore, as xattrs can come in another order, and holes where the other file
system has them. Everything else must be equal.
"""

from __future__ import annotations

from typing import NamedTuple

from drkit.pipeline.paths import member_path
from drkit.pipeline.stream import StreamMember
from drkit.pipeline.tar.frames import member_records, read_number

# Covered by other fields of a description, or different between two names of one file.
_LOCATING = {b"path", b"linkpath", b"mtime", b"uid", b"gid", b"size"}
_SPARSE = b"GNU.sparse."  # of no meaning beside the content
_DEVICES = frozenset(b"34")


class Description(NamedTuple):
    """Two members with equal descriptions are the same entry with the same content.

    `mtime` is pax text without trailing zeros.
    """

    path: bytes
    leader: bytes
    symlink: bytes
    flag: int
    mode: int
    uid: int
    gid: int
    mtime: bytes
    device: tuple[int, int]
    size: int
    records: tuple[tuple[bytes, bytes], ...]
    content: bytes


def describe(item: StreamMember) -> Description:
    """Describe a member of a split stream."""
    header = item.frame.header
    records = member_records(item.headers)
    flag = item.frame.flag or ord("0")
    return Description(
        path=member_path(item.frame.name),
        leader=item.leader,
        symlink=item.symlink,
        flag=flag,
        mode=read_number(header[100:108]) & 0o7777,
        uid=int(records.get(b"uid", read_number(header[108:116]))),
        gid=int(records.get(b"gid", read_number(header[116:124]))),
        mtime=_canonical_time(records.get(b"mtime", b"%d" % read_number(header[136:148]))),
        device=(read_number(header[329:337]), read_number(header[337:345])) if flag in _DEVICES else (0, 0),
        size=item.frame.real_size,
        records=tuple(
            sorted((key, value) for key, value in records.items() if key not in _LOCATING and key[:11] != _SPARSE)
        ),
        content=item.digest,
    )


def _canonical_time(text: bytes) -> bytes:
    whole, dot, fraction = text.partition(b".")
    return whole + dot + fraction if (fraction := fraction.rstrip(b"0")) else whole


def without_trusted_xattrs(description: Description) -> Description:
    """Leave out the xattrs that nobody without SYS_ADMIN sees."""
    kept = tuple(record for record in description.records if not record[0].startswith(b"SCHILY.xattr.trusted."))
    return description._replace(records=kept)


def differences(expected: Description, found: Description) -> list[str]:
    """Name the fields that differ."""
    return [name for name in Description._fields if getattr(expected, name) != getattr(found, name)]
