"""`drkit host`: which installation this is, and which series of snapshots it goes on with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from drkit.catalog.find import readable_snapshots
from drkit.errors import DrkitError, UsageError
from drkit.events import Warned
from drkit.host.installation import Installation
from drkit.host.series import begin_again
from drkit.operations.context import Context
from drkit.repository.lines import Fork, Line, forks, lines_of, short


@dataclass(frozen=True)
class HostShown:
    """`origin` is empty before the first backup of this installation."""

    origin: str
    state: Path
    lines: list[Line]
    forks: list[Fork]
    warnings: list[Warned] = field(default_factory=list)

    def is_ours(self, line: Line) -> bool:
        return self.origin in line.origins


@dataclass(frozen=True)
class HostDecided:
    """What the records of this installation will say, from the next backup on."""

    host: str
    policy: str
    origin: str
    adopted: list[str]
    warnings: list[Warned] = field(default_factory=list)


def show(context: Context) -> HostShown:
    """Tell this installation's origin, and the lines and unsettled forks of the whole repository."""
    snapshots, _ = readable_snapshots(context.repository)
    context.warn_of_newer()
    context.warn_of_damaged_records()
    installation = Installation(context.state)
    return HostShown(
        installation.origin, installation.directory, lines_of(snapshots), forks(snapshots), context.warnings
    )


def adopt(context: Context, origin: str | None = None) -> HostDecided:
    """Let this installation go on with another series of its host and policy: `origin`, or a part of it.

    Without `origin` there must be exactly one other series. Changes the state directory alone: the next backup tells
    the repository. Raises UsageError where none or several are meant.
    """
    host, policy = context.host, context.required_policy.name
    snapshots, _ = readable_snapshots(context.repository)
    installation = Installation(context.state)
    with installation.held(context.repository, host, policy):
        state = installation.series(context.repository, host, policy)
        own = installation.origin
        lines = [line for line in lines_of(snapshots) if line.signed and (line.host, line.policy) == (host, policy)]
        contended = [
            each.origins
            for each in forks(snapshots)
            if (each.host, each.policy) == (host, policy) and own in each.origins
        ]
        chosen = _chosen(lines, {own, *state.adopted}, origin, set().union(*contended))
        if own == chosen.origins[0] and not state.fork:
            raise UsageError(f"this installation goes on with {chosen.title} already", hint="See drkit host show.")
        taken = _origins(chosen)
        # Whoever took our own origin over has told everybody to: with our key we could only contend for it.
        if not own or own in taken:
            own = installation.new_key(own).public.hex()
        state.adopted = [each for each in dict.fromkeys([*state.adopted, *taken]) if each != own]
        state.fork = ""
        installation.save(context.repository, state)
    return HostDecided(host, policy, own, state.adopted, context.warnings)


def fork(context: Context) -> HostDecided:
    """Let the series of this installation stand for itself, beside any other of its host and policy.

    Where no backup has noticed yet that this installation is a copy, or where it has taken a series over, it gets a key
    of its own, and begins a new series.
    Changes the state directory alone: the next backup tells the repository. Raises DrkitError where another
    installation has to say which is which.
    """
    host, policy = context.host, context.required_policy.name
    snapshots, _ = readable_snapshots(context.repository)
    installation = Installation(context.state)
    with installation.held(context.repository, host, policy):
        state = installation.series(context.repository, host, policy)
        own = installation.origin or installation.new_key("").public.hex()
        for each in forks(snapshots):
            if own in each.origins and each.marked not in ("", own):
                raise DrkitError(
                    f"{each.why}: it has to say so itself",
                    hint=f"Run drkit host fork on that machine. If it is gone: drkit host adopt {short(each.marked)}.",
                )
        is_settled = not state.adopted and any(each.origin == own and each.fork for each in snapshots)
        if state.newest is not None and state.origin == own and not state.fork and not is_settled:
            # The key is that of a series which somebody else goes on with, or may go on with, unnoticed so far.
            own = installation.new_key(own).public.hex()
        if state.origin and state.origin != own:  # another policy has found the fork: else this one would find it again
            begin_again(state, state.origin)
            state.origin = own
        state.fork = ""
        installation.save(context.repository, state)
    return HostDecided(host, policy, own, state.adopted, context.warnings)


def _chosen(lines: Sequence[Line], ours: set[str], origin: str | None, contended: set[str]) -> Line:
    """Return the line that is meant. Without a name: the only one that is not ours, or that is in our fork."""
    if origin == "":
        raise UsageError("the name of an origin is empty", hint="Name one that drkit host show lists, or none.")
    if origin is None:
        found = [line for line in lines if not ours & {*line.origins}]
        found = [line for line in found if contended & {*line.origins}] or found
    else:
        found = [line for line in lines if any(each.startswith(origin.lower()) for each in line.origins)]
    if not found:
        what = f"a series with an origin like {origin}" if origin else "another series of this host and policy"
        raise UsageError(f"the repository holds no signed snapshot of {what}", hint="See drkit host show.")
    if len(found) > 1:
        raise UsageError(
            f"there are {len(found)} series to choose from: {'; '.join(line.title for line in found)}",
            hint="Name one: drkit host adopt ORIGIN.",
        )
    return found[0]


def _origins(line: Line) -> list[str]:
    """Return the origins of a line, and all that they ever took over: their records may be gone by now."""
    adopted = [origin for snapshot in line.snapshots[::-1] for origin in snapshot.adopted]
    return list(dict.fromkeys([*line.origins, *adopted]))
