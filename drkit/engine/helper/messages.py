"""What tar and find report on stderr, line by line, because their exit status does not say enough.

GNU tar exits with 2 both for a file that vanished and for a fatal error, with 1 for a file that changed, and with 0 for
a socket that it left out. So every line is classified, and an unknown line is a failure. The patterns match GNU tar
1.34 and 1.35 and GNU findutils, with LC_ALL=C and --quoting-style=escape, and BusyBox.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_GONE = rb"(?:No such file or directory|Not a directory|Stale file handle)"

_VANISHED = re.compile(
    rb"tar: (?P<warned>.*): Warning: Cannot \w+: "  # before the next, whose name would take the "Warning"
    + _GONE
    + rb"|tar: (?P<tar>.*): Cannot \w+: "
    + _GONE
    + rb"|tar: (?P<removed>.*): File removed before we read it"
    + rb"|(?:tar|find): '(?P<quoted>.*)': "
    + _GONE
    + rb"|(?:tar|find): (?P<plain>.*): "
    + _GONE,
    re.DOTALL,
)
_TORN = re.compile(
    rb"tar: (?P<name>.*): (?:file changed as we read it|File shrank by \d+ bytes?; padding with zeros)"
    rb"|tar: short read on (?P<short>.*), filling with zeros"
)
_SOCKET = re.compile(rb"tar: (?P<name>.*): socket ignored")
_HARMLESS = re.compile(
    rb"tar: .*: time stamp .* is .* s in the future"
    rb"|tar: .*: implausibly old time stamp .*"
    rb"|tar: .*: Warning: Cannot \w*xattr\w*: Operation not supported"  # a file system without xattrs loses none
    rb"|tar: Record size = \d+ blocks?"
    rb"|tar: Exiting with failure status due to previous errors"  # which have been classified
    rb"|tar: error exit delayed from previous errors"
)
# What find could not see, or would never see the end of. GNU find escapes a quote in a name, BusyBox quotes nothing.
_UNSEEN = re.compile(
    rb"find: (?:'(?P<quoted>(?:[^'\\]|\\.)*)'|(?P<plain>\.(?:/.*)?)): [^:']+"
    rb"|find: File system loop detected; '(?P<loop>(?:[^'\\]|\\.)*)' is part of the same file system loop as .*"
)
_ESCAPE = re.compile(rb"\\([0-7]{3}|.)", re.DOTALL)
_CONTROL = {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


@dataclass(frozen=True)
class TarReport:
    """stderr by kind of line. Paths are relative to the volume, as in the scan: the root is empty."""

    vanished: tuple[bytes, ...]
    torn: tuple[bytes, ...]
    sockets: tuple[bytes, ...]
    harmless: tuple[str, ...]
    unknown: tuple[str, ...]

    def explains(self, code: int) -> bool:
        """Whether these lines account for tar's exit status, so that nothing else went wrong."""
        if self.unknown:
            return False
        if code == 1:  # the only failure status of BusyBox
            return bool(self.torn or self.vanished)
        if code == 2:
            return bool(self.vanished)
        return code == 0


Excluded = Callable[[bytes, bool], bool]
"""Whether a path is excluded; the flag says that it is known to be a directory."""


def classify_tar_stderr(
    stderr: bytes, *, truncated: bool = False, excluded: Excluded = lambda path, directory: False
) -> TarReport:
    """Classify the lines of a helper's stderr. If it is `truncated`, the missing part counts as an unknown line.

    What find says of an `excluded` path is harmless: nobody asked for it.
    """
    vanished: dict[bytes, None] = {}
    torn: dict[bytes, None] = {}
    sockets: dict[bytes, None] = {}
    harmless: list[str] = []
    unknown: list[str] = []
    for line in stderr.removesuffix(b"\n").split(b"\n") if stderr else ():
        if (unseen := _UNSEEN.fullmatch(line)) and excluded(_path(unseen), unseen["loop"] is not None):
            harmless.append(line.decode(errors="backslashreplace"))
            continue
        for pattern, paths in ((_VANISHED, vanished), (_TORN, torn), (_SOCKET, sockets)):
            if match := pattern.fullmatch(line):
                paths[_path(match)] = None
                break
        else:
            target = harmless if _HARMLESS.fullmatch(line) else unknown
            target.append(line.decode(errors="backslashreplace"))
    if truncated:
        unknown.append("more lines than are kept")
    return TarReport(tuple(vanished), tuple(torn), tuple(sockets), tuple(harmless), tuple(unknown))


def _path(match: re.Match[bytes]) -> bytes:
    name = next(group for group in match.groups() if group is not None)
    name = unescape(name)
    return b"" if name == b"." else name.removeprefix(b"./")


def unescape(name: bytes) -> bytes:
    """Undo --quoting-style=escape and find's quoting, which only escapes more than it must."""

    def character(match: re.Match[bytes]) -> bytes:
        escaped = match[1]
        return bytes([int(escaped, 8) & 0xFF]) if len(escaped) == 3 else _CONTROL.get(escaped, escaped)

    return _ESCAPE.sub(character, name)
