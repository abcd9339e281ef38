"""benchmarks/: the data sets are the same everywhere, the arithmetic is right, and a tool's failure is its own."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import data, measure, report, rounds, s3, volumes
from tests.support.s3 import moto_server

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def run() -> ModuleType:
    """The program benchmarks/run, which has no suffix to be imported by."""
    loader = importlib.machinery.SourceFileLoader("run", str(BENCHMARKS / "run"))
    spec = importlib.util.spec_from_loader("run", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        loader.exec_module(module)
    return module


def test_sets_have_the_promised_shape() -> None:
    large, small = data.plan("A", 1), data.plan("B", 1)
    assert sum(file.size for file in large) == 2_000_000_000
    assert len(small) == 50_000
    assert 550e6 < sum(file.size for file in small) < 650e6
    for files in (large, small):
        assert len({file.path for file in files}) == len(files)


def test_plan_depends_on_the_seed_alone() -> None:
    assert data.plan("B", 7) == data.plan("B", 7)
    assert data.plan("B", 7) != data.plan("B", 8)


@pytest.mark.parametrize("kind", ["pages", "log", "sql", "media", "text", "json"])
def test_content_is_deterministic_and_cut_to_size(tmp_path: Path, kind: str) -> None:
    size = 1_234_567
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        data.write_file("seed", str(tmp_path / name), data.File("file", size, kind))
    one, two = ((tmp_path / name / "file") for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert one.stat().st_size == size
    assert one.stat().st_mtime_ns == two.stat().st_mtime_ns
    assert data.digest(tmp_path / "one") == data.digest(tmp_path / "two")


def damage_content(path: Path) -> None:
    path.write_bytes(b"other")


def damage_mode(path: Path) -> None:
    path.chmod(0o600)


def damage_owner(path: Path) -> None:
    os.chown(path, 1, 0)


def damage_name(path: Path) -> None:
    path.rename(path.with_name("renamed"))


def damage_presence(path: Path) -> None:
    path.unlink()


def damage_type(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "damage", [damage_content, damage_mode, damage_owner, damage_name, damage_presence, damage_type]
)
def test_digest_notices_damage(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "directory" / "file"
    path.parent.mkdir()
    path.write_bytes(b"bytes")
    path.chmod(0o644)
    times = {entry: entry.stat().st_mtime_ns for entry in (path, path.parent)}
    before = data.digest(tmp_path)
    assert callable(damage)
    damage(path)
    for entry, mtime in times.items():
        if entry.exists():
            os.utime(entry, ns=(mtime, mtime))
    assert data.digest(tmp_path) != before


def test_digest_notices_an_mtime(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"bytes")
    before = data.digest(tmp_path)
    os.utime(tmp_path / "file", ns=(1, 1))
    assert data.digest(tmp_path) != before


def test_measure_reports_what_a_child_used() -> None:
    script = "import sys; block = bytearray(200_000_000); sys.stdout.write('said')"
    result = measure.measure(measure.Command([sys.executable, "-c", script]))
    assert result.stdout == b"said"
    assert result.seconds > 0
    assert result.peak_bytes > 200_000_000


def test_a_failing_tool_ends_the_bench() -> None:
    with pytest.raises(measure.BenchError, match=r"exited with 3:\nno space"):
        measure.measure(measure.Command(["sh", "-c", "echo no space >&2; exit 3"]))


@pytest.mark.parametrize(
    ("values", "scale", "reference", "expected"),
    [
        ([3.0, 1.0, 2.0], 1.0, None, "2.00 (1.00..3.00)"),
        ([3.0, 3.0], 1.0, [1.5], "3.00 **2.00x**"),
        ([1_434_000_000], 1e6, [1_434_000_000], "1,434 **1.00x**"),
        (None, 1.0, [1.0], ""),
    ],
)
def test_cell(values: object, scale: float, reference: object, expected: str) -> None:
    assert report.cell(values, scale, reference) == expected


def test_bounds_name_the_slowest_part() -> None:
    limits = {
        f"{part}_{unit}": 1.0
        for part in ("scan", "read", "zstd_one_core", "unzstd", "extract", "write", "container")
        for unit in ("seconds", "cpu_seconds")
    }
    limits |= {"zstd_one_core_cpu_seconds": 9.0, "extract_seconds": 4.0}
    assert rounds.bounds(limits, cores=2) == {
        "first": ("CPU of tar and zstd", 5.0),
        "second": ("scan, in one container", 2.0),
        "restore": ("tar extract, then tar read to verify", 5.0),
    }


def test_report_compares_with_drkit(tmp_path: Path) -> None:
    phases = ("first", "second", "restore")
    figures = ("seconds", "cpu_seconds", "machine_cpu_seconds", "peak_bytes")
    samples = {
        tool: {f"{phase}_{figure}": [seconds] for phase in phases for figure in figures}
        for tool, seconds in (("drkit", 2.0), ("restic", 5.0))
    }
    digest = data.Digest(3, 4_000_000_000, "")
    text = report.render_set(
        volumes.DataSet("A", volumes.Volume("volume", tmp_path), digest), samples, {"drkit": "0.1", "restic": "0.19"}
    )
    assert text.splitlines()[0] == "### Set A: 3 files, 4.00 GB"
    assert "| first backup, s | 2.00 | 5.00 **2.50x** |" in text


@pytest.fixture
def filled_bucket(tmp_path: Path, rng: random.Random) -> Iterator[s3.Bucket]:
    """A bucket as benchmarks/run uses it, and in it what is in the directory `objects`."""
    objects = tmp_path / "objects"
    (objects / "packs").mkdir(parents=True)
    (objects / "packs" / "large").write_bytes(rng.randbytes(2_500_000))
    (objects / "config").write_bytes(b"small")
    with moto_server() as endpoint:
        bucket = s3.Bucket(Path(sys.executable), endpoint, "bench", "moto", "moto")
        bucket.run("create")
        assert bucket.run("put", "repository/", objects).stdout.split()[0] == b"2500005"
        yield bucket


def test_boto3_alone_moves_the_very_objects(filled_bucket: s3.Bucket, tmp_path: Path) -> None:
    figures = rounds.run_boto3(filled_bucket, tmp_path / "saved")
    assert figures["first_seconds"] > 0
    assert figures["restore_seconds"] > 0
    for name in ("packs/large", "config"):
        assert (tmp_path / "saved" / name).read_bytes() == (tmp_path / "objects" / name).read_bytes()
    assert filled_bucket.stored_bytes() == 2_500_005  # the copy is no part of the repository
    assert filled_bucket.run("get", "copy/").stdout.split()[0] == b"2500005"


def test_a_bucket_is_emptied_whole(filled_bucket: s3.Bucket) -> None:
    filled_bucket.run("empty")
    assert filled_bucket.stored_bytes() == 0
    filled_bucket.run("delete")  # which a server refuses while anything is in it


@pytest.mark.parametrize(("alone", "second_share", "noisy"), [(18.0, "90%", False), (24.0, "120%", True)])
def test_report_on_s3_holds_drkit_to_the_slower_part(alone: float, second_share: str, noisy: bool) -> None:
    def samples(first: list[float], restore: list[float]) -> dict[str, list[float]]:
        return {
            f"{phase}_{figure}": seconds
            for phase, seconds in (("first", first), ("restore", restore))
            for figure in ("seconds", "machine_cpu_seconds")
        }

    on_s3 = {"drkit": samples([10.0, 20.0], [5.0, 5.0]), "boto3": samples([2.0, alone], [4.0, 4.0])}
    text = report.render_s3(
        volumes.DataSet("A", volumes.Volume("volume", Path()), data.Digest(3, 4_000_000_000, "")),
        on_s3,
        samples([8.0, 8.0], [3.0, 3.0]),
        {"drkit": "0.1"},
        cores=2,
    )
    assert "|  | drkit 0.1 | boto3 alone |" in text
    assert ("**Noisy**" in text) == noisy
    first, restore = text.split("**Noisy**")[0].strip().splitlines()[-2:]
    assert f"| 15.00 (10.00..20.00) | 80% {second_share} |" in first
    assert restore.endswith("| 5.00 | 80% 80% | 3.50 |")


@pytest.mark.parametrize(
    "arguments", [["--tools", "duplicity"], ["--rounds", "0"], ["--set", "C"], ["--s3", "--tools", "restic"]]
)
def test_wrong_arguments_are_refused(run: ModuleType, arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run.parse_arguments(arguments)


@pytest.mark.parametrize("program", ["run", "prune"])
def test_a_program_finds_its_modules_from_anywhere(program: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-P", str(BENCHMARKS / program), "--help"]
    said = subprocess.run(command, cwd=tmp_path, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert "usage:" in said


def test_the_bench_of_prune_and_of_listing() -> None:
    command = [sys.executable, str(BENCHMARKS / "prune"), "--snapshots", "4", "--chunks", "600"]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    plan, keeps_all, listing = map(json.loads, said.splitlines())
    assert (plan["what"], plan["snapshots"], plan["chunks"] > 500) == ("plan", 4, True)
    assert keeps_all["what"] == "plan that keeps all"
    assert (listing["what"], listing["records"]) == ("drkit snapshots", 4)
