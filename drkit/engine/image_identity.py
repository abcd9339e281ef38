"""What makes an image the same image, and moving one out of the engine and back so that it stays the same."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drkit.engine import images
from drkit.engine.client import Document, Engine, EngineError
from drkit.engine.names import image_reference
from drkit.errors import CaptureFailed, DrkitError, IntegrityError

# The engine spools a whole copy of an image in its data root when it saves or loads one: the size that it reports,
# plus a little for tar's headers and the metadata.
_SPOOL_SHARE = 1.05
_SPOOL_MARGIN = 64 << 20
LIST_HINT = "List the images there are: docker image ls."
_MAX_DIGESTS = 100
"""Digests under which registries know an image, of which an image may have any number."""


@dataclass(frozen=True)
class ImageIdentity:
    """What makes an image this image.

    `tags` are those that the reference asked for: one, or none when it is an id or a digest alone. `image_id` is the
    digest of the configuration, or of the manifest if the engine uses containerd's image store; `layers` (the digests
    of the unpacked layers) and `config` are the same in both stores.
    """

    image_id: str
    tags: tuple[str, ...]
    repo_digests: tuple[str, ...]
    os: str
    architecture: str
    variant: str
    size: int
    layers: tuple[str, ...]
    config: dict[str, Any]

    @property
    def platform(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))

    def same_image(self, other: ImageIdentity) -> bool:
        """Whether both are the same image, even across image stores, which give it different ids."""
        if self.image_id == other.image_id:
            return True
        return (self.layers, self.platform, self.config) == (other.layers, other.platform, other.config)


def describe_image(engine: Engine, ref: str) -> Document:
    """What the engine says of an image. Raises CaptureFailed when there is none."""
    document = images.inspect(engine, ref)
    if document is None:
        raise CaptureFailed(f"image {ref}: no such image", hint=LIST_HINT)
    return document


def image_identity(document: Document, ref: str) -> ImageIdentity:
    """The identity of an image that the engine described, when it is asked for by `ref`."""
    asked = image_reference(ref)
    digests = sorted(document.get("RepoDigests") or [])
    wanted = [name for name in digests if asked.name and images.known_as(name) == asked.by_digest]
    return ImageIdentity(
        image_id=str(document["Id"]),
        tags=() if asked.by_tag is None else (asked.by_tag.familiar,),
        repo_digests=tuple(dict.fromkeys([*wanted, *digests]))[:_MAX_DIGESTS],
        os=str(document.get("Os") or ""),
        architecture=str(document.get("Architecture") or ""),
        variant=str(document.get("Variant") or ""),
        size=int(document.get("Size") or 0),
        layers=tuple((document.get("RootFS") or {}).get("Layers") or ()),
        config=image_config(document),
    )


def image_config(document: Document) -> dict[str, Any]:
    """The image's environment, command, labels and so on, as far as they are set."""
    return {key: value for key, value in (document.get("Config") or {}).items() if value}


def tags_of(document: Document, image: ImageIdentity) -> tuple[str, ...]:
    """Those of the image's `tags` that the engine lists."""
    known = {images.known_as(name) for name in document.get("RepoTags") or []}
    return tuple(tag for tag in image.tags if images.known_as(tag) in known)


def save_image(engine: Engine, image: ImageIdentity, tags: Sequence[str]) -> Iterator[bytes]:
    """Return the image's `docker save` archive: under these tags, so that a plain load brings them back, or its id.

    A tag may have moved meanwhile: see what the archive holds. Raises CaptureFailed when the engine lacks disk space
    for it, or breaks off.
    """
    check_space(engine, image.size, f"save of image {_name(image)}", CaptureFailed)
    return images.save(engine, tags or (image.image_id,))


