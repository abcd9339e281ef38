"""Starting helper containers.

Only helpers touch volumes. A helper has no network, a read-only root and only the capabilities that its task needs. The
engine removes it when it ends, even if drkit is dead by then.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from drkit.engine import containers, volumes
from drkit.engine.client import Document, Engine, EngineError
from drkit.engine.helper.fifos import Fifos, orphans
from drkit.engine.helper.process import CONNECT_FIFOS, EXIT_SECONDS, HelperExit, HelperProcess
from drkit.engine.labels import LABEL_EXCHANGE, LABEL_HELPER
from drkit.errors import CaptureFailed, DrkitError
from drkit.events import noted_if_slow

Transport = Literal["auto", "fifo", "attach"]

VOLUME_MOUNT = "/volume"

_NOT_RUNNING = ("created", "exited", "dead")
_STARTED_BY_THEN = 600.0
"""Seconds. A helper is started as soon as it is created; each request in between may take a minute."""

_READ_CAPABILITIES = ["DAC_READ_SEARCH"]
_WRITE_CAPABILITIES = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP"]


class _NotShared(EngineError):
    """The engine does not see our directory of FIFOs."""


def start_helper(
    engine: Engine,
    image_id: str,
    *,
    script: str,
    volume: str | None,
    readonly: bool,
    trusted_xattrs: bool,
    run_id: str,
    transport: Transport = "auto",
    arguments: Sequence[str] = (),
    exit_seconds: float = EXIT_SECONDS,
) -> HelperProcess:
    """Run a shell script in a new helper container, with `volume` at /volume and `arguments` as $1, $2, ...

    `readonly` mounts the volume read-only and grants the capabilities to read it; its errors are CaptureFailed, those
    of a writing helper DrkitError. The volume must exist. `exit_seconds` limits how long `finish` waits.
    """
    if not engine.dead_helpers_removed:
        engine.dead_helpers_removed = True
        _remove_dead_helpers(engine, image_id)
    if volume is not None and volumes.inspect(engine, volume) is None:
        raise (CaptureFailed if readonly else DrkitError)(
            f"volume {volume}: no such volume", hint="List the volumes there are: docker volume ls."
        )
    config = _container_config(
        engine.facts(), image_id, volume=volume, readonly=readonly, trusted_xattrs=trusted_xattrs, run_id=run_id
    )
    task = _Task(
        config,
        script,
        tuple(arguments),
        what=f"volume {volume}" if volume is not None else f"helper {image_id[:19]}",
        error=CaptureFailed if readonly else DrkitError,
        exit_seconds=exit_seconds,
    )
    # A create takes some milliseconds, and seconds where the disk that the engine syncs its own files to is busy.
    # Whoever has interrupted drkit waits for that as well: what is being created can only be removed afterwards.
    with noted_if_slow(engine.events, f"{task.what}: waiting for the engine to start a helper"):
        return _started(engine, task, transport)


def _started(engine: Engine, task: _Task, transport: Transport) -> HelperProcess:
    if transport != "attach" and (transport == "fifo" or engine.shares_directory is not False):
        try:
            process = _start_with_fifos(engine, task)
        except _NotShared:
            if transport == "fifo":
                raise
            engine.events.note(
                f"engine {engine.url} does not share directories with this host: using its attach stream"
            )
            engine.shares_directory = False
        else:
            engine.shares_directory = True
            return process
    process = task.create(engine, task.script, [], task.arguments)
    try:
        process.start_attached()
    except BaseException:
        process.close()
        raise
    return process


@dataclass(frozen=True)
class _Task:
    """What to run, whichever way its streams travel."""

    config: Document
    script: str
    arguments: tuple[str, ...]
    what: str
    error: type[DrkitError]
    exit_seconds: float

    def create(
        self, engine: Engine, script: str, mounts: list[Document], arguments: Sequence[str], exchange: str = ""
    ) -> HelperProcess:
        """`exchange`: the name of the directory through which it talks, which tells later whether its drkit lives."""
        host = self.config["HostConfig"]
        labels = {LABEL_EXCHANGE: exchange} if exchange else {}
        config = {
            **self.config,
            "Labels": {**self.config["Labels"], **labels},
            "Entrypoint": ["/bin/sh", "-c", script, "drkit"],
            "Cmd": list(arguments),
            "HostConfig": {**host, "Mounts": [*host["Mounts"], *mounts]},
        }
        container = containers.create(engine, config)
        return HelperProcess(engine, container, what=self.what, error=self.error, exit_seconds=self.exit_seconds)


def _start_with_fifos(engine: Engine, task: _Task) -> HelperProcess:
    fifos = Fifos()
    token = secrets.token_hex(16)
    try:
        process = task.create(
            engine,
            CONNECT_FIFOS + task.script,
            [fifos.mount()],
            [fifos.path_in_helper(), token, *task.arguments],
            fifos.name,
        )
    except BaseException as error:
        fifos.remove()
        _raise_if_unshared(error)
        raise
    try:
        if not process.start_with_fifos(fifos, token):
            raise _NotShared(
                f"{task.what}: the engine does not share {fifos.directory} with this host",
                hint="Set DRKIT_EXCHANGE_DIR and DRKIT_EXCHANGE_VOLUME if drkit runs in a container.",
            )
    except BaseException as error:
        process.close()
        _raise_if_unshared(error)
        raise
    return process


def _raise_if_unshared(error: BaseException) -> None:
    """Raise _NotShared when the engine refused to mount a directory that it lacks or may not share: wordings differ."""
    said = ("bind source path", "mounts denied", "error mounting", "not shared")
    if isinstance(error, EngineError) and any(words in error.message for words in said):
        raise _NotShared(error.message, hint=error.hint, said=error.said, status=error.status) from error


def _container_config(
    facts: Document, image_id: str, *, volume: str | None, readonly: bool, trusted_xattrs: bool, run_id: str
) -> Document:
    """The hardened container, in the engine's own terms."""
    mounts: list[Document] = []
    if volume is not None:
        mounts.append(
            {
                "Type": "volume",
                "Source": volume,
                "Target": VOLUME_MOUNT,
                "ReadOnly": readonly,
                # Without NoCopy the engine gives an empty volume the owner, mode and content of the mount point in the
                # image, even if it is mounted read-only.
                "VolumeOptions": {"NoCopy": True},
            }
        )
    host: Document = {
        "NetworkMode": "none",  # for engines that ignore NetworkDisabled, see below
        "IpcMode": "none",
        "ReadonlyRootfs": True,
        "AutoRemove": True,
        "CapDrop": ["ALL"],
        "CapAdd": [
            *(_READ_CAPABILITIES if readonly else _WRITE_CAPABILITIES),
            *(["SYS_ADMIN"] if trusted_xattrs else []),
        ],
        "SecurityOpt": ["no-new-privileges", "label=disable"],
        "LogConfig": {"Type": "none"},
        "Mounts": mounts,
        # If the host runs out of memory, production survives the backup.
        "OomScoreAdj": 500,
    }
    # Set each limit only if the engine can: some refuse a container whose limits their kernel cannot enforce.
    if facts.get("MemoryLimit"):
        host["Memory"] = host["MemorySwap"] = _memory_limit(facts)
    if facts.get("PidsLimit"):
        host["PidsLimit"] = 32
    if facts.get("CpuCfsQuota"):
        host["NanoCpus"] = min(2, int(facts.get("NCPU") or 1)) * 10**9
    return {
        "Image": image_id,
        "User": "0:0",
        "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"],
        "Labels": {LABEL_HELPER: run_id},
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "Healthcheck": {"Test": ["NONE"]},
        # The helper gets an empty network namespace. With network "none" alone the engine would set up one, which took
        # half of the time that a helper needs to start.
        "NetworkDisabled": True,
        "HostConfig": host,
    }


