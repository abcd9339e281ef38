"""Volumes: reading and writing their content through a helper, finding them, and making them anew for a restore."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drkit.engine.client import Document, Engine, EngineError
from drkit.engine.helper.launch import LABEL as HELPER_LABEL
from drkit.engine.helper.launch import Transport, start_helper
from drkit.engine.helper.process import HelperProcess
from drkit.engine.names import check_name
from drkit.errors import DrkitError

if TYPE_CHECKING:
    from drkit.engine.helper.image import HelperImage

LABEL_RESTORE = "drkit.restore"

# A million directories get their metadata after the last byte of input, and then everything goes to disk.
_EXTRACT_SECONDS = 3600.0

# A record of the scan: path (empty for the root), then type, mode, uid, gid, size, mtime, ctime, inode and links, then
# the device. A path may hold anything but NUL, so NUL ends each of the three, and another one the record.
SCAN_FORMAT = r"%P\0%y %m %U %G %s %T@ %C@ %i %n\0%D\0\0"
RECORD_END = b"\0\0"
STOCK_RECORD_END = b"\0"

_SCAN = f"find . -printf '{SCAN_FORMAT}'"
TAR_CREATE = (
    "tar --create --file=- --no-recursion --null --files-from=- --format=posix --xattrs --xattrs-include='*' --sparse"
    " --numeric-owner --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime --quoting-style=escape"
    # 512 KiB a write: measured twice as fast as tar's 10 KiB.
    " --blocking-factor=1024"
)
TAR_EXTRACT = (
    "tar --extract --file=- --numeric-owner --same-owner --same-permissions --xattrs --xattrs-include='*'"
    " --delay-directory-restore --quoting-style=escape"
    # In records of 10 KiB, as it would read else, it takes twice the CPU time.
    " --blocking-factor=512"
    # This warning prints names unquoted, so that one with a line feed would become two lines that nobody knows.
    " --warning=no-timestamp"
)

# BusyBox: no metadata in the scan but the path, and none of the options that keep everything. Its tar takes a list of
# lines, if it was built to take one; else the names must fit on one command line.
_STOCK_SCAN = "find . -print0"
_STOCK_TAR = """case "$(tar --help 2>&1)" in
    *'-T FILE'*) tr '\\000' '\\n' | tar -c -f - --no-recursion --numeric-owner -T - ;;
    *) xargs -0 -x -n 1000000000 -s 1000000000 tar -c -f - --no-recursion --numeric-owner ;;
esac"""
_STOCK_UNTAR = "tar -x -f - -p --numeric-owner"


# While tar still writes, what it has written goes to the disk; else that would begin at the end, with gigabytes. A
# write error is told to one sync only, perhaps to one of these: its status must not be lost. A helper image of an
# earlier drkit has no sleep.
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
    """Scan a volume, then read a tar of what the caller asks for. If `held`, only once a line is written to stdin.

    stdout gives the scan's records (SCAN_FORMAT; only "./path" and a NUL from a helper that is not `full`), and a last
    one "end STATUS" that ends as they do. stdin then takes the NUL-separated list of members ("." for the root,
    "./a/b"), and once it is closed stdout gives the tar. An empty list is not possible: abort the process instead.
    """
    scan = _SCAN if helper.full else _STOCK_SCAN
    # exec'd, GNU tar is process 1: the name of a sparse member holds the process id.
    tar = f"exec {TAR_CREATE}" if helper.full else _STOCK_TAR
    ends = r"\0\0" if helper.full else r"\0"
    hold = "IFS= read -r _ || exit 72\n" if held else ""
    return start_helper(
        engine,
        helper,
        script=f"{hold}cd /volume || exit 71\n{scan}\nprintf 'end %s{ends}' \"$?\" || exit 70\n{tar}\n",
        volume=volume,
        readonly=True,
        trusted_xattrs=trusted_xattrs,
        run_id=run_id,
        transport=transport,
    )


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
    """Extract the tar that is written to stdin.

    stdout gives "end STATUS" and a NUL as soon as tar has ended; `durable`: once the helper has ended with 0, all of it
    is on disk as well. Reading back what was written need not wait for that.
    """
    untar = TAR_EXTRACT if helper.full else _STOCK_UNTAR
    before, after = (_FLUSH, _FLUSHED) if durable else ("", "")
    return start_helper(
        engine,
        helper,
        script=f"cd /volume || exit 71\n{before}{untar}\nstatus=$?\nprintf 'end %s\\0' $status\n{after}exit $status\n",
        volume=volume,
        readonly=False,
        trusted_xattrs=trusted_xattrs,
        run_id=run_id,
        transport=transport,
        exit_seconds=_EXTRACT_SECONDS,
    )


def match_volumes(engine: Engine, pattern: str) -> list[str]:
    """The names of the volumes that a shell pattern matches, sorted; drkit's own scratch volumes are none of them."""
    return sorted(
        volume["Name"]
        for volume in engine.volumes()
        if fnmatch.fnmatchcase(volume["Name"], pattern) and HELPER_LABEL not in (volume.get("Labels") or {})
    )


