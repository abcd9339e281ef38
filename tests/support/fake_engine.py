"""As much of an engine as backups ask, with volumes and images that no real one would make here."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import docker.errors

from drkit.engine.client import Engine, explain
from drkit.engine.helper.archive import write_image
from drkit.engine.helper.image import HelperImage
from drkit.engine.helper.process import HelperProcess
from drkit.operations.backup_run import run
from drkit.operations.context import Context
from drkit.repository.format.snapshot import Snapshot
from drkit.targets import plan_targets
from drkit.targets.base import Ready
from tests.support.host_process import HostProcess

_HELPER_CONFIG = b'{"architecture": "amd64", "rootfs": {"diff_ids": []}}'
HELPER = HelperImage(f"sha256:{hashlib.sha256(_HELPER_CONFIG).hexdigest()}", "host", "1.34", "amd64", full=True)


class FakeEngine:
    """`files` are the directories of volumes; one without makes its helper fail with what is in `refusals`."""

    url = "fake:"

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.volumes: dict[str, dict[str, Any]] = {}
        self.files: dict[str, Path] = {}
        self.refusals: dict[str, str] = {}
        self.images: dict[str, dict[str, Any]] = {HELPER.image_id: {"Id": HELPER.image_id}}

    def look_up(self, doing: str, path: str) -> Mapping[str, Any] | None:
        if path.startswith("/volumes/"):
            return self.volumes.get(path.removeprefix("/volumes/"))
        return self.images.get(path.removeprefix("/images/").removesuffix("/json"))

    def facts(self) -> dict[str, Any]:
        return {"DockerRootDir": "/nonexistent"}

    def time(self) -> datetime:
        return self.now

    def in_background(self, work: Callable[[], None]) -> None:
        work()

    @contextmanager
    def stream(self, doing: str, method: str, path: str, **request: Any) -> Iterator[Any]:
        """The archive of an image: a manifest, and the configuration that the engine describes."""
        assert path == "/images/get"
        archive = io.BytesIO()
        if request["params"]["names"] == [HELPER.image_id]:
            write_image(archive, _HELPER_CONFIG, [])
            yield SimpleNamespace(iter_content=lambda size: iter([archive.getvalue()]))
            return
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name in ("config.json", "manifest.json"):
                content = repr([self.images[ref] for ref in request["params"]["names"]]).encode()
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        yield SimpleNamespace(iter_content=lambda size: iter([archive.getvalue()]))

    def take(self, name: str) -> HelperProcess:
        """What stands by for a capture of a volume."""
        if name in self.refusals:
            said = docker.errors.APIError("500 Server Error", explanation=self.refusals[name])
            raise explain(said, "container 0123456789ab")
        return cast("HelperProcess", HostProcess(self.files[name]))


def backup(context: Context, engine: FakeEngine, run_id: str) -> Snapshot:
    """Run a backup of the context's policy; the record."""
    asked = cast("Engine", engine)
    context.__dict__["engine"] = asked
    standby = cast("Any", SimpleNamespace(take=engine.take))
    ready = Ready(run_id, plan_targets(context.required_policy, asked), HELPER, standby)
    return run(context, ready, accept_repository=None)[0]
