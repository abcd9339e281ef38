"""Volumes: finding them, and creating them for a restore."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass

from drkit.engine.client import Document, Engine, EngineError
from drkit.engine.labels import LABEL_HELPER, LABEL_RESTORE
from drkit.engine.names import check_name
from drkit.errors import DrkitError


def match_volumes(engine: Engine, pattern: str) -> list[str]:
    """The names of the volumes that a shell pattern matches, sorted; drkit's own scratch volumes are none of them."""
    return sorted(
        volume["Name"]
        for volume in engine.volumes()
        if fnmatch.fnmatchcase(volume["Name"], pattern) and LABEL_HELPER not in (volume.get("Labels") or {})
    )


@dataclass(frozen=True)
class VolumePlan:
    """How a volume is made for a restore. `dropped`: what is not taken over from the original, and why."""

    driver: str
    options: dict[str, str]
    dropped: tuple[str, ...]


def harmless_options(driver: str, options: Mapping[str, str] | None, *, same_device: bool = False) -> VolumePlan:
    """The driver and options of a new volume that cannot turn out to be the data of another one.

    Two `local` volumes with the same device, bind path or remote share are one and the same data: writing the "new" one
    would overwrite production. What another driver's options name, nobody can tell. Both are taken over only if the
    caller says that it is the `same_device` that shall be written.
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
        # Nothing to do with whose data it is: what is restored would be gone when the helper ends.
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


@dataclass(frozen=True)
class RestoredVolume:
    name: str
    plan: VolumePlan


def create_restored_volume(
    engine: Engine, name: str, original: Document, *, restore_id: str, same_device: bool = False
) -> RestoredVolume:
    """Make the volume `name` like `original` (its inspect document): driver, labels and harmless options.

    The engine answers success for a name that exists, whatever its labels. So: see that there is none, create, and see
    that what is there now carries our label.
    """
    if engine.volume(check_name("volume", name)) is not None:
        raise _exists(name)
    plan = harmless_options(str(original.get("Driver") or "local"), original.get("Options"), same_device=same_device)
    plan = _on_this_engine(engine, plan)
    labels = {**(original.get("Labels") or {}), LABEL_RESTORE: restore_id}
    try:
        engine.create_volume(name, plan.driver, plan.options, labels)
    except EngineError as error:
        if not ("size" in plan.options and "quota" in error.message.lower()):
            raise
        dropped = f"size={plan.options['size']}: the engine's file system has no quotas here"
        plan = VolumePlan(plan.driver, {}, (*plan.dropped, dropped))
        engine.create_volume(name, plan.driver, plan.options, labels)
    created = engine.volume(name)
    if created is None or (created.get("Labels") or {}).get(LABEL_RESTORE) != restore_id:
        raise _exists(name)
    return RestoredVolume(name, plan)


def _on_this_engine(engine: Engine, plan: VolumePlan) -> VolumePlan:
    """On a bare host the driver may be missing; then a plain local volume is better than none."""
    known = (engine.facts().get("Plugins") or {}).get("Volume") or ["local"]
    if plan.driver in known:
        return plan
    return VolumePlan("local", {}, (*plan.dropped, f"driver {plan.driver}: this engine does not have it"))


def _exists(name: str) -> DrkitError:
    return DrkitError(
        f"volume {name}: it exists already, and a restore never writes into an existing volume unasked",
        hint="Restore into a new one: add --to-volume NEW.",
    )


def remove_if_ours(engine: Engine, name: str, restore_id: str) -> bool:
    """Remove a volume that `create_restored_volume` made under this id; leave any other alone."""
    volume = engine.volume(name)
    if volume is None or (volume.get("Labels") or {}).get(LABEL_RESTORE) != restore_id:
        return False
    return engine.remove_volume(name)
