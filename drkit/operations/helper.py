"""`drkit helper`: the container that reads and writes volumes."""

from __future__ import annotations

from drkit.engine.helper.image import HelperImage
from drkit.engine.helper.probe import HelperProbe
from drkit.errors import DrkitError
from drkit.operations.context import Context
from drkit.targets.helper import ensure_helper, new_helper
from drkit.targets.helper import probe as probe_helper


def build(context: Context) -> HelperImage:
    """Build a new helper image, prove that it works, and let this host use it from now on."""
    return new_helper(context.engine, context.state)


def probe(context: Context) -> HelperProbe:
    """Test on a scratch volume what the policy's helper can keep on this engine."""
    return probe_helper(
        context.engine, context.state, ensure_helper(context.engine, context.state, context.helper_image)
    )


def probe_error(found: HelperProbe) -> DrkitError | None:
    """The error that decides the exit code: a helper that should keep everything, and does not."""
    if found.complete or not found.helper.full:
        return None
    return DrkitError("the helper does not keep what it must", hint="Build it again: drkit helper build.")
