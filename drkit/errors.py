"""The exceptions that drkit raises, and the exit code of each.

    DrkitError                     1   any other failure
    ├── UsageError                 2   the command line is wrong
    ├── PolicyError                2   the policy is wrong
    ├── PartialFailure             3   some targets failed, the others are safe
    ├── EngineUnavailable         14   no Docker Engine answers
    ├── CaptureFailed             15   a target could not be read completely
    ├── RetentionRefused          23   a prune or forget would remove what must stay
    └── RepositoryError            1   the repository, its storage or its keys; it ends a run, whatever the target
        ├── RepositoryNotFound    10   no repository at this URL
        ├── RepositoryLocked      11   fenced by a prune, or another writer holds a single-writer store
        ├── AccessDenied          12   the storage or the keys refuse us
        ├── StorageUnavailable    13   the storage does not answer, or failed while it did
        │   └── StorageFull       13   no space, no inodes, over quota
        ├── IntegrityError        20   stored or restored bytes are not what was written
        ├── ObjectNotFound         1   no object under this key (internal)
        └── ObjectExists           1   a create-only write met an object (internal)

A caller must treat every non-zero code as a failure, also one it does not know. Codes are added, never renumbered.
A message is lower case, says what failed on which object and why; `hint` is one sentence, the next thing to type.
"""

from __future__ import annotations

from typing import ClassVar


def reason(error: OSError) -> str:
    """Return the system's reason for a failed call in lower case, to follow a colon in one of our messages."""
    return (error.strerror or str(error)).lower()


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number and what it counts, as messages say it: 1 pack, 2 packs. `plural`: where it is not that."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def about(title: str, message: str) -> str:
    """Return a message that begins with what it is about, named once."""
    return message if message.startswith(f"{title}: ") else f"{title}: {message}"


_UNRECORDED = "for a reason that was shown, but is not recorded: it may quote a secret"


class DrkitError(Exception):
    """Any failure that drkit explains itself; everything else that escapes is a bug."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None, said: str = "") -> None:
        """`said`: the part of the message that another program said, which may have quoted a secret."""
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.said = said

    @property
    def own_words(self) -> str:
        """The message without what another program said: so it may stand where the meta key alone opens it."""
        return self.message.replace(self.said, _UNRECORDED) if self.said else self.message

    def __str__(self) -> str:
        return self.message  # which callers may have extended on the way up


class UsageError(DrkitError):
    """The command line is wrong, or names something that cannot be used."""

    exit_code = 2


class PolicyError(DrkitError):
    """The policy is wrong. The message has one line per problem."""

    exit_code = 2


class PartialFailure(DrkitError):
    """Some of what was asked for failed; the rest is done and safe."""

    exit_code = 3


class EngineUnavailable(DrkitError):
    """No Docker Engine answers."""

    exit_code = 14


class CaptureFailed(DrkitError):
    """A target could not be read completely."""

    exit_code = 15


class RetentionRefused(DrkitError):
    """A prune or forget would remove what must stay, or cannot tell what is needed."""

    exit_code = 23


class RepositoryError(DrkitError):
    """Something is wrong with the repository, its storage or its keys, so every other target would fail too."""


class RepositoryNotFound(RepositoryError):
    """There is no repository at this URL."""

    exit_code = 10


class RepositoryLocked(RepositoryError):
    """Fenced by a prune, or another writer is at work in a store that takes one at a time."""

    exit_code = 11


class AccessDenied(RepositoryError):
    """The storage or the keys refuse us."""

    exit_code = 12


class StorageUnavailable(RepositoryError):
    """The storage does not answer, or failed while it did."""

    exit_code = 13


class StorageFull(StorageUnavailable):
    """No space, no inodes, or over quota."""


class IntegrityError(RepositoryError):
    """Stored or restored bytes are not what was written.

    `object_name` is the storage key or the file that is wrong, for reports that list what is damaged.
    """

    exit_code = 20

    def __init__(self, message: str, *, hint: str | None = None, object_name: str = "") -> None:
        super().__init__(message, hint=hint)
        self.object_name = object_name


class ObjectNotFound(RepositoryError):
    """No object is under this key."""


class ObjectExists(RepositoryError):
    """A create-only write met an object under its key."""
