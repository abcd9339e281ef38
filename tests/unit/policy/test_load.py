"""From YAML to a policy: every problem at once, each with its line, and nothing that a hostile file can do."""

from __future__ import annotations

import json
import os
import re
import tempfile
import textwrap
import time
from datetime import timedelta
from pathlib import Path

import pytest

from drkit.errors import PolicyError
from drkit.policy import Policy, find_policies, load_policy, parse_policy
from drkit.policy.load import MAX_BYTES
from drkit.repository.format.compression import Compression

VALID = """\
version: 1
name: shop
repository:
  url: /var/backups/drkit
  recipients_file: /etc/drkit/recipients.txt
  identity_file: /etc/drkit/identity.txt
protect:
  volumes:
    - name: shop_data
"""


def load(text: str, tmp_path: Path) -> Policy:
    file = tmp_path / "policy.yaml"
    file.write_text(text, encoding="utf-8")
    return load_policy(file)


def problems(text: str, tmp_path: Path) -> list[str]:
    """The lines of the error, without the directory."""
    with pytest.raises(PolicyError) as caught:
        load(textwrap.dedent(text), tmp_path)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    assert caught.value.message.isascii()
    return [line.removeprefix(f"{tmp_path}/") for line in caught.value.message.split("\n")]


def problem(text: str, tmp_path: Path) -> str:
    (only,) = problems(text, tmp_path)
    return only


def test_a_small_policy(tmp_path: Path) -> None:
    policy = load(VALID, tmp_path)
    assert policy.version == 1
    assert policy.name == "shop"
    assert policy.host is None
    assert policy.repository.url == "/var/backups/drkit"
    assert policy.repository.meta_key_file is None
    assert [volume.name for volume in policy.protect.volumes] == ["shop_data"]
    assert policy.protect.volumes[0].exclude == ()
    assert policy.protect.volumes[0].trusted_xattrs is False
    assert policy.protect.images == ()
    assert policy.retention is None
    assert policy.helper.image == "auto"
    assert policy.text == VALID
    assert policy.path == tmp_path / "policy.yaml"


def test_every_key(tmp_path: Path) -> None:
    policy = load(
        textwrap.dedent("""\
        version: 1
        name: shop
        host: web-1
        repository:
          url: s3://backups/shop
          endpoint: http://127.0.0.1:9000
          region: eu-central-1
          recipients_file: recipients.txt
          identity_file: keys/identity.txt
          meta_key_file: /etc/drkit/meta.key
        protect:
          volumes:
            - name: data
              exclude: ["*.tmp", "cache/**"]
              trusted_xattrs: true
            - match: "media_*"
          images:
            - ref: shop/api:1.4
        retention:
          keep_last: 1
          keep_hourly: 2
          keep_daily: 3
          keep_weekly: 4
          keep_monthly: 5
          keep_yearly: 6
          keep_within: 48h
          min_keep: 7
          timezone: Europe/Berlin
        helper:
          image: alpine:3.20
        """),
        tmp_path,
    )
    assert policy.host == "web-1"
    assert policy.repository.recipients_file == tmp_path / "recipients.txt"
    assert policy.repository.identity_file == tmp_path / "keys/identity.txt"
    assert policy.repository.meta_key_file == Path("/etc/drkit/meta.key")
    assert policy.protect.volumes[0].exclude == ("*.tmp", "cache/**")
    assert policy.protect.images[0].ref == "shop/api:1.4"
    assert policy.retention is not None
    kept = policy.retention.model_dump()
    assert kept.pop("keep_within") == timedelta(hours=48)
    assert kept.pop("timezone") == "Europe/Berlin"
    assert list(kept.values()) == [1, 2, 3, 4, 5, 6, 7]
    assert policy.helper.image == "alpine:3.20"


def test_a_policy_cannot_be_changed(tmp_path: Path) -> None:
    policy = load(VALID, tmp_path)
    with pytest.raises(ValueError, match="frozen"):
        policy.name = "other"
    with pytest.raises(ValueError, match="frozen"):
        policy.protect.volumes[0].trusted_xattrs = True


