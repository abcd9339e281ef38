"""Helper containers as processes: confined, bounded, and leaving nothing behind, whoever dies and when."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import docker
import pytest

from drkit.engine import containers, images, volumes
from drkit.engine.client import Engine
from drkit.engine.helper import fifos
from drkit.engine.helper.build import build_from_host
from drkit.engine.helper.image import HelperImage
from drkit.engine.helper.launch import Transport, run_helper, start_helper
from drkit.engine.helper.process import HelperProcess
from drkit.engine.helper.reading import Reading, start_capture
from drkit.engine.helper.writing import start_extract
from drkit.engine.labels import LABEL_HELPER
from drkit.errors import CaptureFailed, DrkitError, UsageError
from drkit.events import Collected

PROJECT = Path(__file__).resolve().parents[2]
TRANSPORTS: list[Transport] = ["fifo", "attach"]
READING = Reading.HOLES_TOLD.encode() + b"\n"
both_transports = pytest.mark.parametrize("transport", TRANSPORTS)


@pytest.fixture(scope="module")
def engine(engine_url: str) -> Iterator[Engine]:
    with Engine.connect(engine_url) as engine:
        yield engine


@pytest.fixture(scope="module")
def helper(engine: Engine) -> HelperImage:
    return build_from_host(engine).helper


@pytest.fixture
def volume(engine: Engine, unique_name: str) -> Iterator[str]:
    volumes.create(engine, unique_name)
    yield unique_name
    volumes.remove(engine, unique_name)


@pytest.fixture(scope="module")
def crowded_volume(engine: Engine) -> Iterator[str]:
    """A volume whose scan fills every pipe, for those who only read it."""
    name = f"drkit-test-crowded-{random.SystemRandom().randrange(2**32):08x}"
    volumes.create(engine, name)
    path = data_of(engine, name)
    for number in range(30_000):
        (path / f"{number:0100}").touch()
    (path / "large").write_bytes(b"x" * 20_000_000)
    yield name
    volumes.remove(engine, name)


def data_of(engine: Engine, volume: str) -> Path:
    document = volumes.inspect(engine, volume)
    assert document is not None
    return Path(document["Mountpoint"])


def read_all(process: HelperProcess) -> bytes:
    output = bytearray()
    buffer = memoryview(bytearray(1 << 20))
    while count := process.readinto(buffer):
        output += buffer[:count]
    return bytes(output)


def read_scan(process: HelperProcess) -> list[bytes]:
    output = bytearray()
    buffer = memoryview(bytearray(1 << 20))
    while not output.endswith(b"\0end 0\0\0"):
        count = process.readinto(buffer)
        assert count, "the scan ended early"
        output += buffer[:count]
    return bytes(output).split(b"\0\0")[1:-2]


def capture(engine: Engine, helper: HelperImage, volume: str, transport: Transport) -> bytes:
    with start_capture(engine, helper, volume, run_id="test", transport=transport) as process:
        names = [record.partition(b"\0")[0] for record in read_scan(process)]
        paths = sorted(b"./" + name if name else b"." for name in names)
        writer = threading.Thread(
            target=lambda: (process.write(READING + b"".join(path + b"\0" for path in paths)), process.close_stdin())
        )
        writer.start()
        archive = read_all(process)
        writer.join()
        assert process.finish().code == 0
        return archive


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def wait_until(condition: Callable[[], Any], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


# --- confinement


@pytest.mark.parametrize(
    ("readonly", "trusted", "capabilities"),
    [
        (True, False, {"DAC_READ_SEARCH"}),
        (True, True, {"DAC_READ_SEARCH", "SYS_ADMIN"}),
        (False, False, {"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP"}),
        (False, True, {"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP", "SYS_ADMIN"}),
    ],
)
def test_the_running_helper_is_confined(
    engine: Engine, helper: HelperImage, volume: str, readonly: bool, trusted: bool, capabilities: set[str]
) -> None:
    with start_helper(
        engine,
        helper.image_id,
        script="for file in status net/dev; do "
        "while read line; do printf '%s\n' \"$line\"; done </proc/self/$file; done; read wait",
        volume=volume,
        readonly=readonly,
        trusted_xattrs=trusted,
        run_id="run-7",
    ) as process:
        container = containers.inspect(engine, process.container)
        assert container is not None
        host = container["HostConfig"]
        assert host["NetworkMode"] == "none" and container["Config"]["NetworkDisabled"] is True
        networks = container["NetworkSettings"]["Networks"]
        assert all(not network["IPAddress"] and not network["EndpointID"] for network in networks.values()), networks
        assert host["ReadonlyRootfs"] and host["AutoRemove"] and not host["Privileged"]
        assert host["CapDrop"] == ["ALL"] and set(host["CapAdd"]) == capabilities
        assert {"no-new-privileges", "label=disable"} <= set(host["SecurityOpt"])
        assert host["LogConfig"]["Type"] == "none"
        assert host["Memory"] >= 1 << 30 and host["MemorySwap"] == host["Memory"]
        assert host["PidsLimit"] == 32 and host["NanoCpus"] >= 10**9
        assert not host["Binds"] and not host["Devices"] and not host["PortBindings"]
        assert container["Config"]["Labels"][LABEL_HELPER] == "run-7"
        assert container["Image"] == helper.image_id
        mounts = {mount["Target"]: mount for mount in host["Mounts"]}
        assert mounts.keys() == {"/volume", "/drkit"}
        assert mounts["/volume"]["VolumeOptions"]["NoCopy"] is True
        assert bool(mounts["/volume"].get("ReadOnly")) is readonly
        process.close_stdin()
        said, interfaces = read_all(process).decode().split("Inter-|", 1)
        status = dict(line.split(":", 1) for line in said.splitlines())
    assert re.findall(r"^(\S+):", interfaces, re.MULTILINE) == ["lo"]
    numbers = {"CHOWN": 0, "DAC_OVERRIDE": 1, "DAC_READ_SEARCH": 2, "FOWNER": 3, "FSETID": 4, "SYS_ADMIN": 21}
    numbers |= {"MKNOD": 27, "SETFCAP": 31}
    assert int(status["CapEff"], 16) == sum(1 << numbers[name] for name in capabilities)
    assert status["NoNewPrivs"].strip() == "1" and status["Seccomp"].strip() == "2"


def test_the_helper_cannot_do_what_it_must_not(engine: Engine, helper: HelperImage, volume: str) -> None:
    script = (
        "(: >/volume/x) 2>/dev/null && echo wrote; (: >/x) 2>/dev/null && echo wrote; read l </proc/net/route; echo $l"
    )
    output, end = run_helper(engine, helper.image_id, script, volume=volume, run_id="test")
    assert b"wrote" not in output and end.code == 0
    assert list(data_of(engine, volume).iterdir()) == []


@both_transports
def test_reading_an_empty_volume_changes_nothing(
    engine: Engine, helper: HelperImage, volume: str, transport: Transport
) -> None:
    path = data_of(engine, volume)
    os.chown(path, 999, 998)
    path.chmod(0o2751)
    os.utime(path, ns=(1, 1_500_000_000_123_456_789))
    before = path.stat()
    capture(engine, helper, volume, transport)
    after = path.stat()
    assert (after.st_uid, after.st_gid, after.st_mode, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_uid,
        before.st_gid,
        before.st_mode,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )
    assert list(path.iterdir()) == []


@both_transports
def test_a_volume_that_does_not_exist_is_not_created(engine: Engine, helper: HelperImage, transport: Transport) -> None:
    with pytest.raises(CaptureFailed, match="volume drkit-test-mistyped: no such volume"):
        start_capture(engine, helper, "drkit-test-mistyped", run_id="test", transport=transport)
    assert volumes.inspect(engine, "drkit-test-mistyped") is None
    with pytest.raises(UsageError):
        start_capture(engine, helper, "../etc", run_id="test", transport=transport)


# --- streams


@both_transports
def test_streams_carry_every_byte(engine: Engine, helper: HelperImage, transport: Transport) -> None:
    data = os.urandom(8_000_000)
    # sh has no cat: tar gives back the one member's bytes.
    with start_helper(
        engine,
        helper.image_id,
        script="exec tar --extract --to-stdout --file=-",
        volume=None,
        readonly=True,
        trusted_xattrs=False,
        run_id="test",
        transport=transport,
    ) as process:
        assert process.transport == transport
        writer = threading.Thread(target=lambda: (process.write(archive_of(data)), process.close_stdin()))
        writer.start()
        assert read_all(process) == data
        writer.join()
        assert process.finish().code == 0


def archive_of(data: bytes) -> bytes:
    import io
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo("x")
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


@both_transports
def test_exit_status_and_stderr_arrive(engine: Engine, helper: HelperImage, transport: Transport) -> None:
    output, end = run_helper(
        engine,
        helper.image_id,
        'printf "out $1"; printf err >&2; exit 7',
        run_id="test",
        transport=transport,
        arguments=["a b"],
    )
    assert (output, end.code, end.stderr, end.stderr_truncated, end.oom_killed) == (b"out a b", 7, b"err", False, False)
    assert end.describe() == "exit status 7: err"


@both_transports
def test_stderr_without_end_is_bounded_and_blocks_nothing(
    engine: Engine, helper: HelperImage, transport: Transport
) -> None:
    script = """
        line=0123456789abcdef; for i in 1 2 3 4 5 6 7 8; do line=$line$line; done
        i=0; while [ $i -lt 1000 ]; do echo $line >&2; i=$((i + 1)); done; echo done"""
    output, end = run_helper(engine, helper.image_id, script, run_id="test", transport=transport)
    assert output == b"done\n" and end.code == 0
    assert end.stderr_truncated and len(end.stderr) == 1 << 20


@both_transports
def test_a_helper_that_reads_nothing_breaks_the_writer(
    engine: Engine, helper: HelperImage, transport: Transport
) -> None:
    with (
        start_helper(
            engine,
            helper.image_id,
            script="echo no thanks >&2; exit 9",
            volume=None,
            readonly=False,
            trusted_xattrs=False,
            run_id="test",
            transport=transport,
        ) as process,
        pytest.raises(DrkitError, match=r"stopped reading \(exit status 9: no thanks\)"),
    ):
        for _ in range(1000):
            process.write(b"x" * 100_000)


def test_the_attach_stream_gives_what_the_fifo_gives(engine: Engine, helper: HelperImage, volume: str) -> None:
    path = data_of(engine, volume)
    for number in range(300):
        directory = path / f"d{number % 7}"
        directory.mkdir(exist_ok=True)
        (directory / f"f{number}").write_bytes(os.urandom(number * 700))
    with (path / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    archives = [capture(engine, helper, volume, transport) for transport in TRANSPORTS]
    assert archives[0] == archives[1] and len(archives[0]) > 30_000_000


def test_a_restored_volume_captures_to_the_same_bytes(
    engine: Engine, helper: HelperImage, volume: str, unique_name: str
) -> None:
    path = data_of(engine, volume)
    (path / "a").write_bytes(b"a" * 5000)
    os.link(path / "a", path / "b")
    path.chmod(0o2750)
    archive = capture(engine, helper, volume, "fifo")
    other = f"{unique_name}-copy"
    try:
        for transport in TRANSPORTS:
            volumes.remove(engine, other)
            volumes.create(engine, other)
            with start_extract(engine, helper, other, run_id="test", transport=transport) as process:
                process.write(archive)
                end = process.finish()
            assert (end.code, end.stderr) == (0, b"")
            assert capture(engine, helper, other, "fifo") == archive
    finally:
        volumes.remove(engine, other)


# --- the transport is proven, never guessed


class Notes(Collected):
    """Keeps the notes too."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_an_engine_that_does_not_share_the_directory_is_noticed(
    engine_url: str, helper: HelperImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(self: fifos.Fifos) -> dict[str, Any]:
        return {"Type": "bind", "Source": "/nonexistent/on-the-engines-host", "Target": "/drkit"}

    monkeypatch.setattr(fifos.Fifos, "mount", elsewhere)
    events = Notes()
    with Engine.connect(engine_url, events) as engine:
        output, _ = run_helper(engine, helper.image_id, "echo here", run_id="test")
        assert output == b"here\n" and engine.shares_directory is False
        with pytest.raises(DrkitError, match="bind source path does not exist"):
            run_helper(engine, helper.image_id, "echo here", run_id="test", transport="fifo")
    assert events.notes == [f"engine {engine_url} does not share directories with this host: using its attach stream"]