def check_tags(engine: Engine, image: ImageIdentity) -> None:
    """Raise DrkitError when a tag of `image` belongs to another image here: setting it would move it silently."""
    for tag in image.tags:
        there = images.inspect(engine, tag)
        if there is not None and not image.same_image(image_identity(there, tag)):
            raise DrkitError(
                f"image {tag}: this tag is another image's here ({str(there['Id'])[:19]}, not {image.image_id[:19]})",
                hint=f"Give the other image another name first: docker tag {tag} {tag}-old && docker rmi {tag}.",
            )


def load_image(engine: Engine, image: ImageIdentity, archive: Iterable[bytes]) -> str:
    """Load an archive that names no tag, and give exactly this image exactly its tags; return its id here.

    Raises DrkitError before anything is loaded when a tag belongs to another image, or disk space is short. Afterwards
    a failure removes what was loaded, unless it was there before.
    """
    check_tags(engine, image)
    check_space(engine, image.size, f"load of image {_name(image)}", DrkitError)
    before = {str(each["Id"]) for each in images.find(engine)}
    # The image may have come although the engine's answer has not.
    loaded, tagged = {image.image_id}, []
    try:
        said = images.load(engine, archive)
        loaded.update(said)
        here = _loaded_id(engine, image, said)
        check_tags(engine, image)
        for tag in image.tags:
            there = images.inspect(engine, tag)
            if there is None or there["Id"] != here:
                tagged.append(tag)
                images.tag(engine, here, tag)
    except BaseException:
        _undo(engine, loaded, before, tagged)
        raise
    return here


def _loaded_id(engine: Engine, image: ImageIdentity, loaded: Sequence[str]) -> str:
    """Return the id under which the engine has `image` now. Raises IntegrityError if it loaded anything else."""
    name = _name(image)
    there = images.inspect(engine, loaded[0]) if len(loaded) == 1 else None
    if there is None:
        raise EngineError(f"image {name}: the engine loaded {', '.join(loaded)}, and not one image that it has")
    found = image_identity(there, image.image_id)
    if not image.same_image(found) or (image.layers, image.platform) != (found.layers, found.platform):
        raise IntegrityError(
            f"image {name}: the engine loaded {found.image_id[:19]} ({found.platform}), not {image.image_id[:19]} "
            f"({image.platform})",
            hint="Restore it from another snapshot, and run drkit verify.",
            object_name=name,
        )
    return found.image_id


def _undo(engine: Engine, loaded: Collection[str], before: Collection[str], tagged: Sequence[str]) -> None:
    """Remove the tags that were set, and what was loaded. An image that was there before, or has other names, stays."""
    try:
        for tag in tagged:
            there = images.inspect(engine, tag)
            # Removing its last name would remove the image.
            if there is not None and there["Id"] in loaded and (there["Id"] not in before or _names(there) > 1):
                images.remove(engine, tag)
        for image_id in set(loaded) - set(before):
            there = images.inspect(engine, image_id)
            if there is not None and not _names(there):
                images.remove(engine, image_id)
    except DrkitError as error:
        engine.events.warn(
            f"what was loaded for a restore that failed could not be removed: {error.message}",
            hint="See what is left: docker image ls --filter dangling=true.",
        )


def _names(document: Document) -> int:
    return len(document.get("RepoTags") or []) + len(document.get("RepoDigests") or [])


def check_space(engine: Engine, size: int, doing: str, error: type[DrkitError]) -> None:
    """Raise `error` when a copy of `size` bytes would fill the engine's disk, if its data root is on this host."""
    root = str(engine.facts().get("DockerRootDir") or "")
    if not engine.url.startswith("unix://") or not (Path(root) / "image").is_dir():
        return
    needed = int(size * _SPOOL_SHARE) + _SPOOL_MARGIN
    free = shutil.disk_usage(root).free
    if free < needed:
        raise error(
            f"{doing}: {free >> 20} MiB are free in {root}, and the engine needs {needed >> 20} MiB for its copy",
            hint="Free some space there, for example with docker builder prune.",
        )


def _name(image: ImageIdentity) -> str:
    return image.tags[0] if image.tags else image.image_id[:19]