def test_paths_are_relative_to_the_policy_not_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies/p.yaml").write_text(re.sub("/(var|etc)/(backups|drkit)/", "", VALID))
    monkeypatch.chdir(tmp_path)
    policy = load_policy("policies/p.yaml")
    assert policy.repository.url == str(tmp_path / "policies/drkit")
    assert policy.repository.identity_file == tmp_path / "policies/identity.txt"
    assert policy.path == tmp_path / "policies/p.yaml"


def test_a_stored_text_can_be_parsed_again(tmp_path: Path) -> None:
    policy = load(VALID, tmp_path)
    assert parse_policy(policy.text, policy.path) == policy


def test_all_problems_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    said = problems(
        """\
        version: 2
        name: Bad Name
        hots: x
        repository:
          url: /var/backups
          recipient_file: a
          identity_file: b
          meta_key_file: b
          region: eu
        protect:
          volumes:
            - {name: data, match: "*"}
            - {match: "a[", trusted_xattrs: yes}
            - name: data
              exclude: [1, "#x"]
            - {}
            - x
          images:
            - ref: UPPER
            - ref: api
            - ref: api:latest
        retention: {keep_last: 1.5, keep_within: 2 days, min_keep: -1}
        helper: {image: !!python/name:os.system ""}
        """,
        tmp_path,
    )
    assert [line.removeprefix("policy.yaml:") for line in said] == [
        "1: version: found the number 2; expected the number 1",
        '2: name: found the text "Bad Name"; expected a name of at most 63 lower-case letters, digits, '
        "'.', '_' and '-'",
        "3: hots: unknown key, did you mean host?; expected one of version, name, host, repository, mirror, "
        "protect, retention, helper",
        "4: repository.recipients_file: is missing; expected the file of age recipients that can open the "
        "data, one per line",
        "6: repository.recipient_file: unknown key, did you mean recipients_file?; expected one of url, "
        "endpoint, region, addressing, profile, credentials_file, ca_bundle, storage_class, encryption, kms_key, "
        "upload_limit, lock, recipients_file, identity_file, identity_command, passphrase_file, passphrase_command, "
        "meta_key_file, compression",
        "8: repository.meta_key_file: names the same file as identity_file; expected a file of its own",
        "9: repository.region: means nothing for a directory; expected a url such as s3://bucket/prefix",
        "12: protect.volumes[0]: has both name and match; expected either name or match",
        '13: protect.volumes[1].match: found "a[", where a [ is not closed; expected a pattern of volume '
        "names such as 'media_*'",
        '13: protect.volumes[1].trusted_xattrs: found the text "yes"; expected true or false',
        '14: protect.volumes[2].name: the text "data" is listed twice; expected each target once (first on line 12)',
        "15: protect.volumes[2].exclude[0]: found the number 1; expected a pattern in .gitignore syntax such "
        "as '*.tmp' or 'cache/**'",
        '15: protect.volumes[2].exclude[1]: found "#x", which is a comment (write \\# for a name that starts '
        "with #); expected a pattern in .gitignore syntax such as '*.tmp' or 'cache/**'",
        "16: protect.volumes[3]: has no name; expected either name or match",
        '17: protect.volumes[4]: found the text "x"; expected a mapping with the keys name, match, exclude, '
        "trusted_xattrs",
        '19: protect.images[0].ref: found the text "UPPER"; expected an image reference such as postgres:15 '
        "or registry.example.com/shop/api@sha256:...",
        '21: protect.images[2].ref: the text "api:latest" is listed twice; expected each target once '
        "(first on line 20)",
        "22: retention.keep_last: found the number 1.5; expected a whole number, 0 or more",
        '22: retention.keep_within: found the text "2 days"; expected a duration such as 15m, 24h, 7d or 2w',
        "22: retention.min_keep: found the number -1; expected a whole number, 0 or more",
        '23: helper.image: tag "!!python/name:os.system" is not allowed here; expected plain YAML',
    ]


