"""What every test stands on: a scrubbed environment, a seed, the tests' own engine and S3 server, drkit as a process.

Engine tests run in the engine that `scripts/engine start` starts, and in no other: DOCKER_HOST and DRKIT_ENGINE_ROOT
name it (`eval "$(scripts/engine env)"`), and the engine has to confirm that it is the one. Without it they fail. The
same holds for the S3 server that `scripts/s3 start` starts and DRKIT_S3_* name. scripts/test starts an engine for each
of the processes among which pytest-xdist deals the tests out, and names them all in DRKIT_TEST_ENGINES, as URL=ROOT.
"""

from __future__ import annotations

import faulthandler
import hashlib
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import docker
import hypothesis
import pytest
import requests

from tests.support.s3 import S3Server, is_radosgw

PROJECT = Path(__file__).resolve().parent.parent

HANGS_SECONDS = 900

SEED = int(os.environ.get("DRKIT_TEST_SEED") or random.SystemRandom().randrange(2**32))
ENGINES = os.environ.get("DRKIT_TEST_ENGINES", "").split()


def own_engine() -> tuple[str, str]:
    """The URL and the root of this process's engine; empty without one."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    if ENGINES:
        url, _, root = ENGINES[worker].partition("=") if worker < len(ENGINES) else ("", "", "")
        return url, root
    return os.environ.get("DOCKER_HOST", ""), os.environ.get("DRKIT_ENGINE_ROOT", "")


ENGINE_HOST, ENGINE_ROOT = own_engine()
S3_SERVER = {name: os.environ.get(f"DRKIT_S3_{name.upper()}", "") for name in S3Server._fields}
STDERR = pytest.StashKey[int]()
START_HINT = 'run scripts/test, or: scripts/engine start && eval "$(scripts/engine env)" && scripts/test-images'
S3_HINT = 'run scripts/test, or: scripts/s3 start && eval "$(scripts/s3 env)"'

# A developer's own settings must change no result, and no test may reach a production engine or bucket by them.
LEAKING_PREFIXES = ("AWS_", "DRKIT_", "DOCKER_", "COMPOSE_")
# Where DOCKER_HOST is unset, every client takes the machine's engine. No test gets there by forgetting something.
NO_ENGINE = "unix:///nonexistent/this-test-asked-for-no-engine"


def scrub_environment() -> None:
    for name in [name for name in os.environ if name.startswith(LEAKING_PREFIXES)]:
        del os.environ[name]
    # For the processes among which pytest-xdist deals the tests out, and for the scripts under test; drkit reads none.
    os.environ["DRKIT_TEST_SEED"] = str(SEED)
    os.environ["DRKIT_TEST_ENGINES"] = " ".join(ENGINES)
    os.environ["DRKIT_ENGINE_ROOT"] = ENGINE_ROOT
    os.environ |= {f"DRKIT_S3_{name.upper()}": value for name, value in S3_SERVER.items()}
    os.environ["DOCKER_HOST"] = ENGINE_HOST if ENGINE_ROOT else NO_ENGINE
    os.environ["DOCKER_CONFIG"] = "/nonexistent"  # contexts and credentials of whoever runs the tests
    os.environ["TZ"] = "NPT-05:45"  # nowhere near UTC, and no whole hour: a naive local time shows
    time.tzset()


scrub_environment()


# --- sockets ----------------------------------------------------------------------------------------------------------


def refuse_outside(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: tests of this process talk to this machine only."""
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto") and arguments[0].family in (socket.AF_INET, socket.AF_INET6):
        host = arguments[1][0]
    else:
        return
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    if name not in (None, "", "localhost", "::1") and not name.startswith("127."):
        raise RuntimeError(f"a test wanted to talk to {name}, which is not this machine")


sys.addaudithook(refuse_outside)


# --- session ----------------------------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.stash[STDERR] = os.dup(2)  # pytest captures nothing at this moment
    if config.getoption("--hypothesis-seed") is None:
        config.option.hypothesis_seed = str(SEED)
    # Two busy cores make any deadline for one example a coin toss.
    hypothesis.settings.register_profile("drkit", deadline=None, print_blob=True)
    hypothesis.settings.load_profile("drkit")


def pytest_report_header() -> list[str]:
    engine = f"{ENGINE_HOST}, data in {ENGINE_ROOT}" if ENGINE_ROOT else "none: tests that need one fail"
    server = S3_SERVER["http"] or "none: tests that need one fail"
    return [
        f"seed: {SEED} (DRKIT_TEST_SEED={SEED} repeats it)",
        f"engine: {engine}",
        f"S3 server: {server}",
        f"user: {os.geteuid()}",
    ]


