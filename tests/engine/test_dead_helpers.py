"""Helpers that a killed drkit created and never started, and containers that only look like them."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import docker
import pytest

from drkit.engine import containers
from drkit.engine.client import Engine
from drkit.engine.helper import fifos, launch
from drkit.engine.helper.build import build_from_host
from drkit.engine.helper.image import HelperImage
from drkit.engine.helper.launch import run_helper
from drkit.engine.labels import LABEL_EXCHANGE, LABEL_HELPER
from drkit.errors import DrkitError
from tests.support.lab import PROJECT

KILLED = """
import os, signal
from drkit.engine import containers
from drkit.engine.client import Engine
from drkit.engine.helper.launch import run_helper
containers.start = lambda engine, container: os.kill(os.getpid(), signal.SIGKILL)
with Engine.connect() as engine:
    run_helper(engine, {image_id!r}, "exit 0", run_id="killed", **{options})
"""


@pytest.fixture
def engine(engine_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """With an exchange directory of this test's own: in the host's are those of other processes too."""
    base = tmp_path / "runtime"
    base.mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(base))
    with Engine.connect(engine_url) as engine:
        yield engine


@pytest.fixture
def helper(engine: Engine) -> HelperImage:
    return build_from_host(engine).helper


@pytest.fixture
def api(engine_url: str) -> Iterator[docker.APIClient]:
    with closing(docker.APIClient(base_url=engine_url)) as api:
        yield api


@pytest.fixture
def volume(api: docker.APIClient, unique_name: str) -> Iterator[str]:
    api.create_volume(unique_name)
    yield unique_name
    api.remove_volume(unique_name)


def die(helper: HelperImage, volume: str, transport: str) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            KILLED.format(image_id=helper.image_id, options={"volume": volume, "transport": transport}),
        ],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done


def created(api: docker.APIClient) -> list[str]:
    return [box["Id"] for box in api.containers(all=True, filters={"label": LABEL_HELPER, "status": "created"})]


def test_the_next_run_removes_what_a_killed_one_never_started(
    engine: Engine, helper: HelperImage, api: docker.APIClient, volume: str
) -> None:
    die(helper, volume, "fifo")
    assert len(created(api)) == 1
    with pytest.raises(docker.errors.APIError, match="in use"):
        api.remove_volume(volume)
    engine.dead_helpers_removed = False
    run_helper(engine, helper.image_id, "exit 0", run_id="next")
    assert created(api) == []
    assert list(fifos._bases()[0].iterdir()) == []


def test_one_without_a_directory_goes_when_it_is_old(
    engine: Engine, helper: HelperImage, api: docker.APIClient, volume: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that another host created in a remote engine, and one from before a reboot."""
    die(helper, volume, "attach")
    for seconds, left in ((600.0, 1), (-5.0, 0)):
        monkeypatch.setattr(launch, "_STARTED_BY_THEN", seconds)
        engine.dead_helpers_removed = False
        run_helper(engine, helper.image_id, "exit 0", run_id="next")
        assert len(created(api)) == left


