"""Which helper reads and writes volumes: one that this host built and found to work, known by its id from its state.

Never one that is found in the engine: whoever made an image chose its labels and tags, and a helper runs as root.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from drkit.engine import volumes
from drkit.engine.client import Engine
from drkit.engine.helper.build import RECIPE, Built, build_from_alpine, build_from_host, keep_image, remove_image
from drkit.engine.helper.image import HelperImage, Source, inspect_helper, stock_helper
from drkit.engine.helper.probe import HelperProbe, probe_helper
from drkit.engine.helper.stored import load_helper
from drkit.errors import DrkitError, EngineUnavailable, UsageError
from drkit.host.known_helpers import KnownHelper

if TYPE_CHECKING:
    from drkit.host.state import HostState

_IMAGE_ID = re.compile(r"sha256:[0-9a-f]{64}")
_SOURCES: dict[str, Source] = {"alpine": "alpine", "host": "host"}


def ensure_helper(engine: Engine, state: HostState, image: str = "auto", *, run_id: str = "ensure") -> HelperImage:
    """Return the helper that the policy asks for: "auto", or a stock image's reference.

    "auto" is the helper that this host's state names, if the engine still has it; else a new one is built, proven and
    noted there. Raises DrkitError where none can be built.
    """
    if image != "auto":
        return stock_helper(engine, image, run_id=run_id)
    known = state.helpers.of(_name(engine), engine.arch())
    if known is not None:
        if (problem := _unusable(engine, known)) is None:
            return _helper(known)
        engine.events.note(f"helper image {known.image_id[:19]}: {problem}; another takes its place")
    with state.helpers.building():
        now = state.helpers.of(_name(engine), engine.arch())
        if now is not None and now != known and _unusable(engine, now) is None:  # another run has just built it
            return _helper(now)
        return new_helper(engine, state, run_id=run_id)


def _name(engine: Engine) -> str:
    """What tells this engine from others: its id, and its data root, since copies of its configuration share the id."""
    facts = engine.facts()
    return f"{facts.get('ID') or engine.url} {facts.get('DockerRootDir')}"


def _unusable(engine: Engine, known: KnownHelper) -> str | None:
    if known.recipe != RECIPE or known.source not in _SOURCES:
        return "built by another version of drkit"
    return inspect_helper(engine, known.image_id)


def _helper(known: KnownHelper) -> HelperImage:
    return HelperImage(known.image_id, _SOURCES[known.source], known.tar, known.arch, full=True)


def new_helper(engine: Engine, state: HostState, *, run_id: str = "build") -> HelperImage:
    """Build a helper, prove on a scratch volume that it works, and note it in the state of this host.

    It is built from Alpine where a registry answers, else from the host's tools. Where the state does not last, the
    host's tools come first: they give the same id each time. Raises DrkitError where neither way leads to one that
    works.
    """
    helper = _built_and_proven(engine, state, run_id)
    keep_image(engine, helper)
    known = KnownHelper(_name(engine), engine.arch(), helper.image_id, helper.source, helper.tar, RECIPE)
    before = state.helpers.of(known.engine, known.arch)
    try:
        state.helpers.note(known)
    except DrkitError as error:
        engine.events.warn(f"{error.message}: every run builds the helper image again", hint=error.hint)
        return helper
    if not state.helpers.lasts():
        engine.events.note(
            f"{state.directory} does not outlive this container: the next one builds the helper image again; "
            "put DRKIT_STATE_DIR on a volume"
        )
    elif before is not None and before.image_id != helper.image_id:
        engine.events.note("the helper image is another one now: print the recovery kit again with drkit key kit")
    return helper


def _built_and_proven(engine: Engine, state: HostState, run_id: str) -> HelperImage:
    ways: list[Callable[[], Built | None]] = [
        partial(build_from_alpine, engine, run_id=run_id),
        partial(build_from_host, engine, run_id=run_id),
    ]
    if not state.helpers.lasts():
        ways.reverse()
    failed: DrkitError | None = None
    for build in ways:
        try:
            built = build()
            if built is not None:
                _prove(engine, state, built, run_id)
                return built.helper
        except EngineUnavailable:
            raise
        except DrkitError as error:
            if failed is None:
                engine.events.note(f"{error.message}; trying another way")
            failed = error
    assert failed is not None  # building from the host's tools gives an image or an error
    raise failed


def _prove(engine: Engine, state: HostState, built: Built, run_id: str) -> None:
    """Raise DrkitError unless a helper keeps what it must. One that was made for this is removed again."""
    name = f"helper image {built.helper.image_id[:19]} from {built.helper.source}"
    try:
        # Without SYS_ADMIN: what that is for depends on the engine, and a new image gets no more than it needs.
        found = probe(engine, state, built.helper, run_id=run_id, trusted_xattrs=False)
        if found.missing:
            raise DrkitError(f"it does not keep {', '.join(found.missing)}")
    except BaseException as error:
        if built.new:
            remove_image(engine, built.helper.image_id)
        if isinstance(error, DrkitError) and not isinstance(error, EngineUnavailable):
            raise DrkitError(f"{name} does not work: {error.message}", hint=error.hint, said=error.said) from error
        raise


def probe(
    engine: Engine, state: HostState, helper: HelperImage, *, run_id: str = "probe", trusted_xattrs: bool = True
) -> HelperProbe:
    """Try a helper out on a scratch volume, which no backup takes for data meanwhile."""
    state.scratch.remove_left(partial(volumes.remove_scratch, engine))
    with state.scratch.one() as volume:
        return probe_helper(engine, helper, volume=volume, run_id=run_id, trusted_xattrs=trusted_xattrs)


# --- one that a snapshot keeps


def full_image_id(text: str) -> str:
    """Return the id of an image; raise UsageError for a part of one, which another image's can begin with too."""
    if not _IMAGE_ID.fullmatch(text):
        raise UsageError(
            f"helper image {text}: not a full image id",
            hint="Give all of it as the recovery kit shows it: sha256: and 64 digits.",
        )
    return text


