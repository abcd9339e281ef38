"""A proxy between a client and an S3 server over HTTP that treats some requests as bad networks do.

500        answers 500 InternalError without asking the server
503        answers 503 SlowDown, likewise
reset      reads half of the request and resets the connection
lost       lets the server do its work, then resets the connection instead of answering
truncate   sends half of the answer and closes the connection
trickle    sends the answer in small pieces with pauses
blackhole  lets the server do its work and keeps the connection open without answering
"""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple
from urllib.parse import urlsplit

FAULTS = ("500", "503", "reset", "lost", "truncate", "trickle", "blackhole")
_DROPPED_FROM_ANSWERS = {"transfer-encoding", "connection", "content-length"}


class Request(NamedTuple):
    number: int  # from 1
    method: str
    path: str
    headers: dict[str, str]


Choose = Callable[[Request], str | None]


class ToxicProxy:
    """Listens on its own port while it is entered. `seen` holds all requests, `done` counts the faults."""

    def __init__(self, upstream: str, choose: Choose | None = None) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "", parts.port or 80)
        self.choose: Choose = choose or (lambda request: None)
        self.seen: list[Request] = []
        self.done: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads: list[threading.Thread] = []
        self._clients: list[socket.socket] = []

    def __enter__(self) -> ToxicProxy:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for client in list(self._clients):
            with contextlib.suppress(OSError):  # closed already
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(60)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True, name="toxic-proxy")
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while not self._closing.is_set():
                client, _ = self._listener.accept()
                client.settimeout(60)
                self._clients.append(client)
                self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with contextlib.closing(client), contextlib.suppress(OSError, http.client.HTTPException):
            reader = client.makefile("rb")
            while self._serve_request(client, reader):
                pass

    def _serve_request(self, client: socket.socket, reader: object) -> bool:
        """Serve one request. Return whether the connection can carry another."""
        line = reader.readline()  # type: ignore[attr-defined]
        if not line:
            return False
        method, path, _ = line.decode("latin-1").split(" ", 2)
        headers: dict[str, str] = {}
        while line := reader.readline().decode("latin-1").strip():  # type: ignore[attr-defined]
            name, _, value = line.partition(":")
            headers[name.strip()] = value.strip()
        with self._lock:
            request = Request(len(self.seen) + 1, method, path, headers)
            self.seen.append(request)
            fault = self.choose(request)
            if fault:
                self.done[fault] += 1
        lower = {name.lower(): value for name, value in headers.items()}
        if lower.get("expect") == "100-continue":
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = int(lower.get("content-length", 0))
        if fault == "reset":
            reader.read(length // 2)  # type: ignore[attr-defined]
            return _reset(client)
        body = reader.read(length)  # type: ignore[attr-defined]
        if fault in ("500", "503"):
            code = "InternalError" if fault == "500" else "SlowDown"
            text = f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>".encode()
            client.sendall(b"HTTP/1.1 %s Toxic\r\nContent-Length: %d\r\n\r\n" % (fault.encode(), len(text)))
            if method != "HEAD":
                client.sendall(text)
            return method != "HEAD"
        head, data = self._forward(method, path, headers, body)
        match fault:
            case "lost":
                return _reset(client)
            case "blackhole":
                while not self._closing.is_set() and client.recv(1):
                    pass
                return False
            case "truncate":
                whole = head + data
                client.sendall(whole[: len(head) + len(data) // 2] if data else head[: len(head) // 2])
                return False
            case "trickle":
                client.sendall(head)
                for start in range(0, min(len(data), 2000), 100):
                    client.sendall(data[start : start + 100])
                    time.sleep(0.005)
                client.sendall(data[2000:])
            case _:
                client.sendall(head + data)
        return True

    def _forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[bytes, bytes]:
        """Return head and body of the server's answer."""
        connection = http.client.HTTPConnection(*self._upstream, timeout=60)
        with contextlib.closing(connection):
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                if name.lower() not in ("expect", "connection"):
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            data = answer.read()
        lines = [f"HTTP/1.1 {answer.status} {answer.reason}"]
        lines += [
            f"{name}: {value}" for name, value in answer.getheaders() if name.lower() not in _DROPPED_FROM_ANSWERS
        ]
        length = answer.getheader("Content-Length") if method == "HEAD" else str(len(data))
        if answer.status != 204:
            lines.append(f"Content-Length: {length or 0}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1"), data


def _reset(client: socket.socket) -> bool:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    return False


def seeded(rng: random.Random, share: float, faults: tuple[str, ...] = FAULTS) -> Choose:
    """Fail this share of all requests, each in one of these ways."""
    return lambda request: rng.choice(faults) if rng.random() < share else None


def scripted(*faults: str | None, method: str = "", path: str = "") -> Choose:
    """Do this to the first requests of this method whose path contains this text, and nothing to later ones."""
    left = list(faults)

    def choose(request: Request) -> str | None:
        if not left or not request.method.startswith(method) or path not in request.path:
            return None
        return left.pop(0)

    return choose
