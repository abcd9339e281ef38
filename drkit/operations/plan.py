"""What a backup captures, and the helpers for it, started ahead.

It loads what engine and policy need and no more: a container takes about as long to start as the rest to load.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from drkit.engine import images, volumes
from drkit.engine.client import Engine
from drkit.engine.helper.image import HelperImage, ensure_helper
from drkit.engine.helper.process import HelperProcess
from drkit.engine.helper.reading import start_capture
from drkit.errors import UsageError
from drkit.pipeline.standby import StandBy
from drkit.policy import Policy


@dataclass(frozen=True)
class Planned:
    """A target as the policy and the engine name it. `problem`: why it cannot be captured at all."""

    kind: str
    name: str
    exclude: tuple[str, ...] = ()
    trusted_xattrs: bool = False
    problem: str | None = None


def plan_targets(policy: Policy, engine: Engine) -> list[Planned]:
    """Resolve what the policy protects. A pattern that matches nothing is a target that fails, not a silent gap."""
    planned: dict[tuple[str, str], Planned] = {}
    for entry in sorted(policy.protect.volumes, key=lambda entry: entry.name is None):
        names = [entry.name] if entry.name else volumes.match(engine, entry.match or "")
        if not names:
            planned["volume", str(entry.match)] = Planned("volume", str(entry.match), problem="no volume matches")
        for name in names:
            missing = None if volumes.inspect(engine, name) else "there is no such volume"
            found = Planned("volume", name, entry.exclude, entry.trusted_xattrs, missing)
            planned.setdefault(("volume", name), found)
    for image in policy.protect.images:
        missing = None if images.inspect(engine, image.ref) else "there is no such image"
        planned.setdefault(("image", image.ref), Planned("image", image.ref, problem=missing))
    return list(planned.values())


def choose(planned: Sequence[Planned], names: Sequence[str]) -> list[Planned]:
    """Return the targets of these names, all without names. Raises UsageError for a name that is none of them."""
    unknown = [name for name in names if name not in {target.name for target in planned}]
    if unknown:
        known = ", ".join(target.name for target in planned)
        raise UsageError(f"the policy has no target {unknown[0]}", hint=f"Its targets are: {known}.")
    return [target for target in planned if not names or target.name in names]


@dataclass(frozen=True)
class Ready:
    """What a run works with. `helper` is None where no volume is captured; `standby` has it started for each."""

    run_id: str
    targets: list[Planned]
    helper: HelperImage | None
    standby: StandBy


@contextmanager
def made_ready(policy: Policy, engine: Engine, targets: list[Planned], *, run_id: str) -> Iterator[Ready]:
    """Have the helpers of all volumes that are there started one ahead, in this order; what is left ends on leaving."""
    wanted = {target.name: target for target in targets if target.kind == "volume" and not target.problem}
    helper = ensure_helper(engine, policy.helper.image, run_id=run_id) if wanted else None

    def start(name: str) -> HelperProcess:
        assert helper is not None  # made when a volume was planned
        trusted = wanted[name].trusted_xattrs
        return start_capture(engine, helper, name, run_id=run_id, trusted_xattrs=trusted, held=True)

    with StandBy(start, list(wanted)) as standby:
        yield Ready(run_id, targets, helper, standby)
