"""What an operation works with: the policy, the repository, the engine and this host's state, opened when first used.

The command line and a daemon create one for each run of an operation, and close it afterwards.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from datetime import datetime
from functools import cached_property
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Self

from drkit.access.access import (
    Access,
    mirror_access,
    new_mirror_access,
    other_access,
    overruled,
    repository_access,
)
from drkit.access.identities import AskPassphrase
from drkit.access.passphrases import Asker, warn_if_exposed
from drkit.errors import DrkitError, IntegrityError, UsageError
from drkit.events import LOGGED, Collected, Events, Warned
from drkit.host.name import host_id
from drkit.host.seen import Found
from drkit.host.state import HostState, state_directory
from drkit.policy import Policy, find_policies, load_policy

if TYPE_CHECKING:
    from drkit.engine.client import Engine
    from drkit.repository.repository import Repository


class Context:
    """One run of one operation. A context manager: what was opened is closed on leaving. Not for several threads."""

    def __init__(
        self,
        *,
        now: datetime,
        policy: Policy | None = None,
        policy_file: Path | None = None,
        url: str | None = None,
        as_of: datetime | None = None,
        asker: Asker | None = None,
        events: Events = LOGGED,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """`policy` is a loaded one; else `policy_file`, or the only policy of this host, is loaded when needed.

        `now` is the time of the run, with a zone; `url` names the repository instead of the policy; `as_of` reads the
        repository as it was then; `asker` is somebody at a terminal, None where there is none.
        """
        self.now = now
        self.asker = asker
        self.events = Collected(events)
        self._policy = policy
        self._policy_file = policy_file
        self._url = url
        self._as_of = as_of
        self.environ = environ
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.close()

    @property
    def warnings(self) -> list[Warned]:
        """The warnings of this run until now."""
        return list(self.events.warnings)

    # --- policy

    @cached_property
    def policy(self) -> Policy | None:
        """The policy that was given or is the only one; None on a host without any. Raises UsageError for several."""
        if self._policy is not None:
            return self._policy
        paths = [self._policy_file] if self._policy_file else find_policies(environ=self.environ)
        brought = self.environ.get("DRKIT_POLICY")
        if self._policy_file and brought and Path(brought).absolute() != self._policy_file.absolute():
            self.events.note(f"--policy {self._policy_file} is used, not DRKIT_POLICY ({brought})")
        if len(paths) > 1:
            raise UsageError(
                f"there are {len(paths)} policies: {', '.join(map(str, paths))}", hint="Name one with --policy."
            )
        return load_policy(paths[0]) if paths else None

    @property
    def required_policy(self) -> Policy:
        if self.policy is None:
            raise UsageError(
                "no policy was found", hint="Give --policy FILE; drkit policy example prints one to start from."
            )
        return self.policy

    @property
    def policy_of_access(self) -> Policy | None:
        """The policy whose keys open the repository.

        With a repository on the command line or in the environment, and a key in the environment, none is needed: then
        neither a broken policy nor a choice of several prevents a restore.
        """
        try:
            return self.policy
        except DrkitError:
            brought = self.environ.get("DRKIT_IDENTITY_FILE") or self.environ.get("DRKIT_IDENTITY_FD")
            named = self._url or self.environ.get("DRKIT_REPOSITORY")
            if named and not self._policy_file and brought:
                return None
            raise

    @property
    def host(self) -> str:
        """The name of this host in snapshots, and in sessions that other hosts see."""
        return host_id(self.policy) if self.policy else socket.gethostname()

    @property
    def named_policy(self) -> str | None:
        """The name in the policy file that was given; None if none was given."""
        return self.required_policy.name if self._policy_file is not None else None

    @property
    def helper_image(self) -> str:
        """The helper image that the policy chooses; `auto` without a policy."""
        return self.policy.helper.image if self.policy else "auto"

    @property
    def helper_ids(self) -> list[str]:
        """The ids of the helper images that this host built, for whichever engine."""
        return list(dict.fromkeys(known.image_id for known in self.state.helpers.all()))

    # --- repository

    @cached_property
    def access(self) -> Access:
        policy = self.policy_of_access
        access = repository_access(policy, url=self._url, environ=self.environ, as_of=self._as_of)
        warn_if_exposed(access.secret_files(), self.events)
        for note in overruled(policy, self._url, self.environ):
            self.events.note(note)
        return access

    @property
    def ask(self) -> AskPassphrase | None:
        return self.asker.passphrase if self.asker else None

    @cached_property
    def repository(self) -> Repository:
        return self._open(self.access)

    @cached_property
    def uncached_repository(self) -> Repository:
        """Opened without this host's cache, so it shows what the storage really holds."""
        return self._open(self.access, cached=False)

    def repository_at(self, url: str) -> Repository:
        """Another repository, opened with the same keys."""
        return self._open(self.access_to(url))

    def access_to(self, url: str) -> Access:
        """How to reach another place with the same keys."""
        return other_access(self.policy_of_access, url, environ=self.environ)

    def _open(self, access: Access, *, cached: bool = True) -> Repository:
        # Deferred, with all that it loads: 0.1 s, while the engine answers and the first helper starts.
        from drkit.access.opening import open_repository

        return open_repository(access, self.ask, cached=cached, events=self.events)

    def mirror_access(self, to: str | None = None) -> Access:
        """The place that snapshots are copied to: `to`, else the policy's mirror."""
        return mirror_access(self.policy_of_access, to, environ=self.environ)

    def new_mirror_access(self, source: str) -> Access:
        """The place of a new mirror of the repository at `source`."""
        return new_mirror_access(self.policy_of_access, self._url, source, environ=self.environ)

    def warn_of_damaged_records(self) -> None:
        """Warn of the records that could not be read: what is newest, or all there is, was chosen without them."""
        for problem in self.repository.damaged_records.values():
            self.events.warn(
                f"{problem}: that snapshot was passed over, and it may be the newest",
                hint="Run drkit check. Restore that object from a copy of the repository.",
            )

    def warn_of_newer(self) -> None:
        """Warn of what a newer drkit stored, as far as it was read: this one may not show all of it."""
        for key, names in self.repository.newer.items():
            self.events.warn(
                f"{key} was made by a newer drkit, and requires {', '.join(names)}: this one may not show all of it",
                hint="Install a newer drkit.",
            )

    def warn_of_damage(self, told: Collection[IntegrityError] = ()) -> None:
        """Warn of damage to index and packs that did not prevent the operation, except what was `told` already."""
        known = {error.message for error in told}
        for error in self.repository.damage:
            if error.message not in known:
                self.events.warn(f"worked around damage: {error.message}", hint=error.hint or "Run drkit check.")

    # --- engine

    def connect_ahead(self) -> None:
        """Begin to connect to the engine while other things load. A failure is raised when `engine` is used."""
        _ = self._connecting

    @cached_property
    def _connecting(self) -> Future[Engine]:
        connecting: Future[Engine] = Future()

        def connect() -> None:
            try:
                # Deferred: 0.2 s, which a verb without an engine saves, and others spend beside loading the policy.
                from drkit.engine.client import Engine

                engine = Engine.connect(events=self.events)
                engine.learn()
                connecting.set_result(engine)
            except BaseException as error:  # noqa: BLE001  raised again where the engine is used
                connecting.set_exception(error)

        # A daemon thread: an error in the policy must not wait for an engine that does not answer.
        Thread(target=connect, name="drkit-connect", daemon=True).start()
        return connecting

    @cached_property
    def engine(self) -> Engine:
        return self._closing.enter_context(self._connecting.result())

    # --- this host

    @cached_property
    def state(self) -> HostState:
        return HostState(state_directory(self.environ), self.events)


def found_at(access: Access, repository: Repository) -> Found:
    """The repository as this host remembers it."""
    return Found(access.place, repository.storage.url, repository.id.hex(), repository.config_mac.hex())
