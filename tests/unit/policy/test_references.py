"""Image references: what each asks for, by the grammar of the distribution project, and what none can be."""

from __future__ import annotations

from pathlib import Path

import pytest

from drkit.errors import PolicyError
from drkit.policy import parse_policy, refuse_unusable
from drkit.policy.references import LONGEST_NAME, Reference, parse_reference

HEX = "0123456789abcdef" * 4
DIGEST = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("ref", "full", "familiar"),
    [
        ("da", "docker.io/library/da:latest", "da:latest"),
        ("postgres:15", "docker.io/library/postgres:15", "postgres:15"),
        ("docker.io/postgres", "docker.io/library/postgres:latest", "postgres:latest"),
        ("index.docker.io/library/postgres:15", "docker.io/library/postgres:15", "postgres:15"),
        ("shop/api", "docker.io/shop/api:latest", "shop/api:latest"),
        ("library/shop/api:1", "docker.io/library/shop/api:1", "library/shop/api:1"),
        ("localhost/api:1", "localhost/api:1", "localhost/api:1"),
        ("host:5000/api", "host:5000/api:latest", "host:5000/api:latest"),
        ("[::1]:5000/api:1", "[::1]:5000/api:1", "[::1]:5000/api:1"),
        ("Registry/api:1", "Registry/api:1", "Registry/api:1"),
        (f"api@{DIGEST}", f"docker.io/library/api@{DIGEST}", f"api@{DIGEST}"),
        (f"r.example/api:1@{DIGEST}", f"r.example/api:1@{DIGEST}", f"r.example/api:1@{DIGEST}"),
        (DIGEST, DIGEST, DIGEST),
        (HEX, DIGEST, DIGEST),
        (HEX[:12], f"docker.io/library/{HEX[:12]}:latest", f"{HEX[:12]}:latest"),
        (f"{HEX}:1", f"docker.io/library/{HEX}:1", f"{HEX}:1"),
    ],
)
def test_a_reference_asks_for_one_thing(ref: str, full: str, familiar: str) -> None:
    asked = parse_reference(ref)
    assert (asked.full, asked.familiar) == (full, familiar)
    assert parse_reference(full) == parse_reference(familiar) == asked
    assert asked.is_id is (familiar == DIGEST)


def test_a_tag_and_a_digest_can_be_asked_for_alone() -> None:
    asked = parse_reference(f"shop/api:1@{DIGEST}")
    assert asked.by_tag == Reference("docker.io/shop/api", "1")
    assert asked.by_digest == Reference("docker.io/shop/api", digest=DIGEST)
    assert parse_reference("shop/api").by_digest is None
    assert parse_reference(f"shop/api@{DIGEST}").by_tag is None


@pytest.mark.parametrize(
    ("ref", "problem"),
    [
        ("", "grammar"),
        ("UPPER", "grammar"),
        ("a b", "grammar"),
        ("a\n", "grammar"),
        ("a:", "grammar"),
        ("a@sha256:0", "grammar"),
        ("a@md5:" + HEX, "grammar"),
        ("../a", "grammar"),
        ("a//b", "grammar"),
        ("http://a/b", "grammar"),
        ("\N{CYRILLIC SMALL LETTER A}pi:1", "grammar"),
        ("a:" + "t" * 129, "grammar"),
        ("sha256:0cdc48", "64 digits"),
        ("sha256", "64 digits"),
        (f"{DIGEST}0", "64 digits"),
        ("a" * LONGEST_NAME, "255"),
        ("registry.example.com/" + "a" * 240 + ":1", "255"),
    ],
)
def test_what_cannot_be_a_reference_is_refused(ref: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_reference(ref)


def test_the_longest_name_is_allowed() -> None:
    longest = "a" * (LONGEST_NAME - len("docker.io/library/"))
    assert len(parse_reference(f"{longest}:{'t' * 128}@{DIGEST}").name) == LONGEST_NAME


def test_one_bad_reference_is_named_by_a_check_and_keeps_no_other_target_from_its_backup(tmp_path: Path) -> None:
    text = (
        "version: 1\nname: shop\nrepository: {url: /r, recipients_file: r, identity_file: i}\nprotect:\n"
        f"  volumes: [{{name: data}}]\n  images:\n    - ref: {'a' * 300}:1\n    - ref: sha256:0cdc48\n"
    )
    policy = parse_policy(text, tmp_path / "policy.yaml")
    assert [len(policy.protect.volumes), len(policy.protect.images)] == [1, 2]
    with pytest.raises(PolicyError) as caught:
        refuse_unusable(policy)
    lines = caught.value.message.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        [f"{tmp_path}/policy.yaml:7", "protect.images[0].ref"],
        [f"{tmp_path}/policy.yaml:8", "protect.images[1].ref"],
    ]
    assert "318 characters" in lines[0]
    assert "64 digits" in lines[1]


@pytest.mark.parametrize("ref", ["sha256:0cdc48", "a" * 300])
def test_a_helper_image_that_no_engine_can_have_is_refused(ref: str, tmp_path: Path) -> None:
    text = "version: 1\nname: shop\nrepository: {url: /r, recipients_file: r, identity_file: i}\n"
    text += f"protect: {{volumes: [{{name: data}}]}}\nhelper: {{image: '{ref}'}}\n"
    with pytest.raises(PolicyError, match=r"5: helper\.image: found"):
        parse_policy(text, tmp_path / "policy.yaml")