def pytest_itemcollected(item: pytest.Item) -> None:
    """Whatever uses the engine or the S3 server is marked so, by itself: `-m "not engine and not s3"` needs neither.

    Tests look at all that is in their engine: with a single one, pytest-xdist gives them all to one process. Else those
    of a file stay together, which share what a file sets up.
    """
    if "engine_url" in getattr(item, "fixturenames", ()):
        item.add_marker("engine")
    if item.get_closest_marker("engine"):
        item.add_marker(pytest.mark.xdist_group(item.path.stem if ENGINES else "engine"))
    if "s3_server" in getattr(item, "fixturenames", ()) or "radosgw" in item.name:
        item.add_marker("s3")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test that hangs ends the run with every thread's stack, instead of a silent kill by whoever waits for it."""
    faulthandler.dump_traceback_later(HANGS_SECONDS, exit=True, file=item.config.stash[STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def seed() -> int:
    return SEED


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers that depend on the seed and the test's name, not on what ran before."""
    print(f"seed: {SEED}")  # shown with a failure, however far above the header is
    group = request.node.get_closest_marker("xdist_group")
    name = request.node.nodeid.removesuffix(f"@{group.args[0]}" if group else "")
    return random.Random(f"{SEED} {name}")


# --- the engine -------------------------------------------------------------------------------------------------------


def ask_engine() -> docker.APIClient:
    return docker.APIClient(base_url=ENGINE_HOST, timeout=60)


def our_objects() -> set[str]:
    """The containers, volumes and networks that carry a label of drkit's."""
    with closing(ask_engine()) as api:
        found = [("container", c["Names"][0], c["Labels"]) for c in api.containers(all=True) if c["Names"]]
        found += [("volume", v["Name"], v["Labels"]) for v in api.volumes()["Volumes"] or []]
        found += [("network", n["Name"], n["Labels"]) for n in api.networks()]
    return {f"{kind} {name}" for kind, name, labels in found if any(key.startswith("drkit.") for key in labels or {})}


def wait_for_removal(before: set[str], seconds: float = 15) -> set[str]:
    """What is there now and was not before, after giving the engine the time to remove what it is removing."""
    deadline = time.monotonic() + seconds
    while (left := our_objects() - before) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


@pytest.fixture(scope="session")
def engine_url() -> Iterator[str]:
    """The URL of the tests' own engine. At the end nothing that drkit made may be left in it."""
    if not ENGINE_HOST or not ENGINE_ROOT:
        pytest.fail(f"no engine for the tests: {START_HINT}", pytrace=False)
    with closing(ask_engine()) as api:
        try:
            info = api.info()
        except (docker.errors.DockerException, requests.RequestException) as error:
            pytest.fail(f"the engine at {ENGINE_HOST} does not answer ({error}): {START_HINT}", pytrace=False)
    if info["DockerRootDir"] != f"{ENGINE_ROOT}/data" or f"drkit.engine-root={ENGINE_ROOT}" not in info["Labels"]:
        pytest.fail(f"the engine at {ENGINE_HOST} is not the tests' own: {START_HINT}", pytrace=False)
    before = our_objects()
    yield ENGINE_HOST
    if left := wait_for_removal(before):
        pytest.fail(f"left behind in the engine: {', '.join(sorted(left))}", pytrace=False)


def image(reference: str) -> Callable[[str], str]:
    """A fixture that gives the reference of a local test image, and fails if scripts/test-images has not made it."""

    @pytest.fixture(scope="session")
    def image_reference(engine_url: str) -> str:
        with closing(ask_engine()) as api:
            try:
                api.inspect_image(reference)
            except docker.errors.ImageNotFound:
                pytest.fail(f"the engine has no image {reference}: run scripts/test-images", pytrace=False)
        return reference

    return image_reference


busybox_image = image("drkit-test/busybox:1")
stock_alpine_image = image("drkit-test/alpine:3")
data_image = image("drkit-test/data:1")


# --- the S3 server ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def s3_server() -> S3Server:
    """The tests' own S3 server, which answers."""
    if not all(S3_SERVER.values()):
        pytest.fail(f"no S3 server for the tests: {S3_HINT}", pytrace=False)
    server = S3Server(**S3_SERVER)
    try:
        answer = requests.get(server.http, timeout=30)
    except requests.RequestException as error:
        pytest.fail(f"the S3 server at {server.http} does not answer ({error}): {S3_HINT}", pytrace=False)
    if not is_radosgw(answer.headers):
        pytest.fail(f"the S3 server at {server.http} is not the tests' own: {S3_HINT}", pytrace=False)
    return server


# --- drkit ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def repository_dir(tmp_path: Path) -> Path:
    """Where a test may make a repository; nothing is there yet."""
    return tmp_path / "repository"


class CliResult(NamedTuple):
    code: int
    stdout: str
    stderr: str


class DrkitCli:
    """Runs the real command line as a process of its own, as a user would, in a directory of the test's."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(
        self, *arguments: str | Path, env: Mapping[str, str] | None = None, stdin: str = "", timeout: float = 300
    ) -> CliResult:
        done = subprocess.run(
            [sys.executable, "-m", "drkit", *map(str, arguments)],
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": str(PROJECT), **self._places(), **(env or {})},
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=timeout,
            check=False,
        )
        return CliResult(done.returncode, done.stdout, done.stderr)

    def _places(self) -> dict[str, str]:
        """Where it may remember things: nothing of a test stays in the host's own directories."""
        names = {"DRKIT_STATE_DIR": "state", "DRKIT_CACHE_DIR": "cache"}
        return {name: str(self.directory.parent / place) for name, place in names.items()}


@pytest.fixture
def drkit_cli(tmp_path: Path) -> DrkitCli:
    """`drkit_cli("backup", "--json", env={...})` -> (code, stdout, stderr). Uses the engine only with `engine_url`."""
    directory = tmp_path / "cwd"
    directory.mkdir()
    return DrkitCli(directory)


@pytest.fixture
def unique_name(request: pytest.FixtureRequest) -> str:
    """A name for the containers and volumes of one test: no other test's, and not an earlier interrupted run's."""
    test = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:8]
    return f"drkit-test-{test}-{random.SystemRandom().randrange(2**32):08x}"
