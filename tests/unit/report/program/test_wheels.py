"""Wheels that are packed again from what is installed."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import Distribution, PackageNotFoundError
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import pytest

from drkit.errors import DrkitError, IntegrityError
from drkit.report.program import wheels
from drkit.report.program.wheels import Wheel, check_wheel, pack_wheel, with_requirements


def digest(data: bytes, algorithm: str = "sha256") -> str:
    encoded = base64.urlsafe_b64encode(hashlib.new(algorithm, data).digest()).rstrip(b"=").decode()
    return f"{algorithm}={encoded}"


class Site:
    """A library directory, and distributions installed in it as pip would."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "lib" / "site-packages"

    def install(
        self,
        name: str,
        requires: tuple[str, ...] = (),
        *,
        files: Mapping[str, bytes] | None = None,
        tags: tuple[str, ...] = ("py3-none-any",),
        algorithm: str = "sha256",
    ) -> Distribution:
        info = f"{name}-1.0.dist-info"
        requirements = "".join(f"Requires-Dist: {each}\n" for each in requires)
        members = {
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requirements}".encode(),
            f"{info}/WHEEL": ("Wheel-Version: 1.0\n" + "".join(f"Tag: {tag}\n" for tag in tags)).encode(),
            f"{info}/INSTALLER": b"pip\n",
            f"{info}/REQUESTED": b"",
            f"{info}/direct_url.json": b'{"url": "file:///here"}',
            **(files if files is not None else {f"{name.lower()}/__init__.py": b"NAME = 'x'\n"}),
        }
        rows = []
        for path, data in members.items():
            place = self.directory / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
            hashed = "" if path.endswith(".pyc") else digest(data, algorithm)
            rows.append(f'"{path}",{hashed},{len(data)}\n')
        (self.directory / info / "RECORD").write_text("".join([*rows, f"{info}/RECORD,,\n"]))
        return self.find(name)

    def find(self, name: str) -> Distribution:
        found = next(iter(Distribution.discover(name=name, path=[str(self.directory)])), None)
        if found is None:
            raise PackageNotFoundError(name)
        return found


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site(tmp_path / "first")
    monkeypatch.setattr(wheels, "distribution", made.find)
    return made


FILES = {
    "thing/__init__.py": b"import thing.part\n",
    "thing/data/table, with comma.txt": b"1,2\n",
    "thing/__pycache__/__init__.cpython-311.pyc": b"compiled here",
    "thing.libs/libthing.so": bytes(range(256)) * 40,
    "../../bin/thing": b"#!/root/venv/bin/python\n",
}
PACKED = ["Thing-1.0.dist-info/METADATA", "Thing-1.0.dist-info/RECORD", "Thing-1.0.dist-info/WHEEL"]
PACKED += ["thing.libs/libthing.so", "thing/__init__.py", "thing/data/table, with comma.txt"]


