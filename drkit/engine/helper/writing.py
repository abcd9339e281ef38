"""Writing a volume: the helper's script that extracts an archive into it and brings it to the disk."""

from __future__ import annotations

from drkit.engine.client import Engine
from drkit.engine.helper.image import HelperImage
from drkit.engine.helper.launch import Transport, start_helper
from drkit.engine.helper.process import HelperProcess

# A million directories get their metadata after the last byte of input, and then everything goes to the disk.
_EXTRACT_SECONDS = 3600.0

TAR_EXTRACT = (
    "tar --extract --file=- --numeric-owner --same-owner --same-permissions --xattrs --xattrs-include='*'"
    " --delay-directory-restore --quoting-style=escape"
    # With tar's default of 10 KiB a read it takes twice the CPU time.
    " --blocking-factor=512"
    # This warning prints names unquoted: one with a line feed would become two lines, both unknown to messages.py.
    " --warning=no-timestamp"
)
# Without SYS_ADMIN they cannot be written, and tar would fail over the first.
_NO_TRUSTED = " --xattrs-exclude='trusted.*'"
_STOCK_UNTAR = "tar -x -f - -p --numeric-owner"

# Flush to the disk while tar still writes; otherwise gigabytes would be flushed only at the end. The kernel reports a
# write error to one sync only, perhaps to one of these, so their status must not be lost. A helper image of an earlier
# drkit has no sleep.
_FLUSH = """(
exec >/dev/null
command -v sleep || exit 0
trap stop=1 TERM
while [ -z "$stop" ]; do sleep 1 2>/dev/null & wait $!; sync -f . || exit 74; done
) &
flush=$!
"""
_FLUSHED = """kill $flush 2>/dev/null
wait $flush 2>/dev/null
[ $? -ne 74 ] || status=74
sync -f . || [ $status -ne 0 ] || status=74
"""


# Before the first byte of input is read: what a plugin, a device or a directory of the host gives as a "new" volume may
# hold data. A fresh ext4 holds lost+found. It is left out if it is a directory of root's and empty.
REQUIRE_EMPTY = """for entry in ./* ./.[!.]* ./..?*; do
    [ -e "$entry" ] || [ -L "$entry" ] || continue
    [ "$entry" != ./lost+found ] || [ -L "$entry" ] || [ ! -O "$entry" ] || [ ! -d "$entry" ] ||
        [ "$(find ./lost+found)" != ./lost+found ] || continue
    printf 'holds %s\\0' "$entry"
    exit 73
done
printf 'empty\\0'
"""


def start_extract(
    engine: Engine,
    helper: HelperImage,
    volume: str,
    *,
    run_id: str,
    trusted_xattrs: bool = False,
    durable: bool = True,
    transport: Transport = "auto",
) -> HelperProcess:
    """Extract the tar that is written to stdin. Without `trusted_xattrs` those that are in it are left out.

    stdout first gives "empty" and a NUL, or, where nothing is written then, "holds ./NAME" and a NUL. It gives
    "end STATUS" and a NUL as soon as tar has ended; what was written can be read back from then on.
    `durable`: once the helper has ended with 0, all of it is on the disk as well.
    """
    untar = TAR_EXTRACT + ("" if trusted_xattrs else _NO_TRUSTED) if helper.full else _STOCK_UNTAR
    before, after = (_FLUSH, _FLUSHED) if durable else ("", "")
    return start_helper(
        engine,
        helper.image_id,
        script=(
            f"cd /volume || exit 71\n{REQUIRE_EMPTY}{before}{untar}\n"
            f"status=$?\nprintf 'end %s\\0' $status\n{after}exit $status\n"
        ),
        volume=volume,
        readonly=False,
        trusted_xattrs=trusted_xattrs,
        run_id=run_id,
        transport=transport,
        exit_seconds=_EXTRACT_SECONDS,
    )