@pytest.mark.parametrize("disguise", ["label", "labels", "image", "living", "running"])
def test_what_only_looks_like_one_stays(
    engine: Engine,
    helper: HelperImage,
    api: docker.APIClient,
    volume: str,
    disguise: str,
    busybox_image: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if disguise != "image":
        monkeypatch.setattr(launch, "_STARTED_BY_THEN", -5.0)
    base = fifos._bases()[0]
    dead = base / "drkit-exchange-0123456789abcdef01234567"
    (dead / "x").mkdir(parents=True)
    binds = [f"{volume}:/volume"]
    if disguise in ("living", "running"):
        binds.append(f"{dead}/x:/drkit")
    box = api.create_container(
        helper.image_id if disguise == "image" else busybox_image,
        ["sleep", "60"],
        entrypoint=[] if disguise == "image" else None,
        labels={LABEL_HELPER: "0123456789abcdef"} | ({} if disguise == "label" else {LABEL_EXCHANGE: dead.name}),
        host_config=api.create_host_config(binds=binds),
    )["Id"]
    if disguise == "running":
        api.start(box)
    hold = os.open(dead, os.O_RDONLY)
    try:
        if disguise == "living":
            fcntl.flock(hold, fcntl.LOCK_EX)
        engine.dead_helpers_removed = False
        run_helper(engine, helper.image_id, "exit 0", run_id="next")
        assert api.inspect_container(box)["Id"] == box
        launch.remove_helpers(engine, "0123456789abcdef", "sha256:another")
        assert api.inspect_container(box)["Id"] == box
    finally:
        os.close(hold)
        api.remove_container(box, force=True)


def test_one_that_cannot_be_removed_stops_nobody(
    engine: Engine, helper: HelperImage, api: docker.APIClient, volume: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    die(helper, volume, "fifo")

    def refuse(engine: Engine, container: str) -> bool:
        raise launch.EngineError(f"container {container}: driver failed to remove root filesystem")

    engine.dead_helpers_removed = False
    with monkeypatch.context() as patch:
        patch.setattr(containers, "remove", refuse)
        launch._remove_dead_helpers(engine, helper.image_id)
    assert len(created(api)) == 1
    launch._remove_dead_helpers(engine, helper.image_id)
    assert created(api) == []


# --- where the directory is -------------------------------------------------------------------------------------------


def places(script: str, **environment: str) -> list[str]:
    """The exchange directory that drkit makes, in a mount namespace of its own, after `script` has set it up."""
    program = "from drkit.engine.helper.fifos import Fifos; f = Fifos(); print(f.directory); f.remove()"
    done = subprocess.run(
        ["unshare", "-m", "bash", "-ec", f'{script}\nexec "$0" -c "{program}"', sys.executable],
        env={**os.environ, "PYTHONPATH": str(PROJECT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.split()


READ_ONLY = "mount -t tmpfs tmpfs /run && mkdir -p /run/drkit /run/unit && mount -o remount,ro /run"


def test_under_protect_system_strict_the_units_directory_is_taken(tmp_path: Path) -> None:
    """There /run is read-only, but for RuntimeDirectory; /run/drkit may be there from a run outside the unit."""
    writable = f"{READ_ONLY} && mount -t tmpfs tmpfs /run/unit"
    [found] = places(writable, RUNTIME_DIRECTORY="/run/unit")
    assert found.startswith("/run/unit/drkit-exchange-")
    [found] = places(writable, RUNTIME_DIRECTORY="/run/drkit:/run/unit")
    assert found.startswith("/run/unit/drkit-exchange-")
    [found] = places(READ_ONLY, TMPDIR=str(tmp_path))
    assert found.startswith(f"{tmp_path}/drkit-exchange-")
    [found] = places(READ_ONLY, TMPDIR=str(tmp_path), RUNTIME_DIRECTORY="/run/gone")
    assert found.startswith(f"{tmp_path}/drkit-exchange-")
    [found] = places("mount -t tmpfs tmpfs /run", TMPDIR=str(tmp_path))
    assert found.startswith("/run/drkit/drkit-exchange-")


@pytest.mark.parametrize("mask", [0o000, 0o777])
def test_it_is_closed_to_others_whatever_the_umask(tmp_path: Path, mask: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    before = os.umask(mask)
    try:
        made = fifos.Fifos()
    finally:
        os.umask(before)
    assert oct(made.directory.parent.stat().st_mode & 0o777) == "0o700"
    assert oct(made.directory.stat().st_mode & 0o777) == "0o711"
    made.remove()
    assert list(tmp_path.iterdir()) == []


def test_no_place_at_all_is_an_error_with_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fifos, "_bases", lambda: [tmp_path / "missing"])
    with pytest.raises(DrkitError, match=r"exchange directory .*/missing: no such file or directory") as caught:
        fifos.Fifos()
    assert caught.value.hint is not None
