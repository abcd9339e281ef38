"""Laboratories for the end-to-end tests, and a volume that is old enough to be taken over by a second backup."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import docker
import pytest

from tests.support.lab import Lab, Volume, fill, laboratory

SETTLED_SECONDS = 122
"""A little more than the age from which equal times prove equal content."""


@pytest.fixture(scope="session")
def api(engine_url: str) -> Iterator[docker.APIClient]:
    with closing(docker.APIClient(base_url=engine_url, timeout=120)) as api:
        yield api


@pytest.fixture
def lab(api: docker.APIClient, tmp_path: Path, unique_name: str) -> Iterator[Lab]:
    with laboratory(api, tmp_path, unique_name) as lab:
        yield lab


@pytest.fixture(scope="module")
def module_lab(api: docker.APIClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One laboratory for the tests of a module, which only look."""
    name = f"drkit-test-module-{random.SystemRandom().randrange(2**32):08x}"
    with laboratory(api, tmp_path_factory.mktemp("lab"), name) as lab:
        yield lab


class _Aging(NamedTuple):
    to_look_at: Volume
    to_change: list[Volume]
    made: float


@pytest.fixture(scope="session", autouse=True)
def _aging(api: docker.APIClient) -> Iterator[_Aging]:
    """Made before the first test here, so that nobody waits for it in the end.

    Always the same content: after a change it takes 1 to 8 MiB, depending on it, until chunks are cut as before.
    """
    rng = random.Random(1)
    volumes = []
    try:
        for _ in range(3):
            name = f"drkit-test-aged-{random.SystemRandom().randrange(2**32):08x}"
            volume = Volume(name, Path(api.create_volume(name)["Mountpoint"]))
            volumes.append(volume)
            fill(volume.files, {f"many/file-{number:04d}": rng.randbytes(3000) for number in range(500)})
            fill(volume.files, {f"large-{number}": rng.randbytes(8 << 20) for number in range(4)})
            (volume.files / "linked").hardlink_to(volume.files / "large-0")
        yield _Aging(volumes[0], volumes[1:], time.monotonic())
    finally:
        for volume in volumes:
            api.remove_volume(volume.name, force=True)


@pytest.fixture
def aged_volume(_aging: _Aging) -> Volume:
    """A volume that nothing has changed for long enough: 500 small files, 4 large ones, one of them with two names.

    To be left as it is.
    """
    time.sleep(max(0.0, _aging.made + SETTLED_SECONDS - time.monotonic()))
    return _aging.to_look_at


@pytest.fixture
def aged_volume_to_change(_aging: _Aging, aged_volume: Volume) -> Volume:
    """Another one of the same kind for each test that asks: what one has changed is not aged for the next."""
    return _aging.to_change.pop()


@pytest.fixture
def remove_helper_images(api: docker.APIClient) -> Callable[[], None]:
    """Make the engine one that has never seen drkit."""

    def remove() -> None:
        for image in api.images(filters={"label": "drkit.helper.image"}):
            api.remove_image(image["Id"], force=True)

    return remove