@pytest.mark.parametrize(
    "key", ["schedule", "objectives", "drill", "notify", "limits", "protect.projects", "protect.containers"]
)
def test_keys_of_other_versions_are_unknown(tmp_path: Path, key: str) -> None:
    parent, _, name = key.rpartition(".")
    text = VALID.replace("protect:\n", f"protect:\n  {name}: []\n") if parent else f"{VALID}{name}: {{}}\n"
    line = 8 if parent else 10
    assert problem(text, tmp_path).startswith(f"policy.yaml:{line}: {key}: unknown key")


@pytest.mark.parametrize("key", ["quiesce: stop", "hooks: {}", "dump: {}"])
def test_volume_keys_of_other_versions_are_unknown(tmp_path: Path, key: str) -> None:
    said = problem(f"{VALID}      {key}\n", tmp_path)
    assert said.startswith(f"policy.yaml:10: protect.volumes[0].{key.split(':')[0]}: unknown key")


VALUES = ["5", "1.5", "true", "null", "text", "[]", "{}", "[{}]", "{a: 1}", '""', ".nan", "9" * 50]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(
    "where",
    [
        "version",
        "name",
        "host",
        "repository",
        "repository.url",
        "repository.recipients_file",
        "protect",
        "protect.volumes",
        "protect.images",
        "retention",
        "retention.keep_last",
        "retention.keep_within",
        "helper",
        "helper.image",
    ],
)
def test_wrong_types_everywhere_name_the_key_and_what_was_expected(tmp_path: Path, where: str, value: str) -> None:
    lines = {
        "version": "version: 1",
        "name": "name: shop",
        "host": "host: web",
        "repository": "repository: {url: /a, recipients_file: b, identity_file: c}",
        "protect": "protect: {volumes: [{name: data}], images: [{ref: a}]}",
        "retention": "retention: {keep_last: 1, keep_within: 1d}",
        "helper": "helper: {image: auto}",
    }
    key, _, nested = where.partition(".")
    if nested:
        lines[key], changed = re.subn(rf"\b{nested}: (\[.*?\]|[^,}}]*)", f"{nested}: {value}", lines[key])
        assert changed == 1
    else:
        lines[key] = f"{key}: {value}"
    text = "\n".join(lines.values())
    number = list(lines).index(key) + 1
    try:
        load(text, tmp_path)
    except PolicyError:
        for line in problems(text, tmp_path):
            assert re.match(rf"policy\.yaml:{number}: {re.escape(key)}[^ ]*: .*; (expected|in|str|val)", line), line
            assert "expected" in line
        return
    # Few of these values fit somewhere.
    assert (where, value) in {
        ("name", "text"),
        ("host", "text"),
        ("host", "null"),
        ("helper", "{}"),
        ("repository.url", "text"),
        ("repository.url", "9" * 50),
        ("repository.recipients_file", "text"),
        ("repository.recipients_file", "9" * 50),
        ("name", "9" * 50),
        ("host", "9" * 50),
        ("protect.volumes", "[]"),
        ("protect.images", "[]"),
        ("retention", "null"),
        ("retention.keep_last", "5"),
        ("retention.keep_within", "null"),
        ("helper.image", "text"),
        ("helper.image", "9" * 50),
    }


@pytest.mark.parametrize("key", ["version", "name", "repository", "protect"])
def test_missing_keys(tmp_path: Path, key: str) -> None:
    text = re.sub(rf"(?m)^{key}:.*\n(  .*\n)*", "", VALID)
    assert problem(text, tmp_path).startswith(f"policy.yaml:1: {key}: is missing; expected ")


def test_nothing_to_protect(tmp_path: Path) -> None:
    text = VALID.replace("volumes:\n    - name: shop_data\n", "volumes: []\n")
    assert problem(text, tmp_path) == (
        "policy.yaml:7: protect: protects nothing; expected at least one volume or image"
    )


def test_no_key_to_open_the_repository(tmp_path: Path) -> None:
    text = VALID.replace("  identity_file: /etc/drkit/identity.txt\n", "")
    assert problem(text, tmp_path) == (
        "policy.yaml:3: repository: no key to open the repository with; expected identity_file, or meta_key_file alone"
    )
    assert load(VALID.replace("identity_file", "meta_key_file"), tmp_path).repository.identity_file is None


