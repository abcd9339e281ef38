"""AES-256-GCM, HKDF-SHA256 and Ed25519, as the `cryptography` package gives them. No primitive of our own."""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from drkit.errors import IntegrityError

KEY_SIZE = 32
SIGNATURE_SIZE = 64
NONCE_SIZE = 12
OVERHEAD = NONCE_SIZE + 16


def random_bytes(count: int) -> bytes:
    """Return `count` bytes from the operating system's random generator."""
    return os.urandom(count)


def derive_key(secret: bytes, *, salt: bytes, label: str) -> bytes:
    """Return a 32-byte subkey: HKDF-SHA256 (RFC 5869) with info `drkit 1 <label>`."""
    return HKDF(algorithm=SHA256(), length=KEY_SIZE, salt=salt, info=b"drkit 1 " + label.encode()).derive(secret)


class Cipher:
    """One AES-256-GCM key. Sealed form: nonce (12 random bytes), ciphertext, tag (16 bytes)."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def seal(self, plain: bytes, associated: bytes) -> bytearray:
        nonce = os.urandom(NONCE_SIZE)
        sealed = bytearray(len(plain) + OVERHEAD)
        sealed[:NONCE_SIZE] = nonce
        # In place: another copy of every chunk would cause page faults that cost more than the cipher.
        self._aead.encrypt_into(nonce, plain, associated, memoryview(sealed)[NONCE_SIZE:])
        return sealed

    def open(self, sealed: bytes | bytearray | memoryview, associated: bytes) -> bytes:
        """Return the plaintext. Raises IntegrityError unless key, bytes and associated data are those of `seal`."""
        if len(sealed) < OVERHEAD:
            raise IntegrityError(f"sealed data of {len(sealed)} bytes is too short")
        try:
            view = memoryview(sealed)
            return self._aead.decrypt(view[:NONCE_SIZE], view[NONCE_SIZE:], associated)
        except InvalidTag:
            raise IntegrityError(
                "sealed data does not authenticate: it was changed, or is not what its place says"
            ) from None


class SigningKey:
    """An Ed25519 key (RFC 8032). `secret` is its 32-byte seed."""

    def __init__(self, secret: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(secret)
        self.public: bytes = self._key.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of the signature."""
        return self._key.sign(message)


def is_signed(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether this is the Ed25519 signature of `message` by the holder of `public`."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
