"""The frame reader of the attach stream: whole frames arrive as they are, a cut one is never taken for the end."""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
from contextlib import closing

import pytest

from drkit.engine.helper.attach import pump_frames
from drkit.errors import CaptureFailed, EngineUnavailable


def frame(stream: int, payload: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(payload)) + payload


def pump(data: bytes, pieces: list[int] | None = None) -> tuple[bytes, bytes]:
    """Send `data` in the given pieces; what came out of stdout and stderr."""
    ours, theirs = socket.socketpair()
    outputs = {1: os.memfd_create("stdout"), 2: os.memfd_create("stderr")}

    def send() -> None:
        with closing(theirs):
            start = 0
            for end in [*(pieces or []), len(data)]:
                theirs.sendall(data[start:end])
                start = end

    thread = threading.Thread(target=send)
    thread.start()
    try:
        with closing(ours):
            pump_frames(ours, outputs, "container x")
        return os.pread(outputs[1], 1 << 24, 0), os.pread(outputs[2], 1 << 24, 0)
    finally:
        thread.join()
        for fd in outputs.values():
            os.close(fd)


def test_streams_are_told_apart() -> None:
    data = frame(1, b"one") + frame(2, b"error") + frame(1, b"") + frame(1, b"two")
    assert pump(data) == (b"onetwo", b"error")
    assert pump(b"") == (b"", b"")


def test_any_split_of_the_bytes_gives_the_same(rng: random.Random) -> None:
    payloads = [(rng.choice((1, 1, 2)), rng.randbytes(rng.randrange(200_000))) for _ in range(20)]
    data = b"".join(frame(stream, payload) for stream, payload in payloads)
    pieces = sorted(rng.randrange(len(data)) for _ in range(500))
    expected = tuple(b"".join(payload for stream, payload in payloads if stream == which) for which in (1, 2))
    assert pump(data, pieces) == expected


@pytest.mark.parametrize("length", range(1, 11 + 8 + 3))
def test_a_cut_anywhere_but_between_frames_is_an_error(length: int) -> None:
    data = frame(1, b"abc") + frame(2, b"de")
    if length in (11, len(data)):
        assert pump(data[:length])[0] == b"abc"
        return
    if length > len(data):
        data += frame(1, b"x" * 9)
    with pytest.raises(CaptureFailed, match="inside a frame"):
        pump(data[:length])


def test_what_is_no_frame_is_an_error() -> None:
    with pytest.raises(CaptureFailed, match="unknown stream 72"):
        pump(b"HTTP/1.1 500 Internal Server Error\r\n\r\n")


def test_a_reset_connection_is_an_error() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        with closing(ours), pytest.raises(EngineUnavailable, match="broke off"):
            pump_frames(ours, {}, "container x")
