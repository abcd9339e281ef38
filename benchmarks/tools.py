"""How each program is told to do what all of them do."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.debian import Debian
from benchmarks.measure import ROOT, BenchError, Command, apparent_size, measure, output
from benchmarks.s3 import REGION, REPOSITORY, Bucket
from benchmarks.volumes import DataSet

TOOLS = ("drkit", "restic", "borg", "tar")
S3_TOOLS = ("drkit", "restic")
"""The tools that can use S3."""
PASSWORD = "bench"  # of repositories that live for a minute
TAR_CREATE = """\
tar -c -f - --format=posix --xattrs '--xattrs-include=*' --sparse --numeric-owner --sort=name \
--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime ."""
TAR_EXTRACT = "tar -x -f - --numeric-owner --same-owner -p --xattrs '--xattrs-include=*' --delay-directory-restore"


@dataclass(frozen=True)
class Job:
    """One tool's turn on one set. It writes only to `work` and to the volume `target`."""

    data: DataSet
    work: Path
    target: str
    probes: Path
    """A directory on the target's file system, to find out how fast files are created there."""
    bucket: Bucket | None = None
    """Where the repository is, unless it is in a directory."""

    @property
    def repository(self) -> Path:
        return self.work / "repository"

    @property
    def env(self) -> Mapping[str, str]:
        """What a tool needs to know about the bucket besides its URL."""
        return self.bucket.env if self.bucket else {}

    def stored_bytes(self) -> int:
        if self.bucket:
            return self.bucket.stored_bytes()
        # Without the empty blocks that drkit reserves for pruning a full disk: 16 MiB, however large the repository.
        reserve = sum(part.stat().st_size for part in self.repository.glob("tmp/reserve-*"))
        return apparent_size(self.repository) - reserve


class Tool:
    """How one program is told to do what all of them do."""

    name: str
    version: str
    makes_target = False
    """Whether the restore itself creates the volume."""

    def init(self, job: Job) -> Command:
        raise NotImplementedError

    def backup(self, job: Job) -> Command:
        raise NotImplementedError

    def restore(self, job: Job, target: Path) -> Command:
        raise NotImplementedError

    def check_backup(self, stdout: bytes) -> None:
        """Raise BenchError unless the backup is good. A tool that says more than its exit status is read too."""

    def restore_phases(self, stdout: bytes) -> dict[str, float]:
        return {}


class Drkit(Tool):
    name = "drkit"
    makes_target = True

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self.version = output(*command, "--version").split()[-1]

    def _run(self, job: Job, *arguments: str) -> Command:
        policy = job.work / "policy.yaml"
        env = {**job.env, "DRKIT_STATE_DIR": str(job.work / "state"), "DRKIT_CACHE_DIR": str(job.work / "cache")}
        return Command([*self._command, *arguments, "--policy", policy, "--json"], cwd=ROOT, env=env)

    def init(self, job: Job) -> Command:
        place = {"url": str(job.repository)}
        if job.bucket:
            place = {
                "url": f"s3://{job.bucket.name}/{REPOSITORY}",
                "endpoint": job.bucket.endpoint,
                "region": REGION,
            }
        policy = {
            "version": 1,
            "name": "bench",
            "host": "bench",
            "repository": {
                **place,
                "recipients_file": str(job.work / "recipients.txt"),
                "identity_file": str(job.work / "identity.txt"),
            },
            "protect": {"volumes": [{"name": job.data.volume.name}]},
        }
        (job.work / "policy.yaml").write_text(json.dumps(policy))  # JSON is YAML
        return self._run(job, "init")

    def backup(self, job: Job) -> Command:
        return self._run(job, "backup")

    def check_backup(self, stdout: bytes) -> None:
        if json.loads(stdout)["status"] != "ok":
            raise BenchError(f"drkit backup exited with 0 but said {stdout.decode()}")

    def restore(self, job: Job, target: Path) -> Command:
        return self._run(job, "restore", "latest", "--volume", job.data.volume.name, "--to-volume", job.target)

    def restore_phases(self, stdout: bytes) -> dict[str, float]:
        result = json.loads(stdout)
        if result["status"] != "ok" or result["verified"] is not True:
            raise BenchError(f"drkit restore exited with 0 but said {stdout.decode()}")
        return {name: float(seconds) for name, seconds in result.get("phases", {}).items()}


