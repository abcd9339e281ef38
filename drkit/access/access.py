"""Where the repository is and what opens it: from a policy, or from the environment on a host that has none."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from drkit.access.identities import (
    AskPassphrase,
    IdentitySource,
    descriptor_from,
    read_identities,
    read_secret,
)
from drkit.errors import AccessDenied, UsageError, reason
from drkit.policy import Place, Policy
from drkit.repository.format.names import LOCKED_PREFIXES
from drkit.repository.keys.identity import parse_recipients
from drkit.repository.repository import Repository
from drkit.storage import ObjectLock, S3Settings, Storage, is_s3, local_path, open_storage, parse_s3_url
from drkit.storage.cached import CachedStorage


@dataclass(frozen=True)
class Access:
    """A repository's place and the files of its keys."""

    url: str
    recipients_file: Path | None = None
    identity: IdentitySource | None = None
    meta_key_file: Path | None = None
    s3: S3Settings = field(default_factory=S3Settings)

    @property
    def identity_file(self) -> Path | None:
        return self.identity.file if self.identity else None

    def secret_files(self) -> list[Path]:
        """The files that nobody else should be able to read."""
        source = self.identity or IdentitySource()
        paths = (source.file, source.passphrase_file, self.meta_key_file, self.s3.credentials_file)
        return [path for path in paths if path is not None]


def repository_access(
    policy: Policy | None,
    *,
    url: str | None = None,
    environ: Mapping[str, str] = os.environ,
    as_of: datetime | None = None,
) -> Access:
    """Combine what is known: the command line's `url`, then the policy, then DRKIT_REPOSITORY and DRKIT_IDENTITY_FILE.

    Where `url` is the policy's mirror or its repository, the S3 keys that stand there are used.

    An identity in the environment (DRKIT_IDENTITY_FD, then DRKIT_IDENTITY_FILE) wins over the policy's: in an incident
    it is the one somebody brought. What the policy does not say of an S3 server, DRKIT_ENDPOINT, DRKIT_REGION and
    DRKIT_CA_BUNDLE do. `as_of`: the repository is read as it was then.
    """
    place = url or (policy.repository.url if policy else environ.get("DRKIT_REPOSITORY"))
    if not place:
        raise UsageError(
            "no repository is named", hint="Give --policy FILE or --repository URL, or set DRKIT_REPOSITORY."
        )
    return Access(
        url=place,
        recipients_file=policy.repository.recipients_file if policy else None,
        identity=_identity_source(policy, environ),
        meta_key_file=policy.repository.meta_key_file if policy else None,
        s3=_s3_settings(_described(policy, place) if policy else None, environ, as_of),
    )


def mirror_access(policy: Policy | None, to: str | None = None, *, environ: Mapping[str, str] = os.environ) -> Access:
    """The place that snapshots are copied to: `to`, else the policy's mirror. The repository's keys open it."""
    place = to or (policy.mirror.url if policy and policy.mirror else None)
    if not place:
        raise UsageError("no mirror is named", hint="Give --to URL, or set mirror in the policy.")
    return repository_access(policy, url=place, environ=environ)


def new_mirror_access(
    policy: Policy | None, url: str | None, source: str, *, environ: Mapping[str, str] = os.environ
) -> Access:
    """Where a new mirror of `source` is to be: at `url`, else the policy's mirror if `source` is its repository.

    Else where its repository is to be: that is how a lost repository is made anew from its mirror.
    """
    if url is None and policy is not None and policy.mirror and same_place(policy.repository.url, source):
        url = policy.mirror.url
    return repository_access(policy, url=url, environ=environ)


def same_place(one: str, other: str) -> bool:
    """Whether two URLs name one storage. Raises UsageError for what is no URL of a storage."""
    if is_s3(one) and is_s3(other):
        return parse_s3_url(one) == parse_s3_url(other)
    return is_s3(one) == is_s3(other) and local_path(one) == local_path(other)


def _described(policy: Policy, url: str) -> Place:
    """What the policy says of this place; of a place that it does not name, what it says of its repository."""
    if policy.mirror is not None and same_place(url, policy.mirror.url):
        return policy.mirror
    return policy.repository


