"""Which snapshots `latest` and listings consider."""

from __future__ import annotations

from datetime import datetime

from drkit.catalog.find import Scope
from drkit.operations.context import Context


def scope_of(context: Context, host: str | None = None, policy: str | None = None, at: datetime | None = None) -> Scope:
    """Return the scope that was asked for. Without `policy`, it is that of the policy whose file was given."""
    return Scope(host, policy if policy is not None else context.named_policy, at)
