"""As much of an engine as backups ask, with volumes and images that no real one would make here."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from drkit.errors import DrkitError
from drkit.operations.backup_run import run
from drkit.operations.context import Context
from drkit.policy.references import parse_reference
from drkit.repository.format.snapshot import Snapshot
from drkit.targets import plan_targets
from drkit.targets.base import Ready
from tests.support.host_process import HostProcess

_HELPER_CONFIG = b'{"architecture": "amd64", "rootfs": {"diff_ids": []}}'
HELPER = HelperImage(f"sha256:{hashlib.sha256(_HELPER_CONFIG).hexdigest()}", "host", "1.34", "amd64", full=True)


class FakeEngine:
    """`files` are the directories of volumes; one without makes its helper fail with what is in `refusals`."""

    url = "fake:"
    is_local = True

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.volumes: dict[str, dict[str, Any]] = {}
        self.files: dict[str, Path] = {}
        self.refusals: dict[str, str] = {}
        self.containers: list[dict[str, Any]] = []
        self.drivers = ["local"]
        self.listing_warnings: list[str] = []
        self.unlisted: list[str] = []
        self.images: dict[str, dict[str, Any]] = {HELPER.image_id: {"Id": HELPER.image_id, "RootFS": {"Layers": []}}}

    def get(self, doing: str, path: str, **request: Any) -> Any:
        if path == "/containers/json":
            states = json.loads(request["params"].get("filters", "{}")).get("status")
            return [each for each in self.containers if not states or each["State"] in states]
        assert path == "/volumes"
        return {"Volumes": list(self.volumes.values()), "Warnings": self.listing_warnings}

    def info(self) -> dict[str, Any]:
        return {"Plugins": {"Volume": self.drivers}}

    def look_up(self, doing: str, path: str) -> Mapping[str, Any] | None:
        if path.startswith("/volumes/"):
            return self.volumes.get(path.removeprefix("/volumes/"))
        return self._image(path.removeprefix("/images/").removesuffix("/json"))

    def _image(self, ref: str) -> dict[str, Any] | None:
        return next((self.images[known] for known in self.images if parse_reference(known).full == ref), None)

    def require_alive(self, error: DrkitError) -> None:
        pass

    def facts(self) -> dict[str, Any]:
        return {"DockerRootDir": "/nonexistent"}

    def time(self) -> datetime:
        return self.now

    def in_background(self, work: Callable[[], None]) -> None:
        work()

    @contextmanager
    def stream(self, doing: str, method: str, path: str, **request: Any) -> Iterator[Any]:
        assert path == "/images/get"
        [ref] = request["params"]["names"]
        if ref == HELPER.image_id:
            archive = io.BytesIO()
            write_image(archive, _HELPER_CONFIG, [])
            yield SimpleNamespace(iter_content=lambda size: iter([archive.getvalue()]))
            return
        document = self._image(ref)
        assert document is not None
        image = docker_archive(document, [parse_reference(ref).familiar])
        yield SimpleNamespace(iter_content=lambda size: iter([image]))

    def take(self, name: str) -> HelperProcess:
        """What stands by for a capture of a volume."""
        if name in self.refusals:
            said = docker.errors.APIError("500 Server Error", explanation=self.refusals[name])
            raise explain(said, "container 0123456789ab")
        return cast("HelperProcess", HostProcess(self.files[name]))


def image_config(document: Mapping[str, Any]) -> bytes:
    """The configuration of an image that the engine describes so."""
    known = {"os": "Os", "architecture": "Architecture", "variant": "Variant", "config": "Config"}
    config = {key: document[name] for key, name in known.items() if name in document}
    rootfs = {"type": "layers", "diff_ids": document["RootFS"]["Layers"]}
    return json.dumps({**config, "rootfs": rootfs}).encode()


def with_its_id(document: dict[str, Any]) -> dict[str, Any]:
    """The description of an image, with the id that its configuration gives it."""
    return {**document, "Id": f"sha256:{hashlib.sha256(image_config(document)).hexdigest()}"}


def docker_archive(document: Mapping[str, Any], tags: Sequence[str] | None) -> bytes:
    """The archive of an image, as `docker save` of Engine 20.10 writes it; its layers are no tars."""
    config = image_config(document)
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    layers = {f"{digest[-64:]}/layer.tar": b"layer " + digest.encode() for digest in document["RootFS"]["Layers"]}
    manifest = [{"Config": name, "RepoTags": tags, "Layers": list(layers)}]
    return tar_of({name: config, **layers, "manifest.json": json.dumps(manifest).encode()})


def tar_of(files: Mapping[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


def backup(context: Context, engine: FakeEngine, run_id: str) -> Snapshot:
    """Run a backup of the context's policy; the record."""
    asked = cast("Engine", engine)
    context.__dict__["engine"] = asked
    standby = cast("Any", SimpleNamespace(take=engine.take))
    ready = Ready(run_id, plan_targets(context.required_policy, asked), HELPER, standby)
    return run(context, ready, accept_repository=None)[0]
