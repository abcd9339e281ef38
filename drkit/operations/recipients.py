"""The recipients of a backup against those who open its repository, and what this host remembers of them."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote

from drkit.operations.context import Context, found_at
from drkit.repository.holders.recipients import Compared, compare_recipients
from drkit.repository.repository import Repository


def compared(context: Context, repository: Repository, recipients: Sequence[str]) -> Compared:
    """Compare what was read from the recipients_file with the repository, and with what this host last saw there."""
    seen = context.state.seen.seen(found := found_at(context.access, repository))
    remembered = seen.holders if seen is not None and seen.is_of(found) else ()
    return compare_recipients(repository, recipients, str(context.access.recipients_file), remembered)


def require_recipients(context: Context, repository: Repository, recipients: Sequence[str]) -> list[str]:
    """Raise AccessDenied unless everybody who opens the repository is among `recipients`; warn of others among them.

    Returns those who open the repository, for the host to remember.
    """
    found = compared(context, repository, recipients)
    if found.loss is not None:
        raise found.loss
    if found.addition is not None:
        context.events.warn(found.addition, hint=addition_hint(found))
    for recipient in found.gone:
        context.events.warn(
            f"{recipient} opened this repository when this host last backed up, and does not any more",
            hint="If nobody ran drkit key remove for it, somebody took its keys from the storage: run drkit key list.",
        )
    return [holder.recipient for holder in found.holders]


def addition_hint(found: Compared) -> str:
    return (
        f"If you do not know that key, take it out of {found.file}; if its owner should open everything, run "
        f"drkit key add {quote(found.added[0])} where the identity is."
    )
