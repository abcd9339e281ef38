"""`drkit key`: who opens the repository, and the proof that they still can."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from drkit import __version__
from drkit.access.access import Access
from drkit.access.identities import AskPassphrase, IdentitySource, read_identities
from drkit.errors import AccessDenied, DrkitError, IntegrityError, UsageError
from drkit.host.private_file import write_new
from drkit.repository.holders.custody import (
    Custody,
    ListedWrap,
    grant,
    is_whole,
    read_custody,
    require_identity,
    revoke,
)
from drkit.repository.holders.every_key import open_every_key
from drkit.repository.keys.identity import Identity, check_recipient
from drkit.repository.keys.labels import MAX_NAME, Holder, is_name
from drkit.repository.keys.wraps import format_meta_key, open_escrow
from drkit.repository.proofs import Proof, add_proof, read_proofs
from drkit.repository.repository import Repository
from drkit.storage import open_storage

log = logging.getLogger(__name__)

KEY_PROOF = "key"


@dataclass(frozen=True)
class ListedHolder:
    """One who opens the repository. `opens` counts keys, of `KeyList.keys`; `proven` is the time of the last proof."""

    recipient: str
    name: str
    opens: int
    meta: bool
    proven: str | None
    proven_elsewhere: bool

    def complete(self, keys: int) -> bool:
        return self.opens == keys


@dataclass(frozen=True)
class KeyList:
    """`keys` counts the meta key and all data keys. `unlabelled` counts wraps of which nobody knows whose they are."""

    keys: int
    holders: list[ListedHolder]
    unlabelled: int
    escrows: list[ListedWrap]
    damaged_proofs: list[IntegrityError]


@dataclass(frozen=True)
class Changed:
    """What a change of the recipients did, in wraps."""

    made: int
    removed: int
    keys: int
    recipients: list[str]


@dataclass(frozen=True)
class Proven:
    """What an identity was proven to open, and the proof of it."""

    recipient: str
    keys: int
    chunks: int
    elsewhere: bool
    proof: Proof


def list_keys(repository: Repository) -> KeyList:
    """Say who opens how many of the keys, by the wraps that are listed; `prove` tries them."""
    custody = read_custody(repository)
    proven: dict[str, Proof] = {}
    damaged: list[IntegrityError] = []
    for proof in read_proofs(repository):
        if isinstance(proof, IntegrityError):
            damaged.append(proof)
        elif proof.kind == KEY_PROOF:
            proven[str(proof.about.get("recipient"))] = proof
    holders = []
    for holder in custody.holders():
        opens = custody.opened_by(holder.recipient)
        last = proven.get(holder.recipient)
        elsewhere = bool(last and last.about.get("elsewhere"))
        holders.append(ListedHolder(*holder, len(opens), "meta" in opens, last.time if last else None, elsewhere))
    return KeyList(len(custody.purposes), holders, len(custody.unlabelled), custody.escrows, damaged)


def add_recipient(repository: Repository, recipient: str, name: str = "") -> Changed:
    """Let one more recipient open everything. A rerun finishes one that was cut short."""
    check_recipient(recipient, source="the recipient")
    if not is_name(name):
        raise UsageError(f"--name is no printable text of at most {MAX_NAME} characters", hint="Give a short name.")
    made = grant(repository, [Holder(recipient, name)])
    return Changed(made, 0, len(read_custody(repository).purposes), [recipient])


def remove_recipient(repository: Repository, reference: str) -> Changed:
    """Delete the wraps of one recipient, named by public key or by name. A rerun finishes one that was cut short.

    Raises DrkitError, and changes nothing, when the identity at hand would no longer open every key.
    """
    require_identity(repository, "removing a recipient")
    custody = read_custody(repository)
    holder = _find(custody, reference)
    if len(custody.holders()) == 1 and not custody.unlabelled:
        raise DrkitError(
            f"{holder.recipient} is the last recipient: without it nobody opens the backups",
            hint="Add another one first: drkit key add RECIPIENT.",
        )
    removed = revoke(repository, lambda wrap: wrap.holder is None or wrap.holder.recipient != holder.recipient)
    return Changed(0, removed, len(custody.purposes), [holder.recipient])


def _find(custody: Custody, reference: str) -> Holder:
    found = [holder for holder in custody.holders() if reference in (holder.recipient, holder.name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{len(found)} recipients are named {reference}", hint="Give the public key instead.")
    if custody.unlabelled:
        raise DrkitError(
            f"{reference} is no recipient that this repository knows by name, and {len(custody.unlabelled)} wraps of "
            "an earlier version name nobody",
            hint="Take it out of recipients_file, then run drkit key rewrap.",
        )
    raise DrkitError(f"{reference} is no recipient of this repository", hint="See drkit key list.")


def rewrap(repository: Repository, recipients: Sequence[str]) -> Changed:
    """Make the repository's recipients those given, as a backup will use them: first new wraps, then old ones go.

    Idempotent, and finished by a rerun. Raises DrkitError, and changes nothing, unless an identity at hand is among the
    recipients.
    """
    require_identity(repository, "wrapping the keys anew")
    if not any(identity.recipient in recipients for identity in repository.identities):
        raise DrkitError(
            "none of the new recipients is proven to open the repository: the identity at hand is not among them",
            hint="Add its public key to recipients_file, or use an identity of one of them: DRKIT_IDENTITY_FILE.",
        )
    names = dict(read_custody(repository).holders())
    made = grant(repository, [Holder(recipient, names.get(recipient, "")) for recipient in recipients])
    removed = revoke(
        repository,
        lambda wrap: (
            (wrap.labelled and wrap.holder is not None and wrap.holder.recipient in recipients)
            and is_whole(repository, wrap)
        ),
    )
    return Changed(made, removed, len(read_custody(repository).purposes), list(recipients))


def recipient_differences(repository: Repository, recipients: Sequence[str]) -> list[str]:
    """Say how recipients_file and the repository disagree; wraps without a label count for nobody and everybody."""
    custody = read_custody(repository, meta_key_alone=True)
    opens = {holder.recipient for holder in custody.holders()}
    unknown = bool(custody.unlabelled)
    differences = [
        f"recipients_file names {recipient}, which does not open the earlier backups"
        for recipient in recipients
        if recipient not in opens and not unknown
    ]
    return differences + [
        f"{recipient} opens the earlier backups, and recipients_file does not name it"
        for recipient in sorted(opens - set(recipients))
    ]


def write_host_key(repository: Repository, path: Path) -> None:
    """Write the meta key file of a write-only host. Raises DrkitError for a file that exists."""
    write_new(path, format_meta_key(repository.meta.meta_key, repository.id))


def prove(
    access: Access, source: IdentitySource, ask: AskPassphrase | None, *, now: datetime, host: str
) -> list[Proven]:
    """Open every key, and a piece of data under each, with one identity alone; then record it as a proof.

    A source may hold identities of other repositories too: each that is for this one is proven. What lies at the
    policy's own identity_file proves nothing about a copy elsewhere, and the proof says so. Raises AccessDenied or
    IntegrityError, and records nothing of an identity, for anything that it does not open.
    """
    storage = open_storage(access.url)
    identities = read_identities(source, ask)
    Repository.open(storage, identities)  # at least one of them is for this repository, or this tells why not
    elsewhere = not _same_file(source.file, access.identity_file)
    proven = []
    for identity in identities:
        try:
            repository = Repository.open(storage, [identity])
        except AccessDenied:
            continue
        keys, chunks = open_every_key(repository)
        about = {"recipient": identity.recipient, "keys": keys, "chunks": chunks, "elsewhere": elsewhere}
        proof = add_proof(repository, KEY_PROOF, about, now=now, host=host, version=__version__)
        proven.append(Proven(identity.recipient, keys, chunks, elsewhere, proof))
    return proven


def _same_file(one: Path | None, other: Path | None) -> bool:
    if one is None or other is None or not other.exists():
        return False
    return one.samefile(other)


def unlock(access: Access, passphrase: str) -> Identity:
    """Return the identity that the repository keeps under this passphrase. Needs no key."""
    identity = open_escrow(open_storage(access.url), passphrase)
    try:
        Repository.open(open_storage(access.url), [identity])
    except AccessDenied as error:
        log.warning("the identity under this passphrase is not, or no longer, a recipient: %s", error.message)
    return identity
