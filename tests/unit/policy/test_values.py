"""Each scalar of a policy: what is taken and what is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import pytest

from drkit.policy import helper, place, protect, s3, schema, values
from drkit.policy.durations import parse_duration
from drkit.policy.problem import describe, key_path
from drkit.policy.values import Unexpected

BASE = Path("/etc/drkit/policies")
DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1s", timedelta(seconds=1)),
        ("15m", timedelta(minutes=15)),
        ("24h", timedelta(days=1)),
        ("7d", timedelta(days=7)),
        ("2w", timedelta(days=14)),
        ("999999w", timedelta(weeks=999999)),
    ],
)
def test_durations(text: str, expected: timedelta) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    "text", ["", "h", "24", "0h", "-1h", "1.5h", "1 h", "1H", "1M", "1y", "1h30m", "24h\n", "٣h", "1000000w", "PT1H"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="a duration such as"):
        parse_duration(text)


def check(declared: Any, value: object) -> object:
    """What a declared type makes of a value."""
    _, rule = get_args(declared)
    return rule.check(value)


TAKEN: list[tuple[Any, Sequence[object]]] = [
    (schema.Name, ["a", "shop", "a-b.c_d", "0", "a" * 63]),
    (schema.Host, ["web-1", "Web.Example.COM", "9"]),
    (protect.VolumeName, ["ab", "shop_postgres-data", "A.b", "0123", "a" * 255, "f" * 64]),
    (protect.VolumeGlob, ["*", "media_*", "?b", "[ab]*", "[!a]x", "a-[0-9]", "[]]x", "[!]]", "a[b-c][d]", "plain"]),
    (
        values.ImageRef,
        [
            "postgres",
            "postgres:15",
            "shop/api:1.4",
            "library/a__b.c-d--e",
            "localhost:5000/a",
            "registry.example.com/a/b/c:T_a.g-1",
            "Registry.Example.com/a",
            "[::1]:5000/a",
            f"postgres@{DIGEST}",
            f"host/postgres:15@{DIGEST}",
        ],
    ),
    (helper.HelperImage, ["auto", "alpine:3.20", f"alpine@{DIGEST}"]),
    (protect.Exclude, ["*.tmp", "cache/**", "/cache/", "!kept", "\\#odd", "a b", "Grüße"]),
    (protect.Exclude, ["a\\\\", "a\\ ", "**"]),
    (s3.Region, ["eu-central-1", "us-east-1", "auto"]),
    (s3.Endpoint, ["http://127.0.0.1:9000", "https://s3.example.com", "https://s3.example.com/", "http://[::1]:9"]),
    (s3.Addressing, ["auto", "path", "virtual"]),
    (s3.Encryption, ["sse-s3", "kms"]),
    (s3.StorageClass, ["STANDARD", "STANDARD_IA", "ONEZONE_IA"]),
    (s3.Profile, ["default", "backup-1", "a.b@c"]),
    (s3.KmsKey, ["alias/backups", "arn:aws:kms:eu-central-1:1:key/a-b"]),
    (values.Count, [0, 1, 10**9]),
]

REFUSED: list[tuple[Any, Sequence[object]]] = [
    (schema.Name, ["", "A", "-a", "a-", "a b", "a/b", "a\n", "é", "a" * 64, "..", None, 1, True, [], {}]),
    (schema.Host, ["", "-a", "a_", "a b", "a/b", "a\n", None, 1]),
    (
        protect.VolumeName,
        [
            "",
            "a",
            "-a",
            "_a",
            ".a",
            "a b",
            "a/b",
            "/etc",
            "a;b",
            "$(id)",
            "a\n",
            "a\0b",
            "é1",
            "a" * 256,
            "a*",
            None,
            12,
        ],
    ),
    (protect.VolumeGlob, ["", "a b", "a/b", "[", "a[b", "[!", "[]", "[!]", "a[]", "a\n", "{a,b}", "é*", None, 1]),
    (
        values.ImageRef,
        [
            "",
            "UPPER",
            "-a",
            "a b",
            "a:",
            "a::b",
            "a/",
            "/a",
            "a//b",
            "a@sha256:12",
            "a@md5:" + "0" * 64,
            "a:-tag",
            "a:" + "t" * 129,
            "a\n",
            "--privileged",
            "https://host/a",
            "a" * 2000,
            None,
            1.4,
        ],
    ),
    (helper.HelperImage, ["", "Auto", "AUTO", "a b", None, True]),
    (protect.Exclude, ["", " ", "#x", "!", "/", "!/", "//", "a\\", "a\\\\\\", "a\nb", "a\0", None, 1, []]),
    (s3.Region, ["", "EU", "a b", "-a", None]),
    (s3.Endpoint, ["", "s3.example.com", "ftp://a", "https://", "https://a/b", "https://a?b", "https://a\n", None]),
    (s3.Addressing, ["", "Path", None, True, []]),
    (s3.Encryption, ["", "AES256", None, True]),
    (s3.StorageClass, ["", "standard", "A B", None]),
    (s3.Profile, ["", "-a", "a\nb", None]),
    (s3.KmsKey, ["", " a", "a b", "a\n", None]),
    (values.Size, ["", "0MB", "0", "M", "1.5MB", "-1MB", "1 MB", "1mB", "1Mi", "1234567890123", 5, None, True]),
    (values.Count, [-1, True, False, 1.0, "1", None, []]),
    (values.Duration, ["48", 48, None, "0h"]),
]


@pytest.mark.parametrize(("declared", "value"), [(declared, value) for declared, many in TAKEN for value in many])
def test_taken(declared: Any, value: object) -> None:
    assert check(declared, value) == value


@pytest.mark.parametrize(("declared", "value"), [(declared, value) for declared, many in REFUSED for value in many])
def test_refused(declared: Any, value: object) -> None:
    with pytest.raises(Unexpected) as caught:
        check(declared, value)
    assert caught.value.expected
    assert (caught.value.found or "").isprintable()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/var/backups", "/var/backups"),
        ("backups", "/etc/drkit/policies/backups"),
        ("./a:b", "/etc/drkit/policies/a:b"),
        ("file:///var/backups", "file:///var/backups"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
    ],
)
def test_repository_urls(value: str, expected: str) -> None:
    assert place.repository_url(value, BASE) == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        "~/backups",
        "sftp://host/a",
        "sftp:user@host:/a",
        "file://host/a",
        "s3://",
        "s3://b c",
        "a\n",
        "a\0",
        None,
        1,
    ],
)
def test_what_is_no_repository_url(value: object) -> None:
    with pytest.raises(Unexpected):
        place.repository_url(value, BASE)


@pytest.mark.parametrize(
    "url", ["https://key:SECRET@host/bucket", "s3://key:SECRET@bucket", "rest:http://u:SECRET@host/", "http://SECRET@h"]
)
def test_credentials_in_a_url_are_not_repeated(url: str) -> None:
    refusals: list[Callable[[], object]] = [lambda: place.repository_url(url, BASE), lambda: check(s3.Endpoint, url)]
    for refuse in refusals:
        with pytest.raises(Unexpected) as caught:
            refuse()
        assert caught.value.found == "a URL with a user name in it"


@pytest.mark.parametrize(
    ("value", "expected"), [("/etc/key", "/etc/key"), ("key", "/etc/drkit/policies/key"), ("../key", f"{BASE}/../key")]
)
def test_file_paths(value: str, expected: str) -> None:
    assert values.file_path(value, BASE) == Path(expected)


@pytest.mark.parametrize(
    "value", ["", "~/key", "a\nb", "a\0b", None, 1, [], "AGE-SECRET-KEY-1QQ", "age-secret-key-1qq"]
)
def test_what_is_no_file_path(value: object) -> None:
    with pytest.raises(Unexpected) as caught:
        values.file_path(value, BASE)
    assert "1QQ" not in str(caught.value.found).upper()


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        ("a", "a:latest"),
        ("a:1", "a:1"),
        ("host:5000/a", "host:5000/a:latest"),
        ("host:5000/a:1", "host:5000/a:1"),
        (f"a@{DIGEST}", f"a@{DIGEST}"),
    ],
)
def test_default_tag(ref: str, expected: str) -> None:
    assert protect.with_default_tag(ref) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "nothing"),
        (True, "true"),
        (7, "the number 7"),
        (1.5, "the number 1.5"),
        ("a\n\x1b[31mé", r'the text "a\n\u001b[31m\u00e9"'),
        ("x" * 100, f'the text "{"x" * 57}..."'),
        ("AGE-SECRET-KEY-1QQ", "a secret key"),
        ([], "a list"),
        ({}, "a mapping"),
    ],
)
def test_describe(value: object, expected: str) -> None:
    assert describe(value) == expected


def test_key_path() -> None:
    assert key_path(("protect", "volumes", 0, "name")) == "protect.volumes[0].name"
    assert key_path(("a b", "\x1b")) == r'"a b"."\u001b"'
    assert key_path(("",)) == '""'
    assert key_path(()) == ""


@pytest.mark.parametrize(
    ("text", "count"), [("1kB", 1000), ("1KB", 1000), ("1KiB", 1024), ("20MiB", 20 << 20), ("999999GB", 999999 * 10**9)]
)
def test_sizes(text: str, count: int) -> None:
    assert check(values.Size, text) == count
