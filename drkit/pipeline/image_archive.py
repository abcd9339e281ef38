"""The archive of one image, as `docker save` writes it: checked against the image that it should hold.

The engine writes into one tag after another whatever an archive names, so a stored archive is never sent to it as it
is: only the members that hold the image go, under headers made here, and with a manifest that names no tag.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from drkit.engine.image_identity import ImageIdentity
from drkit.engine.images import known_as
from drkit.errors import CaptureFailed, IntegrityError
from drkit.pipeline.paths import member_path
from drkit.pipeline.tar.frames import BLOCK, END_OF_ARCHIVE, SYMLINK, Frame, TarFramer
from drkit.repository.format.names import display_path
from drkit.repository.format.snapshot import Target
from drkit.repository.format.tree import Member
from drkit.repository.reader import ChunkReader

MANIFEST = b"manifest.json"
_INDEX = b"index.json"
_LAYOUT = b"oci-layout"
_BLOBS = b"blobs/sha256/"

_LARGEST_TEXT = 8 << 20
_MOST_TEXT = 64 << 20
"""Bytes of all manifests and configurations that are kept in memory while an archive goes by."""
_MOST_MEMBERS = 100_000
_MOST_MANIFESTS = 200
_PLAIN_PATH = re.compile(rb"(?!\.{1,2}(?:/|$))[\w.-]+(?:/(?!\.{1,2}(?:/|$))[\w.-]+)*")
_FILES = frozenset((ord("0"), 0))


class Entry(NamedTuple):
    """A member of an archive: whether it is a plain file, and where it leads to as a symbolic link."""

    is_file: bool
    symlink: bytes


@dataclass(frozen=True)
class ImageArchive:
    """What an archive says of its one image. `layers` are plain files, `tags` those that a plain load would set.

    `root` is the descriptor of the image in OCI's layout, for an image that its engine identifies by its manifest;
    None for one that is identified by its configuration.
    """

    config: bytes
    layers: tuple[bytes, ...]
    tags: tuple[str, ...]
    root: Mapping[str, Any] | None = None


def understood(image: ImageIdentity, entries: Mapping[bytes, Entry], read: Callable[[bytes], bytes]) -> ImageArchive:
    """Return what the archive says, if it holds `image`, the whole of it, and no other one.

    `read` returns the content of one file. Raises ValueError, saying what does not fit.
    """
    config_path, layers, tags = _manifest(_json(read(MANIFEST), MANIFEST))
    config_text = read(_file(config_path, entries))
    config_digest = f"sha256:{hashlib.sha256(config_text).hexdigest()}"
    root = None
    if image.image_id != config_digest:
        root = _root(image, config_digest, entries, read)
    _compare(image, _json(config_text, config_path))
    if len(layers) != len(image.layers):
        raise ValueError(f"its manifest names {len(layers)} layers, and the image has {len(image.layers)}")
    return ImageArchive(config_path, tuple(_file(layer, entries) for layer in layers), tags, root)


def _json(text: bytes, path: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{display_path(path)} is not JSON") from None


def _manifest(document: Any) -> tuple[bytes, list[bytes], tuple[str, ...]]:
    """Return the path of the configuration, those of the layers, and the tags."""
    if not isinstance(document, list) or not all(isinstance(each, dict) for each in document):
        raise ValueError("its manifest.json is no list of images")
    if len(document) != 1:
        raise ValueError(f"it holds {len(document)} images")
    [about] = document
    config, layers, tags = about.get("Config"), about.get("Layers") or [], about.get("RepoTags") or []
    texts = [config, *layers, *tags] if isinstance(layers, list) and isinstance(tags, list) else [None]
    if not all(isinstance(each, str) for each in texts):
        raise ValueError("its manifest.json does not describe an image")
    return _path(config), [_path(layer) for layer in layers], tuple(tags)


def _path(text: str) -> bytes:
    path = text.encode(errors="surrogatepass")
    if not _PLAIN_PATH.fullmatch(path):
        raise ValueError(f"its manifest names {display_path(path)}, which is not a path in it")
    return path


def _file(path: bytes, entries: Mapping[bytes, Entry]) -> bytes:
    """Return the path of the plain file that holds what is asked for: a layer that is there twice is a link once."""
    entry = entries.get(path)
    if entry is not None and entry.symlink:
        path = _linked(path, entry.symlink)
        entry = entries.get(path)
    if entry is None or not entry.is_file:
        raise ValueError(f"its manifest names {display_path(path)}, and there is no such file in it")
    return path


def _linked(path: bytes, link: bytes) -> bytes:
    parts = path.split(b"/")[:-1]
    for part in link.split(b"/"):
        if part == b".." and parts:
            parts.pop()
        else:
            parts.append(part)
    return b"/".join(parts)


def _compare(image: ImageIdentity, config: Any) -> None:
    if not isinstance(config, dict) or not isinstance(rootfs := config.get("rootfs"), dict):
        raise ValueError("its configuration does not describe an image")
    if rootfs.get("diff_ids") != list(image.layers):
        raise ValueError("its configuration names other layers than the image has")
    for key, wanted in (("os", image.os), ("architecture", image.architecture), ("variant", image.variant)):
        if config.get(key) and config[key] != wanted:  # the engine fills in what is missing
            raise ValueError(f"its configuration is for {key} {config[key]!a:.40}, not {wanted}")


def _root(
    image: ImageIdentity, config_digest: str, entries: Mapping[bytes, Entry], read: Callable[[bytes], bytes]
) -> Mapping[str, Any]:
    """Return the descriptor of an image that its engine identifies by a manifest, or by an index of manifests.

    Raises ValueError unless that leads to this configuration.
    """
    other = ValueError(f"it holds image {config_digest[:19]}, not {image.image_id[:19]}")
    if _INDEX not in entries or _LAYOUT not in entries:
        raise other
    roots = {str(each.get("digest")): each for each in _descriptors(_json(read(_INDEX), _INDEX), "manifests")}
    if len(roots) > 1:
        raise ValueError(f"it holds {len(roots)} images")
    found = roots.get(image.image_id)
    if found is None or config_digest not in _configs(image.image_id, entries, read):
        raise other
    return {key: found[key] for key in ("mediaType", "digest", "size") if key in found}


def _configs(
    digest: str, entries: Mapping[bytes, Entry], read: Callable[[bytes], bytes], *, depth: int = 2
) -> Iterator[str]:
    """Yield the digests of the configurations to which a manifest leads. Those of other platforms may be missing."""
    path = _BLOBS + digest.removeprefix("sha256:").encode(errors="surrogatepass")
    if path not in entries:
        return
    text = read(path)
    if f"sha256:{hashlib.sha256(text).hexdigest()}" != digest:
        raise ValueError(f"{display_path(path)} does not have its digest")
    document = _json(text, path)
    if isinstance(document, dict) and isinstance(config := document.get("config"), dict):
        yield str(config.get("digest"))
    elif depth:
        for each in _descriptors(document, "manifests"):
            yield from _configs(str(each.get("digest")), entries, read, depth=depth - 1)


def _descriptors(document: Any, key: str) -> list[dict[str, Any]]:
    found = document.get(key) if isinstance(document, dict) else None
    if not isinstance(found, list) or len(found) > _MOST_MANIFESTS or not all(isinstance(each, dict) for each in found):
        raise ValueError("an index in it is no list of manifests")
    return found


class PassingArchive:
    """Looks at an archive while it is captured: what is in it, and the texts that describe its image."""

    def __init__(self) -> None:
        self._framer = TarFramer()
        self._held = bytearray()
        self._base = 0
        """Offset of the first byte that is needed: where `_held` begins, or beyond all that has come."""
        self._came = 0
        self._whole: Frame | None = None
        """A member whose content is waited for."""
        self._room = _MOST_TEXT
        self._entries: dict[bytes, Entry] = {}
        self._texts: dict[bytes, bytes] = {}
        self._twice: bytes | None = None

    def watched(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the pieces of the archive as they come. Raises CaptureFailed for bytes that are not a tar stream."""
        for piece in pieces:
            self._look(piece)
            yield piece

    def require(self, image: ImageIdentity, tags: Collection[str]) -> None:
        """Raise ValueError unless the archive that went by holds `image`, under exactly these tags."""
        if self._twice is not None:
            raise ValueError(f"{display_path(self._twice)} is in it twice")
        archive = understood(image, self._entries, self._text)
        if set(map(known_as, archive.tags)) != set(map(known_as, tags)):
            raise ValueError(f"it names {', '.join(archive.tags) or 'no tag'}, not {', '.join(tags) or 'none'}")

    def _text(self, path: bytes) -> bytes:
        if path not in self._texts:
            raise ValueError(f"{display_path(path)} is missing in it, or too large")
        return self._texts[path]

    def _look(self, piece: bytes) -> None:
        start = self._came
        self._came += len(piece)
        if self._framer.ended or self._base >= self._came:
            return
        self._held += memoryview(piece)[max(0, self._base - start) :]
        view = memoryview(bytes(self._held))
        while self._whole is None or self._whole.end <= self._came:
            if self._whole is not None:
                self._keep(self._whole, view)
                self._whole = None
            frame = next(self._framer.frames(view, self._base), None)
            if frame is None:
                break
            if self._enter(frame):
                self._whole = frame
        needed = self._framer.next if self._whole is None else self._whole.data
        del self._held[: needed - self._base]
        self._base = needed

    def _enter(self, frame: Frame) -> bool:
        """Note a member. Returns whether its content may be a text that is needed."""
        path = member_path(frame.name)
        is_file = frame.flag in _FILES
        if path in self._entries and (is_file or self._entries[path].is_file):
            self._twice = path
        self._entries[path] = Entry(is_file, frame.link if frame.flag == SYMLINK else b"")
        return is_file and frame.size <= min(_LARGEST_TEXT, self._room)

    def _keep(self, frame: Frame, view: memoryview) -> None:
        content = bytes(view[frame.data - self._base : frame.data - self._base + frame.size])
        if content[:1] in (b"{", b"["):
            self._texts[member_path(frame.name)] = content
            self._room -= len(content)


