"""Every action on a repository, or on two, killed before each storage call; in a bucket before some of them.

Whatever was acknowledged is whole, the next backup and the next prune need no help, and nothing is left that the next
prune does not take along.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from drkit.repository.check import check_repository
from drkit.repository.identity import Identity
from drkit.repository.repository import Repository
from drkit.storage import open_storage
from tests.support.crash_child import contents, small_packs
from tests.support.mirroring import by_original, copy_all, make_mirror, related_contents
from tests.support.place import open_place
from tests.support.pruning import prune_until_clean
from tests.support.repositories import create, read_everything, write_snapshot
from tests.support.s3 import S3Server, bucket, credentials

PROJECT = Path(__file__).resolve().parents[2]


def run_killed(action: str, directory: Path | str, identity: Identity, call: int, seed: str) -> bool:
    """Whether it came to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.crash_child", action, str(directory), str(call), seed],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        input=identity.secret_text(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    assert (done.stdout == "done\n") == (done.returncode == 0)
    return done.returncode == 0


@pytest.mark.parametrize("action", ["backup", "prune", "forget", "repair"])
def test_killed_at_every_storage_call(action: str, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from drkit.repository import packs, writer

    monkeypatch.setattr(packs, "PACK_SIZE", packs.PACK_SIZE)
    monkeypatch.setattr(writer, "MAX_ENTRIES", writer.MAX_ENTRIES)
    small_packs()
    base = tmp_path / "base"
    repository, identity = create(open_place(str(base), create=True))
    made = {run: {"v": content} for run, content in contents(str(seed)).items()}
    for run in ("old", "kept"):
        write_snapshot(repository, [identity.recipient], run, made[run])
    if action == "repair":
        next((base / "index").iterdir()).unlink()
    killed = 0
    for call in range(1, 400):
        directory = tmp_path / str(call)
        shutil.copytree(base, directory)
        ended = run_killed(action, directory, identity, call, str(seed))
        killed += not ended
        check_after(action, directory, identity, made, call, ended=ended)
        shutil.rmtree(directory)
        if ended:
            break
    print(f"{action}: N = {call - 1} storage calls, killed before each of them: {killed}; nothing lost, nothing left")
    assert killed == call - 1 > (3 if action == "forget" else 8)


@pytest.mark.parametrize("action", ["backup"])
def test_killed_at_storage_calls_in_a_bucket(
    action: str, s3_server: S3Server, seed: int, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before every eighth call, from which on is left to chance."""
    found = sweep_bucket(action, s3_server, seed, rng.randrange(1, 9), 8, monkeypatch)
    print(found)


def sweep_bucket(
    action: str, s3_server: S3Server, seed: int, first: int, step: int, monkeypatch: pytest.MonkeyPatch
) -> str:
    from drkit.repository import packs, writer

    monkeypatch.setattr(packs, "PACK_SIZE", packs.PACK_SIZE)
    monkeypatch.setattr(writer, "MAX_ENTRIES", writer.MAX_ENTRIES)
    monkeypatch.setenv("DRKIT_ENDPOINT", s3_server.http)
    small_packs()
    client = s3_server.client()
    with credentials(s3_server.access_key, s3_server.secret_key), bucket(client) as name:
        repository, identity = create(open_place(f"s3://{name}/base"))
        made = {run: {"v": content} for run, content in contents(str(seed)).items()}
        for run in ("old", "kept"):
            write_snapshot(repository, [identity.recipient], run, made[run])
        keys = [info.key for info in repository.storage.list("")]
        killed, call, ended = 0, first, False
        while not ended:
            for key in keys:
                client.copy_object(Bucket=name, Key=f"{call}/{key}", CopySource={"Bucket": name, "Key": f"base/{key}"})
            ended = run_killed(action, f"s3://{name}/{call}", identity, call, str(seed))
            killed += not ended
            check_after(action, f"s3://{name}/{call}", identity, made, call, ended=ended)
            call += step
    assert killed >= 1
    return f"{action}: N < {call - step} storage calls, killed before {killed} of them; nothing lost, nothing left"


def check_after(action: str, directory: Path | str, identity: Identity, made: dict, call: int, *, ended: bool) -> None:  # type: ignore[type-arg]
    def opened() -> Repository:
        return Repository.open(open_place(str(directory)), [identity])

    found = read_everything(opened())
    assert found == {run: made[run] for run in found}, call
    assert found.keys() >= {"kept"}
    if action in ("backup", "repair"):
        assert "old" in found
    if action == "backup":
        assert "new" in found or not ended
    report = check_repository(opened())
    assert report.ok or action == "repair", (call, report.findings)
    write_snapshot(opened(), [identity.recipient], "later", made["new"])
    if action == "repair":
        if isinstance(directory, Path):
            shutil.rmtree(directory / "tmp", ignore_errors=True)
        run_killed("repair", directory, identity, 0, "")
    assert prune_until_clean(opened(), "old") <= 2, call
    if isinstance(directory, Path):
        assert list((directory / "tmp").iterdir()) == []
    after = read_everything(opened())
    assert after == {**{run: made[run] for run in found if run != "old"}, "later": made["new"]}
    assert check_repository(opened()).ok


def test_a_copy_killed_at_every_storage_call_of_either_side(
    tmp_path: Path, seed: int, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    from drkit.repository import packs, writer

    monkeypatch.setattr(packs, "PACK_SIZE", packs.PACK_SIZE)
    monkeypatch.setattr(writer, "MAX_ENTRIES", writer.MAX_ENTRIES)
    small_packs()
    base = tmp_path / "base"
    source, identity = create(open_storage(str(base / "source"), create=True))
    runs = ("20250301t000000z-aaaaaaaa", "20250302t000000z-bbbbbbbb", "20250303t000000z-cccccccc")
    contents = related_contents(rng, runs)
    for run in runs:
        write_snapshot(source, [identity.recipient], run, contents[run])
    make_mirror(source, open_storage(str(base / "mirror"), create=True))
    copy_all(source, open_storage(str(base / "mirror")), runs[0])
    for call in range(1, 400):
        directory = tmp_path / str(call)
        shutil.copytree(base, directory)
        ended = run_killed("copy", directory, identity, call, str(seed))
        check_after_copy(directory, identity, contents, runs[0], call, ended=ended)
        shutil.rmtree(directory)
        if ended:
            break
    print(f"copy: N = {call - 1} storage calls of both sides, killed before each of them; nothing lost, nothing left")
    assert call - 1 > 40


def check_after_copy(  # type: ignore[no-untyped-def]
    directory: Path, identity: Identity, contents, acknowledged: str, call: int, *, ended: bool
) -> None:
    place = open_storage(str(directory / "mirror"))

    def opened(name: str) -> Repository:
        return Repository.open(open_storage(str(directory / name)), [identity])

    for turn in range(2):  # pruned before it is run again, and not
        held = by_original(place, identity)
        assert held == {run: contents[run] for run in held}, call
        assert acknowledged in held
        assert held == contents or not ended, call
        assert check_repository(opened("mirror")).ok, call
        if turn == call % 2:
            prune_until_clean(opened("mirror"))
    done = copy_all(opened("source"), place)
    assert (len(done.copied), done.failed) == (len(contents) - len(held), []), call
    assert by_original(place, identity) == contents
    assert check_repository(opened("mirror")).ok
    assert check_repository(opened("source")).ok
    assert read_everything(opened("source")) == contents
    prune_until_clean(opened("mirror"))
    assert list((directory / "mirror" / "tmp").iterdir()) == []
    assert by_original(place, identity) == contents
