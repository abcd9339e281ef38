"""What drkit writes must lie apart from what it protects: else each backup captures the ones before it, and grows.

Volumes are compared by the directories that the engine names, and by where these lie. That is known only of an engine
on this host: of one that is reached over the network nothing is said.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from drkit.errors import StorageUnavailable, UsageError
from drkit.events import Events
from drkit.host.name import inside_container
from drkit.host.spots import Spot, backing_file, same_directory, spot_of
from drkit.operations.context import Context
from drkit.pipeline.select import Patterns
from drkit.policy import Policy
from drkit.repository.format.kinds import Kind
from drkit.settings import cache_directory, directory_from
from drkit.storage import is_s3, local_path
from drkit.storage.local.mounts import IN_MEMORY, Mount, mounts_here
from drkit.targets.base import Planned

_DATA = re.compile(r"(?:^|/)volumes/([^/]+)/_data(?:/(.*))?$", re.DOTALL)
"""How the engine lays out a volume below its data root, wherever that is."""
REPOSITORY = "the repository"


@dataclass(frozen=True)
class Ours:
    """A directory that drkit writes into, or the disk image, a `file`, that has it.

    `holds_all`: it may not contain a volume either, as a repository may not.
    """

    what: str
    path: Path
    holds_all: bool = False
    file: bool = False


@dataclass(frozen=True)
class Overlap:
    ours: Ours
    volume: str
    below: bytes | None
    """The path from the volume's root; None where it is the volume that lies in our directory."""

    @property
    def error(self) -> UsageError:
        where = f"{self.ours.what} {self.ours.path}"
        if self.below is None:
            return UsageError(
                f"the volume {self.volume}, which the policy protects, lies in {where}",
                hint="Keep them in separate directories, best on separate disks.",
            )
        if not self.below:
            return UsageError(
                f"{where} is the directory of the volume {self.volume}, which the policy protects",
                hint=f"Keep {self.ours.what} somewhere else, best on another disk.",
            )
        inside = self.below.decode("utf-8", "backslashreplace") + ("" if self.ours.file else "/")
        return UsageError(
            f"{where} lies in the volume {self.volume}, which the policy protects: each backup would capture the ones "
            "before it",
            hint=f"Keep {self.ours.what} somewhere else, best on another disk; or set exclude: ['/{inside}'] for "
            f"{self.volume}.",
        )


def require_apart(context: Context, planned: Sequence[Planned]) -> None:
    """Raise UsageError where drkit would write into a volume that is to be captured, naming both.

    Raises StorageUnavailable for a repository in memory.
    """
    for ours in stores(context):
        require_lasting(ours, context.events, refuse=ours.what == REPOSITORY)
    found = list(overlaps(context, planned))
    if found:
        errors = [each.error for each in found]
        raise UsageError("; ".join(dict.fromkeys(error.message for error in errors)), hint=errors[0].hint)


# --- what lasts


@dataclass(frozen=True)
class Passing:
    """Why what is stored in a directory does not last."""

    type: str
    in_memory: bool

    def message(self, ours: Ours) -> str:
        where = "in memory" if self.in_memory else "in the container's own file system"
        lost = "the next start of this machine" if self.in_memory else "the end of the container"
        return f"{ours.what} {ours.path} is {where} ({self.type}): {lost} takes every backup in it"

    def error(self, ours: Ours) -> StorageUnavailable:
        return StorageUnavailable(self.message(ours), hint="Keep the repository on a disk, best on another one.")


def require_lasting(ours: Ours, events: Events, *, refuse: bool = True) -> None:
    """Raise StorageUnavailable for a directory in memory if this is to `refuse` one; warn of what else passes."""
    problem = passing(ours.path)
    if problem is None:
        return
    if problem.in_memory and refuse:
        raise problem.error(ours)
    events.warn(problem.message(ours), hint="Keep it on a disk, best on another one than the data.")


def passing(path: Path) -> Passing | None:
    """Say why a directory goes with this machine's run or with this container; None if it stays, or nobody knows."""
    spot = spot_of(path, _mounts())
    if spot is None:
        return None
    if spot.type in IN_MEMORY:
        return Passing(spot.type, in_memory=True)
    return Passing(spot.type, in_memory=False) if spot.type == "overlay" and inside_container() else None


# --- what overlaps


def overlaps(context: Context, planned: Sequence[Planned]) -> Iterator[Overlap]:
    """Compare what drkit writes with the volumes that are to be captured. What a volume excludes does not count."""
    targets = [each for each in planned if each.kind == Kind.VOLUME and not each.problem]
    if not targets or not context.engine.is_local:
        return
    mounts = _mounts()
    exchange = context.environ.get("DRKIT_EXCHANGE_VOLUME", "")
    ours = [each for directory in _directories(context) for each in (directory, *_images(directory, mounts))]
    for target in targets:
        if target.name == exchange and not _covered(target.exclude, b"drkit-exchange-x"):
            directory = directory_from(context.environ, "DRKIT_EXCHANGE_DIR")
            yield Overlap(Ours("the exchange directory", directory or Path("/")), target.name, b"drkit-exchange-*")
        for each in ours:
            found = _compared(each, target.name, target.places, mounts)
            if found is not None and not (found.below and _covered(target.exclude, found.below, file=each.file)):
                yield found


