"""Secrets are planted, every verb is run well and badly, and then they are looked for wherever none may be."""

from __future__ import annotations

import json
import os
import random
import shutil
import string
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from drkit.repository.keys.identity import generate_identity, parse_identity, wrap_with_passphrase
from drkit.repository.repository import Repository
from drkit.storage import open_storage
from tests.support.lab import Lab, Result, finish
from tests.support.leaks import Watch, forms, leaks, leaks_in_files

GIVEN = {"AWS secret", "AWS token"}
VARIANTS = ([], ["--json"], ["--verbose", "--log-format", "json"], ["--debug"])


@dataclass
class Planted:
    """A laboratory full of secrets. `found` collects every one that shows; `ran` what was run, and how it ended."""

    lab: Lab
    secrets: dict[str, bytes]
    temporary: Path
    found: set[str] = field(default_factory=set)
    ran: list[tuple[str, int]] = field(default_factory=list)
    programs: set[str] = field(default_factory=set)
    helpers: int = 0

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": "AKIACANARY",
            "AWS_SECRET_ACCESS_KEY": self.secrets["AWS secret"].decode(),
            "AWS_SESSION_TOKEN": self.secrets["AWS token"].decode(),
            "TMPDIR": str(self.temporary),
        }

    def run(self, *arguments: str | Path, env: dict[str, str] | None = None, policy: Path | None = None) -> Result:
        """Run a verb and look at all that can be seen of it."""
        watch = Watch(self.lab.api, self.secrets, self.temporary, given=GIVEN)
        command = [*map(str, arguments), "--policy", str(policy or self.lab.policy)]
        process = self.lab.start(*command, env={**self.environment(), **(env or {})})
        watch.start(process.pid)
        result = finish(process)
        watch.stop()
        where = f"drkit {' '.join(map(str, arguments))}"
        self.found |= {f"{where}: {found}" for found in watch.found}
        for name, text in (("stdout", result.stdout), ("stderr", result.stderr)):
            self.found |= {f"{where}: {name}: {leak}" for leak in leaks(text.encode("utf-8", "replace"), self.secrets)}
        self.programs |= watch.programs
        self.helpers += len(watch.helpers)
        self.ran.append((where, result.code))
        return result

    def every_variant(self, *arguments: str | Path, env: dict[str, str] | None = None, code: int = 0) -> None:
        for variant in VARIANTS:
            if variant == ["--debug"]:
                result = self.run("--debug", *arguments, env=env)
                assert (result.code == 0) == (code == 0), (arguments, result)  # an uncaught error ends with 1
            else:
                result = self.run(*arguments, *variant, env=env)
                assert result.code == code, (arguments, result)


def canary(rng: random.Random, name: str) -> bytes:
    return f"canary-{name}-{''.join(rng.choices(string.ascii_letters, k=24))}".encode()


@pytest.fixture
def planted(lab: Lab, rng: random.Random, tmp_path: Path) -> Iterator[Planted]:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    secrets = {name: canary(rng, name.split()[0]) for name in ("content", "image content", "passphrase")}
    secrets |= {"AWS secret": canary(rng, "aws-secret"), "AWS token": canary(rng, "aws-token")}
    secrets |= {"second passphrase": canary(rng, "second")}
    yield Planted(lab, secrets, temporary)


def prepare(planted: Planted) -> tuple[str, str, Path]:
    """Volume, image, and the passphrase's file; the repository is made, and its keys are secrets too."""
    lab, secrets = planted.lab, planted.secrets
    volume = lab.volume("data", {"a/file": secrets["content"] * 500, "b": secrets["content"]})
    image = lab.image("app", {"etc/secret": secrets["image content"] * 100})
    passphrase = private(lab.directory / "passphrase", secrets["passphrase"] + b"\n")
    lab.write_policy(volume, images=[image])
    assert planted.run("init", "--passphrase-file", passphrase, "--kit", lab.directory / "kit.html").code == 0
    identity = parse_identity(lab.identity.read_text(), source="identity")
    secrets["identity"] = identity.secret_text().removeprefix("AGE-SECRET-KEY-1").encode()
    opened = Repository.open(open_storage(str(lab.repository)), [identity])
    secrets["meta key"] = opened.meta.meta_key
    for name in ("objects", "chunk_id", "tree", "member"):
        secrets[f"subkey {name}"] = getattr(opened.meta, name)
    return volume.name, image, passphrase


