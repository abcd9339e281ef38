"""The policies that drkit ships load, and the commented example shows every key there is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from drkit.policy import example_text, json_schema, load_policy, parse_policy

ROOT = Path(__file__).resolve().parents[3]
COMMENTED = (
    *("host", "meta_key_file", "endpoint", "region", "addressing", "profile", "credentials_file", "ca_bundle"),
    *("storage_class", "encryption", "kms_key", "upload_limit", "lock"),
)
POLICIES = sorted((ROOT / "policies").iterdir())


def test_there_are_policies() -> None:
    assert len(POLICIES) >= 2
    assert all(path.suffix == ".yaml" for path in POLICIES)


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.name)
def test_each_policy_loads_and_explains_itself(path: Path) -> None:
    policy = load_policy(path)
    assert policy.protect.volumes
    assert path.read_text().startswith("# ")


def test_the_example_loads(tmp_path: Path) -> None:
    policy = parse_policy(example_text(), tmp_path / "example.yaml")
    assert policy.name == "shop"
    assert policy.retention is not None
    assert policy.retention.keep_daily == 7


def keys_of(schema: dict[str, Any]) -> set[str]:
    """Every key that the schema knows, in whatever mapping."""
    models = [schema, *schema["$defs"].values()]
    return {key for model in models for key in model["properties"]}


def test_the_example_shows_every_key() -> None:
    shown = set(re.findall(r"^[ #-]*([a-z_]+):", example_text(), re.MULTILINE))
    assert shown >= keys_of(json_schema())


def test_the_example_still_loads_with_its_commented_keys(tmp_path: Path) -> None:
    text = example_text().replace("url: /var/backups/drkit ", "url: s3://bucket/prefix ")
    text = re.sub(rf"^( *)# (({'|'.join(COMMENTED)}):)", r"\1\2", text, flags=re.MULTILINE)
    policy = parse_policy(text, tmp_path / "example.yaml")
    assert policy.host == "web-1"
    for key in COMMENTED:
        assert key == "host" or getattr(policy.repository, key), key
    assert policy.repository.upload_limit == 20 << 20


def test_the_s3_example_is_complete() -> None:
    repository = load_policy(ROOT / "policies/s3.yaml").repository
    assert repository.url == "s3://backups/shop"
    assert (repository.addressing, repository.upload_limit) == ("auto", 20 << 20)
    assert repository.credentials_file == Path("/etc/drkit/s3.ini")


def test_json_schema_is_closed_and_described() -> None:
    schema = json_schema()
    json.dumps(schema)
    for model in [schema, *schema["$defs"].values()]:
        assert model["additionalProperties"] is False
        assert model["description"]
        for name, key in model["properties"].items():
            assert "description" in key or "$ref" in key, name
    assert schema["required"] == ["version", "name", "repository", "protect"]
    assert schema["properties"]["version"]["const"] == 1


def matches_schema(value: object, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """As much of JSON Schema as ours uses."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        return any(matches_schema(value, choice, root) for choice in schema["anyOf"])
    if "const" in schema:
        return bool(value == schema["const"])
    match schema["type"]:
        case "null":
            return value is None
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and value >= schema["minimum"]
        case "string":
            return isinstance(value, str) and bool(re.search(schema.get("pattern", ""), value))
        case "array":
            return isinstance(value, list) and all(matches_schema(item, schema["items"], root) for item in value)
        case "object":
            return (
                isinstance(value, dict)
                and all(
                    key in schema["properties"] and matches_schema(item, schema["properties"][key], root)
                    for key, item in value.items()
                )
                and set(schema.get("required", [])) <= set(value)
            )
    raise AssertionError(f"unknown type {schema['type']}")


@pytest.mark.parametrize("text", [example_text(), *(path.read_text() for path in POLICIES)])
def test_shipped_policies_match_the_json_schema(text: str) -> None:
    schema = json_schema()
    assert matches_schema(yaml.safe_load(text), schema, schema)
    assert not matches_schema({"version": 1}, schema, schema)
