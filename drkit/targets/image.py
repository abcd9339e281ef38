"""Images: the engine's own archive, saved and loaded whole, recognised by their configuration."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from drkit.engine import images
from drkit.engine.client import Document, Engine
from drkit.engine.image_identity import (
    LIST_HINT,
    ImageIdentity,
    describe_image,
    image_config,
    image_identity,
    load_image,
    save_image,
    tags_of,
)
from drkit.engine.names import image_reference
from drkit.errors import CaptureFailed, DrkitError, IntegrityError, UsageError
from drkit.policy import Policy
from drkit.policy.references import parse_reference
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
_ATTEMPTS = 2
"""A tag that moves while its image is saved is followed once."""


def plan(policy: Policy, engine: Engine) -> list[Planned]:
    return [_planned(engine, Planned(Kind.IMAGE, image.ref)) for image in policy.protect.images]


def _planned(engine: Engine, target: Planned) -> Planned:
    try:
        there = images.inspect(engine, target.name)
    except DrkitError as error:
        return target.failing(engine, error)
    return target if there else replace(target, problem="there is no such image", hint=LIST_HINT)


def capture(capturing: Capturing, planned: Planned, target: Target, previous: Target | None) -> None:
    """Save the image and see that the archive holds it: exactly this image, under exactly the tags of the record."""
    # Deferred: see base.py.
    from drkit.pipeline.capture import can_take_over, capture_stream, take_over
    from drkit.pipeline.image_archive import PassingArchive
    from drkit.pipeline.stream import iterator_readinto
    from drkit.targets.pipes import capture_of, describe

    for attempt in range(1, _ATTEMPTS + 1):
        image, description = _asked_for(capturing, planned.name)
        target.source = _source(image, planned.name)
        describe(capturing, target, DOCUMENT, {key: description[key] for key in description.keys() - set(_STATE)})
        shared = capture_of(capturing, target)
        if (
            previous is not None
            and _same_image(previous, image)
            and can_take_over(shared, previous)
            and _has_its_file(capturing, previous, image)
        ):
            take_over(shared, previous)
            return
        archive, tags = PassingArchive(), tags_of(description, image)
        capture_stream(shared, iterator_readinto(archive.watched(save_image(capturing.engine, image, tags))))
        try:
            archive.require(image, tags)
        except ValueError as error:
            problem = f"image {planned.name}: the engine's archive is not that of the image: {error}"
            if attempt == _ATTEMPTS:
                raise CaptureFailed(problem, hint="Run drkit backup again when nobody tags images.") from None
            capturing.events.note(f"{problem}; saving it again")
        else:
            return


def _asked_for(capturing: Capturing, ref: str) -> tuple[ImageIdentity, Document]:
    """Return what the engine has under a reference. Raises CaptureFailed when it has nothing.

    Where a reference has a tag and a digest, the digest decides, as it does when the image is run.
    """
    description = describe_image(capturing.engine, ref)
    try:
        image = image_identity(description, ref)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CaptureFailed(f"image {ref}: what the engine says of it does not describe an image: {error!r}") from None
    unlisted = image.tags if image_reference(ref).digest and not tags_of(description, image) else ()
    if any(images.inspect(capturing.engine, tag) for tag in unlisted):
        capturing.events.warn(
            f"image {ref}: the tag {unlisted[0]} is another image's here, so this one is kept under its digest alone",
            hint="Write the reference without the tag, or with the digest that the tag has now.",
        )
        image = replace(image, tags=())
    return image, description


def _same_image(previous: Target, image: ImageIdentity) -> bool:
    return previous.source.get("image_id") == image.image_id and previous.source.get("tags") == list(image.tags)


def _has_its_file(capturing: Capturing, previous: Target, image: ImageIdentity) -> bool:
    """Whether a stored archive has the file that is named after the image: earlier versions did not compare them."""
    digest = image.image_id.removeprefix("sha256:").encode()
    named = {digest + b".json", b"blobs/sha256/" + digest}
    return any(member.path in named for member in capturing.reader.members(previous))


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
    """Load an image, and ask for it by each name that it was captured under.

    What is stored is checked before anything is sent: nothing but this image, and no tag but its own, reaches the
    engine. Raises DrkitError if a tag names another image here.
    """
    # Deferred: see base.py.
    from drkit.pipeline.image_archive import StoredArchive
    from drkit.repository.holders.custody import require_identity
    from drkit.repository.reader import ChunkReader
    from drkit.targets.pipes import description_of

    repository = restoring.repository
    require_identity(repository, "restoring")
    described = description_of(repository, plan.target, DOCUMENT) if plan.target.documents.tree else None
    image = _identity(plan.target, described)
    started = time.monotonic()
    size = 0
    with ChunkReader(repository) as reader:
        stored = StoredArchive(reader, plan.target, image)
        for tag in stored.tags:
            if images.known_as(tag) not in map(images.known_as, image.tags):
                restoring.events.warn(f"image {plan.name}: its archive also names {tag[:255]!a}, which is left alone")

        def archive() -> Iterator[bytes]:
            nonlocal size
            for piece in stored.untagged():
                size += len(piece)
                restoring.events.progress(f"image {plan.name}", len(piece))
                yield piece

        here = load_image(restoring.engine, image, archive())
    asked = _asked_names(plan.target, image)
    unresolved = tuple(name for name in asked if not _is(restoring.engine, name, here))
    known_as = next((name for name in asked if name not in unresolved), here)
    seconds = round(time.monotonic() - started, 3)
    return Restored(plan.name, plan.files, size, seconds, {"load": seconds}, unresolved, known_as)


def _asked_names(target: Target, image: ImageIdentity) -> list[str]:
    """The names under which the image was captured: a tag that was another image's then is none of them."""
    asked = image_reference(target.name)
    names = [*image.tags]
    if asked.by_digest is not None:
        names.append(asked.by_digest.familiar)
    elif not names:
        names.append(asked.familiar)  # a record of an earlier version, which took what the engine had found by less
    return names


def _is(engine: Engine, name: str, image_id: str) -> bool:
    there = images.inspect(engine, name)
    return there is not None and there["Id"] == image_id


def _identity(target: Target, described: Document | None) -> ImageIdentity:
    """The image that a record and its document describe. Earlier versions recorded all of it.

    Fields that this version does not know are ignored. Raises IntegrityError for what is missing or odd, and for tags
    that the target's own name does not ask for.
    """
    try:
        config = target.source.get("config") if described is None else image_config(described)
        image = build(ImageIdentity, _IDENTITY, {**target.source, "config": config})
        if not parse_reference(image.image_id).is_id:
            raise ValueError("image_id: not the id of an image")
        own = parse_reference(target.name).by_tag
        if any(parse_reference(tag) != own for tag in image.tags):
            raise ValueError("tags: not those of its name")
        return image
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