def helper_for_restore(
    engine: Engine,
    state: HostState,
    trusted: str | None,
    stored: Callable[[str], Iterator[bytes] | None],
    *,
    run_id: str,
) -> HelperImage:
    """Return a helper that can write a volume: this host's own or, only where none can be built, a stored one.

    A stored one runs only if its id is `trusted`, or the one that this host's state names; it never gets SYS_ADMIN.
    `stored` returns the archive that a snapshot keeps under an id, None where none does.
    """
    try:
        return ensure_helper(engine, state, run_id=run_id)
    except EngineUnavailable:
        raise
    except DrkitError as error:
        known = state.helpers.of(_name(engine), engine.arch())
        image_id = trusted or (known.image_id if known else None)
        if image_id is None:
            raise DrkitError(
                f"no helper can be built here: {error.message}. A snapshot may keep one, but its writer chose it",
                hint=" ".join(filter(None, [error.hint, "Or allow the one that the kit names: --trust-helper ID."])),
            ) from error
        archive = stored(image_id)
        if archive is None:
            raise DrkitError(
                f"no helper can be built here: {error.message}. No snapshot keeps the one with the id {image_id}",
                hint=error.hint,
            ) from error
        return _loaded(engine, state, archive, image_id, run_id)


def _loaded(engine: Engine, state: HostState, archive: Iterator[bytes], image_id: str, run_id: str) -> HelperImage:
    built = load_helper(engine, archive, image_id, run_id=run_id)
    _prove(engine, state, built, run_id)
    engine.events.warn(
        f"no helper can be built here: {image_id[:19]}, which a snapshot keeps, writes the data and alone verifies it",
        hint="Restore it again with a helper that you built as soon as you can, and compare.",
    )
    return built.helper
