"""Wheels of installed distributions, packed again from their files: another host installs the same without an index.

The same files give the same bytes. What an installation puts outside the library directory (scripts, manual pages) is
left out: drkit needs none of it, and installers make its own command from the wheel's entry points.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import re
import zlib
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from io import BytesIO, StringIO
from pathlib import Path
from typing import NamedTuple
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile, ZipInfo

from drkit.errors import DrkitError, IntegrityError, reason

REINSTALL = "Install drkit with pip in a virtual environment of its own."

_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[([^]]*)\])?[^;]*(?:;(.*))?", re.DOTALL)
_EXTRA = re.compile(r"""\bextra\s*==\s*["']([^"']*)["']""")
_ENVIRONMENT = re.compile(r"\b(?:python|sys|os|platform|implementation)_")
"""How the variables of a marker start that are about the host: only an installer can evaluate such a marker."""
# Notes of installers about this installation.
_NOT_PACKED = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"}


class Wheel(NamedTuple):
    name: str
    data: bytes


def with_requirements(root: Distribution) -> list[Distribution]:
    """Return `root` and every installed distribution that it needs, directly or not, by name.

    Raises DrkitError where one is missing.
    """
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(root, "")]
    while waiting:
        needing, extra = waiting.pop()
        name = _canonical(needing.name)
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        found[name] = needing
        for needed, extras in _needed(needing, extra):
            waiting += [(needed, each) for each in ("", *extras)]
    return [found[name] for name in sorted(found)]


def _needed(needing: Distribution, extra: str) -> Iterator[tuple[Distribution, list[str]]]:
    """What a distribution needs for itself, or for one of its extras; each with the extras that are asked of it."""
    for text in needing.requires or []:
        match = _REQUIREMENT.fullmatch(text)
        if match is None:
            raise DrkitError(f"cannot pack {needing.name}: it needs {text!a}, which is not understood", hint=REINSTALL)
        name, extras, marker = match[1], match[2] or "", match[3] or ""
        if extra not in ({_canonical(each) for each in _EXTRA.findall(marker)} or {""}):
            continue
        try:
            yield distribution(name), [_canonical(each) for each in extras.split(",") if each.strip()]
        except PackageNotFoundError:
            if not _ENVIRONMENT.search(marker):
                raise DrkitError(
                    f"cannot pack {needing.name}: {name}, which it needs, is not installed", hint=REINSTALL
                ) from None


def pack_wheel(installed: Distribution, package: Path | None = None) -> Wheel:
    """Pack a wheel of what is installed; `package` is where its package lies that was not copied, but linked.

    Raises DrkitError for what was not installed from a wheel, and for files that have changed since.
    """
    members = dict(_installed_members(installed, linked=package is not None))
    if package is not None:
        members |= _package_members(package)
    info = next((name.partition("/")[0] for name in members if name.endswith(".dist-info/METADATA")), None)
    tags = re.findall(r"^Tag: *(\S+)", installed.read_text("WHEEL") or "", re.MULTILINE)
    if info is None or not tags:
        raise _not_from_a_wheel(installed)
    buffer = BytesIO()
    record = StringIO()
    rows = csv.writer(record, lineterminator="\n")
    with ZipFile(buffer, "w") as archive:
        for name, data in sorted(members.items()):
            _add(archive, name, data)
            rows.writerow((name, _digest(data), len(data)))
        rows.writerow((f"{info}/RECORD", "", ""))
        _add(archive, f"{info}/RECORD", record.getvalue().encode())
    return Wheel(_file_name(installed, tags), buffer.getvalue())


def _installed_members(installed: Distribution, *, linked: bool) -> Iterator[tuple[str, bytes]]:
    """The files that belong into the wheel, compared with what the installer noted; of a linked one its metadata."""
    record = installed.read_text("RECORD")
    if record is None:
        raise _not_from_a_wheel(installed)
    for name, noted, *_ in csv.reader(record.splitlines()):
        directory, _, file = name.rpartition("/")
        of_metadata = directory.partition("/")[0].endswith(".dist-info")
        outside = name.startswith(("../", "/"))
        if outside or name.endswith(".pyc") or (of_metadata and file in _NOT_PACKED) or (linked and not of_metadata):
            continue
        try:
            data = Path(str(installed.locate_file(name))).read_bytes()
        except OSError as error:
            raise DrkitError(
                f"cannot pack {installed.name}: cannot read its {name}: {reason(error)}", hint=REINSTALL
            ) from error
        if noted and noted != _digest(data, noted.partition("=")[0]):
            raise DrkitError(
                f"cannot pack {installed.name}: its {name} has changed since it was installed", hint=REINSTALL
            )
        yield name, data


def _package_members(package: Path) -> Iterator[tuple[str, bytes]]:
    for path in package.rglob("*"):
        name = path.relative_to(package.parent)
        if path.is_file() and path.suffix != ".pyc" and not any(part.startswith(".") for part in name.parts):
            yield str(name), path.read_bytes()


def _not_from_a_wheel(installed: Distribution) -> DrkitError:
    return DrkitError(f"cannot pack {installed.name}: it was not installed from a wheel", hint=REINSTALL)


def _add(archive: ZipFile, name: str, data: bytes) -> None:
    entry = ZipInfo(name)  # of 1980-01-01
    entry.compress_type = ZIP_DEFLATED
    entry.create_system = 3  # Unix, which gives the mode a meaning
    entry.external_attr = 0o100644 << 16
    archive.writestr(entry, data)


def _file_name(installed: Distribution, tags: list[str]) -> str:
    """As the binary distribution format wants it: name, version, and each part of the tags once."""
    name = _canonical(installed.name).replace("-", "_")
    parts = zip(*(tag.split("-") for tag in tags), strict=True)
    return "-".join([name, installed.version, *(".".join(sorted(set(part))) for part in parts)]) + ".whl"


def check_wheel(wheel: Wheel) -> None:
    """Raise IntegrityError unless the wheel holds just the files that its RECORD lists, as listed."""
    try:
        with ZipFile(BytesIO(wheel.data)) as archive:
            names = set(archive.namelist())
            [record] = [name for name in names if re.fullmatch(r"[^/]+\.dist-info/RECORD", name)]
            rows = {name: noted for name, noted, _ in csv.reader(archive.read(record).decode().splitlines())}
            wrong = names ^ rows.keys()
            wrong |= {name for name in names & rows.keys() - {record} if rows[name] != _digest(archive.read(name))}
    except (BadZipFile, zlib.error, ValueError, KeyError, NotImplementedError, EOFError) as error:
        raise IntegrityError(f"{wheel.name} is not a whole wheel: {error}", object_name=wheel.name) from error
    if wrong:
        raise IntegrityError(f"{wheel.name}: {min(wrong)} is not what RECORD lists", object_name=wheel.name)


def _digest(data: bytes, algorithm: str = "sha256") -> str:
    """As RECORD has it."""
    digest = base64.urlsafe_b64encode(hashlib.new(algorithm, data).digest()).rstrip(b"=").decode()
    return f"{algorithm}={digest}"


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
