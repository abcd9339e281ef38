"""Volumes and networks of a real engine: found, and created for a restore only under a name that is free."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import docker
import pytest

from drkit.engine import networks, volumes
from drkit.engine.client import Engine, EngineError
from drkit.engine.labels import LABEL_HELPER, LABEL_RESTORE
from drkit.errors import DrkitError, UsageError


@pytest.fixture(scope="module")
def engine(engine_url: str) -> Iterator[Engine]:
    with Engine.connect(engine_url) as engine:
        yield engine


@pytest.fixture
def volume(engine: Engine, unique_name: str) -> Iterator[str]:
    """The name of a volume that does not exist yet."""
    yield unique_name
    volumes.remove(engine, unique_name)


@pytest.fixture
def network(engine: Engine, unique_name: str) -> Iterator[str]:
    with closing(docker.APIClient(base_url=engine.url)) as api:
        network = api.create_network(unique_name, labels={"of": unique_name}, internal=True)["Id"]
        yield unique_name
        api.remove_network(network)


def test_a_network_is_found_by_label_and_inspected_by_name_and_id(engine: Engine, network: str) -> None:
    (found,) = networks.find(engine, [f"of={network}"])
    assert found["Name"] == network and found["Internal"]
    assert len(networks.find(engine)) > 1
    for reference in (network, found["Id"]):
        document = networks.inspect(engine, reference)
        assert document is not None and document["Id"] == found["Id"]


def test_a_network_that_does_not_exist_is_none(engine: Engine) -> None:
    assert networks.find(engine, ["of=nobody"]) == []
    assert networks.inspect(engine, "drkit-test-none") is None
    with pytest.raises(UsageError, match="network 'a/b': not a valid Docker name"):
        networks.inspect(engine, "a/b")


def test_volumes_are_matched_by_pattern_whatever_their_labels(engine: Engine, volume: str) -> None:
    volumes.create(engine, volume)
    volumes.create(engine, f"{volume}-labelled", labels={LABEL_HELPER: "test", LABEL_RESTORE: "test"})
    try:
        assert volumes.match(engine, f"{volume[:-2]}*") == [volume, f"{volume}-labelled"]
    finally:
        assert volumes.remove(engine, f"{volume}-labelled")
        assert not volumes.remove(engine, f"{volume}-labelled")


def test_a_restore_creates_a_volume_only_under_a_free_name(engine: Engine, volume: str) -> None:
    original = {"Driver": "no-such-driver", "Labels": {"a": "b"}}
    volumes.require_absent(engine, volume)
    created = volumes.create_restored(engine, volume, original, restore_id="one")
    assert created.plan.driver == "local" and "this engine does not have it" in created.plan.dropped[0]
    document = volumes.inspect(engine, volume)
    assert document is not None and document["Labels"] == {"a": "b", "drkit.restore": "one"}

    volumes.require_absent(engine, volume, unless_restore="one")
    for refused in (
        lambda: volumes.require_absent(engine, volume),
        lambda: volumes.require_absent(engine, volume, unless_restore="two"),
        lambda: volumes.create_restored(engine, volume, original, restore_id="two"),
    ):
        with pytest.raises(DrkitError, match="never writes into an existing volume") as caught:
            refused()
        assert caught.value.hint is not None and f"--to-volume {volume}-restored" in caught.value.hint

    assert not volumes.remove_restored(engine, volume, "two") and volumes.inspect(engine, volume) is not None
    assert volumes.remove_restored(engine, volume, "one") and volumes.inspect(engine, volume) is None
    assert not volumes.remove_restored(engine, volume, "one")


def test_what_the_engine_refuses_names_the_object_and_the_status(engine: Engine, volume: str) -> None:
    with pytest.raises(EngineError, match=f"volume {volume}: ") as caught:
        volumes.create(engine, volume, options={"no-such-option": "x"})
    assert caught.value.status in (400, 500)
