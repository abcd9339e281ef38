"""Which helper image this host has built and found to work, for each engine that it uses.

What is said of an image (labels, tags, a record in a repository) can be said by anybody. An id is that of one content,
and that this host tried it out is known from here alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from drkit.errors import DrkitError, reason
from drkit.events import LOGGED, Events
from drkit.host.private_file import open_lock, replace
from drkit.host.throwaway import is_throwaway

_IMAGE_ID = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class KnownHelper:
    """A helper image of one engine. `recipe` is that of the drkit that built it: another one builds another helper."""

    engine: str
    arch: str
    image_id: str
    source: str
    tar: str
    recipe: str


class KnownHelpers:
    """One file per engine and architecture below `directory`. A damaged one is as if no helper had been built."""

    def __init__(self, directory: Path, events: Events = LOGGED) -> None:
        self._directory = directory
        self._events = events
        self._told: set[Path] = set()

    def path(self, engine: str, arch: str) -> Path:
        return self._directory / f"{hashlib.sha256(f'{engine} {arch}'.encode()).hexdigest()[:16]}.json"

    def lasts(self) -> bool:
        """Whether what is noted here outlives the container that we may be in."""
        return not is_throwaway(self._directory)

    def of(self, engine: str, arch: str) -> KnownHelper | None:
        """Return the helper of an engine, None where none was built. A file that cannot be used is a warning, once."""
        path = self.path(engine, arch)
        try:
            known = _read(path)
            if (known.engine, known.arch) != (engine, arch):
                raise ValueError("it is of another engine")
            return known
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            if path not in self._told:
                self._told.add(path)
                why = reason(error) if isinstance(error, OSError) else "it is damaged, or others could write it"
                self._events.warn(
                    f"cannot use {path}: {why}. The helper image that it names is not run, another is built"
                )
            return None

    def all(self) -> list[KnownHelper]:
        """Return the helpers of every engine. Files that cannot be used are left out: `of` warns of them."""
        found = []
        for path in sorted(self._directory.glob("*.json")):
            try:
                found.append(_read(path))
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                continue
        return found

    def note(self, known: KnownHelper) -> None:
        """Durable on return. Raises DrkitError where the directory cannot be written."""
        replace(self.path(known.engine, known.arch), json.dumps(asdict(known), indent=1) + "\n")

    @contextmanager
    def building(self) -> Iterator[None]:
        """Let one process of this host at a time build a helper; waits. Where that cannot be arranged, each builds."""
        try:
            descriptor = open_lock(self._directory / "building.lock")
        except DrkitError:
            yield  # `note` tells of it
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _read(path: Path) -> KnownHelper:
    """Raises ValueError, KeyError and TypeError for what `note` did not write, or others can change."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, encoding="utf-8") as file:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or about.st_uid not in (0, os.geteuid()) or about.st_mode & 0o022:
            raise ValueError("others can write it")
        known = KnownHelper(**json.loads(file.read(1 << 16)))
    if not all(isinstance(value, str) for value in asdict(known).values()) or not _IMAGE_ID.fullmatch(known.image_id):
        raise ValueError("it names no image id")
    return known
