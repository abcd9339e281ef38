"""The policy: one YAML file that says what to protect, where to store it and how long to keep it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from drkit.errors import PolicyError, reason
from drkit.policy.helper import HelperSettings
from drkit.policy.load import load_policy, parse_policy, refuse_unusable
from drkit.policy.place import Mirror, Place, RepositoryPlace
from drkit.policy.protect import ImageTarget, Protect, VolumeTarget
from drkit.policy.retention import Retention
from drkit.policy.schema import Policy, json_schema

__all__ = [
    "HelperSettings",
    "ImageTarget",
    "Mirror",
    "Place",
    "Policy",
    "Protect",
    "RepositoryPlace",
    "Retention",
    "VolumeTarget",
    "example_text",
    "find_policies",
    "json_schema",
    "load_policy",
    "parse_policy",
    "refuse_unusable",
]

DIRECTORY = Path("/etc/drkit/policies")


def example_text() -> str:
    """Return a commented policy that shows every key and loads unchanged."""
    return files("drkit.policy").joinpath("example.yaml").read_text(encoding="utf-8")


def find_policies(directory: Path = DIRECTORY, environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Return the policies to use when no file is given: $DRKIT_POLICY, else each `*.yaml` in the directory, by name.

    A missing directory has none. Raises PolicyError if the directory cannot be read.
    """
    if named := environ.get("DRKIT_POLICY"):
        return [Path(named)]
    try:
        return sorted(path for path in directory.iterdir() if path.suffix == ".yaml" and path.name[0] != ".")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise PolicyError(
            f"cannot list policies in {directory}: {reason(error)}", hint="Name the policy file with --policy."
        ) from None
