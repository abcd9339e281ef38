"""What find does not enter: with it or without, a scan keeps the same paths, whatever the patterns and names."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from drkit.engine.helper.reading import UNENTERED
from drkit.errors import UsageError
from drkit.pipeline.select import Patterns
from drkit.pipeline.unentered import find_tests

# fmt: off
NAMES = (
    "a", "b", "ab", "a.b", "cache", "x.tmp", ".h", "a b", "a\nb", "*", "?", "[ab]", "!a", "#", "a\\", "\\", "a ", " ",
    "é", "\udcff", "-name", "(", "..a", ".tmp",
)
PIECES = (
    "a", "b", "ab", "a.b", "cache", "x.tmp", ".h", "*", "?", "??", "[ab]", "*.tmp", "a*", "**", "a?b", "*b", "\\*",
    "a\\ ", "a ", "a\\\\", "\\#", "\\!a", "é", "-name", "(", "a\nb", "\udcff", ".", "..", "", "..a", "a**",
)
# fmt: on
GNU = ["find"]
BUSYBOX = ["busybox", "find"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    rng = random.Random(seed)
    root = tmp_path_factory.mktemp("unentered") / "volume"
    root.mkdir()
    for _ in range(400):
        path = root.joinpath(*(rng.choice(NAMES) for _ in range(rng.randrange(1, 5))))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if rng.random() < 0.3:
                path.mkdir()
            else:
                path.open("x").close()
        except (FileExistsError, NotADirectoryError):
            continue
    return root


def told(find: Sequence[str], root: Path, tests: Sequence[str]) -> list[bytes]:
    """The paths that find tells, in the order of a scan."""
    script = " ".join(find) + f" . {UNENTERED if tests else ''} -print0"
    done = subprocess.run(
        ["sh", "-c", script, "sh", *tests],
        cwd=root,
        env={"LC_ALL": "C", "PATH": os.environ["PATH"]},
        check=True,
        capture_output=True,
    )
    assert not done.stderr
    return sorted(path.removeprefix(b".").removeprefix(b"/") for path in done.stdout.split(b"\0")[:-1])


def kept(paths: Sequence[bytes], directories: set[bytes], patterns: Sequence[str]) -> list[bytes]:
    asked = Patterns(patterns)
    return [path for path in paths if not asked.match(path, directory=path in directories)]


def directories_of(root: Path) -> set[bytes]:
    return {os.fsencode(path.relative_to(root)) for path in root.rglob("*") if path.is_dir()} | {b""}


def random_pattern(rng: random.Random) -> str:
    pattern = "/".join(rng.choice(PIECES) for _ in range(rng.choice([1, 1, 1, 2, 2, 3])))
    pattern = rng.choice(["", "", "", "/", "**/"]) + pattern + rng.choice(["", "", "", "/", "/*", "/**", "/**/"])
    return rng.choice(["", "", "", "!"]) + pattern


@pytest.mark.parametrize("find", [GNU, BUSYBOX], ids=["GNU", "BusyBox"])
def test_the_same_paths_are_kept(tree: Path, rng: random.Random, find: Sequence[str]) -> None:
    assert shutil.which(find[0]), f"there is no {find[0]}"
    every, directories = told(find, tree, []), directories_of(tree)
    saved = 0
    for _ in range(150):
        patterns = [random_pattern(rng) for _ in range(rng.randrange(1, 6))]
        try:
            expected = kept(every, directories, patterns)
        except UsageError:
            continue
        tests = find_tests(patterns)
        found = told(find, tree, tests)
        assert kept(found, directories, patterns) == expected, (patterns, tests)
        saved += len(every) - len(found)
    assert saved > 1000, "nothing was pruned"


@pytest.mark.parametrize(
    ("patterns", "tests"),
    [
        (["/cache"], ["-path", "./cache"]),
        (["cache/"], ["-type", "d", "-name", "cache"]),
        (["/a/b/", "x"], ["-type", "d", "-path", "./a/b", "-o", "-name", "x"]),
        (["cache/**"], ["-path", "./cache/*"]),
        (["cache/*"], ["-path", "./cache/*"]),
        (["**/cache"], ["-name", "cache"]),
        (["*.tmp"], ["-name", "*.tmp"]),
        (["a\\*", "/a\\[b/c"], ["-name", "a\\*", "-o", "-path", "./a\\[b/c"]),
        (["/a ", "/b\\ "], ["-path", "./a", "-o", "-path", "./b "]),
        (["-delete", "("], ["-name", "\\-delete", "-o", "-name", "\\("]),
        # Of an earlier pattern, all that a later one could bring back is left to the filter.
        (["*.tmp", "!keep.tmp"], []),
        (["cache", "!/a/cache"], []),
        (["!*.log", "cache"], ["-name", "cache"]),
        (["/cache", "!*.log"], ["-path", "./cache"]),
        (["/cache", "!/cache"], []),
        (["!/cache", "/cache"], ["-path", "./cache"]),
        # These mean something else to find.
        (["a?"], []),
        (["[ab]"], []),
        (["/a/*/b"], []),
        (["/a*"], []),
        (["a**b"], []),
        (["**"], []),
        (["/"], []),
        (["a//b"], []),
        ([".", "..", "./a", "a/.."], []),
        (["a\nb"], []),
        (["\udcff"], []),
        (["# cache", ""], []),
    ],
)
def test_tests_of_find(patterns: list[str], tests: list[str]) -> None:
    assert find_tests(patterns) == tests


def test_a_thousand_patterns(tree: Path) -> None:
    patterns = [f"/nowhere-{number}/" for number in range(1000)] + ["cache"]
    every, directories = told(GNU, tree, []), directories_of(tree)
    assert kept(told(GNU, tree, find_tests(patterns)), directories, patterns) == kept(every, directories, patterns)


def test_no_more_than_a_program_takes() -> None:
    tests = find_tests([f"/{number:03d}{'x' * 240}" for number in range(1000)])
    assert tests
    assert sum(len(word) + 1 for word in tests) < 128 * 1024
    assert find_tests(["/" + "x" * 200_000]) == []