def test_a_file_and_a_program_for_the_same_key(tmp_path: Path) -> None:
    line = "  identity_file: /etc/drkit/identity.txt\n"
    more = "  identity_command: [pass, a]\n  passphrase_file: p\n  passphrase_command: [pass, b]\n"
    assert problems(VALID.replace(line, line + more), tmp_path) == [
        "policy.yaml:7: repository.identity_command: given as well as identity_file; expected only one of the two "
        "(first on line 6)",
        "policy.yaml:9: repository.passphrase_command: given as well as passphrase_file; expected only one of the two "
        "(first on line 8)",
    ]


@pytest.mark.parametrize("rules", ["{}", "{keep_last: 0}", "{min_keep: 3}", "{keep_last: 0, keep_within: null}"])
def test_a_retention_that_keeps_nothing(tmp_path: Path, rules: str) -> None:
    assert problem(f"{VALID}retention: {rules}\n", tmp_path) == (
        "policy.yaml:10: retention: keeps nothing; expected at least one keep_ rule, or no retention section, "
        "which keeps everything"
    )


def test_the_same_pattern_twice(tmp_path: Path) -> None:
    text = VALID.replace("- name: shop_data", '- match: "a*"\n    - match: "a*"')
    assert problem(text, tmp_path) == (
        'policy.yaml:10: protect.volumes[1].match: the text "a*" is listed twice; expected each target once '
        "(first on line 9)"
    )


# What YAML 1.1 would turn into something else stays text.
@pytest.mark.parametrize("word", ["on", "off", "yes", "no", "y", "2001-01-01", "0x1f", "0b1", "1_000"])
def test_plain_words_stay_text(tmp_path: Path, word: str) -> None:
    assert load(VALID.replace("name: shop\n", f"name: {word}\n") if "_" not in word else VALID, tmp_path).name in (
        word,
        "shop",
    )


def test_unquoted_numbers_are_told_apart(tmp_path: Path) -> None:
    text = VALID.replace("name: shop\n", "name: 12\n")
    assert problem(text, tmp_path).startswith("policy.yaml:2: name: found the number 12; expected a name")


def test_secrets_are_not_repeated(tmp_path: Path) -> None:
    secret = "AGE-SECRET-KEY-1QQQQQQQQ"
    for text in (
        VALID.replace("/etc/drkit/identity.txt", secret),
        VALID.replace("name: shop\n", f"name: {secret}\n"),
        VALID.replace("/var/backups/drkit", f"https://user:{secret}@host/"),
        VALID.replace("/etc/drkit/identity.txt", f"|\n    {secret}\n    more"),
    ):
        assert "QQQQ" not in problem(text, tmp_path)


# YAML itself


def test_duplicate_keys_are_refused_on_every_level(tmp_path: Path) -> None:
    text = VALID.replace("  url:", "  url: /first\n  url:") + "      name: other\nname: again\n"
    assert problems(text, tmp_path) == [
        "policy.yaml:5: repository.url: given twice, first on line 4; expected each key once",
        "policy.yaml:11: protect.volumes[0].name: given twice, first on line 10; expected each key once",
        "policy.yaml:12: name: given twice, first on line 2; expected each key once",
    ]


def test_keys_that_are_no_text(tmp_path: Path) -> None:
    said = problems(f"{VALID}1: a\n? [x]\n: b\n~: c\n", tmp_path)
    assert said == [f"policy.yaml:{line}: a key that is not text; expected a plain word" for line in (10, 11, 13)]


def test_keys_that_hide_control_characters(tmp_path: Path) -> None:
    said = problem(VALID + '"\\e[31mé": 1\n', tmp_path)
    assert said.startswith(r'policy.yaml:10: "\u001b[31m\u00e9": unknown key; expected')


