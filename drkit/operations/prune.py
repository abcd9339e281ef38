"""`drkit prune`: forget what retention does not keep, then free the space that no snapshot needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from drkit.catalog import retention
from drkit.catalog.find import readable_snapshots
from drkit.catalog.kept import still_kept
from drkit.errors import DrkitError, RetentionRefused, StorageFull, counted
from drkit.events import LOGGED, Events, Warned
from drkit.host.installation import Installation
from drkit.host.series import SETTLE, newest_records
from drkit.operations.context import Context, found_at
from drkit.policy import Policy
from drkit.repository.absence import Expected, missing_in
from drkit.repository.format.names import new_run_id
from drkit.repository.format.sealing import random_bytes
from drkit.repository.format.snapshot import Snapshot
from drkit.repository.lines import forks, lines_of
from drkit.repository.locks import renew_locks
from drkit.repository.prune.plan import PrunePlan, plan_prune
from drkit.repository.prune.prune import Clock, Done, Options, Prune
from drkit.repository.repository import Repository


@dataclass
class PruneResult:
    """What would be done, and what was done; `done` is None for a dry run."""

    retention: retention.Plan
    others: int
    """Snapshots of other hosts and policies, which the rules do not touch."""
    plan: PrunePlan
    done: Done | None = None
    locks_renewed: int = 0
    disk_full: bool = False
    """There was no space to move data into: only whole packs were dropped."""
    warnings: list[Warned] = field(default_factory=list)

    @property
    def error(self) -> DrkitError | None:
        """The error that decides the exit code: what was found damaged on the way."""
        return next(iter(self.done.damaged), None) if self.done else None


def prune(
    context: Context,
    options: Options,
    *,
    host: str | None = None,
    dry_run: bool = False,
) -> PruneResult:
    """Apply the policy's retention, then reclaim space.

    Without `host` it applies to the snapshots of this installation, and to those of this host that nobody signed; with
    it to every series of that host, each on its own. This host remembers what it forgot. Raises what `prune_repository`
    raises.
    """
    repository = context.repository
    ours = Installation(context.state).origin if host is None else None
    pruned = prune_repository(
        repository,
        context.policy,
        host or context.host,
        options,
        origin=ours,
        known=_remembered(context, repository),
        now=context.now,
        dry_run=dry_run,
        events=context.events,
    )
    if pruned.done is not None:
        context.state.seen.note_removed(found_at(context.access, repository), pruned.done.forgotten)
        _warn(pruned, pruned.done, context.events)
    pruned.warnings = context.warnings
    return pruned


def _remembered(context: Context, repository: Repository) -> list[Expected]:
    """What this host stored last. Raises RetentionRefused where its own files cannot tell: what is gone shows nowhere
    else, and what that needed would be freed."""
    try:
        return newest_records(Installation(context.state), repository)
    except DrkitError as error:
        raise RetentionRefused(
            f"{error.message}. Whether the newest snapshots of this host are still there cannot be told, so nothing is "
            "removed",
            hint=error.hint,
        ) from error


def _warn(pruned: PruneResult, done: Done, events: Events) -> None:
    if pruned.disk_full:
        events.warn("the disk was full: only whole packs were dropped", hint="Run drkit prune again.")
    if done.denied:
        events.warn(
            f"the storage refused to delete {counted(len(done.denied), 'object')}, {done.denied[0]} among them",
            hint="Run drkit prune again once its retention lock has ended.",
        )


def prune_repository(
    repository: Repository,
    policy: Policy | None,
    host: str,
    options: Options,
    *,
    origin: str | None = None,
    known: Sequence[Expected] = (),
    now: datetime,
    dry_run: bool = False,
    clock: Clock | None = None,
    events: Events = LOGGED,
) -> PruneResult:
    """Apply the policy's retention to the snapshots of this host and policy, then reclaim space. Others stay.

    Where `origin` is given, those that another installation signed stay too. Without a policy, or one without
    retention, nothing is forgotten. Raises RetentionRefused for a fork of this host and policy that nobody has settled:
    then nobody can say whose snapshots follow each other. It raises this also for a record that is gone without a note,
    one that another record names or that is `known`: what it needs could go with it. A full disk is pruned without
    moving anything, with the space reserved for that. Raises what Prune.run raises; no remaining snapshot has lost
    anything then.
    """
    chosen = _Choice(repository, policy, host, origin, known, now, events)
    if dry_run:
        planned = plan_prune(repository, chosen, options.max_repack)
        return PruneResult(chosen.plan, chosen.others, planned)

    def run(options: Options) -> PruneResult:
        run_id = new_run_id(now, random_bytes(4))
        made = Prune(repository, run_id, chosen, options, host=host, clock=clock, events=events)
        done = made.run()
        return PruneResult(chosen.plan, chosen.others, made.plan, done)

    try:
        pruned = run(options)
    except StorageFull:
        events.note("the disk is full: dropping only whole packs")
        with repository.storage.released_reserve():
            pruned = run(Options(0, options.yes_really, options.grace))
        pruned.disk_full = True
    repository.storage.keep_reserve()
    if repository.storage.traits.locks:
        snapshots, _ = readable_snapshots(repository)
        pruned.locks_renewed = renew_locks(repository, still_kept(snapshots, policy, host, now))
    return pruned


class _Choice:
    """Decides for a prune which snapshots to forget; keeps the plan, with its reasons, for the result."""

    def __init__(
        self,
        repository: Repository,
        policy: Policy | None,
        host: str,
        origin: str | None,
        known: Sequence[Expected],
        now: datetime,
        events: Events,
    ) -> None:
        self._repository, self._known = repository, known
        self._policy, self._host, self._origin, self._now = policy, host, origin, now
        self._events = events
        self.plan = retention.Plan()
        self.others = 0

    def __call__(self, snapshots: list[Snapshot]) -> frozenset[str]:
        for each in missing_in(self._repository, snapshots, self._known):
            raise RetentionRefused(
                f"{each.key} is {each.problem}",
                hint="Find out who removed it, or whether the repository was set back. A copy may be in the mirror.",
            )
        if self._policy is None or self._policy.retention is None:
            self.plan = retention.Plan(
                keep=[retention.Decision(each.id, ["no retention is set"]) for each in snapshots]
            )
            return frozenset()
        whose = (self._host, self._policy.name)
        for fork in forks(snapshots):
            if (fork.host, fork.policy) == whose:
                raise RetentionRefused(
                    f"host {fork.host}, policy {fork.policy}: nothing is removed before this is settled: {fork.why}",
                    hint=SETTLE,
                )
        matching = [line for line in lines_of(snapshots) if (line.host, line.policy) == whose]
        ours = [line for line in matching if self._origin is None or not line.signed or self._origin in line.origins]
        self.others = len(snapshots) - sum(len(line.snapshots) for line in ours)
        for line in matching:
            if line not in ours:
                self._events.note(
                    f"{counted(len(line.snapshots), 'snapshot')} of another installation untouched: {line.title}; "
                    f"drkit prune --host {self._host} applies the rules to every one"
                )
        self.plan = retention.plan(ours, self._policy.retention, self._now)
        return self.plan.forgotten
