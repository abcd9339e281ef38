"""`drkit key list`, `add`, `remove`, `rewrap`, `host-key`, `prove`, `kit`, `unlock` and `passphrase`."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from drkit.cli import output
from drkit.cli.options import PassphraseFile, verb
from drkit.cli.run import Run
from drkit.errors import counted
from drkit.operations import keys
from drkit.operations.keys import Changed, KeyList, ListedHolder, Proven
from drkit.report.recovery_kit import fingerprint
from drkit.repository.keys.identity import shown_recipient

app = typer.Typer(no_args_is_help=True)


class KitFormat(StrEnum):
    text = "text"
    html = "html"


@app.command("list")
@verb()
def list_(run: Run) -> None:
    """List who opens the repository, and when that was last proven."""
    found = keys.list_keys(run.context)
    if run.json:
        recipients = [
            asdict(holder) | {"fingerprint": fingerprint(holder.recipient), "complete": holder.complete(found.keys)}
            for holder in found.holders
        ]
        output.print_json(
            {
                "keys": found.keys,
                "recipients": recipients,
                "unlabelled_wraps": found.unlabelled,
                "passphrase_copies": [wrap.holder.recipient if wrap.holder else None for wrap in found.escrows],
                "damaged": [error.object_name for error in found.damaged_proofs],
            }
        )
    else:
        _print_list(found)
    run.end(*found.damaged_proofs)


def _print_list(found: KeyList) -> None:
    rows = [
        (shown_recipient(each.recipient), each.name, _opens(each, found.keys), _proven(each)) for each in found.holders
    ]
    output.print_table(("RECIPIENT", "NAME", "OPENS", "PROVEN"), rows)
    if found.unlabelled:
        output.print_line(f"and {counted(found.unlabelled, 'wrap')} without a label, made by an earlier version")
    for wrap in found.escrows:
        whose = shown_recipient(wrap.holder.recipient) if wrap.holder else "an identity that an earlier version stored"
        output.print_line(f"kept under a passphrase: {whose}")


def _opens(holder: ListedHolder, keys: int) -> str:
    return f"all {keys} keys" if holder.complete(keys) else f"incomplete: opens {holder.opens} of {keys} keys"


def _proven(holder: ListedHolder) -> str:
    if holder.proven is None:
        return "never"
    return holder.proven[:19] + "Z" + ("" if holder.proven_elsewhere else " (the host's own file)")


@app.command()
@verb()
def add(
    run: Run,
    recipient: Annotated[str, typer.Argument(metavar="age1...", help="The public key of the new key holder.")],
    name: Annotated[str, typer.Option("--name", help="What people call the holder: safe, deputy, head office.")] = "",
) -> None:
    """Let one more recipient open everything that is stored.

    Needs an identity.
    """
    changed = keys.add(run.context, recipient, name)
    _print_changed(
        run,
        changed,
        f"{shown_recipient(changed.recipients[0])} opens all {changed.keys} keys: {counted(changed.made, 'wrap')} made",
    )


@app.command()
@verb()
def remove(
    run: Run,
    recipient: Annotated[str, typer.Argument(metavar="age1...|NAME", help="The public key, or its name.")],
) -> None:
    """Delete a recipient's wraps.

    This does not revoke access to earlier copies. Needs another identity.
    """
    changed = keys.remove(run.context, recipient)
    _print_changed(
        run, changed, f"{shown_recipient(changed.recipients[0])} is removed: {counted(changed.removed, 'wrap')} deleted"
    )


@app.command()
@verb()
def rewrap(run: Run) -> None:
    """Give every key to all recipients in the recipients_file.

    Needs an identity of one of them. It takes the keys from nobody whom the repository knows: see drkit key remove.
    """
    changed = keys.rewrap(run.context)
    text = (
        f"all {changed.keys} keys are wrapped for {counted(len(changed.recipients), 'recipient')}: "
        f"{counted(changed.made, 'wrap')} made, {changed.removed} deleted"
    )
    _print_changed(run, changed, text)


def _print_changed(run: Run, changed: Changed, text: str) -> None:
    with run.reporting(text):
        if run.json:
            fields = asdict(changed)
            del fields["warnings"]
            output.print_json({"status": "ok", **fields})
        elif run.talks:
            output.print_line(text)


@app.command("host-key")
@verb()
def host_key(
    run: Run, file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it; must not exist.")]
) -> None:
    """Write the meta key for a host that may only back up.

    The file (0600) becomes its meta_key_file. It opens names and sizes of all backups, but no content and no policy.
    """
    keys.host_key(run.context, file)
    with run.reporting(f"{file} is written"):
        if run.json:
            output.print_json({"status": "ok", "meta_key_file": str(file)})
        elif run.talks:
            output.print_line(f"wrote {file} (mode 0600): name it as meta_key_file, without identity_file")
            output.note("it opens names and sizes of all backups, but no content and no policy")


@app.command()
@verb()
def prove(
    run: Run,
    identity: Annotated[Path, typer.Option("--identity", metavar="FILE", help="An identity brought from elsewhere.")],
) -> None:
    """Prove that an identity opens every key, and record it.

    A piece of data under each key is read too.
    """
    result = keys.prove(run.context, identity)
    with run.reporting(f"{counted(len(result.proven), 'proof')} recorded"):
        if run.json:
            output.print_json({"status": "ok", "proven": [_proof_document(each) for each in result.proven]})
        elif run.talks:
            for each in result.proven:
                output.print_line(
                    f"{each.recipient} opens all {each.keys} keys; {counted(each.chunks, 'piece')} of data read back\n"
                    f"recorded as proof {each.proof.number}, sha256 {each.proof.digest}"
                )


def _proof_document(proven: Proven) -> dict[str, object]:
    fields = asdict(proven)
    proof = fields.pop("proof")
    return fields | {"proof": proof["number"], "time": proof["time"], "sha256": proof["digest"]}


@app.command()
@verb()
def kit(
    run: Run,
    file: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Where to write it, mode 0600. Default: stdout."),
    ] = None,
    format_: Annotated[
        KitFormat | None,
        typer.Option("--format", help="Default: html for a file that ends in .html, else text."),
    ] = None,
    with_program: Annotated[
        bool,
        typer.Option(
            "--with-program", help="Store drkit itself beside the repository, and name it in the kit (some 40 MB)."
        ),
    ] = False,
) -> None:
    """Print the recovery kit again.

    One page, with a blank for the secret, which it never contains.
    """
    if format_ is None:
        format_ = KitFormat.html if file is not None and file.suffix == ".html" else KitFormat.text
    made = keys.kit(run.context, html=format_ is KitFormat.html, file=file, with_program=with_program)
    with run.reporting(f"the recovery kit is written to {file}" if file else "the recovery kit is made"):
        if run.json:
            written = {"kit_file": str(file)} if file else {"recovery_kit": made.page}
            program = made.program._asdict() if made.program else None
            output.print_json({"status": "ok", "format": format_.value, "program": program, **written})
        elif file is None:
            output.print_line(made.page.rstrip())


@app.command()
@verb()
def unlock(
    run: Run,
    file: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Where to write it; must not exist.")],
    passphrase_file: PassphraseFile = None,
) -> None:
    """Write the identity kept under a passphrase to a file.

    The file has mode 0600. Needs no key.
    """
    identity = keys.unlock(run.context, file, passphrase_file)
    with run.reporting(f"{file} is written"):
        if run.json:
            output.print_json({"status": "ok", "identity_file": str(file), "recipient": identity.recipient})
        elif run.talks:
            output.print_line(f"wrote the identity {identity.recipient} to {file} (mode 0600)")


@app.command()
@verb()
def passphrase(run: Run, passphrase_file: PassphraseFile = None) -> None:
    """Keep the identity under a passphrase, or change it.

    The identity is kept in the repository.
    """
    kept = keys.passphrase(run.context, passphrase_file)
    with run.reporting("the new passphrase is set"):
        if run.json:
            output.print_json({"status": "ok", "recipient": kept.recipient, "left": [wrap.key for wrap in kept.left]})
        elif run.talks:
            output.print_line(f"the identity {kept.recipient} is kept under the new passphrase")
