"""Streams that are closed, full, or lose their reader; outputs that somebody else has placed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.lab import Lab, Result, Volume


class Saved(NamedTuple):
    lab: Lab
    volume: Volume


@pytest.fixture(scope="module")
def saved(module_lab: Lab) -> Saved:
    """A repository with one snapshot, which nothing changes."""
    volume = module_lab.volume("data", {f"etc/file-{number:04d}": b"content" * 100 for number in range(1000)})
    module_lab.init(volume)
    module_lab.backup()
    return Saved(module_lab, volume)


def shell(lab: Lab, command: str, *arguments: str | Path) -> Result:
    """Run a line of bash, in which `drkit` is drkit."""
    done = subprocess.run(
        ["bash", "-c", f'drkit() {{ "$PYTHON" -m drkit "$@"; }}; set -o pipefail; {command}', "bash", *arguments],
        cwd=lab.directory,
        env={**lab.environment(), "PYTHON": sys.executable, "P": str(lab.policy)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert "internal error" not in done.stderr, done.stderr
    return Result(done.returncode, done.stdout, done.stderr, 0)


# --- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- >/dev/null 2>&-"])
@pytest.mark.parametrize("verb", ["snapshots", "restore latest --dry-run --to-volume new --volume $V"])
def test_a_closed_stdin_or_stderr_stops_nothing(saved: Saved, verb: str, closed: str) -> None:
    result = shell(saved.lab, f'V={saved.volume.name}; drkit {verb} -p "$P" {closed}')
    assert result.code == 0, result
    assert bool(result.stdout) == (">/dev/null" not in closed)


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("verb", ["snapshots --json", "ls latest", "policy check", "check"])
def test_what_a_closed_stdout_does_not_take_does_not_vanish(saved: Saved, verb: str, closed: str) -> None:
    result = shell(saved.lab, f'drkit {verb} -p "$P" {closed}')
    assert (result.code, result.stdout) == (1, ""), result
    assert ("stdout" in result.stderr) == ("2>&-" not in closed)


def test_no_file_gets_the_number_of_a_closed_stream(saved: Saved) -> None:
    """It would get all that is printed, at its beginning."""
    before = {path: path.read_bytes() for path in saved.lab.objects()}
    assert shell(saved.lab, 'drkit check --packs -v -p "$P" <&- >&- 2>&-').code == 1
    assert {path: path.read_bytes() for path in saved.lab.objects()} == before


@pytest.mark.parametrize(
    "command",
    [
        'drkit snapshots -p "$P" >/dev/full',
        'drkit ls latest --json -p "$P" >/dev/full',
        'drkit export latest --volume "$1" -p "$P" >/dev/full',
        'drkit export latest --volume "$1" -o - -p "$P" >&-',
        "drkit --help >/dev/full",
        "drkit policy example >/dev/full",
        "drkit --version >&-",
    ],
)
def test_a_full_stdout_is_named(saved: Saved, command: str) -> None:
    result = shell(saved.lab, command, saved.volume.name)
    assert result.code == 1, result
    assert "drkit: cannot write to stdout: " in result.stderr
    assert ("it is closed" in result.stderr) == (">&-" in command)


@pytest.mark.parametrize("verb", ["ls latest --json", "check", "export latest"])
@pytest.mark.parametrize("stderr", ["2>/dev/full", "2>&-"])
def test_messages_that_nobody_can_hear_change_no_exit_code(saved: Saved, verb: str, stderr: str) -> None:
    more = f"--volume {saved.volume.name}" if verb == "export latest" else ""
    result = shell(saved.lab, f'drkit {verb} {more} -v -p "$P" {stderr} | wc -c; echo "${{PIPESTATUS[0]}}"')
    assert result.stdout.split()[1] == "0", result
    assert int(result.stdout.split()[0]) > 0


def test_a_reader_that_wants_one_line_gets_it(saved: Saved) -> None:
    result = shell(saved.lab, 'drkit ls latest -p "$P" | head -1; echo "${PIPESTATUS[@]}"')
    assert result.stdout.splitlines()[1].split()[1] == "0"
    assert result.stderr == ""


def test_a_pipe_that_somebody_made_non_blocking_loses_nothing(saved: Saved) -> None:
    """As whoever shares our terminal or pipe may do at any time."""
    expected = shell(saved.lab, 'drkit ls latest --json -p "$P"').stdout
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    process = saved.lab.start("ls", "latest", "--json", "-p", saved.lab.policy, stdout=theirs)
    os.close(theirs)
    try:
        assert process.wait(60) == 0 if len(expected) < 60_000 else process.poll() is None
        with os.fdopen(ours, "rb") as pipe:
            assert pipe.read().decode() == expected
    finally:
        process.communicate()
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("stdout", "why"),
    [(">/dev/full", "no space left on device"), (">&-", "it is closed"), ("| true", "broken pipe")],
)
@pytest.mark.parametrize("form", ["", "--json"])
def test_a_good_backup_is_said_to_be_stored_where_its_report_is_lost(
    lab: Lab, stdout: str, why: str, form: str
) -> None:
    volume = lab.volume("data", {"file": b"data"})
    lab.init(volume)
    result = shell(lab, f'drkit backup {form} -p "$P" {stdout}')
    assert result.code == 1, result
    [snapshot] = lab.snapshots()
    assert f"snapshot {snapshot['id']} is stored, ok, but stdout does not take the report of it: {why}" in result.stderr
    assert snapshot["status"] == "ok"


def test_a_partial_backup_stays_partial_and_a_restore_restored(lab: Lab) -> None:
    volume = lab.volume("data", {"file": b"data"})
    lab.init(volume, f"{lab.name}-missing")
    result = shell(lab, 'drkit backup -p "$P" >/dev/full')
    assert result.code == 3, result
    assert "is stored, partial" in result.stderr
    assert f"{lab.name}-missing" in result.stderr
    new = lab.forget_later(f"{lab.name}-new")
    result = shell(lab, 'drkit restore latest --volume "$1" --to-volume "$2" -p "$P" >&-', volume.name, new)
    assert result.code == 1
    assert f"volume {new} is restored and verified, but stdout does not take" in result.stderr
    assert (lab.find(new).files / "file").read_bytes() == b"data"


def test_damage_outranks_a_lost_report(lab: Lab) -> None:
    lab.init(lab.volume("data", {"file": b"data"}))
    lab.backup()
    index = lab.objects("index/")[0]
    index.chmod(0o600)
    index.write_bytes(b"x")
    result = shell(lab, 'drkit check -p "$P" >/dev/full')
    assert result.code == 20
    assert "check found 1 damaged object, but stdout" in result.stderr


# --- outputs ----------------------------------------------------------------------------------------------------------


def export(saved: Saved, output: str | Path, redirect: str = "") -> Result:
    command = f'drkit export latest --volume "$1" -p "$P" -o {output} {redirect}'
    return shell(saved.lab, command, saved.volume.name)


def members(archive: Path) -> int:
    with tarfile.open(archive) as tar:
        return len(tar.getmembers())


@pytest.mark.parametrize("mask", ["000", "777"])
def test_an_export_is_for_its_user_alone(saved: Saved, tmp_path: Path, mask: str) -> None:
    out = tmp_path / "out.tar"
    result = shell(saved.lab, f'umask {mask}; drkit export latest --volume "$1" -o {out} -p "$P"', saved.volume.name)
    assert result.code == 0, result
    assert oct(out.stat().st_mode & 0o7777) == "0o600"
    assert members(out) == 1002
    assert [path.name for path in tmp_path.iterdir()] == ["out.tar"]


def test_an_export_follows_no_link_and_replaces_nothing(saved: Saved, tmp_path: Path) -> None:
    victim, out = tmp_path / "victim", tmp_path / "out.tar"
    victim.write_bytes(b"production")
    (tmp_path / ".out.tar.unfinished").symlink_to(victim)  # the name of earlier versions
    assert export(saved, out).code == 0
    for name, target in (("file", None), ("link", victim), ("nowhere", tmp_path / "missing")):
        path = tmp_path / name
        path.write_bytes(b"x") if target is None else path.symlink_to(target)
        result = export(saved, path)
        assert (result.code, f"{path} exists" in result.stderr) == (2, True), result
    assert victim.read_bytes() == b"production"
    assert not (tmp_path / "missing").exists()
    block = tmp_path / "device"
    os.mknod(block, 0o60600, os.makedev(7, 200))
    assert export(saved, block).code == 2


def test_an_existing_output_is_refused_before_anything_is_opened(saved: Saved, tmp_path: Path) -> None:
    out = tmp_path / "out.tar"
    out.touch()
    command = f'drkit export latest --volume x --repository /nonexistent -p "$P" -o {out}'
    assert f"{out} exists" in shell(saved.lab, command).stderr


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "-"])
def test_stdout_by_any_name(saved: Saved, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out.tar"
    assert export(saved, name, f"> {out}").code == 0
    assert members(out) == 1002
    assert export(saved, name, "| cat >/dev/null").code == 0


def test_a_pipe_of_ones_own_is_an_output(saved: Saved, tmp_path: Path) -> None:
    fifo, out = tmp_path / "fifo", tmp_path / "out.tar"
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: out.write_bytes(fifo.read_bytes()))
    reader.start()
    assert export(saved, fifo).code == 0
    reader.join(30)
    assert members(out) == 1002
    substituted = tmp_path / "substituted.tar"
    assert export(saved, f">(cat >{substituted}); wait").code == 0
    assert members(substituted) == 1002


def test_a_pipe_of_somebody_else_is_not(saved: Saved, tmp_path: Path) -> None:
    """Whoever made it reads it."""
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    assert export(saved, link).code == 2
    os.chown(fifo, 12345, 12345)
    assert export(saved, fifo).code == 2


def test_keys_and_kits_follow_no_link(saved: Saved, tmp_path: Path) -> None:
    victim, link = tmp_path / "victim", tmp_path / "link"
    link.symlink_to(victim)
    assert shell(saved.lab, f'drkit key host-key {link} -p "$P"').code == 1
    assert shell(saved.lab, f'drkit key kit -o {link} -p "$P"').code == 1
    assert shell(saved.lab, f'drkit key unlock -o {link} -p "$P"').code == 2
    other = Lab(saved.lab.api, tmp_path, "other")
    other.write_policy("data")
    assert shell(other, f'drkit init --kit {link} -p "$P"').code == 2
    assert not victim.exists()
    assert not other.repository.exists()


@pytest.mark.parametrize("mask", ["000", "777"])
def test_state_keys_and_repository_are_private_whatever_the_umask(lab: Lab, mask: str) -> None:
    lab.write_policy(lab.volume("data", {"file": b"data"}))
    lab.state = lab.directory / "var/lib/drkit"
    assert shell(lab, f'umask {mask}; drkit init -p "$P" && drkit backup -p "$P" --json').code == 0
    modes = {
        path: path.stat().st_mode & 0o777
        for top in (lab.repository, lab.directory / "var", lab.identity)
        for path in [top, *top.rglob("*")]
    }
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} <= {0o600, 0o400}
    assert lab.recipients.stat().st_mode & 0o777 == 0o644


def test_systemd_may_give_several_directories(lab: Lab, tmp_path: Path) -> None:
    lab.init(lab.volume("data", {"file": b"data"}))
    one, two = tmp_path / "one", tmp_path / "two"
    result = shell(lab, f'unset DRKIT_STATE_DIR; export STATE_DIRECTORY={one}:{two}; drkit backup -p "$P" --json')
    assert json.loads(result.stdout)["status"] == "ok"
    assert (one / "documents.key").exists()
    assert not two.exists()
