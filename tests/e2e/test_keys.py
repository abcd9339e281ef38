"""`drkit key` through the command line, where identities come from, and the repository that a host remembers."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from drkit.repository.keys.identity import generate_identity, wrap_with_passphrase
from tests.support.lab import Lab, Result


def small(lab: Lab) -> str:
    """A repository with one snapshot of one volume; the volume's name."""
    volume = lab.volume("data", {"file": b"content"})
    lab.init(volume)
    lab.backup()
    return volume.name


def new_key(lab: Lab, name: str) -> tuple[Path, str]:
    identity = generate_identity()
    path = lab.directory / name
    path.touch(0o600)
    path.write_text(identity.secret_text() + "\n")
    return path, identity.recipient


def test_a_second_holder_comes_is_proven_and_goes(lab: Lab) -> None:
    volume = small(lab)
    brought, recipient = new_key(lab, "brought.txt")
    added = lab.drkit("key", "add", recipient, "--name", "safe")
    assert added.code == 0
    assert f"Add a line with it to {lab.recipients}" in added.stderr
    before = lab.objects()
    assert f"does not name {recipient} (safe)" in lab.fails(12, "backup")
    assert lab.objects() == before
    assert lab.drkit("key", "remove", "safe").code == 0
    with lab.recipients.open("a") as file:
        file.write(f"{recipient}\n")
    (lab.find(volume).files / "later").write_bytes(b"what the new holder opens, and nothing earlier")
    result = lab.drkit("backup")
    assert f"names {recipient}, which opens what is backed up now, and not the earlier backups" in result.stderr
    [half] = [each for each in lab.json("key", "list")["recipients"] if each["recipient"] == recipient]
    assert (half["complete"], half["proven"]) == (False, None)
    assert "incomplete: opens 1 of " in lab.drkit("key", "list").stdout
    proving = lab.drkit("key", "prove", "--identity", brought)
    assert proving.code == 12
    assert "opens no key of this repository" in proving.stderr
    assert lab.json("key", "rewrap")["made"] >= 1
    assert lab.drkit("backup").stderr == ""
    proven = lab.json("key", "prove", "--identity", brought)["proven"][0]
    assert (proven["recipient"], proven["elsewhere"], proven["proof"]) == (recipient, True, 1)
    assert proven["chunks"] >= 1
    own = lab.drkit("key", "prove", "--identity", lab.identity)
    assert own.code == 0
    assert "the host's own identity_file" in own.stderr
    restored = lab.forget_later(f"{lab.name}-restored")
    env = {"DRKIT_IDENTITY_FILE": str(brought)}
    assert lab.drkit("restore", "latest", "--volume", volume, "--to-volume", restored, env=env).code == 0
    assert (lab.find(restored).files / "file").read_bytes() == b"content"
    removed = lab.drkit("key", "remove", recipient)
    assert removed.code == 0
    assert "this does not revoke" in removed.stderr
    assert f"{lab.recipients} still names {recipient}" in removed.stderr
    assert lab.drkit("snapshots", env=env).code == 12
    assert len(lab.json("key", "list")["recipients"]) == 1
    assert lab.json("check")["status"] == "ok"


