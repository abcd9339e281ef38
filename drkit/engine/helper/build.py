"""Building a helper image, from an Alpine image and its packages or from this host's own programs and libraries.

Neither is proven to work yet: see drkit/targets/helper.py.
"""

from __future__ import annotations

import io
import tarfile
from typing import Literal, NamedTuple

from drkit.engine import images
from drkit.engine.client import Engine, EngineError
from drkit.engine.helper.host_tools import HOST_ARCH, host_image
from drkit.engine.helper.image import REPOSITORY, SILENCE_SECONDS, HelperImage, tools
from drkit.engine.labels import LABEL_HELPER_IMAGE
from drkit.errors import DrkitError

RECIPE = "4"
"""Changes with what a helper image must have: one that was built by another recipe is not used again."""

ALPINE = "alpine:3.22"

_ASK_REGISTRY_SECONDS = 5.0


class Built(NamedTuple):
    """`new`: the engine did not have it before, so nobody else uses it."""

    helper: HelperImage
    new: bool


def build_from_alpine(engine: Engine, *, base: str = ALPINE, run_id: str = "build") -> Built | None:
    """Add GNU tar and find to the Alpine image that the registry has now; None where no registry has one.

    An image of that name in the engine may be anything that somebody loaded or built: the registry's digest decides.
    """
    digest = images.digest_in_registry(engine, base, timeout=_ASK_REGISTRY_SECONDS)
    if digest is None:
        return None
    pinned = f"{base.rpartition(':')[0]}@{digest}"
    if images.inspect(engine, pinned) is None:
        images.pull(engine, pinned, silence=SILENCE_SECONDS)
    image = images.inspect(engine, pinned)
    if image is None:
        raise EngineError(f"image {pinned}: the engine pulled it, but does not have it")
    lines = [f"FROM {image['Id']}", "RUN apk add --no-cache tar findutils", f"LABEL {LABEL_HELPER_IMAGE}={RECIPE}"]
    image_id = images.build(engine, _context("\n".join(lines)), f"helper image from {base}", silence=SILENCE_SECONDS)
    return _built(engine, image_id, "alpine", new=True, run_id=run_id)


def _context(dockerfile: str) -> bytes:
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(dockerfile)
        tar.addfile(entry, io.BytesIO(dockerfile.encode()))
    return context.getvalue()


def build_from_host(engine: Engine, *, run_id: str = "build") -> Built:
    """Pack this host's own tools. Needs no network; the same tools give the same image id on every host."""
    if engine.arch() != HOST_ARCH:
        raise DrkitError(
            f"helper image: this host's tools are for {HOST_ARCH}, the engine runs {engine.arch()}",
            hint="Run drkit on a host of the engine's architecture, or set helper.image in the policy.",
        )
    host = host_image({LABEL_HELPER_IMAGE: RECIPE})
    there = images.inspect(engine, host.image_id)
    new = there is None
    if there is None:
        [loaded] = images.load(engine, [host.archive])
        there = images.inspect(engine, loaded)
    # Engines with containerd's image store give it another id; its layer is the same.
    if there is None or there["RootFS"]["Layers"] != [host.layer]:
        raise EngineError("helper image: the engine did not load what it was sent")
    return _built(engine, str(there["Id"]), "host", new=new, run_id=run_id)


def _built(engine: Engine, image_id: str, source: Literal["alpine", "host"], *, new: bool, run_id: str) -> Built:
    try:
        version, full = tools(engine, image_id, run_id)
        if not full:
            raise EngineError(f"helper image from {source}: tar {version} and its find are not the GNU ones")
    except BaseException:
        if new:
            remove_image(engine, image_id)
        raise
    return Built(HelperImage(image_id, source, version, engine.arch(), full), new)


def keep_image(engine: Engine, helper: HelperImage) -> None:
    """Give a helper image a name, lest `docker image prune` remove it. A name that is taken is left where it is."""
    tag = f"{REPOSITORY}:{helper.source}-{helper.image_id.removeprefix('sha256:')[:12]}"
    if images.inspect(engine, tag) is None:
        images.tag(engine, helper.image_id, tag)


def remove_image(engine: Engine, image_id: str) -> None:
    """Remove an image that was made for nothing; if that fails, it is a warning."""
    try:
        images.remove(engine, image_id)
    except DrkitError as error:
        engine.events.warn(f"helper image {image_id[:19]} does not work, and was not removed: {error.message}")
