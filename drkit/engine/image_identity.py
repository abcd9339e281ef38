"""What makes an image the same image, and moving one out of the engine and back so that it stays the same."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drkit.engine import images
from drkit.engine.client import Document, Engine, EngineError
from drkit.errors import CaptureFailed, DrkitError, IntegrityError

# The engine spools a whole copy of an image in its data root when it saves or loads one: the size that it reports,
# plus a little for tar's headers and the metadata.
_SPOOL_SHARE = 1.05
_SPOOL_MARGIN = 64 << 20
_MAX_DIGESTS = 100
"""Digests under which registries know an image, of which an image may have any number."""


@dataclass(frozen=True)
class ImageIdentity:
    """What makes an image this image.

    `tags` are those that a save under the given reference keeps: that reference, or none when it is an id or a digest.
    `image_id` is the digest of the configuration, or of the manifest if the engine uses containerd's image store;
    `layers` (the digests of the unpacked layers) and `config` are the same in both stores.
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
        raise CaptureFailed(f"image {ref}: no such image", hint="List the images there are: docker image ls.")
    return document


def image_identity(document: Document, ref: str) -> ImageIdentity:
    """The identity of an image that the engine described, when it is asked for by `ref`."""
    tags = document.get("RepoTags") or []
    wanted = _tag_of(ref)
    return ImageIdentity(
        image_id=str(document["Id"]),
        tags=tuple(tag for tag in tags if tag in (wanted, ref)),
        repo_digests=tuple(sorted(document.get("RepoDigests") or [])[:_MAX_DIGESTS]),
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


def _tag_of(ref: str) -> str:
    """The reference as the engine lists it: with its tag, without Docker Hub's name or `library/`."""
    name = ref.removeprefix("docker.io/").removeprefix("index.docker.io/").removeprefix("library/")
    return name if ":" in name.rpartition("/")[2] or "@" in name else f"{name}:latest"


def save_image(engine: Engine, image: ImageIdentity) -> Iterator[bytes]:
    """Return the image's `docker save` archive: under its tags, so that a load brings them back, else under its id.

    Raises CaptureFailed when the engine lacks disk space for it, or breaks off.
    """
    check_space(engine, image.size, f"save of image {_name(image)}", CaptureFailed)
    return images.save(engine, image.tags or (image.image_id,))


def check_tags(engine: Engine, image: ImageIdentity) -> None:
    """Raise DrkitError when a tag of `image` belongs to another image here: `docker load` would move it silently."""
    for tag in image.tags:
        there = images.inspect(engine, tag)
        if there is not None and not image.same_image(image_identity(there, tag)):
            raise DrkitError(
                f"image {tag}: this tag is another image's here ({str(there['Id'])[:19]}, not {image.image_id[:19]})",
                hint=f"Give the other image another name first: docker tag {tag} {tag}-old && docker rmi {tag}.",
            )


def load_image(engine: Engine, image: ImageIdentity, archive: Iterable[bytes]) -> None:
    """Load a saved image, and check that the engine now has exactly this image under exactly its tags.

    Raises DrkitError before anything is loaded when a tag belongs to another image, or disk space is short.
    """
    check_tags(engine, image)
    check_space(engine, image.size, f"load of image {_name(image)}", DrkitError)
    loaded = images.load(engine, archive)
    for ref in image.tags or loaded[:1]:
        there = images.inspect(engine, ref)
        if there is None:
            raise EngineError(f"image {ref}: the engine loaded {', '.join(loaded)}, but does not have it")
        if not image.same_image(image_identity(there, ref)):
            raise IntegrityError(
                f"image {ref}: the engine loaded {str(there['Id'])[:19]}, not {image.image_id[:19]}", object_name=ref
            )


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
