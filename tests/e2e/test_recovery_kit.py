"""The recovery kit is followed to the letter, on a host that has an engine and nothing else."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from drkit import __version__
from tests.support.lab import PROJECT, Lab, Volume

PASSPHRASE = "correct horse battery staple"


class Bare:
    """A host with an empty home and nothing of drkit in its environment, where packages are installed from this tree.

    `installed` notes what the kit asked apt and pip for; drkit is there only once pip was asked for it. With `real_pip`
    nothing but apt is played: then drkit comes from what lies beside the repository, and from nowhere else.
    """

    def __init__(self, directory: Path, *, real_pip: bool = False) -> None:
        self.home = directory / "bare"
        self.tools, self.opt, self.installed = self.home / "tools", self.home / "opt", self.home / "installed"
        for path in (self.tools, self.opt):
            path.mkdir(parents=True)
        self._program("apt-get", f'echo "apt-get $*" >> {self.installed}')
        if real_pip:
            self._program("python3", f'exec {sys.executable} "$@"')
        else:
            self._play_pip()
        self.environment = {
            "HOME": str(self.home),
            "PATH": f"{self.tools}:/usr/bin:/bin",
            "DOCKER_HOST": os.environ["DOCKER_HOST"],
            "DRKIT_STATE_DIR": str(self.home / "state"),
        }

    def _play_pip(self) -> None:
        """A virtual environment has a pip that puts there what an installation of the project would."""
        by_venv = f"mkdir -p $3/bin; cp {self.tools}/pip $3/bin/"
        self._program("python3", f'[ "$1 $2" = "-m venv" ] || exec {sys.executable} "$@"\n{by_venv}')
        self._program("launcher", f'PYTHONPATH={PROJECT} exec {sys.executable} -m drkit "$@"')
        self._program("pip", f'echo "pip $*" >> {self.installed}; cp {self.tools}/launcher $(dirname $0)/drkit')

    def _program(self, name: str, script: str) -> None:
        path = self.tools / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def run(self, script: str, stdin: str = "", env: Mapping[str, str] | None = None) -> str:
        """Run commands as they were typed, which must succeed; `stdin` is what is typed at prompts."""
        done = self.attempt(script, stdin, env)
        assert done.returncode == 0, done
        return done.stdout

    def attempt(
        self, script: str, stdin: str = "", env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run commands; the first that fails ends them."""
        return subprocess.run(
            ["bash", "-e", "-c", script.replace("/opt/drkit", str(self.opt))],
            cwd=self.home,
            env={**self.environment, **(env or {})},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def type(self, script: str, answers: list[str], seconds: float = 60) -> str:
        """Run commands on a terminal of their own, and answer each prompt that ends with a colon."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(self.home)
            words = ["bash", "-e", "-c", script.replace("/opt/drkit", str(self.opt))]
            os.execve("/bin/bash", words, self.environment)
        shown, deadline = "", time.monotonic() + seconds
        waiting = list(answers)
        while time.monotonic() < deadline:
            if not select.select([terminal], [], [], 0.5)[0]:
                continue
            try:
                data = os.read(terminal, 4096)
            except OSError:  # its other end is closed
                break
            if not data:
                break
            shown += data.decode("utf-8", "replace")
            if waiting and shown.rstrip().endswith(":"):
                while termios.tcgetattr(terminal)[3] & termios.ECHO and time.monotonic() < deadline:
                    time.sleep(0.01)  # a prompt shows before its program hides, and throws away, what is typed
                os.write(terminal, waiting.pop(0).encode() + b"\n")
                shown += "\n"
        os.close(terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, shown
        assert waiting == [], shown
        return shown


def commands(kit: str, heading: str) -> str:
    """The commands under a heading of the text: what is indented by four."""
    part = kit.split(f"\n{heading}\n")[1].split("\n\n")[0]
    lines = [line[4:] for line in part.splitlines() if line.startswith("    ")]
    assert lines, part
    return "\n".join(lines)


BARE, UNLOCK, BY_HAND = "ON A BARE DEBIAN HOST, AS ROOT", "WITHOUT THE IDENTITY, WITH THE PASSPHRASE", "WITHOUT DRKIT"
PROVE = "IS THIS PAGE STILL RIGHT? ONCE A QUARTER, WITH THE COPY THAT IS KEPT WITH IT"


class Lost:
    """A backup whose volume and host are gone: what is left is the repository, the kit and the identity's line."""

    def __init__(self, lab: Lab, *options: str) -> None:
        self.lab = lab
        self.volume = lab.volume("data", {"a/file": b"content" * 1000, "b": b"small"})
        lab.write_policy(self.volume)
        passphrase = lab.directory / "passphrase"
        passphrase.touch(0o600)
        passphrase.write_text(PASSPHRASE)
        html = lab.directory / "kit.html"
        made = lab.json("init", "--passphrase-file", passphrase, "--kit", html, *options)
        self.kit: str = made["recovery_kit"]
        assert html.stat().st_mode & 0o777 == 0o600
        lab.backup()
        self.printed = lab.drkit("key", "kit", *options).stdout
        self.line = next(line for line in lab.identity.read_text().splitlines() if line.startswith("AGE-"))
        for path in (lab.identity, lab.policy, lab.recipients, passphrase):
            path.unlink()
        lab.remove(self.volume)

    def restored(self) -> None:
        volume = self.lab.find(self.volume.name)
        assert (volume.files / "a" / "file").read_bytes() == b"content" * 1000
        assert (volume.files / "b").read_bytes() == b"small"
        self.lab.remove(volume)


@pytest.fixture
def lost(lab: Lab) -> Lost:
    return Lost(lab)


@pytest.fixture
def bare(tmp_path: Path, lab: Lab) -> Bare:
    return Bare(tmp_path)


def test_the_kit_restores_with_the_identity(lost: Lost, bare: Bare) -> None:
    assert lost.line not in lost.kit
    # Printed again later it says the same, but for the time.
    assert lost.printed.split("\n", 1)[1].strip() == lost.kit.split("\n", 1)[1].strip()
    script = commands(lost.kit, BARE).replace("NAME", lost.volume.name)
    shown = bare.run(script, stdin=f"{lost.line}\n")
    assert "verified" in shown
    lost.restored()
    asked = ["apt-get install -y docker.io python3-venv", f"pip install ./drkit-{__version__}-py3-none-any.whl"]
    assert bare.installed.read_text().splitlines() == asked
    assert (bare.home / "identity.txt").stat().st_mode & 0o777 == 0o600
    exports = "\n".join(line for line in script.splitlines() if line.startswith("export"))
    proven = bare.run(f"{exports}\n{commands(lost.kit, PROVE)}")
    assert "recorded as proof 1" in proven


def test_the_kit_installs_the_program_beside_the_repository(lab: Lab, tmp_path: Path) -> None:
    """The page, the repository and the identity's line are enough: no index, no checkout, no wheel from elsewhere."""
    lost, bare = Lost(lab, "--with-program"), Bare(tmp_path, real_pip=True)
    assert lost.printed.split("\n", 1)[1].strip() == lost.kit.split("\n", 1)[1].strip()
    [program] = lab.objects("program/")
    script = commands(lost.kit, BARE).replace("NAME", lost.volume.name)
    assert "verified" in bare.run(script, stdin=f"{lost.line}\n")
    lost.restored()
    assert bare.installed.read_text().splitlines() == ["apt-get install -y docker.io python3-venv"]
    exports = "\n".join(line for line in script.splitlines() if line.startswith("export"))
    assert bare.run(f"{exports}\npython3 -c 'import drkit; print(drkit.__file__)'").startswith(str(bare.opt))
    assert "recorded as proof 1" in bare.run(f"{exports}\n{commands(lost.kit, PROVE)}")
    # The same shell reads the repository without drkit, too.
    [by_hand] = re.findall(r"^  (python3 program/by_hand.*)$", lost.kit, re.MULTILINE)
    by_hand = by_hand.replace("REPOSITORY", str(lab.repository)).replace("TARGET", lost.volume.name)
    snapshot = bare.run(f"{exports}\npython3 program/by_hand.py {lab.repository} identity.txt").split()[0]
    bare.run(f"{exports}\n{by_hand.replace('SNAPSHOT', snapshot)} && tar -xf target.tar")
    assert (bare.home / "a" / "file").read_bytes() == b"content" * 1000
    # What somebody put in its place is not unpacked.
    other = Bare(tmp_path / "other")
    program.chmod(0o600)
    program.write_bytes(b"evil")
    done = other.attempt(script.partition("python3 -m venv")[0])
    assert done.returncode != 0
    assert "drkit.tar: FAILED" in done.stdout
    assert not (other.home / "program").exists()


def test_the_kit_restores_with_the_passphrase(lost: Lost, bare: Bare) -> None:
    lines = commands(lost.kit, BARE).replace("NAME", lost.volume.name).splitlines()
    [cat] = [line for line in lines if "cat >" in line]
    lines.remove(cat)
    lines.insert(lines.index("drkit snapshots"), commands(lost.kit, UNLOCK))
    shown = bare.type("\n".join(lines), [PASSPHRASE])
    assert PASSPHRASE not in shown
    assert "verified" in shown
    lost.restored()


def test_the_kit_opens_the_identity_without_drkit(lost: Lost, bare: Bare) -> None:
    """With age, and with Python and one package; then FORMAT.md's program writes the tar."""
    with_age, with_python = commands(lost.kit, BY_HAND).split("\n", 1)
    identity = bare.home / "identity.txt"
    assert PASSPHRASE not in bare.type(with_age, [PASSPHRASE])
    assert lost.line in identity.read_text()
    identity.unlink()
    bare.type(with_python, [PASSPHRASE])
    assert lost.line in identity.read_text()
    [program] = re.findall(r"```python\n(.*?)```", (PROJECT / "drkit/repository/FORMAT.md").read_text(), re.DOTALL)
    (bare.home / "by_hand.py").write_text(program)
    [command] = re.findall(r"^  (python3 by_hand.*)$", lost.kit, re.MULTILINE)
    snapshot = bare.run(f"python3 by_hand.py {lost.lab.repository} identity.txt").split()[0]
    command = command.replace("REPOSITORY", str(lost.lab.repository)).replace("SNAPSHOT", snapshot)
    bare.run(f"{command.replace('TARGET', lost.volume.name)} && tar -xf target.tar")
    assert (bare.home / "a" / "file").read_bytes() == b"content" * 1000


def test_a_kit_is_never_written_over_a_file(lab: Lab) -> None:
    volume: Volume = lab.volume("data", {"file": b"x"})
    lab.write_policy(volume)
    kit = lab.directory / "kit.html"
    kit.touch()
    assert "exists" in lab.fails(2, "init", "--kit", kit)
    assert not lab.repository.exists()
    assert not lab.identity.exists()
    kit.unlink()
    lab.json("init")
    assert lab.json("key", "kit", "-o", kit)["format"] == "html"
    assert kit.read_text().startswith("<!DOCTYPE html>")
    before = kit.read_bytes()
    assert "exists" in lab.fails(1, "key", "kit", "-o", kit)
    assert kit.read_bytes() == before
    assert lab.drkit("key", "kit", "--format", "html").stdout.startswith("<!DOCTYPE html>")
