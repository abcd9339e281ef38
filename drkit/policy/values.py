"""The values that a policy is made of: each checks one scalar and says what it expected. No I/O, no pydantic."""

from __future__ import annotations

import re
import zoneinfo
from datetime import timedelta
from pathlib import Path

from drkit.policy import durations, sizes
from drkit.policy.problem import is_secret, quote


class Unexpected(ValueError):
    """A value that does not fit. `found` says what is wrong with it where the value alone does not show it."""

    def __init__(self, expected: str, found: str | None = None) -> None:
        super().__init__(expected)
        self.expected = expected
        self.found = found


NAME = r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?"
HOST = r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?"
VOLUME_NAME = r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,254}"
VOLUME_GLOB = r"[a-zA-Z0-9_.*?\[\]!-]{1,255}"
STORAGE_CLASS = r"[A-Z][A-Z0-9_]{0,62}"
PROFILE = r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}"
KMS_KEY = r"[A-Za-z0-9][A-Za-z0-9:/_.-]{0,511}"
ADDRESSING = ("auto", "path", "virtual")
ENCRYPTION = ("sse-s3", "kms")
LOCK_MODES = ("governance", "compliance")
TIMEZONE = r"[A-Za-z][A-Za-z0-9_+/-]{0,63}"
REGION = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"

# The grammar of the Docker distribution project, without its limits of length.
_DOMAIN = (
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[0-9a-fA-F:]+\])"
)
_COMPONENT = r"[a-z0-9]+(?:(?:[.]|_|__|-+)[a-z0-9]+)*"
IMAGE_REF = (
    rf"(?:{_DOMAIN}(?::[0-9]{{1,5}})?/)?{_COMPONENT}(?:/{_COMPONENT})*"
    r"(?::[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
_TAG_OR_DIGEST = re.compile(r":[^/@]*$|@")

_LONGEST = 1024  # of what is matched against a pattern: longer than any of them allows


def _matching(value: object, pattern: str, expected: str) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST or not re.fullmatch(pattern, value, re.ASCII):
        raise Unexpected(expected)
    return value


def version(value: object) -> int:
    if type(value) is not int or value != 1:  # True equals 1
        raise Unexpected("the number 1")
    return value


def name(value: object) -> str:
    return _matching(value, NAME, "a name of at most 63 lower-case letters, digits, '.', '_' and '-'")


def timezone(value: object) -> str:
    expected = "the name of a time zone such as UTC or Europe/Berlin"
    zone = _matching(value, TIMEZONE, expected)
    try:
        zoneinfo.ZoneInfo(zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise Unexpected(f"{expected} that this host knows") from None
    return zone


def host(value: object) -> str:
    return _matching(value, HOST, "a host name of letters, digits, '.', '_' and '-'")


def volume_name(value: object) -> str:
    expected = "the name of a Docker volume: two or more letters, digits, '_', '.' and '-', the first a letter or digit"
    if isinstance(value, str) and re.search(r"[*?\[]", value):
        raise Unexpected(f"{expected} (write a pattern as 'match')")
    return _matching(value, VOLUME_NAME, expected)


def volume_glob(value: object) -> str:
    glob = _matching(value, VOLUME_GLOB, "a pattern of volume names such as 'media_*', with *, ? and [...]")
    if re.search(r"\[(?!(?:!.|[^!])[^\]]*\])", glob):
        raise Unexpected("a pattern of volume names such as 'media_*'", f"{quote(glob)}, where a [ is not closed")
    return glob


def image_ref(value: object) -> str:
    expected = "an image reference such as postgres:15 or registry.example.com/shop/api@sha256:..."
    return _matching(value, IMAGE_REF, expected)


def with_default_tag(ref: str) -> str:
    """The reference that the engine makes of it, to tell whether two are the same."""
    return ref if _TAG_OR_DIGEST.search(ref) else f"{ref}:latest"


def helper_image(value: object) -> str:
    if value == "auto":
        return "auto"
    try:
        return image_ref(value)
    except Unexpected:
        raise Unexpected("auto, or the reference of an image with BusyBox tar such as alpine:3.20") from None


def exclude(value: object) -> str:
    """One gitignore pattern. What would silently exclude nothing is refused."""
    expected = "a pattern in .gitignore syntax such as '*.tmp' or 'cache/**'"
    if not isinstance(value, str) or not value.strip() or re.search(r"[\0\r\n]", value):
        raise Unexpected(expected)
    if value.startswith("#"):
        raise Unexpected(expected, f"{quote(value)}, which is a comment (write \\# for a name that starts with #)")
    if re.fullmatch(r"!?/*\s*", value):
        raise Unexpected(expected)
    if re.search(r"(?<!\\)(\\\\)*\\$", value):
        raise Unexpected(expected, f"{quote(value)}, which ends in the middle of an escape")
    return value


def count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise Unexpected("a whole number, 0 or more")
    return value


def duration(value: object) -> timedelta:
    try:
        return durations.parse_duration(value if isinstance(value, str) else "")
    except ValueError:
        raise Unexpected(durations.EXPECTED) from None


def file_path(value: object, base: Path) -> Path:
    return _path(value, base, "the path of a file")


def _path(value: object, base: Path, expected: str) -> Path:
    if isinstance(value, str) and is_secret(value):
        raise Unexpected(expected, "a secret key itself")
    if not isinstance(value, str) or not value or re.search(r"[\0\r\n]", value):
        raise Unexpected(expected)
    if value.startswith("~"):
        raise Unexpected(f"{expected}, written in full", f"{quote(value)}, where no shell expands the ~")
    return base / value


def command(value: object) -> tuple[str, ...]:
    """A program, by its absolute path or found in PATH, and its arguments; no shell reads it."""
    expected = "a list of a program and its arguments such as [pass, show, backup-key]"
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(word, str) and "\0" not in word for word in value)
    ):
        raise Unexpected(expected)
    if any(is_secret(word) for word in value):
        raise Unexpected(expected, "a secret key among the arguments, where every user could see it")
    if not value[0].strip():
        raise Unexpected(expected)
    return tuple(value)


