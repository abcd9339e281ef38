"""The exceptions that drkit raises, and the exit code of each.

    DrkitError                     1   any other failure
    ├── UsageError                 2   the command line is wrong
    ├── PolicyError                2   the policy is wrong
    ├── PartialFailure             3   some targets failed, the others are safe
    ├── RepositoryNotFound        10   no repository at this URL
    ├── RepositoryLocked          11   fenced by a prune, or another writer holds a single-writer store
    ├── AccessDenied              12   the storage or the keys refuse us
    ├── StorageUnavailable        13   the storage does not answer, or failed while it did
    │   └── StorageFull           13   no space, no inodes, over quota
    ├── EngineUnavailable         14   no Docker Engine answers
    ├── CaptureFailed             15   a target could not be read completely
    ├── IntegrityError            20   stored or restored bytes are not what was written
    ├── RetentionRefused          23   a prune or forget would remove what must stay
    ├── ObjectNotFound             1   no object under this key (internal)
    └── ObjectExists               1   a create-only write met an object (internal)

A caller must treat every non-zero code as a failure, also one it does not know. Codes are added, never renumbered.
A message is lower case, says what failed on which object and why; `hint` is one sentence, the next thing to type.
"""

from __future__ import annotations

from typing import ClassVar


def reason(error: OSError) -> str:
    """Say in lower case what the system says of a failed call, to stand behind a colon in a message of ours."""
    return (error.strerror or str(error)).lower()


class DrkitError(Exception):
    """Any failure that drkit explains itself; everything else that escapes is a bug."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(DrkitError):
    exit_code = 2


class PolicyError(DrkitError):
    exit_code = 2


class PartialFailure(DrkitError):
    exit_code = 3


class RepositoryNotFound(DrkitError):
    exit_code = 10


class RepositoryLocked(DrkitError):
    exit_code = 11


class AccessDenied(DrkitError):
    exit_code = 12


class StorageUnavailable(DrkitError):
    exit_code = 13


class StorageFull(StorageUnavailable):
    pass


class EngineUnavailable(DrkitError):
    exit_code = 14


class CaptureFailed(DrkitError):
    exit_code = 15


class IntegrityError(DrkitError):
    """`object_name` is the storage key or the file that is wrong, for reports that list findings."""

    exit_code = 20

    def __init__(self, message: str, *, hint: str | None = None, object_name: str = "") -> None:
        super().__init__(message, hint=hint)
        self.object_name = object_name


class RetentionRefused(DrkitError):
    exit_code = 23


class ObjectNotFound(DrkitError):
    pass


class ObjectExists(DrkitError):
    pass
