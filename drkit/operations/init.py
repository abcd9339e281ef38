"""`drkit init`: a new repository, its identity, and a second home for that identity; or a mirror of a repository."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from drkit.access.access import Access, open_access, read_recipients, same_place
from drkit.access.identities import AskPassphrase, read_identities
from drkit.errors import AccessDenied, StorageUnavailable, UsageError
from drkit.host.private_file import write_new
from drkit.report.recovery_kit import Kit, make_kit
from drkit.repository.keys.identity import Identity, check_recipient, generate_identity
from drkit.repository.keys.labels import Holder
from drkit.repository.keys.wraps import put_escrow
from drkit.repository.mirror.mirror import create_mirror, open_mirror
from drkit.repository.repository import Repository, require_no_repository
from drkit.storage import LOCK_HINT, Storage
from drkit.storage.probe import Capabilities, probe_storage


@dataclass(frozen=True)
class Initialized:
    """What init made. `second_home`: the identity is not on this host alone."""

    repository_id: str
    url: str
    identity_file: Path | None
    identity_created: bool
    recipients_file: Path
    recipients: list[str]
    second_home: bool
    kit: Kit
    capabilities: Capabilities


def init(
    access: Access,
    *,
    now: datetime,
    escrow: Sequence[str] = (),
    passphrase: str | None = None,
    ask: AskPassphrase | None = None,
) -> Initialized:
    """Create the repository and, where the policy names files that are not there, an identity and a recipients file.

    `escrow`: public keys of further key holders. `passphrase`: stores the identity under it in the repository.
    Existing files are used and never overwritten. What the store can do is tried out before anything is made: where two
    writers at once are not safe, the repository takes one at a time. Raises ObjectExists for a repository that exists,
    StorageUnavailable for a store that cannot hold one.
    """
    if access.identity is None or access.recipients_file is None:
        raise UsageError(
            "init needs a place for the keys", hint="Set repository.identity_file and recipients_file in the policy."
        )
    for recipient in escrow:
        check_recipient(recipient, source="escrow recipient")
    storage, capabilities = _new_place(access)
    new_file = access.identity_file if access.identity_file and not access.identity_file.exists() else None
    identities = [generate_identity()] if new_file else read_identities(access.identity, ask)
    recipients = _recipients(access.recipients_file, identities, escrow)
    identity = next(identity for identity in identities if identity.recipient in recipients)
    if new_file:
        write_new(new_file, identity_text(identity, now))
    if not access.recipients_file.exists():
        write_new(access.recipients_file, "".join(f"{recipient}\n" for recipient in recipients), 0o644)
    repository = Repository.create(
        storage, identity, recipients, now=now, single_writer=capabilities.unsafe is not None
    )
    storage.keep_reserve()
    if passphrase is not None:
        put_escrow(repository.storage, repository.objects, identity, passphrase)
    return Initialized(
        repository_id=repository.id.hex(),
        url=storage.url,
        identity_file=access.identity_file,
        identity_created=new_file is not None,
        recipients_file=access.recipients_file,
        recipients=recipients,
        second_home=passphrase is not None or len(recipients) > 1,
        kit=make_kit(repository, access, now=now),
        capabilities=capabilities,
    )


@dataclass(frozen=True)
class MirrorMade:
    """`holders` open the mirror, as they open the repository at `source`."""

    repository: Repository
    source: str
    holders: list[Holder]
    capabilities: Capabilities


def init_mirror(access: Access, source: Repository, *, now: datetime) -> MirrorMade:
    """Create a mirror of `source`: the same id and meta key, open to the same holders. Raises what init raises."""
    if same_place(access.url, source.storage.url):
        raise UsageError(
            f"{access.url} cannot be the mirror of itself",
            hint="Name the new place: drkit init --repository PLACE --mirror-of URL.",
        )
    storage, capabilities = _new_place(access)
    holders = create_mirror(source, storage, now=now, single_writer=capabilities.unsafe is not None)
    storage.keep_reserve()
    return MirrorMade(open_mirror(source, storage), source.storage.url, holders, capabilities)


def _new_place(access: Access) -> tuple[Storage, Capabilities]:
    """Open a place where no repository is yet, and find out whether one can be kept there."""
    storage = open_access(access, create=True)
    require_no_repository(storage)
    capabilities = probe_storage(storage)
    if capabilities.unusable:
        raise StorageUnavailable(
            f"no repository can be kept in {storage.url}: {capabilities.unusable}",
            hint=LOCK_HINT
            if capabilities.locks is False
            else "Name another place; drkit doctor shows what this one can do.",
        )
    return storage, capabilities


def _recipients(path: Path, identities: Sequence[Identity], escrow: Sequence[str]) -> list[str]:
    """The recipients of a new repository: those of the file, if there is one, else the identity and the escrow keys."""
    ours = [identity.recipient for identity in identities]
    if not path.exists():
        return list(dict.fromkeys([*ours, *escrow]))
    recipients = read_recipients(path)
    if not any(recipient in recipients for recipient in ours):
        raise AccessDenied(
            f"{path} does not name the identity's own public key {ours[0]}",
            hint="Add it on a line of its own, or this host could not open its backups.",
        )
    absent = [recipient for recipient in escrow if recipient not in recipients]
    if absent:
        raise UsageError(
            f"{path} exists and does not name {absent[0]}", hint="Add it to the file on a line of its own."
        )
    return recipients


def identity_text(identity: Identity, now: datetime) -> str:
    """What an identity file holds."""
    return f"# drkit identity, made {now:%Y-%m-%d}: opens the backups. Keep a copy away from this host.\n" + (
        f"# public key: {identity.recipient}\n{identity.secret_text()}\n"
    )
