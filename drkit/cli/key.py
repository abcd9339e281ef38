"""`drkit key list`, `add`, `remove`, `rewrap`, `host-key`, `prove`, `kit`, `unlock` and `passphrase`."""

from __future__ import annotations

import os
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from drkit.cli import output
from drkit.cli.options import Json, LogFormat, Logging, PolicyFile, Quiet, RepositoryUrl, Verbose
from drkit.cli.session import Session
from drkit.errors import UsageError

if TYPE_CHECKING:
    from drkit.operations.keys import Changed, KeyList, ListedHolder

app = typer.Typer(no_args_is_help=True, help="Who opens the backups, and the proof that they still can.")

PassphraseFile = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--passphrase-file", help="The file of the passphrase. Default: ask on the terminal."),
]


class KitFormat(StrEnum):
    text = "text"
    html = "html"


@app.command("list")
def list_(
    policy: PolicyFile = None,
    repository: RepositoryUrl = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_format: Logging = LogFormat.text,
) -> None:
    """List who opens the repository, how many of its keys, and when that was last proven."""
    from drkit.operations.keys import list_keys
    from drkit.report.recovery_kit import fingerprint

    with Session(policy, repository, quiet=quiet, verbose=verbose, log_format=log_format) as session:
        found = list_keys(session.repository)
        if json:
            recipients = [
                asdict(holder) | {"fingerprint": fingerprint(holder.recipient), "complete": holder.complete(found.keys)}
                for holder in found.holders
            ]
            escrows = [wrap.holder.recipient if wrap.holder else None for wrap in found.escrows]
            output.print_json(
                {
                    "keys": found.keys,
                    "recipients": recipients,
                    "unlabelled_wraps": found.unlabelled,
                    "passphrase_copies": escrows,
                    "damaged": [error.object_name for error in found.damaged_proofs],
                }
            )
        else:
            _print_list(found)
        for error in found.damaged_proofs:
            output.fail(error)
        if found.damaged_proofs:
            raise typer.Exit(found.damaged_proofs[0].exit_code)


def _print_list(found: KeyList) -> None:
    rows = [(each.recipient, each.name, _opens(each, found.keys), _proven(each)) for each in found.holders]
    output.print_table(("RECIPIENT", "NAME", "OPENS", "PROVEN"), rows)
    if found.unlabelled:
        output.print_line(f"and {found.unlabelled} wraps of an earlier version that name nobody")
        output.note("drkit key rewrap gives every wrap a name, and keeps those that recipients_file lists")
    for wrap in found.escrows:
        whose = wrap.holder.recipient if wrap.holder else "an identity that an earlier version stored"
        output.print_line(f"kept under a passphrase: {whose}")


def _opens(holder: ListedHolder, keys: int) -> str:
    return f"all {keys} keys" if holder.complete(keys) else f"incomplete: opens {holder.opens} of {keys} keys"


def _proven(holder: ListedHolder) -> str:
    if holder.proven is None:
        return "never"
    return holder.proven[:19] + "Z" + ("" if holder.proven_elsewhere else " (the host's own file)")


@app.command()
def add(
    recipient: Annotated[str, typer.Argument(metavar="age1...", help="The public key of the new key holder.")],
    name: Annotated[str, typer.Option("--name", help="What people call it: safe, deputy, head office.")] = "",
    policy: PolicyFile = None,
    repository: RepositoryUrl = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_format: Logging = LogFormat.text,
) -> None:
    """Let one more recipient open everything that is stored. Needs an identity."""
    from drkit.operations.keys import add_recipient

    with Session(policy, repository, quiet=quiet, verbose=verbose, log_format=log_format) as session:
        changed = add_recipient(session.repository, recipient, name)
        _tell_recipients_file(session, recipient, belongs=True)
        text = f"{recipient} opens all {changed.keys} keys: {changed.made} wraps made"
        _print_changed(changed, text, json=json, quiet=quiet)


