"""What narrows `latest` and listings."""

from __future__ import annotations

from datetime import datetime

from drkit.catalog.find import Scope
from drkit.operations.context import Context


def scope_of(context: Context, host: str | None = None, policy: str | None = None, at: datetime | None = None) -> Scope:
    """What was asked for; and the policy whose file was named, where no other one was asked for."""
    return Scope(host, policy if policy is not None else context.named_policy, at)
