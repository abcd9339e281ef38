"""`drkit policy check`."""

from __future__ import annotations

from drkit.operations.context import Context
from drkit.policy import Policy
from drkit.storage import check_url


def check_policy(context: Context) -> Policy:
    """Return the policy. Raises PolicyError with every problem, UsageError for URLs that name no storage."""
    policy = context.required_policy
    check_url(policy.repository.url)
    if policy.mirror is not None:
        check_url(policy.mirror.url)
    return policy