def contents(wheel: Wheel) -> dict[str, bytes]:
    with ZipFile(BytesIO(wheel.data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_wheel_holds_what_another_host_needs(site: Site) -> None:
    wheel = pack_wheel(site.install("Thing", files=FILES))
    assert wheel.name == "thing-1.0-py3-none-any.whl"
    held = contents(wheel)
    assert sorted(held) == PACKED
    assert all(held[name] == FILES[name] for name in FILES if name in held)
    check_wheel(wheel)


def test_pip_installs_it(site: Site, tmp_path: Path) -> None:
    site.install("base", files={"base.py": b"VALUE = 42\n"})
    thing = site.install("Thing", ("base>=1",), files={"thing/__init__.py": b"from base import VALUE\n"})
    (tmp_path / "wheels").mkdir()
    for each in with_requirements(thing):
        wheel = pack_wheel(each)
        (tmp_path / "wheels" / wheel.name).write_bytes(wheel.data)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    where = ["--find-links", str(tmp_path / "wheels"), "--target", str(tmp_path / "target")]
    subprocess.run([*pip, *where, "thing"], check=True, timeout=120)
    program = [
        sys.executable,
        "-I",
        "-c",
        "import sys; sys.path.insert(0, sys.argv[1]); import thing; print(thing.VALUE)",
    ]
    done = subprocess.run([*program, str(tmp_path / "target")], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "42\n"


def test_the_same_files_give_the_same_bytes(site: Site, tmp_path: Path) -> None:
    first = site.install("Thing", files=FILES)
    second = Site(tmp_path / "second").install("Thing", files=dict(reversed(FILES.items())))
    for path in (tmp_path / "second").rglob("*.py"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    assert pack_wheel(first) == pack_wheel(second)


@pytest.mark.parametrize(
    ("tags", "name"),
    [
        (("py2-none-any", "py3-none-any"), "py2.py3-none-any"),
        (("cp311-abi3-manylinux_2_34_x86_64",), "cp311-abi3-manylinux_2_34_x86_64"),
        (
            ("cp311-cp311-manylinux_2_17_x86_64", "cp311-cp311-manylinux2014_x86_64"),
            "cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64",
        ),
    ],
)
def test_the_name_says_whom_it_is_for(site: Site, tags: tuple[str, ...], name: str) -> None:
    assert pack_wheel(site.install("Py.Thing_x", tags=tags)).name == f"py_thing_x-1.0-{name}.whl"


def test_a_link_to_a_working_copy_is_packed_from_there(site: Site, tmp_path: Path) -> None:
    copy = tmp_path / "copy" / "thing"
    for name in ("__init__.py", "sub/part.py", "sub/notes.md", "sub/part.pyc", "__pycache__/x.pyc", ".hidden/x", ".y"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(name)
    linked = site.install("thing", files={"__editable__.thing.pth": b"/somewhere\n"})
    held = contents(pack_wheel(linked, copy))
    metadata = {f"thing-1.0.dist-info/{name}" for name in ("METADATA", "RECORD", "WHEEL")}
    assert set(held) - metadata == {"thing/__init__.py", "thing/sub/part.py", "thing/sub/notes.md"}


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_what_has_changed_since_it_was_installed_is_refused(site: Site, algorithm: str) -> None:
    installed = site.install("thing", algorithm=algorithm)
    pack_wheel(installed)
    (site.directory / "thing" / "__init__.py").write_text("import evil\n")
    with pytest.raises(DrkitError, match=r"thing: its thing/__init__\.py has changed") as caught:
        pack_wheel(installed)
    assert caught.value.hint


def test_what_is_not_there_any_more_is_named(site: Site) -> None:
    installed = site.install("thing")
    (site.directory / "thing" / "__init__.py").unlink()
    with pytest.raises(DrkitError, match=r"thing/__init__\.py: no such file"):
        pack_wheel(installed)


@pytest.mark.parametrize("missing", ["RECORD", "WHEEL"])
def test_what_was_not_installed_from_a_wheel_is_named(site: Site, missing: str) -> None:
    """As Debian's own packages are."""
    installed = site.install("thing")
    record = site.directory / "thing-1.0.dist-info" / "RECORD"
    record.write_text("".join(line for line in record.read_text().splitlines(True) if missing not in line))
    (record.parent / missing).unlink()
    with pytest.raises(DrkitError, match="thing: it was not installed from a wheel"):
        pack_wheel(installed)


# --- requirements


def names(root: Distribution) -> list[str]:
    return [each.name for each in with_requirements(root)]


def test_requirements_of_requirements_come_along(site: Site) -> None:
    for name, requires in {"a": ("C.c (>=1)",), "b": ("a", "c-c<2,>=1"), "c_c": ("a",), "unrelated": ()}.items():
        site.install(name, requires)
    assert names(site.install("root", ("b~=1.0",))) == ["a", "b", "c_c", "root"]


def test_extras_come_along_where_they_are_asked_for(site: Site) -> None:
    site.install("a", ('socks-lib; extra == "socks"', 'test-lib; extra == "test"', 'b; extra == "Other_one"'))
    for name in ("socks_lib", "test_lib", "b"):
        site.install(name)
    assert names(site.install("root", ("a",))) == ["a", "root"]
    assert names(site.install("root", ("a [socks,other.one] >= 1",))) == ["a", "b", "root", "socks_lib"]


def test_what_only_other_hosts_need_may_be_missing(site: Site) -> None:
    root = site.install("root", ('colorama; sys_platform == "win32"', 'tomli; python_version < "3.11"'))
    assert names(root) == ["root"]


@pytest.mark.parametrize("requirement", ["missing>=1", "a[x]"])
def test_what_is_needed_and_missing_is_named(site: Site, requirement: str) -> None:
    site.install("a", ('missing; extra == "x"',))
    with pytest.raises(DrkitError, match="missing, which it needs, is not installed"):
        names(site.install("root", (requirement,)))


# --- checking


def rewritten(wheel: Wheel, change: Mapping[str, bytes | None]) -> Wheel:
    held: dict[str, bytes | None] = {**contents(wheel), **change}
    buffer = BytesIO()
    with ZipFile(buffer, "w") as archive:
        for name, data in held.items():
            if data is not None:
                archive.writestr(name, data)
    return wheel._replace(data=buffer.getvalue())


@pytest.mark.parametrize(
    "change",
    [
        {"thing/__init__.py": b"import evil\n"},
        {"thing/__init__.py": None},
        {"thing/more.py": b""},
        {"Thing-1.0.dist-info/RECORD": None},
        {"Thing-1.0.dist-info/RECORD": b"thing/__init__.py\n"},
        {"Thing-1.0.dist-info/RECORD": b"\xff\xfe"},
    ],
    ids=["changed", "missing", "more", "no record", "short record", "no text"],
)
def test_a_wheel_that_is_not_what_its_record_lists_is_damaged(site: Site, change: dict[str, bytes | None]) -> None:
    wheel = pack_wheel(site.install("Thing", files=FILES))
    check_wheel(rewritten(wheel, {}))
    with pytest.raises(IntegrityError, match=r"thing-1\.0-py3-none-any\.whl"):
        check_wheel(rewritten(wheel, change))


def test_any_flipped_bit_of_a_file_is_found(site: Site) -> None:
    wheel = pack_wheel(site.install("Thing", files=FILES))
    start = wheel.data.index(b"libthing.so") + 40
    for position in range(start, start + 200, 7):
        data = bytearray(wheel.data)
        data[position] ^= 4
        with pytest.raises(IntegrityError):
            check_wheel(wheel._replace(data=bytes(data)))


@pytest.mark.parametrize("size", [0, 10, -30])
def test_a_wheel_cut_short_is_damaged(site: Site, size: int) -> None:
    wheel = pack_wheel(site.install("Thing"))
    with pytest.raises(IntegrityError):
        check_wheel(wheel._replace(data=wheel.data[:size]))
