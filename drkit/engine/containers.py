"""Containers of the engine: one function for each request."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from contextlib import ExitStack

from drkit.engine.client import Document, Engine, EngineError, filters
from drkit.engine.names import check_name


def find(engine: Engine, labels: Iterable[str] = (), *, status: Iterable[str] = ()) -> list[Document]:
    """All containers, stopped ones too, that carry every one of `labels` ("key" or "key=value").

    `status` restricts them to those in one of these states, such as "created".
    """
    params = {"all": 1, **filters(label=labels, status=status)}
    return list(engine.get("list of containers", "/containers/json", params=params))


def find_users(engine: Engine, volume: str, mountpoint: str = "", *, status: Iterable[str] = ()) -> list[Document]:
    """The containers that mount a volume or, if `mountpoint` is given, what is at that place on the host.

    `status` is that of `find`.
    """
    return [
        container
        for container in find(engine, status=status)
        if any(
            mount.get("Name") == volume or (mountpoint and f"{mount.get('Source')}/".startswith(f"{mountpoint}/"))
            for mount in container.get("Mounts") or []
        )
    ]


def name_of(container: Document) -> str:
    """What people call a container that `find` has listed."""
    return str(container["Names"][0]).removeprefix("/") if container.get("Names") else str(container["Id"][:12])


def inspect(engine: Engine, ref: str) -> Document | None:
    return engine.look_up(f"container {ref}", f"/containers/{check_name('container', ref)}/json")


def create(engine: Engine, config: Document) -> str:
    """Create a container from a document in the engine's own terms; return its id."""
    return str(engine.post(f"container from image {config['Image']}", "/containers/create", config)["Id"])


def start(engine: Engine, container: str) -> None:
    engine.post(_named(container), f"/containers/{container}/start")


def remove(engine: Engine, container: str) -> bool:
    """Kill and remove it with its anonymous volumes; False when it is gone or already being removed."""
    try:
        return engine.delete(_named(container), f"/containers/{container}", params={"v": 1, "force": 1})
    except EngineError as error:
        if error.status == 409:
            return False
        raise


def watch_removal(engine: Engine, container: str) -> Callable[[], int]:
    """Begin to wait until an auto-removed container has ended and is gone; on return the engine is waiting.

    The function returned blocks until then and returns the exit code.
    """
    waiting = ExitStack()
    path, params = f"/containers/{container}/wait", {"condition": "removed"}
    answer = waiting.enter_context(engine.stream(_named(container), "POST", path, params=params, silence=None))

    def exit_code() -> int:
        with waiting:
            return int(answer.json()["StatusCode"])

    return exit_code


def attach(engine: Engine, container: str, **streams: int) -> socket.socket:
    """Return the raw connection to a container's streams (stdin=1, stdout=1, stderr=1). The caller closes it."""
    params = {"stream": 1, **streams}
    return engine.hijack(_named(container), lambda api: api.attach_socket(container, params=params))


def ran_out_of_memory(engine: Engine, container: str) -> bool:
    """Whether the kernel killed something in this container for lack of memory, as far as the engine remembers.

    Ask only about a container that was killed: a False takes a second.
    """
    # A busy engine reports the kill up to 0.6 s after it has removed the container.
    until = f"{engine.time().timestamp() + 1:.9f}"  # engines before 23 read no other form
    params = {"since": "1", "until": until, **filters(container=[container], event=["oom"])}
    with engine.stream(_named(container), "GET", "/events", params=params, silence=60) as answer:
        return any(line.strip() for line in answer.iter_lines())


def _named(container: str) -> str:
    return f"container {container[:12]}"
