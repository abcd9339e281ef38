"""What a backup lost since the one before: targets that shrank, and targets that are gone."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from drkit.catalog.shrunk import SHRUNK, Loss, Size, captures_before, loss
from drkit.engine import volumes
from drkit.engine.client import Engine
from drkit.errors import DrkitError, IntegrityError, PartialFailure
from drkit.events import Events
from drkit.pipeline.members import content_size
from drkit.pipeline.select import Patterns
from drkit.policy import Policy
from drkit.repository.format.kinds import Kind, Status
from drkit.repository.format.snapshot import Snapshot, Target
from drkit.repository.reader import ChunkReader
from drkit.targets.base import Planned
from drkit.targets.volume import NO_MATCH

GONE = "gone"


def key_of(kind: str, name: str) -> str:
    """By which name this host remembers what was accepted."""
    return f"{kind}:{name}"


@dataclass
class Losses:
    """Compares the captures of one run with those before.

    `before`: the snapshots of the series, oldest first; `damaged`: the ids of those that cannot be read. `origin` is
    that of this installation; `accepted`, by `key_of`: the snapshot whose capture the operator accepted as it was.
    """

    before: Sequence[Snapshot]
    origin: str
    accepted: Mapping[str, str]
    damaged: Sequence[str]
    reader: ChunkReader
    events: Events
    fresh: list[DrkitError] = field(default_factory=list)
    """What this run is the first to say, for its exit code."""

    def judge(self, target: Target) -> None:
        """Compare a capture with the last good one: flag it, or make it partial. Only for volumes that were captured.

        One that is partial already tells nothing of the volume.
        """
        if target.kind != Kind.VOLUME or target.status != Status.OK:
            return
        accepted = self.accepted.get(key_of(target.kind, target.name), "")
        before = captures_before(self.before, target.kind, target.name, accepted=accepted, damaged=self.damaged)
        if before.last is not None and before.last.snapshot.original == accepted:
            target.accepted = accepted
        size = partial(self._size, exclude=target.exclude)
        lost = loss(target, before, origin=self.origin, size=size)
        if lost is None:
            return
        if lost.moved:
            target.make_partial(
                "it lies on another file system, or in another directory, than the last good capture, or lacks what "
                f"was mounted below it then, and holds less: {lost}. Look whether its disk is mounted. If this is "
                f"right: drkit accept {target.name}"
            )
            return
        target.flags.append(SHRUNK)
        target.pins = lost.since
        self._tell(target, lost)

    def _tell(self, target: Target, lost: Loss) -> None:
        pinned = f"Snapshot {lost.since} stays until you say that this is right: drkit accept {target.name}."
        if lost.fresh:
            self.fresh.append(PartialFailure(f"{target.title} lost most of what it held: {lost}", hint=pinned))
        else:
            self.events.warn(f"{target.title} has not come back to what it held: {lost}", hint=pinned)

    def _size(self, earlier: Target, *, exclude: Sequence[str]) -> Size:
        """Return what an earlier capture would have held under the patterns of today.

        Where these have changed, its tree tells. Without its tree it cannot be compared: then it counts as empty.
        """
        if list(earlier.exclude) == list(exclude):
            return Size.of(earlier)
        patterns = Patterns(exclude)
        files = size = 0
        try:
            for member in self.reader.members(earlier):
                if not patterns.match(member.path, directory=member.type == "d"):
                    files += 1
                    size += content_size(member)
        except IntegrityError as error:
            self.events.warn(
                f"{earlier.title} is not compared with what it held before its patterns were changed: {error.message}",
                hint=error.hint,
            )
            return Size(0, 0)
        return Size(max(files - 1, 0), size)

    def gone(self, policy: Policy, engine: Engine, planned: Sequence[Planned]) -> list[Target]:
        """Return, as failed targets, the volumes that a pattern of the policy covers and that are not there any more.

        Looks at the newest snapshot of a run that was not told what to capture. A volume that a plugin may still have
        fails every night. Of any other it is said once: somebody removed it.
        """
        patterns = [entry.match for entry in policy.protect.volumes if entry.match]
        last = next((each for each in reversed(self.before) if not each.chosen), None)
        if not patterns or last is None:
            return []
        there = {each.name for each in planned if each.kind == Kind.VOLUME}
        missing = [
            target
            for target in last.targets
            if target.kind == Kind.VOLUME
            and target.name not in there
            and not set("*?[").intersection(target.name)  # a pattern that matched nothing was a failed target too
            and any(fnmatch.fnmatchcase(target.name, pattern) for pattern in patterns)
            and self.accepted.get(key_of(target.kind, target.name)) != last.original
        ]
        unlisted = {each.name for each in planned if each.name in patterns and each.problem not in (None, NO_MATCH)}
        answering = volumes.answering_drivers(engine) if missing and not unlisted else set()
        return [
            target
            for each in missing
            if (target := self._unlisted(each, last, unlisted) or self._gone(engine, each, last, answering)) is not None
        ]

    def _unlisted(self, target: Target, last: Snapshot, patterns: Collection[str]) -> Target | None:
        """Say of a volume that it was not looked for, where the volumes of its pattern could not be listed at all."""
        if not any(fnmatch.fnmatchcase(target.name, pattern) for pattern in patterns):
            return None
        why = f"it was in the last snapshot, {last.original}, and the engine could not list the volumes that there are"
        return Target(target.kind, target.name, Status.FAILED, why)

    def _gone(self, engine: Engine, target: Target, last: Snapshot, answering: Collection[str]) -> Target | None:
        capture = captures_before(self.before, target.kind, target.name).last
        driver = str(capture.target.source.get("Driver") or "") if capture else ""
        if driver not in answering:
            why = (
                f"it was in the last snapshot, {last.original}, and the engine does not list it: its driver "
                f"{driver or '(unknown)'} does not answer. If it was removed: drkit accept {target.name}"
            )
        elif GONE in target.flags or _is_there(engine, target.name):
            return None  # said before; or it is there, and known now to be drkit's own
        else:
            why = (
                f"it was in the last snapshot, {last.original}, and the engine does not list it any more. If it was "
                "removed on purpose, there is nothing to do: this is said once"
            )
        return Target(target.kind, target.name, Status.FAILED, why, flags=[GONE])


def _is_there(engine: Engine, name: str) -> bool:
    try:
        return volumes.inspect(engine, name) is not None
    except DrkitError:
        return False  # what was captured is stored all the same, and says that the engine does not list it
