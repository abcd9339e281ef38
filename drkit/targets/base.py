"""What the modules of the kinds share: what they receive, and what they return.

Planning loads only what engine and policy need. Modules that read and write data are imported where they are used: a
backup loads them while its first helper container starts, and both take about 0.2 s (measured).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from drkit.engine.client import Engine
from drkit.engine.helper.fifos import exchange_place
from drkit.engine.helper.image import HelperImage
from drkit.engine.helper.process import HelperProcess
from drkit.engine.helper.reading import start_capture
from drkit.errors import DrkitError
from drkit.events import Events
from drkit.pipeline.standby import StandBy
from drkit.pipeline.unentered import find_tests
from drkit.policy import Policy
from drkit.repository.format.kinds import Kind
from drkit.targets.helper import ensure_helper

if TYPE_CHECKING:
    from drkit.host.restore_journal import RestoreJournal
    from drkit.host.state import HostState
    from drkit.pipeline.selection import Selection
    from drkit.repository.format.snapshot import Snapshot, Target
    from drkit.repository.reader import ChunkReader
    from drkit.repository.repository import Repository
    from drkit.repository.writer import RunWriter


@dataclass(frozen=True)
class Planned:
    """A target as the policy and the engine name it.

    `problem`: why it cannot be captured at all. `said` is the part of that which another program said; see DrkitError.
    `places`: the directories that hold its data, as the engine names them, which may be on another host.
    """

    kind: Kind
    name: str
    exclude: tuple[str, ...] = ()
    trusted_xattrs: bool = False
    problem: str | None = None
    hint: str | None = None
    said: str = ""
    places: tuple[Path, ...] = ()

    @property
    def title(self) -> str:
        """What messages call it, such as "volume db"."""
        return f"{self.kind} {self.name}"

    def failing(self, engine: Engine, error: DrkitError) -> Planned:
        """Return the same target with an error of the engine as its problem: the others are captured all the same.

        Raises `error` where the engine itself is away.
        """
        engine.require_alive(error)
        problem = error.message.removeprefix(f"{self.title}: ")
        hint = error.hint or f"See what the engine says of it: docker {self.kind} inspect {self.name}."
        return replace(self, problem=problem, hint=hint, said=error.said)


@dataclass(frozen=True)
class Ready:
    """The helpers of a run. `helper` is None where no volume is captured; `standby` has it started for each volume."""

    run_id: str
    targets: list[Planned]
    helper: HelperImage | None
    standby: StandBy


@contextmanager
def made_ready(
    policy: Policy, engine: Engine, state: HostState, targets: list[Planned], *, run_id: str
) -> Iterator[Ready]:
    """Start the helpers of all existing volumes one ahead, in this order. Those left over end when the context does.

    Without a helper all volumes fail; that is raised where nothing else is to be captured.
    """
    volumes = {target.name: target for target in targets if target.kind == Kind.VOLUME and not target.problem}
    if volumes:
        exchange_place()  # a wrong setting is to end the run, and not to fail one target after the other
    try:
        helper = ensure_helper(engine, state, policy.helper.image, run_id=run_id) if volumes else None
    except DrkitError as error:
        if not any(target.kind != Kind.VOLUME and not target.problem for target in targets):
            raise
        targets = [target.failing(engine, error) if target.name in volumes else target for target in targets]
        helper, volumes = None, {}

    def start(name: str) -> HelperProcess:
        assert helper is not None  # exists if a volume was planned
        volume = volumes[name]
        return start_capture(
            engine,
            helper,
            name,
            run_id=run_id,
            trusted_xattrs=volume.trusted_xattrs,
            unentered=find_tests(volume.exclude),
            held=True,
        )

    with StandBy(start, list(volumes)) as standby:
        yield Ready(run_id, targets, helper, standby)


@dataclass(frozen=True)
class Capturing:
    """What the captures of one run share.

    `now` is when the run began, by this host's clock. With `salt`, holders of the meta key cannot guess documents.
    """

    engine: Engine
    repository: Repository
    reader: ChunkReader
    writer: RunWriter
    ready: Ready
    salt: bytes
    now: datetime
    events: Events
    restores: RestoreJournal


@dataclass(frozen=True)
class RestoreOptions:
    """How to restore a target: under the name `to` instead of its own, and only `paths` of it (gitignore patterns).

    `same_device` reuses options that name a device, bind path or share: it writes into the data of the original.
    `trust_helper` is the full id of a helper image that may run although a snapshot brings it; see helper.py.
    """

    to: str | None = None
    paths: Sequence[str] = ()
    same_device: bool = False
    trust_helper: str | None = None


@dataclass(frozen=True)
class Restoring:
    """What plans and restores share. The engine is connected to when first used: not every plan asks it."""

    connect: Callable[[], Engine]
    repository: Repository
    state: HostState
    events: Events

    @property
    def engine(self) -> Engine:
        return self.connect()


@dataclass(frozen=True)
class RestorePlan:
    """What a restore will do. `name` is what will be created; `notes` are differences that the operator must know.

    `details` is what only the kind knows, as `--json` shows it.
    """

    snapshot: Snapshot
    target: Target
    options: RestoreOptions
    name: str
    files: int
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    selection: Selection | None = None
    """What `paths` selected; None for everything."""


@dataclass(frozen=True)
class Restored:
    """What was restored and verified. `seconds` is the total, `phases` are the seconds of each phase.

    `unresolved` are the names of it that lead to nothing, or to something else, on this engine; `known_as` leads to it.
    `helper` wrote and verified it, where one was needed; `lost` is what the snapshot holds and the helper cannot write.
    `sample`: how many `files` were also read plainly, and the `seed` that chose them.
    """

    name: str
    files: int
    bytes: int
    seconds: float
    phases: dict[str, float]
    unresolved: tuple[str, ...] = ()
    known_as: str = ""
    helper: HelperImage | None = None
    lost: tuple[str, ...] = ()
    sample: dict[str, int] | None = None


class TargetKind(Protocol):
    """What the module of a kind has. A new kind is a new module, listed in `targets.KINDS`."""

    def plan(self, policy: Policy, engine: Engine) -> list[Planned]:
        """Resolve what the policy protects of this kind. A missing target is planned too, with its problem.

        So is one of which the engine cannot tell. Raises EngineUnavailable if the engine tells nothing at all.
        """

    def capture(self, capturing: Capturing, planned: Planned, target: Target, previous: Target | None) -> None:
        """Capture one target and fill in `target`, taking over what it can from `previous`, an earlier capture of it.

        Raises CaptureFailed for errors of the target, and whatever the storage raises.
        """

    def plan_restore(
        self, restoring: Restoring, snapshot: Snapshot, target: Target, options: RestoreOptions
    ) -> RestorePlan:
        """Decide everything before anything changes. Changes nothing. Raises DrkitError for what cannot be done."""

    def restore(self, restoring: Restoring, plan: RestorePlan) -> Restored:
        """Carry out a plan of `plan_restore`, and verify what was written. Undoes what it did if that fails."""