@dataclass(frozen=True)
class VolumePlan:
    """How a volume is made for a restore. `dropped`: what is not taken over from the original, and why."""

    driver: str
    options: dict[str, str]
    dropped: tuple[str, ...]


def harmless_options(driver: str, options: Mapping[str, str] | None, *, same_device: bool = False) -> VolumePlan:
    """The driver and options of a new volume that cannot turn out to be the data of another one.

    Two `local` volumes with the same device, bind path or remote share are one and the same data: writing the "new" one
    would overwrite production. What another driver's options name, nobody can tell. Both are taken over only if the
    caller says that it is the `same_device` that shall be written.
    """
    options = dict(options or {})
    if driver != "local":
        if same_device or not options:
            return VolumePlan(driver, options, ())
        names = ", ".join(sorted(options))
        return VolumePlan(
            "local", {}, (f"driver {driver} with its options {names}: they may name the original's data",)
        )
    kind, device = options.get("type", ""), options.get("device", "")
    if kind == "tmpfs":
        # Nothing to do with whose data it is: what is restored would be gone when the helper ends.
        reason = "type=tmpfs: a volume in memory would lose what is restored into it"
        return VolumePlan(driver, _quota(options), (reason,))
    if same_device or options.keys() <= {"size"}:
        return VolumePlan(driver, options, ())
    named = "; ".join(f"{key}={_without_secrets(options[key])}" for key in sorted(options.keys() - {"size"}))
    return VolumePlan(
        driver, _quota(options), (f"{named}: the new volume would be {device or 'what these name'} itself",)
    )


def _quota(options: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in options.items() if key == "size"}


def _without_secrets(value: str) -> str:
    return re.sub(r"((?:^|,)pass(?:word|wd)?\d?=)[^,]*", r"\1***", value)


@dataclass(frozen=True)
class RestoredVolume:
    name: str
    plan: VolumePlan


def create_restored_volume(
    engine: Engine, name: str, original: Document, *, restore_id: str, same_device: bool = False
) -> RestoredVolume:
    """Make the volume `name` like `original` (its inspect document): driver, labels and harmless options.

    The engine answers success for a name that exists, whatever its labels. So: see that there is none, create, and see
    that what is there now carries our label.
    """
    if engine.volume(check_name("volume", name)) is not None:
        raise _exists(name)
    plan = harmless_options(str(original.get("Driver") or "local"), original.get("Options"), same_device=same_device)
    plan = _on_this_engine(engine, plan)
    labels = {**(original.get("Labels") or {}), LABEL_RESTORE: restore_id}
    try:
        engine.create_volume(name, plan.driver, plan.options, labels)
    except EngineError as error:
        if not ("size" in plan.options and "quota" in error.message.lower()):
            raise
        dropped = f"size={plan.options['size']}: the engine's file system has no quotas here"
        plan = VolumePlan(plan.driver, {}, (*plan.dropped, dropped))
        engine.create_volume(name, plan.driver, plan.options, labels)
    created = engine.volume(name)
    if created is None or (created.get("Labels") or {}).get(LABEL_RESTORE) != restore_id:
        raise _exists(name)
    return RestoredVolume(name, plan)


def _on_this_engine(engine: Engine, plan: VolumePlan) -> VolumePlan:
    """On a bare host the driver may be missing; then a plain local volume is better than none."""
    known = (engine.facts().get("Plugins") or {}).get("Volume") or ["local"]
    if plan.driver in known:
        return plan
    return VolumePlan("local", {}, (*plan.dropped, f"driver {plan.driver}: this engine does not have it"))


def _exists(name: str) -> DrkitError:
    return DrkitError(
        f"volume {name}: it exists already, and a restore never writes into an existing volume unasked",
        hint="Restore into a new one: add --to-volume NEW.",
    )


def remove_if_ours(engine: Engine, name: str, restore_id: str) -> bool:
    """Remove a volume that `create_restored_volume` made under this id; leave any other alone."""
    volume = engine.volume(name)
    if volume is None or (volume.get("Labels") or {}).get(LABEL_RESTORE) != restore_id:
        return False
    return engine.remove_volume(name)
