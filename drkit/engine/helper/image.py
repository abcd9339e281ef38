"""The helper image: GNU tar, GNU find, a shell and some of coreutils, built once and pinned by its id.

It is built from an Alpine image and its packages if a registry answers, else from this host's own programs and their
libraries, which works offline. If the policy says so, it is a stock image, which keeps only what its BusyBox can.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from drkit.engine import images
from drkit.engine.client import Engine, EngineError
from drkit.engine.helper.host_tools import HOST_ARCH, host_image
from drkit.engine.helper.launch import run_helper
from drkit.engine.labels import LABEL_HELPER_IMAGE, LABEL_HELPER_SOURCE, LABEL_HELPER_TAR
from drkit.errors import DrkitError

Source = Literal["alpine", "host", "stock", "repository"]

_RECIPE = "3"  # the value of LABEL_HELPER_IMAGE: an image built by another recipe is not used again
_PREFERENCE = ("alpine", "host")

REPOSITORY = "drkit-helper"
ALPINE = "alpine:3.22"

_ASK_REGISTRY_SECONDS = 5.0
_BUILD_SILENCE_SECONDS = 60.0


@dataclass(frozen=True)
class HelperImage:
    """A helper image.

    `full`: it has GNU tools, which keep everything. Otherwise it has BusyBox, which keeps less, and no capture can
    reuse an earlier one.
    """

    image_id: str
    source: Source
    tar: str
    arch: str
    full: bool


def ensure_helper(engine: Engine, image: str = "auto", *, run_id: str = "ensure") -> HelperImage:
    """Return the helper that the policy asks for: "auto" or a stock image's reference. Build it if there is none."""
    if image != "auto":
        return stock_helper(engine, image, run_id=run_id)
    return find_helper(engine) or build_helper(engine, run_id=run_id)


def find_helper(engine: Engine) -> HelperImage | None:
    """Return a helper image built or loaded earlier. A build labels, or leaves in the engine, only images that work."""
    arch = engine.arch()
    found = []
    for image in images.find(engine, [f"{LABEL_HELPER_IMAGE}={_RECIPE}"]):
        labels = image["Labels"]
        if (source := labels.get(LABEL_HELPER_SOURCE)) in _PREFERENCE:
            found.append(HelperImage(image["Id"], source, labels[LABEL_HELPER_TAR], arch, full=True))
    return min(found, key=lambda helper: (_PREFERENCE.index(helper.source), helper.image_id), default=None)


def build_helper(
    engine: Engine, source: Literal["auto", "alpine", "host"] = "auto", *, base: str = ALPINE, run_id: str = "build"
) -> HelperImage:
    """Build a new helper image: "auto" uses `base` and its packages if a registry has it, else the host's tools."""
    if source == "alpine" or (source == "auto" and images.is_in_registry(engine, base, timeout=_ASK_REGISTRY_SECONDS)):
        try:
            return _build_from_alpine(engine, base, run_id)
        except EngineError as error:
            if source == "alpine":
                raise
            engine.events.note(f"helper image: not built from {base} ({error}): using the host's tools")
    return _build_from_host(engine, run_id)


def _build_from_alpine(engine: Engine, base: str, run_id: str) -> HelperImage:
    """Add GNU tar and find to an Alpine image. The labels come last, so that only an image that works carries them."""
    if images.inspect(engine, base) is None:
        images.pull(engine, base, silence=_BUILD_SILENCE_SECONDS)
    tag = f"{REPOSITORY}:alpine"
    unproven = _build(engine, f"FROM {base}\nRUN apk add --no-cache tar findutils\n", tag)
    version = _require_full(engine, unproven, "alpine", run_id)
    labels = _labels("alpine", version)
    lines = "".join(f'LABEL {key}="{value}"\n' for key, value in labels.items())
    return HelperImage(_build(engine, f"FROM {unproven}\n{lines}", tag), "alpine", version, engine.arch(), full=True)


