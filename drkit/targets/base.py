"""What the modules of the kinds share: what they are told, and what they answer.

Planning loads what engine and policy need and no more. What reads and writes data is imported where it is used: a
backup loads it while its first helper container starts, and the two take about as long (0.2 s, measured).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from drkit.engine.client import Engine
from drkit.engine.helper.image import HelperImage, ensure_helper
from drkit.engine.helper.process import HelperProcess
from drkit.engine.helper.reading import start_capture
from drkit.events import Events
from drkit.pipeline.standby import StandBy
from drkit.policy import Policy
from drkit.repository.format.kinds import Kind

if TYPE_CHECKING:
    from drkit.host.restore_journal import RestoreJournal
    from drkit.pipeline.selection import Selection
    from drkit.repository.format.snapshot import Snapshot, Target
    from drkit.repository.reader import ChunkReader
    from drkit.repository.repository import Repository
    from drkit.repository.writer import RunWriter


@dataclass(frozen=True)
class Planned:
    """A target as the policy and the engine name it. `problem`: why it cannot be captured at all."""

    kind: Kind
    name: str
    exclude: tuple[str, ...] = ()
    trusted_xattrs: bool = False
    problem: str | None = None


@dataclass(frozen=True)
class Ready:
    """The helpers of a run. `helper` is None where no volume is captured; `standby` has it started for each volume."""

    run_id: str
    targets: list[Planned]
    helper: HelperImage | None
    standby: StandBy


@contextmanager
def made_ready(policy: Policy, engine: Engine, targets: list[Planned], *, run_id: str) -> Iterator[Ready]:
    """Have the helpers of all volumes that are there started one ahead, in this order; what is left ends on leaving."""
    volumes = {target.name: target for target in targets if target.kind == Kind.VOLUME and not target.problem}
    helper = ensure_helper(engine, policy.helper.image, run_id=run_id) if volumes else None

    def start(name: str) -> HelperProcess:
        assert helper is not None  # made where a volume was planned
        trusted = volumes[name].trusted_xattrs
        return start_capture(engine, helper, name, run_id=run_id, trusted_xattrs=trusted, held=True)

    with StandBy(start, list(volumes)) as standby:
        yield Ready(run_id, targets, helper, standby)


@dataclass(frozen=True)
class Capturing:
    """What the captures of one run share. `now` is when the run began, by this host's clock."""

    engine: Engine
    repository: Repository
    reader: ChunkReader
    writer: RunWriter
    ready: Ready
    now: datetime
    events: Events


@dataclass(frozen=True)
class RestoreOptions:
    """How a target comes back: under the name `to`, only `paths` of it (gitignore patterns), in the original's place.

    `same_device` reuses options that name a device, bind path or share: it writes into the original's data.
    """

    to: str | None = None
    paths: Sequence[str] = ()
    same_device: bool = False


@dataclass(frozen=True)
class Restoring:
    """What plans and restores share."""

    engine: Engine
    repository: Repository
    journal: RestoreJournal
    events: Events


@dataclass(frozen=True)
class RestorePlan:
    """What a restore will do. `name` is what will be made; `notes` are differences that the operator must know.

    `details` is what the kind alone knows, as `--json` shows it.
    """

    snapshot: Snapshot
    target: Target
    options: RestoreOptions
    name: str
    files: int
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    selection: Selection | None = None
    """What `paths` choose; None for everything."""


@dataclass(frozen=True)
class Restored:
    """What was restored, and verified. Seconds, in all and by phase."""

    name: str
    files: int
    bytes: int
    seconds: float
    phases: dict[str, float]


class TargetKind(Protocol):
    """What the module of a kind has. A new kind is a new module, listed in `targets.KINDS`."""

    def plan(self, policy: Policy, engine: Engine) -> list[Planned]:
        """Resolve what the policy protects of this kind. What is not there is planned too, with its problem."""

    def capture(self, capturing: Capturing, planned: Planned, target: Target, previous: Target | None) -> None:
        """Capture one target and fill in `target`, taking over what it can from `previous`, an earlier capture of it.

        Raises CaptureFailed for what is wrong with the target, and whatever the storage raises.
        """

    def plan_restore(
        self, restoring: Restoring, snapshot: Snapshot, target: Target, options: RestoreOptions
    ) -> RestorePlan:
        """Decide everything before anything changes. Raises DrkitError for what cannot be done, and changes nothing."""

    def restore(self, restoring: Restoring, plan: RestorePlan) -> Restored:
        """Carry out a plan of `plan_restore`, and verify what was written. Undoes what it did where that fails."""
