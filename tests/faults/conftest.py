"""A laboratory for each test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import docker
import pytest

from tests.support.lab import Lab, laboratory


@pytest.fixture
def lab(engine_url: str, tmp_path: Path, unique_name: str) -> Iterator[Lab]:
    with (
        closing(docker.APIClient(base_url=engine_url, timeout=120)) as api,
        laboratory(api, tmp_path, unique_name) as lab,
    ):
        yield lab
