"""Make a directory tree with every file type and oddity that a Docker volume can hold.

The same seed makes the same tree, so that a failing test can be repeated. Needs root, and a file system with xattrs,
ACLs and holes (ext4, XFS). Paths are bytes throughout, since Linux knows no other.

Left out by default, because not every helper brings them back, each with an option here: the extended attributes that
take CAP_SYS_ADMIN (`trusted.*`, and `security.*` but for capabilities), and paths longer than PATH_MAX. Left out
altogether, because GNU tar takes them for separate nodes: hard links of FIFOs and devices.
"""

# ruff: noqa: PTH101, PTH102, PTH120, PTH123, PTH208, PTH211
# pathlib takes no bytes.

from __future__ import annotations

import os
import random
import socket
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.treecompare import reach, scan_tree

SECOND = 1_000_000_000
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PATH_MAX = 4096

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20  # tags of ACL entries
NO_ID = 2**32 - 1
ACCESS_ACL, DEFAULT_ACL = "system.posix_acl_access", "system.posix_acl_default"
CAPABILITY = "security.capability"
# VFS_CAP_REVISION_2 with the effective bit: cap_net_bind_service (10) and cap_net_raw (13) permitted.
PING_CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10 | 1 << 13, 0, 0, 0)
# Revision 3 belongs to a user namespace: the last field is the uid of its root.
NAMESPACED_CAPABILITY = struct.pack("<6I", 0x03000001, 1 << 10, 0, 0, 0, 100_000)

ROOT_OWNER, ROOT_MODE = (999, 998), 0o2751
UNKNOWN_ID = 54_321
HUGE_ID = 2**32 - 2  # the largest: -1 means "do not change" to chown

