"""Objects as read-only files below one directory, created by fsync and link."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from drkit.errors import (
    AccessDenied,
    DrkitError,
    IntegrityError,
    ObjectExists,
    ObjectNotFound,
    RepositoryNotFound,
    StorageFull,
    StorageUnavailable,
    UsageError,
    reason,
)
from drkit.storage.base import (
    MARK,
    MAX_OBJECT,
    RESERVED,
    Data,
    ObjectInfo,
    Storage,
    StoreInfo,
    is_segment,
    require_size,
    require_storable,
    validate_key,
    validate_prefix,
    validate_range,
)
from drkit.storage.local import reserve
from drkit.storage.local.files import (
    flock_excludes,
    is_temp_name,
    make_directories,
    opened_directory,
    publish,
    remove_if_abandoned,
    sync_directory,
    temp_file,
    write_durably,
)
from drkit.storage.local.mounts import file_system_type

_SHARED = re.compile(r"nfs4?|cifs|smb3|smbfs|9p|virtiofs|vboxsf|afs|coda|ceph|glusterfs|lustre|fuse(\..*)?")

_HINTS = {
    errno.ENOSPC: "Free space or inodes there (`df -h`, `df -i`).",
    errno.EDQUOT: "Raise the disk quota of this user.",
    errno.EROFS: "Mount the file system writable; the kernel log (`dmesg`) says whether it was made read-only.",
    errno.EACCES: "Run drkit as the owner of the repository directory, or check its mode.",
    errno.EPERM: "Check owner, mode and attributes (`lsattr`) of the repository directory.",
    errno.EFBIG: "Raise the limit of file sizes (`ulimit -f`).",
    errno.EMFILE: "Raise the limit of open files (`ulimit -n`).",
    errno.ENFILE: "Raise the limit of open files of the system (`sysctl fs.file-max`).",
    errno.EIO: "Check the disk: the kernel log (`dmesg`) names the failing device.",
    errno.ESTALE: "Mount the network file system again.",
    errno.EXDEV: "Keep the whole repository directory on one file system.",
    errno.ELOOP: "Replace the symbolic link inside the repository with what it points to.",
}


class LocalStorage(Storage):
    """A directory of a local file system with atomic `link` (or `renameat2`) and working `flock`.

    Directories are 0700 and objects 0400 whatever the umask. Unfinished writes live in `tmp/`, each under a file lock
    of its writer: a file that nobody holds was left by a crash, and the first change by a later process removes it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)
        self._identity = _identity(root)
        self._debris_removed = False
        self._debris_lock = threading.Lock()

    def put(self, key: str, data: Data, *, locked: bool = True) -> None:
        validate_key(key)
        require_storable(self.url, key, data)
        with _explained("store", self.root / key):
            self._remove_debris()
            # Another process may remove a directory that it has just emptied, or the temporary file that we have
            # created but not yet locked. Then we start again.
            while not self._try_put(key, data):
                pass

    def _try_put(self, key: str, data: Data) -> bool:
        """Return whether the object was stored. If not, its directory or temporary file vanished before the link."""
        *directories, name = key.split("/")
        with contextlib.ExitStack() as stack:
            root = stack.enter_context(opened_directory(self.root))
            self._require_root(root)
            tmp = stack.enter_context(opened_directory(RESERVED, root, create=True))
            temp, fd = stack.enter_context(temp_file(tmp))
            write_durably(fd, data)
            chain = [root]
            for directory in directories:
                try:
                    chain.append(stack.enter_context(opened_directory(directory, chain[-1], create=True)))
                except FileNotFoundError:
                    return False
            try:
                publish(temp, tmp, name, chain[-1])
            except FileExistsError:
                raise ObjectExists(f"object {key} exists already in {self.root}") from None
            except FileNotFoundError:
                return False
            # All the way up, not only what we created: another process may have made a directory and not synced it
            # yet. An fsync of a clean directory is cheap.
            for descriptor in reversed(chain):
                os.fsync(descriptor)
        return True

    def get(self, key: str, offset: int = 0, length: int | None = None, *, limit: int = MAX_OBJECT) -> bytes:
        validate_key(key)
        validate_range(key, offset, length, limit)
        with _explained("read", self.root / key), self._opened_object(key) as (descriptor, size):
            end = max(offset, size) if length is None else offset + length
            too_short = IntegrityError(f"object {key} is shorter than {end} bytes", object_name=key)
            if end > size:
                raise too_short
            require_size(key, end - offset, limit)
            parts = []
            while offset < end:  # a read may return less
                part = os.pread(descriptor, end - offset, offset)
                if not part:
                    raise too_short
                parts.append(part)
                offset += len(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)

    @contextlib.contextmanager
    def _opened_object(self, key: str) -> Iterator[tuple[int, int]]:
        """Open an object and yield its descriptor and size."""
        path = self.root / key
        try:
            # O_NONBLOCK: if this is a FIFO, opening it must not wait for a writer.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise self._not_found(key) from None
        try:
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                raise self._not_found(key)
            _require_file(status, path)
            yield descriptor, status.st_size
        finally:
            os.close(descriptor)

    def stat(self, key: str) -> ObjectInfo:
        validate_key(key)
        path = self.root / key
        with _explained("read", path):
            try:
                status = path.lstat()
            except (FileNotFoundError, NotADirectoryError):
                raise self._not_found(key) from None
            if stat.S_ISDIR(status.st_mode):
                raise self._not_found(key)
            _require_file(status, path)
            return ObjectInfo(key, status.st_size)

    def _not_found(self, key: str) -> DrkitError:
        self._require_root()
        return ObjectNotFound(f"no object {key} in {self.root}")

    def _require_root(self, path: Path | int | None = None) -> None:
        """Raise unless the directory is still the one that was opened.

        After an unmount during a run, the empty mount point would show no objects, and take new ones.
        """
        try:
            same = _identity(self.root if path is None else path) == self._identity
        except (FileNotFoundError, NotADirectoryError):
            same = False
        if not same:
            raise StorageUnavailable(
                f"the repository directory {self.root} is gone or another one took its place",
                hint="Check that its file system is mounted.",
            )

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        validate_prefix(prefix)
        return self._list(prefix)

    def _list(self, prefix: str) -> Iterator[ObjectInfo]:
        directory, _, _ = prefix.rpartition("/")
        yield from self._walk(directory, prefix)
        with _explained("list", self.root):
            self._require_root()

    def _walk(self, directory: str, prefix: str) -> Iterator[ObjectInfo]:
        with _explained("list", self.root / directory):
            for entry in self._entries(directory):
                if not is_segment(entry.name) or not entry.key.startswith(prefix):
                    continue
                if entry.is_directory:
                    yield from self._walk(entry.key, prefix)
                    continue
                path = self.root / entry.key
                try:
                    status = path.lstat()
                except FileNotFoundError:  # deleted since
                    continue
                _require_file(status, path)
                yield ObjectInfo(entry.key, status.st_size)

    def store_info(self) -> StoreInfo:
        with _explained("lock", self.root), opened_directory(self.root) as root:
            kind = file_system_type(self.root)
            with opened_directory(RESERVED, root, create=True) as tmp:
                locks = flock_excludes(tmp)
        return StoreInfo(file_system=kind, shared=kind is None or bool(_SHARED.fullmatch(kind)), locks=locks)

    def foreign_files(self) -> Iterator[str]:
        """Yield the paths below the root whose names are no keys, such as `lost+found`: no listing shows them.

        With what others keep in `tmp/`.
        """
        directories = [""]
        while directories:
            directory = directories.pop()
            with _explained("list", self.root / directory):
                for entry in self._entries(directory):
                    if not is_segment(entry.name):
                        yield entry.key
                    elif entry.is_directory:
                        directories.append(entry.key)
        with _explained("list", self.root / RESERVED), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for name in sorted(os.listdir(self.root / RESERVED)):  # noqa: PTH208  (names alone)
                if not (is_temp_name(name) or reserve.is_part_name(name)):
                    yield f"{RESERVED}/{name}"

    def permission_problem(self) -> str | None:
        with _explained("read", self.root):
            status = self.root.stat()
        mode = stat.S_IMODE(status.st_mode)
        if status.st_uid not in (0, os.geteuid()):
            return f"{self.root} belongs to user {status.st_uid}, who can remove backups"
        if mode & 0o022:
            who = "every user" if mode & 0o002 else f"group {status.st_gid}"
            return f"{self.root} is writable by {who} (mode {mode:04o}), who can remove backups"
        return None

    def keep_reserve(self) -> None:
        with contextlib.suppress(OSError):
            reserve.make_reserve(self.root)

    @contextlib.contextmanager
    def released_reserve(self) -> Iterator[None]:
        with _explained("release the reserve in", self.root):
            reserve.remove_reserve(self.root)
        try:
            yield
        finally:
            self.keep_reserve()

    def _entries(self, directory: str) -> Sequence[_Entry]:
        """Return the entries of a directory, without `tmp/`, in the order of their keys."""
        try:
            with os.scandir(self.root / directory) as scan:
                entries = [
                    _Entry(
                        f"{directory}/{entry.name}" if directory else entry.name,
                        entry.name,
                        entry.is_dir(follow_symlinks=False),
                    )
                    for entry in scan
                    if directory or entry.name != RESERVED
                ]
        except (FileNotFoundError, NotADirectoryError):
            return []  # nothing was ever stored here, or all of it has been deleted
        # `a-b` sorts before `a/x`, although the directory `a` sorts before the file `a-b`.
        return sorted(entries, key=lambda entry: entry.key + "/" if entry.is_directory else entry.key)

    def delete(self, key: str) -> None:
        validate_key(key)
        path = self.root / key
        with _explained("delete", path):
            self._remove_debris()
            try:
                path.unlink()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                self._require_root()
                return
            with contextlib.suppress(FileNotFoundError):
                sync_directory(path.parent)
        self._remove_empty_directories(path.parent)

    def _remove_empty_directories(self, directory: Path) -> None:
        """Every run would leave some behind otherwise."""
        # This ends at a directory that is not empty, or that we may not remove: it does no harm.
        with contextlib.suppress(OSError):
            while directory != self.root:
                directory.rmdir()
                directory = directory.parent

    def _remove_debris(self) -> None:
        """Remove, once, the temporary files of dead writers, whatever their age: a living writer holds a file lock.

        In a directory that holds no repository nothing is removed.
        """
        with self._debris_lock:
            if self._debris_removed or not (self.root / MARK).is_file():
                return
            with (
                contextlib.suppress(FileNotFoundError),
                opened_directory(self.root) as root,
                opened_directory(RESERVED, root) as tmp,
            ):
                for name in os.listdir(tmp):  # noqa: PTH208 (a descriptor, not a path)
                    with contextlib.suppress(FileNotFoundError):
                        remove_if_abandoned(name, tmp)
            self._debris_removed = True


