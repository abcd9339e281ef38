"""Which snapshots stay, as far as is known, by the rules of each line."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from drkit.catalog import retention
from drkit.errors import PolicyError
from drkit.policy import Policy, Retention, parse_policy
from drkit.repository.format.snapshot import Snapshot
from drkit.repository.lines import lines_of


def still_kept(snapshots: Sequence[Snapshot], policy: Policy | None, host: str, now: datetime) -> frozenset[str]:
    """Return the ids of the snapshots that retention does not forget.

    The snapshots of `policy` on `host` follow its rules. Every other line follows the rules in the newest of it; if
    those cannot be read, all are kept. The policy's text is not needed, which is data.
    """
    kept: set[str] = set()
    for line in lines_of(snapshots):
        ours = policy is not None and (line.host, line.policy) == (host, policy.name)
        rules = policy.retention if policy is not None and ours else _rules_of(line.newest)
        forgotten: frozenset[str] = frozenset()
        if rules is not None:
            forgotten = retention.plan([line], rules, now).forgotten
        kept.update(snapshot.id for snapshot in line.snapshots if snapshot.id not in forgotten)
    return frozenset(kept)


def _rules_of(snapshot: Snapshot) -> Retention | None:
    try:
        if snapshot.retention:
            return Retention.from_record(snapshot.retention)
        # Of an earlier version, or without rules.
        return parse_policy(snapshot.policy_text, Path("policy.yaml")).retention if snapshot.policy_text else None
    except PolicyError:
        return None