def test_half_a_surrogate_pair(tmp_path: Path) -> None:
    text = VALID.replace("/var/backups/drkit", '"a\\uD800"') + '"\\uD800": 1\n'
    assert problems(text, tmp_path) == [
        "policy.yaml:4: repository.url: half a surrogate pair; expected text that UTF-8 can hold",
        "policy.yaml:10: a key that is not text; expected a plain word",
    ]


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['touch {marker}']",
        "!!python/object/new:os.system ['touch {marker}']",
        "!!python/name:os.system ''",
        "!!python/module:os ''",
        "!<tag:yaml.org,2002:python/object/apply:os.system> ['touch {marker}']",
        "!!binary aGVsbG8=",
        "!!set {{a}}",
        "!!omap [a: 1]",
        "!!timestamp 2001-01-01",
        "!!int text",
        "!!bool maybe",
        "!!str [a]",
        "!custom x",
        "! x",
    ],
)
def test_tags_are_refused_and_nothing_runs(tmp_path: Path, value: str) -> None:
    marker = tmp_path / "marker"
    text = VALID.replace("name: shop\n", f"name: {value.format(marker=marker)}\n")
    if value == "! x":  # which YAML defines as plain text
        assert load(text, tmp_path).name == "x"
        return
    said = problem(text, tmp_path)
    assert re.match(r'policy\.yaml:2: name: tag ".*" is not allowed here; expected plain YAML', said)
    assert not marker.exists()


def test_aliases_may_repeat_a_list(tmp_path: Path) -> None:
    text = VALID + "      exclude: &junk ['*.tmp', '*.bak']\n    - name: other\n      exclude: *junk\n"
    volumes = load(text, tmp_path).protect.volumes
    assert volumes[0].exclude == volumes[1].exclude == ("*.tmp", "*.bak")


def test_an_alias_bomb(tmp_path: Path) -> None:
    """Nine levels of ten would be a billion values."""
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    before = time.monotonic()
    said = problems("\n".join(levels) + "\n" + VALID, tmp_path)
    assert time.monotonic() - before < 5
    assert any("aliases expand to more than 10000 values" in line for line in said)
    assert len(said) < 20


def test_an_alias_inside_itself(tmp_path: Path) -> None:
    said = problems(VALID.replace("  volumes:\n", "  images: &a [*a]\n  volumes:\n"), tmp_path)
    assert said == [
        "policy.yaml:8: protect.images[0]: an alias that contains itself; expected plain YAML",
    ]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[" * 100_000, "deeper than 32 levels"),
        ("{a: " * 100_000, "deeper than 32 levels"),
        ("- " * 100_000, "deeper than 32 levels"),
        ("a:\n- x\n" + "- x\n" * 200_000, "more than 10000 values"),
        ("".join(f"a{n}: 1\n" for n in range(50_000)), "more than 10000 values"),
    ],
    ids=["lists", "mappings", "items", "wide list", "wide mapping"],
)
def test_deep_and_wide_files_end_soon(tmp_path: Path, text: str, what: str) -> None:
    before = time.monotonic()
    assert what in problem(text, tmp_path)
    assert time.monotonic() - before < 10