def repository_url(value: object, base: Path) -> str:
    """A directory becomes an absolute path; URLs stay as they are."""
    expected = "a directory such as /var/backups/drkit, or s3://bucket/prefix"
    if not isinstance(value, str) or "://" not in value:
        if isinstance(value, str) and ":" in value.split("/")[0]:  # sftp:user@host:/path, as other tools write
            raise Unexpected(expected)
        return str(_path(value, base, expected))
    _without_password(value, expected)
    return _matching(value, r"(file://(localhost)?/|s3://[a-z0-9])[^\s\0?#]*", expected)


def endpoint(value: object) -> str:
    expected = "the address of an S3-compatible server such as https://s3.example.com:9000"
    if not isinstance(value, str):
        raise Unexpected(expected)
    _without_password(value, expected)
    return _matching(value, r"https?://[A-Za-z0-9.\[\]:-]+/?", expected)


def region(value: object) -> str:
    return _matching(value, REGION, "an S3 region such as eu-central-1")


def addressing(value: object) -> str:
    return _one_of(value, ADDRESSING)


def encryption(value: object) -> str:
    return _one_of(value, ENCRYPTION)


def lock_mode(value: object) -> str:
    return _one_of(value, LOCK_MODES)


def _one_of(value: object, choices: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise Unexpected(f"one of {', '.join(choices)}")
    return value


def storage_class(value: object) -> str:
    return _matching(value, STORAGE_CLASS, "an S3 storage class such as STANDARD_IA")


def profile(value: object) -> str:
    return _matching(value, PROFILE, "the name of a profile in an AWS credentials file")


def kms_key(value: object) -> str:
    return _matching(value, KMS_KEY, "the id, alias or ARN of a KMS key")


def size(value: object) -> int:
    try:
        count = sizes.parse_size(value if isinstance(value, str) else "")
    except ValueError:
        raise Unexpected(sizes.EXPECTED) from None
    if not count:
        raise Unexpected(f"{sizes.EXPECTED}, more than nothing")
    return count


def _without_password(url: str, expected: str) -> None:
    if re.search(r"://[^/]*@", url):
        raise Unexpected(f"{expected} (credentials come from files or the environment)", "a URL with a user name in it")
