"""`drkit doctor --tamper`: would the backups survive the theft of this host? It plays the thief to find out."""

from __future__ import annotations

from dataclasses import dataclass, field

from drkit.access.opening import open_access
from drkit.errors import DrkitError
from drkit.operations.context import Context
from drkit.storage import LOCK_HINT, Attempt


@dataclass(frozen=True)
class TamperResult:
    """Whether the repository would survive. `reason` and `hint` say why not, and what to do about it."""

    survives: bool
    reason: str = ""
    hint: str = ""
    attempts: list[Attempt] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """Scratch objects that could not be removed."""

    @property
    def error(self) -> DrkitError | None:
        """The error that decides the exit code: None if the repository would survive."""
        if self.survives:
            return None
        return DrkitError(f"a stolen host would cost the backups: {self.reason}", hint=self.hint)


def try_tampering(context: Context) -> TamperResult:
    """Attack scratch objects with the host's own credentials. Nothing of the repository itself is touched."""
    storage = open_access(context.access, events=context.events)
    tried = storage.try_tampering()
    if tried is None:
        return TamperResult(
            False,
            f"{storage.url} is a directory: whoever has taken this host can delete all that is in it",
            "Keep the repository in a bucket with object lock, or a second one that this host cannot write to.",
        )
    attempts, left = tried
    lost = [attempt.what for attempt in attempts if not attempt.survived]
    if not lost:
        return TamperResult(True, attempts=attempts, left=left)
    reason = f"with this host's credentials a thief can {lost[0]}"
    return TamperResult(False, reason, _cure(storage.traits.locks, lost), attempts, left)


def _cure(locks: bool, lost: list[str]) -> str:
    if not locks:
        return "Set repository.lock in the policy, in a bucket that was made with object lock."
    if all("govern" in what or "shorten" in what for what in lost):
        return "Take the right s3:BypassGovernanceRetention from this key, or set repository.lock.mode to compliance."
    return LOCK_HINT