def _memory_limit(facts: Document) -> int:
    """A quarter of the host, at least 1 GiB.

    Measured: to write, tar needs 230 bytes for each directory whose metadata it sets last (230 MB for a million; more
    if they have xattrs), and to read next to nothing. The rest is page cache: enough to read a restore back from
    memory, but not so much that reading a large volume evicts everything else from the host's cache.
    """
    return max(1 << 30, int(facts.get("MemTotal") or 0) // 4)


def remove_helpers(engine: Engine, run_id: str, image_id: str) -> None:
    """Remove what is left of the helpers of a run that is over. `image_id` is the image they were made from.

    Anybody can give a container our label: one of another image is not a helper, and stays.
    """
    for container in containers.find(engine, [f"{LABEL_HELPER}={run_id}"]):
        if container["ImageID"] == image_id:
            containers.remove(engine, str(container["Id"]))


def _remove_dead_helpers(engine: Engine, image_id: str) -> None:
    """Remove the helpers that a killed drkit created and never started.

    The engine removes a helper that ends. These would stay for good, and their volumes would count as in use. A label
    proves nothing, since anybody can set it. So such a helper must mount the directory of a drkit of this host that has
    died; or, where there is none, as after a reboot or for another host, be made from the image that is in use here
    and be so old, by the engine's clock, that no living drkit is still about to start it.
    """
    try:
        with orphans() as dead:
            for container in containers.find(engine, [LABEL_HELPER], status=_NOT_RUNNING):
                orphan = dead.get(container["Labels"].get(LABEL_EXCHANGE, ""))
                if orphan.is_mounted_by(container) if orphan else _is_forgotten(engine, container, image_id):
                    containers.remove(engine, str(container["Id"]))
                    engine.events.detail(f"removed helper container {container['Id'][:12]}, which a killed drkit left")
    except EngineError as error:
        engine.events.warn(f"a helper container that a killed drkit left is not removed: {error.message}")


def _is_forgotten(engine: Engine, container: Document, image_id: str) -> bool:
    age = engine.time().timestamp() - container["Created"]
    return bool(container["State"] == "created" and container["ImageID"] == image_id and age > _STARTED_BY_THEN)


def run_helper(engine: Engine, image_id: str, script: str, *, run_id: str, **options: Any) -> tuple[bytes, HelperExit]:
    """Run a short script without input; return its output, which must fit in memory, and how it ended.

    `options` are those of `start_helper`; by default there is no volume.
    """
    options = {"volume": None, "readonly": True, "trusted_xattrs": False} | options
    output = bytearray()
    buffer = memoryview(bytearray(1 << 16))
    with start_helper(engine, image_id, script=script, run_id=run_id, **options) as process:
        process.close_stdin()
        while count := process.readinto(buffer):
            output += buffer[:count]
        return bytes(output), process.finish()
