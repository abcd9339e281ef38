"""Images of the engine: one function for each request. What makes an image the same image: see image_identity.py."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, cast

from drkit.engine.client import Document, Engine, EngineError
from drkit.engine.names import check_reference
from drkit.errors import EngineUnavailable

# The engine spools an image before it sends the first byte of it, and unpacks one before it answers.
_WORK_SECONDS = 3600

_STREAM_CHUNK = 1 << 20
_TAR = {"Content-Type": "application/x-tar"}

_LOADED = re.compile(r"Loaded image(?: ID)?: (\S+)")


def inspect(engine: Engine, ref: str) -> Document | None:
    return engine.look_up(f"image {ref}", f"/images/{check_reference(ref)}/json")


def remove(engine: Engine, ref: str) -> bool:
    """Remove it; False when there was none."""
    return engine.delete(f"image {ref}", f"/images/{check_reference(ref)}")


def tag(engine: Engine, image_id: str, repository: str, tag: str) -> None:
    """Give an image a name. One that another image has is moved."""
    params = {"repo": repository, "tag": tag}
    engine.post(f"image {image_id[:19]}", f"/images/{check_reference(image_id)}/tag", params=params)


def digest_in_registry(engine: Engine, ref: str, *, timeout: float) -> str | None:
    """The digest of `ref` in its registry; None unless one confirms within `timeout` seconds that it has `ref`."""
    try:
        found = engine.get(f"image {ref}", f"/distribution/{check_reference(ref)}/json", timeout=timeout)
    except (EngineError, EngineUnavailable):
        return None
    return str(found["Descriptor"]["digest"])


def pull(engine: Engine, ref: str, *, silence: float) -> None:
    """Pull one image. `silence` bounds each wait for the engine's next message, in seconds."""
    params = {"fromImage": check_reference(ref)}
    if "@" not in ref and ":" not in ref.rpartition("/")[2]:
        params["tag"] = "latest"  # the engine would pull every tag
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


def save(engine: Engine, refs: Iterable[str]) -> Iterator[bytes]:
    """Yield the `docker save` archive of one or more images. Raises CaptureFailed when the engine breaks off."""
    names = [check_reference(ref) for ref in refs]
    doing = f"save of image {', '.join(names)}"
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
