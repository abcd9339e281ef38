"""How a tree records the members of a tar stream: with what the scan saw of them, or with what their headers tell."""

from __future__ import annotations

from drkit.pipeline.paths import member_path
from drkit.pipeline.scan import Entry
from drkit.pipeline.stream import StreamMember
from drkit.pipeline.tar.frames import read_number
from drkit.repository.format.tree import Member

_TYPES = {ord("0"): b"f", 0: b"f", ord("7"): b"f", ord("1"): b"f", ord("2"): b"l", ord("3"): b"c", ord("4"): b"b"}
_TYPES |= {ord("5"): b"d", ord("6"): b"p"}


def scanned_member(item: StreamMember, entry: Entry, *, settled_before: float | None) -> Member:
    """Return a member with the `stat` of its entry in the scan.

    It is settled when its mtime and ctime lie before `settled_before`, in seconds since the epoch, and when tar met the
    size that the scan saw. None: its times prove nothing, whatever they are.
    """
    _, _, _, _, size, mtime, ctime, _ = entry.stat.split(b" ", 7)
    settled = settled_before is not None and float(mtime) < settled_before and float(ctime) < settled_before
    if settled and entry.stat[:1] == b"f" and not item.leader:
        settled = int(size) == item.frame.real_size
    return Member(entry.path, entry.stat, item.leader, item.symlink, item.digest, settled, item.extents)


def unscanned_member(item: StreamMember) -> Member:
    """Return a member with the `stat` that its tar header tells: without ctime, inode and links, so never settled."""
    header = item.frame.header
    mode, uid, gid, mtime = (read_number(header[a:b]) for a, b in ((100, 108), (108, 116), (116, 124), (136, 148)))
    kind = _TYPES.get(item.frame.flag, b"f")
    stat = b"%s %o %d %d %d %d 0 0 1" % (kind, mode & 0o7777, uid, gid, item.frame.real_size, mtime)
    return Member(member_path(item.frame.name), stat, item.leader, item.symlink, item.digest, False, item.extents)


def content_size(member: Member) -> int:
    """Return the apparent size of a file in bytes, 0 for anything else; a file with several hard links counts once."""
    return int(member.stat.split(b" ", 5)[4]) if member.stat.startswith(b"f") and not member.leader else 0
