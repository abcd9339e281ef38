"""Framing of tar streams: GNU tar is the writer, `tarfile` a second opinion. Then renaming and describing."""

from __future__ import annotations

import io
import os
import random
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from drkit.errors import CaptureFailed, IntegrityError
from drkit.pipeline.describe import Description, describe, differences
from drkit.pipeline.paths import listed_name, member_path
from drkit.pipeline.stream import MemberStream, iterator_readinto
from drkit.pipeline.tar.frames import (
    BLOCK,
    END_OF_ARCHIVE,
    HARD_LINK,
    MAX_EXTENDED,
    Frame,
    TarFramer,
    pax_records,
    read_number,
)
from drkit.pipeline.tar.rename import renamed
from tests.support.host_tar import create_tar, extract_tar, scan_directory
from tests.support.torture import make_torture_tree
from tests.support.treecompare import compare_trees

GIB = 1 << 30


def frames_of(archive: bytes) -> tuple[list[Frame], bool]:
    framer = TarFramer()
    return list(framer.frames(memoryview(archive), 0)), framer.ended


def header(
    name: bytes = b"a",
    *,
    size: bytes = b"00000000000\0",
    flag: bytes = b"0",
    link: bytes = b"",
    prefix: bytes = b"",
    magic: bytes = b"ustar\x0000",
) -> bytes:
    """A member's own block, by hand. The framer needs no checksum, and these never reach another reader."""
    block = name.ljust(100, b"\0") + b"0000644\0" * 3 + size + b"00000000000\0" + b"        " + flag
    block += link.ljust(100, b"\0") + magic + bytes(80) + prefix.ljust(155, b"\0")
    assert len(block) == 500
    return block + bytes(12)


def octal(number: int) -> bytes:
    return b"%011o\0" % number


def extended(flag: bytes, body: bytes) -> bytes:
    return header(b"PaxHeaders/a", size=octal(len(body)), flag=flag) + body + bytes(-len(body) % BLOCK)


def record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d" % length + rest


# --- real archives ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torture(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    root = tmp_path_factory.mktemp("torture")
    make_torture_tree(root, random.Random(seed), many=100)
    return root


@pytest.fixture(scope="module")
def archive(torture: Path) -> bytes:
    return create_tar(torture, (entry.path for entry in scan_directory(torture)))


def test_a_scan_names_exactly_the_members_of_the_archive(torture: Path, archive: bytes) -> None:
    frames, ended = frames_of(archive)
    assert ended
    assert [member_path(frame.name) for frame in frames] == [entry.path for entry in scan_directory(torture)]


def test_members_lie_end_to_end(archive: bytes) -> None:
    frames, _ = frames_of(archive)
    assert frames[0].start == 0
    assert all(before.end == after.start for before, after in pairwise(frames))
    assert archive[frames[-1].end :].strip(b"\0") == b""
    assert len(archive) - frames[-1].end >= len(END_OF_ARCHIVE)


def agrees(frame: Frame, info: tarfile.TarInfo) -> bool:
    """Whether `tarfile` sees the same member. Of a sparse one it tells the whole size, and the data after the map."""
    # tarfile gets sparse names that hold a newline wrong, but keeps their record.
    name = os.fsencode(info.pax_headers.get("GNU.sparse.name", info.name))
    link = os.fsencode(info.linkname)
    same = frame.name.rstrip(b"/") == name and frame.link == link
    if "GNU.sparse.major" in info.pax_headers:
        return same and frame.start == info.offset and frame.data < info.offset_data <= frame.end
    return same and (frame.start, frame.data, frame.size) == (info.offset, info.offset_data, info.size)


def test_tarfile_sees_the_same_members(archive: bytes) -> None:
    frames, _ = frames_of(archive)
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        infos = opened.getmembers()
    assert len(frames) == len(infos)
    assert [info.name for frame, info in zip(frames, infos, strict=True) if not agrees(frame, info)] == []
    assert any("GNU.sparse.major" in info.pax_headers and info.size > 8 * GIB for info in infos)
    assert any(info.islnk() for info in infos)
    assert any(len(info.name) > 1000 for info in infos)


