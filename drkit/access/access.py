"""Where the repository is and what opens it: from the command line, the environment and the policy, in this order.

What the environment says of an S3 server (DRKIT_ENDPOINT, DRKIT_REGION, DRKIT_CA_BUNDLE) it says of the repository. Of
another place, such as the mirror, the policy is asked first, since that may be another server.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from drkit.access.identities import IdentitySource, descriptor_from
from drkit.errors import UsageError
from drkit.policy import Place, Policy
from drkit.repository.format.names import LOCKED_PREFIXES
from drkit.storage import ObjectLock, S3Settings, check_url, is_s3, place


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

    @property
    def place(self) -> str:
        """Identifies the place: the same for every spelling, different for an equal bucket name at another provider."""
        return place(self.url, self.s3)

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
    """Combine what is known: the command line's `url`, then the environment, then the policy.

    Where the place is the policy's mirror or its repository, the S3 keys given there are used; if it could be either,
    at two providers, DRKIT_ENDPOINT decides. Raises UsageError if that does not.

    An identity in the environment (DRKIT_IDENTITY_FD, then DRKIT_IDENTITY_FILE) wins over the policy's: in an incident
    it is the one that somebody brought. `as_of`: the repository is read as it was then.
    """
    named, described = _named(policy, url, environ)
    return _access(named, policy, _s3_settings(described, environ, overrides=True, as_of=as_of), environ)


def other_access(policy: Policy | None, url: str, *, environ: Mapping[str, str] = os.environ) -> Access:
    """How to reach a place that is not the repository of this run, with the same keys."""
    described = _described(policy, url, environ) if policy else None
    return _access(url, policy, _s3_settings(described, environ), environ)


def _named(policy: Policy | None, url: str | None, environ: Mapping[str, str]) -> tuple[str, Place | None]:
    """The URL of the repository, and the section of the policy that describes it."""
    url = url or environ.get("DRKIT_REPOSITORY")
    if url:
        check_url(url)
        return url, _described(policy, url, environ) if policy else None
    if policy is None:
        raise UsageError(
            "no repository is named", hint="Give --policy FILE or --repository URL, or set DRKIT_REPOSITORY."
        )
    return policy.repository.url, policy.repository


def _access(url: str, policy: Policy | None, s3: S3Settings, environ: Mapping[str, str]) -> Access:
    return Access(
        url=url,
        recipients_file=policy.repository.recipients_file if policy else None,
        identity=_identity_source(policy, environ),
        meta_key_file=policy.repository.meta_key_file if policy else None,
        s3=s3,
    )


def overruled(policy: Policy | None, url: str | None, environ: Mapping[str, str]) -> Iterator[str]:
    """Say which settings of the environment and the policy `repository_access` passes over for others that differ."""
    named, described = _named(policy, url, environ)
    brought = environ.get("DRKIT_REPOSITORY")
    if url and brought and place(url) != place(brought):
        yield f"--repository {url} is used, not DRKIT_REPOSITORY ({brought})"
    fd, file = environ.get("DRKIT_IDENTITY_FD"), environ.get("DRKIT_IDENTITY_FILE")
    if fd and file:
        yield f"DRKIT_IDENTITY_FD is used, not DRKIT_IDENTITY_FILE ({file})"
    if not is_s3(named) and not (policy and policy.mirror and is_s3(policy.mirror.url)):
        for variable, value in _of_s3(environ).values():
            if value is not None:
                yield f"{variable} ({value}) is not used: the repository {named} is a directory"
    if policy is None:
        return
    ours = policy.repository
    if place(named) != place(ours.url):
        source = "--repository" if url else "DRKIT_REPOSITORY"
        yield f"{source} {named} is used, not the repository of {policy.path} ({ours.url})"
    source = "DRKIT_IDENTITY_FD" if fd else "DRKIT_IDENTITY_FILE"
    if (fd or file) and (fd or ours.identity_file != Path(file or "")):
        keys = ("identity_file", "identity_command", "meta_key_file")
        given = next(key for key in keys if getattr(ours, key) is not None)
        yield f"the identity of {source} is used, not {given} of {policy.path}"
    given = "passphrase_file" if ours.passphrase_file else "passphrase_command" if ours.passphrase_command else ""
    passphrase = environ.get("DRKIT_PASSPHRASE_FILE")
    if given and passphrase and ours.passphrase_file != Path(passphrase):
        yield f"DRKIT_PASSPHRASE_FILE is used, not {given} of {policy.path}"
    if described is None or not is_s3(named):
        return
    for key, (variable, value) in _of_s3(environ).items():
        theirs = getattr(described, key)
        if value is not None and theirs is not None and str(theirs).rstrip("/") != str(value).rstrip("/"):
            yield f"{variable} ({value}) is used, not {key} of {policy.path} ({theirs})"


def mirror_access(policy: Policy | None, to: str | None = None, *, environ: Mapping[str, str] = os.environ) -> Access:
    """The place that snapshots are copied to: `to`, else the policy's mirror. The repository's keys open it."""
    if to:
        return other_access(policy, to, environ=environ)
    if policy is None or policy.mirror is None:
        raise UsageError("no mirror is named", hint="Give --to URL, or set mirror in the policy.")
    return _access(policy.mirror.url, policy, _s3_settings(policy.mirror, environ), environ)


def new_mirror_access(
    policy: Policy | None, url: str | None, source: str, *, environ: Mapping[str, str] = os.environ
) -> Access:
    """Return where to create a mirror of the repository at `source`.

    That is `url`; else the policy's mirror, if `source` is the policy's repository; else the place of the policy's
    repository, which is how a lost repository is recreated from its mirror.
    """
    if url is None and policy is not None and policy.mirror is not None:
        origin = other_access(policy, source, environ=environ)
        if origin.place == repository_access(policy, environ=environ).place:
            return mirror_access(policy, environ=environ)
    return repository_access(policy, url=url, environ=environ)


def _described(policy: Policy, url: str, environ: Mapping[str, str]) -> Place:
    """Return the policy's section for the place at `url`; that of its repository for a place that it does not name."""
    places: list[Place] = [policy.repository, *([policy.mirror] if policy.mirror else [])]
    named = [each for each in places if place(each.url) == place(url)]
    if len(named) < 2 or not is_s3(url):
        return named[0] if named else policy.repository
    meant = place(url, S3Settings(endpoint=environ.get("DRKIT_ENDPOINT") or None))
    chosen = [each for each in named if place(each.url, S3Settings(endpoint=each.endpoint)) == meant]
    chosen = chosen or [each for each in named if not each.endpoint]  # which is then what DRKIT_ENDPOINT says
    if len(chosen) != 1:
        raise UsageError(
            f"{url} is both the repository and the mirror of {policy.path}, at different endpoints",
            hint="Set DRKIT_ENDPOINT to the endpoint of the one that you mean.",
        )
    return chosen[0]


def _s3_settings(
    described: Place | None, environ: Mapping[str, str], *, overrides: bool = False, as_of: datetime | None = None
) -> S3Settings:
    """Take each option from the policy, else from the environment; the other way round where that `overrides`.

    Option and setting have the same name.
    """
    brought = {key: value for key, (_, value) in _of_s3(environ).items() if value is not None}
    said = described.s3_options | {"lock": _lock(described)} if described else {}
    return replace(S3Settings(as_of=as_of), **(said | brought if overrides else brought | said))


def _of_s3(environ: Mapping[str, str]) -> dict[str, tuple[str, str | Path | None]]:
    """What the environment says of an S3 server: by option, the variable and its value."""
    bundle = environ.get("DRKIT_CA_BUNDLE")
    return {
        "endpoint": ("DRKIT_ENDPOINT", environ.get("DRKIT_ENDPOINT") or None),
        "region": ("DRKIT_REGION", environ.get("DRKIT_REGION") or None),
        "ca_bundle": ("DRKIT_CA_BUNDLE", Path(bundle) if bundle else None),
    }


def _lock(place: Place) -> ObjectLock | None:
    return ObjectLock(place.lock.mode, place.lock.period, LOCKED_PREFIXES) if place.lock else None


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