# fmt: off
MODES = (
    0o0000, 0o0001, 0o0040, 0o0111, 0o0200, 0o0400, 0o0444, 0o0555, 0o0600, 0o0640, 0o0666, 0o0700, 0o0755, 0o0777,
    0o1644, 0o2644, 0o4644, 0o1755, 0o2711, 0o2755, 0o4111, 0o4755, 0o6755, 0o7000, 0o7777, 0o2070,
)
OWNERS = (
    (0, 0), (0, 998), (999, 0), (999, 998), (1, 65_534), (65_534, 65_534), (UNKNOWN_ID, UNKNOWN_ID + 1),
    (2**21 - 1, 2**21 - 1), (2**21, 2**21), (2**31 - 1, 2**31), (2**32 - 3, 7), (HUGE_ID, HUGE_ID),
)
TIMES = (
    0, 1, -1, SECOND - 1, -SECOND, -SECOND - 1, -SECOND // 2, 123_456_789, 10**17 + 1, 10**18 + 100_000_000,
    -(2**31) * SECOND, (2**31 - 1) * SECOND + 999_999_999, 2**31 * SECOND, 2**32 * SECOND + 1, 2**33 * SECOND + 5,
    -1_000_000_000 * SECOND + 7, 13_000_000_000 * SECOND + 123,  # 1938 and 2381
)
NAMES = (
    # read as an option, a comment, a list of names, another host or a shell word by careless tools
    b"-", b"--", b"-rf", b"-T", b"--help", b"--checkpoint-action=exec=touch x", b"--to-command=cat", b"@list", b"#x",
    b"host:file", b"user@host:file", b"~", b"~root", b"$HOME", b"$(id)", b"`id`", b"a;b", b"a&b", b"a|b", b"<", b">",
    b"!important", b"*", b"?", b"[a-z]", b"{a,b}", b"**", b"a*b", b"%s%n", b"%d", b"=", b"a=b", b"GNU.sparse.name=x",
    # quoting
    b" ", b" leading", b"trailing ", b"two  spaces", b"a\nb", b"\n", b"a\n", b"\nb", b"a\rb", b"\t", b"'", b'"',
    b"\\", b"\\n", b"\\012", b"\\\\", b"back\\slash", b"end\\", b"\x1b[31mred\x1b[0m", b"\x7f", b"\x01", b"a\x08b",
    # dots
    b"...", b"..a", b".hidden", b"a.", b"a..", b".a.", b"....", b".-",
    # encodings
    b"\xff", b"\xfe\xff", b"\xc3\x28", b"\x80abc", b"caf\xe9", b"\xed\xa0\x80", b"\xf0\x9f\x92\xbe", b"\xe2\x80\xae",
    "e\u0301 nfd".encode(), "\u00e9 nfc".encode(), b"\xef\xbb\xbfbom", b"\xc2\xa0", b"\xe3\x80\x80", b"\xe2\x80\xa8",
    # names that file systems, overlays and archives use themselves
    b"lost+found", b".wh.file", b".wh..wh..opq", b"PaxHeaders", b"GNUSparseFile.7", b"._resource", b".snapshot",
    b"CON", b"nul.txt", b"Case", b"case", b"CASE",
    # the widths of the ustar header and of the file system
    *(b"n" * width for width in (98, 99, 100, 101, 155, 156, 157, 254, 255)),
    b"\xc3\xa9" * 127 + b"x", b"\xff" * 255, b"\n" * 255, b"\\" * 255, b" " * 255,
)
TARGETS = (
    b"dangling", b"/", b"/etc/passwd", b"/nowhere/at/all", b".", b"..", b"../..", b"./../symlinks/self", b"../types",
    b"a\nb", b" ", b"trailing ", b"-rf", b"\xff\xfe", b"caf\xe9", b"back\\slash", b"'\"", b"a//b", b"a/", b"%s",
    *(b"t" * width for width in (99, 100, 101, 255, 256)),
    *(b"/" + b"t/" * (width // 2 - 1) + b"t" * (1 + width % 2) for width in (1000, 4095)),
)
# fmt: on
XATTRS = {
    "user.text": b"value",
    "user.empty": b"",
    "user.binary": bytes(range(256)),
    "user.newline": b"\n=\n",
    "user.nul": b"\0",
    "user.long": b"v" * 1500,
    "user.equals=sign": b"a=b",
    "user.percent%sign%3D": b"%",
    "user.with space": b" ",
    "user.new\nline": b"\n",
    "user.slash/dot.": b"/",
    "user.*": b"*",
    "user.\u00e9": b"\xc3\xa9",
    os.fsdecode(b"user.\xff"): b"\xff",
    "user." + "n" * 250: b"long name",
}


@dataclass(frozen=True)
class TortureTree:
    root: Path
    sockets: tuple[bytes, ...]
    beyond_path_max: tuple[bytes, ...]


def make_torture_tree(
    root: Path,
    rng: random.Random,
    *,
    many: int = 100_000,
    huge_files: bool = True,
    trusted_xattrs: bool = False,
    security_xattrs: bool = False,
    beyond_path_max: bool = False,
) -> TortureTree:
    """Fill the empty directory `root`. `many` files go into one directory; `huge_files` are sparse, up to 1 TiB."""
    tree = _Maker(os.fsencode(root), rng)
    tree.types()
    tree.modes()
    tree.owners()
    tree.hard_links()
    tree.symlinks()
    tree.sparse_files(huge=huge_files)
    tree.xattrs()
    tree.acls()
    tree.names()
    tree.order()
    tree.deep()
    tree.many(many)
    sockets = tree.sockets()
    if trusted_xattrs:
        tree.privileged_xattrs(b"trusted", {"trusted.overlay.opaque": b"y", "trusted.binary": b"\0\n\xff"})
        tree.xattr(b"", "trusted.root", b"y")
    if security_xattrs:
        tree.privileged_xattrs(b"security", {"security.drkit-test": b"label"})
    too_long = tree.beyond_path_max() if beyond_path_max else ()
    tree.times()
    tree.root_attributes()
    tree.scatter_times()
    tree.set_times()
    return TortureTree(root, sockets, too_long)


def acl(*entries: tuple[int, int, int]) -> bytes:
    """A raw POSIX ACL of (tag, permissions, id), as the kernel keeps it."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, mode, number) for tag, mode, number in entries)


def named_acl(user: int, group: int, *, mask: int = 7) -> bytes:
    owners = (USER_OBJ, 7, NO_ID), (USER, 5, user), (GROUP_OBJ, 4, NO_ID), (GROUP, 6, group)
    return acl(*owners, (MASK, mask, NO_ID), (OTHER, 0, NO_ID))


class _Maker:
    """One method a subject, each in a directory of its own."""

    def __init__(self, root: bytes, rng: random.Random) -> None:
        self.root, self.rng = root, rng
        if os.listdir(root):
            raise ValueError(f"{os.fsdecode(root)!r} is not empty")

    def file(self, path: bytes, data: bytes = b"", mode: int = 0o644) -> None:
        with reach(self.root, path) as here:
            fd = os.open(here, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.write(fd, data)
                os.fchmod(fd, mode)
            finally:
                os.close(fd)

    def directory(self, path: bytes, mode: int = 0o755) -> None:
        with reach(self.root, path) as here:
            os.mkdir(here)
            os.chmod(here, mode)

    def chain(self, start: bytes, names: Sequence[bytes]) -> bytes:
        """Nested directories; the path of the innermost."""
        path = start
        for name in names:
            path = os.path.join(path, name)
            self.directory(path)
        return path

    def symlink(self, path: bytes, target: bytes) -> None:
        with reach(self.root, path) as here:
            os.symlink(target, here)

    def node(self, path: bytes, kind: int, major: int = 0, minor: int = 0, mode: int = 0o640) -> None:
        with reach(self.root, path) as here:
            os.mknod(here, kind | 0o600, os.makedev(major, minor))
            os.chmod(here, mode)

    def link(self, leader: bytes, path: bytes) -> None:
        os.link(os.path.join(self.root, leader), os.path.join(self.root, path), follow_symlinks=False)

    def chown(self, path: bytes, uid: int, gid: int) -> None:
        os.lchown(os.path.join(self.root, path), uid, gid)

    def xattr(self, path: bytes, name: str, value: bytes) -> None:
        os.setxattr(os.path.join(self.root, path), os.fsencode(name), value, follow_symlinks=False)

    def types(self) -> None:
        self.directory(b"types")
        self.file(b"types/empty")
        self.file(b"types/file", self.rng.randbytes(10_000))
        for size in (1, 511, 512, 513, 4095, 4096, 4097, 10_239, 10_240, 65_536, 3 * MIB + 1):
            self.file(b"types/size-%d" % size, self.rng.randbytes(size))
        self.file(b"types/zeros", bytes(MIB))  # zeros that are stored, not a hole
        self.file(b"types/trailer-like", bytes(1024) + b"data after what looks like the end of an archive")
        same = self.rng.randbytes(50_000)
        for name in (b"same-1", b"same-2", b"same-3"):
            self.file(b"types/" + name, same)
        self.directory(b"types/empty-directory")
        self.directory(b"types/empty-directory-0", 0o000)
        self.chain(b"types/empty-directory", [b"nested", b"empty"])
        self.node(b"types/fifo", stat.S_IFIFO)
        self.node(b"types/fifo-0", stat.S_IFIFO, mode=0o000)
        for kind, name in ((stat.S_IFCHR, b"char"), (stat.S_IFBLK, b"block")):
            # 0:0 as a character device is a whiteout of overlayfs; the last is the largest that Linux knows
            for major, minor in ((0, 0), (1, 3), (7, 200), (8, 65_536), (259, 1_048_575), (4095, 1_048_575)):
                self.node(b"types/%s-%d-%d" % (name, major, minor), kind, major, minor, mode=0o6660)
        self.chown(b"types/char-1-3", UNKNOWN_ID, 5)
        self.chown(b"types/fifo", 999, 998)

    def modes(self) -> None:
        """Also things inside directories that nobody may enter or write, and below setgid ones."""
        self.directory(b"modes")
        for mode in MODES:
            self.file(b"modes/file-%04o" % mode, b"%o" % mode, mode)
            self.chown(b"modes/file-%04o" % mode, 999, 998)
            os.chmod(os.path.join(self.root, b"modes/file-%04o" % mode), mode)  # chown has cleared setuid
            directory = b"modes/directory-%04o" % mode
            self.directory(directory, mode)
            self.file(directory + b"/file", b"inside")
            self.symlink(directory + b"/symlink", b"file")
            self.directory(directory + b"/below", 0o700)
            self.file(directory + b"/below/file", mode=0o400)
            self.chown(directory, 999, 998)
            os.chmod(os.path.join(self.root, directory), mode)
            # What was made in a setgid directory has taken its group and setgid: say exactly what it has instead.
            self.chown(directory + b"/below", 0, 0)
            os.chmod(os.path.join(self.root, directory, b"below"), 0o700)

    def owners(self) -> None:
        self.directory(b"owners")
        for uid, gid in OWNERS:
            base = b"owners/%d-%d" % (uid, gid)
            self.file(base + b"-file", b"owned")
            self.directory(base + b"-directory")
            self.symlink(base + b"-symlink", b"nowhere")
            for suffix in (b"-file", b"-directory", b"-symlink"):
                self.chown(base + suffix, uid, gid)

    def hard_links(self) -> None:
        """Groups whose first path (bytewise) is not the one made first, lies elsewhere, or has an odd name."""
        self.directory(b"links")
        for name in (b"a", b"a-b", b"z", b"a/deep"):
            self.directory(b"links/" + name)
        self.file(b"links/z/made-first", b"leader sorts last")
        self.link(b"links/z/made-first", b"links/a/link")
        self.link(b"links/z/made-first", b"links/a-b/link")
        self.file(b"links/a/deep/leader", self.rng.randbytes(100_000))
        for name in (b"links/a-b/to-deep", b"links/z/to-deep", b"links/to-deep"):
            self.link(b"links/a/deep/leader", name)
        for name in (b"new\nline", b"-rf", b"\xff", b"back\\slash", b"l" * 255, b"trailing "):
            self.file(b"links/a/" + name, b"odd " + name)
            self.link(b"links/a/" + name, b"links/z/" + name)
        self.file(b"links/many-000", b"many")
        for number in range(1, 300):
            self.link(b"links/many-000", b"links/many-%03d" % number)
        self.file(b"links/empty")
        self.link(b"links/empty", b"links/empty-too")
        self.file(b"links/setuid", b"setuid", 0o4755)
        self.link(b"links/setuid", b"links/a/setuid")
        for name, target in ((b"relative", b"a/link"), (b"absolute", b"/etc/passwd"), (b"upwards", b"../../up")):
            self.symlink(b"links/symlink-" + name, target)
            self.link(b"links/symlink-" + name, b"links/a/symlink-" + name)
        self.file(b"links/xattr", b"linked")
        self.xattr(b"links/xattr", "user.linked", b"yes")
        self.xattr(b"links/xattr", ACCESS_ACL, named_acl(33, 33))
        self.link(b"links/xattr", b"links/z/xattr")
        self._sparse(b"links/sparse", MIB, [(MIB // 2, b"middle")])
        self.link(b"links/sparse", b"links/a/sparse")

    def symlinks(self) -> None:
        self.directory(b"symlinks")
        self.symlink(b"symlinks/self", b"self")
        for number, target in enumerate(TARGETS):
            path = b"symlinks/%02d" % number
            self.symlink(path, target)
            self.chown(path, *self.rng.choice(OWNERS))
        # A directory behind a symlink, and the way back: nobody may walk through either.
        self.directory(b"symlinks/real")
        self.symlink(b"symlinks/real/up", b"..")
        self.symlink(b"symlinks/to-real", b"real")

    def _sparse(self, path: bytes, size: int, data: Sequence[tuple[int, bytes]]) -> None:
        self.file(path)
        with open(os.path.join(self.root, path), "r+b", buffering=0) as file:
            file.truncate(size)
            for offset, piece in data:
                os.pwrite(file.fileno(), piece, offset)

    def sparse_files(self, *, huge: bool) -> None:
        self.directory(b"sparse")
        block = self.rng.randbytes(4096)
        self._sparse(b"sparse/hole-at-start", 4 * MIB, [(4 * MIB - 4096, block)])
        self._sparse(b"sparse/hole-in-middle", 4 * MIB, [(0, block), (4 * MIB - 4096, block)])
        self._sparse(b"sparse/hole-at-end", 4 * MIB, [(0, block)])
        self._sparse(b"sparse/only-hole", 4 * MIB, [])
        self._sparse(b"sparse/odd-size", 3 * MIB + 7, [(MIB + 5, b"unaligned"), (3 * MIB, b"seven b")])
        self._sparse(b"sparse/last-byte", 5 * MIB + 1, [(5 * MIB, b"x")])
        self._sparse(b"sparse/one-byte-hole", 4097 * 2 + 1, [])
        self._sparse(b"sparse/many-extents", 16 * MIB, [(at, block) for at in range(0, 16 * MIB, 8192)])
        offsets = sorted(self.rng.sample(range(0, 64 * MIB, 4096), 300))
        pieces = [(at, self.rng.randbytes(self.rng.randint(1, 4096))) for at in offsets]
        self._sparse(b"sparse/random", 64 * MIB, pieces)
        self._sparse(b"sparse/" + b"s" * 255, MIB, [(MIB // 2, block)])
        self._sparse(b"sparse/new\nline\xff", MIB, [(MIB // 2, block)])
        if huge:
            self._sparse(b"sparse/9-gib", 9 * GIB, [(0, block), (8 * GIB - 1, b"over the edge"), (9 * GIB - 3, b"end")])
            self._sparse(b"sparse/1-tib-empty", 1024 * GIB, [])
            self._sparse(b"sparse/1-tib", 1024 * GIB, [(1024 * GIB - 1, b"x")])

    def xattrs(self) -> None:
        self.directory(b"xattrs")
        self.directory(b"xattrs/directory")
        for number, (name, value) in enumerate(XATTRS.items()):
            self.file(b"xattrs/%02d" % number, b"content")
            self.xattr(b"xattrs/%02d" % number, name, value)
        for path in (b"xattrs/all", b"xattrs/all-read-only", b"xattrs/directory/file"):
            self.file(path, b"all")
        for path in (b"xattrs/all", b"xattrs/all-read-only", b"xattrs/directory"):
            for name, value in XATTRS.items():
                self.xattr(path, name, value)
        os.chmod(os.path.join(self.root, b"xattrs/all-read-only"), 0o000)
        self.file(b"xattrs/maximum", b"")
        self.xattr(b"xattrs/maximum", "user.maximum", self.rng.randbytes(3900))
        self.directory(b"xattrs/read-only-directory", 0o555)
        self.xattr(b"xattrs/read-only-directory", "user.read-only", b"directory")
        for suffix, owner, mode in (
            (b"root", (0, 0), 0o755),
            (b"user", (999, 998), 0o755),
            (b"setuid", (1, 1), 0o4711),
        ):
            path = b"xattrs/capability-" + suffix
            self.file(path, b"#!/bin/true\n")
            self.chown(path, *owner)
            os.chmod(os.path.join(self.root, path), mode)
            self.xattr(path, CAPABILITY, PING_CAPABILITY)
        self.file(b"xattrs/capability-namespaced", b"")
        self.xattr(b"xattrs/capability-namespaced", CAPABILITY, NAMESPACED_CAPABILITY)
        # File systems list attributes in an order that tells their history: a restored file may list them in another.
        self.file(b"xattrs/capability-then-acl")
        self.xattr(b"xattrs/capability-then-acl", CAPABILITY, PING_CAPABILITY)
        self.xattr(b"xattrs/capability-then-acl", ACCESS_ACL, named_acl(33, 999))
        self.file(b"xattrs/grown-and-shrunk")
        for name, value in (("user.b", b"b" * 40), ("user.a", b"a"), ("user.b", b"b" * 2000), ("user.c", b"c" * 60)):
            self.xattr(b"xattrs/grown-and-shrunk", name, value)
        self.xattr(b"xattrs/grown-and-shrunk", "user.b", b"b")
        self._sparse(b"xattrs/sparse", MIB, [(0, b"x")])
        self.xattr(b"xattrs/sparse", "user.sparse", b"yes")

    def acls(self) -> None:
        """Ids 33, 998 and 999 are names in many images, others in none: what counts is the number."""
        self.directory(b"acls")
        for number, (user, group) in enumerate(((33, 33), (998, 999), (UNKNOWN_ID, UNKNOWN_ID), (HUGE_ID, HUGE_ID))):
            for mask in (7, 4, 0):
                file, directory = b"acls/file-%d-%d" % (number, mask), b"acls/directory-%d-%d" % (number, mask)
                self.file(file, b"acl")
                self.chown(file, user, group)
                self.xattr(file, ACCESS_ACL, named_acl(user, group, mask=mask))
                self.directory(directory)
                self.xattr(directory, ACCESS_ACL, named_acl(user, group, mask=mask))
        self.file(b"acls/setuid", b"acl", 0o755)
        self.xattr(b"acls/setuid", ACCESS_ACL, named_acl(33, 33))
        os.chmod(os.path.join(self.root, b"acls/setuid"), 0o6750)
        self.node(b"acls/fifo", stat.S_IFIFO)
        self.xattr(b"acls/fifo", ACCESS_ACL, named_acl(33, 998))
        # Default ACLs: children made before have none of it, children made after have inherited; both must come back.
        self.directory(b"acls/default")
        for name in (b"before", b"before-directory"):
            (self.file if name == b"before" else self.directory)(b"acls/default/" + name)
        self.xattr(b"acls/default", DEFAULT_ACL, named_acl(33, 998))
        self.file(b"acls/default/after", b"", 0o640)
        self.directory(b"acls/default/after-directory", 0o750)
        self.file(b"acls/default/after-directory/inherited", b"", 0o600)
        self.symlink(b"acls/default/symlink", b"/absolute")
        self.node(b"acls/default/fifo", stat.S_IFIFO)
        self.file(b"acls/default/linked", b"x")
        self.link(b"acls/default/linked", b"acls/default/before-directory/linked")
        self.directory(b"acls/default-only-basic")
        basic = acl((USER_OBJ, 7, NO_ID), (GROUP_OBJ, 0, NO_ID), (OTHER, 0, NO_ID))
        self.xattr(b"acls/default-only-basic", DEFAULT_ACL, basic)
        self.file(b"acls/default-only-basic/file", b"", 0o644)
        self.directory(b"acls/both-setgid", 0o2775)
        self.xattr(b"acls/both-setgid", ACCESS_ACL, named_acl(UNKNOWN_ID, 33))
        self.xattr(b"acls/both-setgid", DEFAULT_ACL, named_acl(33, UNKNOWN_ID))
        self.directory(b"acls/both-setgid/plain", 0o700)
        for inherited in (ACCESS_ACL, DEFAULT_ACL):
            os.removexattr(os.path.join(self.root, b"acls/both-setgid/plain"), inherited)
        os.chmod(os.path.join(self.root, b"acls/both-setgid/plain"), 0o700)

    def names(self) -> None:
        self.directory(b"names")
        for directory in (b"names/files", b"names/directories", b"names/symlinks", b"names/bytes"):
            self.directory(directory)
        for name in NAMES:
            self.file(b"names/files/" + name, name)
            self.directory(b"names/directories/" + name)
            self.file(b"names/directories/" + name + b"/" + name, name)
            self.symlink(b"names/symlinks/" + name, name)
        for number in range(1, 256):
            if number != ord("/"):
                self.file(b"names/bytes/" + b"%c first" % number)
                self.file(b"names/bytes/last %c" % number)
        for width in range(90, 110):  # around the 100 bytes of a ustar name
            self.file(b"names/" + b"w" * width)

    def order(self) -> None:
        """Bytewise order of paths puts `a-b` before `a/x`; a walk puts it after."""
        self.directory(b"order")
        for parent in (b"a", b"a/b", b"a/b/c"):
            self.directory(b"order/" + parent)
        for name in (b"a-b", b"a b", b"a.b", b"a0", b"a\xff", b"a\x01", b"a/x", b"a/b-c", b"a/b/c-d", b"a/b/c/d"):
            self.file(b"order/" + name, name)
        self.link(b"order/a/x", b"order/a-link")
        self.link(b"order/a-b", b"order/a/link")
        self.link(b"order/a\xff", b"order/a/b/c/link")

    def deep(self) -> None:
        self.directory(b"deep")
        path = self.chain(b"deep", [b"over-1000-bytes" * 8] * 10)
        self.file(path + b"/file", b"deep")
        self.symlink(path + b"/symlink", b"file")
        self._with_xattr(path + b"/xattr")
        path = self.chain(b"deep", [b"d"] * 300)
        self.file(path + b"/file", b"deeper")
        # The longest path that one system call takes, counted with the "./" that tar puts before it.
        path = self.chain(b"deep", [b"p" * 255] * 15)
        self.file(path + b"/" + b"f" * (PATH_MAX - 1 - len(b"./") - len(path) - 1), b"at PATH_MAX")
        self._with_xattr(path + b"/" + b"x" * (PATH_MAX - 1 - len(b"./") - len(path) - 1))
        self.directory(path + b"/" + b"d" * (PATH_MAX - 1 - len(b"./") - len(path) - 1), 0o700)

    def _with_xattr(self, path: bytes) -> None:
        self.file(path, b"with xattr")
        with reach(self.root, path) as here:
            os.setxattr(here, "user.deep", b"deep", follow_symlinks=False)
            os.setxattr(here, ACCESS_ACL, named_acl(33, UNKNOWN_ID), follow_symlinks=False)

    def many(self, count: int) -> None:
        self.directory(b"many")
        with reach(self.root, b"many/x") as here:
            directory = os.path.dirname(here)
            for number in range(count):
                fd = os.open(b"%s/file-%06d" % (directory, number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
                os.write(fd, b"%d\n" % number)
                os.close(fd)

    def sockets(self) -> tuple[bytes, ...]:
        self.directory(b"sockets")
        self.file(b"sockets/file-beside")
        paths = (b"sockets/socket", b"sockets/new\nline", b"sockets/\xff")
        for path in paths:
            with reach(self.root, path) as here, socket.socket(socket.AF_UNIX) as server:
                server.bind(here)
        return tuple(sorted(paths))

    def privileged_xattrs(self, directory: bytes, xattrs: dict[str, bytes]) -> None:
        self.directory(directory)
        self.file(directory + b"/file", b"x")
        self.symlink(directory + b"/symlink", b"file")
        self.symlink(directory + b"/absolute", b"/etc/passwd")
        self.node(directory + b"/fifo", stat.S_IFIFO)
        self.node(directory + b"/char", stat.S_IFCHR, 1, 3)
        for path in (b"", b"/file", b"/symlink", b"/absolute", b"/fifo", b"/char"):
            for name, value in xattrs.items():
                self.xattr(directory + path, name, value)

    def beyond_path_max(self) -> tuple[bytes, ...]:
        path = self.chain(b"deep", [b"q" * 255] * 17)
        self.file(path + b"/file", b"beyond PATH_MAX")
        return tuple(path for path in scan_tree(self.root) if len(b"./" + path) >= PATH_MAX)

    def root_attributes(self) -> None:
        os.chown(self.root, *ROOT_OWNER)
        os.chmod(self.root, ROOT_MODE)
        os.setxattr(self.root, "user.root", b"of the volume")
        os.setxattr(self.root, DEFAULT_ACL, named_acl(33, 998))

    def scatter_times(self) -> None:
        """A time of its own for everything, so that any that is not restored shows."""
        for path in scan_tree(self.root):
            with reach(self.root, path) as here:
                when = self.rng.randrange(10**18, 17 * 10**17)
                os.utime(here, ns=(when, when), follow_symlinks=False)

    def times(self) -> None:
        self.directory(b"times")
        for when in TIMES:
            self.file(b"times/file%+d" % when, b"time")
            self.directory(b"times/directory%+d" % when)
            self.file(b"times/directory%+d/file" % when)
            self.symlink(b"times/symlink%+d" % when, b"file")
            self.file(b"times/line\nfeed%+d" % when)  # tar prints such a name as it is when the time is odd

    def set_times(self) -> None:
        for when in TIMES:
            for kind in (b"file", b"directory", b"symlink", b"line\nfeed"):
                path = os.path.join(self.root, b"times/%s%+d" % (kind, when))
                os.utime(path, ns=(when, when), follow_symlinks=False)
        os.utime(os.path.join(self.root, b"times"), ns=(TIMES[1], TIMES[1]))
        os.utime(self.root, ns=(10**18 + 123_456_789,) * 2)