@app.command()
def remove(
    recipient: Annotated[str, typer.Argument(metavar="age1...|NAME", help="The public key, or its name.")],
    policy: PolicyFile = None,
    repository: RepositoryUrl = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_format: Logging = LogFormat.text,
) -> None:
    """Delete a recipient's wraps. This does not revoke what was copied before. Needs another identity."""
    from drkit.operations.keys import remove_recipient

    with Session(policy, repository, quiet=quiet, verbose=verbose, log_format=log_format) as session:
        changed = remove_recipient(session.repository, recipient)
        [removed] = changed.recipients
        _tell_recipients_file(session, removed, belongs=False)
        _print_changed(changed, f"{removed} is removed: {changed.removed} wraps deleted", json=json, quiet=quiet)
        output.warn(
            "this does not revoke: who copied the repository, or a key from it, still opens what was stored until now",
            hint="If that must not be, make a new repository with new keys, and delete this one and its copies.",
        )


def _tell_recipients_file(session: Session, recipient: str, *, belongs: bool) -> None:
    """Warn when the next backup would undo what was just done."""
    from drkit.access.access import read_recipients

    path = session.access.recipients_file
    if path is None or not path.exists() or (recipient in read_recipients(path)) == belongs:
        return
    if belongs:
        output.warn(
            f"{path} does not name {recipient}: it does not open what later backups add",
            hint=f"Add it there: echo {recipient} >> {path}.",
        )
    else:
        output.warn(f"{path} still names {recipient}: it opens what later backups add", hint="Delete its line there.")


@app.command()
def rewrap(
    policy: PolicyFile = None,
    repository: RepositoryUrl = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_format: Logging = LogFormat.text,
) -> None:
    """Make the repository's recipients those of the policy's recipients_file. Needs an identity of one of them."""
    from drkit.access.access import read_recipients
    from drkit.operations.keys import rewrap as run

    with Session(policy, repository, quiet=quiet, verbose=verbose, log_format=log_format) as session:
        changed = run(session.repository, read_recipients(session.required_policy.repository.recipients_file))
        text = (
            f"{len(changed.recipients)} recipients open all {changed.keys} keys: "
            f"{changed.made} wraps made, {changed.removed} deleted"
        )
        _print_changed(changed, text, json=json, quiet=quiet)


def _print_changed(changed: Changed, text: str, *, json: bool, quiet: bool) -> None:
    if json:
        output.print_json({"status": "ok", **asdict(changed)})
    elif not quiet:
        output.print_line(text)


@app.command("host-key")
def host_key(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it; must not exist.")],
    policy: PolicyFile = None,
    repository: RepositoryUrl = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_format: Logging = LogFormat.text,
) -> None:
    """Write the meta key (0600) for a host that backs up and cannot read backups: its meta_key_file."""
    from drkit.operations.keys import write_host_key

    with Session(policy, repository, quiet=quiet, verbose=verbose, log_format=log_format) as session:
        write_host_key(session.repository, file)
        if json:
            output.print_json({"status": "ok", "meta_key_file": str(file)})
        elif not quiet:
            output.print_line(f"wrote {file} (mode 0600): name it as meta_key_file, without identity_file")
            output.note("it opens names, sizes and policies of all backups, and no content")


@app.command()
def prove(
    identity: Annotated[Path, typer.Option("--identity", metavar="FILE", help="An identity brought from elsewhere.")],
    policy: PolicyFile = None,
    repository: RepositoryUrl = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_format: Logging = LogFormat.text,
) -> None:
    """Prove that an identity opens every key and data under each, and record it in the repository."""
    from drkit.access.identities import IdentitySource
    from drkit.host.name import host_id
    from drkit.operations.keys import prove as run

    with Session(policy, repository, quiet=quiet, verbose=verbose, log_format=log_format) as session:
        # The policy's passphrase is that of the host's own identity, not of the one that was brought.
        passphrase_file = os.environ.get("DRKIT_PASSPHRASE_FILE")
        source = IdentitySource(identity, passphrase_file=Path(passphrase_file) if passphrase_file else None)
        session.tell_exposed(identity)
        host = host_id(session.policy) if session.policy else ""
        proven = run(session.access, source, session.ask_passphrase, now=session.now, host=host)
        if json:
            output.print_json({"status": "ok", "proven": [_proof_document(asdict(each)) for each in proven]})
        for each in proven:
            if not (json or quiet):
                output.print_line(
                    f"{each.recipient} opens all {each.keys} keys; {each.chunks} pieces of data read back\n"
                    f"recorded as proof {each.proof.number}, sha256 {each.proof.digest}"
                )
            if not each.elsewhere:
                output.warn(
                    f"{identity} is the host's own identity_file: this proves nothing about a copy elsewhere",
                    hint="Prove the copy in the safe: drkit key prove --identity FILE.",
                )


