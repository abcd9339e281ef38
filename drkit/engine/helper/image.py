"""The helper image: GNU tar, GNU find, a shell and some of coreutils, known by its id and by nothing else.

Labels and tags are for people who list images: whoever makes an image chooses them. Which id is drkit's own helper is
in the state of the host that built it; see drkit/targets/helper.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from drkit.engine import images
from drkit.engine.client import Engine
from drkit.engine.helper.launch import run_helper
from drkit.errors import DrkitError

Source = Literal["alpine", "host", "stock", "repository"]

REPOSITORY = "drkit-helper"
"""The name of helper images, under which a person finds them and `docker image prune` leaves them alone."""

SILENCE_SECONDS = 60.0
"""How long the engine may say nothing while it builds or pulls."""


@dataclass(frozen=True)
class HelperImage:
    """A helper image.

    `full`: it has GNU tools, which keep everything. Otherwise it has BusyBox, which keeps less, and no capture can
    reuse an earlier one. `source` is "repository" for one that was not built here, but came with a snapshot.
    """

    image_id: str
    source: Source
    tar: str
    arch: str
    full: bool

    @property
    def privileged(self) -> bool:
        """Whether it may be given SYS_ADMIN, for trusted.* xattrs: not if it came with a snapshot."""
        return self.source != "repository"


def inspect_helper(engine: Engine, image_id: str) -> str | None:
    """Return why the engine cannot run this very image as a helper; None if it can."""
    image = images.inspect(engine, image_id)
    if image is None or image["Id"] != image_id:
        return "no longer in the engine"
    return wrong_architecture(engine, str(image.get("Architecture")))


def wrong_architecture(engine: Engine, architecture: str) -> str | None:
    return None if architecture == engine.arch() else f"made for {architecture}, the engine runs {engine.arch()}"


def stock_helper(engine: Engine, ref: str, *, run_id: str = "stock") -> HelperImage:
    """Use the image that the user names as it is. It is pulled if the engine lacks it, and used by its id."""
    image = images.inspect(engine, ref)
    if image is None:
        images.pull(engine, ref, silence=SILENCE_SECONDS)
        image = images.inspect(engine, ref)
    if image is None:
        raise DrkitError(f"helper image {ref}: no such image", hint=f"Pull or load it first: docker pull {ref}.")
    image_id = str(image["Id"])
    if problem := wrong_architecture(engine, str(image.get("Architecture"))):
        raise DrkitError(f"helper image {ref}: {problem}", hint="Name an image of the engine's architecture.")
    version, full = tools(engine, image_id, run_id)
    return HelperImage(image_id, "stock", version, engine.arch(), full)


def tools(engine: Engine, image_id: str, run_id: str) -> tuple[str, bool]:
    """The version of the image's tar, and whether its tools are the GNU ones, as they say when they are run."""
    script = "tar --version 2>&1; find / -maxdepth 0 -printf 'find prints\\n'"
    output, _ = run_helper(engine, image_id, script, run_id=run_id)
    said = output.decode(errors="replace")
    if gnu := re.search(r"\(GNU tar\) (\S+)", said):
        return gnu[1], "find prints" in said
    if busybox := re.search(r"\(busybox\) (\S+)", said):
        return f"busybox {busybox[1]}", False
    raise DrkitError(
        f"helper image {image_id[:19]}: it has neither GNU tar nor BusyBox",
        hint="Use auto, or a stock image like alpine.",
    )
