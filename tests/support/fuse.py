"""A real FUSE file system whose metadata says whatever a test wants: blocks, times and inode numbers are made up.

It speaks the kernel's protocol over /dev/fuse itself (see fuse(4) and linux/fuse.h), so no library is needed. Reading
only: there is one file for each path, and its content.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import stat
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_IN = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
_ENTRY = struct.Struct("<QQQQII")
_FUSE_MINOR = 31
_BUFFER = 1 << 18
_MNT_DETACH = 2
_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _STATFS, _RELEASE = 1, 2, 3, 14, 15, 17, 18
_FLUSH, _INIT, _OPENDIR, _READDIR, _RELEASEDIR, _INTERRUPT, _BATCH_FORGET = 25, 26, 27, 28, 29, 36, 42
_DESTROY = 38


@dataclass
class Node:
    """A file or directory, and what its metadata says of it."""

    content: bytes = b""
    blocks: int = 0
    inode: int = 0
    """0: a number of its own."""
    links: int = 1
    time: int = 1_500_000_000
    """Its mtime and ctime, in seconds."""
    children: dict[bytes, int] = field(default_factory=dict)
    directory: bool = False


class FuseTree:
    """The files of one file system, by node number. Tests may change nodes while it is mounted."""

    def __init__(self, files: Mapping[str, Node]) -> None:
        self._nodes = {1: Node(directory=True, links=2)}
        for path, node in files.items():
            self._add(path.encode("utf-8", "surrogateescape").split(b"/"), node)

    def _add(self, parts: list[bytes], node: Node) -> None:
        number = 1
        for name in parts[:-1]:
            number = self._child(number, name, lambda: Node(directory=True, links=2))
        self._child(number, parts[-1], lambda: node)

    def _child(self, parent: int, name: bytes, make: Callable[[], Node]) -> int:
        children = self._nodes[parent].children
        if name not in children:
            children[name] = len(self._nodes) + 1
            self._nodes[children[name]] = make()
        return children[name]

    def answer(self, operation: int, number: int, body: bytes) -> bytes | int | None:
        """Return the body of an answer, the number of an error, or None where the kernel waits for none."""
        node = self._nodes.get(number, Node())
        if operation == _INIT:
            return struct.pack("<IIIIHHIIHHII6I", 7, _FUSE_MINOR, 1 << 17, 0, 16, 8, 1 << 17, 1, 32, *[0] * 9)
        if operation in (_FORGET, _BATCH_FORGET, _INTERRUPT):
            return None
        if operation == _LOOKUP:
            child = node.children.get(body.rstrip(b"\0"))
            return errno.ENOENT if child is None else _ENTRY.pack(child, 0, 0, 0, 0, 0) + self._attributes(child)
        if operation == _GETATTR:
            return struct.pack("<QII", 0, 0, 0) + self._attributes(number)
        if operation in (_OPEN, _OPENDIR):
            return struct.pack("<QII", 0, 0, 0)
        if operation == _READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            return node.content[offset : offset + size]
        if operation == _READDIR:
            _, offset, size = struct.unpack_from("<QQI", body)
            return b"".join(self._listed(node, offset, size))
        if operation == _STATFS:
            return struct.pack("<QQQQQIIII6I", 1000, 500, 500, 1000, 500, 512, 255, 512, 0, *[0] * 6)
        return b"" if operation in (_RELEASE, _RELEASEDIR, _FLUSH, _DESTROY) else errno.ENOSYS

    def _attributes(self, number: int) -> bytes:
        node = self._nodes[number]
        mode = stat.S_IFDIR | 0o755 if node.directory else stat.S_IFREG | 0o644
        times = (node.time, node.time, node.time, 0, 0, 0)
        size = len(node.content)
        return _ATTR.pack(node.inode or number, size, node.blocks, *times, mode, node.links, 0, 0, 0, 4096, 0)

    def _listed(self, node: Node, offset: int, size: int) -> Iterator[bytes]:
        names = [(b".", 1), (b"..", 1), *sorted(node.children.items())]
        for place, (name, number) in enumerate(names[offset:], start=offset + 1):
            child = self._nodes[number]
            kind = stat.S_IFDIR >> 12 if child.directory else stat.S_IFREG >> 12
            head = struct.pack("<QQII", child.inode or number, place, len(name), kind)
            entry = (head + name).ljust((len(head) + len(name) + 7) // 8 * 8, b"\0")
            size -= len(entry)
            if size < 0:
                return
            yield entry


@contextmanager
def mounted_fuse(point: Path, files: Mapping[str, Node], *, closed: bool = False) -> Iterator[FuseTree]:
    """Mount these files at `point`, as type fuse.drkit. `closed`: for another user alone, whom root cannot replace."""
    tree = FuseTree(files)
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    owner = 12345 if closed else 0
    options = f"fd={device},rootmode=40000,user_id={owner},group_id={owner}" + ("" if closed else ",allow_other")
    if _LIBC.mount(b"drkit-test", os.fsencode(point), b"fuse.drkit", 0, options.encode()) != 0:
        number = ctypes.get_errno()
        os.close(device)
        raise OSError(number, os.strerror(number), str(point))
    stop = os.eventfd(0, os.EFD_CLOEXEC)
    thread = threading.Thread(target=_serve, args=(device, stop, tree), name="fuse", daemon=True)
    thread.start()
    try:
        yield tree
    finally:
        _LIBC.umount2(os.fsencode(point), _MNT_DETACH)
        os.eventfd_write(stop, 1)  # another mount namespace may still have it
        thread.join()
        os.close(stop)


def _serve(device: int, stop: int, tree: FuseTree) -> None:
    try:
        _answer_all(device, stop, tree)
    finally:
        os.close(device)  # ends every call that still waits


def _answer_all(device: int, stop: int, tree: FuseTree) -> None:
    waiting = select.poll()
    for descriptor in (device, stop):
        waiting.register(descriptor, select.POLLIN)
    while stop not in dict(waiting.poll()):
        try:
            request = os.read(device, _BUFFER)
        except OSError as error:
            if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                continue
            return  # unmounted
        _, operation, unique, number, *_ = _IN.unpack_from(request)
        answer = tree.answer(operation, number, request[_IN.size :])
        if answer is None:
            continue
        code, body = (0, answer) if isinstance(answer, bytes) else (-answer, b"")
        try:
            os.write(device, _OUT.pack(_OUT.size + len(body), code, unique) + body)
        except OSError as error:
            if error.errno != errno.ENOENT:  # the caller was interrupted
                return
