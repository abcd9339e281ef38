"""A storage around another one forwards the whole contract, read from the contract itself.

A method that the base class answered by itself would silently do nothing for a repository behind copies, and a fault
test would test the defaults of the base class.
"""

from __future__ import annotations

import inspect
from typing import Any
from unittest.mock import create_autospec

import pytest

from drkit.storage import Storage
from drkit.storage.base import Traits
from drkit.storage.cached import CachedStorage
from drkit.storage.forwarding import ForwardingStorage
from drkit.storage.s3.past import PastStorage
from tests.support.faulty_storage import FaultyStorage
from tests.support.memory_storage import MemoryStorage

ATTRIBUTES = set(Storage.__annotations__)
METHODS = {name for name in vars(Storage) if not name.startswith("_")} - ATTRIBUTES

DECORATORS: dict[type[ForwardingStorage], set[str]] = {
    CachedStorage: {"get", "fetch_ahead", "list", "delete"},
    FaultyStorage: {"put", "get", "stat", "list", "delete"},
    PastStorage: {
        *("put", "get", "stat", "list", "delete"),
        *("renew_locks", "holds_locks", "try_tampering", "shadowed_objects"),
    },
}
"""What each decorator does itself. A method that is missing here and in ForwardingStorage fails the tests below."""


def recording() -> Any:
    inner = create_autospec(Storage, instance=True)
    inner.url = "recording:"
    inner.traits = Traits(parallel_puts=7, locks=True)
    return inner


def test_the_contract_is_what_this_test_thinks() -> None:
    assert {"url", "traits"} == ATTRIBUTES
    assert {"put", "get", "stat", "list", "delete", "renew_locks", "store_info", "try_tampering"} < METHODS


@pytest.mark.parametrize("name", sorted(METHODS - {"single_writer"}))
def test_every_method_is_the_inner_storages(name: str) -> None:
    inner = recording()
    _, *parameters = inspect.signature(getattr(Storage, name)).parameters.values()
    given = [object() for each in parameters if each.kind is not each.KEYWORD_ONLY]
    named = {each.name: object() for each in parameters if each.kind is each.KEYWORD_ONLY}
    answer = getattr(ForwardingStorage(inner), name)(*given, **named)
    asked = getattr(inner, name)
    asked.assert_called_once_with(*given, **named)
    returns_nothing = inspect.signature(getattr(Storage, name)).return_annotation == "None"
    assert answer is (None if returns_nothing else asked.return_value)
    assert len(inner.method_calls) == 1


def test_every_attribute_is_the_inner_storages() -> None:
    inner = recording()
    forwarding = ForwardingStorage(inner)
    assert {name: getattr(forwarding, name) for name in ATTRIBUTES} == {
        name: getattr(inner, name) for name in ATTRIBUTES
    }


@pytest.mark.parametrize("decorator", DECORATORS, ids=lambda decorator: decorator.__name__)
def test_what_a_decorator_does_not_do_itself_it_forwards(decorator: type[ForwardingStorage]) -> None:
    assert vars(ForwardingStorage).keys() >= METHODS
    assert decorator.__bases__ == (ForwardingStorage,)
    assert vars(decorator).keys() & METHODS == DECORATORS[decorator]


def test_for_a_single_writer_the_inner_storage_looks_first_too() -> None:
    memory = MemoryStorage(Traits(parallel_puts=3))
    shared = FaultyStorage(memory)
    view = shared.single_writer()
    assert (view.traits, view.inner.traits) == (Traits(parallel_puts=3, create_only=False),) * 2
    assert (shared.traits, shared.inner.traits) == (Traits(parallel_puts=3),) * 2
    view.put("config", b"x")
    assert [call.key for call in shared.calls] == ["config"], "the two share all else"
    assert memory.objects == {"config": b"x"}