class StoredArchive:
    """An archive in the repository. Its tree and its members are what a stranger may have written.

    Raises IntegrityError, here and while it is read, for what cannot be the archive of `image`.
    """

    def __init__(self, reader: ChunkReader, target: Target, image: ImageIdentity) -> None:
        self._reader = reader
        self._target = target
        self._members: dict[bytes, Member] = {}
        for member in reader.members(target):
            known = self._members.get(member.path)
            if known is not None and (_is_file(known) or _is_file(member)):
                raise self._damaged(f"{display_path(member.path)} is in it twice")
            if len(self._members) == _MOST_MEMBERS:
                raise self._damaged(f"it has more than {_MOST_MEMBERS} members")
            self._members[member.path] = member
        entries = {path: Entry(_is_file(member), member.symlink) for path, member in self._members.items()}
        try:
            self._archive = understood(image, entries, self._text)
        except ValueError as error:
            raise self._damaged(str(error)) from None

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags that it would set if it were loaded as it is."""
        return self._archive.tags

    def untagged(self) -> Iterator[bytes]:
        """Yield an archive of the same image that names no tag. The manifest comes last: a part of it loads nothing."""
        archive = self._archive
        manifest = [
            {
                "Config": archive.config.decode(),
                "RepoTags": None,
                "Layers": [layer.decode() for layer in archive.layers],
            }
        ]
        wanted = {archive.config, *archive.layers}
        if archive.root is not None:
            wanted |= {path for path, member in self._members.items() if _is_blob(path, member)}
        for path in self._members:
            if path in wanted:
                size, pieces = self._content(path)
                yield _header(path, size)
                yield from pieces
                yield bytes(-size % BLOCK)
        if archive.root is not None:
            index = {"schemaVersion": 2, "manifests": [archive.root]}
            yield from _written(_LAYOUT, {"imageLayoutVersion": "1.0.0"})
            yield from _written(_INDEX, index)
        yield from _written(MANIFEST, manifest)
        yield END_OF_ARCHIVE

    def _text(self, path: bytes) -> bytes:
        if path not in self._members:
            raise ValueError(f"{display_path(path)} is missing in it")
        size, pieces = self._content(path)
        if size > _LARGEST_TEXT:
            raise ValueError(f"{display_path(path)} has {size} bytes")
        return b"".join(pieces)

    def _content(self, path: bytes) -> tuple[int, Iterator[bytes]]:
        """Return the size and the content of a plain file, whatever the header that was stored calls it."""
        member = self._members[path]
        source = self._reader.extents([member])
        head = bytearray()
        frame = None
        try:
            for piece in source:
                head += piece
                frame = next(TarFramer().frames(memoryview(bytes(head)), 0), None)
                if frame is not None:
                    break
        except CaptureFailed as error:
            raise self._damaged(f"{display_path(path)}: {error.message}") from None
        if frame is None or frame.flag not in _FILES or frame.end != member.raw_size:
            raise self._damaged(f"{display_path(path)} is not one plain file")
        return frame.size, _limited(bytes(head[frame.data :]), source, frame.size)

    def _damaged(self, problem: str) -> IntegrityError:
        title = self._target.title
        return IntegrityError(
            f"the archive of {title} is not loaded: {problem}",
            hint="Restore it from another snapshot, and run drkit verify.",
            object_name=title,
        )


def _is_file(member: Member) -> bool:
    return member.stat.startswith(b"f") and not member.leader


def _is_blob(path: bytes, member: Member) -> bool:
    return _is_file(member) and bool(re.fullmatch(_BLOBS + rb"[0-9a-f]{64}", path))


def _limited(first: bytes, rest: Iterable[bytes | memoryview], size: int) -> Iterator[bytes]:
    """Yield `size` bytes: the padding of the stored member is left out."""
    left = size
    for piece in chain([first], rest):
        yield bytes(piece[:left])
        left -= min(left, len(piece))


def _header(path: bytes, size: int) -> bytes:
    entry = tarfile.TarInfo(path.decode())
    entry.size, entry.mode = size, 0o644
    return entry.tobuf(tarfile.PAX_FORMAT)


def _written(path: bytes, document: Any) -> Iterator[bytes]:
    text = json.dumps(document).encode()
    yield _header(path, len(text))
    yield text
    yield bytes(-len(text) % BLOCK)
