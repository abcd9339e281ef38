"""Reading a volume: the helper's script that scans it and then archives what the caller asks for."""

from __future__ import annotations

from drkit.engine.client import Engine
from drkit.engine.helper.image import HelperImage
from drkit.engine.helper.launch import Transport, start_helper
from drkit.engine.helper.process import HelperProcess

# A record of the scan: path (empty for the root), then type, mode, uid, gid, size, mtime, ctime, inode and links, then
# the device, then the blocks of 512 bytes. A path may hold anything but NUL, so NUL ends each of the four, and another
# one the record.
SCAN_FORMAT = r"%P\0%y %m %U %G %s %T@ %C@ %i %n\0%D\0%b\0\0"
RECORD_END = b"\0\0"
STOCK_RECORD_END = b"\0"

# The lines of mountinfo that tell where the volume's files are: the volume itself, and what is mounted below it. The
# shell does it alone: no program is in every image.
_MOUNTS = r"""printf 'mounts\n'
[ -r /proc/self/mountinfo ] && while IFS= read -r mount; do
    case "$mount" in *' /volume '*|*' /volume/'*) printf '%s\n' "$mount" ;; esac
done </proc/self/mountinfo
"""

_SCAN = f"find . -printf '{SCAN_FORMAT}'"
TAR_CREATE = (
    "tar --create --file=- --no-recursion --null --files-from=- --format=posix --xattrs --xattrs-include='*' --sparse"
    " --numeric-owner --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime --quoting-style=escape"
    # 512 KiB a write: measured twice as fast as tar's 10 KiB.
    " --blocking-factor=1024"
)

# BusyBox: the scan has paths only, and tar lacks all options that keep everything. BusyBox tar takes a list of lines if
# it was built with that feature; otherwise the names must fit on one command line.
_STOCK_SCAN = "find . -print0"
_STOCK_TAR = """case "$(tar --help 2>&1)" in
    *'-T FILE'*) tr '\\000' '\\n' | tar -c -f - --no-recursion --numeric-owner -T - ;;
    *) xargs -0 -x -n 1000000000 -s 1000000000 tar -c -f - --no-recursion --numeric-owner ;;
esac"""


def start_capture(
    engine: Engine,
    helper: HelperImage,
    volume: str,
    *,
    run_id: str,
    trusted_xattrs: bool = False,
    held: bool = False,
    transport: Transport = "auto",
) -> HelperProcess:
    """Scan a volume, then archive what the caller asks for. `held`: begin only when a line is written to stdin.

    stdout first gives the records of the scan. The first is "mounts" and lines of mountinfo, the last is "end STATUS",
    between them are those of find (SCAN_FORMAT; only "./path" and a NUL from a helper that is not `full`). stdin then
    takes the NUL-separated list of members ("." for the root, "./a/b"). After stdin is closed, stdout gives the tar.
    The list must not be empty: abort the process instead.
    """
    scan = _SCAN if helper.full else _STOCK_SCAN
    # exec makes GNU tar process 1: the name of a sparse member contains the process id.
    tar = f"exec {TAR_CREATE}" if helper.full else _STOCK_TAR
    ends = r"\0\0" if helper.full else r"\0"
    hold = "IFS= read -r _ || exit 72\n" if held else ""
    return start_helper(
        engine,
        helper.image_id,
        script=f"{hold}cd /volume || exit 71\n{_MOUNTS}printf '{ends}'\n{scan}\n"
        f"printf 'end %s{ends}' \"$?\" || exit 70\n{tar}\n",
        volume=volume,
        readonly=True,
        trusted_xattrs=trusted_xattrs,
        run_id=run_id,
        transport=transport,
    )
