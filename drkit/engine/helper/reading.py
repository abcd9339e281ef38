"""Reading a volume: the helper's script that scans it and then archives what the caller asks for."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

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

# What find does not enter, with tests for it as arguments. Of the root, which always counts, it would make nothing.
UNENTERED = r"""! -name . \( "$@" \) -prune -o"""
_SCAN = f"find . -printf '{SCAN_FORMAT}'"
_PRUNED_SCAN = f"find . {UNENTERED} -printf '{SCAN_FORMAT}'"


class Reading(StrEnum):
    """How tar reads files: its options for what the metadata of their file system proves.

    Where blocks are told wrongly, `--sparse` alone takes a file without blocks for one hole. Where inode numbers are,
    tar takes one file for a link to another.
    """

    HOLES_TOLD = "--sparse"
    HOLES_SEARCHED = "--sparse --hole-detection=raw --hard-dereference"
    """By reading everything. Not for a file without blocks: tar asks for these first."""
    PLAIN = "--hard-dereference"
    PLAIN_LINKED = ""
    """Every byte, but further links to a file as links."""


TAR_CREATE = (
    "tar --create --file=- --no-recursion --null --files-from=- --format=posix --xattrs --xattrs-include='*'"
    " --numeric-owner --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime --quoting-style=escape"
    # 512 KiB a write: measured twice as fast as tar's 10 KiB.
    " --blocking-factor=1024"
)
READ_LIST = f"IFS= read -r reading || exit 72\nexec {TAR_CREATE} $reading"
"""exec makes GNU tar process 1: the name of a sparse member contains the process id."""

SAMPLE_BLOCK = 1 << 16
SAMPLE_BLOCKS = 16
# Digests by plain reading: of whole files, named in lines up to an empty one; then of pieces, told in two lines each,
# the blocks to skip and the file. A helper image of an earlier drkit has neither tool.
SAMPLE = f"""status=0
command -v sha256sum >/dev/null && command -v dd >/dev/null || status=127
set --
while IFS= read -r file && [ -n "$file" ]; do set -- "$@" "$file"; done
[ $# -eq 0 ] || [ $status -ne 0 ] || sha256sum -- "$@"
while IFS= read -r skip && [ -n "$skip" ] && IFS= read -r file; do
    [ $status -ne 0 ] || dd if="$file" bs={SAMPLE_BLOCK} skip="$skip" count={SAMPLE_BLOCKS} 2>/dev/null | sha256sum
done
printf 'end %s\n' $status
"""

# BusyBox: the scan has paths only, and tar lacks all options that keep everything. BusyBox tar takes a list of lines if
# it was built with that feature; otherwise the names must fit on one command line.
_STOCK_SCAN = "find . -print0"
# Not every BusyBox was built with these tests.
_STOCK_PRUNED_SCAN = rf"""if find . {UNENTERED} -prune >/dev/null 2>&1; then
    find . {UNENTERED} -print0
else
    find . -print0
fi"""
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
    unentered: Sequence[str] = (),
    sampled: bool = False,
    transport: Transport = "auto",
) -> HelperProcess:
    """Scan a volume, then archive what the caller asks for. `held`: begin only when a line is written to stdin.

    stdout first gives the records of the scan. The first is "mounts" and lines of mountinfo, the last is "end STATUS",
    between them are those of find (SCAN_FORMAT; only "./path" and a NUL from a helper that is not `full`). `unentered`
    are tests of find for what it neither tells nor enters. If `sampled`, a `full` helper then takes and answers what
    SAMPLE says. stdin then takes a line with a Reading, which a helper that is not `full` cannot heed, and the
    NUL-separated list of members ("." for the root, "./a/b"). After stdin is closed, stdout gives the tar. The list
    must not be empty: abort the process instead.
    """
    if helper.full:
        scan = _PRUNED_SCAN if unentered else _SCAN
    else:
        scan = _STOCK_PRUNED_SCAN if unentered else _STOCK_SCAN
    sample = SAMPLE if sampled and helper.full else ""
    tar = READ_LIST if helper.full else f"read -r _ || exit 72\n{_STOCK_TAR}"
    ends = r"\0\0" if helper.full else r"\0"
    hold = "IFS= read -r _ || exit 72\n" if held else ""
    return start_helper(
        engine,
        helper.image_id,
        script=f"{hold}cd /volume || exit 71\n{_MOUNTS}printf '{ends}'\n{scan}\n"
        f"printf 'end %s{ends}' \"$?\" || exit 70\n{sample}{tar}\n",
        volume=volume,
        readonly=True,
        trusted_xattrs=trusted_xattrs,
        run_id=run_id,
        transport=transport,
        arguments=unentered,
    )
