"""Each scalar of a policy: what is taken and what is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from drkit.policy import values
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


TAKEN: list[tuple[Callable[[object], object], Sequence[object]]] = [
    (values.name, ["a", "shop", "a-b.c_d", "0", "a" * 63]),
    (values.host, ["web-1", "Web.Example.COM", "9"]),
    (values.volume_name, ["ab", "shop_postgres-data", "A.b", "0123", "a" * 255, "f" * 64]),
    (values.volume_glob, ["*", "media_*", "?b", "[ab]*", "[!a]x", "a-[0-9]", "[]]x", "[!]]", "a[b-c][d]", "plain"]),
    (
        values.image_ref,
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
    (values.helper_image, ["auto", "alpine:3.20", f"alpine@{DIGEST}"]),
    (values.exclude, ["*.tmp", "cache/**", "/cache/", "!kept", "\\#odd", "a b", "Grüße"]),
    (values.exclude, ["a\\\\", "a\\ ", "**"]),
    (values.region, ["eu-central-1", "us-east-1", "auto"]),
    (values.endpoint, ["http://127.0.0.1:9000", "https://s3.example.com", "https://s3.example.com/", "http://[::1]:9"]),
    (values.addressing, ["auto", "path", "virtual"]),
    (values.encryption, ["sse-s3", "kms"]),
    (values.storage_class, ["STANDARD", "STANDARD_IA", "ONEZONE_IA"]),
    (values.profile, ["default", "backup-1", "a.b@c"]),
    (values.kms_key, ["alias/backups", "arn:aws:kms:eu-central-1:1:key/a-b"]),
    (values.count, [0, 1, 10**9]),
]

REFUSED: list[tuple[Callable[[object], object], Sequence[object]]] = [
    (values.name, ["", "A", "-a", "a-", "a b", "a/b", "a\n", "é", "a" * 64, "..", None, 1, True, [], {}]),
    (values.host, ["", "-a", "a_", "a b", "a/b", "a\n", None, 1]),
    (
        values.volume_name,
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
    (values.volume_glob, ["", "a b", "a/b", "[", "a[b", "[!", "[]", "[!]", "a[]", "a\n", "{a,b}", "é*", None, 1]),
    (
        values.image_ref,
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
    (values.helper_image, ["", "Auto", "AUTO", "a b", None, True]),
    (values.exclude, ["", " ", "#x", "!", "/", "!/", "//", "a\\", "a\\\\\\", "a\nb", "a\0", None, 1, []]),
    (values.region, ["", "EU", "a b", "-a", None]),
    (values.endpoint, ["", "s3.example.com", "ftp://a", "https://", "https://a/b", "https://a?b", "https://a\n", None]),
    (values.addressing, ["", "Path", None, True, []]),
    (values.encryption, ["", "AES256", None, True]),
    (values.storage_class, ["", "standard", "A B", None]),
    (values.profile, ["", "-a", "a\nb", None]),
    (values.kms_key, ["", " a", "a b", "a\n", None]),
    (values.size, ["", "0MB", "0", "M", "1.5MB", "-1MB", "1 MB", "1mB", "1Mi", "1234567890123", 5, None, True]),
    (values.count, [-1, True, False, 1.0, "1", None, []]),
    (values.duration, ["48", 48, None, "0h"]),
]


@pytest.mark.parametrize(("check", "value"), [(check, value) for check, many in TAKEN for value in many])
def test_taken(check: Callable[[object], object], value: object) -> None:
    assert check(value) == value


@pytest.mark.parametrize(("check", "value"), [(check, value) for check, many in REFUSED for value in many])
def test_refused(check: Callable[[object], object], value: object) -> None:
    with pytest.raises(Unexpected) as caught:
        check(value)
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
    assert values.repository_url(value, BASE) == expected


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
        values.repository_url(value, BASE)


@pytest.mark.parametrize(
    "url", ["https://key:SECRET@host/bucket", "s3://key:SECRET@bucket", "rest:http://u:SECRET@host/", "http://SECRET@h"]
)
def test_credentials_in_a_url_are_not_repeated(url: str) -> None:
    for check in (lambda value: values.repository_url(value, BASE), values.endpoint):
        with pytest.raises(Unexpected) as caught:
            check(url)
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
    assert values.with_default_tag(ref) == expected


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
    assert values.size(text) == count
