"""What nobody means literally, in a policy, on the command line and in the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from drkit.errors import PolicyError, UsageError
from drkit.literal import not_literal
from drkit.policy import parse_policy
from drkit.storage.urls import local_path

NOT_LITERAL = {
    "${BACKUP_DIR}/drkit": "nothing expands ${BACKUP_DIR} here",
    "/srv/$HOST/drkit": "nothing expands $HOST here",
    "/srv/$(hostname)": "nothing expands $(hostname) here",
    "/srv/${HOST:-x}/y": "nothing expands ${HOST:-x} here",
    "/srv/${unclosed": "nothing expands ${unclosed here",
    "/srv/data$": "nothing expands $ here",
    "~/drkit": "no shell expands the ~ here",
    "~backup/drkit": "no shell expands the ~ here",
    "%h/drkit": "nothing expands %h here",
    "/srv/%Y-%m": "nothing expands %Y here",
    "/srv/{{ host }}/drkit": "nothing fills in {{ host }} here",
    " /var/backups": "a blank",
    "/var/backups ": "a blank",
    "/var/backups\r": "a blank",
    "/var/\tbackups": "a control character",
    "/var/\x1b[31m": "a control character",
}
LITERAL = ["/var/backups/drkit", "backups", "/srv/a b", "/srv/a~", "/srv/~a", "/srv/100%", "/srv/50%20x", "/srv/{a}"]


@pytest.mark.parametrize(("text", "why"), NOT_LITERAL.items())
def test_it_is_refused_in_every_place(text: str, why: str, tmp_path: Path) -> None:
    assert why in (not_literal(text) or "")
    with pytest.raises(UsageError, match="cannot be meant") as caught:
        local_path(text)
    assert why in caught.value.message
    for key in ("url", "recipients_file", "identity_file", "passphrase_file", "ca_bundle", "mirror"):
        keys = {"url": "/r", "recipients_file": "/p", "identity_file": "/i"}
        mirror = text if key == "mirror" else "/m"
        if key == "ca_bundle":
            keys["url"] = "s3://backups/shop"
        if key != "mirror":
            keys[key] = text
        number = 4 + list(keys).index(key) if key in keys else 5 + len(keys)  # of the line
        keys_text = "\n".join(f"  {name}: {as_yaml(value)}" for name, value in keys.items())
        document = (
            f"version: 1\nname: shop\nrepository:\n{keys_text}\nmirror:\n  url: {as_yaml(mirror)}\n"
            "protect: {volumes: [{name: data}]}\n"
        )
        with pytest.raises(PolicyError) as refused:
            parse_policy(document, tmp_path / "policy.yaml")
        assert f"policy.yaml:{number}: " in refused.value.message
        assert why in refused.value.message or "\\r" in refused.value.message, "a line end has an error of its own"


def as_yaml(text: str) -> str:
    return '"' + "".join(f"\\x{ord(each):02x}" for each in text) + '"'


@pytest.mark.parametrize("text", LITERAL)
def test_an_odd_name_is_a_name(text: str, tmp_path: Path) -> None:
    assert not_literal(text) is None
    assert local_path(text) == Path.cwd() / text
    keys = f"{{url: {as_yaml(text)}, recipients_file: r, identity_file: i}}"
    document = f"version: 1\nname: shop\nrepository: {keys}\nprotect: {{volumes: [{{name: data}}]}}\n"
    assert parse_policy(document, tmp_path / "p.yaml").repository.url == str(tmp_path / text)


def test_a_url_names_what_a_path_cannot() -> None:
    assert local_path("file:///srv/%24data/%7e") == Path("/srv/$data/~")


@pytest.mark.parametrize("text", ["s3://${BUCKET}/x", "s3://bucket/${HOST}", "s3://bucket/{{x}}", "file:///srv/$X"])
def test_in_a_url_too(text: str, tmp_path: Path) -> None:
    document = (
        f"version: 1\nname: shop\nprotect: {{volumes: [{{name: data}}]}}\n"
        f"repository:\n  recipients_file: r\n  identity_file: i\n  url: {as_yaml(text)}\n"
    )
    with pytest.raises(PolicyError, match=r"p.yaml:7: repository.url: found"):
        parse_policy(document, tmp_path / "p.yaml")


@pytest.mark.parametrize("number", ["010", "0o10", "0x10", "1_0", "1:30", "yes", "1e1", "+03", "-0", "١"])
def test_a_number_that_two_readers_of_yaml_read_differently(number: str, tmp_path: Path) -> None:
    document = (
        "version: 1\nname: shop\nprotect: {volumes: [{name: data}]}\n"
        "repository: {url: /r, recipients_file: r, identity_file: i}\n"
        f"retention: {{keep_last: {number}, keep_within: 48h}}\n"
    )
    if number == "-0":
        assert parse_policy(document, tmp_path / "p.yaml").retention is not None
        return
    with pytest.raises(PolicyError, match=r"p.yaml:5: retention.keep_last"):
        parse_policy(document, tmp_path / "p.yaml")


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "y", "1", '"true"', "TrUe"])
def test_a_boolean_is_true_or_false(word: str, tmp_path: Path) -> None:
    document = (
        "version: 1\nname: shop\nrepository: {url: /r, recipients_file: r, identity_file: i}\n"
        f"protect: {{volumes: [{{name: data, trusted_xattrs: {word}}}]}}\n"
    )
    with pytest.raises(PolicyError, match=r"p.yaml:4: protect.volumes\[0\].trusted_xattrs: .*expected true or false"):
        parse_policy(document, tmp_path / "p.yaml")


def test_a_merge_key_and_a_key_given_twice(tmp_path: Path) -> None:
    document = (
        "version: 1\nname: shop\nrepository: {url: /r, recipients_file: r, identity_file: i}\n"
        "protect: &p {volumes: [{name: data}]}\nmirror:\n  <<: {url: /elsewhere}\n  url: /m\n  url: /n\n"
    )
    with pytest.raises(PolicyError) as caught:
        parse_policy(document, tmp_path / "p.yaml")
    assert 'p.yaml:6: mirror."<<": unknown key' in caught.value.message
    assert "p.yaml:8: mirror.url: given twice" in caught.value.message