class _Entry(NamedTuple):
    key: str
    name: str
    is_directory: bool


def _identity(path: Path | int) -> tuple[int, int]:
    status = os.stat(path)  # noqa: PTH116 (may be a descriptor)
    return status.st_dev, status.st_ino


def _require_file(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        what = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "neither a file nor a directory"
        raise StorageUnavailable(f"{path} is {what}, not an object", hint="Move it out of the repository directory.")


@contextlib.contextmanager
def _explained(action: str, path: Path) -> Iterator[None]:
    """Translate every OSError, and name what was tried on which path."""
    try:
        yield
    except OSError as error:
        raise explain(error, action, path) from error


def explain(error: OSError, action: str, path: Path) -> DrkitError:
    number = error.errno or 0
    name = errno.errorcode.get(number, str(number))
    message = f"cannot {action} {path}: {reason(error)} ({name})"
    hint = _HINTS.get(number)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(message, hint=hint)
    if number in (errno.EROFS, errno.EACCES, errno.EPERM):
        return AccessDenied(message, hint=hint)
    return StorageUnavailable(message, hint=hint)


def open_directory(path: Path, *, create: bool) -> LocalStorage:
    """Open the storage in a directory. Raises RepositoryNotFound for a missing one, unless `create` makes it.

    Directories are made with mode 0700; one that exists keeps its mode. Raises UsageError if they cannot be made.
    """
    root = path.absolute()
    with _explained("open", root):
        try:
            if create:
                make_directories(root)
            with opened_directory(root):  # readable, and a directory
                return LocalStorage(root)
        except (FileNotFoundError, NotADirectoryError) as error:
            if create:
                raise UsageError(
                    f"cannot create a repository at {root}: {reason(error)}", hint="Give the path of a directory."
                ) from None
            raise RepositoryNotFound(
                f"no repository at {root}: {reason(error)}",
                hint="Check the path and that its file system is mounted, or create it with `drkit init`.",
            ) from None
