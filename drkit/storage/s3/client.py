"""Requests to a bucket, each sent once, and what their failures mean. The only importer of boto3.

Neither boto3 nor this module retries: only the callers know whether a request may be sent again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import boto3.session
import botocore.exceptions as failures
import botocore.session
from botocore.config import Config
from botocore.httpsession import URLLib3SSLError
from botocore.parsers import ResponseParserError
from botocore.response import URLLib3ProtocolError, URLLib3ReadTimeoutError

from drkit.errors import AccessDenied, StorageUnavailable, UsageError
from drkit.storage.retry import Deadline, RetryPolicy, TransientError
from drkit.storage.s3.answers import CREDENTIALS_HINT, explain
from drkit.storage.s3.listing import take_entries
from drkit.storage.s3.settings import S3Settings
from drkit.storage.s3.throttle import ThrottledBody
from drkit.storage.urls import named_endpoint

_READ = 1 << 18
_MAX_PAGE = 16 * 1024 * 1024
"""Bytes of the largest answer but an object: a page of a listing, whose thousand keys take three megabytes at most."""

_CREDENTIALS = (
    failures.NoCredentialsError,
    failures.PartialCredentialsError,
    failures.CredentialRetrievalError,
    failures.TokenRetrievalError,
    failures.ProfileNotFound,
    failures.ConfigParseError,
    failures.ConfigNotFound,
    failures.SSOError,
    failures.InvalidConfigError,
)
_BROKEN = (
    failures.ConnectionError,
    failures.HTTPClientError,
    failures.IncompleteReadError,
    ResponseParserError,
    URLLib3ProtocolError,
    URLLib3ReadTimeoutError,
    URLLib3SSLError,
)
_REASONS = {
    failures.ConnectTimeoutError: "does not accept connections",
    failures.EndpointConnectionError: "cannot be reached",
    failures.ReadTimeoutError: "does not answer",
}


class BucketClient:
    """Sends requests about the objects below one prefix of a bucket, from any thread."""

    def __init__(self, boto: Any, bucket: str, prefix: str, settings: S3Settings, policy: RetryPolicy) -> None:
        self.boto = boto
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self.endpoint = str(boto.meta.endpoint_url)
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._settings = settings
        self._policy = policy

    def send(self, operation: str, action: str, key: str, **parameters: Any) -> Any:
        """Send one request, once, about an object, or about the bucket where `key` is empty.

        Raises TransientError for a failure that may pass, any other failure as the error to report.
        """
        if key:
            parameters["Key"] = self._prefix + key
        where = f"{self.url}/{key}" if key else self.url
        try:
            return getattr(self.boto, operation)(Bucket=self._bucket, **parameters)
        except failures.ClientError as error:
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            code = str(error.response.get("Error", {}).get("Code", ""))
            raise explain(status, code, action, key, self.url, self._settings) from error
        except _CREDENTIALS as error:
            reason = type(error).__name__
            raise AccessDenied(
                f"cannot {action} {where}: no usable credentials ({reason})", hint=CREDENTIALS_HINT
            ) from None
        except failures.SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" not in str(error):
                raise self.broken(action, key, "the TLS connection broke") from error
            raise StorageUnavailable(
                f"cannot {action} {where}: the certificate of {self.endpoint} does not verify",
                hint="Set repository.ca_bundle, or DRKIT_CA_BUNDLE, to the authority that signed it.",
            ) from None
        except _BROKEN as error:
            reason = next((text for kind, text in _REASONS.items() if isinstance(error, kind)), "drops the connection")
            broken = self.broken(action, key, f"{self.endpoint} {reason}")
            broken.refused = _is_refusal(error)
            raise broken from error
        except failures.BotoCoreError as error:
            raise StorageUnavailable(
                f"cannot {action} {where}: {type(error).__name__}",
                hint="Check the repository's settings in the policy.",
            ) from error

    def pieces(self, key: str, body: Any, size: int) -> Iterator[bytes]:
        """Yield exactly `size` bytes of an answer as they come. Raises TransientError if they do not come in time."""
        read = getattr(body._raw_stream, "read1", body._raw_stream.read)
        deadline = Deadline(self._policy, size)
        left = size
        try:
            while left:
                piece = read(min(left, _READ))
                if not piece:
                    raise self.broken("read", key, f"the answer ended {left} bytes early")
                if deadline.passed:
                    raise self.broken("read", key, "the answer comes too slowly")
                left -= len(piece)
                yield piece
        except _BROKEN as error:
            raise self.broken("read", key, "the connection broke within the answer") from error

    def broken(self, action: str, key: str, reason: str) -> TransientError:
        """Return the error of a request whose answer did not come, or did not come whole."""
        where = f"{self.url}/{key}" if key else self.url
        hint = "Check repository.endpoint and the network, then run it again."
        return TransientError(StorageUnavailable(f"cannot {action} {where}: {reason}", hint=hint))


def open_boto(settings: S3Settings, policy: RetryPolicy, connections: int) -> Any:
    """Return a client of boto3 for any bucket. No request is sent.

    Raises AccessDenied or UsageError for settings that cannot be used.
    """
    session = botocore.session.Session()
    if settings.credentials_file is not None:
        if not os.access(settings.credentials_file, os.R_OK):
            raise AccessDenied(f"credentials file {settings.credentials_file} cannot be read", hint=CREDENTIALS_HINT)
        session.set_config_variable("credentials_file", str(settings.credentials_file))
        session.set_config_variable("config_file", os.devnull)
    if settings.profile or settings.credentials_file:
        # A profile named like this wins over the environment.
        session.set_config_variable("profile", settings.profile or "default")
    if settings.ca_bundle is not None and not os.access(settings.ca_bundle, os.R_OK):
        raise UsageError(
            f"ca_bundle {settings.ca_bundle} cannot be read", hint="Name a PEM file with the authority's certificate."
        )
    addressing = "path" if settings.addressing == "auto" and named_endpoint(settings) else settings.addressing
    config = Config(
        signature_version="s3v4",
        # Every PUT is signed with the SHA-256 of its bytes: the server refuses bytes that changed on the way.
        s3={"addressing_style": addressing, "payload_signing_enabled": True},
        connect_timeout=policy.connect,
        read_timeout=policy.read,
        max_pool_connections=connections,
        tcp_keepalive=True,
        retries={"total_max_attempts": 1, "mode": "standard"},
        # Many servers refuse or ignore the newer checksums.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        boto = boto3.session.Session(botocore_session=session).client(
            "s3",
            endpoint_url=settings.endpoint,
            region_name=settings.region or session.get_config_variable("region") or "us-east-1",
            verify=str(settings.ca_bundle) if settings.ca_bundle else None,
            config=config,
        )
    except _CREDENTIALS as error:
        raise AccessDenied(f"no usable S3 credentials ({type(error).__name__})", hint=CREDENTIALS_HINT) from None
    except (ValueError, failures.BotoCoreError) as error:
        raise UsageError(
            f"the S3 settings cannot be used: {type(error).__name__}",
            hint="Check endpoint and region: an endpoint is written like https://s3.example.com:9000.",
        ) from error
    boto._endpoint.http_session = _BoundedSession(boto._endpoint.http_session, policy)
    boto.meta.events.register("before-send.s3.PutObject", _begin_sending)
    boto.meta.events.register_first("before-parse.s3.ListObjectsV2", take_entries)
    boto.meta.events.register_first("before-parse.s3.ListObjectVersions", take_entries)
    return boto


class _BoundedSession:
    """Sends the requests of a client of boto3, which by itself reads every answer but an object to its end."""

    def __init__(self, session: Any, policy: RetryPolicy) -> None:
        self._session = session
        self._policy = policy

    def send(self, request: Any) -> Any:
        streams, request.stream_output = request.stream_output, True
        answer = self._session.send(request)
        if not streams or answer.status_code >= 300:
            answer._content = self._read(answer)
        return answer

    def close(self) -> None:
        self._session.close()

    def _read(self, answer: Any) -> bytes:
        deadline = Deadline(self._policy, _MAX_PAGE)
        whole = bytearray()
        for piece in answer.raw.stream(_READ):
            whole += piece
            if len(whole) > _MAX_PAGE or deadline.passed:
                answer.raw.close()
                raise StorageUnavailable(
                    f"cannot use {answer.url.partition('?')[0]}: an answer of the server does not end",
                    hint="Name the S3 server itself in repository.endpoint.",
                )
        return bytes(whole)


def _is_refusal(error: BaseException | None) -> bool:
    """Whether a connection failed because nobody listens on that port."""
    while error is not None and not isinstance(error, ConnectionRefusedError):
        error = error.__cause__ or error.__context__
    return error is not None


def _begin_sending(request: Any, **rest: Any) -> None:
    if isinstance(request.body, ThrottledBody):
        request.body.begin()
