"""Where identities come from, and what is refused."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyrage
import pytest

from drkit.access.access import repository_access
from drkit.access.identities import IdentitySource, read_identities, read_passphrase
from drkit.access.secret_command import MAX_BYTES, run_secret_command
from drkit.errors import AccessDenied, UsageError
from drkit.policy import Policy, parse_policy
from drkit.repository.keys.identity import (
    Identity,
    generate_identity,
    unwrap_with_passphrase,
    wrap,
    wrap_with_passphrase,
)

POLICY = """
version: 1
name: p
repository:
  url: /repository
  recipients_file: r.txt
  identity_file: i.txt
protect: {volumes: [{name: vv}]}
"""
PASSPHRASE = "correct horse"


@pytest.fixture(scope="module")
def alice() -> Identity:
    return generate_identity()


@pytest.fixture(scope="module")
def bob() -> Identity:
    return generate_identity()


@pytest.fixture(scope="module")
def locked(alice: Identity) -> bytes:
    """An identity file under a passphrase, as age -p writes it."""
    return wrap_with_passphrase(f"# mine\n{alice.secret_text()}\n".encode(), PASSPHRASE)


def public(identities: list[Identity]) -> list[str]:
    return [identity.recipient for identity in identities]


def python(program: str) -> tuple[str, ...]:
    return (sys.executable, "-c", program)


# --- files and descriptors --------------------------------------------------------------------------------------------


def test_every_identity_of_a_file(tmp_path: Path, alice: Identity, bob: Identity) -> None:
    path = tmp_path / "identity.txt"
    path.write_text(f"# a\n{alice.secret_text()}\n\n {bob.secret_text()} \n{alice.secret_text()}\n")
    assert public(read_identities(IdentitySource(path))) == [alice.recipient, bob.recipient]


def test_a_descriptor(alice: Identity) -> None:
    ours, theirs = os.pipe()
    os.write(theirs, alice.secret_text().encode())
    os.close(theirs)
    try:
        assert public(read_identities(IdentitySource(descriptor=ours))) == [alice.recipient]
    finally:
        os.close(ours)
    with pytest.raises(AccessDenied, match=f"descriptor {ours} of DRKIT_IDENTITY_FD cannot be read"):
        read_identities(IdentitySource(descriptor=ours))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", "a private key that is not in OpenSSH's format"),
        ("-----BEGIN RSA PRIVATE KEY-----\nAAAA\n", "a private key that is not in OpenSSH's format"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n", "a private key that is not in OpenSSH's format"),
        ("AGE-PLUGIN-YUBIKEY-1ABC\n", "an identity of an age plugin"),
        ("AGE-SECRET-KEY-PQ-1ABC\n", "a post-quantum age identity"),
    ],
)
def test_other_kinds_of_keys_are_refused_by_name(tmp_path: Path, alice: Identity, text: str, what: str) -> None:
    path = tmp_path / "identity.txt"
    path.write_text(text)
    with pytest.raises(AccessDenied, match=f"{what}, which drkit does not open") as caught:
        read_identities(IdentitySource(path))
    assert "age-keygen" in (caught.value.hint or "")


def test_a_file_that_never_ends(tmp_path: Path) -> None:
    with pytest.raises(AccessDenied, match="/dev/zero is larger than"):
        read_identities(IdentitySource(Path("/dev/zero")))
    with pytest.raises(AccessDenied, match="is a directory"):
        read_identities(IdentitySource(tmp_path))


# --- passphrases ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_protected_file(tmp_path: Path, alice: Identity, locked: bytes) -> None:
    path, passphrase = tmp_path / "identity.age", tmp_path / "passphrase"
    path.write_bytes(locked)
    passphrase.write_text(f"{PASSPHRASE}\n")
    assert public(read_identities(IdentitySource(path, passphrase_file=passphrase))) == [alice.recipient]
    command = python(f"print({PASSPHRASE!r})")
    assert public(read_identities(IdentitySource(path, passphrase_command=command))) == [alice.recipient]
    asked: list[str] = []

    def ask(name: str) -> str:
        asked.append(name)
        return "wrong"

    with pytest.raises(AccessDenied, match="the passphrase does not open"):
        read_identities(IdentitySource(path), ask)
    assert asked == [str(path)]
    with pytest.raises(AccessDenied, match="there is no terminal to ask") as caught:
        read_identities(IdentitySource(path))
    assert "DRKIT_PASSPHRASE_FILE" in (caught.value.hint or "")


@pytest.mark.slow
def test_an_armored_file(tmp_path: Path, alice: Identity) -> None:
    path, passphrase = tmp_path / "identity.age", tmp_path / "passphrase"
    path.write_bytes(pyrage.passphrase.encrypt(alice.secret_text().encode(), PASSPHRASE, armored=True))
    passphrase.write_text(PASSPHRASE)
    assert public(read_identities(IdentitySource(path, passphrase_file=passphrase))) == [alice.recipient]


def test_an_empty_passphrase_file(tmp_path: Path) -> None:
    (tmp_path / "passphrase").write_text("\n")
    with pytest.raises(AccessDenied, match="is empty"):
        read_passphrase(tmp_path / "passphrase")


@pytest.mark.parametrize("factor", [b"23", b"40", b"999999999"])
def test_a_hostile_work_factor_is_refused_before_any_work(tmp_path: Path, locked: bytes, factor: bytes) -> None:
    hostile = re.sub(rb"(-> scrypt \S+) \d+\n", rb"\1 " + factor + b"\n", locked, count=1)
    path = tmp_path / "identity.age"
    path.write_bytes(hostile)
    with pytest.raises(AccessDenied, match=rf"a scrypt work factor of 2\^{factor.decode()}, more than the limit"):
        read_identities(IdentitySource(path), lambda name: pytest.fail("it asked for the passphrase first"))
    with pytest.raises(AccessDenied, match="work factor"):
        unwrap_with_passphrase(hostile, PASSPHRASE, source="keys/escrow/x")


@pytest.mark.parametrize("make", [lambda bob: wrap(b"x", [bob.recipient]), lambda bob: b"age-encryption.org/v1\n-> "])
def test_an_age_file_that_is_not_under_a_passphrase(tmp_path: Path, bob: Identity, make) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "identity.age"
    path.write_bytes(make(bob))
    with pytest.raises(AccessDenied, match="is not an age file under a passphrase"):
        read_identities(IdentitySource(path), lambda name: PASSPHRASE)


def test_hostile_armor(tmp_path: Path) -> None:
    path = tmp_path / "identity.age"
    for body in (b"", b"-----", b"-----\n*****\n-----END", b"-----\nAAA", b"-----\n" + b"A" * 100_000):
        path.write_bytes(b"-----BEGIN AGE ENCRYPTED FILE" + body)
        with pytest.raises(AccessDenied):
            read_identities(IdentitySource(path), lambda name: PASSPHRASE)


# --- commands ---------------------------------------------------------------------------------------------------------


def test_a_command(alice: Identity, caplog: pytest.LogCaptureFixture) -> None:
    program = f"import sys; print({alice.secret_text()!r}); print('unlocking\\x1b[31m', file=sys.stderr)"
    with caplog.at_level("INFO", logger="drkit"):
        assert public(read_identities(IdentitySource(command=python(program)))) == [alice.recipient]
    assert "unlocking?[31m" in caplog.text
    assert alice.secret_text() not in caplog.text


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("print('AGE-SECRET-KEY-1LEAK'); raise SystemExit(3)", "ended with exit code 3"),
        ("pass", "printed nothing"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "ended with exit code -15"),
    ],
)
def test_a_command_that_fails(program: str, problem: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(AccessDenied, match=problem) as caught:
        run_secret_command(python(program), "identity_command")
    assert "LEAK" not in f"{caught.value} {caught.value.hint} {caplog.text}"


def test_a_command_that_is_not_there() -> None:
    with pytest.raises(AccessDenied, match="identity_command /nonexistent cannot be run: no such file"):
        run_secret_command(("/nonexistent",), "identity_command")


def alive(path: Path) -> Iterator[int]:
    for line in path.read_text().split():
        state = Path(f"/proc/{line}/stat")
        if state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z":
            yield int(line)


def test_a_command_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 600 & echo $! > {pids}; echo $$ >> {pids}; wait"
    with pytest.raises(AccessDenied, match="did not end within 1 s"):
        run_secret_command(("sh", "-c", script), "identity_command", timeout=1)
    deadline = time.monotonic() + 10
    while list(alive(pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    "script", ["exec >&- 2>&-; sleep 600", "echo secret; exec setsid sleep 3", "setsid sleep 3 & echo secret"]
)
def test_a_command_is_waited_for_only_so_long(script: str) -> None:
    """Also where it has closed its output, or where something that it started has left its group and still holds it."""
    started = time.monotonic()
    with pytest.raises(AccessDenied, match=r"did not end within 0\.5 s"):
        run_secret_command(("sh", "-c", script), "identity_command", timeout=0.5)
    assert time.monotonic() - started < 2.5


def test_a_command_that_never_stops_printing() -> None:
    with pytest.raises(AccessDenied, match=f"more than {MAX_BYTES} bytes"):
        run_secret_command(("yes",), "identity_command")


def test_a_command_that_writes_much_to_stderr_first() -> None:
    program = "import sys; sys.stderr.write('x' * 10_000_000); print('secret')"
    assert run_secret_command(python(program), "passphrase_command") == b"secret\n"


# --- what is chosen ---------------------------------------------------------------------------------------------------


def policy(text: str = POLICY) -> Policy:
    return parse_policy(text, Path("/etc/drkit/policy.yaml"))


def test_the_environment_wins_over_the_policy() -> None:
    assert repository_access(policy(), environ={}).identity == IdentitySource(Path("/etc/drkit/i.txt"))
    brought = {"DRKIT_IDENTITY_FILE": "/mnt/usb.txt"}
    assert repository_access(policy(), environ=brought).identity_file == Path("/mnt/usb.txt")
    both = repository_access(policy(), environ={**brought, "DRKIT_IDENTITY_FD": "3"}).identity
    assert both == IdentitySource(descriptor=3)
    bare = repository_access(None, environ={"DRKIT_REPOSITORY": "/r", "DRKIT_PASSPHRASE_FILE": "/p", **brought})
    assert bare.identity == IdentitySource(Path("/mnt/usb.txt"), passphrase_file=Path("/p"))


@pytest.mark.parametrize("number", ["x", "-1", "1", "2", "3.0", "³", "99999999"])
def test_a_wrong_descriptor_number(number: str) -> None:
    with pytest.raises(UsageError, match="DRKIT_IDENTITY_FD"):
        repository_access(policy(), environ={"DRKIT_IDENTITY_FD": number})


def test_commands_in_the_policy() -> None:
    text = POLICY.replace("identity_file: i.txt", "identity_command: [pass, show, key]\n  passphrase_command: [cat, p]")
    source = repository_access(policy(text), environ={}).identity
    assert source == IdentitySource(command=("pass", "show", "key"), passphrase_command=("cat", "p"))
