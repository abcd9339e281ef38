"""Whom keys can be wrapped for: all that the age library can, and nobody else, told before anything changes."""

from __future__ import annotations

import base64
from pathlib import Path

import pyrage
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mlkem, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from drkit.access.access import Access
from drkit.errors import AccessDenied, UsageError
from drkit.operations.keys import add_recipient, key_list, prove_identities, remove_recipient, rewrap_keys
from drkit.report.recovery_kit import kit_html, kit_text, make_kit
from drkit.repository.check import check_repository
from drkit.repository.format.limits import WRAP
from drkit.repository.holders.custody import replace_escrow
from drkit.repository.holders.every_key import open_every_key
from drkit.repository.holders.recipients import compare_recipients
from drkit.repository.keys.identity import (
    Identity,
    generate_identity,
    parse_identities,
    parse_identity,
    parse_recipient,
    parse_recipients,
    shown_recipient,
    wrap,
)
from drkit.repository.keys.wraps import open_escrow
from drkit.repository.mirror.mirror import create_mirror, open_mirror
from drkit.repository.repository import Repository
from tests.support.memory_storage import MemoryStorage
from tests.support.repositories import NOW, create, read_everything, write_snapshot

CONTENT = {"v": {b"": bytes(512), b"file": bytes(range(256)) * 100}}


def private_text(key: object, form: PrivateFormat = PrivateFormat.OpenSSH) -> str:
    return key.private_bytes(Encoding.PEM, form, NoEncryption()).decode()  # type: ignore[attr-defined, no-any-return]


def public_text(key: object) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()  # type: ignore[attr-defined, no-any-return]


KEYS = {
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "rsa": rsa.generate_private_key(65537, 2048),
    "rsa-4096": rsa.generate_private_key(65537, 4096),
}


