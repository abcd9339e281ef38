"""Images: the engine's own archive, saved and loaded whole, recognised by their configuration."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from drkit.engine import images
from drkit.engine.client import Engine
from drkit.engine.image_identity import ImageIdentity, check_tags, identify_image, load_image, save_image
from drkit.errors import CaptureFailed, UsageError
from drkit.policy import Policy
from drkit.repository.format.kinds import Kind
from drkit.targets.base import Capturing, Planned, Restored, RestoreOptions, RestorePlan, Restoring, describe

if TYPE_CHECKING:
    from drkit.repository.format.snapshot import Snapshot, Target


def plan(policy: Policy, engine: Engine) -> list[Planned]:
    planned: dict[str, Planned] = {}
    for image in policy.protect.images:
        missing = None if images.inspect(engine, image.ref) else "there is no such image"
        planned.setdefault(image.ref, Planned(Kind.IMAGE, image.ref, problem=missing))
    return list(planned.values())


def capture(capturing: Capturing, planned: Planned, target: Target, previous: Target | None) -> None:
    # Deferred: see base.py.
    from drkit.pipeline.capture import can_take_over, capture_stream, take_over
    from drkit.pipeline.stream import iterator_readinto
    from drkit.targets.pipes import capture_of

    image = identify_image(capturing.engine, planned.name)
    describe(target, asdict(image))
    shared = capture_of(capturing, target)
    if previous is not None and _same_image(previous, image) and can_take_over(shared, previous):
        take_over(shared, previous)
        return
    names = capture_stream(shared, iterator_readinto(save_image(capturing.engine, image)))
    if b"manifest.json" not in names:
        raise CaptureFailed(f"image {planned.name}: the engine's archive has no manifest.json")


def _same_image(previous: Target, image: ImageIdentity) -> bool:
    return previous.source.get("image_id") == image.image_id and previous.source.get("tags") == list(image.tags)


def plan_restore(restoring: Restoring, snapshot: Snapshot, target: Target, options: RestoreOptions) -> RestorePlan:
    """Plan to load an image. Raises UsageError for options that are for volumes."""
    if options != RestoreOptions():
        raise UsageError("an image is restored whole", hint="Leave out --to-volume, --path and --same-device.")
    details = {"bytes": target.bytes, "tags": target.source["tags"]}
    return RestorePlan(snapshot, target, options, target.name, target.files, details)


def restore(restoring: Restoring, plan: RestorePlan) -> Restored:
    """Load an image, and check its id and tags afterwards. Raises DrkitError if a tag names another image here."""
    # Deferred: see base.py.
    from drkit.repository.holders.custody import require_identity
    from drkit.targets.pipes import archive_of

    require_identity(restoring.repository, "restoring")
    image = _identity(plan.target)
    check_tags(restoring.engine, image)
    started = time.monotonic()
    size = 0

    def archive() -> Iterator[bytes]:
        nonlocal size
        for piece in archive_of(restoring.repository, plan.target):
            size += len(piece)
            restoring.events.progress(f"image {plan.name}", len(piece))
            yield piece

    load_image(restoring.engine, image, archive())
    seconds = round(time.monotonic() - started, 3)
    return Restored(plan.name, plan.files, size, seconds, {"load": seconds})


def _identity(target: Target) -> ImageIdentity:
    """The image that a record describes. Fields that this version does not know are ignored."""
    names = {item.name for item in fields(ImageIdentity)}
    known: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in target.source.items() if key in names
    }
    return ImageIdentity(**known)
