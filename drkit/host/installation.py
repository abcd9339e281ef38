"""What makes this installation itself: its signing key, and for each series the newest record that it committed.

Whoever copies this directory, with a virtual machine or a backup of `/var/lib`, copies the installation: see series.py.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from drkit.errors import DrkitError, reason
from drkit.host.private_file import STATE_HINT, open_lock, replace
from drkit.host.state import HostState
from drkit.repository.format.digest import keyed_digest
from drkit.repository.format.sealing import KEY_SIZE, SigningKey, random_bytes
from drkit.repository.format.snapshot import Previous
from drkit.repository.repository import Repository


@dataclass
class SeriesState:
    """What this installation knows of its series of one host and policy in one repository, wherever that is kept."""

    host: str
    policy: str
    origin: str = ""
    """The public key that signed the newest record, in hex."""
    newest: Previous | None = None
    place: str = ""
    """`config_mac`, in hex, of the repository that the newest record was committed to: not of a mirror of it."""
    pending: list[Previous] = field(default_factory=list)
    """Commits that were begun since, oldest first: a store may still come to create their records. Those are ours."""
    adopted: list[str] = field(default_factory=list)
    fork: str = ""
    """The origin whose copy this installation is, until somebody says which is which."""
    accepted: dict[str, str] = field(default_factory=dict)
    """By KIND:NAME of a target, the id of the snapshot whose capture of it the operator accepted as it was."""


class Installation:
    """The files in the state directory: one with the key, one for each series. All are private, and written whole."""

    def __init__(self, state: HostState) -> None:
        self.directory = state.directory / "installation"

    # --- the key

    def key(self) -> SigningKey | None:
        """Return the signing key, None before the first use. Raises DrkitError for a file that cannot be used."""
        fields = self._read(self._key_path)
        if fields is None:
            return None
        try:
            secret = bytes.fromhex(fields["key"])
            if len(secret) != KEY_SIZE:
                raise ValueError(f"{len(secret)} bytes")
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(self._key_path) from error
        return SigningKey(secret)

    @property
    def origin(self) -> str:
        """The public key in hex; empty before the first use."""
        key = self.key()
        return key.public.hex() if key else ""

    def new_key(self, instead_of: str) -> SigningKey:
        """Make a key in place of that of the origin `instead_of`, unless another process has just done so."""
        with self._held("key"):
            key = self.key()
            if key is None or key.public.hex() == instead_of:
                secret = random_bytes(KEY_SIZE)
                self._write(self._key_path, {"key": secret.hex()})
                key = SigningKey(secret)
            return key

    @property
    def _key_path(self) -> Path:
        return self.directory / "key.json"

    # --- the series

    @contextmanager
    def held(self, repository: Repository, host: str, policy: str) -> Iterator[None]:
        """Keep other processes of this host from committing to this series; waits until none does."""
        with self._held(_name(repository, host, policy)):
            yield

    def series(self, repository: Repository, host: str, policy: str) -> SeriesState:
        """Return what is known of a series. Raises DrkitError for a file that cannot be used."""
        path = self._series_path(repository, host, policy)
        fields = self._read(path)
        if fields is None:
            return SeriesState(host, policy)
        return self._decoded(path, fields)

    def save(self, repository: Repository, state: SeriesState) -> None:
        """Durable on return. Raises DrkitError where the directory cannot be written."""
        self._write(self._series_path(repository, state.host, state.policy), asdict(state))

    def remembered(self, repository: Repository) -> list[SeriesState]:
        """Return every series whose newest record was committed to this very repository, not to a mirror of it."""
        paths = sorted(self.directory.glob(f"{repository.id.hex()}/*.json"))
        states = [self._decoded(path, fields) for path in paths if (fields := self._read(path)) is not None]
        return [state for state in states if state.newest and state.place == repository.config_mac.hex()]

    def _series_path(self, repository: Repository, host: str, policy: str) -> Path:
        return self.directory / f"{_name(repository, host, policy)}.json"

    def _decoded(self, path: Path, fields: Mapping[str, Any]) -> SeriesState:
        try:
            state = SeriesState(**fields)
            state.newest = _previous(fields["newest"]) if fields["newest"] else None
            state.pending = [_previous(each) for each in fields["pending"]]
            if not all(isinstance(each, str) for each in [*state.accepted.keys(), *state.accepted.values()]):
                raise ValueError("accepted")
            for origin in [*state.adopted, state.origin or "00", state.fork or "00", state.place or "00"]:
                bytes.fromhex(origin)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise self._damaged(path) from error
        return state

    # --- files

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DrkitError(f"cannot read {path}: {reason(error)}", hint=STATE_HINT) from error
        except (ValueError, RecursionError) as error:
            raise self._damaged(path) from error
        if not isinstance(fields, dict):
            raise self._damaged(path)
        return fields

    def _damaged(self, path: Path) -> DrkitError:
        return DrkitError(
            f"{path} is damaged, so this host does not know which snapshots are its own",
            hint="Move it away: the next backup begins a new series, and drkit host adopt joins it to the old one.",
        )

    def _write(self, path: Path, fields: Mapping[str, Any]) -> None:
        replace(path, json.dumps(fields, indent=1) + "\n")

    @contextmanager
    def _held(self, name: str) -> Iterator[None]:
        descriptor = open_lock(self.directory / f"{name}.lock")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _name(repository: Repository, host: str, policy: str) -> str:
    """The same for all mirrors of a repository, and another one for whatever has only its id."""
    digest = keyed_digest(repository.meta.series, json.dumps([host, policy]).encode())
    return f"{repository.id.hex()}/{digest[:16].hex()}"


def _previous(fields: Mapping[str, Any]) -> Previous:
    return Previous(str(fields["id"]), int(fields["sequence"]))