def _build(engine: Engine, dockerfile: str, tag: str) -> str:
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(dockerfile)
        tar.addfile(entry, io.BytesIO(dockerfile.encode()))
    return images.build(engine, context.getvalue(), tag, silence=_BUILD_SILENCE_SECONDS)


def _build_from_host(engine: Engine, run_id: str) -> HelperImage:
    """Pack this host's own tools. Needs no network; the same tools give the same image id on every host."""
    arch = engine.arch()
    if arch != HOST_ARCH:
        raise DrkitError(
            f"helper image: this host's tools are for {HOST_ARCH}, the engine runs {arch}",
            hint="Run `drkit helper build` on a host of the engine's architecture, or set helper.image in the policy.",
        )
    image = host_image(REPOSITORY, lambda version: _labels("host", version))
    images.load(engine, [image.archive])
    loaded = images.inspect(engine, image.tag)
    if loaded is None:
        raise EngineError(f"helper image {image.tag}: the engine loaded it, but does not have it")
    try:
        version = _require_full(engine, str(loaded["Id"]), "host", run_id)
    except BaseException:
        images.remove(engine, image.tag)
        raise
    return HelperImage(str(loaded["Id"]), "host", version, arch, full=True)


def stock_helper(engine: Engine, ref: str, *, run_id: str = "stock") -> HelperImage:
    """Use an image as it is. It is pulled when the engine lacks it, since the policy names it."""
    image = images.inspect(engine, ref)
    if image is None:
        images.pull(engine, ref, silence=_BUILD_SILENCE_SECONDS)
        image = images.inspect(engine, ref)
    if image is None:
        raise DrkitError(f"helper image {ref}: no such image", hint=f"Pull or load it first: docker pull {ref}.")
    version, full = _tools(engine, str(image["Id"]), run_id)
    return HelperImage(str(image["Id"]), "stock", version, engine.arch(), full)


def helper_archive(engine: Engine, helper: HelperImage) -> Iterator[bytes]:
    """Return the helper image as a `docker save` archive, for a repository to keep."""
    image = images.inspect(engine, helper.image_id)
    if image is None:
        raise DrkitError(
            f"helper image {helper.image_id[:19]}: no longer in the engine", hint="Rebuild it: drkit helper build."
        )
    ours = [tag for tag in image.get("RepoTags") or [] if tag.startswith(f"{REPOSITORY}:")]
    return images.save(engine, ours[:1] or [helper.image_id])


def load_helper(engine: Engine, archive: Iterable[bytes], *, run_id: str = "load") -> HelperImage:
    """Load a helper image that a repository kept. Raises DrkitError unless it works on this engine."""
    loaded = images.load(engine, archive)
    image = images.inspect(engine, loaded[0])
    if image is None:
        raise EngineError(f"helper image {loaded[0]}: the engine loaded it, but does not have it")
    image_id, arch = str(image["Id"]), engine.arch()
    if image["Architecture"] != arch:
        images.remove(engine, loaded[0])
        raise DrkitError(
            f"helper image {image_id[:19]}: made for {image['Architecture']}, the engine runs {arch}",
            hint="Build one here: drkit helper build.",
        )
    version, full = _tools(engine, image_id, run_id)
    return HelperImage(image_id, "repository", version, arch, full)


def _labels(source: Source, version: str) -> dict[str, str]:
    return {LABEL_HELPER_IMAGE: _RECIPE, LABEL_HELPER_SOURCE: source, LABEL_HELPER_TAR: version}


def _tools(engine: Engine, image_id: str, run_id: str) -> tuple[str, bool]:
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


def _require_full(engine: Engine, image_id: str, source: Source, run_id: str) -> str:
    version, full = _tools(engine, image_id, run_id)
    if not full:
        raise EngineError(f"helper image from {source}: tar {version} and its find are not the GNU ones")
    return version
