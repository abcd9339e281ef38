"""Images of the engine: one function for each request. What makes an image the same image: see image_identity.py."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

from drkit.engine.client import Document, Engine, EngineError
from drkit.engine.names import image_reference
from drkit.errors import EngineUnavailable
from drkit.policy.references import Reference, parse_reference

# The engine spools an image before it sends the first byte of it, and unpacks one before it answers.
_WORK_SECONDS = 3600

_STREAM_CHUNK = 1 << 20
_TAR = {"Content-Type": "application/x-tar"}

_LOADED = re.compile(r"Loaded image(?: ID)?: (\S+)")


def find(engine: Engine) -> list[Document]:
    return list(engine.get("list of images", "/images/json"))


def inspect(engine: Engine, ref: str) -> Document | None:
    """The document of the image that goes by exactly this reference; None when there is none.

    Raises UsageError for what cannot be a reference.
    """
    asked = image_reference(ref)
    document = engine.look_up(f"image {ref}", f"/images/{asked.full}/json")
    return document if document is not None and _answers(document, asked) else None


def _answers(document: Document, asked: Reference) -> bool:
    """Whether the engine described what was asked for. It finds images by less: by the first digits of an id."""
    if asked.is_id:
        return document.get("Id") == asked.digest
    # The engine goes by the digest alone where there is one, and so does whoever runs the image.
    wanted, known = (asked.by_digest, "RepoDigests") if asked.digest else (asked, "RepoTags")
    return wanted in map(known_as, document.get(known) or [])


def known_as(name: str) -> Reference | None:
    """A name as the engine lists it; None for one that is no reference, such as `<none>:<none>`."""
    try:
        return parse_reference(name)
    except (ValueError, TypeError):
        return None


def tag(engine: Engine, image_id: str, ref: str) -> None:
    """Give an image the tag that `ref` names. The engine takes it away from another image without a word."""
    name = image_reference(ref)
    engine.post(f"image {ref}", f"/images/{image_id}/tag", params={"repo": name.name, "tag": name.tag})


def remove(engine: Engine, ref: str) -> bool:
    """Remove a tag, and the image with its last one, or an image by its id; False when there was none.

    Images that it was built on stay.
    """
    return engine.delete(f"image {ref}", f"/images/{image_reference(ref).full}", params={"noprune": 1})


def digest_in_registry(engine: Engine, ref: str, *, timeout: float) -> str | None:
    """The digest of `ref` in its registry; None unless one confirms within `timeout` seconds that it has `ref`."""
    try:
        found = engine.get(f"image {ref}", f"/distribution/{image_reference(ref).full}/json", timeout=timeout)
    except (EngineError, EngineUnavailable):
        return None
    return str(found["Descriptor"]["digest"])


def pull(engine: Engine, ref: str, *, silence: float) -> None:
    """Pull one image. `silence` bounds each wait for the engine's next message, in seconds."""
    params = {"fromImage": image_reference(ref).full}
    _work(engine, f"pull of image {ref}", "/images/create", silence=silence, params=params)


def build(engine: Engine, context: bytes, what: str, *, silence: float) -> str:
    """Build an image, without a name, from a tar of its context with the engine's classic builder; return its id.

    Nothing is taken from the builder's cache, which knows steps by their text alone. `what` is for messages; `silence`
    bounds each wait for the engine's next message, in seconds.
    """
    doing = f"build of {what}"
    params = {"rm": 1, "forcerm": 1, "nocache": 1}
    said = _work(engine, doing, "/build", silence=silence, params=params, data=context, headers=_TAR)
    ids = [str(message["aux"]["ID"]) for message in said if "ID" in (message.get("aux") or {})]
    if not ids:
        raise EngineError(f"{doing}: the engine reported success, but not which image it built")
    return ids[-1]


def save(engine: Engine, refs: Sequence[str]) -> Iterator[bytes]:
    """Yield the `docker save` archive of one or more images. Raises CaptureFailed when the engine breaks off."""
    doing = f"save of image {', '.join(refs)}"
    names = [image_reference(ref).full for ref in refs]
    with engine.stream(
        doing, "GET", "/images/get", params={"names": names}, silence=_WORK_SECONDS, capturing=True
    ) as answer:
        yield from cast("Iterator[bytes]", answer.iter_content(_STREAM_CHUNK))


def load(engine: Engine, archive: Iterable[bytes]) -> list[str]:
    """Load a `docker save` archive; return what the engine says it loaded, each by id or tag."""
    doing = "load of an image"
    said = _work(
        engine,
        doing,
        "/images/load",
        silence=_WORK_SECONDS,
        params={"quiet": 1},
        data=iter(archive),
        headers=_TAR,
    )
    text = "".join(message.get("stream", "") for message in said)
    loaded = _LOADED.findall(text)
    if not loaded:
        raise EngineError(f"{doing}: the engine loaded nothing ({text.strip() or 'no message'})")
    return loaded


def _work(engine: Engine, doing: str, path: str, *, silence: float, **request: Any) -> list[Document]:
    """Have the engine work, and return what it said. It reports a failure among its messages, after a status of 200."""
    said = []
    with engine.stream(doing, "POST", path, silence=silence, **request) as answer:
        for line in answer.iter_lines():
            message = json.loads(line) if line.strip() else {}
            if "error" in message:
                raise EngineError(f"{doing}: {message['error']}", said=str(message["error"]))
            said.append(message)
    return said