class Restic(Tool):
    name = "restic"

    def __init__(self, debian: Debian) -> None:
        self._command = debian.command("restic")
        self.version = debian.version("restic")

    def _run(self, job: Job, *arguments: str | Path, cwd: Path | None = None) -> Command:
        place = str(job.repository)
        if job.bucket:
            place = f"s3:{job.bucket.endpoint}/{job.bucket.name}/{REPOSITORY}"
        env = {
            **job.env,
            "RESTIC_REPOSITORY": place,
            "RESTIC_PASSWORD": PASSWORD,
            "RESTIC_CACHE_DIR": str(job.work / "cache"),
            "RESTIC_COMPRESSION": "auto",
        }
        return Command([*self._command, *arguments], cwd=cwd, env=env)

    def init(self, job: Job) -> Command:
        return self._run(job, "init")

    def backup(self, job: Job) -> Command:
        return self._run(job, "backup", ".", cwd=job.data.volume.path)

    def restore(self, job: Job, target: Path) -> Command:
        return self._run(job, "restore", "latest", "--target", target)


class Borg(Tool):
    name = "borg"

    def __init__(self, debian: Debian, encryption: str) -> None:
        self._command = debian.command("borg")
        self._env = debian.env
        self._encryption = encryption
        self.version = debian.version("borg")

    def _run(self, job: Job, *arguments: str | Path, cwd: Path | None = None) -> Command:
        env = {
            **self._env,
            "BORG_REPO": str(job.repository),
            "BORG_PASSPHRASE": PASSWORD,
            "BORG_BASE_DIR": str(job.work),
        }
        return Command([*self._command, *arguments], cwd=cwd, env=env)

    def init(self, job: Job) -> Command:
        return self._run(job, "init", "--encryption", self._encryption)

    def backup(self, job: Job) -> Command:
        return self._run(job, "create", "--compression", "zstd,3", "::{utcnow}", ".", cwd=job.data.volume.path)

    def restore(self, job: Job, target: Path) -> Command:
        newest = measure(self._run(job, "list", "--short", "--last", "1")).stdout.decode().strip()
        return self._run(job, "extract", "--numeric-ids", f"::{newest}", cwd=target)


class TarZstd(Tool):
    """No deduplication, no encryption, no index, and every backup full: shows what those features cost and save."""

    name = "tar"

    def __init__(self, debian: Debian) -> None:
        self._zstd = shlex.join(map(str, debian.command("zstd")))
        self.version = f"{output('tar', '--version').split()[3]} + zstd {debian.version('zstd')}"

    def _run(self, script: str, cwd: Path | None = None) -> Command:
        return Command(["bash", "-o", "pipefail", "-c", script], cwd=cwd)

    def init(self, job: Job) -> Command:
        return self._run(f"mkdir {shlex.quote(str(job.repository))}")

    def backup(self, job: Job) -> Command:
        archive = shlex.quote(str(job.repository / "archive.tar.zst"))
        # Synced, because the other tools sync what they store.
        script = f"{TAR_CREATE} | {self._zstd} -q -f -3 -T0 -o {archive} && sync {archive}"
        return self._run(script, cwd=job.data.volume.path)

    def restore(self, job: Job, target: Path) -> Command:
        archive = shlex.quote(str(job.repository / "archive.tar.zst"))
        return self._run(f"{self._zstd} -q -d -c {archive} | {TAR_EXTRACT}", cwd=target)


def make_tool(name: str, debian: Debian, drkit: Sequence[str], borg_encryption: str) -> Tool:
    match name:
        case "drkit":
            return Drkit(drkit)
        case "restic":
            return Restic(debian)
        case "borg":
            return Borg(debian, borg_encryption)
        case _:
            return TarZstd(debian)
