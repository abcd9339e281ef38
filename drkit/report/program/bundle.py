"""drkit as one object beside the repository: a host that has Python and the engine needs nothing else.

It is a tar of wheels of drkit and all that it needs, of FORMAT.md and of the program in FORMAT.md that reads a
repository by hand. It is not part of the repository's format. Whoever can write to the storage can replace it, so what
counts is the SHA-256 on the recovery kit.
"""

from __future__ import annotations

import hashlib
import platform
import re
import sys
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.resources import files
from io import BytesIO
from typing import NamedTuple

from drkit import __version__
from drkit.errors import DrkitError, IntegrityError, ObjectExists, ObjectNotFound, RepositoryError
from drkit.events import LOGGED, Events
from drkit.report.program.source import PACKAGE, distribution, holds_package
from drkit.report.program.wheels import REINSTALL, Wheel, check_wheel, pack_wheel, with_requirements
from drkit.storage.base import Storage

PREFIX = "program/"
DIRECTORY = "program"
"""What the tar unpacks to."""
BY_HAND = "by_hand.py"


class Program(NamedTuple):
    """What the kit says of a stored program. `needs`: which Python and system it is for."""

    key: str
    sha256: str
    needs: str


class PackedProgram(NamedTuple):
    about: Program
    data: bytes


def pack_program(events: Events = LOGGED) -> PackedProgram:
    """Pack the drkit that runs, with all that it needs: some seconds of CPU time, and some 40 MB, held in memory.

    The same installation gives the same bytes, and a different one a different key. Raises DrkitError, which names the
    distribution that cannot be packed.
    """
    events.note("packing drkit and all that it needs")
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, body in _members():
            entry = tarfile.TarInfo(f"{DIRECTORY}/{name}")
            entry.size = len(body)
            tar.addfile(entry, BytesIO(body))
    data = buffer.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    implementation = {"cpython": "cp"}.get(sys.implementation.name, sys.implementation.name)
    python = f"{implementation}{sys.version_info.major}{sys.version_info.minor}"
    name = f"drkit-{__version__}-{python}-{platform.machine()}-{digest[:12]}.tar"
    return PackedProgram(Program(PREFIX + re.sub(r"[^a-z0-9._-]", "_", name.lower()), digest, _needs()), data)


def _members() -> Iterator[tuple[str, bytes]]:
    text = files("drkit.repository").joinpath("FORMAT.md").read_text(encoding="utf-8")
    [program] = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    yield "FORMAT.md", text.encode()
    yield BY_HAND, program.encode()
    yield from _wheels()


def _wheels() -> Iterator[Wheel]:
    installed = distribution()
    if installed is None:
        raise DrkitError("cannot pack drkit: it is not installed, but runs from a directory", hint=REINSTALL)
    if installed.version != __version__:
        raise DrkitError(
            f"cannot pack drkit {__version__}: what is installed says that it is {installed.version}", hint=REINSTALL
        )
    for each in with_requirements(installed):
        linked = each is installed and not holds_package(installed)
        yield pack_wheel(each, PACKAGE if linked else None)


def _needs() -> str:
    """Say where compiled parts are sure to work: this minor version of Python, and this host's C library or newer."""
    library = " ".join(filter(None, platform.libc_ver())) or "musl as here"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return f"{platform.python_implementation()} {version}, Linux {platform.machine()}, {library} or newer"


def store_program(storage: Storage, packed: PackedProgram) -> Program:
    """Store the program, unless it is there; then read it back, compare it and check its wheels.

    Raises IntegrityError if something else is stored there. All errors say that the program is not stored.
    """
    key = packed.about.key
    try:
        try:
            storage.stat(key)
        except ObjectNotFound:
            with suppress(ObjectExists):  # created since we looked; it is compared below
                storage.put(key, packed.data)
        stored = storage.get(key)
        if stored != packed.data:
            raise IntegrityError(
                f"object {key} in {storage.url} is not what was stored",
                hint="Delete it.",
                object_name=key,
            )
        check_program(stored)
    except RepositoryError as error:
        error.message = f"the program is not stored: {error.message}"
        error.hint = f"{error.hint} Then run {_AGAIN}" if error.hint else f"Run {_AGAIN}"
        raise
    return packed.about


def check_program(data: bytes) -> list[str]:
    """Return the names of the files in a program's tar. Raises IntegrityError for a wheel that is not whole."""
    names = []
    with tarfile.open(fileobj=BytesIO(data)) as tar:
        for entry in tar:
            body = tar.extractfile(entry)
            assert body is not None
            names.append(entry.name)
            if entry.name.endswith(".whl"):
                check_wheel(Wheel(entry.name.rpartition("/")[2], body.read()))
    return names


_AGAIN = "drkit key kit --with-program."


def stored_programs(storage: Storage) -> list[str]:
    """The keys of the programs that lie beside a repository, of whatever version."""
    return [info.key for info in storage.list(PREFIX)]