def _proof_document(proven: dict[str, Any]) -> dict[str, Any]:
    proof = proven.pop("proof")
    return proven | {"proof": proof["number"], "time": proof["time"], "sha256": proof["digest"]}


@app.command()
def kit(
    file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("-o", "--output", metavar="FILE", help="Where to write it, mode 0600. Default: stdout."),
    ] = None,
    format_: Annotated[
        Optional[KitFormat],  # noqa: UP045
        typer.Option("--format", help="Default: html for a file that ends in .html, else text."),
    ] = None,
    policy: PolicyFile = None,
    repository: RepositoryUrl = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_format: Logging = LogFormat.text,
) -> None:
    """Print the recovery kit again: one page, with a place for the secret and never the secret."""
    from drkit.report.recovery_kit import kit_html, kit_text, make_kit

    with Session(policy, repository, quiet=quiet, verbose=verbose, log_format=log_format) as session:
        if format_ is None:
            format_ = KitFormat.html if file is not None and file.suffix == ".html" else KitFormat.text
        made = make_kit(session.repository, session.access, now=session.now)
        page = kit_html(made) if format_ is KitFormat.html else kit_text(made)
        if file is not None:
            write_kit(page, file)
        if json:
            written = {"kit_file": str(file)} if file else {"recovery_kit": page}
            output.print_json({"status": "ok", "format": format_.value, **written})
        elif file is None:
            output.print_line(page.rstrip())
        else:
            output.note(f"wrote the recovery kit to {file}")


def write_kit(page: str, file: Path) -> None:
    from drkit.host.private_file import write_new

    write_new(file, page)


@app.command()
def unlock(
    file: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Where to write it; must not exist.")],
    passphrase_file: PassphraseFile = None,
    policy: PolicyFile = None,
    repository: RepositoryUrl = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_format: Logging = LogFormat.text,
) -> None:
    """Write the identity (0600) that the repository keeps under a passphrase. Needs no key."""
    from drkit.host.private_file import write_new
    from drkit.operations.init import identity_text
    from drkit.operations.keys import unlock as run

    with Session(policy, repository, quiet=quiet, verbose=verbose, log_format=log_format) as session:
        if file.exists():
            raise UsageError(f"{file} exists, and is not overwritten", hint="Name another file.")
        identity = run(session.access, session.passphrase(passphrase_file, f"the identity in {session.access.url}"))
        write_new(file, identity_text(identity, session.now))
        if json:
            output.print_json({"status": "ok", "identity_file": str(file), "recipient": identity.recipient})
        elif not quiet:
            output.print_line(f"wrote the identity {identity.recipient} to {file} (mode 0600)")


@app.command()
def passphrase(
    passphrase_file: PassphraseFile = None,
    policy: PolicyFile = None,
    repository: RepositoryUrl = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_format: Logging = LogFormat.text,
) -> None:
    """Keep the identity in the repository under a passphrase, or under a new one."""
    from drkit.repository.holders.custody import replace_escrow

    with Session(policy, repository, quiet=quiet, verbose=verbose, log_format=log_format) as session:
        if passphrase_file is None and session.ask_passphrase is None:
            raise UsageError("there is no terminal to ask for the passphrase", hint="Give --passphrase-file FILE.")
        opened = session.repository
        chosen = session.new_passphrase(passphrase_file, "New passphrase")
        left = replace_escrow(opened, str(chosen))
        if json:
            output.print_json(
                {"status": "ok", "recipient": opened.identities[0].recipient, "left": [wrap.key for wrap in left]}
            )
        elif not quiet:
            output.print_line(f"the identity {opened.identities[0].recipient} is kept under the new passphrase")
        for wrap in left:
            output.warn(
                f"{wrap.key} was stored by an earlier version: whose identity it is, and whether it opens with an old "
                "passphrase, is not known"
            )
