"""Files that are whole and durable, or do not exist: the system calls below `local`. OSError passes through."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

# What link() answers on file systems that have no hard links (FAT, some CIFS and FUSE).
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}
_RENAME_NOREPLACE = 1
_DIRECT_FROM = 1024 * 1024


@contextlib.contextmanager
def opened_directory(path: Path | str, parent: int | None = None, *, create: bool = False) -> Iterator[int]:
    """Open a directory and yield its descriptor. Below `parent` symbolic links are not followed.

    `create` makes a missing directory with mode 0700, and does not sync its parent.
    """
    if create:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700, dir_fd=parent)
            os.chmod(path, 0o700, dir_fd=parent)  # the umask may have taken bits away
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    descriptor = os.open(path, flags if parent is None else flags | os.O_NOFOLLOW, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def make_directories(path: Path) -> None:
    """Make a directory and those above it that are missing, durably, with mode 0700 whatever the umask."""
    if path.is_dir():
        return
    make_directories(path.parent)
    with opened_directory(path.parent) as parent:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path.name, 0o700, dir_fd=parent)
            os.chmod(path.name, 0o700, dir_fd=parent)
        os.fsync(parent)


def sync_directory(path: Path) -> None:
    """Make what was created, renamed and removed in a directory durable."""
    with opened_directory(path) as descriptor:
        os.fsync(descriptor)


def _temp_name(token: str) -> str:
    """Return a name that nobody else comes upon: of what looks random it proves that we made it."""
    return f"{token}-{hashlib.sha256(f'drkit unfinished {token}'.encode()).hexdigest()[:16]}"


def is_temp_name(name: str) -> bool:
    """Whether `temp_file` made this name."""
    return name == _temp_name(name.partition("-")[0])


@contextlib.contextmanager
def temp_file(directory: int) -> Iterator[tuple[str, int]]:
    """Create a file and yield its name and descriptor. In the end the name is removed.

    A file lock (flock) tells the files of living writers from those of dead ones. Between creation and file lock,
    another process that cleans up may remove the name: `publish` then raises FileNotFoundError.
    """
    name, fd = _create_flocked(directory)
    try:
        yield name, fd
    finally:
        # The name may be gone (renamed, not linked). A name that cannot be removed stays as debris for the next writer:
        # the error that brought us here matters more.
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=directory)
        os.close(fd)


def _create_flocked(directory: int) -> tuple[str, int]:
    while True:
        name = _temp_name(secrets.token_hex(16))
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)  # another process, cleaning up, takes this file for debris
        except OSError:
            os.unlink(name, dir_fd=directory)
            os.close(fd)
            raise
        else:
            return name, fd


def remove_if_abandoned(name: str, directory: int) -> None:
    """Remove a temporary file, however old or young, if its writer is dead. Raises FileNotFoundError if it is gone.

    Whatever `temp_file` did not make stays.
    """
    if not is_temp_name(name):
        return
    if not stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
        return  # not one of ours
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=directory)
    except BlockingIOError:  # its writer lives
        pass
    finally:
        os.close(fd)


def write_durably(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write everything, make the file read-only and sync it.

    Large page-aligned data bypasses the page cache where the file system can do that. It will not be read soon, and in
    the cache it would displace what the host's services work with; the copy alone took a fifth of a backup's CPU. The
    fsync is never retried: the kernel reports a failed write once, and a second fsync would succeed.
    """
    view = memoryview(data)
    remaining = view.cast("B") if view.nbytes else view  # an empty view cannot be cast
    remaining = remaining[_write_direct(fd, remaining) :]
    while remaining:
        remaining = remaining[os.write(fd, remaining) :]
    os.fchmod(fd, 0o400)
    os.fsync(fd)


def _write_direct(fd: int, data: memoryview) -> int:
    """Write the whole pages of `data`, bypassing the page cache. Return the bytes written: 0 if that is impossible."""
    pages = len(data) - len(data) % mmap.PAGESIZE
    if pages < _DIRECT_FROM or data.readonly or ctypes.addressof(ctypes.c_char.from_buffer(data)) % mmap.PAGESIZE:
        return 0
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    written = 0
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT)
        while written < pages and written % mmap.PAGESIZE == 0:
            written += os.write(fd, data[written:pages])
    except OSError as error:
        if error.errno != errno.EINVAL:  # this file system has no direct writes, or needs another alignment
            raise
    finally:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)
    return written


def publish(source: str, source_directory: int, target: str, target_directory: int) -> None:
    """Give a file its final name. Raises FileExistsError if the name is taken. The old name may remain."""
    try:
        os.link(source, target, src_dir_fd=source_directory, dst_dir_fd=target_directory, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _rename_noreplace(source, source_directory, target, target_directory)


def _rename_noreplace(source: str, source_directory: int, target: str, target_directory: int) -> None:
    """renameat2 with RENAME_NOREPLACE, which the standard library does not offer."""
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.renameat2(
        ctypes.c_int(source_directory),
        ctypes.c_char_p(os.fsencode(source)),
        ctypes.c_int(target_directory),
        ctypes.c_char_p(os.fsencode(target)),
        ctypes.c_uint(_RENAME_NOREPLACE),
    )
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def flock_excludes(directory: int) -> bool:
    """Whether a file lock there keeps a second holder out. Some network and FUSE file systems only claim that."""
    with temp_file(directory) as (name, _):
        second = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(second)
    return False
