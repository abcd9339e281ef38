"""`drkit check`: is the structure whole? `verify` proves the content."""

from __future__ import annotations

from dataclasses import replace

from drkit.operations.context import Context
from drkit.operations.remembered import remembered
from drkit.repository.check import Report, check_packs, check_repository


def check(context: Context, *, packs: bool = False) -> Report:
    """Check that keys, index, packs, trees and snapshots agree; opens no data.

    `packs`: read every pack too and compare it with the hash it is named after.
    """
    repository = context.uncached_repository
    known = remembered(context, repository)
    if packs:
        report = check_packs(repository, context.events, known)
    else:
        report = check_repository(repository, remembered=known)
    context.warn_of_newer()
    return replace(report, warnings=context.warnings)