def bech32(prefix: str, data: bytes) -> str:
    """As age writes keys."""
    bits = int.from_bytes(data, "big") << -8 * len(data) % 5
    digits = [bits >> 5 * number & 31 for number in reversed(range((8 * len(data) + 4) // 5))]

    def checksum(values: list[int]) -> int:
        sum_ = 1
        for value in values:
            top, sum_ = sum_ >> 25, (sum_ & 0x1FFFFFF) << 5 ^ value
            for bit, word in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
                sum_ ^= word if top >> bit & 1 else 0
        return sum_

    expanded = [*(ord(letter) >> 5 for letter in prefix), 0, *(ord(letter) & 31 for letter in prefix)]
    check = checksum([*expanded, *digits, *[0] * 6]) ^ 1
    digits += [check >> 5 * (5 - number) & 31 for number in range(6)]
    return f"{prefix}1" + "".join("qpzry9x8gf2tvdw0s3jn54khce6mua7l"[digit] for digit in digits)


POINT = ec.generate_private_key(ec.SECP256R1()).public_key()
TAG = bech32("age1tag", POINT.public_bytes(Encoding.X962, PublicFormat.CompressedPoint))
PQ_TAG = bech32(
    "age1tagpq",
    mlkem.MLKEM768PrivateKey.generate().public_key().public_bytes_raw()
    + POINT.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
)
"""Hardware keys: the age library can encrypt to them, and only a plugin opens that."""


def test_bech32_is_that_of_age() -> None:
    """Else the refusals below would prove nothing."""
    key = generate_identity().recipient
    digits = ["qpzry9x8gf2tvdw0s3jn54khce6mua7l".index(letter) for letter in key[4:-6]]
    bits = 0
    for digit in digits:
        bits = bits << 5 | digit
    assert bech32("age", (bits >> 5 * len(digits) % 8).to_bytes(32, "big")) == key


# --- what is taken ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KEYS)
def test_an_ssh_key_is_taken_in_one_form(name: str) -> None:
    text = public_text(KEYS[name])
    for form in (
        text,
        f"{text} me@host",
        f"{text}  a long comment",
        text.replace(" ", "  ", 1),
        f"{text}=",
        f"{text}==",
    ):
        assert parse_recipient(form.strip(), source="r.txt:1") == text
    both = parse_recipients(f"# ours\n{text} me@host\n{TAG}\n  {text}\n", source="r.txt")
    assert both == [text, TAG]
    assert len(wrap(b"x" * 200, [text])) < WRAP


def test_other_forms_of_an_age_key_are_one() -> None:
    recipient = generate_identity().recipient
    assert parse_recipient(recipient.upper(), source="r") == recipient


def test_the_largest_wrap_is_within_its_limit() -> None:
    largest = [PQ_TAG, public_text(KEYS["rsa-4096"])]
    assert max(len(wrap(b"x" * 200, [each])) for each in largest) < WRAP // 4


# --- what is refused --------------------------------------------------------------------------------------------------

SHORT_RSA = rsa.generate_private_key(65537, 1024)
LONG_RSA = (
    "ssh-rsa "
    + base64.b64encode(b"\0\0\0\7ssh-rsa\0\0\0\3\1\0\1" + (1025).to_bytes(4, "big") + b"\0" + b"\xff" * 1024).decode()
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (bech32("age1pq", bytes(1216)), "a post-quantum recipient, which the age library of drkit does not know"),
        (bech32("age1yubikey", bytes(33)), "a recipient of the age plugin yubikey, and drkit runs no plugins"),
        (bech32("age1se", bytes(33)), "a recipient of the age plugin se, and drkit runs no plugins"),
        (bech32("age1fido2-hmac", bytes(9)), "a recipient of the age plugin fido2-hmac"),
        (bech32("age1tag", bytes(33)), "not a recipient that can be encrypted to"),
        (bech32("age1tagpq", bytes(1249)), "not a recipient that can be encrypted to"),
        (bech32("age", bytes(31)), "not a recipient that can be encrypted to"),
        (generate_identity().recipient[:-1], "not a recipient that can be encrypted to"),
        (generate_identity().recipient + " me", "not a recipient that can be encrypted to"),
        ("age1", "not a recipient that can be encrypted to"),
        ("age", "not an age recipient"),
        ("nonsense", "not an age recipient"),
        ("\x1b[2Jage1", "not an age recipient"),
        (public_text(ec.generate_private_key(ec.SECP256R1())), "an SSH key of the kind ecdsa-sha2-nistp256"),
        ("ssh-dss AAAAB3NzaC1kc3M= me", "an SSH key of the kind ssh-dss"),
        ("sk-ssh-ed25519@openssh.com AAAA", "an SSH key of the kind sk-ssh-ed25519@openssh.com"),
        (public_text(SHORT_RSA), "RsaModulusTooSmall"),
        (LONG_RSA, "RsaModulusTooLarge"),
        ("ssh-ed25519", "not a recipient that can be encrypted to"),
        ("ssh-ed25519 AAAA me", "not a recipient that can be encrypted to"),
        ("ssh-ed25519 AAA!", "not a recipient that can be encrypted to"),
        ("ssh-rsa " + public_text(KEYS["ed25519"]).split()[1], "not a recipient that can be encrypted to"),
    ],
    ids=map(str, range(22)),
)
def test_what_cannot_be_wrapped_for_is_refused_with_the_reason_and_the_line(text: str, reason: str) -> None:
    alice = generate_identity().recipient
    with pytest.raises(UsageError, match=r"r\.txt:3: ") as caught:
        parse_recipients(f"# ours\n{alice}\n{text}\n", source="r.txt")
    assert reason in caught.value.message
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 300
    assert "age-keygen" in (caught.value.hint or "")
    storage = MemoryStorage()
    repository, _ = create(storage)
    before = dict(storage.objects)
    with pytest.raises(UsageError):
        add_recipient(repository, text, "name")
    assert storage.objects == before


def test_a_key_that_gives_everybody_the_same_secret_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    """The library panics at it, with a message on stderr."""
    with pytest.raises(UsageError, match="the recipient: nothing can be encrypted to this key"):
        parse_recipient(bech32("age", bytes(32)), source="the recipient")


@pytest.mark.parametrize("name", KEYS)
def test_a_private_key_is_not_a_recipient(name: str) -> None:
    with pytest.raises(UsageError, match=r"r\.txt:1 is a secret key") as caught:
        parse_recipients(private_text(KEYS[name]), source="r.txt")
    assert private_text(KEYS[name]).splitlines()[1] not in f"{caught.value} {caught.value.hint}"


# --- identities of SSH ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("change", [lambda text: text, lambda text: text.replace("\n", "\r\n"), str.strip])
def test_an_ssh_identity_opens_what_was_wrapped_for_it(name: str, change) -> None:  # type: ignore[no-untyped-def]
    identity = parse_identity(change(private_text(KEYS[name])), source="id_ed25519")
    assert identity.recipient == public_text(KEYS[name])
    assert identity.unwrap(wrap(b"secret", [identity.recipient])) == b"secret"
    assert identity.unwrap(wrap(b"secret", [generate_identity().recipient])) is None
    assert pyrage.decrypt(
        wrap(b"x", [identity.recipient]), [pyrage.ssh.Identity.from_buffer(identity.file_text(NOW).encode())]
    )
    assert private_text(KEYS[name]).splitlines()[1] not in repr(identity)
    again = parse_identity(identity.file_text(NOW), source="again")
    assert again.recipient == identity.recipient


def test_a_file_with_keys_of_both_kinds() -> None:
    age = generate_identity()
    text = f"# mine\n{age.secret_text()}\n{private_text(KEYS['ed25519'])}\n{private_text(KEYS['rsa'])}"
    found = parse_identities(text, source="identity.txt")
    assert [each.recipient for each in found] == [
        age.recipient,
        *(public_text(KEYS[name]) for name in ("ed25519", "rsa")),
    ]


ED25519 = private_text(KEYS["ed25519"])


def under_a_passphrase() -> str:
    def string(data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + data

    public = base64.b64decode(public_text(KEYS["ed25519"]).split()[1])
    options = string(string(bytes(16)) + (16).to_bytes(4, "big"))
    data = b"openssh-key-v1\0" + string(b"aes256-ctr") + string(b"bcrypt") + options
    data += (1).to_bytes(4, "big") + string(public) + string(bytes(range(160)))
    lines = ED25519.splitlines()
    return "\n".join([lines[0], base64.b64encode(data).decode(), lines[-1], ""])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (under_a_passphrase(), "ssh key must be decrypted first"),
        (private_text(ec.generate_private_key(ec.SECP256R1())), "unsupported key"),
        (private_text(KEYS["rsa"], form=PrivateFormat.TraditionalOpenSSL), "not in OpenSSH's format"),
        (private_text(KEYS["rsa"], form=PrivateFormat.PKCS8), "not in OpenSSH's format"),
        (ED25519.replace("b3BlbnNzaC1rZXk", "b3BlbnNzaC1rZXl"), "cannot be used|is damaged"),
        ("\n".join([*ED25519.splitlines()[:2], ED25519.splitlines()[-1]]), "cannot be used|is damaged"),
        ("\n".join(ED25519.splitlines()[:-1]), "not in OpenSSH's format"),
    ],
    ids=map(str, range(7)),
)
def test_an_ssh_identity_that_cannot_be_used_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(AccessDenied, match=reason) as caught:
        parse_identity(text, source="id_ed25519")
    assert "id_ed25519" in caught.value.message
    assert caught.value.hint
    assert text.splitlines()[1] not in f"{caught.value} {caught.value.hint}"


def test_a_public_half_that_is_not_that_of_the_key_is_damage() -> None:
    """It stands in the file in the clear: backups would be made for somebody else."""
    other = public_text(ed25519.Ed25519PrivateKey.generate()).split()[1]
    lines = private_text(KEYS["ed25519"]).splitlines()
    data = base64.b64decode("".join(lines[1:-1]))
    mine = base64.b64decode(public_text(KEYS["ed25519"]).split()[1])
    forged = base64.b64encode(data.replace(mine, base64.b64decode(other), 1)).decode()
    with pytest.raises(AccessDenied, match=r"is damaged|cannot be used"):
        parse_identity("\n".join([lines[0], forged, lines[-1], ""]), source="id_ed25519")


# --- a whole repository -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ed25519", "rsa"])
def test_everything_that_handles_recipients_works_with_ssh_keys(name: str) -> None:
    storage = MemoryStorage()
    storage.url = "/var/backups/drkit"  # the recovery kit says how to come there
    repository, alice = create(storage)
    ssh = parse_identity(private_text(KEYS[name]), source="id")
    write_snapshot(repository, [alice.recipient], "1", CONTENT)
    changed = add_recipient(Repository.open(storage, [alice]), f"{ssh.recipient} me@host", "laptop")
    assert changed.recipients == [ssh.recipient]
    for each in (TAG, PQ_TAG):
        assert add_recipient(Repository.open(storage, [alice]), each, "token").made == changed.made == 2
    everybody = [alice.recipient, ssh.recipient, TAG, PQ_TAG]

    opened = Repository.open(storage, [ssh])
    write_snapshot(opened, everybody, "2", CONTENT)
    assert read_everything(Repository.open(storage, [ssh])) == {"1": CONTENT, "2": CONTENT}
    assert open_every_key(opened).keys == 2
    assert check_repository(opened).ok
    kept = compare_recipients(opened, everybody, "file")
    assert (kept.loss, kept.addition) == (None, None)
    lost = compare_recipients(opened, [ssh.recipient], "file")
    assert {holder.recipient for holder in lost.lost} == {alice.recipient, TAG, PQ_TAG}
    [proven] = prove_identities(storage, [ssh], elsewhere=True, now=NOW, host="h")
    assert proven.recipient == ssh.recipient
    found = {holder.recipient: holder for holder in key_list(opened).holders}
    assert found.keys() == set(everybody)
    assert (found[ssh.recipient].name, found[ssh.recipient].proven_elsewhere) == ("laptop", True)
    assert all(holder.complete(2) for holder in found.values())

    replace_escrow(Repository.open(storage, [ssh]), "a passphrase")
    unlocked = open_escrow(storage, "a passphrase")
    assert unlocked.recipient == ssh.recipient
    assert read_everything(Repository.open(storage, [unlocked])).keys() == {"1", "2"}

    mirror = MemoryStorage()
    assert {holder.recipient for holder in create_mirror(opened, mirror, now=NOW, single_writer=False)} == set(
        everybody
    )
    assert open_mirror(opened, mirror).id == opened.id
    assert open_escrow(mirror, "a passphrase").recipient == ssh.recipient

    kit = make_kit(opened, Access("memory:"), now=NOW)
    text = kit_text(kit)
    assert max(map(len, text.splitlines())) <= 100
    assert all(shown_recipient(each) in text and shown_recipient(each) in kit_html(kit) for each in everybody)
    assert "AGE-SECRET-KEY-1___" in text

    assert rewrap_keys(opened, [ssh.recipient, alice.recipient]).removed == 4
    remove_recipient(opened, alice.recipient)
    assert [holder.recipient for holder in key_list(opened).holders] == [ssh.recipient]
    assert "AGE-SECRET-KEY-1___" not in kit_text(make_kit(opened, Access("memory:"), now=NOW))
    assert "paste the SSH private key" in kit_text(make_kit(opened, Access("memory:"), now=NOW))
    with pytest.raises(AccessDenied):
        Repository.open(storage, [alice])
    add_recipient(opened, alice.recipient)
    remove_recipient(Repository.open(storage, [alice]), f"{ssh.recipient} me@host")  # as its line says
    assert [holder.recipient for holder in key_list(Repository.open(storage, [alice])).holders] == [alice.recipient]


def test_a_repository_of_ssh_keys_alone(tmp_path: Path) -> None:
    storage = MemoryStorage()
    ssh: Identity = parse_identity(private_text(KEYS["ed25519"]), source="id")
    repository = Repository.create(storage, ssh, [ssh.recipient], now=NOW)
    write_snapshot(repository, [ssh.recipient], "1", CONTENT)
    assert read_everything(Repository.open(storage, [ssh])) == {"1": CONTENT}