def private(path: Path, content: bytes) -> Path:
    path.touch(0o600)
    path.write_bytes(content)
    return path


def learn_data_keys(planted: Planted) -> None:
    lab = planted.lab
    identity = parse_identity(lab.identity.read_text(), source="identity")
    opened = Repository.open(open_storage(str(lab.repository)), [identity])
    for path in (lab.repository / "keys").iterdir():
        if len(path.name) == 32:
            planted.secrets[f"data key {path.name}"] = opened.keys.get(bytes.fromhex(path.name))


def look_at_files(planted: Planted, *allowed: Path) -> None:
    """Repository, state, kits, policies and whatever else a run may have left in its directory."""
    own = {planted.lab.identity, planted.lab.directory / "passphrase", *allowed}
    assert planted.lab.objects("packs/")
    planted.found |= leaks_in_files(planted.lab.directory, planted.secrets, allowed=own)


def test_no_secret_shows_when_all_goes_well(planted: Planted) -> None:
    lab = planted.lab
    volume, image, passphrase = prepare(planted)
    planted.every_variant("backup", "--dry-run")
    planted.every_variant("backup")
    learn_data_keys(planted)
    first, *_, last = [snapshot["id"] for snapshot in lab.snapshots()]
    for verb in (
        ["snapshots"],
        ["ls", "latest", volume],
        ["find", "b"],
        ["diff", first, last],
        ["check"],
        ["verify"],
        ["policy", "check"],
        ["key", "list"],
        ["key", "kit"],
        ["key", "kit", "--format", "html"],
        ["key", "rewrap"],
        ["key", "prove", "--identity", str(lab.identity)],
        ["restore", "latest", "--volume", volume, "--to-volume", f"{lab.name}-dry", "--dry-run"],
        ["restore", "latest", "--image", image],
    ):
        planted.every_variant(*verb)
    tar, key, unlocked = (lab.directory / name for name in ("out.tar", "meta.key", "unlocked.txt"))
    restored = [lab.forget_later(f"{lab.name}-r{number}") for number, _ in enumerate(VARIANTS)]
    for name, variant in zip(restored, VARIANTS, strict=True):
        debug = variant == ["--debug"]
        before, after = (variant, []) if debug else ([], variant)
        assert planted.run(*before, "restore", "latest", "--volume", volume, "--to-volume", name, *after).code == 0
        for path in (tar, key):
            path.unlink(missing_ok=True)
        assert planted.run(*before, "export", "latest", "--volume", volume, "-o", tar, *after).code == 0
        assert planted.run(*before, "key", "host-key", key, *after).code == 0
        other = generate_identity().recipient
        assert planted.run(*before, "key", "add", other, "--name", "x", *after).code == 0
        assert planted.run(*before, "key", "remove", other, *after).code == 0
    assert planted.run("key", "unlock", "-o", unlocked, "--passphrase-file", passphrase).code == 0
    passphrase.write_bytes(planted.secrets["second passphrase"])
    assert planted.run("key", "passphrase", "--passphrase-file", passphrase, "--json").code == 0
    # With the meta key alone, and with every other source of an identity.
    policy = json.loads(lab.policy.read_text())
    del policy["repository"]["identity_file"]
    sources: dict[str, dict[str, object]] = {
        "meta": {"meta_key_file": str(key)},
        "command": {"identity_command": ["cat", str(lab.identity)]},
        "locked": {
            "identity_file": str(private(lab.directory / "locked", lock(planted))),
            "passphrase_command": ["cat", str(passphrase)],
        },
    }
    for name, keys in sources.items():
        path = private(lab.directory / f"{name}.yaml", b"")
        path.write_text(json.dumps({**policy, "repository": policy["repository"] | keys}))
        for options in (["--json"], ["--verbose"]):
            assert planted.run("backup", *options, policy=path).code == 0
    learn_data_keys(planted)
    # What was asked for in the clear is allowed to hold it.
    assert leaks(tar.read_bytes(), planted.secrets) == {"content"}
    assert leaks(key.read_bytes(), planted.secrets) == {"meta key"}
    assert leaks(unlocked.read_bytes(), planted.secrets) == {"identity"}
    assert {path.name for path in (tar, key, unlocked) if path.stat().st_mode & 0o077} <= {"out.tar"}
    look_at_files(planted, tar, key, unlocked)
    print(
        f"{len(planted.ran)} runs, {len(planted.secrets)} secrets, {planted.helpers} helpers seen: {planted.programs}"
    )
    assert planted.found == set()
    assert planted.helpers > 0
    assert {"tar", "find"} & planted.programs


