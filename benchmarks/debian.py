"""The newest Debian packages of the rivals, unpacked and run beside whatever this host has."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import BenchError, Command, measure, output, say

RIVAL_PACKAGES = {"restic": "restic", "borgbackup": "borg", "zstd": "zstd"}


@dataclass(frozen=True)
class Debian:
    """Packages of one suite with all that they depend on, unpacked: their programs run beside any other release."""

    suite: str
    root: Path

    def command(self, name: str) -> list[str | Path]:
        """How to run a program with its own suite's loader, libraries and interpreter."""
        programs = self.root / "usr/bin"
        libraries = ":".join(str(path) for path in (self.root / "usr/lib").glob("*-linux-gnu*"))
        with (programs / name).open("rb") as program:
            is_script = program.read(2) == b"#!"
        interpreter = [next(programs.glob("python3.[0-9]*"))] if is_script else []
        return [self.loader, "--library-path", libraries, *interpreter, programs / name]

    @property
    def loader(self) -> Path:
        return next((self.root / "usr").glob("lib*/ld-linux*.so.*"))

    @property
    def env(self) -> dict[str, str]:
        return {"PYTHONHOME": str(self.root / "usr")}

    def version(self, name: str) -> str:
        """What a program calls its version. Raises an error where it does not run: then there is nothing to measure."""
        argument = "version" if name == "restic" else "--version"
        said = measure(Command([*self.command(name), argument], env=self.env)).stdout.decode()
        return next(word.strip("v,") for word in said.split() if word.strip("v")[0].isdigit())


def unpack_debian(cache: Path) -> Debian:
    """The newest suite whose programs run here. Whatever is in the cache is used, however old."""
    release = platform.freedesktop_os_release().get("VERSION_CODENAME", "stable")
    problems = []
    for suite in ("unstable", "testing", release):
        try:
            debian = _unpack_suite(suite, cache / "debian" / suite)
            for name in RIVAL_PACKAGES.values():
                debian.version(name)
        except (BenchError, OSError, StopIteration) as error:
            say(f"cannot use the tools of Debian {suite}: {error}")
            problems.append(f"{suite}: {error}")
        else:
            return debian
    raise BenchError("no Debian suite provides the tools to compare with: " + "; ".join(problems))


def _unpack_suite(suite: str, base: Path) -> Debian:
    root = base / "root"
    if root.exists():
        return Debian(suite, root)
    say(f"fetching {', '.join(RIVAL_PACKAGES)} from Debian {suite}")
    for name in ("lists/partial", "archives/partial", "empty"):
        (base / name).mkdir(parents=True, exist_ok=True)
    (base / "status").write_text("")  # nothing is installed here, so apt fetches every dependency too
    (base / "sources.list").write_text(f"deb {_debian_archive()} {suite} main\n")
    settings = {
        "Dir::State": base,
        "Dir::State::lists": base / "lists",
        "Dir::State::status": base / "status",
        "Dir::Cache": base,
        "Dir::Cache::archives": base / "archives",
        "Dir::Etc::sourcelist": base / "sources.list",
        "Dir::Etc::sourceparts": base / "empty",
        "Dir::Etc::preferencesparts": base / "empty",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",
        "APT::Install-Recommends": "false",
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in settings.items())]
    output(*apt, "update")
    output(*apt, "install", "--yes", "--download-only", *RIVAL_PACKAGES)
    unpacked = base / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    for package in sorted((base / "archives").glob("*.deb")):
        output("dpkg-deb", "-x", package, unpacked)
    # Installing the packages would have compiled borg's modules too.
    debian = Debian(suite, unpacked)
    python = debian.command("borg")[:-1]
    measure(Command([*python, "-m", "compileall", "-q", unpacked / "usr/lib/python3/dist-packages"], env=debian.env))
    unpacked.rename(root)
    return Debian(suite, root)


def _debian_archive() -> str:
    """The URL from which this host's own apt gets Debian."""
    listing = output("apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI) $(SIGNED_BY)", "Created-By: Packages")
    rows = [line.split() for line in listing.splitlines()]
    uris = [row[1] for row in rows if row[0] == "Debian"]
    if not uris:
        raise BenchError("apt knows no Debian archive\nhint: Run apt-get update first, on a Debian host.")
    return uris[0]