def in_windows(archive: bytes, rng: random.Random, largest: int) -> tuple[list[Frame], bool]:
    """Frame a stream as its reader does: pieces of random length, bytes before `next` forgotten now and then."""
    framer, base, end = TarFramer(), 0, 0
    frames: list[Frame] = []
    while end < len(archive):
        end = min(len(archive), end + rng.randrange(1, largest))
        frames += framer.frames(memoryview(archive)[base:end], base)
        if rng.random() < 0.5:
            base = min(max(base, framer.next), end)
    return frames, framer.ended


@pytest.mark.parametrize("largest", [600, 5000, 100_000])
def test_any_division_of_the_stream_gives_the_same_members(archive: bytes, rng: random.Random, largest: int) -> None:
    expected, _ = frames_of(archive)
    # From a member on: the first ones would else be all that small pieces ever reach in reasonable time.
    for _ in range(3):
        first = rng.randrange(len(expected) - 100)
        start = expected[first].start
        part = archive[start:] if largest > 600 else archive[start : expected[first + 60].start] + END_OF_ARCHIVE
        assert in_windows(part, rng, largest) == frames_of(part)


def test_a_cut_stream_never_ends_well(archive: bytes) -> None:
    frames, _ = frames_of(archive)
    end = frames[-1].end + len(END_OF_ARCHIVE)
    framer = TarFramer()
    view = memoryview(archive)
    for cut in range(0, end, BLOCK):
        list(framer.frames(view[:cut], 0))  # goes on where it stopped: as if cut there, at each block in turn
        assert not framer.ended, cut
    list(framer.frames(view[:end], 0))
    assert framer.ended


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_other_writers(kind: int) -> None:
    names = ["a", "d/" * 40 + "long", "n" * 99, "p" * 50 + "/" + "n" * 98]
    if kind != tarfile.USTAR_FORMAT:
        names += ["e" * 300, "d/" * 200 + "very/long", "\u00e9" * 100, "\udcff"]
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=kind, pax_headers={"comment": "global"}) as writer:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = number * 700
            writer.addfile(info, io.BytesIO(bytes([number]) * info.size))
            link = tarfile.TarInfo(f"link-{number}")
            link.type = tarfile.LNKTYPE if number % 2 else tarfile.SYMTYPE
            link.linkname = name[:100] if kind == tarfile.USTAR_FORMAT else name
            writer.addfile(link)
    frames, ended = frames_of(output.getvalue())
    assert ended
    with tarfile.open(fileobj=io.BytesIO(output.getvalue())) as opened:
        infos = opened.getmembers()
    assert [(f.name, f.link, f.data, f.size) for f in frames] == [
        (os.fsencode(i.name), os.fsencode(i.linkname), i.offset_data, i.size) for i in infos
    ]


# --- headers by hand --------------------------------------------------------------------------------------------------


def test_sizes_over_8_gib() -> None:
    size = 9 * GIB + 1
    base_256 = b"\x80" + size.to_bytes(11, "big")
    in_pax = extended(b"x", record(b"size", b"%d" % size))
    for head in (header(size=base_256), in_pax + header(), in_pax + header(size=octal(5))):
        [frame], ended = frames_of(head)
        assert (frame.size, frame.data, frame.end) == (size, len(head), len(head) + 9 * GIB + BLOCK)
        assert not ended


def test_a_global_header_belongs_to_the_member_behind_it() -> None:
    head = extended(b"g", record(b"comment", b"x")) + extended(b"x", record(b"path", b"long")) + header()
    [frame], _ = frames_of(head)
    assert (frame.start, frame.name, frame.data) == (0, b"long", len(head))


