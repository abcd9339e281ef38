"""What this host knows that it stored: whoever looks for it reads this before listing what is there."""

from __future__ import annotations

from drkit.errors import DrkitError
from drkit.host.installation import Installation
from drkit.host.series import newest_records
from drkit.operations.context import Context
from drkit.repository.absence import Expected
from drkit.repository.repository import Repository


def remembered(context: Context, repository: Repository) -> list[Expected]:
    """Return the newest record of each series that this host committed to this very repository, not to its mirror.

    A file that cannot be read is a warning, and no error: the run itself does not need it.
    """
    try:
        return newest_records(Installation(context.state), repository)
    except DrkitError as error:
        context.events.warn(
            f"{error.message}. Whether the newest snapshots of this host are still there was not checked",
            hint=error.hint,
        )
        return []
