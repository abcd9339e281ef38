"""The archive of one helper image, as the engine saves and loads it: checked against an id, and without names.

An archive can hold other images too, and tags, which a load moves. Of one that comes from elsewhere only the content
that the id stands for is used: the configuration whose digest the id is, and the layers whose digests that names.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from drkit.errors import IntegrityError

_IN_MEMORY = 32 << 20
_LONGEST_CONFIG = 4 << 20
_PIECE = 1 << 20


@dataclass(frozen=True)
class CheckedImage:
    """One image that is what its id says. `archive` is a file with a load archive without names, at its beginning."""

    architecture: str
    archive: IO[bytes]

    def pieces(self) -> Iterator[bytes]:
        while piece := self.archive.read(_PIECE):
            yield piece


def write_image(out: IO[bytes], config: bytes, layers: Iterable[tuple[int, IO[bytes]]]) -> None:
    """Write a load archive that names no image: a configuration, and its layers as sizes and contents."""
    names = []
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        name = f"{hashlib.sha256(config).hexdigest()}.json"
        _add(tar, name, len(config), io.BytesIO(config))
        for number, (size, content) in enumerate(layers):
            names.append(f"{number}/layer.tar")
            _add(tar, names[-1], size, content)
        manifest = json.dumps([{"Config": name, "RepoTags": None, "Layers": names}]).encode()
        _add(tar, "manifest.json", len(manifest), io.BytesIO(manifest))


def _add(tar: tarfile.TarFile, name: str, size: int, content: IO[bytes]) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = size
    tar.addfile(entry, content)


@contextmanager
def checked_image(archive: Iterable[bytes], image_id: str) -> Iterator[CheckedImage]:
    """Yield the one image of a saved archive. Raises IntegrityError unless it is whole, alone, and has this very id."""
    with SpooledTemporaryFile(_IN_MEMORY) as given, SpooledTemporaryFile(_IN_MEMORY) as made:
        for piece in archive:
            given.write(piece)
        given.seek(0)
        try:
            with tarfile.open(fileobj=given, mode="r:") as tar:
                config, layers = _parts(tar, image_id)
                write_image(made, config, ((member.size, _content(tar, member)) for member in layers))
        except (tarfile.TarError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise IntegrityError(
                f"helper image {image_id[:19]}: its archive does not hold that image alone: {error}",
                object_name="helper image",
            ) from error
        made.seek(0)
        yield CheckedImage(str(json.loads(config).get("architecture")), made)


def _parts(tar: tarfile.TarFile, image_id: str) -> tuple[bytes, list[tarfile.TarInfo]]:
    """The configuration and the members of the layers. What a member is called does not matter: its digest does."""
    found: dict[str, tarfile.TarInfo] = {}
    manifest: Any = None
    for member in tar:
        if not member.isreg() or member.issparse():  # sparse ones claim any size
            continue
        if member.name == "manifest.json":
            manifest = json.loads(_text(tar, member))
        found[_digest(_content(tar, member))] = member
    if not isinstance(manifest, list) or len(manifest) != 1:
        raise ValueError("it lists several images, or none")
    if image_id not in found:
        raise ValueError("no configuration has that id")
    config = _text(tar, found[image_id])
    layers = json.loads(config)["rootfs"]["diff_ids"]
    if missing := [layer for layer in layers if layer not in found]:
        raise ValueError(f"layer {missing[0]} is not in it")
    return config, [found[layer] for layer in layers]


def _digest(content: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while piece := content.read(_PIECE):
        digest.update(piece)
    return f"sha256:{digest.hexdigest()}"


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > _LONGEST_CONFIG:
        raise ValueError(f"{member.name} has {member.size} bytes")
    return _content(tar, member).read()


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(member)
    if content is None:
        raise ValueError(f"{member.name} is not a file")
    return content