def test_a_long_number_is_no_number(tmp_path: Path) -> None:
    said = problem(VALID.replace("version: 1", "version: " + "9" * 500_000), tmp_path)
    assert said.startswith("policy.yaml:1: version: found the text")
    assert len(said) < 200


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1,\nb: 2\n", r"policy\.yaml:\d: not valid YAML: while parsing a flow sequence: expected ',' or '\]'"),
        ("version: 1\n\tname: a\n", r"policy\.yaml:2: not valid YAML: found a tab; expected spaces to indent"),
        ("name: *missing\n", r"policy\.yaml:1: not valid YAML: found undefined alias 'missing'"),
        ("a: b: c\n", r"policy\.yaml:1: not valid YAML: mapping values are not allowed here"),
        ('name: "open\n', r"policy\.yaml:2: not valid YAML: while scanning a quoted scalar: found unexpected end"),
        (
            "a: 1\n---\nb: 2\n",
            r"policy\.yaml:2: not valid YAML: expected a single document in the stream: found another",
        ),
        ("a: 1\nb: \x07\n", r"policy\.yaml:2: not valid YAML: character U\+0007 is not allowed"),
        ('a: "\\UFFFFFFFF"\n', r"policy\.yaml:1: not valid YAML: a number is out of range"),
        ("%YAML 2.0\n---\na: 1\n", r"policy\.yaml:1: not valid YAML: .*version"),
        ("%YAML 1." + "9" * 5000 + "\n---\na: 1\n", r"policy\.yaml:1: not valid YAML: a number is out of range"),
        ("name: !<é\n", r"policy\.yaml:1: not valid YAML: .*"),
        ("", r"policy\.yaml:1: found nothing; expected a mapping that starts with version: 1"),
        ("# only a comment\n", r"policy\.yaml:1: found nothing; expected a mapping"),
        ("- a\n", r"policy\.yaml:1: found a list; expected a mapping"),
        ("\n\ntext\n", r"policy\.yaml:3: found the text \"text\"; expected a mapping"),
        ("5\n", r"policy\.yaml:1: found the number 5; expected a mapping"),
        ("!!python/object:os.system {}\n", r"policy\.yaml:1: tag .* is not allowed here"),
    ],
)
def test_what_is_no_policy_at_all(tmp_path: Path, text: str, expected: str) -> None:
    assert re.match(expected, problem(text, tmp_path))


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"version: 1\nname: \xe9\n", b"\x80", VALID.encode("utf-16")])
def test_what_is_not_utf_8(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "policy.yaml"
    file.write_bytes(data)
    with pytest.raises(PolicyError, match=r"policy\.yaml:[12]: byte 0x\w\w is not UTF-8"):
        load_policy(file)


def test_a_binary_file(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_bytes(b"\x00\x01\x02" * 100)
    with pytest.raises(PolicyError, match=r"character U\+0000 is not allowed"):
        load_policy(file)


def test_windows_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + VALID.replace("\n", "\r\n").encode())
    assert load_policy(file).name == "shop"


def test_non_ascii_text_is_welcome_where_it_has_a_meaning(tmp_path: Path) -> None:
    policy = load(VALID.replace("/var/backups/drkit", "/srv/Sicherungen/für-später") + "# ünïcode\n", tmp_path)
    assert policy.repository.url == "/srv/Sicherungen/für-später"


# The file


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"cannot read policy .*/none\.yaml: no such file or directory") as caught:
        load_policy(tmp_path / "none.yaml")
    assert caught.value.hint is not None
    assert "drkit policy example" in caught.value.hint


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(PolicyError, match="not a regular file"):
            load_policy(path)


def test_a_path_that_is_none() -> None:
    with pytest.raises(PolicyError, match="not a path"):
        load_policy("a\0b")
    with pytest.raises(PolicyError, match="file name too long"):
        load_policy("a" * 300)


def test_an_unreadable_file() -> None:
    with tempfile.TemporaryDirectory(prefix="drkit-test-") as directory:
        Path(directory).chmod(0o711)  # other users do not get to the directories of pytest
        file = Path(directory) / "policy.yaml"
        file.write_text(VALID)
        file.chmod(0o600)
        os.seteuid(65534)
        try:
            with pytest.raises(PolicyError, match="permission denied"):
                load_policy(file)
        finally:
            os.seteuid(0)