def _s3_settings(repository: Place | None, environ: Mapping[str, str], as_of: datetime | None) -> S3Settings:
    bundle = environ.get("DRKIT_CA_BUNDLE")
    bare = S3Settings(
        endpoint=environ.get("DRKIT_ENDPOINT") or None,
        region=environ.get("DRKIT_REGION") or None,
        ca_bundle=Path(bundle) if bundle else None,
        as_of=as_of,
    )
    if repository is None:
        return bare
    return S3Settings(
        endpoint=repository.endpoint or bare.endpoint,
        region=repository.region or bare.region,
        addressing=repository.addressing,
        profile=repository.profile,
        credentials_file=repository.credentials_file,
        ca_bundle=repository.ca_bundle or bare.ca_bundle,
        storage_class=repository.storage_class,
        encryption=repository.encryption,
        kms_key=repository.kms_key,
        upload_limit=repository.upload_limit,
        lock=_lock(repository),
        as_of=as_of,
    )


def _lock(place: Place) -> ObjectLock | None:
    return ObjectLock(place.lock.mode, place.lock.period, LOCKED_PREFIXES) if place.lock else None


def open_access(access: Access, *, create: bool = False, cached: bool = False) -> Storage:
    """Open the storage alone, whether or not a repository is in it.

    `cached`: keep copies of small objects of a storage on S3 on this host. Whoever wants to know what the storage
    itself holds does without.
    """
    storage = open_storage(access.url, create=create, s3=access.s3)
    return (
        CachedStorage(storage, cache_file(access)) if cached and is_s3(access.url) and not access.s3.as_of else storage
    )


def _identity_source(policy: Policy | None, environ: Mapping[str, str]) -> IdentitySource | None:
    ours = policy.repository if policy else None
    file = environ.get("DRKIT_PASSPHRASE_FILE")
    passphrase_file = Path(file) if file else ours.passphrase_file if ours else None
    passphrase_command = ours.passphrase_command if ours else None
    if number := environ.get("DRKIT_IDENTITY_FD"):
        return IdentitySource(None, descriptor_from(number), None, passphrase_file, passphrase_command)
    if brought := environ.get("DRKIT_IDENTITY_FILE"):
        return IdentitySource(Path(brought), None, None, passphrase_file, passphrase_command)
    if ours and (ours.identity_file or ours.identity_command):
        return IdentitySource(ours.identity_file, None, ours.identity_command, passphrase_file, passphrase_command)
    return None


def cache_file(access: Access, environ: Mapping[str, str] = os.environ) -> Path:
    """Where copies of objects may be kept: below $DRKIT_CACHE_DIR, $CACHE_DIRECTORY, or the usual place."""
    usual = "/var/cache/drkit" if os.geteuid() == 0 else Path(environ.get("XDG_CACHE_HOME") or "~/.cache", "drkit")
    directory = environ.get("DRKIT_CACHE_DIR") or environ.get("CACHE_DIRECTORY") or usual
    place = hashlib.sha256(f"{access.s3.endpoint or ''} {access.url}".encode()).hexdigest()
    return Path(directory).expanduser() / f"{place[:16]}.sqlite"


def open_repository(access: Access, ask: AskPassphrase | None = None, *, cached: bool = True) -> Repository:
    """Open with the identities, or with the meta key alone where no identity is named."""
    storage = open_access(access, cached=cached)
    if access.identity is not None:
        return Repository.open(storage, read_identities(access.identity, ask))
    if access.meta_key_file is not None:
        text = read_meta_key(access.meta_key_file)
        return Repository.open_write_only(storage, text, source=str(access.meta_key_file))
    raise UsageError(
        f"no key is named for {access.url}", hint="Set identity_file in the policy, or DRKIT_IDENTITY_FILE."
    )


def read_recipients(path: Path) -> list[str]:
    try:
        return parse_recipients(path.read_text(encoding="utf-8"), source=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"recipients file {path} cannot be read: {_reason(error)}",
            hint="Run drkit init, or put the public keys (age1…) of the key holders into it.",
        ) from None


def read_meta_key(path: Path) -> str:
    try:
        return read_secret(path, "meta key").decode()
    except UnicodeDecodeError:
        raise AccessDenied(
            f"meta key file {path} is no text", hint="Write it anew with drkit key host-key, where the identity is."
        ) from None


def _reason(error: Exception) -> str:
    return reason(error) if isinstance(error, OSError) else "it is no text"
