"""Networks of the engine: one function for each request."""

from __future__ import annotations

from collections.abc import Iterable

from drkit.engine.client import Document, Engine, filters
from drkit.engine.names import check_name


def find(engine: Engine, labels: Iterable[str] = ()) -> list[Document]:
    """All networks that carry every one of `labels` ("key" or "key=value")."""
    return list(engine.get("list of networks", "/networks", params=filters(label=labels)))


def inspect(engine: Engine, name: str) -> Document | None:
    """The document of the network with this name or id."""
    return engine.look_up(f"network {name}", f"/networks/{check_name('network', name)}")