def overlaps_of_policy(policy: Policy) -> Iterator[Overlap]:
    """As `overlaps`, as far as it can be told without an engine: what lies in the engine's directory of a volume."""
    for what, place in ((REPOSITORY, policy.repository), ("the mirror", policy.mirror)):
        if place is None or is_s3(place.url):
            continue
        path = local_path(place.url)
        found = _DATA.search(str(path.resolve()))
        # As in a plan, names come before patterns, with their exclude patterns.
        for entry in sorted(policy.protect.volumes, key=lambda entry: entry.name is None) if found else ():
            assert found is not None  # else there is no entry
            name, below = found[1], (found[2] or "").encode("utf-8", "surrogateescape")
            if entry.name != name and not (entry.match and fnmatch.fnmatchcase(name, entry.match)):
                continue
            if not (below and _covered(entry.exclude, below)):
                yield Overlap(Ours(what, path), name, below)
            break


def stores(context: Context) -> Iterator[Ours]:
    """The directories of the repository and the mirror; none for a bucket."""
    mirror = context.required_policy.mirror
    for what, url in ((REPOSITORY, context.access.url), ("the mirror", mirror.url if mirror else "")):
        if url and not is_s3(url):
            yield Ours(what, local_path(url), holds_all=True)


def _directories(context: Context) -> Iterator[Ours]:
    yield from stores(context)
    yield Ours("the state directory", context.state.directory)
    if is_s3(context.access.url):
        yield Ours("the cache directory", cache_directory(context.environ))
    if (exchange := directory_from(context.environ, "DRKIT_EXCHANGE_DIR")) is not None:
        yield Ours("the exchange directory", exchange)


def _images(ours: Ours, mounts: Sequence[Mount]) -> Iterator[Ours]:
    """The disk images that a directory of ours lies in, where they are mounted here: to capture one captures ours."""
    spot = spot_of(ours.path, mounts)
    while spot is not None and (image := backing_file(spot.device)) is not None:
        yield Ours(f"the disk image of {ours.what}", image, file=True)
        spot = spot_of(image, mounts)


def _compared(ours: Ours, name: str, places: Sequence[Path], mounts: Sequence[Mount]) -> Overlap | None:
    here = spot_of(ours.path, mounts)
    for place in places:
        # In a container the engine's directories are other ones or none, but our mount tells whose directory it is.
        if here is not None and (below := _below_layout(here, place)) is not None:
            return Overlap(ours, name, below)
        there = spot_of(place, mounts) if place.exists() else None
        if here is None or there is None:
            continue
        if (below := here.below(there)) is not None:
            return Overlap(ours, name, below)
        if ours.holds_all and there.below(here) is not None:
            return Overlap(ours, name, None)
    if (same := same_directory(ours.path, places)) is not None:
        return Overlap(ours, name, same[1])
    if here is not None and (through := _through_mounts(here, places, mounts)) is not None:
        return Overlap(ours, name, through)
    if ours.holds_all and any(same_directory(place, [ours.path]) for place in places if place.exists()):
        return Overlap(ours, name, None)
    return None


def _through_mounts(here: Spot, places: Sequence[Path], mounts: Sequence[Mount]) -> bytes | None:
    """The path from a volume's root, by way of something mounted below it, which a helper reads as part of it."""
    for place in places:
        head = os.fsencode(os.path.realpath(place)).rstrip(b"/") + b"/"
        for mount in mounts:
            if not mount.point.startswith(head):
                continue
            below = here.below(Spot(mount.device, mount.root, mount.type))
            if below is not None:
                return b"/".join(filter(None, (mount.point.removeprefix(head), below)))
    return None


def _below_layout(here: Spot, mountpoint: Path) -> bytes | None:
    """The path from a volume's root of what the engine's layout says lies in it; None where it lies elsewhere.

    The file system may be mounted anywhere for the engine, so what we see of the path is the end of what it sees.
    """
    whole = _DATA.search(str(mountpoint))
    mine = _DATA.search(here.path.decode("utf-8", "surrogateescape"))
    if whole is None or mine is None or whole[2] or whole[1] != mine[1]:
        return None
    root = here.path[: mine.end(1)].decode("utf-8", "surrogateescape") + "/_data"
    return (mine[2] or "").encode("utf-8", "surrogateescape") if str(mountpoint).endswith(root) else None


def _covered(exclude: Sequence[str], below: bytes, *, file: bool = False) -> bool:
    """Whether a volume's patterns leave out a directory or `file`, given from its root, or everything in it."""
    excludes = Patterns(exclude).excludes
    if excludes(below, directory=not file):
        return True
    if file:
        return False
    return excludes(below + b"/config", directory=False) and excludes(below + b"/packs", directory=True)


def _mounts() -> list[Mount]:
    try:
        return mounts_here()
    except (OSError, ValueError):
        return []  # then inodes decide alone
