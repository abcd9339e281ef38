"""Machines that back up into one repository: each has a state directory, which can be copied, lost and set back."""

from __future__ import annotations

import json
import os
import random
import shutil
import tarfile
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from drkit.errors import IntegrityError
from drkit.events import Collected
from drkit.host.installation import Installation
from drkit.host.series import Series
from drkit.host.state import HostState
from drkit.operations import host as host_operations
from drkit.operations.context import Context
from drkit.operations.host import HostDecided
from drkit.policy import load_policy
from drkit.repository.format.kinds import Status
from drkit.repository.format.names import new_run_id
from drkit.repository.format.snapshot import Snapshot, Target, format_time
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter
from drkit.storage import Storage, open_storage
from tests.support.repositories import NOW, create, put_content


def member(name: str, data: bytes = b"") -> bytes:
    """The raw bytes of a file or directory; whole blocks."""
    info = tarfile.TarInfo(name)
    info.type = tarfile.REGTYPE if data else tarfile.DIRTYPE
    info.size = len(data)
    return info.tobuf() + data


class Site:
    """A repository in a directory, its keys, and policies that name both."""

    def __init__(self, directory: Path, rng: random.Random) -> None:
        self.directory, self.rng = directory, rng
        self.place = directory / "repository"
        _, self.identity = create(open_storage(str(self.place), create=True))
        (directory / "recipients.txt").write_text(self.identity.recipient + "\n")
        (directory / "identity.txt").touch(mode=0o600)
        (directory / "identity.txt").write_text(self.identity.secret_text() + "\n")

    @property
    def storage(self) -> Storage:
        """What is at the place now."""
        return open_storage(str(self.place))

    def open(self) -> Repository:
        return Repository.open(self.storage, [self.identity])

    def snapshots(self) -> list[Snapshot]:
        return [each for each in self.open().snapshots() if not isinstance(each, IntegrityError)]

    def machine(self, name: str, host: str = "web") -> Machine:
        return Machine(self, self.directory / name, host)

    def policy(self, host: str, name: str, keep_last: int = 2) -> Path:
        path = self.directory / f"{host}-{name}.yaml"
        document = {
            "version": 1,
            "name": name,
            "host": host,
            "repository": {
                "url": str(self.place),
                "recipients_file": str(self.directory / "recipients.txt"),
                "identity_file": str(self.directory / "identity.txt"),
            },
            "protect": {"volumes": [{"name": "data"}]},
            "retention": {"keep_last": keep_last},
        }
        path.write_text(json.dumps(document))
        return path


class Machine:
    """One installation. `heard` has the warnings of its last backup."""

    def __init__(self, site: Site, state: Path, host: str, night: int = 0) -> None:
        self.site, self.state, self.host, self.night = site, state, host, night
        self.heard = Collected()

    def clone(self, name: str) -> Machine:
        """A machine with a copy of this one's state directory."""
        copied = self.state.with_name(name)
        if self.state.exists():
            shutil.copytree(self.state, copied)
        return Machine(self.site, copied, self.host, self.night)

    def set_back_to(self, earlier: Machine) -> None:
        shutil.rmtree(self.state)
        shutil.copytree(earlier.state, self.state)

    @property
    def installation(self) -> Installation:
        return Installation(HostState(self.state))

    @property
    def origin(self) -> str:
        return self.installation.origin

    @property
    def warnings(self) -> str:
        return "; ".join(f"{each.message} [{each.hint}]" for each in self.heard.warnings)

    def series(self, repository: Repository, policy: str = "shop", *, throwaway: bool = False) -> Series:
        self.heard = Collected()
        return Series(
            self.installation, repository, self.host, policy, events=self.heard, throwaway=lambda path: throwaway
        )

    def backup(
        self,
        policy: str = "shop",
        *,
        when: datetime | None = None,
        throwaway: bool = False,
        before_commit: Callable[[], object] = lambda: None,
        through: Callable[[Storage], Storage] = lambda storage: storage,
    ) -> Snapshot:
        """One night, as `drkit backup` has it, but without an engine; the record."""
        self.night += 1
        when = when or NOW + timedelta(days=self.night)
        repository = self.site.open()
        repository.storage = through(repository.storage)
        series = self.series(repository, policy, throwaway=throwaway)
        series.prepare(self.site.snapshots())
        target = Target("volume", "data")
        record = Snapshot(new_run_id(when, os.urandom(4)), format_time(when), self.host, policy, Status.OK, [target])
        with RunWriter(repository, record.id, [self.site.identity.recipient], host=self.host) as writer:
            data = self.site.rng.randbytes(6 * 512)
            put_content(repository, writer, target, {b"": member("./"), b"a": member("./a", data)})
            before_commit()
            series.commit(writer, record)
        return record

    # --- what an operator types

    def context(self, policy: str = "shop", **more: object) -> Context:
        return Context(
            now=NOW + timedelta(days=1000),
            policy=load_policy(self.site.policy(self.host, policy)),
            environ={"DRKIT_STATE_DIR": str(self.state)},
            **more,  # type: ignore[arg-type]
        )

    def adopt(self, origin: str | None = None, policy: str = "shop") -> HostDecided:
        return host_operations.adopt(self.context(policy), origin)

    def fork(self, policy: str = "shop") -> HostDecided:
        return host_operations.fork(self.context(policy))
