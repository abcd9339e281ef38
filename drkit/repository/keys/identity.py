"""age keys: they decide who can open a repository. The only module that uses an age library."""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pyrage

from drkit.errors import AccessDenied, UsageError

_SECRET_PREFIX = "AGE-SECRET-KEY-1"
_SSH_KEY = re.compile("-----BEGIN OPENSSH PRIVATE KEY-----\n([A-Za-z0-9+/=\\s]+)-----END OPENSSH PRIVATE KEY-----\n?")
_SSH_MAGIC = b"openssh-key-v1\0"
_WHAT_IDENTITIES_ARE = (
    f"An identity file has a line that starts with {_SECRET_PREFIX}, which age-keygen makes, or is an SSH private key "
    "(ed25519 or RSA) in OpenSSH's format without a passphrase."
)
_FOREIGN_IDENTITIES = {
    "PRIVATE KEY-----": "a private key that is not in OpenSSH's format",
    "AGE-PLUGIN-": "an identity of an age plugin",
    "AGE-SECRET-KEY-PQ-": "a post-quantum age identity",
}

_WHAT_RECIPIENTS_ARE = (
    "Take it out. Recipients are X25519 public keys of age, which start with age1 (age-keygen makes them), or SSH "
    "public keys that start with ssh-ed25519 or ssh-rsa."
)
_RECIPIENTS = {
    "age1tagpq1": pyrage.tagpq.Recipient,
    "age1tag1": pyrage.tag.Recipient,
    "age1pq1": None,
    "age1": pyrage.x25519.Recipient,
    "ssh-ed25519 ": pyrage.ssh.Recipient,
    "ssh-rsa ": pyrage.ssh.Recipient,
}
"""By how they start. The first that fits tells the kind: what follows age1 in an X25519 recipient is never a 1."""
_PLUGIN = re.compile("age1([a-z0-9+-]+)1[a-z0-9]+")
_SSH_KINDS = ("ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-")
_SHOWN = 80
"""Characters up to which a recipient is shown whole: X25519 has 62, ed25519 of SSH 80, and RSA up to 1,500."""

_FILE_MARK = b"age-encryption.org/v1\n"
_ARMOR_MARK = b"-----BEGIN AGE ENCRYPTED FILE-----"
_SCRYPT = re.compile(rb"-> scrypt [A-Za-z0-9+/]+ ([0-9]{1,9})\n")
_HEADER_SIZE = 1024
_MAX_WORK = 22
"""The highest scrypt work factor accepted, as a power of two: age's own limit. 22 needs 4 GiB of memory."""


class Identity:
    """A private key, of X25519 or SSH. It is never printed: `repr` shows the public half only."""

    def __init__(self, key: pyrage.x25519.Identity | pyrage.ssh.Identity, recipient: str, secret: str) -> None:
        self._key = key
        self._secret = secret
        self.recipient = recipient

    def secret_text(self) -> str:
        """The `AGE-SECRET-KEY-1…` line, or the text of an SSH key: for the identity file and nothing else."""
        return self._secret

    def file_text(self, now: datetime) -> str:
        """What an identity file holds."""
        if not self._secret.startswith(_SECRET_PREFIX):
            return self._secret  # age takes it for an SSH key by how it begins
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
    return _age_identity(pyrage.x25519.Identity.generate())


def _age_identity(key: pyrage.x25519.Identity) -> Identity:
    return Identity(key, str(key.to_public()), str(key))


def parse_identity(text: str, *, source: str) -> Identity:
    """Read the first secret key of an identity file."""
    return parse_identities(text, source=source)[0]


def parse_identities(text: str, *, source: str) -> list[Identity]:
    """Read every secret key of an identity file: lines of age, and SSH keys. Errors never quote the text."""
    text = text.replace("\r\n", "\n")
    ssh = [_ssh_identity(match, source) for match in _SSH_KEY.finditer(text)]
    lines = [line.strip() for line in _SSH_KEY.sub("", text).splitlines()]
    for line in lines:
        for mark, kind in _FOREIGN_IDENTITIES.items():
            if mark in line:
                raise AccessDenied(f"{source} holds {kind}, which drkit does not open", hint=_WHAT_IDENTITIES_ARE)
    secrets = [line for line in lines if line.startswith(_SECRET_PREFIX)]
    if not secrets and not ssh:
        raise AccessDenied(f"{source} holds no age identity", hint=_WHAT_IDENTITIES_ARE)
    try:
        return [*(_age_identity(pyrage.x25519.Identity.from_str(each)) for each in dict.fromkeys(secrets)), *ssh]
    except pyrage.IdentityError:
        raise AccessDenied(
            f"the age identity in {source} is damaged", hint="Use another copy of the identity: escrow or recovery kit."
        ) from None


