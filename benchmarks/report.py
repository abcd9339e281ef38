"""The tables: medians of all samples, beside drkit's and beside the bounds."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from benchmarks.measure import output
from benchmarks.rounds import bounds
from benchmarks.volumes import DataSet

Samples = dict[str, list[float]]
ROWS = (
    ("first backup, s", "first_seconds", 1.0),
    ("unchanged second backup, s", "second_seconds", 1.0),
    ("restore, s", "restore_seconds", 1.0),
    ("restore until it is on the disk, s", "durable_seconds", 1.0),
    ("of drkit's extracting, s", "extract_seconds", 1.0),
    ("of drkit's verifying, s", "verify_seconds", 1.0),
    ("repository, MB", "repository_bytes", 1e6),
    ("peak memory, first backup, MB", "first_peak_bytes", 1e6),
    ("peak memory, second backup, MB", "second_peak_bytes", 1e6),
    ("peak memory, restore, MB", "restore_peak_bytes", 1e6),
    ("CPU s, first backup", "first_cpu_seconds", 1.0),
    ("CPU s, first backup, whole machine", "first_machine_cpu_seconds", 1.0),
    ("CPU s, restore", "restore_cpu_seconds", 1.0),
    ("CPU s, restore, whole machine", "restore_machine_cpu_seconds", 1.0),
)
LIMIT_ROWS = (
    ("scan (find)", "scan"),
    ("tar read into a pipe", "read"),
    ("zstd -3, one core", "zstd_one_core"),
    ("zstd -3, all cores", "zstd_all_cores"),
    ("fsynced writes of 32 MiB, as much as zstd leaves", "write"),
    ("zstd decompress, one core", "unzstd"),
    ("tar extract", "extract"),
    ("one container, from docker run to its removal", "container"),
)


def cell(values: Sequence[float] | None, scale: float, reference: Sequence[float] | None) -> str:
    """A median, the range of its samples, and its ratio to drkit's median."""
    if not values:
        return ""
    scaled = [value / scale for value in values]
    digits = 0 if scale > 1 else 2
    text = f"{median(scaled):,.{digits}f}"
    if len(scaled) > 1 and f"{min(scaled):.{digits}f}" != f"{max(scaled):.{digits}f}":
        text += f" ({min(scaled):,.{digits}f}..{max(scaled):,.{digits}f})"
    if reference:
        text += f" **{median(values) / median(reference):.2f}x**"
    return text


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tool_rows(results: Mapping[str, Samples]) -> list[list[str]]:
    """A row for each figure that any tool has, with a cell for each tool."""
    drkit = results.get("drkit", {})
    rows = []
    for label, key, scale in ROWS:
        if any(key in samples for samples in results.values()):
            cells = [
                cell(samples.get(key), scale, drkit.get(key) if name != "drkit" else None)
                for name, samples in results.items()
            ]
            rows.append([label, *cells])
    return rows


def render_set(data: DataSet, results: Mapping[str, Samples], versions: Mapping[str, str]) -> str:
    tools = {name: samples for name, samples in results.items() if name != "limits"}
    drkit = results.get("drkit", {})
    parts = [f"### Set {data}", table(["", *(f"{name} {versions[name]}" for name in tools)], tool_rows(tools))]
    if (load := foreign_load(results, len(os.sched_getaffinity(0)))) > 0.05:
        parts.append(f"**Noisy**: other programs used {load:.0%} of the CPU while the rivals ran.")
    if limits := results.get("limits"):
        parts.append(render_limits(data, limits, drkit))
    return "\n\n".join(parts)


def render_s3(
    data: DataSet, results: Mapping[str, Samples], local: Samples, versions: Mapping[str, str], cores: int
) -> str:
    """The tools that can use S3 beside boto3 alone, and how near drkit comes to its bound."""
    columns = [f"{name} {versions[name]}" if name in versions else f"{name} alone" for name in results]
    tools = table(["", *columns], tool_rows(results))
    rows = []
    most = 0.0
    for phase, label in (("first", "first backup"), ("restore", "restore")):
        key = f"{phase}_seconds"
        taken, alone, directory = results["drkit"][key], results["boto3"][key], local[key]
        # Round by round, because other load slowed all three.
        shares = [100 * max(parts) / seconds for seconds, *parts in zip(taken, alone, directory, strict=True)]
        cpu = median(results["boto3"][f"{phase}_machine_cpu_seconds"]) + median(local[f"{phase}_machine_cpu_seconds"])
        cells = [cell(values, 1.0, None) for values in (alone, directory, taken)]
        most = max(most, *shares)
        reached = " ".join(f"{share:.0f}%" for share in shares)
        rows.append([label, *cells, reached, f"{cpu / cores:.2f}"])
    header = ["path", "boto3 alone, s", "drkit in a directory, s", "drkit on S3, s", "reached of the slower"]
    reach = table([*header, f"machine's CPU in both, over {cores} cores, s"], rows)
    noisy = ["**Noisy**: a share above 100% is impossible; other programs slowed the parts more than the whole."]
    return "\n\n".join([f"### Set {data}, on S3", tools, reach, *(noisy if most > 100 else [])])


def speed(data: DataSet, seconds: float) -> str:
    return f"{data.digest.bytes / 1e6 / seconds:,.0f}"


def render_limits(data: DataSet, limits: Samples, drkit: Samples) -> str:
    medians = {key: median(values) for key, values in limits.items()}
    parts = table(
        ["lower bound, each alone", "s", "MB/s of the set"],
        [
            [label, cell(limits[f"{key}_seconds"], 1.0, None), speed(data, medians[f"{key}_seconds"])]
            for label, key in LIMIT_ROWS
        ],
    )
    rows = []
    for phase, (part, seconds) in bounds(medians, len(os.sched_getaffinity(0))).items():
        row = [phase, part, f"{seconds:.2f}"]
        if drkit:
            taken = median(drkit[f"{phase}_seconds"])
            row += [f"{taken:.2f}", f"{100 * seconds / taken:.0f}%"]
        rows.append(row)
    header = ["path", "bound by", "at least, s", *(["drkit, s", "reached"] if drkit else [])]
    return f"{parts}\n\n{table(header, rows)}"


def foreign_load(results: Mapping[str, Samples], cores: int) -> float:
    """The share of the CPU that other programs used while a rival ran. drkit's own engine would count as another."""
    total = foreign = 0.0
    for name in set(results) - {"drkit", "limits"}:
        for phase in ("first", "second", "restore"):
            total += sum(results[name][f"{phase}_seconds"]) * cores
            foreign += sum(results[name][f"{phase}_machine_cpu_seconds"]) - sum(results[name][f"{phase}_cpu_seconds"])
    return max(0.0, foreign / total) if total else 0.0


def describe_machine(source: Path, work: Path) -> dict[str, str]:
    fields = dict(
        line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines() if ":" in line
    )
    cpu = next((value.strip() for key, value in fields.items() if key.strip() == "model name"), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    filesystems = [output("df", "--output=fstype", path).split()[-1] for path in (source, work)]
    where = filesystems[0]
    if source.stat().st_dev != work.stat().st_dev:
        where = f"volumes on {filesystems[0]}, repositories on another {filesystems[1]}"
    return {
        "CPU": f"{cpu}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{memory / 1e9:.1f} GB",
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release()["PRETTY_NAME"],
        "engine": output("docker", "version", "-f", "{{.Server.Version}}"),
        "file system": where,
    }


def render(machine: Mapping[str, str], note: str, sets: Sequence[str]) -> str:
    facts = "\n".join(f"- {name}: {value}" for name, value in machine.items())
    return "\n\n".join([facts, note, *sets])
