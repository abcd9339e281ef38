"""`drkit init`: a new repository, its identity, and a second home for that identity; or a mirror of a repository."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from drkit.access.access import Access
from drkit.access.identities import read_identities
from drkit.access.opening import open_access, read_recipients
from drkit.access.passphrases import wanted_passphrase
from drkit.errors import AccessDenied, DrkitError, RepositoryError, StorageUnavailable, UsageError
from drkit.events import Events, Warned
from drkit.host.private_file import require_new, write_new
from drkit.operations.apart import Ours, overlaps_of_policy, require_lasting
from drkit.operations.context import Context, found_at
from drkit.report.program.bundle import Program, pack_program, store_program
from drkit.report.recovery_kit import Kit, kit_html, make_kit
from drkit.repository.keys.identity import Identity, generate_identity, parse_recipient
from drkit.repository.keys.labels import Holder
from drkit.repository.keys.wraps import put_escrow
from drkit.repository.mirror.mirror import create_mirror, open_mirror
from drkit.repository.repository import Repository, require_no_repository
from drkit.storage import LOCK_HINT, Storage, is_s3, local_path
from drkit.storage.probe import Capabilities, probe_storage


@dataclass(frozen=True)
class InitResult:
    """What init created. `second_home`: the identity is not on this host alone.

    `error`: why the program is not stored beside the repository although it was requested; the rest is complete.
    """

    repository_id: str
    url: str
    identity_file: Path | None
    identity_created: bool
    recipients_file: Path
    recipients: list[str]
    second_home: bool
    kit: Kit
    capabilities: Capabilities
    program: Program | None = None
    error: DrkitError | None = None
    warnings: list[Warned] = field(default_factory=list)


def init(
    context: Context,
    *,
    escrow: Sequence[str] = (),
    passphrase_file: Path | None = None,
    kit_file: Path | None = None,
    with_program: bool = False,
    offer_passphrase: bool = True,
) -> InitResult:
    """Create the repository and, where the policy names files that are not there, an identity and a recipients file.

    `escrow`: public keys of further key holders. The identity is stored in the repository too, under the passphrase in
    `passphrase_file`, or one that is entered at the terminal; that question is skipped when `escrow` is given, and
    without `offer_passphrase`.
    `kit_file`: where the recovery kit is written as HTML. Existing files are used and never overwritten.
    `with_program`: store drkit itself beside the repository, and let the kit install it from there; it is packed before
    anything is created, and stored at the end. The store is tested before anything is created: if two writers at once
    are not safe there, the repository takes one at a time. Raises ObjectExists for a repository that exists,
    StorageUnavailable for a store that cannot hold one, DrkitError for a drkit that cannot be packed.
    """
    if kit_file is not None:
        require_new(kit_file)
    passphrase = _passphrase(context, passphrase_file, escrow) if passphrase_file or offer_passphrase else None
    access, now = context.access, context.now
    if access.identity is None or access.recipients_file is None:
        raise UsageError(
            "init needs a place for the keys", hint="Set repository.identity_file and recipients_file in the policy."
        )
    for overlap in overlaps_of_policy(context.required_policy):
        raise overlap.error
    escrow = [parse_recipient(recipient, source="escrow recipient") for recipient in escrow]
    storage, capabilities = _new_place(access, context.events)
    packed = pack_program(context.events) if with_program else None
    new_file = access.identity_file if access.identity_file and not access.identity_file.exists() else None
    identities = (
        [generate_identity()] if new_file else read_identities(access.identity, context.ask, events=context.events)
    )
    recipients = _recipients(access.recipients_file, identities, escrow)
    identity = next(identity for identity in identities if identity.recipient in recipients)
    if new_file:
        write_new(new_file, identity.file_text(now))
    if not access.recipients_file.exists():
        write_new(access.recipients_file, "".join(f"{recipient}\n" for recipient in recipients), 0o644)
    repository = Repository.create(
        storage, identity, recipients, now=now, single_writer=capabilities.unsafe is not None
    )
    storage.keep_reserve()
    if passphrase is not None:
        put_escrow(repository.storage, repository.objects, identity, passphrase)
    _tell_capabilities(storage.url, capabilities, context.events)
    second_home = passphrase is not None or len(recipients) > 1
    if not second_home:
        context.events.warn(
            f"the identity is in one place alone: if {access.identity_file or 'it'} is lost, so is every backup",
            hint="Copy it to a safe place, or add a second one: drkit key add, or drkit key passphrase.",
        )
    program, error = None, None
    if packed is not None:
        try:
            program = store_program(storage, packed)
        except RepositoryError as failure:
            failure.message = f"repository {repository.id.hex()} is made and whole, but {failure.message}"
            error = failure
    kit = make_kit(repository, access, now=now, program=program, helpers=context.helper_ids)
    if kit_file is not None:
        write_new(kit_file, kit_html(kit))
    return InitResult(
        repository_id=repository.id.hex(),
        url=storage.url,
        identity_file=access.identity_file,
        identity_created=new_file is not None,
        recipients_file=access.recipients_file,
        recipients=recipients,
        second_home=second_home,
        kit=kit,
        capabilities=capabilities,
        program=program,
        error=error,
        warnings=context.warnings,
    )


@dataclass(frozen=True)
class InitMirrorResult:
    """`holders` open the mirror, as they open the repository at `source`."""

    repository: Repository
    source: str
    holders: list[Holder]
    capabilities: Capabilities
    warnings: list[Warned] = field(default_factory=list)


def _passphrase(context: Context, file: Path | None, escrow: Sequence[str]) -> str | None:
    if file is None and (context.asker is None or escrow):
        return None
    if file is None:
        context.events.note("The identity that opens the backups should not be on this host alone.")
    question = "Passphrase to keep it in the repository as well"
    return wanted_passphrase(file, question, context.asker, events=context.events)


def init_mirror(context: Context, source_url: str) -> InitMirrorResult:
    """Create a mirror of the repository at `source_url`: the same id and meta key, open to the same holders.

    This host remembers the mirror, so that one in the place of a lost repository is not taken for a stranger's. Raises
    what `init` raises.
    """
    access = context.new_mirror_access(source_url)
    source = context.repository_at(source_url)
    if access.place == context.access_to(source_url).place:
        raise UsageError(
            f"{access.url} cannot be the mirror of itself",
            hint="Name the new place: drkit init --repository PLACE --mirror-of URL.",
        )
    storage, capabilities = _new_place(access, context.events)
    holders = create_mirror(source, storage, now=context.now, single_writer=capabilities.unsafe is not None)
    storage.keep_reserve()
    mirror = open_mirror(source, storage)
    _tell_capabilities(storage.url, capabilities, context.events)
    context.state.seen.remember(found_at(access, mirror), ())
    return InitMirrorResult(mirror, source.storage.url, holders, capabilities, context.warnings)


def _new_place(access: Access, events: Events) -> tuple[Storage, Capabilities]:
    """Open a place that holds no repository yet, and test whether it can hold one. One in memory stays untouched."""
    if not is_s3(access.url):
        require_lasting(Ours("the repository", local_path(access.url)), events)
    storage = open_access(access, create=True, events=events)
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


def _tell_capabilities(url: str, capabilities: Capabilities, events: Events) -> None:
    for remark in capabilities.notes:
        events.note(remark)
    if capabilities.unsafe:
        events.warn(
            f"{url} takes one writer at a time, since {capabilities.unsafe}: a backup or prune refuses to start while "
            "another one works, from whatever host",
            hint="Schedule hosts that share it at different times, or give each host a repository of its own.",
        )


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
