"""`drkit key`: who opens the repository, and the proof that they still can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from drkit import __version__
from drkit.access.identities import IdentitySource, read_identities
from drkit.access.opening import open_access, read_recipients
from drkit.access.passphrases import existing_passphrase, new_passphrase, passphrase_file, warn_if_exposed
from drkit.errors import AccessDenied, DrkitError, IntegrityError, UsageError
from drkit.events import LOGGED, Events, Warned
from drkit.host.private_file import require_new, write_new
from drkit.operations.context import Context, found_at
from drkit.report.program.bundle import Program, pack_program, store_program, stored_programs
from drkit.report.recovery_kit import kit_html, kit_text, make_kit
from drkit.repository.holders.custody import (
    Custody,
    ListedWrap,
    grant,
    is_whole,
    read_custody,
    replace_escrow,
    require_identity,
    revoke,
)
from drkit.repository.holders.every_key import open_every_key
from drkit.repository.holders.recipients import compare_recipients
from drkit.repository.keys.identity import Identity, parse_recipient, shown_recipient
from drkit.repository.keys.labels import MAX_NAME, Holder, is_name
from drkit.repository.keys.wraps import format_meta_key, open_escrow
from drkit.repository.proofs import Proof, add_proof, read_proofs
from drkit.repository.repository import Repository
from drkit.storage import Storage

KEY_PROOF = "key"


@dataclass(frozen=True)
class ListedHolder:
    """A holder of the repository. `opens` counts keys, of `KeyList.keys`; `proven` is the time of the last proof."""

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
    """`keys` counts the meta key and all data keys. `unlabelled` counts wraps whose holders are unknown."""

    keys: int
    holders: list[ListedHolder]
    unlabelled: int
    escrows: list[ListedWrap]
    damaged_proofs: list[IntegrityError]
    warnings: list[Warned] = field(default_factory=list)

    @property
    def error(self) -> DrkitError | None:
        """The error that decides the exit code: a proof that cannot be read proves nothing."""
        return next(iter(self.damaged_proofs), None)


@dataclass(frozen=True)
class Changed:
    """What a change of the recipients did, in wraps."""

    made: int
    removed: int
    keys: int
    recipients: list[str]
    warnings: list[Warned] = field(default_factory=list)


@dataclass(frozen=True)
class Proven:
    """What an identity was proven to open, and the proof of it."""

    recipient: str
    keys: int
    chunks: int
    elsewhere: bool
    proof: Proof


def list_keys(context: Context) -> KeyList:
    """Say who opens how many of the keys, by the wraps that are listed; `prove` tries them."""
    found = key_list(context.repository)
    if found.unlabelled:
        context.events.note("drkit key rewrap gives every wrap a name, and keeps those that recipients_file lists")
    return replace(found, warnings=context.warnings)


def add(context: Context, recipient: str, name: str = "") -> Changed:
    """Let one more recipient open everything. A rerun finishes an interrupted one."""
    changed = add_recipient(context.repository, recipient, name)
    [recipient] = changed.recipients
    path = context.access.recipients_file
    if path is not None and path.exists() and recipient not in read_recipients(path):
        context.events.warn(
            f"{path} does not name {recipient}: until it does, backups here are refused, since it would not open them",
            hint=f"Add a line with it to {path}, and to the recipients_file of every other host that backs up there.",
        )
    return replace(changed, warnings=context.warnings)


def remove(context: Context, reference: str) -> Changed:
    """Delete the wraps of one recipient, named by public key or by name. This revokes nothing that was copied before.

    Raises DrkitError, and changes nothing, when the identity at hand would no longer open every key.
    """
    changed = remove_recipient(context.repository, reference)
    [removed] = changed.recipients
    context.state.seen.note_without(found_at(context.access, context.repository), removed)
    path = context.access.recipients_file
    if path is not None and path.exists() and removed in read_recipients(path):
        context.events.warn(
            f"{path} still names {removed}: it opens what later backups add", hint="Delete its line there."
        )
    context.events.warn(
        "this does not revoke: whoever copied the repository, or a key from it, still opens what was stored until now",
        hint="To prevent that, create a new repository with new keys, and delete this one and its copies.",
    )
    return replace(changed, warnings=context.warnings)


def rewrap(context: Context) -> Changed:
    """Make the repository's recipients those of the policy's recipients_file, as a backup will use them.

    Raises AccessDenied, and changes nothing, where the file lacks somebody who opens the repository: `remove` is the
    way to take the keys from a holder. What becomes of wraps that no label names, the file decides.
    """
    path = context.required_policy.repository.recipients_file
    recipients = read_recipients(path)
    found = compare_recipients(context.repository, recipients, str(path))
    if found.loss is not None:
        raise found.loss
    for recipient in found.added:
        context.events.note(f"{shown_recipient(recipient)} gets the keys to every backup")
    return replace(rewrap_keys(context.repository, recipients), warnings=context.warnings)


def host_key(context: Context, path: Path) -> None:
    """Write the meta key file of a write-only host. Raises DrkitError for a file that exists."""
    require_new(path, DrkitError)
    write_host_key(context.repository, path)


@dataclass(frozen=True)
class ProveResult:
    proven: list[Proven]
    warnings: list[Warned] = field(default_factory=list)


def prove(context: Context, identity: Path) -> ProveResult:
    """Prove that the identity in a file, brought from elsewhere, opens every key; see `prove_identities`.

    The policy's passphrase is that of the host's own identity; the passphrase of this one comes from
    $DRKIT_PASSPHRASE_FILE or the terminal.
    """
    passphrase_file = context.environ.get("DRKIT_PASSPHRASE_FILE")
    source = IdentitySource(identity, passphrase_file=Path(passphrase_file) if passphrase_file else None)
    warn_if_exposed([identity], context.events)
    host = context.host if context.policy else ""
    storage = open_access(context.access, events=context.events)
    proven = prove_identities(
        storage,
        read_identities(source, context.ask, events=context.events),
        elsewhere=not _same_file(identity, context.access.identity_file),
        now=context.now,
        host=host,
    )
    if any(not each.elsewhere for each in proven):
        context.events.warn(
            f"{identity} is the host's own identity_file: this proves nothing about a copy elsewhere",
            hint="Prove the copy in the safe: drkit key prove --identity FILE.",
        )
    return ProveResult(proven, context.warnings)


@dataclass(frozen=True)
class KitResult:
    """The recovery kit, and the program beside the repository that it installs drkit from."""

    page: str
    program: Program | None = None
    warnings: list[Warned] = field(default_factory=list)


def kit(context: Context, *, html: bool, file: Path | None = None, with_program: bool = False) -> KitResult:
    """Make the recovery kit, as text or HTML, and write it to `file` (0600) where one is named.

    `with_program`: let it install drkit from the program beside the repository, which is stored unless it is
    already there. Raises DrkitError for a file that exists, and for a drkit that cannot be packed or stored.
    """
    if file is not None:
        require_new(file, DrkitError)
    repository, program = context.repository, None
    if with_program:
        program = store_program(repository.storage, pack_program(context.events))
    elif stored := stored_programs(repository.storage):
        # What the storage says of them is not trusted, so the hash of one is known only where it is packed again.
        context.events.warn(
            f"this recovery kit does not say how to install drkit from {repository.storage.url}/{stored[-1]}",
            hint="Run drkit key kit --with-program for one that does.",
        )
    made = make_kit(repository, context.access, now=context.now, program=program, helpers=context.helper_ids)
    page = kit_html(made) if html else kit_text(made)
    if file is not None:
        write_new(file, page)
        context.events.note(f"wrote the recovery kit to {file}")
    return KitResult(page, program, context.warnings)


def unlock(context: Context, file: Path, passphrase_file: Path | None = None) -> Identity:
    """Write to `file` (0600) the identity that the repository keeps under a passphrase, and return it. Needs no key.

    Raises UsageError for a file that exists.
    """
    require_new(file)
    access = context.access
    passphrase = existing_passphrase(
        passphrase_file, f"the identity in {access.url}", context.asker, environ=context.environ, events=context.events
    )
    identity = unlocked_identity(open_access(access, events=context.events), passphrase, context.events)
    write_new(file, identity.file_text(context.now))
    return identity


@dataclass(frozen=True)
class PassphraseResult:
    """`left`: copies that an earlier version stored; whose identities they are is unknown."""

    recipient: str
    left: list[ListedWrap]
    warnings: list[Warned] = field(default_factory=list)


def passphrase(context: Context, file: Path | None = None) -> PassphraseResult:
    """Keep the identity in the repository under a passphrase, or under a new one.

    It is in `file`, else in the file that $DRKIT_PASSPHRASE_FILE names, else asked for.
    """
    file = passphrase_file(file, context.environ, context.events)
    if file is None and context.asker is None:
        raise UsageError("there is no terminal to ask for the passphrase", hint="Give --passphrase-file FILE.")
    repository = context.repository
    left = replace_escrow(repository, new_passphrase(file, "New passphrase", context.asker, events=context.events))
    for wrap in left:
        context.events.warn(
            f"{wrap.key} was stored by an earlier version: whose identity it is, and whether it opens with an old "
            "passphrase, is not known"
        )
    return PassphraseResult(repository.identities[0].recipient, left, context.warnings)


# --- on a repository that is open


def key_list(repository: Repository) -> KeyList:
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
    """Let one more recipient open everything. A rerun finishes an interrupted one."""
    recipient = parse_recipient(recipient, source="the recipient")
    if not is_name(name):
        raise UsageError(f"--name is not a printable text of at most {MAX_NAME} characters", hint="Give a short name.")
    made = grant(repository, [Holder(recipient, name)])
    return Changed(made, 0, len(read_custody(repository).purposes), [recipient])


def remove_recipient(repository: Repository, reference: str) -> Changed:
    """Delete the wraps of one recipient, named by public key or by name. A rerun finishes an interrupted one.

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
    found = [
        holder
        for holder in custody.holders()
        if reference in (holder.recipient, holder.name) or reference.startswith(f"{holder.recipient} ")
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{len(found)} recipients are named {reference}", hint="Give the public key instead.")
    if custody.unlabelled:
        raise DrkitError(
            f"{reference} is not a recipient that this repository knows by name, and {len(custody.unlabelled)} wraps "
            "of an earlier version name nobody",
            hint="Take it out of recipients_file, then run drkit key rewrap.",
        )
    raise DrkitError(f"{reference} is not a recipient of this repository", hint="See drkit key list.")


def rewrap_keys(repository: Repository, recipients: Sequence[str]) -> Changed:
    """Make the repository's recipients those given, as a backup will use them. New wraps are made before old ones go.

    Idempotent; a rerun finishes an interrupted one. Raises DrkitError, and changes nothing, unless an
    identity at hand is among the recipients.
    """
    require_identity(repository, "wrapping the keys again")
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


def write_host_key(repository: Repository, path: Path) -> None:
    write_new(path, format_meta_key(repository.meta.meta_key, repository.id))


def unlocked_identity(storage: Storage, passphrase: str, events: Events = LOGGED) -> Identity:
    """Return the identity that a repository keeps under this passphrase. Warns where it opens nothing."""
    identity = open_escrow(storage, passphrase)
    try:
        Repository.open(storage, [identity])
    except AccessDenied as error:
        events.warn(f"the identity under this passphrase is not, or no longer, a recipient: {error.message}")
    return identity


def prove_identities(
    storage: Storage, identities: Sequence[Identity], *, elsewhere: bool, now: datetime, host: str
) -> list[Proven]:
    """Open every key, and a piece of data under each, with each identity alone; then record it as a proof.

    Identities of other repositories are skipped; one must be for this repository. The policy's own
    identity_file proves nothing about a copy `elsewhere`, and the proof says so. Raises AccessDenied or IntegrityError,
    and records nothing for that identity, if it cannot open something.
    """
    Repository.open(storage, identities)  # at least one of them is for this repository, or this says why not
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
