"""The command line itself: options, exit codes, what goes to which stream, signals."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.lab import Lab, finish

MIB = 1 << 20
VERBS = [
    ["init"],
    ["doctor"],
    ["backup"],
    ["snapshots"],
    ["ls", "latest"],
    ["find", "x"],
    ["diff", "latest", "latest"],
    ["restore", "latest", "--volume", "x"],
    ["export", "latest", "--volume", "x", "-o", "x.tar"],
    ["check"],
    ["verify"],
]


def test_help_and_version(lab: Lab) -> None:
    shown = lab.run("--help")
    assert shown.code == 0
    for verb in VERBS:
        assert f" {verb[0]} " in shown.stdout
    assert lab.run("--version").stdout.startswith("drkit ")
    assert lab.run().code == 2


def test_help_loads_nothing_heavy(lab: Lab) -> None:
    code = "import sys; sys.argv[1:] = ['--help']\ntry:\n from drkit.cli.main import main; main()\n"
    code += "finally:\n print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=lab.environment(), capture_output=True, text=True, check=True
    )
    loaded = set(done.stderr.split())
    assert "drkit.cli.main" in loaded
    assert loaded.isdisjoint({"docker", "requests", "pydantic", "yaml", "cryptography", "zstandard", "pyrage", "rich"})


def test_an_error_in_the_policy_waits_for_no_engine(lab: Lab, tmp_path: Path) -> None:
    """The engine is asked while the policy is read. This one takes the connection, and never answers."""
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 7\n")
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(f"{tmp_path}/engine.sock")
        engine.listen()
        silent = {"DOCKER_HOST": f"unix://{tmp_path}/engine.sock"}
        result = lab.run("backup", "--policy", policy, env=silent, timeout=30)  # half of the time an answer is given
    assert result.code == 2
    assert "version" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [["backup", "--bogus"], ["nonsense"], ["ls"], ["restore", "latest", "--volume"], ["backup", "--log-format", "xml"]],
)
def test_a_wrong_command_line_is_2_and_says_what_is_wrong(lab: Lab, arguments: list[str]) -> None:
    result = lab.run(*arguments)
    assert (result.code, result.stdout) == (2, "")
    assert result.stderr.startswith("drkit: ")
    assert "hint: " in result.stderr
    result = lab.run(*arguments, "--json")
    assert result.code == 2
    assert json.loads(result.stdout)["exit_code"] == 2


def test_options_that_contradict_each_other(lab: Lab) -> None:
    for arguments in (
        ["restore", "latest"],
        ["restore", "latest", "--volume", "a", "--image", "b"],
        ["restore", "latest", "--image", "b", "--to-volume", "c"],
        ["export", "latest"],
        ["export", "latest", "--volume", "a", "--json"],
    ):
        result = lab.run(*arguments)
        assert result.code == 2, (arguments, result)


def test_no_engine_is_14(lab: Lab, tmp_path: Path) -> None:
    volume = lab.volume("data", {"file": b"content"})
    image = lab.image("image", {"file": b"content"})
    lab.init(volume, images=[image])
    lab.backup()
    nowhere = {"DOCKER_HOST": f"unix://{tmp_path}/no.sock"}
    for arguments in (["backup"], ["backup", "--dry-run"], ["restore", "latest", "--volume", volume.name]):
        result = lab.drkit(*arguments, "--json", env=nowhere)
        assert result.code == 14, (arguments, result)
        assert json.loads(result.stdout)["exit_code"] == 14
        assert "hint: Start the engine" in result.stderr
    planned = ["restore", "latest", "--image", image, "--dry-run"]
    for arguments in (["snapshots"], ["ls", "latest", volume.name], ["check"], ["verify"], planned):
        result = lab.drkit(*arguments, env=nowhere)
        assert result.code == 0, (arguments, result)
    assert len(lab.snapshots()) == 1


def test_the_policy_is_found_without_an_option(lab: Lab) -> None:
    volume = lab.volume("data", {"file": b"content"})
    lab.init(volume)
    assert lab.run("backup", env={"DRKIT_POLICY": str(lab.policy)}).code == 0
    assert len(json.loads(lab.run("snapshots", "--json", env={"DRKIT_POLICY": str(lab.policy)}).stdout)["snapshots"])
    result = lab.run("backup")
    assert result.code == 2
    assert "--policy" in result.stderr


def test_two_policies_are_an_error_that_names_them(lab: Lab) -> None:
    """In a mount namespace of its own, whose /etc/drkit is the test's."""
    volume = lab.volume("data", {"file": b"content"})
    lab.init(volume)
    etc = lab.directory / "etc"
    (etc / "policies").mkdir(parents=True)
    for name in ("one", "two"):
        lab.write_policy(volume, name=name, path=etc / "policies" / f"{name}.yaml")

    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        script = 'mkdir -p /etc/drkit && mount --bind "$0" /etc/drkit && exec "$@"'
        command = ["unshare", "-m", "sh", "-c", script, str(etc), sys.executable, "-m", "drkit", *arguments]
        environment = lab.environment(env)
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    made = not Path("/etc/drkit").exists()
    try:
        done = run("backup")
        assert done.returncode == 2, done
        assert "one.yaml" in done.stderr
        assert "two.yaml" in done.stderr
        # Nor do two policies keep anybody from a restore.
        done = run("snapshots", "--repository", str(lab.repository), DRKIT_IDENTITY_FILE=str(lab.identity))
        assert done.returncode == 0, done
        (etc / "policies" / "two.yaml").unlink()
        assert run("backup").returncode == 0
    finally:
        if made and Path("/etc/drkit").exists():
            Path("/etc/drkit").rmdir()


