"""Whatever a file holds, loading gives a policy or a PolicyError with at least one line."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import yaml
from hypothesis import HealthCheck, example, given, note, settings
from hypothesis import strategies as st

from drkit.errors import PolicyError
from drkit.policy import Policy, example_text, load_policy, parse_policy

PATH = Path("/etc/drkit/policies/fuzz.yaml")
# `print_blob` prints how to repeat a failure, as do the falsifying examples.
FUZZ = settings(max_examples=300, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))

EXAMPLE = example_text()
KEYS = sorted(set(re.findall(r"([a-z_]+):", EXAMPLE)))
LINES = EXAMPLE.splitlines(keepends=True)
FRAGMENTS = [
    *LINES,
    *(f"{key}: " for key in KEYS),
    *"[]{}&*!|>%@`'\"#,:-?\t\n ",
    "&a ",
    "*a",
    "!!",
    "<<: ",
    "---\n",
    "\\U",
]


def loads_or_explains(text: str) -> None:
    try:
        policy = parse_policy(text, PATH)
    except PolicyError as error:
        note(error.message)
        assert error.message.isascii()
        assert all(line.startswith(f"{PATH}:") for line in error.message.split("\n"))
    else:
        assert isinstance(policy, Policy)
        assert policy.text == text


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(KEYS)
documents = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=6)
    ),
    max_leaves=30,
)


@FUZZ
@given(documents)
def test_any_document(document: object) -> None:
    loads_or_explains(yaml.safe_dump(document, allow_unicode=True))


@FUZZ
@given(st.text(max_size=200))
@example("\ud800")
@example('"\\uD800": 1')
@example("%YAML 1.1\n%TAG ! tag:yaml.org,2002:python/\n--- !object {}\n")
def test_any_text(text: str) -> None:
    loads_or_explains(text)


@FUZZ
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=60).map("".join))
def test_any_mixture_of_yaml(text: str) -> None:
    loads_or_explains(text)


@FUZZ
@given(st.data())
def test_a_valid_policy_with_a_few_changes(data: st.DataObject) -> None:
    text = EXAMPLE
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 12)))
        text = text[:start] + data.draw(st.sampled_from(FRAGMENTS) | st.text(max_size=3)) + text[end:]
    loads_or_explains(text)


@FUZZ
@given(st.dictionaries(st.sampled_from(KEYS), documents, max_size=6))
def test_any_value_under_a_known_key(changes: dict[str, object]) -> None:
    document = yaml.safe_load(EXAMPLE)
    for key, value in changes.items():
        for mapping in (document, document["repository"], document["protect"], document["retention"]):
            if isinstance(mapping, dict) and key in mapping and mapping[key] is not value:
                mapping[key] = value
                break
    loads_or_explains(yaml.safe_dump(document))


@FUZZ
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        file.write(data)
        file.flush()
        try:
            load_policy(file.name)
        except PolicyError as error:
            note(error.message)
            assert error.message.isascii()
            assert file.name in error.message
