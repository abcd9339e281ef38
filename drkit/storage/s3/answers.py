"""What an S3 server's answers mean: which error they are, whether it may pass, and what to do about it.

Only the status and the code of an answer are read and shown: the rest of it can hold what we sent.
"""

from __future__ import annotations

import re

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
from drkit.storage.s3.settings import LOCK_HINT, S3Settings

CREDENTIALS_HINT = (
    "Check the credentials: repository.credentials_file or profile in the policy, or AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY."
)
_RIGHTS_HINT = "Allow this key to list the bucket, and to get, put and delete objects under the prefix."
_CLOCK_HINT = "Set this host's clock (`timedatectl`), then run the same again."
_REGION_HINT = "Set repository.region in the policy, or DRKIT_REGION, to the bucket's region."

_FULL = re.compile(r"quota|storagefull|insufficientstorage|entitytoolarge.*capacity", re.IGNORECASE)
_THROTTLED = re.compile(
    r"slowdown|slow_down|throttl|toomanyrequests|requestlimitexceeded|bandwidthlimit", re.IGNORECASE
)
_BAD_KEYS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "TokenRefreshRequired"}
_DAMAGED_IN_TRANSIT = {"BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}
_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
_TRANSIENT_CODES = {"RequestTimeout", "InternalError", "ServiceUnavailable", "OperationAborted"}


def explain(
    status: int, code: str, action: str, key: str, url: str, settings: S3Settings
) -> DrkitError | TransientError:
    """Return the error that an answer stands for, as a TransientError if trying again may help.

    `key` is empty for requests about the bucket. A taken key is ObjectExists, a range beyond the end IntegrityError.
    """
    where = f"{url}/{key}" if key else url
    shown = f"{status} {code}" if code and code != str(status) else str(status)
    message = f"cannot {action} {where}: the server answers {shown}"
    if code == "NoSuchBucket":
        return RepositoryNotFound(
            f"no repository at {url}: there is no such bucket",
            hint="Check the URL and the endpoint, or create the bucket, then run drkit init.",
        )
    if _THROTTLED.search(code) or status == 429:
        return TransientError(StorageUnavailable(message, hint="Wait, or lower the load with repository.upload_limit."))
    if _FULL.search(code) or status == 507:
        return StorageFull(message, hint="Raise the quota of the bucket or its owner, or free space there.")
    if code == "RequestTimeTooSkewed":
        return AccessDenied(f"{message}: this host's clock and the server's differ", hint=_CLOCK_HINT)
    if code in _BAD_KEYS:
        return AccessDenied(message, hint=CREDENTIALS_HINT)
    if code == "InvalidObjectState":
        return StorageUnavailable(message, hint="The object is in an archive class: restore it from there first.")
    if code in _REGION or status == 301:
        return StorageUnavailable(message, hint=_REGION_HINT)
    if code in _DAMAGED_IN_TRANSIT:
        return TransientError(
            StorageUnavailable(f"{message}: bytes were damaged or lost in transit", hint="Run it again.")
        )
    match status:
        case 401 | 403:
            return AccessDenied(message, hint=_RIGHTS_HINT)
        case 404:
            return ObjectNotFound(f"no object {key} in {url}")
        case 409 if code == "ConditionalRequestConflict":
            return TransientError(StorageUnavailable(message, hint="Run it again."))
        case 412:
            return ObjectExists(f"object {key} exists already in {url}")
        case 416:
            return IntegrityError(f"object {key} is shorter than the range asked for", object_name=key)
        case 400 | 405 | 411 | 501 if code not in _TRANSIENT_CODES:
            return StorageUnavailable(
                f"{message}: it does not support a feature that the request needs", hint=_feature_hint(status, settings)
            )
    if status >= 500 or code in _TRANSIENT_CODES:
        return TransientError(StorageUnavailable(message, hint="See the server's log, then run it again."))
    return StorageUnavailable(message, hint="See the server's log for the reason.")


def _feature_hint(status: int, settings: S3Settings) -> str:
    """Name the settings that need more than plain S3."""
    if settings.lock:
        return LOCK_HINT
    if settings.storage_class or settings.encryption:
        given = [name for name in ("storage_class", "encryption", "kms_key") if getattr(settings, name)]
        return f"Remove repository.{' and '.join(given)} from the policy, or choose what this server offers."
    if status == 411:
        return "Name the server itself in repository.endpoint, not a proxy that drops Content-Length."
    if settings.addressing != "auto":
        return "Set repository.addressing to auto, and see `drkit doctor` for what this server can do."
    return "Set repository.addressing to path or virtual, and see `drkit doctor` for what this server can do."
