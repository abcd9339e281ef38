"""`drkit helper`: the container that reads and writes volumes."""

from __future__ import annotations

from drkit.engine.helper.image import HelperImage, build_helper, ensure_helper
from drkit.engine.helper.probe import HelperProbe, probe_helper
from drkit.errors import DrkitError
from drkit.operations.context import Context


def build(context: Context) -> HelperImage:
    """Build a new helper image: from alpine where a registry answers, else from this host's own tools."""
    return build_helper(context.engine)


def probe(context: Context) -> HelperProbe:
    """Test on a scratch volume what the policy's helper can keep on this engine."""
    return probe_helper(context.engine, ensure_helper(context.engine, context.helper_image))


def probe_error(found: HelperProbe) -> DrkitError | None:
    """The error that decides the exit code: a helper that should keep everything, and does not."""
    if found.complete or not found.helper.full:
        return None
    return DrkitError("the helper does not keep what it must", hint="Build it again: drkit helper build.")
