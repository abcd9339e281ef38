"""Volumes of the engine: one function for each request, and the creation of volumes for restores."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from drkit.engine.client import Document, Engine, EngineError, filters
from drkit.engine.labels import LABEL_HELPER, LABEL_RESTORE
from drkit.engine.names import check_name
from drkit.errors import DrkitError


def find(engine: Engine, labels: Iterable[str] = ()) -> list[Document]:
    """All volumes that carry every one of `labels` ("key" or "key=value"), as far as the engine can list them.

    `engine.unlisted` then says what it could not.
    """
    answer = engine.get("list of volumes", "/volumes", params=filters(label=labels))
    if warnings := answer.get("Warnings"):
        engine.unlisted = list(warnings)
    return list(answer["Volumes"] or [])


def match(engine: Engine, pattern: str) -> list[str]:
    """The names of the volumes that match a shell pattern, sorted, whatever their labels."""
    return sorted(volume["Name"] for volume in find(engine) if fnmatch.fnmatchcase(volume["Name"], pattern))


def answering_drivers(engine: Engine) -> set[str]:
    """Return the drivers of which the last list of volumes has all: what it lacks of those does not exist.

    Measured on Engine 20.10: a plugin that does not answer is a warning beside the list, after 15 s. One that was away
    when the engine started is none at all: the engine does not know the driver, and its volumes are just not there.
    """
    known = (engine.info().get("Plugins") or {}).get("Volume") or []
    return {"local"} if engine.unlisted else {"local", *known}


def inspect(engine: Engine, name: str) -> Document | None:
    return engine.look_up(f"volume {name}", f"/volumes/{check_name('volume', name)}")


def create(
    engine: Engine,
    name: str,
    driver: str = "local",
    options: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
) -> None:
    """Create a volume. The engine also reports success for a name that exists: see `create_restored`."""
    body = {
        "Name": check_name("volume", name),
        "Driver": driver,
        "DriverOpts": dict(options or {}),
        "Labels": dict(labels or {}),
    }
    engine.post(f"volume {name}", "/volumes/create", body)


def remove(engine: Engine, name: str) -> bool:
    """Remove it; False when there was none."""
    return engine.delete(f"volume {name}", f"/volumes/{check_name('volume', name)}")


def remove_scratch(engine: Engine, name: str) -> None:
    """Remove a scratch volume of a helper's, if there is one of this name; leave any other alone."""
    there = inspect(engine, name)
    if there is not None and LABEL_HELPER in (there.get("Labels") or {}):
        remove(engine, name)


# -- for a restore


@dataclass(frozen=True)
class VolumePlan:
    """How a restore creates a volume. `dropped`: what it does not take over from the original, and why."""

    driver: str
    options: dict[str, str]
    dropped: tuple[str, ...]


@dataclass(frozen=True)
class RestoredVolume:
    name: str
    plan: VolumePlan


def harmless_options(driver: str, options: Mapping[str, str] | None, *, same_device: bool = False) -> VolumePlan:
    """The driver and options of a new volume that cannot turn out to be the data of another one.

    Two `local` volumes with the same device, bind path or remote share are one and the same data: writing the "new" one
    would overwrite production. What the options of another driver name is unknown. Both are taken over only when the
    caller wants to write the `same_device`.
    """
    options = dict(options or {})
    if driver != "local":
        if same_device or not options:
            return VolumePlan(driver, options, ())
        names = ", ".join(sorted(options))
        return VolumePlan(
            "local", {}, (f"driver {driver} with its options {names}: they may name the original's data",)
        )
    kind, device = options.get("type", ""), options.get("device", "")
    if kind == "tmpfs":
        # Not a question of whose data it is: what is restored would be gone when the helper ends.
        reason = "type=tmpfs: a volume in memory would lose what is restored into it"
        return VolumePlan(driver, _quota(options), (reason,))
    if same_device or options.keys() <= {"size"}:
        return VolumePlan(driver, options, ())
    named = "; ".join(f"{key}={_without_secrets(options[key])}" for key in sorted(options.keys() - {"size"}))
    return VolumePlan(
        driver, _quota(options), (f"{named}: the new volume would be {device or 'what these name'} itself",)
    )


def _quota(options: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in options.items() if key == "size"}


def _without_secrets(value: str) -> str:
    return re.sub(r"((?:^|,)pass(?:word|wd)?\d?=)[^,]*", r"\1***", value)


def require_absent(engine: Engine, name: str, *, unless_restore: str | None = None) -> None:
    """Raise DrkitError when the volume exists, unless the restore with the id `unless_restore` created it."""
    there = inspect(engine, name)
    if there is not None and (unless_restore is None or not is_restored(there, unless_restore)):
        raise _exists(name)


def create_restored(
    engine: Engine, name: str, original: Document, *, restore_id: str, same_device: bool = False
) -> RestoredVolume:
    """Create the volume `name` like `original` (its inspect document): driver, labels and harmless options.

    The engine reports success for a name that exists, whatever its labels. So this checks that the name is free,
    creates the volume, and checks that what is there now carries our label. Raises DrkitError when it does not.
    """
    require_absent(engine, name)
    plan = harmless_options(str(original.get("Driver") or "local"), original.get("Options"), same_device=same_device)
    plan = _on_this_engine(engine, plan)
    labels = {**(original.get("Labels") or {}), LABEL_RESTORE: restore_id}
    try:
        create(engine, name, plan.driver, plan.options, labels)
    except EngineError as error:
        if not ("size" in plan.options and "quota" in error.message.lower()):
            raise
        dropped = f"size={plan.options['size']}: the engine's file system has no quotas here"
        plan = VolumePlan(plan.driver, {}, (*plan.dropped, dropped))
        create(engine, name, plan.driver, plan.options, labels)
    created = inspect(engine, name)
    if created is None or not is_restored(created, restore_id):
        raise _exists(name)
    return RestoredVolume(name, plan)


def is_restored(volume: Document, restore_id: str) -> bool:
    """Whether a volume's inspect document says that the restore of this id created it."""
    return (volume.get("Labels") or {}).get(LABEL_RESTORE) == restore_id


def remove_restored(engine: Engine, name: str, restore_id: str) -> bool:
    """Remove a volume that `create_restored` created with this id; leave any other alone. False when it was left."""
    there = inspect(engine, name)
    return there is not None and is_restored(there, restore_id) and remove(engine, name)


def _on_this_engine(engine: Engine, plan: VolumePlan) -> VolumePlan:
    """A bare host may lack the driver; then a plain local volume is better than none."""
    known = (engine.facts().get("Plugins") or {}).get("Volume") or ["local"]
    if plan.driver in known:
        return plan
    return VolumePlan("local", {}, (*plan.dropped, f"driver {plan.driver}: this engine does not have it"))


def _exists(name: str) -> DrkitError:
    return DrkitError(
        f"volume {name} exists, and a restore never writes into an existing volume",
        hint=f"Restore beside it: --to-volume {name}-restored; or, if it is not needed: docker volume rm {name}.",
    )
