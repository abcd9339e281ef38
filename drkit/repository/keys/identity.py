"""age keys: they decide who can open a repository. The only module that uses an age library."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from datetime import datetime

import pyrage

from drkit.errors import AccessDenied, UsageError

_SECRET_PREFIX = "AGE-SECRET-KEY-1"
_WHAT_IDENTITIES_ARE = f"An identity file has a line that starts with {_SECRET_PREFIX}; age-keygen makes one."
_FOREIGN_IDENTITIES = {
    "PRIVATE KEY-----": "an SSH or TLS private key",
    "AGE-PLUGIN-": "an identity of an age plugin",
    "AGE-SECRET-KEY-PQ-": "a post-quantum age identity",
}
_FOREIGN_RECIPIENTS = ("ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-")

_FILE_MARK = b"age-encryption.org/v1\n"
_ARMOR_MARK = b"-----BEGIN AGE ENCRYPTED FILE-----"
_SCRYPT = re.compile(rb"-> scrypt [A-Za-z0-9+/]+ ([0-9]{1,9})\n")
_HEADER_SIZE = 1024
_MAX_WORK = 22
"""The highest scrypt work factor accepted, as a power of two: age's own limit. 22 needs 4 GiB of memory."""


class Identity:
    """A private X25519 key. It is never printed: `repr` shows the public half only."""

    def __init__(self, key: pyrage.x25519.Identity) -> None:
        self._key = key

    @property
    def recipient(self) -> str:
        return str(self._key.to_public())

    def secret_text(self) -> str:
        """The `AGE-SECRET-KEY-1…` line: for the identity file and nothing else."""
        return str(self._key)

    def file_text(self, now: datetime) -> str:
        """What an identity file holds."""
        return (
            f"# drkit identity, made {now:%Y-%m-%d}: opens the backups. Keep a copy away from this host.\n"
            f"# public key: {self.recipient}\n{self.secret_text()}\n"
        )

    def unwrap(self, wrapped: bytes) -> bytes | None:
        """Return the plaintext of an age file, or None if it is not for this identity."""
        try:
            return bytes(pyrage.decrypt(wrapped, [self._key]))
        except pyrage.DecryptError:
            return None

    def __repr__(self) -> str:
        return f"Identity({self.recipient})"


def generate_identity() -> Identity:
    return Identity(pyrage.x25519.Identity.generate())


def parse_identity(text: str, *, source: str) -> Identity:
    """Read the first secret key of an age identity file."""
    return parse_identities(text, source=source)[0]


def parse_identities(text: str, *, source: str) -> list[Identity]:
    """Read every secret key of an age identity file. Errors never quote the text."""
    lines = [line.strip() for line in text.splitlines()]
    for line in lines:
        for mark, kind in _FOREIGN_IDENTITIES.items():
            if mark in line:
                raise AccessDenied(f"{source} holds {kind}, which drkit does not open", hint=_WHAT_IDENTITIES_ARE)
    secrets = [line for line in lines if line.startswith(_SECRET_PREFIX)]
    if not secrets:
        raise AccessDenied(f"{source} holds no age identity", hint=_WHAT_IDENTITIES_ARE)
    try:
        return [Identity(pyrage.x25519.Identity.from_str(secret)) for secret in dict.fromkeys(secrets)]
    except pyrage.IdentityError:
        raise AccessDenied(
            f"the age identity in {source} is damaged", hint="Use another copy of the identity: escrow or recovery kit."
        ) from None


def parse_recipients(text: str, *, source: str) -> list[str]:
    """Read an age recipients file: an `age1…` on each line, `#` comments. Raises UsageError naming the line."""
    recipients: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        check_recipient(entry, source=f"{source}:{number}")
        if entry not in recipients:
            recipients.append(entry)
    if not recipients:
        raise UsageError(
            f"{source} names no recipient", hint="Put the public key (age1…) of each key holder on a line of its own."
        )
    return recipients


def check_recipient(text: str, *, source: str) -> None:
    """Raise UsageError naming `source` unless the text is an age recipient."""
    if text.startswith(_SECRET_PREFIX):
        raise UsageError(f"{source} is a secret key, expected a public one", hint="Recipients start with age1.")
    if text.startswith(_FOREIGN_RECIPIENTS):
        raise UsageError(
            f"{source} is an SSH key, which drkit does not encrypt to",
            hint="Make an age key with age-keygen, and use its public half, age1….",
        )
    try:
        pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError:
        raise UsageError(f"{source}: {text!r} is not an age recipient", hint="Recipients start with age1.") from None


def wrap(plain: bytes, recipients: Sequence[str]) -> bytes:
    """Return an age file that any one of `recipients` opens."""
    return bytes(pyrage.encrypt(plain, [pyrage.x25519.Recipient.from_str(entry) for entry in recipients]))


def wrap_with_passphrase(plain: bytes, passphrase: str) -> bytes:
    """Return an age file under a passphrase (scrypt)."""
    return bytes(pyrage.passphrase.encrypt(plain, passphrase))


def unwrap_with_passphrase(wrapped: bytes, passphrase: str, *, source: str) -> bytes | None:
    """Return the plaintext of a binary or armored age file, or None if the passphrase is wrong.

    Raises AccessDenied, before anything is computed, for a file that asks for more work than age itself would do.
    """
    check_work_factor(wrapped, source=source)
    try:
        return bytes(pyrage.passphrase.decrypt(wrapped, passphrase))
    except pyrage.DecryptError as error:
        if "Excessive work" in str(error):
            raise AccessDenied(
                f"{source} was sealed on a much faster machine: here its passphrase would take too long to check",
                hint=f"Open it with age: age -d -o identity.txt {source}.",
            ) from None
        return None


def is_passphrase_protected(data: bytes) -> bool:
    """Whether an identity file is itself an age file, to be opened with a passphrase."""
    return data.startswith((_FILE_MARK, _ARMOR_MARK))


def check_work_factor(wrapped: bytes, *, source: str) -> None:
    """Raise AccessDenied unless this is an age file under a passphrase, with a work factor within the limit."""
    header = wrapped[:_HEADER_SIZE]
    if wrapped.startswith(_ARMOR_MARK):
        body = b"".join(wrapped.split(b"-----")[2].split())[:_HEADER_SIZE] if wrapped.count(b"-----") > 1 else b""
        try:
            header = base64.b64decode(body[: len(body) // 4 * 4], validate=True)
        except ValueError:
            header = b""
    if not header.startswith(_FILE_MARK) or (found := _SCRYPT.match(header, len(_FILE_MARK))) is None:
        raise AccessDenied(
            f"{source} is not an age file under a passphrase",
            hint="Make one with: age -p -o identity.age identity.txt.",
        )
    if int(found[1]) > _MAX_WORK:
        raise AccessDenied(
            f"{source} asks for a scrypt work factor of 2^{int(found[1])}, more than the limit 2^{_MAX_WORK}",
            hint="Use another copy of the identity: no honest age file asks for so much work.",
        )
