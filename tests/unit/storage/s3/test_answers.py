"""What an S3 server's answers become: the class, so the exit code; whether they are asked again; what to do."""

from __future__ import annotations

import pytest

from drkit.errors import (
    AccessDenied,
    DrkitError,
    IntegrityError,
    ObjectExists,
    ObjectNotFound,
    RepositoryNotFound,
    StorageFull,
    StorageUnavailable,
)
from drkit.storage.retry import TransientError
from drkit.storage.s3.answers import explain
from drkit.storage.s3.settings import S3Settings, parse_s3_url

PLAIN = S3Settings()


def answer(
    status: int, code: str, settings: S3Settings = PLAIN, key: str = "packs/aa/x"
) -> DrkitError | TransientError:
    return explain(status, code, "store", key, "s3://bucket/prefix", settings)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (500, "InternalError"),
        (502, "502"),
        (503, "SlowDown"),
        (503, "ServiceUnavailable"),
        (504, ""),
        (429, "TooManyRequests"),
        (400, "RequestTimeout"),
        (400, "ThrottlingException"),
        (409, "ConditionalRequestConflict"),
        (409, "OperationAborted"),
        (400, "BadDigest"),
        (400, "IncompleteBody"),
    ],
)
def test_what_may_pass(status: int, code: str) -> None:
    found = answer(status, code)
    assert isinstance(found, TransientError)
    assert isinstance(found.error, StorageUnavailable)
    assert str(status) in found.error.message
    assert "s3://bucket/prefix/packs/aa/x" in found.error.message
    assert found.error.hint


@pytest.mark.parametrize(
    ("status", "code", "kind", "hint"),
    [
        (404, "NoSuchBucket", RepositoryNotFound, "create the bucket"),
        (404, "NoSuchKey", ObjectNotFound, ""),
        (404, "404", ObjectNotFound, ""),
        (412, "PreconditionFailed", ObjectExists, ""),
        (416, "InvalidRange", IntegrityError, ""),
        (403, "AccessDenied", AccessDenied, "Allow this key"),
        (403, "SignatureDoesNotMatch", AccessDenied, "Check the credentials"),
        (403, "InvalidAccessKeyId", AccessDenied, "Check the credentials"),
        (400, "ExpiredToken", AccessDenied, "Check the credentials"),
        (403, "RequestTimeTooSkewed", AccessDenied, "timedatectl"),
        (403, "QuotaExceeded", StorageFull, "quota"),
        (507, "XMinioStorageFull", StorageFull, "free space"),
        (403, "InvalidObjectState", StorageUnavailable, "archive"),
        (301, "PermanentRedirect", StorageUnavailable, "region"),
        (400, "AuthorizationHeaderMalformed", StorageUnavailable, "region"),
        (501, "NotImplemented", StorageUnavailable, "repository.addressing"),
        (411, "MissingContentLength", StorageUnavailable, "proxy"),
        (400, "InvalidRequest", StorageUnavailable, "drkit doctor"),
        (418, "Teapot", StorageUnavailable, "log"),
    ],
)
def test_what_asking_again_does_not_change(status: int, code: str, kind: type[DrkitError], hint: str) -> None:
    found = answer(status, code)
    assert type(found) is kind
    assert hint in (found.hint or "")


@pytest.mark.parametrize("status", [400, 501])
def test_a_feature_that_the_server_lacks_names_the_setting(status: int) -> None:
    found = answer(status, "NotImplemented", S3Settings(storage_class="STANDARD_IA", encryption="kms", kms_key="k"))
    assert isinstance(found, StorageUnavailable)
    assert found.hint
    assert "repository.storage_class and encryption and kms_key" in found.hint


def test_settings_show_no_secret_and_urls_no_user() -> None:
    assert "secret" not in repr(S3Settings(profile="x"))
    assert parse_s3_url("s3://bucket") == parse_s3_url("s3://bucket/") == ("bucket", "")
    assert parse_s3_url("s3://my.bucket-1/Some/pre_fix/") == ("my.bucket-1", "Some/pre_fix")


def test_options_of_a_write() -> None:
    assert PLAIN.write_options == {}
    assert S3Settings(encryption="sse-s3").write_options == {"ServerSideEncryption": "AES256"}
    assert S3Settings(storage_class="X", encryption="kms", kms_key="k").write_options == {
        "StorageClass": "X",
        "ServerSideEncryption": "aws:kms",
        "SSEKMSKeyId": "k",
    }
