"""An S3 server that lies about sizes and never ends: no answer takes more memory than was asked for."""

from __future__ import annotations

import os
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType

import pytest

from drkit.errors import IntegrityError, StorageUnavailable
from drkit.storage.retry import RetryPolicy
from drkit.storage.s3.bucket import S3Storage, open_bucket
from drkit.storage.s3.settings import S3Settings
from tests.support.s3 import credentials

MIB = 1 << 20
ONCE = RetryPolicy(attempts=2, total=20, first_wait=0.01, longest_wait=0.05, connect=5, read=5)
ENDLESS = 1 << 40


class LyingServer:
    """Answers every request with `head`, then with zeros: `bytes` of them, or as many as the client takes."""

    def __init__(self) -> None:
        self.head = b""
        self.bytes = ENDLESS
        self.sent = 0
        self.requests: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> LyingServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def answer(self, status: str, *headers: str, size: int = ENDLESS) -> None:
        self.head = "\r\n".join([f"HTTP/1.1 {status}", *headers, "Connection: close", "", ""]).encode()
        self.bytes = size

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client, suppress(OSError):
                    self._serve(client)

    def _serve(self, client: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += client.recv(65536)
        self.requests.append(request)
        client.sendall(self.head)
        left, zeros = self.bytes, bytes(MIB)
        while left:
            count = client.send(zeros[: min(left, MIB)])
            self.sent += count
            left -= count


@pytest.fixture
def server() -> Iterator[LyingServer]:
    with LyingServer() as server, credentials("key", "secret"):
        yield server


@pytest.fixture
def storage(server: LyingServer) -> S3Storage:
    return open_bucket("s3://bucket/prefix", S3Settings(endpoint=server.url, region="us-east-1"), ONCE)


def peak(action: Callable[[], object]) -> tuple[int, object]:
    """Most memory that an action held at once, and what it returned."""
    tracemalloc.start()
    try:
        result = action()
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


def refused(action: Callable[[], object], error: type[Exception], match: str) -> None:
    def attempt() -> None:
        with pytest.raises(error, match=match):
            action()

    most, _ = peak(attempt)
    assert most < 4 * MIB


def test_an_object_that_says_it_is_too_large_is_not_read(server: LyingServer, storage: S3Storage) -> None:
    server.answer("200 OK", f"Content-Length: {50 << 30}")
    refused(lambda: storage.get("snapshots/x", limit=MIB), IntegrityError, rf"snapshots/x .*{50 << 30} bytes.*{MIB}")
    assert len(server.requests) == 1  # trying again would not help


def test_what_goes_on_behind_the_length_it_states_is_cut(server: LyingServer, storage: S3Storage) -> None:
    server.answer("200 OK", "Content-Length: 1000")
    most, body = peak(lambda: storage.get("snapshots/x", limit=MIB))
    assert body == bytes(1000)
    assert most < 4 * MIB


def test_an_object_without_a_length_is_not_read(server: LyingServer, storage: S3Storage) -> None:
    server.answer("200 OK")
    refused(lambda: storage.get("snapshots/x", limit=MIB), StorageUnavailable, "does not tell how long")
    server.answer("200 OK", "Transfer-Encoding: chunked")
    refused(lambda: storage.get("snapshots/x", limit=MIB), StorageUnavailable, "does not tell how long")


@pytest.mark.parametrize("length", [1000, ENDLESS])
def test_a_server_that_ignores_ranges_is_named(server: LyingServer, storage: S3Storage, length: int) -> None:
    server.answer("200 OK", f"Content-Length: {length}")
    refused(lambda: storage.get("packs/aa/x", 10, 5), StorageUnavailable, "another range")


def test_more_than_the_range_is_cut(server: LyingServer, storage: S3Storage) -> None:
    server.answer("206 Partial Content", "Content-Range: bytes 10-14/5000", f"Content-Length: {ENDLESS}")
    most, body = peak(lambda: storage.get("packs/aa/x", 10, 5))
    assert body == bytes(5)
    assert most < 4 * MIB


@pytest.mark.parametrize("size", [50 << 30, MIB + 11])
def test_the_rest_of_an_object_is_no_larger_than_the_limit(server: LyingServer, storage: S3Storage, size: int) -> None:
    server.answer("206 Partial Content", f"Content-Range: bytes 10-{size - 1}/{size}", "Content-Length: 5")
    refused(lambda: storage.get("packs/aa/x", 10, limit=MIB), IntegrityError, rf"packs/aa/x .*{size - 10} bytes")


@pytest.mark.parametrize("status", ["404 Not Found", "403 Forbidden", "400 Bad Request"])
@pytest.mark.parametrize("headers", [(), (f"Content-Length: {ENDLESS}",)])
def test_an_error_without_an_end_is_one(
    server: LyingServer, storage: S3Storage, status: str, headers: tuple[str, ...]
) -> None:
    server.answer(status, *headers)

    def attempt() -> None:
        with pytest.raises(StorageUnavailable, match="does not end") as caught:
            storage.get("snapshots/x")
        assert "secret" not in caught.value.message

    most, _ = peak(attempt)
    assert most < 64 * MIB
    assert len(server.requests) == 1


def test_a_listing_without_an_end_is_an_error(server: LyingServer, storage: S3Storage) -> None:
    server.answer("200 OK", "Content-Type: application/xml")

    def attempt() -> None:
        with pytest.raises(StorageUnavailable, match="does not end"):
            list(storage.list("snapshots/"))

    most, _ = peak(attempt)
    assert most < 64 * MIB


def test_what_is_compared_after_a_conflict_is_no_longer_than_what_was_sent(
    server: LyingServer, storage: S3Storage
) -> None:
    """A put that meets an object reads it back, to tell its own bytes from others."""
    server.answer("412 Precondition Failed", "Content-Length: 0", size=0)
    heads = iter([server.head, b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\n"])
    serve = server._serve

    def turns(client: socket.socket) -> None:
        server.head = next(heads)
        server.bytes = 0 if server.head.startswith(b"HTTP/1.1 412") else ENDLESS
        serve(client)

    server._serve = turns  # type: ignore[method-assign]
    most, _ = peak(lambda: storage.put("snapshots/x", bytes(100)))  # zeros: our own bytes, as it seems
    assert most < 4 * MIB
    assert os.environ["AWS_ACCESS_KEY_ID"] == "key"