def test_wrong_keys_on_the_command_line_change_nothing(lab: Lab) -> None:
    small(lab)
    before = {path: path.read_bytes() for path in lab.objects()}
    assert "is not a recipient that can be" in lab.fails(2, "key", "add", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI me")
    assert "is an SSH key of the kind ssh-dss" in lab.fails(2, "key", "add", "ssh-dss AAAAB3NzaC1kc3M= me")
    assert "is not a recipient that can be" in lab.fails(2, "key", "add", "age1nonsense")
    assert "the age plugin yubikey" in lab.fails(2, "key", "add", "age1yubikey1qqqq")
    secret = next(line for line in lab.identity.read_text().splitlines() if line.startswith("AGE-"))
    said = lab.fails(2, "key", "add", secret)
    assert "is a secret key" in said
    assert secret not in said
    [line] = lab.recipients.read_text().splitlines()
    assert "is the last recipient" in lab.fails(1, "key", "remove", line)
    assert "exists" in lab.fails(1, "key", "host-key", lab.identity)
    assert "exists" in lab.fails(2, "key", "unlock", "-o", lab.identity)
    assert "exists" in lab.fails(1, "key", "kit", "-o", lab.identity)
    assert {path: path.read_bytes() for path in lab.objects()} == before


def run_with(lab: Lab, **repository: object) -> Result:
    """`snapshots` with other keys in the policy."""
    policy = json.loads(lab.policy.read_text())
    del policy["repository"]["identity_file"]
    policy["repository"] |= repository
    path = lab.directory / "other.yaml"
    path.write_text(json.dumps(policy))
    return lab.run("snapshots", "--json", "--policy", path)


def test_every_source_of_an_identity(lab: Lab) -> None:
    small(lab)
    text = lab.identity.read_text()
    locked, passphrase = lab.directory / "identity.age", lab.directory / "passphrase"
    for path, content in (
        (locked, wrap_with_passphrase(text.encode(), "correct horse")),
        (passphrase, b"correct horse\n"),
    ):
        path.touch(0o600)
        path.write_bytes(content)
    moved = lab.identity.rename(lab.directory / "moved.txt")
    cat = ["sh", "-c", 'echo asked >&2; cat "$0"', str(moved)]
    done = run_with(lab, identity_command=cat)
    assert (done.code, done.stderr) == (0, "sh: asked\n")
    for found in (
        run_with(lab, identity_file=str(locked), passphrase_file=str(passphrase)),
        run_with(lab, identity_file=str(locked), passphrase_command=["cat", str(passphrase)]),
        lab.drkit("snapshots", "--json", env={"DRKIT_IDENTITY_FILE": str(moved)}),
        lab.drkit(
            "snapshots",
            "--json",
            env={"DRKIT_IDENTITY_FILE": str(locked), "DRKIT_PASSPHRASE_FILE": str(passphrase)},
        ),
    ):
        assert found.code == 0, found
        assert len(json.loads(found.stdout)["snapshots"]) == 1
    descriptor = os.open(moved, os.O_RDONLY)
    try:
        process = lab.start(
            "snapshots",
            "--repository",
            lab.repository,
            env={"DRKIT_IDENTITY_FD": str(descriptor)},
            pass_fds=[descriptor],
        )
        assert process.communicate(timeout=60)[1] == ""
        assert process.returncode == 0
    finally:
        os.close(descriptor)
    assert "no terminal to ask" in lab.drkit("snapshots", env={"DRKIT_IDENTITY_FILE": str(locked)}).stderr
    failed = run_with(lab, identity_command=["sh", "-c", f"cat {moved}; exit 1"])
    assert failed.code == 12
    assert "ended with exit code 1" in failed.stderr


def test_another_repository_in_its_place_is_refused_until_it_is_accepted(lab: Lab) -> None:
    """Whoever writes to the storage can make one for the same public keys."""
    volume = lab.volume("data", {"file": b"content"})
    lab.init(volume)
    lab.backup()
    shutil.move(lab.repository, lab.directory / "original")
    lab.json("init")
    before = {path: path.read_bytes() for path in lab.objects()}
    said = lab.fails(20, "backup")
    assert "somebody put it in its place" in said
    assert {path: path.read_bytes() for path in lab.objects()} == before
    accept = next(word for word in said.split() if len(word.rstrip(".")) == 32 and said.rstrip().endswith(word))
    lab.backup("--accept-repository", accept.rstrip("."))
    lab.backup()
    [state] = list((lab.state / "repositories").iterdir())
    assert state.stat().st_mode & 0o777 == 0o600
    state.write_bytes(b"damaged")
    assert "cannot tell whether another repository took the place" in lab.drkit("backup").stderr
    assert lab.drkit("backup").stderr == ""


def test_a_repository_that_was_set_back_is_told_until_somebody_says_that_it_was_right(lab: Lab) -> None:
    volume = lab.volume("data", {"file": b"content"})
    lab.init(volume)
    lab.backup()
    shutil.copytree(lab.repository, lab.directory / "earlier")
    newest = lab.backup()
    shutil.rmtree(lab.repository)
    shutil.move(lab.directory / "earlier", lab.repository)
    for _ in range(2):
        said = lab.drkit("backup").stderr
        assert f"snapshots/{newest} is gone, and no note says that it was removed on purpose" in said
        assert said.count("warning") == 1
    for verb in ("check", "verify"):
        assert [each["object"] for each in lab.json(verb, code=20)["errors"]] == [f"snapshots/{newest}"]
    assert newest in lab.fails(23, "prune")
    assert newest in lab.fails(23, "forget", newest)
    lab.json("forget", newest, "--yes-really")
    assert lab.drkit("backup").stderr == ""
    assert lab.json("check")["errors"] == []
    lab.json("prune", "--yes-really")


def test_a_state_directory_that_cannot_be_written_stops_a_backup_before_it_stores_anything(
    lab: Lab, tmp_path: Path
) -> None:
    volume = lab.volume("data", {"file": b"content"})
    lab.init(volume)
    before = lab.objects()
    (tmp_path / "file").touch()
    result = lab.drkit("backup", env={"DRKIT_STATE_DIR": str(tmp_path / "file")})
    assert result.code == 1
    assert str(tmp_path / "file") in result.stderr
    assert "DRKIT_STATE_DIR" in result.stderr
    assert lab.objects() == before
