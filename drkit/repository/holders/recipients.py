"""Whether a recipients_file still names everybody who opens a repository.

A run wraps its data key for the recipients in that file, and nothing else decides who opens the run. So a file that was
replaced, or that lost a line, would make backups that a holder of the repository does not open, and retention would
drop those that they do.

Who the holders are, the labels of the meta key tell. They are sealed, so whoever can only write to the storage cannot
forge one, but can delete it: so callers may pass the holders that they remember.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from shlex import quote

from drkit.errors import AccessDenied, counted
from drkit.repository.holders.custody import read_custody
from drkit.repository.keys.identity import shown_recipient
from drkit.repository.keys.labels import Holder
from drkit.repository.repository import Repository


@dataclass(frozen=True)
class Compared:
    """How a recipients_file, given as its recipients, differs from the holders of a repository.

    `unlabelled` counts the wraps of the meta key whose holders nobody here knows.
    """

    file: str
    holders: list[Holder]
    lost: list[Holder]
    """Holders that the file does not name."""
    added: list[str]
    """Recipients in the file that are not known to open the repository."""
    gone: list[str]
    """Holders that were remembered, are none any more, and that the file does not name either."""
    unlabelled: int

    @property
    def loss(self) -> AccessDenied | None:
        """The error for a file that lost a holder. Its hint hands the history to nobody."""
        if not self.lost:
            return None
        lost = ", ".join(_shown(holder) for holder in self.lost)
        instead = f"; it names {', '.join(map(shown_recipient, self.added))} instead" if self.added else ""
        count = len(self.lost)
        verb = "opens this repository, and would" if count == 1 else "open this repository, and would"
        return AccessDenied(
            f"{self.file} does not name {lost}, which {verb} not open what is backed up now{instead}",
            hint=f"Put the missing line{'s' if count > 1 else ''} back into {self.file}; or, to take the keys from a "
            f"recipient on purpose, run drkit key remove {quote(self.lost[0].recipient)} where the identity is.",
        )

    @property
    def addition(self) -> str | None:
        """The warning about those who open what is backed up from now on, and perhaps nothing earlier."""
        if not self.added:
            return None
        named = ", ".join(map(shown_recipient, self.added))
        verb = "opens" if len(self.added) == 1 else "open"
        if self.unlabelled:
            known = f"{counted(self.unlabelled, 'wrap')} of the meta key have no label, so nobody here knows whether"
            return f"{self.file} names {named}, which {verb} what is backed up now: {known} that is a recipient of old"
        return f"{self.file} names {named}, which {verb} what is backed up now, and not the earlier backups"


def compare_recipients(
    repository: Repository, recipients: Sequence[str], file: str, remembered: Collection[str] = ()
) -> Compared:
    """Compare the recipients in `file` with those who open the repository; `remembered` did so when a host last looked.

    Where a wrap has no label, somebody remembered may be behind it, and counts as a holder.
    """
    custody = read_custody(repository, meta_key_alone=True)
    holders = {holder.recipient: holder for holder in custody.holders()}
    unlabelled = len(custody.unlabelled)
    if unlabelled or not holders:
        holders = {recipient: Holder(recipient) for recipient in remembered} | holders
    return Compared(
        file=file,
        holders=sorted(holders.values()),
        lost=[holder for recipient, holder in sorted(holders.items()) if recipient not in recipients],
        added=[recipient for recipient in recipients if recipient not in holders],
        gone=sorted(set(remembered) - set(holders) - set(recipients)),
        unlabelled=unlabelled,
    )


def _shown(holder: Holder) -> str:
    return f"{shown_recipient(holder.recipient)} ({holder.name})" if holder.name else shown_recipient(holder.recipient)
