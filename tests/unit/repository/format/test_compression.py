"""zstd frames: one whole frame that states its size, with nothing around it, and no more memory than that."""

from __future__ import annotations

import random
import tracemalloc

import pytest
import zstandard

from drkit.errors import IntegrityError
from drkit.repository.format.compression import MAX_WINDOW, compress, decompress

MAGIC = b"\x28\xb5\x2f\xfd"
CONTENT = b"some text " * 100
FRAME = compress(CONTENT)
SKIPPABLE = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"stuff"


def frame(content: bytes, *, size: int | None = None, window: int | None = None, dictionary: int = 0) -> bytes:
    """A frame with one raw block. `size` is what it states; `window`: the exponent, for a frame that states one."""
    single = window is None
    head = MAGIC + bytes([2 << 6 | single << 5 | (3 if dictionary else 0)])
    head += b"" if window is None else bytes([window - 10 << 3])
    head += dictionary.to_bytes(4, "little") if dictionary else b""
    head += (len(content) if size is None else size).to_bytes(4, "little")
    return head + (1 | len(content) << 3).to_bytes(3, "little") + content


def test_frames_made_by_hand_are_frames() -> None:
    """Else the forgeries below would prove nothing."""
    assert decompress(frame(CONTENT), limit=1000) == CONTENT
    assert decompress(frame(CONTENT, window=23), limit=1000) == CONTENT
    assert zstandard.get_frame_parameters(frame(CONTENT, window=31)).window_size == 1 << 31
    assert zstandard.get_frame_parameters(frame(CONTENT, dictionary=7)).dict_id == 7


@pytest.mark.parametrize(
    ("forged", "why"),
    [
        (FRAME + b"x", "unused data"),
        (FRAME + bytes(1000), "unused data"),
        (FRAME + FRAME, "unused data"),
        (FRAME + SKIPPABLE, "unused data"),
        (SKIPPABLE + FRAME, "does not begin with a zstd frame"),
        (SKIPPABLE, "does not begin with a zstd frame"),
        (b"\x27\xb5\x2f\xfd" + FRAME[4:], "does not begin with a zstd frame"),
        (b"", "does not begin with a zstd frame"),
        (MAGIC, "declares|damaged"),
        (zstandard.ZstdCompressor(write_content_size=False).compress(CONTENT), "declares -1 bytes"),
        (compress(CONTENT + b"x"), "declares 1001 bytes, expected at most 1000"),
        (frame(CONTENT, size=1 << 31), f"declares {1 << 31} bytes"),
        (frame(CONTENT, size=999), "damaged"),
        (frame(CONTENT[:-1], size=1000), "damaged"),
        (frame(CONTENT, window=24), "larger window"),
        (frame(CONTENT, window=31), "larger window"),
        (frame(CONTENT, window=41), "damaged"),
        (frame(CONTENT, dictionary=7), "dictionary"),
        (FRAME[:-1], "damaged"),
        (FRAME[:6], "damaged|declares"),
    ],
    ids=map(str, range(20)),
)
def test_what_is_not_one_whole_frame_is_refused(forged: bytes, why: str) -> None:
    with pytest.raises(IntegrityError, match=why):
        decompress(forged, limit=1000)


def test_no_memory_is_taken_for_what_a_frame_claims() -> None:
    bomb = compress(bytes(64 << 20))
    assert len(bomb) < 10_000
    tracemalloc.start()
    try:
        for forged in (bomb, frame(CONTENT, size=1 << 30), frame(CONTENT, window=31)):
            with pytest.raises(IntegrityError):
                decompress(forged, limit=1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_791, 65_792, 1 << 20])
@pytest.mark.parametrize("level", [1, 3, 9, 19, 22])
def test_frames_of_every_level_are_read(size: int, level: int, seed: int) -> None:
    """Any writer may choose its level. Above 19 the window is the content itself, or 8 MiB do not suffice."""
    content = random.Random(seed).randbytes(size // 2) + bytes(size - size // 2)
    made = zstandard.ZstdCompressor(level=level).compress(content)
    assert decompress(made, limit=size) == content


def test_the_window_of_level_19_is_the_largest() -> None:
    """And that of a frame which is one segment is its content."""
    window = zstandard.get_frame_parameters(zstandard.ZstdCompressor(level=19).compress(bytes(40 << 20))).window_size
    assert window == MAX_WINDOW
    content = bytes(9 << 20)
    made = zstandard.ZstdCompressor(level=22).compress(content)
    assert zstandard.get_frame_parameters(made).window_size == len(content) > MAX_WINDOW
    assert decompress(made, limit=len(content)) == content
