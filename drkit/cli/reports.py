"""How `check` and `verify` show what they found."""

from __future__ import annotations

from drkit.cli import output
from drkit.cli.run import Run
from drkit.errors import counted
from drkit.repository.check import Report

_FILES_SHOWN = 20


def show_report(run: Run, verb: str, report: Report) -> None:
    """Print the report, and exit with the code of an IntegrityError if anything is damaged."""
    with run.reporting(
        f"{verb} found {counted(len(report.findings), 'damaged object') if report.findings else 'no damage'}"
    ):
        if run.json:
            _print_document(report)
        else:
            _print(verb, report)
    run.end(report.error)


def _print_document(report: Report) -> None:
    errors = [
        {"object": each.object, "problem": each.problem, "snapshots": each.snapshots, "files": each.files}
        for each in report.findings.values()
    ]
    document = {
        "status": "ok" if report.ok else "damaged",
        "objects": report.objects,
        "bytes": report.bytes,
        "errors": errors,
        "notes": [{"object": name, "note": text} for name, text in report.notes.items()],
    }
    output.print_json(document | ({"seed": report.seed} if report.seed else {}))


def _print(verb: str, report: Report) -> None:
    for damage in report.findings.values():
        output.print_line(f"{damage.object}: {damage.problem}")
        for snapshot in damage.snapshots:
            output.print_line(f"  affects snapshot {snapshot}")
        for name in damage.files[:_FILES_SHOWN]:
            output.print_line(f"  affects {name}")
        if len(damage.files) > _FILES_SHOWN:
            output.print_line(f"  and {len(damage.files) - _FILES_SHOWN} more")
    for name, text in report.notes.items():
        output.print_line(f"note: {name}: {text}")
    output.print_line(
        f"{verb}: {counted(report.objects, 'object')}, {output.size_text(report.bytes)} read, "
        f"{len(report.findings)} damaged" + ("" if report.findings else ": ok")
    )