def _ssh_identity(key: re.Match[str], source: str) -> Identity:
    try:
        identity = pyrage.ssh.Identity.from_buffer(key[0].encode())
        recipient = _ssh_recipient(base64.b64decode(key[1]))
        if pyrage.decrypt(wrap(b"", [recipient]), [identity]) != b"":
            raise ValueError("the halves of the key do not fit")
    except pyrage.IdentityError as error:
        # The library's words say what kind of key it is, or that a passphrase protects it.
        raise AccessDenied(f"the SSH key in {source} cannot be used: {error}", hint=_WHAT_IDENTITIES_ARE) from None
    except (pyrage.DecryptError, UsageError, ValueError, struct.error):
        raise AccessDenied(f"the SSH key in {source} is damaged", hint="Use another copy of the identity.") from None
    return Identity(identity, recipient, key[0])


def _ssh_recipient(data: bytes) -> str:
    """Return the public half of a key in OpenSSH's format, which holds it in the clear. Raises ValueError."""
    if not data.startswith(_SSH_MAGIC):
        raise ValueError("not an OpenSSH key")
    position = len(_SSH_MAGIC)
    for _ in ("cipher", "KDF", "options of the KDF"):
        _, position = _ssh_string(data, position)
    public, _ = _ssh_string(data, position + 4)  # behind the number of keys
    kind, _ = _ssh_string(public, 0)
    return f"{kind.decode('ascii')} {base64.b64encode(public).decode()}"


def _ssh_string(data: bytes, position: int) -> tuple[bytes, int]:
    """Return a string of SSH's binary format, and where it ends."""
    [length] = struct.unpack_from(">I", data, position)
    end = position + 4 + length
    return data[position + 4 : end], end


def parse_recipients(text: str, *, source: str) -> list[str]:
    """Read an age recipients file: a public key on each line, `#` comments. Raises UsageError naming the line."""
    recipients: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        recipient = parse_recipient(entry, source=f"{source}:{number}")
        if recipient not in recipients:
            recipients.append(recipient)
    if not recipients:
        raise UsageError(
            f"{source} names no recipient", hint="Put the public key (age1…) of each key holder on a line of its own."
        )
    return recipients


def parse_recipient(text: str, *, source: str) -> str:
    """Return the one form in which this recipient is stored and compared: that of an SSH key has no comment.

    Raises UsageError naming `source` and the reason unless something can be wrapped for it: that is tried.
    """
    if text.startswith(("AGE-SECRET-KEY-", "-----BEGIN")):
        raise UsageError(f"{source} is a secret key, expected a public one", hint=_WHAT_RECIPIENTS_ARE)
    recipient = _canonical(text)
    wrap(b"", [recipient], source=source)
    return recipient


def _canonical(text: str) -> str:
    if text.startswith(_SSH_KINDS):
        kind, data = [*text.split(maxsplit=2), ""][:2]
        try:
            return f"{kind} {base64.b64encode(base64.b64decode(data.rstrip('=') + '==')).decode()}"
        except binascii.Error:
            return f"{kind} {data}"
    return text.lower() if text.startswith("AGE1") else text


def wrap(plain: bytes, recipients: Sequence[str], *, source: str = "a recipient") -> bytes:
    """Return an age file that any one of `recipients` opens. Raises UsageError naming `source` for what is not one."""
    keys = [_recipient(each, source) for each in recipients]
    try:
        return bytes(pyrage.encrypt(plain, keys))
    except BaseException as error:
        # The library panics, which is not an Exception, at a key that would give everybody the same secret.
        if type(error).__name__ not in ("EncryptError", "PanicException"):
            raise
        raise UsageError(f"{source}: nothing can be encrypted to this key", hint=_WHAT_RECIPIENTS_ARE) from None


def _recipient(text: str, source: str) -> Any:
    kind = next((each for each in _RECIPIENTS if text.startswith(each)), None)
    library = _RECIPIENTS[kind] if kind else None
    if kind == "age1pq1":
        reason = "a post-quantum recipient, which the age library of drkit does not know"
    elif (plugin := _PLUGIN.fullmatch(text)) and kind == "age1":
        reason = f"a recipient of the age plugin {plugin[1]}, and drkit runs no plugins"
    elif library is not None:
        try:
            return library.from_str(text)
        except pyrage.RecipientError as error:
            reason = f"not a recipient that can be encrypted to: {error}"
    elif text.startswith(_SSH_KINDS):
        reason = f"an SSH key of the kind {text.split()[0]}, which age does not encrypt to"
    else:
        reason = "not an age recipient"
    raise UsageError(f"{source}: {shown_recipient(text)!a} is {reason}", hint=_WHAT_RECIPIENTS_ARE)


def shown_recipient(recipient: str) -> str:
    """Return a recipient as tables and messages show it. Fingerprints tell those that are shortened."""
    return recipient if len(recipient) <= _SHOWN else f"{recipient[:32]}...{recipient[-12:]}"


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