def test_gnu_format_has_no_prefix() -> None:
    magic = b"ustar  \0"
    [frame], _ = frames_of(header(b"name", prefix=b"00000000000\0", magic=magic))
    assert frame.name == b"name"
    [frame], _ = frames_of(header(b"name", prefix=b"directory"))
    assert frame.name == b"directory/name"


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (b"y" * BLOCK * 3, "no tar header at offset 0"),
        (bytes(BLOCK) + b"x" * BLOCK, "single zero block"),
        (bytes(BLOCK) + header() + header(), "single zero block"),
        (extended(b"x", record(b"path", b"a")) + END_OF_ARCHIVE, "within a member's headers"),
        (header(size=b"0000000000x\0"), "the number"),
        (header(size=b"-0000000001\0"), "the number"),
        (header(size=b"0000_000001\0"), "the number"),
        (header(size=b"\xff" * 12), "the size"),
        (extended(b"x", record(b"size", b"-5")) + header(), "garbled"),
        (extended(b"x", record(b"size", b"12x") + record(b"path", b"a")) + header(), "garbled"),
        (extended(b"x", record(b"size", b"")) + header(), "garbled"),
        (extended(b"x", b"no records") + header(), "garbled"),
        (header(flag=b"x", size=octal(MAX_EXTENDED + 1)) + header(), "larger than"),
    ],
)
def test_what_is_no_tar_stream(archive: bytes, message: str) -> None:
    with pytest.raises(CaptureFailed, match=message):
        frames_of(archive)


@pytest.mark.parametrize(
    "data",
    [
        b"5 a=b\n",  # one byte short
        b"7 a=b\n",
        b"6 a=bx",
        b"6 abb\n",
        b"0 a=b\n",
        b"-1 a=b\n",
        b"-6 path=xxxx\n 1234",
        b"+6 a=b\n",
        b"1_0 a=bbbb\n",
        b"a=b\n",
        b" a=b\n",
        b"6 a=b\n6",
        b"99999999999999999999 a=b\n",
    ],
)
def test_garbled_extended_headers(data: bytes) -> None:
    with pytest.raises(CaptureFailed, match="garbled"):
        pax_records(data)


def test_extended_headers_may_hold_anything() -> None:
    fields = {b"SCHILY.xattr.user.a": b"\0\n=\xff", b"path": b"a\nb=c", b"empty": b"", b"long": b"v" * 1000}
    assert pax_records(b"".join(record(key, value) for key, value in fields.items())) == fields


def test_numbers() -> None:
    assert read_number(b"0000644\0") == 0o644
    assert read_number(b"   644 \0") == 0o644
    assert read_number(bytes(8)) == 0
    assert read_number(b"\x80" + (2**40).to_bytes(7, "big")) == 2**40
    assert read_number((-5 % 2**96).to_bytes(12, "big")) == -5  # an mtime before 1970


def test_random_bytes_never_do_worse_than_an_error(archive: bytes, rng: random.Random) -> None:
    """What drkit frames comes from a container. Damage may go unseen here (digests see it), but not end in a crash."""
    expected, _ = frames_of(archive)
    for _ in range(2000):
        first = rng.randrange(len(expected) - 20)
        part = bytearray(archive[expected[first].start : expected[first + 20].start] + END_OF_ARCHIVE)
        for _ in range(rng.randrange(1, 4)):
            frame = rng.choice(expected[first : first + 20])
            position = frame.start + rng.randrange(frame.data - frame.start) - expected[first].start
            part[position] = rng.randrange(256)
        try:
            frames, _ = frames_of(bytes(part))
        except CaptureFailed:
            continue
        assert all(frame.start < frame.data <= frame.end for frame in frames)
        assert all(before.end == after.start for before, after in pairwise(frames))


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "listed", "written"),
    [
        (b"", b".", b"./"),
        (b"a", b"./a", b"./a"),
        (b"d/e", b"./d/e", b"./d/e/"),
        (b"-rf", b"./-rf", b"./-rf"),
        (b"...", b"./...", b"./..."),
        (b".a", b"./.a", b"./.a"),
    ],
)
def test_names_that_are_asked_for_and_come(path: bytes, listed: bytes, written: bytes) -> None:
    assert listed_name(path) == listed
    assert member_path(written) == path
    assert member_path(listed) == path