def lock(planted: Planted) -> bytes:
    text = planted.lab.identity.read_bytes()
    return wrap_with_passphrase(text, planted.secrets["second passphrase"].decode())


def test_no_secret_shows_when_it_goes_wrong(planted: Planted, rng: random.Random) -> None:
    lab = planted.lab
    volume, _, _ = prepare(planted)
    assert planted.run("backup").code == 0
    learn_data_keys(planted)
    secret = next(line for line in lab.identity.read_text().splitlines() if line.startswith("AGE-"))
    stranger, cut = generate_identity(), lab.directory / "cut.txt"
    planted.secrets["stranger"] = stranger.secret_text().removeprefix("AGE-SECRET-KEY-1").encode()
    wrong = private(lab.directory / "wrong.txt", stranger.secret_text().encode())
    private(cut, (secret[:-1] + "x").encode())
    planted.secrets["cut identity"] = secret[16:-2].encode()
    pasted = lab.directory / "pasted.txt"
    private(pasted, b"\xff" + secret.encode())
    new = f"{lab.name}-new"
    restore = ["restore", "latest", "--volume", volume, "--to-volume", new]
    for brought in (wrong, cut, pasted, lab.directory / "none.txt", lab.directory):
        for verb in (["snapshots"], restore, ["backup"], ["key", "list"], ["verify"]):
            result = planted.run(*verb, *rng.choice(VARIANTS[:3]), env={"DRKIT_IDENTITY_FILE": str(brought)})
            assert result.code == 12, result
        planted.every_variant("key", "prove", "--identity", brought, code=12)
    # Secrets where something else belongs.
    policy = json.loads(lab.policy.read_text())
    for key in ("identity_file", "recipients_file", "url", "passphrase_file"):
        path = private(lab.directory / "bad.yaml", b"")
        path.write_text(json.dumps({**policy, "repository": policy["repository"] | {key: secret}}))
        assert planted.run("backup", "--json", policy=path).code == 2
        assert planted.run("policy", "check", policy=path).code == 2
        path.unlink()
    recipients = lab.recipients.read_text()
    lab.recipients.write_text(secret)
    planted.every_variant("backup", code=2)
    lab.recipients.write_text(recipients)
    # Passphrases and programs that fail.
    wrong_pass = private(lab.directory / "wrong-pass", canary(rng, "wrong-pass"))
    planted.secrets["wrong passphrase"] = wrong_pass.read_bytes()
    result = planted.run("key", "unlock", "-o", lab.directory / "u.txt", "--passphrase-file", wrong_pass, "--json")
    assert result.code == 12
    del policy["repository"]["identity_file"]
    for program in (
        f"cat {lab.identity}; exit 3",
        f"cat {lab.identity} {lab.identity} | tr 1 0",
        "yes | head -c 5000000",
    ):
        path = private(lab.directory / "program.yaml", b"")
        keys = policy["repository"] | {"identity_command": ["sh", "-c", program]}
        path.write_text(json.dumps({**policy, "repository": keys}))
        for options in (["--json"], ["--verbose", "--log-format", "json"]):
            assert planted.run("backup", *options, policy=path).code == 12
    # Damage in every kind of object.
    pristine = lab.directory / "pristine"
    shutil.copytree(lab.repository, pristine)
    kinds = {str(path.relative_to(lab.repository)).split("/")[0] for path in lab.objects()}
    assert kinds >= {"config", "keys", "packs", "index", "snapshots"}
    for kind in sorted(kinds):
        for path in lab.objects(kind):
            data = bytearray(path.read_bytes())
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.chmod(0o600)
            path.write_bytes(data)
        for verb in (["snapshots"], ["check"], ["verify"], restore, ["key", "list"], ["backup"]):
            for before, after in (([], ["--json"]), (["--debug"], ["-v"])):
                planted.run(*before, *verb, *after)
        shutil.rmtree(lab.repository)
        shutil.copytree(pristine, lab.repository)
    lab.forget_later(new)
    # Nothing to talk to.
    nowhere = {"DOCKER_HOST": "unix:///nonexistent/docker.sock"}
    planted.every_variant("backup", env=nowhere, code=14)
    planted.every_variant("snapshots", "--repository", "s3://-/x", code=2)
    look_at_files(planted, wrong, cut, pasted, wrong_pass)
    failed = [where for where, code in planted.ran if code]
    print(f"{len(planted.ran)} runs, {len(failed)} failed, {len(planted.secrets)} secrets")
    assert len(failed) > 60
    assert planted.found == set()


