"""A proxy before a Docker Engine, on a socket of its own, that answers some requests itself.

Each connection carries one request, so that all of them are seen; what is not answered here goes through as it is,
attached streams included.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple
from urllib.parse import unquote


class Request(NamedTuple):
    method: str
    path: str  # without the API's version, decoded, with its query


class Answer(NamedTuple):
    """`status` 0 is no answer at all, for `seconds`."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    seconds: float = 0.0


def refusal(status: int, said: str) -> Answer:
    return Answer(status, json.dumps({"message": said}).encode())


Choose = Callable[[Request], Answer | None]


class EngineProxy:
    """Listens while it is entered. `seen` holds all requests; `choose` may do something itself before it answers."""

    def __init__(self, upstream: str, directory: Path, choose: Choose) -> None:
        """Its socket is in `directory`, which must have a short path."""
        self._upstream = upstream.removeprefix("unix://")
        self.choose = choose
        self.seen: list[Request] = []
        self._closing = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._path = directory / "engine.sock"
        self._listener.bind(str(self._path))
        self._listener.listen(64)
        self.env: Mapping[str, str] = {"DOCKER_HOST": f"unix://{self._path}"}

    def __enter__(self) -> EngineProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._path.unlink()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            head, rest = _head(client)
            if not head:
                return
            method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
            request = Request(method, unquote(re.sub(r"^/v[\d.]+", "", target)))
            self.seen.append(request)
            answer = self.choose(request)
            if answer is None:
                self._pass(client, head, rest)
            elif answer.status == 0:
                self._closing.wait(answer.seconds)
            else:
                client.sendall(
                    b"HTTP/1.1 %d X\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
                    % (answer.status, answer.content_type.encode(), len(answer.body))
                    + answer.body
                )

    def _pass(self, client: socket.socket, head: bytes, rest: bytes) -> None:
        if b"\r\nupgrade:" not in head.lower():
            head = re.sub(rb"(?i)\r\nconnection:[^\r]*", b"", head).replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        with socket.socket(socket.AF_UNIX) as engine:
            engine.connect(self._upstream)
            engine.sendall(head + rest)
            up = threading.Thread(target=_pump, args=[client, engine], daemon=True)
            up.start()
            _pump(engine, client)
            client.shutdown(socket.SHUT_RDWR)
            up.join(10)


def _head(client: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(65536)
        if not piece:
            return b"", b""
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", rest


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(1 << 16):
            sink.sendall(piece)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
