"""scripts/engine: a private engine that shares nothing, leaves nothing, and comes back from whatever killed it."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PROJECT

pytestmark = pytest.mark.engine

DAEMONS = ("dockerd", "containerd", "containerd-shim")


class PrivateEngine:
    """A second engine beside the one that the session uses: that, in turn, plays the engine of the machine's owner."""

    def __init__(self, root: Path) -> None:
        self.root = root
        environment = self.script("env").stdout
        self.host = environment.partition("DOCKER_HOST=")[2].split()[0]
        self.run_directory = Path(self.host.removeprefix("unix://")).parent

    def script(self, verb: str, *, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command = [PROJECT / "scripts/engine", verb, "--root", self.root]
        return subprocess.run(
            command, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=180, check=False
        )

    def start(self) -> None:
        done = self.script("start")
        assert done.returncode == 0, done.stderr

    def docker(self, command: str) -> str:
        words = ["docker", "--host", self.host, *shlex.split(command)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"docker {command}: {done.stderr}"
        return done.stdout.strip()

    def pids(self, *names: str) -> list[int]:
        """The daemons of this engine and only those, found as one would by hand."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
                name = (process / "comm").read_text().strip()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if name in names and any(word.startswith(str(self.run_directory)) for word in words):
                found.append(int(process.name))
        return found

    def bridges(self) -> set[str]:
        """The interfaces of its bridge networks."""
        found = {f"drkit{self.run_directory.name}"}
        for network in self.docker("network ls --quiet --no-trunc --filter driver=bridge --filter type=custom").split():
            found.add(f"br-{network[:12]}")
        return found

    def kill(self, *names: str) -> None:
        for pid in self.pids(*names):
            os.kill(pid, signal.SIGKILL)
        while self.pids(*names):
            time.sleep(0.05)

    def traces(self) -> list[str]:
        """All that a running engine has outside its root."""
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        return [
            *(f"process {pid}" for pid in self.pids(*DAEMONS)),
            *(f"mount {mount}" for mount in mounts if mount.startswith((str(self.root), str(self.run_directory)))),
            *(f"file {path}" for path in self.run_directory.glob("*")),
        ]


@pytest.fixture
def engine(engine_url: str, tmp_path: Path) -> Iterator[PrivateEngine]:
    made = PrivateEngine(tmp_path / "engine")
    yield made
    removed = made.script("remove")
    assert removed.returncode == 0, removed.stderr
    assert made.traces() == []
    assert not made.root.exists()


@pytest.fixture
def running(engine: PrivateEngine) -> PrivateEngine:
    engine.start()
    made = subprocess.run(
        [PROJECT / "scripts/test-images", "busybox"],
        env={**os.environ, "DOCKER_HOST": engine.host},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return engine


def interfaces() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def published(port: str) -> bytes:
    """What a published port answers; waits for the server behind it."""
    deadline = time.monotonic() + 20
    while True:
        try:
            with socket.create_connection(("127.0.0.1", int(port.rpartition(":")[2])), timeout=5) as connection:
                if answer := connection.recv(100):
                    return answer
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def test_stop_and_start_are_idempotent(engine: PrivateEngine) -> None:
    assert engine.script("status").returncode == 3
    assert "was not running" in engine.script("stop").stderr
    engine.start()
    assert engine.script("status").returncode == 0
    first = engine.pids("dockerd")
    assert "already running" in engine.script("start").stderr
    assert engine.pids("dockerd") == first
    assert "stopped" in engine.script("stop").stderr
    assert engine.traces() == []
    assert engine.script("status").returncode == 3


def test_it_has_everything_of_its_own(running: PrivateEngine) -> None:
    running.docker("run --name alone --stop-signal KILL --detach drkit-test/busybox:1 sleep 100")
    assert running.docker("ps --quiet")
    assert running.docker("info --format {{.DockerRootDir}}") == f"{running.root}/data"
    neighbours = subprocess.run(["docker", "ps", "--format", "{{.Names}}"], capture_output=True, text=True, check=True)
    assert "alone" not in neighbours.stdout.split()


# The servers ignore SIGTERM as process 1; nobody waits for them.
SERVE = "--stop-signal KILL -p 127.0.0.1::7 drkit-test/busybox:1 nc -ll -p 7 -e echo hello"


def test_containers_reach_each_other_and_are_reached(running: PrivateEngine) -> None:
    running.docker("network create net")
    running.docker(f"run --detach --name server --network net {SERVE}")
    assert published(running.docker("port server 7")) == b"hello\n"
    address = running.docker("inspect --format {{.NetworkSettings.Networks.net.IPAddress}} server")
    asked = f"run --rm --network net drkit-test/busybox:1 nc -w 5 {address} 7"
    assert running.docker(asked) == "hello"


@pytest.mark.parametrize("killed", [("dockerd",), DAEMONS], ids=["dockerd", "everything"])
@pytest.mark.parametrize("then", ["start", "stop"])
def test_a_killed_engine_is_cleaned_up(running: PrivateEngine, killed: tuple[str, ...], then: str) -> None:
    running.docker("network create net")
    running.docker("volume create kept")
    running.docker(f"run --detach --name server --network net -v kept:/kept {SERVE}")
    container = running.docker("inspect --format {{.State.Pid}} server")
    bridges = running.bridges()
    assert bridges <= interfaces()
    running.kill(*killed)
    assert Path(f"/proc/{container}").exists(), "the container ought to have outlived its engine"

    done = running.script(then)
    assert done.returncode == 0, done.stderr
    assert not Path(f"/proc/{container}").exists()
    if then == "stop":
        assert running.traces() == []
        assert not bridges & interfaces()
        running.start()
    assert running.docker("volume ls --quiet") == "kept"
    running.docker("start server")
    assert published(running.docker("port server 7")) == b"hello\n"


def test_an_engine_elsewhere_that_was_killed_gives_back_its_addresses(
    engine: PrivateEngine, engine_url: str, tmp_path: Path
) -> None:
    """There are few ranges: without this, killed test runs would use them up."""
    dead = PrivateEngine(tmp_path / "dead")
    dead.start()
    try:
        dead.kill(*DAEMONS)
        bridge, in_use = f"drkit{dead.run_directory.name}", f"drkit{Path(engine_url).parent.name}"
        assert {bridge, in_use} <= interfaces()
        engine.start()
        assert bridge not in interfaces()
        assert in_use in interfaces()
        assert dead.traces() == []
    finally:
        assert dead.script("remove").returncode == 0


def test_stop_takes_the_bridges_of_networks_along(running: PrivateEngine) -> None:
    running.docker("network create net")
    bridges = running.bridges()
    assert len(bridges) == 2
    assert bridges <= interfaces()
    running.script("stop")
    assert not bridges & interfaces()


def test_a_daemon_that_does_not_start_is_explained(engine: PrivateEngine, tmp_path: Path) -> None:
    broken = tmp_path / "bin"
    broken.mkdir()
    (broken / "dockerd").write_text("#!/bin/sh\necho the disk is on fire >&2\nexit 1\n")
    (broken / "dockerd").chmod(0o755)
    done = engine.script("start", env={"PATH": f"{broken}:{os.environ['PATH']}"})
    assert done.returncode == 1
    assert "the disk is on fire" in done.stderr
    assert "dockerd.log" in done.stderr
    assert engine.traces() == []


def test_a_directory_of_somebody_else_is_refused(engine: PrivateEngine) -> None:
    engine.root.mkdir()
    treasure = engine.root / "treasure"
    treasure.write_text("mine")
    refused = engine.script("start")
    assert refused.returncode == 1
    assert "--root" in refused.stderr
    engine.script("remove")
    assert treasure.read_text() == "mine"
    assert engine.traces() == []
    treasure.unlink()
    engine.root.rmdir()