# --- the comparator sees ----------------------------------------------------------------------------------------------


def test_every_form_of_a_secret_is_seen(rng: random.Random) -> None:
    for secret in (rng.randbytes(32), canary(rng, "x")):
        assert len(set(forms(secret))) >= 6
        for form in forms(secret):
            assert leaks(b"before" + form + b"after", {"it": secret}) == {"it"}
        import base64

        for shift in range(3):
            text = base64.b64encode(rng.randbytes(30 + shift) + secret + rng.randbytes(shift))
            assert leaks(text, {"it": secret}) == {"it"}
        assert leaks(rng.randbytes(100_000), {"it": secret}) == set()


def test_a_leak_in_a_file_is_seen(tmp_path: Path, rng: random.Random) -> None:
    secrets = {"it": canary(rng, "x")}
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "log").write_bytes(b"x" * 10_000 + secrets["it"] + b"y")
    assert leaks_in_files(tmp_path, secrets) == {f"{tmp_path}/a/log: it"}


def test_a_leak_in_a_process_is_seen(planted: Planted) -> None:
    """On its command line, in its environment, in a temporary file, and in what a container is told."""
    secret = planted.secrets["content"].decode()
    for arguments, environment in (([secret], {}), ([], {"LEAK": secret})):
        watch = Watch(planted.lab.api, planted.secrets, planted.temporary, given=set())
        command = [sys.executable, "-c", "import time; time.sleep(2)", *arguments]
        process = subprocess.Popen(command, env={**os.environ, **environment})
        watch.start(process.pid)
        process.wait()
        watch.stop()
        assert any(found.endswith(": content") for found in watch.found)
    watch = Watch(planted.lab.api, planted.secrets, planted.temporary, given=set())
    (planted.temporary / "x").write_text(secret)
    box = planted.lab.api.create_container(
        "drkit-test/busybox:1", ["true"], environment={"LEAK": secret}, labels={"drkit.helper": "test"}
    )
    try:
        watch.start(0)
        watch.stop()
    finally:
        planted.lab.api.remove_container(box["Id"])
    assert any("temporary/x" in found for found in watch.found)
    assert any(found.startswith("container") for found in watch.found)


def test_a_leak_of_a_verb_is_seen(planted: Planted) -> None:
    """A program of the operator's that says its secret on stderr, which is shown."""
    prepare(planted)
    policy = json.loads(planted.lab.policy.read_text())
    del policy["repository"]["identity_file"]
    program = ["sh", "-c", f"cat {planted.lab.identity}; cat {planted.lab.identity} >&2"]
    path = private(planted.lab.directory / "leaking.yaml", b"")
    path.write_text(json.dumps({**policy, "repository": policy["repository"] | {"identity_command": program}}))
    assert planted.found == set()
    assert planted.run("snapshots", "--log-format", "json", policy=path).code == 0
    assert {found.rpartition(": ")[2] for found in planted.found} == {"identity"}
