"""What a verb works with: policy, repository and engine, opened when first asked for."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from drkit.cli import output
from drkit.cli.options import LogFormat
from drkit.errors import DrkitError, UsageError

if TYPE_CHECKING:
    from drkit.access.access import Access
    from drkit.catalog.find import Scope
    from drkit.engine.client import Engine
    from drkit.host.restore_journal import RestoreJournal
    from drkit.host.seen import SeenRepositories
    from drkit.policy import Policy
    from drkit.repository.repository import Repository


class Session:
    """One run of the command line."""

    def __init__(
        self,
        policy: Path | None = None,
        repository: str | None = None,
        *,
        quiet: bool = False,
        verbose: bool = False,
        log_format: LogFormat = LogFormat.text,
        as_of: str | None = None,
    ) -> None:
        output.set_up(json_log=log_format is LogFormat.json, quiet=quiet, verbose=verbose)
        self._policy_file = policy
        self._url = repository
        self._as_of = _moment(as_of, "--as-of") if as_of else None
        self.quiet = quiet
        self.now = datetime.now(UTC)
        self._closing = ExitStack()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.close()

    @cached_property
    def policy(self) -> Policy | None:
        """The policy that was named or is the only one; None on a host without any."""
        from drkit.policy import find_policies, load_policy

        paths = [self._policy_file] if self._policy_file else find_policies()
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

    @cached_property
    def access(self) -> Access:
        from drkit.access.access import repository_access

        access = repository_access(self._access_policy(), url=self._url, as_of=self._as_of)
        self.tell_exposed(*access.secret_files())
        return access

    def tell_exposed(self, *paths: Path) -> None:
        """Warn of files of secrets that others can read."""
        from drkit.access.identities import key_file_problem

        for path in paths:
            if path.is_file() and (problem := key_file_problem(path)):
                output.warn(problem)

    def _access_policy(self) -> Policy | None:
        """The policy whose keys open the repository.

        With a repository on the command line and a key in the environment none is needed: one that is broken, or that
        there are several, keeps nobody from a restore.
        """
        try:
            return self.policy
        except DrkitError:
            brought = os.environ.get("DRKIT_IDENTITY_FILE") or os.environ.get("DRKIT_IDENTITY_FD")
            if self._url and not self._policy_file and brought:
                return None
            raise

    @cached_property
    def repository(self) -> Repository:
        from drkit.access.access import open_repository

        return open_repository(self.access, self.ask_passphrase)

    @cached_property
    def repository_itself(self) -> Repository:
        """The same without this host's cache, for who wants to know what the storage holds."""
        from drkit.access.access import open_repository

        return open_repository(self.access, self.ask_passphrase, cached=False)

    def repository_at(self, url: str) -> Repository:
        """Another repository, opened with the same keys."""
        from drkit.access.access import open_repository, repository_access

        return open_repository(repository_access(self._access_policy(), url=url), self.ask_passphrase)

    def mirror(self, to: str | None) -> Access:
        from drkit.access.access import mirror_access

        return mirror_access(self._access_policy(), to)

    def new_mirror(self, source: str) -> Access:
        from drkit.access.access import new_mirror_access

        return new_mirror_access(self._access_policy(), self._url, source)

    @property
    def host(self) -> str:
        """Who works here, for others that use the repository to see."""
        from drkit.host.name import host_id

        return host_id(self.policy) if self.policy else socket.gethostname()

    @cached_property
    def ask_passphrase(self) -> Callable[[str], str] | None:
        """Asks on the terminal for the passphrase of something; None where there is no terminal."""
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            return None
        import typer

        # The repository may be opened twice, by a backup and then by its copy.
        return cache(lambda name: str(typer.prompt(f"Passphrase of {name}", hide_input=True, err=True)))

    def passphrase(self, file: Path | None, name: str) -> str:
        """The passphrase of something that is there: from a file, $DRKIT_PASSPHRASE_FILE or the terminal."""
        from drkit.access.identities import read_passphrase

        named = os.environ.get("DRKIT_PASSPHRASE_FILE")
        if file is None and named:
            file = Path(named)
        if file is not None:
            self.tell_exposed(file)
            return read_passphrase(file)
        if self.ask_passphrase is None:
            raise UsageError("there is no terminal to ask for the passphrase", hint="Give --passphrase-file FILE.")
        return self.ask_passphrase(name)

    def new_passphrase(self, file: Path | None, question: str, *, optional: bool = False) -> str | None:
        """A passphrase that is to be: from a file, or asked for twice on the terminal; None where it may be empty."""
        from drkit.access.identities import read_passphrase

        if file is not None:
            self.tell_exposed(file)
            return read_passphrase(file)
        import typer

        if optional:
            question += " (empty: do not)"
        passphrase = str(typer.prompt(question, default="", hide_input=True, show_default=False, err=True))
        if passphrase:
            typer.prompt("The same again", hide_input=True, value_proc=_same_as(passphrase), err=True)
        elif not optional:
            raise UsageError("the passphrase is empty", hint="Give one of five random words or more.")
        return passphrase or None

    def connect_ahead(self) -> None:
        """Begin to connect to the engine while other things load. A failure is told to who asks for `engine`."""
        _ = self._connecting

    @cached_property
    def _connecting(self) -> Future[Engine]:
        connecting: Future[Engine] = Future()

        def connect() -> None:
            try:
                from drkit.engine.client import Engine

                engine = Engine.connect()
                engine.learn()
                connecting.set_result(engine)
            except BaseException as error:  # noqa: BLE001  told to who asks for the engine
                connecting.set_exception(error)

        # A daemon: who has an error to tell does not wait for an engine that does not answer.
        Thread(target=connect, name="drkit-connect", daemon=True).start()
        return connecting

    @cached_property
    def engine(self) -> Engine:
        return self._closing.enter_context(self._connecting.result())

    @cached_property
    def journal(self) -> RestoreJournal:
        from drkit.host.restore_journal import RestoreJournal
        from drkit.host.seen import state_directory

        return RestoreJournal(state_directory() / "restores")

    @cached_property
    def seen(self) -> SeenRepositories:
        from drkit.host.seen import SeenRepositories, state_directory

        return SeenRepositories(state_directory())

    def scope(self, host: str | None, from_policy: str | None, at: str | None) -> Scope:
        """What narrows `latest`: what was said on the command line, and the policy when its file was named there."""
        from drkit.catalog.find import Scope

        if from_policy is None and self._policy_file is not None:
            from_policy = self.required_policy.name
        return Scope(host, from_policy, _moment(at, "--at") if at else None)

    def tell_damage(self) -> None:
        """Warn of what was found damaged in the index and could be worked around."""
        for error in self.repository.damage:
            output.warn(f"worked around damage: {error.message}", hint="Run drkit check.")


def _same_as(passphrase: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        import typer

        if value != passphrase:
            raise typer.BadParameter("it is not the same")
        return value

    return check


def _moment(text: str, option: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{option} {text}: this is no time", hint="Write it like 2026-11-25T03:00:00Z.") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