def test_quiet_says_nothing_and_json_logs_are_json(lab: Lab) -> None:
    volume = lab.volume("data", {"file": b"content"})
    lab.init(volume)
    result = lab.drkit("backup", "--quiet")
    assert (result.code, result.stdout, result.stderr) == (0, "", "")
    result = lab.drkit("restore", "latest", "--volume", f"{lab.name}-x", "--log-format", "json")
    assert result.code == 1
    [line] = [json.loads(text) for text in result.stderr.splitlines()]
    assert line["level"] == "error"
    assert f"{lab.name}-x" in line["message"]
    assert line["hint"]
    result = lab.run("--debug", "snapshots", "--repository", lab.directory / "none", "--policy", lab.policy)
    assert "Traceback" in result.stderr


def test_a_reader_that_goes_away_is_no_internal_error(lab: Lab) -> None:
    volume = lab.volume("data", {f"file-{number:04d}": b"" for number in range(3000)})
    lab.init(volume)
    lab.backup()
    ours, theirs = os.pipe()
    process = lab.start("ls", "latest", "--policy", lab.policy, stdout=theirs)
    os.close(theirs)
    os.read(ours, 10)
    os.close(ours)
    result = finish(process)
    assert result.code == 1
    assert result.stderr == ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_backup_and_leaves_nothing(
    lab: Lab, rng: random.Random, number: signal.Signals, code: int
) -> None:
    volume = lab.volume("data", {f"file-{each}": rng.randbytes(16 * MIB) for each in range(16)})
    lab.init(volume)
    process = lab.start("backup", "--policy", lab.policy, "--json")
    lab.wait_for_tar(process)
    process.send_signal(number)
    result = finish(process, 30)
    assert result.code == code, result
    assert "Traceback" not in result.stderr
    assert json.loads(result.stdout)["exit_code"] == code
    lab.wait_for_no_helper()
    assert lab.snapshots() == []
    assert lab.objects("sessions/") == []
    assert lab.json("check")["status"] == "ok"


def test_policy_and_helper_verbs(lab: Lab) -> None:
    volume = lab.volume("data", {"file": b"content"})
    lab.write_policy(volume)
    assert lab.json("policy", "check")["policy"] == "lab"
    assert "version: 1" in lab.run("policy", "example").stdout
    assert "version: 1" in json.loads(lab.run("policy", "example", "--json").stdout)["example"]
    assert json.loads(lab.run("policy", "schema").stdout)["title"]
    probed = json.loads(lab.run("helper", "probe", "--json").stdout)
    assert probed["complete"] is True
    assert probed["helper"]["full"] is True
    built = json.loads(lab.run("helper", "build", "--json").stdout)
    assert built["image_id"].startswith("sha256:")


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
def test_a_closed_stream_stops_nothing(lab: Lab, closed: str) -> None:
    """As some schedulers start us. Each verb looks whether a terminal is there, and some show a bar on it."""
    volume = lab.volume("data", {"file": b"data"})
    lab.init(volume)
    for verb in ("backup", "check", "verify"):
        command = f'"$0" -m drkit {verb} --policy "$1" {closed}'
        done = subprocess.run(
            ["bash", "-c", command, sys.executable, str(lab.policy)],
            env=lab.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done
        assert "internal error" not in done.stderr
    assert len(lab.json("snapshots")["snapshots"]) == 1
