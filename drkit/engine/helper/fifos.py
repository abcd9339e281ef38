"""The directory with three FIFOs through which a helper container and drkit talk.

    <base>/drkit-exchange-XXXX/     0700: closed to every other user of this host; held by flock while its drkit lives
        x/                          0711: the helper mounts this, and its root may be mapped to any id
            in  out  err            0666, for the same reason

The engine must see the same directory. It does if it runs on this host, or if drkit runs in a container and the
directory is a shared volume: DRKIT_EXCHANGE_DIR is then the directory inside drkit's container where the volume
DRKIT_EXCHANGE_VOLUME is mounted. Only a helper that writes into `out` proves that the engine sees it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drkit.engine.names import check_name
from drkit.errors import DrkitError, UsageError, reason
from drkit.settings import directory_from

MOUNT_POINT = "/drkit"
PIPE_BYTES = 1 << 20

_PREFIX = "drkit-exchange-"
_OWN_BASE = Path("/run/drkit")
_F_SETPIPE_SZ = 1031


class Fifos:
    """One such directory. It exists until `remove`, or until a later drkit finds that this process has died."""

    def __init__(self) -> None:
        self._volume, bases = exchange_place()
        self._root, self._hold = _create_held(bases)
        try:
            self.directory = self._root / "x"
            self.directory.mkdir()
            self.directory.chmod(0o711)
            for name in ("in", "out", "err"):
                os.mkfifo(self.directory / name)
                (self.directory / name).chmod(0o666)  # mkfifo obeys the umask
        except OSError as error:
            self.remove()
            raise _unusable(self._root, error) from error

    def mount(self) -> dict[str, Any]:
        """The helper's mount, in the engine's terms."""
        if self._volume:
            return {
                "Type": "volume",
                "Source": self._volume,
                "Target": MOUNT_POINT,
                "VolumeOptions": {"NoCopy": True},
            }
        return {"Type": "bind", "Source": str(self.directory), "Target": MOUNT_POINT}

    @property
    def name(self) -> str:
        """Its name: no other directory gets it, on whatever host."""
        return self._root.name

    def path_in_helper(self) -> str:
        return f"{MOUNT_POINT}/{self._root.name}/x" if self._volume else MOUNT_POINT

    def open(self, name: str, flags: int) -> int:
        """Open one FIFO, with the largest buffer allowed, without waiting for the other side."""
        fd = os.open(self.directory / name, flags | os.O_NONBLOCK | os.O_CLOEXEC)
        # A smaller buffer only costs speed: /proc/sys/fs/pipe-max-size limits non-root users.
        with contextlib.suppress(PermissionError):
            fcntl.fcntl(fd, _F_SETPIPE_SZ, PIPE_BYTES)
        return fd

    def remove(self) -> None:
        shutil.rmtree(self._root, ignore_errors=True)
        os.close(self._hold)


def exchange_place() -> tuple[str, list[Path]]:
    """Return the volume, if one is set, and the directories below which ours may be, the best first.

    Raises UsageError for settings that name no place.
    """
    volume = os.environ.get("DRKIT_EXCHANGE_VOLUME", "")
    configured = directory_from(os.environ, "DRKIT_EXCHANGE_DIR")
    if bool(volume) != bool(configured):
        raise UsageError(
            "DRKIT_EXCHANGE_DIR and DRKIT_EXCHANGE_VOLUME: one is set without the other",
            hint="Set both: the directory in drkit's container, and the name of the volume mounted there.",
        )
    if volume:
        check_name("volume", volume)
    return volume, [configured] if configured else _bases()


def _bases() -> list[Path]:
    """systemd's $RUNTIME_DIRECTORY, then /run/drkit for root: unlike /tmp, the engine shares them under PrivateTmp."""
    bases = [Path(path) for path in os.environ.get("RUNTIME_DIRECTORY", "").split(":") if path]
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):  # read-only under ProtectSystem=strict
            _OWN_BASE.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(OSError):
            if _OWN_BASE.stat().st_uid == 0:
                bases.append(_OWN_BASE)
    with contextlib.suppress(OSError):
        bases.append(Path(tempfile.gettempdir()))
    return bases


def _create_held(bases: list[Path]) -> tuple[Path, int]:
    """Create a directory, 0700, and hold it with flock while this process lives; return it and the descriptor.

    It is below the first base where that works: a directory that exists may still be on a read-only mount.
    """
    failure, failed = OSError(errno.ENOENT, os.strerror(errno.ENOENT)), Path(os.devnull)
    for base in bases:
        try:
            return _create_held_below(base)
        except OSError as error:
            failure, failed = error, base
    raise _unusable(failed, failure) from failure


def _create_held_below(base: Path) -> tuple[Path, int]:
    while True:
        root = base / f"{_PREFIX}{secrets.token_hex(12)}"
        root.mkdir(mode=0o700)
        root.chmod(0o700)
        try:
            hold = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:  # another drkit took it for an orphan
            continue
        fcntl.flock(hold, fcntl.LOCK_EX)
        if root.exists():
            return root, hold
        os.close(hold)


def _unusable(directory: Path, error: OSError) -> DrkitError:
    return DrkitError(
        f"exchange directory {directory}: {reason(error)}", hint="Set TMPDIR to a directory that drkit may write to."
    )


@dataclass(frozen=True)
class Orphan:
    """What a drkit that has died left: its directory, of which we have proof since the kernel gave us its flock."""

    root: Path
    volume: str

    def is_mounted_by(self, container: Mapping[str, Any]) -> bool:
        """Whether a container, as the engine lists it, was made to talk through this directory."""
        mounts = [mount for mount in container.get("Mounts") or [] if mount.get("Destination") == MOUNT_POINT]
        wanted = ("Name", self.volume) if self.volume else ("Source", str(self.root / "x"))
        return any(mount.get(wanted[0]) == wanted[1] for mount in mounts)


@contextmanager
def orphans() -> Iterator[dict[str, Orphan]]:
    """Yield what killed processes of this user left on this host, by name; it goes when the block ends well."""
    volume, bases = exchange_place()
    with ExitStack() as held:
        found = {}
        for root in [root for base in bases for root in base.glob(_PREFIX + "*")]:
            try:
                fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:  # another user's, or already gone
                continue
            held.callback(os.close, fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # its process lives
                continue
            if os.fstat(fd).st_uid == os.geteuid():
                found[root.name] = Orphan(root, volume)
        yield found
        for orphan in found.values():
            shutil.rmtree(orphan.root, ignore_errors=True)
