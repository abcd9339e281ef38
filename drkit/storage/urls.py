"""What the URL of a storage names. Nothing is opened, and no request is sent."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from drkit.errors import UsageError
from drkit.literal import not_literal
from drkit.storage.s3.settings import S3Settings, parse_s3_url

_HINT = "Give the path of a directory, or a URL like s3://bucket/prefix."
_LITERAL_HINT = "Write it in full. A name that really has such characters is percent-encoded: file:///srv/%24data."
_FILE_HINT = "Write it like file:///var/backups/drkit."

_DEFAULT_PORTS = {"http": 80, "https": 443}
_LOOPBACK = {"127.0.0.1", "::1"}
# Not every host below amazonaws.com is AWS's own S3: virtual machines and load balancers have names there too.
_AWS_HOST = re.compile(
    r"(?:[^.]+\.)*s3(?:-[a-z0-9-]+)?(?:\.dualstack)?(?:\.[a-z]+(?:-[a-z]+)+-\d+)?(?:\.vpce)?\.amazonaws\.com(?:\.cn)?"
)
_AWS_PARTITION = re.compile(r"\b(cn|us-gov)-[a-z]+-\d")


def is_s3(url: str) -> bool:
    return url.startswith("s3://")


def check_url(url: str) -> None:
    """Raise UsageError for what is not the URL of a storage."""
    if is_s3(url):
        parse_s3_url(url)
    else:
        local_path(url)


def local_path(url: str) -> Path:
    """Return the absolute path that a storage URL names. Raises UsageError for what is not a local directory."""
    if not url or "\0" in url:
        raise UsageError(f"{url!a} is not a repository URL", hint=_HINT)
    if (why := not_literal(url)) is not None:
        raise UsageError(f"{url!a} cannot be meant as the place of a repository: {why}", hint=_LITERAL_HINT)
    if "://" not in url:
        scheme, colon, _ = url.split("/")[0].partition(":")
        if colon:  # sftp:user@host:/path, as other tools write
            raise UsageError(f"unknown repository scheme {scheme!a}", hint=_HINT)
        return Path(url).absolute()
    try:
        parts = urlsplit(url)
    except ValueError:
        raise UsageError(f"{url!a} is not a repository URL", hint=_HINT) from None
    if parts.scheme != "file":
        raise UsageError(f"unknown repository scheme {parts.scheme!a}", hint=_HINT)
    if parts.netloc not in ("", "localhost") or not parts.path or parts.query or parts.fragment:
        raise UsageError("a file URL needs an absolute path and nothing else", hint=_FILE_HINT)
    path = unquote(parts.path)
    if "\0" in path:
        raise UsageError("a file URL cannot hold a NUL byte", hint=_FILE_HINT)
    return Path(path)


def named_endpoint(settings: S3Settings, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the endpoint that the settings name, or else the AWS variables of the environment. None: AWS itself."""
    return settings.endpoint or environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or None


def place(url: str, settings: S3Settings | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """Return where a storage is, the same text for every way to name the place: to be compared, not to be opened.

    A directory is its real path, through symbolic links as they are now. A prefix of a bucket counts together with the
    server that keeps it, so that equal bucket names at two providers are two places. At AWS neither region nor endpoint
    matters, since a bucket name exists only once in a partition. An endpoint in a profile of ~/.aws is not seen.

    Raises UsageError for what is not the URL of a storage or of an endpoint.
    """
    if not is_s3(url):
        return os.path.realpath(local_path(url))
    settings = settings or S3Settings()
    bucket, prefix = parse_s3_url(url)
    server = _server(named_endpoint(settings, environ), settings.region or "")
    return f"{server}/{bucket}/{prefix}".rstrip("/")


def _server(endpoint: str | None, region: str) -> str:
    if endpoint is None:
        return _aws(region)
    try:
        parts = urlsplit(endpoint)
        host = (parts.hostname or "").rstrip(".")  # in lower case
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
    except (ValueError, KeyError):
        host, port = "", 0
    if not host:
        raise UsageError("the S3 endpoint is not a URL", hint="Write it like https://s3.example.com:9000.")
    if _AWS_HOST.fullmatch(host):
        return _aws(host)
    if host in _LOOPBACK:
        host = "localhost"
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}{parts.path.rstrip('/')}"


def _aws(where: str) -> str:
    """AWS by its partition, which a region or host tells: China, GovCloud, or the rest of the world."""
    partition = _AWS_PARTITION.search(where)
    return f"aws-{partition[1]}:" if partition else "aws:"
