"""Which host a snapshot is of."""

from __future__ import annotations

from pathlib import Path

from drkit.errors import PolicyError
from drkit.policy import Policy

_CONTAINER_MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))
_MACHINE_ID = Path("/etc/machine-id")


def inside_container() -> bool:
    """Whether drkit runs in a container of Docker or Podman."""
    return any(mark.exists() for mark in _CONTAINER_MARKS)


def host_id(policy: Policy) -> str:
    """Return the policy's `host`, else the machine-id. Raises PolicyError in a container: its own does not last."""
    if policy.host:
        return policy.host
    inside = inside_container()
    try:
        machine = "" if inside else _MACHINE_ID.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        machine = ""
    if not machine:
        reason = "drkit runs in a container" if inside else f"{_MACHINE_ID} has none"
        raise PolicyError(
            f"{policy.path}: host is not set and {reason}", hint="Add a line like host: web1 to the policy."
        )
    return machine