def test_another_directory_of_the_same_name_is_noticed(
    engine_url: str, helper: HelperImage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("in", "out", "err"):
        (tmp_path / name).touch(mode=0o666)
    monkeypatch.setattr(
        fifos.Fifos, "mount", lambda self: {"Type": "bind", "Source": str(tmp_path), "Target": "/drkit"}
    )
    monkeypatch.setattr("drkit.engine.helper.process._TOKEN_SECONDS", 2.0)
    with Engine.connect(engine_url) as engine:
        output, _ = run_helper(engine, helper.image_id, "echo here", run_id="test")
        assert output == b"here\n" and engine.shares_directory is False


def test_drkit_in_a_container_names_a_volume(
    engine: Engine, helper: HelperImage, volume: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRKIT_EXCHANGE_DIR", str(data_of(engine, volume)))
    with pytest.raises(UsageError, match="without the other"):
        run_helper(engine, helper.image_id, "echo here", run_id="test")
    monkeypatch.setenv("DRKIT_EXCHANGE_VOLUME", volume)
    output, _ = run_helper(engine, helper.image_id, "echo here", run_id="test", transport="fifo")
    assert output == b"here\n"
    assert list(data_of(engine, volume).iterdir()) == []


def test_a_held_helper_begins_when_it_is_told(engine: Engine, helper: HelperImage, volume: str) -> None:
    with start_capture(engine, helper, volume, run_id="test", held=True) as process:
        (data_of(engine, volume) / "made while it waited").touch()
        process.write(b"\n")
        scan, buffer = b"", memoryview(bytearray(1 << 16))
        while not scan.endswith(b"\0end 0\0\0"):
            scan += buffer[: process.readinto(buffer)]
        process.write(READING + b"./made while it waited\0")
        process.close_stdin()
        archive = b""
        while count := process.readinto(buffer):
            archive += buffer[:count]
        assert process.finish().code == 0
    assert b"\0\0made while it waited\0" in scan
    assert b"./made while it waited" in archive


# --- death


CHILD = """
import os, signal, sys
from drkit.engine import containers
from drkit.engine.client import Engine
from drkit.engine.helper.build import build_from_host
from drkit.engine.helper.reading import start_capture
from drkit.engine.helper.writing import start_extract

moment, volume, run_id = sys.argv[1:]
die = lambda *ignored: os.kill(os.getpid(), signal.SIGKILL)
engine = Engine.connect()
helper = build_from_host(engine).helper
buffer = memoryview(bytearray(1 << 16))
if moment == "created":
    containers.start = die
if moment == "starting":
    start = containers.start
    containers.start = lambda engine, container: (start(engine, container), die())
if moment == "held":
    start_capture(engine, helper, volume, run_id=run_id, held=True)
    die()
if moment == "extracting":
    process = start_extract(engine, helper, volume, run_id=run_id)
    process.write(b"\\0" * 512)
    die()
process = start_capture(engine, helper, volume, run_id=run_id)
if moment == "scanning":
    process.readinto(buffer)
    die()
scan = b""
while not scan.endswith(b"\\0end 0\\0\\0"):
    scan += buffer[:process.readinto(buffer)]
process.write(b"--sparse\\n./large\\0")
if moment == "listing":
    die()
process.close_stdin()
process.readinto(buffer)
die()
"""


@pytest.mark.parametrize("moment", ["created", "starting", "held", "scanning", "listing", "streaming", "extracting"])
def test_a_killed_drkit_leaves_no_running_helper(
    engine: Engine, helper: HelperImage, volume: str, crowded_volume: str, unique_name: str, moment: str
) -> None:
    used = volume if moment == "extracting" else crowded_volume
    child = subprocess.run(
        [sys.executable, "-c", CHILD, moment, used, unique_name],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    label = f"{LABEL_HELPER}={unique_name}"
    assert wait_until(lambda: not containers.find(engine, [label], status=["running"]), 5)
    if moment == "created":  # between two requests nobody can clean up: it stays, and runs nothing
        (left,) = containers.find(engine, [label])
        containers.remove(engine, left["Id"])
    assert wait_until(lambda: not containers.find(engine, [label]), 5)


@contextmanager
def killed(container: str) -> Iterator[None]:
    """Kill it while the body runs: engines answer only once the container's output was taken."""
    with subprocess.Popen(["docker", "kill", container], stdout=subprocess.DEVNULL) as command:
        yield
        assert command.wait(30) == 0


@both_transports
@pytest.mark.parametrize("moment", ["scanning", "listing", "streaming"])
def test_a_killed_helper_is_never_taken_for_a_capture(
    engine: Engine, helper: HelperImage, crowded_volume: str, transport: Transport, moment: str
) -> None:
    started = time.monotonic()
    with start_capture(engine, helper, crowded_volume, run_id="test", transport=transport) as process:
        if moment == "scanning":
            process.readinto(memoryview(bytearray(1)))
        else:
            names = [record.partition(b"\0")[0] for record in read_scan(process)]
            process.write(READING + b"./" + names[1] + b"\0")
        if moment == "streaming":

            def send_list() -> None:
                with suppress(CaptureFailed):  # the kill may come before all is sent
                    process.write(b"".join(b"./" + name + b"\0" for name in names[1:]))
                    process.close_stdin()

            writer = threading.Thread(target=send_list)
            writer.start()
            process.readinto(memoryview(bytearray(1)))
        with killed(process.container):
            if moment == "listing":
                with pytest.raises(CaptureFailed, match=r"stopped reading \(was killed"):
                    for _ in range(100):
                        process.write(b"./x\0" * 100_000)
            read_all(process)
        if moment == "streaming":
            writer.join()
        end = process.finish()
    assert end.code == 137 and not end.oom_killed
    assert "was killed" in end.describe()
    assert time.monotonic() - started < 20


@both_transports
def test_abort_ends_everything_from_another_thread(engine: Engine, helper: HelperImage, transport: Transport) -> None:
    with start_helper(
        engine,
        helper.image_id,
        script="read forever",
        volume=None,
        readonly=True,
        trusted_xattrs=False,
        run_id="test",
        transport=transport,
    ) as process:
        timer = threading.Timer(0.3, process.abort)
        timer.start()
        with pytest.raises(CaptureFailed, match="was stopped"):
            process.readinto(memoryview(bytearray(10)))
        with pytest.raises(CaptureFailed, match="was stopped"):
            process.write(b"x")
        with pytest.raises(CaptureFailed, match="was stopped"):
            process.finish()
        timer.join()
    assert containers.inspect(engine, process.container) is None


@both_transports
def test_leaving_early_removes_the_container(
    engine: Engine, helper: HelperImage, volume: str, transport: Transport
) -> None:
    (data_of(engine, volume) / "large").write_bytes(b"x" * 20_000_000)
    started = time.monotonic()
    with (
        pytest.raises(ZeroDivisionError),
        start_capture(engine, helper, volume, run_id="test", transport=transport) as process,
    ):
        read_scan(process)
        process.write(READING + b"./large\0")
        process.close_stdin()
        process.readinto(memoryview(bytearray(1)))
        raise ZeroDivisionError
    assert containers.inspect(engine, process.container) is None
    assert time.monotonic() - started < 20


def test_a_helper_that_does_not_end_is_killed(engine: Engine, helper: HelperImage) -> None:
    with start_helper(
        engine,
        helper.image_id,
        script="trap '' TERM; exec >&-; while :; do :; done",
        volume=None,
        readonly=True,
        trusted_xattrs=False,
        run_id="test",
        exit_seconds=1,
    ) as process:
        read_all(process)
        with pytest.raises(CaptureFailed, match="did not end within 1 seconds and was killed"):
            process.finish()
    assert containers.inspect(engine, process.container) is None


def test_out_of_memory_is_named(engine: Engine, helper: HelperImage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drkit.engine.helper.launch._memory_limit", lambda facts: 16 << 20)
    script = "line=0123456789abcdef; while :; do line=$line$line; done"
    _, end = run_helper(engine, helper.image_id, f"exec /bin/sh -c '{script}'", run_id="test")
    assert end.code == 137 and end.oom_killed
    assert end.describe() == "killed by the kernel: out of memory"


def test_nothing_is_left_on_the_host(
    engine: Engine, helper: HelperImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In the host's own place are those of other processes too.
    monkeypatch.setattr(fifos, "_OWN_BASE", tmp_path / "drkit")
    base = fifos._bases()[0]
    assert base == tmp_path / "drkit"
    descriptors = open_descriptors()
    for transport in TRANSPORTS:
        run_helper(engine, helper.image_id, "exit 0", run_id="test", transport=transport)
    assert list(base.iterdir()) == []
    assert wait_until(lambda: open_descriptors() <= descriptors, 5)
    orphan = base / "drkit-exchange-orphan"
    orphan.mkdir()
    engine.dead_helpers_removed = False
    run_helper(engine, helper.image_id, "exit 0", run_id="test", transport="fifo")
    assert not orphan.exists()


def test_an_image_without_a_shell_is_said_so(engine: Engine, unique_name: str) -> None:
    api = docker.APIClient(base_url=engine.url)
    try:
        empty = subprocess.run(["tar", "-cf", "-", "--files-from=/dev/null"], capture_output=True, check=True).stdout
        api.import_image_from_data(empty, repository=unique_name, tag="1")
        image = images.inspect(engine, f"{unique_name}:1")
        assert image is not None
        with pytest.raises(DrkitError, match="/bin/sh"):
            run_helper(engine, image["Id"], "exit 0", run_id="test")
        assert containers.find(engine, [f"{LABEL_HELPER}=test"]) == []
    finally:
        images.remove(engine, f"{unique_name}:1")
        api.close()
