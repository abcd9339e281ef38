#!/usr/bin/env python3
"""The data sets of benchmarks/run: made from a seed, so that two machines measure the same bytes.

    A   2.0 GB in large files: database pages, logs, SQL dumps, and media that no longer compresses
    B   50,000 small files, 0.6 GB: log-normal sizes with a mean of 12 KB, nested directories; text, JSON, images

Each file has its own generator, seeded by its path, so any number of processes makes the same files.
Neither set holds sparse files, hard links or duplicates: tools treat those too differently to compare seconds.

As a program, run as root for the owners of the files:
    data.py make A|B SEED DIRECTORY     fills an empty directory
    data.py digest DIRECTORY            prints the number of files, their bytes, and a digest of everything
"""

from __future__ import annotations

import hashlib
import os
import random
import stat
import struct
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

SETS = ("A", "B")
VERSION = 1
"""Raise it with every change that alters a byte of a set: a kept set of another version is not used."""

MB = 1_000_000
NEWEST_MTIME = 1_717_200_000  # 2024-06-01; the files are up to three years older
OWNERS = ((0, 0), (33, 33), (999, 999), (1000, 1000))
MODES = (0o644, 0o644, 0o640, 0o600, 0o755)
PAGE = 8192


class File(NamedTuple):
    path: str
    size: int
    kind: str


class Digest(NamedTuple):
    """Equal digests mean equal names, types, modes, owners, mtimes and contents."""

    files: int
    bytes: int
    sha256: str


# ------------------------------------------------------------------------------------------------------ plan


def plan(set_name: str, seed: int) -> list[File]:
    """The files of a set, in a fixed order."""
    rng = random.Random(f"{seed}/{set_name}")
    return _plan_large(rng) if set_name == "A" else _plan_small(rng)


def _plan_large(rng: random.Random) -> list[File]:
    files: list[File] = []
    for pattern, kind, total, smallest, largest in (
        ("pgdata/base/16384/{}", "pages", 500 * MB, 8 * MB, 96 * MB),
        ("log/app-{}.log", "log", 260 * MB, 4 * MB, 40 * MB),
        ("dump/shop-{}.sql", "sql", 90 * MB, 10 * MB, 40 * MB),
        ("media/video-{}.mp4", "media", 800 * MB, 20 * MB, 150 * MB),
        ("media/photo-{}.jpg", "media", 350 * MB, 2 * MB, 12 * MB),
    ):
        while total:
            size = min(total, rng.randint(smallest, largest))
            files.append(File(pattern.format(24576 + len(files)), size, kind))
            total -= size
    return files


def _plan_small(rng: random.Random) -> list[File]:
    directories = ["srv"]
    for number in range(2_000):
        # Uniform over all directories: a few deep paths, most four to eight levels down.
        directories.append(f"{rng.choice(directories)}/{rng.choice(SYLLABLES)}{number:x}")
    extensions = {"text": "txt", "json": "json", "media": "webp"}
    files = []
    for number in range(50_000):
        kind = rng.choices(("text", "json", "media"), (55, 20, 25))[0]
        size = min(2 * MB, int(rng.lognormvariate(8.894, 1.0)))
        files.append(File(f"{rng.choice(directories)}/{number:05x}.{extensions[kind]}", size, kind))
    return files


# --------------------------------------------------------------------------------------------------- content

SYLLABLES = ("ka", "lo", "mi", "ter", "an", "der", "ver", "on", "sta", "ri", "pel", "qui", "so", "ne", "du", "bra")


def _vocabulary(size: int) -> list[str]:
    rng = random.Random(0)
    return ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(size)]


WORDS = _vocabulary(4_000)
WEIGHTS = list(accumulate(1 / rank for rank in range(3, 4_003)))  # Zipf's law, as in any language