def test_a_link_to_a_policy(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/p.yaml").write_text(VALID)
    (tmp_path / "link.yaml").symlink_to("real/p.yaml")
    assert load_policy(tmp_path / "link.yaml").name == "shop"


def test_the_limit_of_size(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    padding = "#" * (MAX_BYTES - len(VALID) - 1)
    file.write_text(f"{VALID}{padding}\n")
    assert load_policy(file).name == "shop"
    file.write_text(f"{VALID}{padding}#\n")
    with pytest.raises(PolicyError, match=rf"larger than {MAX_BYTES} bytes"):
        load_policy(file)


def test_a_huge_sparse_file_is_not_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.touch()
    os.truncate(file, 1 << 40)
    with pytest.raises(PolicyError, match="larger than"):
        load_policy(file)


# Finding policies


def test_find_policies(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yaml", "c.yml", ".hidden.yaml", "a.yaml~", "README"):
        (tmp_path / name).touch()
    assert find_policies(tmp_path, {}) == [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    assert find_policies(tmp_path, {"DRKIT_POLICY": "/x.yaml"}) == [Path("/x.yaml")]
    assert find_policies(tmp_path, {"DRKIT_POLICY": ""}) == [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    assert find_policies(tmp_path / "missing", {}) == []
    with pytest.raises(PolicyError, match="not a directory"):
        find_policies(tmp_path / "a.yaml", {})


S3_POLICY = """\
version: 1
name: shop
repository:
  url: {url}
  recipients_file: r
  identity_file: i
{keys}
protect: {{volumes: [{{name: data}}]}}
"""


@pytest.mark.parametrize("word", list(Compression))
def test_how_hard_data_is_compressed(tmp_path: Path, word: str) -> None:
    assert load(VALID, tmp_path).repository.compression == "default"
    text = VALID.replace("protect:", f"  compression: {word}\nprotect:")
    assert load(text, tmp_path).repository.compression == word


@pytest.mark.parametrize("word", ["zstd", "3", "FAST", "[fast]", "null", "true"])
def test_what_is_no_word_for_compression(tmp_path: Path, word: str) -> None:
    text = VALID.replace("protect:", f"  compression: {word}\nprotect:")
    assert "repository.compression: " in problems(text, tmp_path)[0]


def test_every_key_of_s3(tmp_path: Path) -> None:
    lines = """\
        addressing: virtual
        profile: backup
        credentials_file: s3.ini
        ca_bundle: /etc/ca.pem
        storage_class: STANDARD_IA
        encryption: kms
        kms_key: arn:aws:kms:eu-central-1:123456789012:key/6e1a
        upload_limit: 1500KB
        lock: {mode: compliance, period: 30d}"""
    keys = textwrap.indent(textwrap.dedent(lines), "  ")
    repository = load(S3_POLICY.format(url="s3://bucket", keys=keys), tmp_path).repository
    assert repository.addressing == "virtual"
    assert repository.profile == "backup"
    assert repository.credentials_file == tmp_path / "s3.ini"
    assert repository.ca_bundle == Path("/etc/ca.pem")
    assert repository.storage_class == "STANDARD_IA"
    assert (repository.encryption, repository.kms_key) == ("kms", "arn:aws:kms:eu-central-1:123456789012:key/6e1a")
    assert repository.upload_limit == 1_500_000
    assert repository.lock is not None
    assert (repository.lock.mode, repository.lock.period) == ("compliance", timedelta(days=30))


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("addressing: host", 'addressing: found the text "host"; expected one of auto, path, virtual'),
        ("encryption: aes", 'encryption: found the text "aes"; expected one of sse-s3, kms'),
        ("encryption: on", 'encryption: found the text "on"; expected one of sse-s3, kms'),
        ("kms_key: alias/x", "kms_key: means nothing without encryption: kms; expected both or neither"),
        ("upload_limit: 5", "upload_limit: found the number 5; expected a size such as 500MB, 20MiB or 4G"),
        (
            "upload_limit: 0MB",
            'upload_limit: found the text "0MB"; expected a size such as 500MB, 20MiB or 4G, more than nothing',
        ),
        ("storage_class: ia", 'found the text "ia"; expected an S3 storage class such as STANDARD_IA'),
        (
            "storage_class: DEEP_ARCHIVE",
            'the text "DEEP_ARCHIVE" is an archive class, which cannot be read immediately',
        ),
        ("lock: 30d", 'lock: found the text "30d"; expected a mapping with the keys mode, period'),
        (
            "lock: {mode: governance}",
            "lock.period: is missing; expected how long an object stays locked after it is written",
        ),
        ("lock: {mode: legal, period: 1d}", 'mode: found the text "legal"; expected one of governance, compliance'),
        ("lock: {mode: governance, period: 0d}", "lock.period: found"),
        ("profile: a b", 'found the text "a b"; expected the name of a profile in an AWS credentials file'),
        ("access_key: x", "repository.access_key: unknown key"),
    ],
)
def test_what_is_wrong_with_a_key_of_s3(tmp_path: Path, key: str, what: str) -> None:
    [found] = problems(S3_POLICY.format(url="s3://bucket/prefix", keys=f"  {key}"), tmp_path)
    assert found.startswith("policy.yaml:7: repository.")
    assert what in found


@pytest.mark.parametrize(
    "key",
    [
        "addressing: path",
        "profile: x",
        "credentials_file: x",
        "ca_bundle: x",
        "storage_class: X",
        "upload_limit: 1MB",
        "lock: {mode: governance, period: 1d}",
    ],
)
def test_keys_of_s3_mean_nothing_for_a_directory(tmp_path: Path, key: str) -> None:
    found = problem(S3_POLICY.format(url="/srv/backups", keys=f"  {key}"), tmp_path)
    assert "means nothing for a directory; expected a url such as s3://bucket/prefix" in found


def test_a_mirror_takes_the_keys_of_a_place_and_no_keys_of_its_own(tmp_path: Path) -> None:
    text = """
        version: 1
        name: shop
        repository: {url: /var/backups/drkit, recipients_file: r, identity_file: i}
        mirror:
          url: s3://backups/shop
          endpoint: https://s3.example.com
          upload_limit: 20MiB
        protect: {volumes: [{name: data}]}
        """
    mirror = load(textwrap.dedent(text), tmp_path).mirror
    assert mirror is not None
    assert (mirror.url, mirror.endpoint, mirror.upload_limit) == (
        "s3://backups/shop",
        "https://s3.example.com",
        20 << 20,
    )
    for url, key, found in (
        ("s3://backups/shop", "identity_file: x", "8: mirror.identity_file: unknown key"),
        ("/other", "kms_key: alias/x", "8: mirror.kms_key: means nothing"),
        ("/var/backups/drkit/", "addressing: auto", "is the repository itself; expected another place"),
    ):
        changed = text.replace("upload_limit: 20MiB", key).replace("s3://backups/shop", url)
        assert any(found in line for line in problems(changed, tmp_path)), problems(changed, tmp_path)


def test_a_mirror_may_have_the_bucket_name_of_the_repository_at_another_provider(tmp_path: Path) -> None:
    text = """\
        version: 1
        name: shop
        repository: {url: s3://backups/shop, endpoint: https://one.example.com, recipients_file: r, identity_file: i}
        mirror: {url: s3://backups/shop, endpoint: https://two.example.com}
        protect: {volumes: [{name: data}]}
        """
    assert load(textwrap.dedent(text), tmp_path).mirror is not None
    same = textwrap.dedent(text).replace("two.example", "one.example")
    assert any("is the repository itself" in line for line in problems(same, tmp_path))


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("[z-a]", "cannot be read: bad character range z-a"),
        ("!logs/[9-0].txt", "cannot be read: bad character range 9-0"),
        ("cache/[é-à]/", "cannot be read: bad character range \\xe9-\\xe0"),
        ("a[", "a [ is not closed"),
        ("[]", "a [ is not closed"),
        ("a\\", "ends in the middle of an escape"),
        ("!", ""),
        ("/", ""),
    ],
)
def test_what_is_not_a_pattern_is_named_with_its_line(pattern: str, why: str, tmp_path: Path) -> None:
    said = problem(f"{VALID}      exclude: ['*.tmp', {json.dumps(pattern)}]\n", tmp_path)
    assert said.startswith("policy.yaml:10: protect.volumes[0].exclude[1]: found ")
    assert said.endswith("; expected a pattern in .gitignore syntax such as '*.tmp' or 'cache/**'")
    assert why in said


def test_a_pattern_that_a_later_python_may_read_otherwise_is_no_noise(capfd: pytest.CaptureFixture[str]) -> None:
    assert parse_policy(f"{VALID}      exclude: ['[[a]*', 'x[a||b]']\n", Path("policy.yaml"))
    assert capfd.readouterr().err == ""
