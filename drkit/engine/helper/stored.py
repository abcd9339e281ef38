"""Helper images that a repository keeps, for a host where none can be built.

A repository may come from a host that an intruder owned, and a helper runs as root. So the id decides, which somebody
who is not in the repository has to name: see drkit/targets/helper.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from drkit.engine import images
from drkit.engine.client import Engine, EngineError
from drkit.engine.helper.archive import checked_image
from drkit.engine.helper.build import Built, remove_image
from drkit.engine.helper.image import HelperImage, tools, wrong_architecture
from drkit.errors import DrkitError


def helper_archive(engine: Engine, helper: HelperImage) -> Iterator[bytes]:
    """Yield the helper image as a load archive without names, for a repository to keep.

    Raises IntegrityError when the engine saves something else than the image of this id.
    """
    with checked_image(images.save(engine, [helper.image_id]), helper.image_id) as image:
        yield from image.pieces()


def load_helper(engine: Engine, archive: Iterable[bytes], image_id: str, *, run_id: str) -> Built:
    """Load the helper image with this id from an archive, without any name; nothing proves that it works yet.

    Raises IntegrityError, before the engine is sent anything, for an archive that does not hold exactly that image, and
    DrkitError for one of another architecture.
    """
    with checked_image(archive, image_id) as image:
        if problem := wrong_architecture(engine, image.architecture):
            raise DrkitError(
                f"helper image {image_id[:19]}: {problem}",
                hint="Restore where the engine's architecture is that of the backed-up host, or build one here: "
                "drkit helper build.",
            )
        new = images.inspect(engine, image_id) is None
        if new:
            images.load(engine, image.pieces())
    there = images.inspect(engine, image_id)
    if there is None or there["Id"] != image_id:
        raise EngineError(f"helper image {image_id[:19]}: the engine loaded it, but does not have it under its id")
    try:
        version, full = tools(engine, image_id, run_id)
    except BaseException:
        if new:
            remove_image(engine, image_id)
        raise
    return Built(HelperImage(image_id, "repository", version, engine.arch(), full), new)
