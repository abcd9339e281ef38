"""A laboratory: a policy, its repository and keys, volumes that go away with it, and drkit run on them as a process."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import docker

PROJECT = Path(__file__).resolve().parents[2]
HELPER_LABEL = "drkit.helper"


class Volume(NamedTuple):
    name: str
    files: Path


class Result(NamedTuple):
    code: int
    stdout: str
    stderr: str
    peak_memory: int  # bytes


class Lab:
    """One policy in one directory. `write_policy` and `init` make everything ready for a backup."""

    def __init__(self, api: docker.APIClient, directory: Path, name: str) -> None:
        self.api, self.directory, self.name = api, directory, name
        self.policy = directory / "policy.yaml"
        self.repository = directory / "repository"
        self.identity = directory / "identity.txt"
        self.recipients = directory / "recipients.txt"
        self.state = directory / "state"
        self.s3: dict[str, str] = {}
        """Keys of the policy that put the repository elsewhere."""
        self.volumes_made: list[str] = []
        self.images_made: list[str] = []
        self._started = 0.0

    # -- what is protected

    def volume(self, suffix: str, files: Mapping[str, bytes] | None = None, **create: Any) -> Volume:
        """Make a volume; `files` maps paths to contents, parents are made."""
        name = f"{self.name}-{suffix}"
        self.api.create_volume(name, **create)
        self.forget_later(name)
        volume = self.find(name)
        fill(volume.files, files or {})
        return volume

    def find(self, name: str) -> Volume:
        return Volume(name, Path(self.api.inspect_volume(name)["Mountpoint"]))

    def exists(self, name: str) -> bool:
        return name in {volume["Name"] for volume in self.api.volumes()["Volumes"] or []}

    def remove(self, *volumes: Volume) -> None:
        for volume in volumes:
            self.api.remove_volume(volume.name)

    def forget_later(self, name: str) -> str:
        """Remove this volume at the end, if it is there."""
        self.volumes_made.append(name)
        return name

    def image(self, suffix: str, files: Mapping[str, bytes]) -> str:
        """Import an image that holds these files; its reference."""
        reference = f"{self.name}-{suffix}:1"
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for path, content in files.items():
                entry = tarfile.TarInfo(path)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        repository, _, tag = reference.rpartition(":")
        self.api.import_image_from_data(archive.getvalue(), repository=repository, tag=tag, changes=["CMD /none"])
        self.images_made.append(reference)
        return reference

    def clean_up(self) -> None:
        for name in self.volumes_made:
            if self.exists(name):
                self.api.remove_volume(name, force=True)
        tags = {tag for image in self.api.images() for tag in image["RepoTags"] or []}
        for reference in dict.fromkeys(self.images_made):
            if reference in tags:
                self.api.remove_image(reference)

    # -- drkit

    def write_policy(
        self, *volumes: Volume | str | dict[str, Any], images: Iterable[str] = (), path: Path | None = None, **keys: Any
    ) -> Path:
        """Protect these volumes and images. `keys` are other top-level keys of the policy."""
        entries = [
            entry if isinstance(entry, dict) else {"name": entry.name if isinstance(entry, Volume) else entry}
            for entry in volumes
        ]
        document = {
            "version": 1,
            "name": "lab",
            "host": "lab-host",
            "repository": {
                "url": str(self.repository),
                "recipients_file": str(self.recipients),
                "identity_file": str(self.identity),
                **self.s3,
            },
            "protect": {"volumes": entries, "images": [{"ref": ref} for ref in images]},
            **keys,
        }
        path = path or self.policy
        path.write_text(json.dumps(document))  # which is YAML too
        return path

    def init(self, *volumes: Volume | str | dict[str, Any], **more: Any) -> None:
        """Write the policy and make the repository."""
        self.write_policy(*volumes, **more)
        self.json("init")

    def environment(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        ours = {"DRKIT_STATE_DIR": str(self.state), "DRKIT_CACHE_DIR": str(self.directory / "cache")}
        return {**os.environ, "PYTHONPATH": str(PROJECT), **ours, **(env or {})}

    def start(
        self, *arguments: str | Path, env: Mapping[str, str] | None = None, **popen: Any
    ) -> subprocess.Popen[str]:
        """Start drkit and do not wait. Nothing is added to the arguments."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self._started = time.time()
        return subprocess.Popen(
            [sys.executable, "-m", "drkit", *map(str, arguments)],
            cwd=self.directory,
            env=self.environment(env),
            encoding="utf-8",
            errors="surrogateescape",
            **{**pipes, **popen},
        )

    def run(self, *arguments: str | Path, env: Mapping[str, str] | None = None, timeout: float = 120) -> Result:
        """Run drkit to its end. Nothing is added to the arguments."""
        return finish(self.start(*arguments, env=env), timeout)

    def drkit(self, verb: str, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Result:
        """Run a verb with the policy."""
        return self.run(verb, *arguments, "--policy", self.policy, env=env)

    def json(self, verb: str, *arguments: str | Path, code: int = 0) -> dict[str, Any]:
        """Run a verb with the policy and --json, expect this exit code; the document."""
        result = self.drkit(verb, *arguments, "--json")
        assert result.code == code, f"drkit {verb} ended with {result.code}: {result.stderr}\n{result.stdout}"
        document: dict[str, Any] = json.loads(result.stdout)
        return document

    def fails(self, code: int, verb: str, *arguments: str | Path) -> str:
        """Run a verb that must fail with this code, without a traceback; what it said on stderr."""
        result = self.drkit(verb, *arguments)
        assert result.code == code, f"drkit {verb} ended with {result.code}: {result.stderr}\n{result.stdout}"
        assert "Traceback" not in result.stderr
        return result.stderr

    def backup(self, *arguments: str) -> str:
        """Run a backup that must succeed; the snapshot's id."""
        document = self.json("backup", *arguments)
        assert document["status"] == "ok", document
        return str(document["snapshot"])

    def restore(self, volume: Volume, *arguments: str, name: str | None = None) -> Volume:
        """Restore the latest capture of a volume into a new one, which must succeed."""
        name = self.forget_later(name or f"{volume.name}-restored-{len(self.volumes_made)}")
        document = self.json("restore", "latest", "--volume", volume.name, "--to-volume", name, *arguments)
        assert (document["status"], document["volume"], document["verified"]) == ("ok", name, True), document
        return self.find(name)

    def snapshots(self) -> list[dict[str, Any]]:
        listing: list[dict[str, Any]] = self.json("snapshots")["snapshots"]
        return listing

    def objects(self, prefix: str = "") -> list[Path]:
        """The repository's files whose key starts with `prefix`, by key."""
        files = (path for path in self.repository.rglob("*") if path.is_file())
        return sorted(path for path in files if str(path.relative_to(self.repository)).startswith(prefix))

    def key(self, path: Path) -> str:
        return str(path.relative_to(self.repository))

    # -- helpers

    def helpers(self) -> list[str]:
        return [box["Id"] for box in self.api.containers(all=True, filters={"label": HELPER_LABEL})]

    def wait_for_tar(self, process: subprocess.Popen[str], seconds: float = 30) -> str:
        """Wait until a helper's scan is over and its tar runs; the container's id. `process` was started last."""
        deadline = time.monotonic() + seconds
        # Known ones are looked at first: tar may not run for long. That of a process killed before may still be ending.
        pids: dict[str, int] = {}
        while time.monotonic() < deadline:
            assert process.poll() is None, f"drkit ended before its helper ran tar: {process.communicate()}"
            for box, pid in pids.items():
                with suppress(FileNotFoundError, ProcessLookupError):
                    if Path(f"/proc/{pid}/comm").read_text().strip() == "tar":
                        return box
            for box in set(self.helpers()) - pids.keys():
                with suppress(docker.errors.NotFound):
                    about = self.api.inspect_container(box)
                    created = datetime.fromisoformat(f"{about['Created'][:26].rstrip('Z')}+00:00").timestamp()
                    if about["State"]["Pid"] and created > self._started:
                        pids[box] = about["State"]["Pid"]
        raise AssertionError("no helper came to run tar")

    def wait_for_no_helper(self, seconds: float = 15) -> None:
        deadline = time.monotonic() + seconds
        while self.helpers():
            assert time.monotonic() < deadline, "a helper container is left"
            time.sleep(0.1)


_known_helper: dict[str, str] = {}


def know_helper(state: Path) -> None:
    """Let the host with this state know a helper, as hosts do after their first run: to build one takes two seconds."""
    if not _known_helper:
        with TemporaryDirectory() as first:
            command = [sys.executable, "-m", "drkit", "helper", "build"]
            env = {**os.environ, "PYTHONPATH": str(PROJECT), "DRKIT_STATE_DIR": first}
            subprocess.run(command, env=env, check=True, capture_output=True)
            _known_helper.update({path.name: path.read_text() for path in Path(first).glob("helpers/*.json")})
    state.mkdir(mode=0o700)
    (state / "helpers").mkdir(mode=0o700)
    for name, text in _known_helper.items():
        (state / "helpers" / name).touch(mode=0o600)
        (state / "helpers" / name).write_text(text)


@contextmanager
def laboratory(api: docker.APIClient, directory: Path, name: str) -> Iterator[Lab]:
    lab = Lab(api, directory, name)
    know_helper(lab.state)
    try:
        yield lab
    finally:
        lab.clean_up()


def fill(root: Path, files: Mapping[str, bytes]) -> None:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


def finish(process: subprocess.Popen[str], seconds: float = 120) -> Result:
    """Wait for a process started by `Lab.start`, which must end in time."""
    texts = {"stdout": "", "stderr": ""}

    def collect(name: str) -> None:
        stream = getattr(process, name)
        if stream is not None:
            with stream:
                texts[name] = stream.read()

    readers = [threading.Thread(target=collect, args=[name]) for name in texts]
    for reader in readers:
        reader.start()
    deadline = time.monotonic() + seconds
    peak = 0
    try:
        while process.poll() is None:
            peak = max(peak, _peak_memory(process.pid))
            assert time.monotonic() < deadline, f"drkit did not end in {seconds:.0f} s"
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
        for reader in readers:
            reader.join()
    return Result(process.returncode, texts["stdout"], texts["stderr"], peak)


def _peak_memory(pid: int) -> int:
    """Bytes at most resident so far. What a parent is told of its child instead (getrusage) counts its own memory."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:")), 0)