# --- renaming ---------------------------------------------------------------------------------------------------------


def one_member(archive: bytes) -> bytes:
    [frame], _ = frames_of(archive)
    return archive[: frame.end]


def pieces_of(data: bytes, rng: random.Random) -> Iterator[bytes]:
    while data:
        length = rng.randrange(1, 3000)
        yield data[:length]
        data = data[length:]


def make_plain(path: Path) -> None:
    path.write_bytes(os.urandom(5000))
    os.setxattr(path, "user.a", b"\0=\n")
    os.chown(path, 2**21 + 5, 7)
    path.chmod(0o4751)
    os.utime(path, ns=(0, 1_234_567_890_123_456_789))


def make_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"start")
        file.seek(9 * GIB)
        file.write(b"end")
    path.chmod(0o640)


def make_old(path: Path) -> None:
    path.write_bytes(b"old")
    os.utime(path, ns=(0, -5_500_000_000))


@pytest.mark.parametrize("make", [make_plain, make_sparse, make_old])
@pytest.mark.parametrize("name", [b"new", b"d" * 250 + b"/" + b"n" * 250, b"\xff \n=", b"d\xc3\xa9"])
def test_a_renamed_member_is_extracted_by_tar_under_its_new_name(
    tmp_path: Path, rng: random.Random, make: Callable[[Path], None], name: bytes
) -> None:
    original, moved = tmp_path / "original", tmp_path / "moved"
    (original / "d").mkdir(parents=True)
    make(original / "d" / "old name")
    member = one_member(create_tar(original, [b"d/old name"]))
    new = b"".join(renamed(pieces_of(member, rng), listed_name(name), b""))
    assert len(new) % BLOCK == 0
    extract_tar(new + END_OF_ARCHIVE, moved)
    # What tar should have made: the same file, moved there.
    target = os.path.join(os.fsencode(original), name)
    os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120 bytes
    times = os.stat(os.path.join(os.fsencode(original), b"d/old name"))  # noqa: PTH116 bytes
    os.rename(os.path.join(os.fsencode(original), b"d/old name"), target)  # noqa: PTH104 bytes
    assert os.stat(target).st_mtime_ns == times.st_mtime_ns  # noqa: PTH116 bytes
    (original / "d").rmdir()
    assert compare_trees(without_times(original), without_times(moved)) == []


def without_times(root: Path) -> Path:
    """Directories get the time at which their entries came: no matter here."""
    for directory, _, _ in os.walk(os.fsencode(root), topdown=False):
        os.utime(directory, (0, 0))
    return root


def test_a_link_is_renamed_with_what_it_links_to(tmp_path: Path, rng: random.Random) -> None:
    original, moved = tmp_path / "original", tmp_path / "moved"
    original.mkdir()
    (original / "a").write_bytes(b"content")
    (original / "b").hardlink_to(original / "a")
    first, second = frames_of(create_tar(original, [b"a", b"b"]))[0]
    assert second.flag == HARD_LINK
    data = create_tar(original, [b"a", b"b"])
    heir = "heir" * 60
    leader = b"./" + heir.encode()
    stream = b"".join(renamed([data[first.start : first.end]], leader, b""))
    stream += b"".join(renamed([data[second.start : second.end]], b"./z", leader))
    extract_tar(stream + END_OF_ARCHIVE, moved)
    assert (moved / "z").samefile(moved / heir)
    assert (moved / "z").read_bytes() == b"content"


@pytest.mark.parametrize("length", [5, 150, 250])
def test_members_of_busybox_are_renamed(tmp_path: Path, rng: random.Random, length: int) -> None:
    """It writes GNU's own long names, which are no pax records."""
    original, moved = tmp_path / "original", tmp_path / "moved"
    original.mkdir()
    old = "o" * length
    (original / old).write_bytes(bytes(1000))
    written = subprocess.run(
        ["busybox", "tar", "-c", "-f", "-", f"./{old}"], cwd=original, check=True, capture_output=True
    ).stdout
    [frame], _ = frames_of(written)
    assert member_path(frame.name) == old.encode()
    new = b"".join(renamed(pieces_of(one_member(written), rng), b"./new", b""))
    extract_tar(new + END_OF_ARCHIVE, moved)
    assert [path.name for path in moved.iterdir()] == ["new"]
    assert (moved / "new").read_bytes() == bytes(1000)


