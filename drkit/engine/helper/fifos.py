"""The directory with three FIFOs through which a helper container and drkit talk.

    <base>/drkit-exchange-XXXX/     0700: closed to every other user of this host
        x/                          0711: the helper mounts this, and its root may be mapped to any id
            in  out  err            0666, for the same reason

The engine must see the same directory. It does if it runs on this host, or if drkit runs in a container and the
directory is a shared volume: DRKIT_EXCHANGE_DIR is then the directory inside drkit's container where the volume
DRKIT_EXCHANGE_VOLUME is mounted. Only a helper that writes into `out` proves that the engine sees it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
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
        self._volume = os.environ.get("DRKIT_EXCHANGE_VOLUME", "")
        configured = directory_from(os.environ, "DRKIT_EXCHANGE_DIR")
        if bool(self._volume) != bool(configured):
            raise UsageError(
                "DRKIT_EXCHANGE_DIR and DRKIT_EXCHANGE_VOLUME: one is set without the other",
                hint="Set both: the directory in drkit's container, and the name of the volume mounted there.",
            )
        if self._volume:
            check_name("volume", self._volume)
        base = configured or _default_base()
        try:
            _remove_orphans(base)
            self._root, self._hold = _create_held(base)
            self.directory = self._root / "x"
            self.directory.mkdir()
            self.directory.chmod(0o711)
            for name in ("in", "out", "err"):
                os.mkfifo(self.directory / name)
                (self.directory / name).chmod(0o666)  # mkfifo obeys the umask
        except OSError as error:
            raise DrkitError(
                f"exchange directory {base}: {reason(error)}",
                hint="Set TMPDIR to a directory that drkit may write to.",
            ) from error

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


def _default_base() -> Path:
    """/run/drkit for root: unlike /tmp, the engine shares it even under systemd's PrivateTmp."""
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):
            _OWN_BASE.mkdir(mode=0o700, exist_ok=True)
            if _OWN_BASE.stat().st_uid == 0:
                return _OWN_BASE
    return Path(tempfile.gettempdir())


def _create_held(base: Path) -> tuple[Path, int]:
    """Create a directory, 0700, and hold it with flock while this process lives; return it and the descriptor."""
    while True:
        root = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        try:
            hold = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:  # another drkit took it for an orphan
            continue
        fcntl.flock(hold, fcntl.LOCK_EX)
        if root.exists():
            return root, hold
        os.close(hold)


def _remove_orphans(base: Path) -> None:
    """Remove what a killed drkit left: directories of this user that no process holds."""
    for root in base.glob(_PREFIX + "*"):
        try:
            fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:  # another user's, or already gone
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_uid == os.geteuid():
                shutil.rmtree(root, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(fd)