def _content(kind: str, rng: random.Random) -> Iterator[bytes]:
    """Endless content of about 1 MB a block, so that a file of any size is cut from it."""
    match kind:
        case "media":
            while True:
                yield rng.randbytes(MB)
        case "pages":
            while True:
                yield b"".join(_page(rng) for _ in range(MB // PAGE))
        case "log":
            clock = rng.randrange(NEWEST_MTIME)
            while True:
                clock += 3600
                yield "".join(_log_line(rng, clock + n // 3) for n in range(10_000)).encode()
        case "sql":
            first = 1
            while True:
                yield "".join(_sql_row(rng, first + n) for n in range(10_000)).encode()
                first += 10_000
        case "json":
            while True:
                yield "".join(_json_row(rng, n) for n in range(60)).encode()
        case "text":
            while True:
                words = rng.choices(WORDS, cum_weights=WEIGHTS, k=900)
                yield "\n".join(" ".join(words[at : at + 12]) for at in range(0, 900, 12)).encode() + b"\n"
        case _:
            raise ValueError(f"no content of the kind {kind}")


def _page(rng: random.Random) -> bytes:
    """One page in the manner of PostgreSQL: a header, then rows of ids, times, UUIDs, amounts and words."""
    noise = rng.randbytes(70 * 20)
    words = rng.choices(WORDS, cum_weights=WEIGHTS, k=70 * 5)
    first = rng.randrange(2**31)
    rows = []
    for n in range(70):
        uuid_and_amount = noise[n * 20 : n * 20 + 20]
        rows.append(struct.pack("<IIHHqq20sI", 731, first + n, 7, 2050, first + n, 10**15 + n, uuid_and_amount, n % 5))
        rows.append(" ".join(words[n * 5 : n * 5 + 5]).encode())
    body = b"".join(rows)[: PAGE - 24]
    header = struct.pack("<QHHHHIi", first, 0, 4, 24 + len(body), PAGE, 0x2004, first - 2**31)
    return header + body.rjust(PAGE - len(header), b"\0")


def _log_line(rng: random.Random, clock: int) -> str:
    noise = rng.getrandbits(64)
    return (
        f"{clock} api-{noise % 3} app[{1000 + noise % 7}]: {'INFO' if noise % 19 else 'WARN'} GET "
        f"/v1/{WORDS[noise % 97]}/{noise % 100_003} {200 if noise % 23 else 404} {noise % 9_973}B "
        f"{noise % 499}ms request={noise:016x}\n"
    )


def _sql_row(rng: random.Random, number: int) -> str:
    noise = rng.getrandbits(80)
    return (
        f"INSERT INTO orders VALUES ({number}, '{WORDS[noise % 3_989]} {WORDS[noise % 3_967]}', {noise % 10**7 / 100}, "
        f"'{noise:020x}', '2024-0{1 + noise % 9}-{10 + noise % 19}');\n"
    )


def _json_row(rng: random.Random, number: int) -> str:
    noise = rng.getrandbits(64)
    return (
        f'{{"id": {number}, "name": "{WORDS[noise % 3_989]}", "token": "{noise:016x}", "enabled": '
        f'{"true" if noise % 2 else "false"}, "weight": {noise % 10_007}}}\n'
    )


# ----------------------------------------------------------------------------------------------------- write


def make(set_name: str, seed: int, directory: Path) -> None:
    files = plan(set_name, seed)
    for parent in {Path(file.path).parent for file in files}:
        (directory / parent).mkdir(parents=True, exist_ok=True)
    workers = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(workers) as pool:
        write = partial(write_file, f"{seed}/{VERSION}", str(directory))
        for _ in pool.map(write, files, chunksize=max(1, len(files) // 500)):
            pass  # taking the results raises what a worker raised
    # Last, and deepest first, because writing into a directory changes its mtime.
    for path, names, _ in os.walk(directory, topdown=False):
        for name in names:
            child = os.path.join(path, name)
            _set_mtime(child, random.Random(f"{seed}/{os.path.relpath(child, directory)}/"))


def write_file(seed: str, directory: str, file: File) -> None:
    rng = random.Random(f"{seed}/{file.path}")
    path = Path(directory, file.path)
    missing = file.size
    with path.open("xb") as stream:
        for block in _content(file.kind, rng):
            stream.write(block[:missing])
            missing -= min(missing, len(block))
            if not missing:
                break
    os.chown(path, *rng.choice(OWNERS))
    path.chmod(rng.choice(MODES))
    _set_mtime(path, rng)


def _set_mtime(path: str | Path, rng: random.Random) -> None:
    mtime = NEWEST_MTIME * 10**9 - rng.randrange(3 * 365 * 86_400 * 10**9)
    os.utime(path, ns=(mtime, mtime))


# ------------------------------------------------------------------------------------------------------ read


def digest(directory: Path) -> Digest:
    """Read a whole tree, except its root: not every tool restores the attributes of the root."""
    paths = sorted(os.path.join(path, name) for path, *names in os.walk(directory) for name in names[0] + names[1])
    total = hashlib.sha256()
    files = size = 0
    with ThreadPoolExecutor() as pool:
        for path, (info, content) in zip(paths, pool.map(_digest_entry, paths), strict=True):
            is_directory = stat.S_ISDIR(info.st_mode)
            name = os.path.relpath(path, directory)
            fields = (name, info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, content)
            total.update(repr(fields).encode())
            files += not is_directory
            size += 0 if is_directory else info.st_size
    return Digest(files, size, total.hexdigest())


def _digest_entry(path: str) -> tuple[os.stat_result, str]:
    info = os.lstat(path)
    if not stat.S_ISREG(info.st_mode):
        return info, ""
    with Path(path).open("rb", buffering=0) as stream:
        return info, hashlib.file_digest(stream, "sha256").hexdigest()


def main(argv: list[str]) -> None:
    match argv:
        case ["make", set_name, seed, directory] if set_name in SETS:
            make(set_name, int(seed), Path(directory))
        case ["digest", directory]:
            print(*digest(Path(directory)))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