def test_what_is_cut_within_its_headers_is_not_renamed(archive: bytes) -> None:
    frames, _ = frames_of(archive)
    frame = next(frame for frame in frames if frame.data - frame.start > BLOCK)
    with pytest.raises(IntegrityError, match="within its headers"):
        list(renamed([archive[frame.start : frame.data - 1]], b"./a", b""))


# --- describing -------------------------------------------------------------------------------------------------------

KEY = bytes(32)


def descriptions(archive: bytes) -> list[Description]:
    return [describe(item) for item in MemberStream(iterator_readinto([archive]), KEY, split=True)]


def test_descriptions_tell_what_tarfile_tells(archive: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        infos = opened.getmembers()
    for found, info in zip(descriptions(archive), infos, strict=True):
        name = info.pax_headers.get("GNU.sparse.name", info.name)
        assert found.path == member_path(os.fsencode(name))
        assert (found.mode, found.uid, found.gid) == (info.mode, info.uid, info.gid), name
        assert float(found.mtime) == info.mtime, name
        assert found.flag == info.type[0], name
        assert found.symlink == (os.fsencode(info.linkname) if info.issym() else b"")
        assert found.leader == (member_path(os.fsencode(info.linkname)) if info.islnk() else b"")
        if info.isdev():
            assert found.device == (info.devmajor, info.devminor)
        xattrs = {key: value for key, value in found.records if key.startswith(b"SCHILY.xattr.")}
        assert len(xattrs) == sum(key.startswith("SCHILY.xattr.") for key in info.pax_headers), name


def pax_member(records: list[tuple[bytes, bytes]], *, content: bytes = b"content", mode: bytes = b"0000644\0") -> bytes:
    body = b"".join(record(key, value) for key, value in records)
    block = bytearray(header(b"a", size=octal(len(content))))
    block[100:108] = mode
    return extended(b"x", body) + bytes(block) + content.ljust(BLOCK, b"\0") + END_OF_ARCHIVE


RECORDS = [
    (b"mtime", b"1.5"),
    (b"path", b"./a"),
    (b"SCHILY.xattr.user.a", b"1"),
    (b"SCHILY.xattr.user.b", b"2"),
]


def test_the_order_of_xattrs_and_zeros_mean_nothing() -> None:
    [one] = descriptions(pax_member(RECORDS))
    [two] = descriptions(pax_member([(b"mtime", b"1.500"), *reversed(RECORDS[1:])]))
    assert differences(one, two) == []
    [whole] = descriptions(pax_member([(b"mtime", b"10.000")]))
    [short] = descriptions(pax_member([(b"mtime", b"10")]))
    assert differences(whole, short) == []


@pytest.mark.parametrize(
    ("other", "field"),
    [
        (pax_member([(b"mtime", b"1.51"), *RECORDS[1:]]), "mtime"),
        (pax_member([*RECORDS[:3], (b"SCHILY.xattr.user.b", b"3")]), "records"),
        (pax_member(RECORDS[:3]), "records"),
        (pax_member([*RECORDS, (b"uid", b"3000000")]), "uid"),
        (pax_member([*RECORDS, (b"gid", b"3000000")]), "gid"),
        (pax_member(RECORDS, content=b"CONTENT"), "content"),
        (pax_member(RECORDS, mode=b"0000600\0"), "mode"),
        (pax_member([RECORDS[0], (b"path", b"./b"), *RECORDS[2:]]), "path"),
    ],
)
def test_real_differences_are_named(other: bytes, field: str) -> None:
    [one], [two] = descriptions(pax_member(RECORDS)), descriptions(other)
    assert differences(one, two) == [field]
