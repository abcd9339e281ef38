"""Images: the engine's own archive, saved and loaded whole, recognised by their configuration."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from drkit.engine import images
from drkit.engine.client import Document, Engine
from drkit.engine.image_identity import (
    ImageIdentity,
    check_tags,
    describe_image,
    image_config,
    image_identity,
    load_image,
    save_image,
)
from drkit.errors import CaptureFailed, IntegrityError, UsageError
from drkit.policy import Policy
from drkit.repository.format.fields import Check, a_count, a_list, a_name, a_text, an_object, build
from drkit.repository.format.kinds import Kind
from drkit.repository.format.snapshot import NameList
from drkit.targets.base import Capturing, Planned, Restored, RestoreOptions, RestorePlan, Restoring

if TYPE_CHECKING:
    from drkit.repository.format.snapshot import Snapshot, Target

DOCUMENT = "image.json"
_STATE = ("GraphDriver", "Metadata", "RepoDigests", "RepoTags")
"""What the engine says of an image that changes while the image stays the same."""
_MOST_LAYERS = 1000


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
    from drkit.targets.pipes import capture_of, describe

    description = describe_image(capturing.engine, planned.name)
    image = image_identity(description, planned.name)
    target.source = _source(image, planned.name)
    describe(capturing, target, DOCUMENT, {key: description[key] for key in description.keys() - set(_STATE)})
    shared = capture_of(capturing, target)
    if previous is not None and _same_image(previous, image) and can_take_over(shared, previous):
        take_over(shared, previous)
        return
    names = capture_stream(shared, iterator_readinto(save_image(capturing.engine, image)))
    if b"manifest.json" not in names:
        raise CaptureFailed(f"image {planned.name}: the engine's archive has no manifest.json")


def _same_image(previous: Target, image: ImageIdentity) -> bool:
    return previous.source.get("image_id") == image.image_id and previous.source.get("tags") == list(image.tags)


def _source(image: ImageIdentity, name: str) -> dict[str, Any]:
    """What the record tells of an image: identity and shape. Its configuration is data.

    Whoever made the image has chosen some of it. Raises CaptureFailed for what no reader would take.
    """
    source = {
        "image_id": image.image_id,
        "tags": list(image.tags),
        "repo_digests": NameList.of(image.repo_digests).names,
        "os": image.os,
        "architecture": image.architecture,
        "variant": image.variant,
        "size": image.size,
        "layers": list(image.layers),
    }
    try:
        if len(image.layers) > _MOST_LAYERS:
            raise ValueError(f"it has {len(image.layers)} layers")
        build(ImageIdentity, _IDENTITY, {**source, "config": {}})
    except ValueError as error:
        raise CaptureFailed(f"image {name}: what the engine says of it cannot be recorded: {error}") from None
    return source


def plan_restore(restoring: Restoring, snapshot: Snapshot, target: Target, options: RestoreOptions) -> RestorePlan:
    """Plan to load an image. Raises UsageError for options that are for volumes."""
    if options != RestoreOptions():
        raise UsageError("an image is restored whole", hint="Leave out --to-volume, --path and --same-device.")
    details = {"bytes": target.bytes, "tags": target.source.get("tags", [])}
    return RestorePlan(snapshot, target, options, target.name, target.files, details)


def restore(restoring: Restoring, plan: RestorePlan) -> Restored:
    """Load an image, and check its id and tags afterwards. Raises DrkitError if a tag names another image here."""
    # Deferred: see base.py.
    from drkit.repository.holders.custody import require_identity
    from drkit.targets.pipes import archive_of, description_of

    require_identity(restoring.repository, "restoring")
    described = description_of(restoring.repository, plan.target, DOCUMENT) if plan.target.documents.tree else None
    image = _identity(plan.target, described)
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


def _identity(target: Target, described: Document | None) -> ImageIdentity:
    """The image that a record and its document describe. Earlier versions recorded all of it.

    Fields that this version does not know are ignored. Raises IntegrityError for what is missing or odd.
    """
    try:
        config = target.source.get("config") if described is None else image_config(described)
        return build(ImageIdentity, _IDENTITY, {**target.source, "config": config})
    except (ValueError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"the record of {target.title} does not describe an image: {error}",
            hint=f"Its files are all the same there: drkit export SNAPSHOT --image {target.name}.",
            object_name=target.title,
        ) from None


def _names(value: Any) -> tuple[str, ...]:
    return tuple(a_list(a_name, value))


_word = partial(a_text, longest=255)
_IDENTITY: Mapping[str, Check] = {
    "image_id": a_name,
    "tags": _names,
    "repo_digests": _names,
    "os": _word,
    "architecture": _word,
    "variant": _word,
    "size": a_count,
    "layers": _names,
    "config": an_object,
}
