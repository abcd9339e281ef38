"""Looking for secrets where none may be: in bytes, files, and the processes of a run."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

import docker

from tests.support.lab import HELPER_LABEL


@cache
def forms(secret: bytes) -> list[bytes]:
    """The ways in which a secret may show: as it is, in other case, hexadecimal, and in base64 at any offset."""
    found = [secret, secret.hex().encode(), secret.hex().upper().encode()]
    if secret.isascii():
        found += [secret.lower(), secret.upper()]
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + secret)
        start = -(-shift * 8 // 6)  # what the bytes before have no part in
        found.append(encoded[start : len(encoded) // 4 * 4 - 4])
    return found


def leaks(data: bytes, secrets: Mapping[str, bytes]) -> set[str]:
    """The names of the secrets that are in `data`, in whatever form."""
    return {name for name, secret in secrets.items() if any(form in data for form in forms(secret))}


def leaks_in_files(root: Path, secrets: Mapping[str, bytes], *, allowed: set[Path] = frozenset()) -> set[str]:  # type: ignore[assignment]
    """`path: name` of every secret in a file below `root`, or in its name."""
    found = set()
    for path in [root, *root.rglob("*")]:
        if path in allowed or not path.is_file() or path.is_symlink():
            continue
        with suppress(FileNotFoundError):  # it was temporary
            found |= {f"{path}: {name}" for name in leaks(path.name.encode() + b"\n" + path.read_bytes(), secrets)}
    return found


_PAUSE = 0.01
"""Seconds between two looks: without it the run that is looked at has half the machine."""


class Watch:
    """Looks, all the time that a run lasts, at the command line and environment of every process that was not there
    before, at helper containers as the engine describes them, and at temporary files.

    `given`: secrets that the operator has put into drkit's own environment, where its children inherit them.
    """

    def __init__(
        self, api: docker.APIClient, secrets: Mapping[str, bytes], temporary: Path, *, given: set[str]
    ) -> None:
        self._api, self._secrets, self._temporary, self._given = api, secrets, temporary, given
        self._before = set(_processes())
        self._ended = threading.Event()
        self._root = 0
        self._thread = threading.Thread(target=self._look_on, daemon=True)
        self.found: set[str] = set()
        self.programs: set[str] = set()
        """What ran: the first words of command lines."""
        self.helpers: set[str] = set()

    def start(self, pid: int) -> None:
        self._root = pid
        self._thread.start()

    def stop(self) -> None:
        """Look once more, and end."""
        self._ended.set()
        self._thread.join()

    def _look_on(self) -> None:
        ended = False
        while not ended:
            ended = self._ended.wait(_PAUSE)
            for pid in set(_processes()) - self._before:
                self._look_at(pid)
            self.found |= leaks_in_files(self._temporary, self._secrets)
            for box in self._api.containers(all=True, filters={"label": HELPER_LABEL}):
                with suppress(docker.errors.NotFound):
                    document = json.dumps(self._api.inspect_container(box["Id"])).encode()
                    self.helpers.add(box["Id"])
                    self.found |= {f"container {box['Id']}: {name}" for name in leaks(document, self._secrets)}

    def _look_at(self, pid: int) -> None:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return
        self.programs.add(command.split(b"\0")[0].decode("utf-8", "replace").rpartition("/")[2])
        ours = pid == self._root or self._root in _ancestors(pid)
        found = {f"command line of {pid}: {name}" for name in leaks(command, self._secrets)}
        found |= {
            f"environment of {pid}: {name}"
            for name in leaks(environment, self._secrets)
            if not (ours and name in self._given)
        }
        self.found |= found


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _ancestors(pid: int) -> set[int]:
    found: set[int] = set()
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            break
        found.add(pid)
    return found
