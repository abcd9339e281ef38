"""The verbs that keep a repository, as a user types them: prune, forget, repair, check --packs, verify of a subset."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from drkit.repository.format.snapshot import Snapshot, Target, format_time
from drkit.repository.keys.wraps import format_meta_key
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter
from drkit.storage import open_storage
from tests.conftest import CliResult, DrkitCli
from tests.support.repositories import Content, create, put_content, read_everything

FIRST = datetime(2025, 3, 1, 3, 0, tzinfo=UTC)


class Keeper:
    """A repository of nightly runs, a policy for it, and the command line."""

    def __init__(self, directory: Path, cli: DrkitCli, rng: random.Random) -> None:
        self.directory, self._cli, self._rng = directory, cli, rng
        self.storage = open_storage(str(directory / "repository"), create=True)
        self.repository, self.identity = create(self.storage)
        self.identity_file = directory / "identity.txt"
        self._secret(self.identity_file, self.identity.secret_text() + "\n")
        (directory / "recipients.txt").write_text(self.identity.recipient + "\n")
        self.contents: dict[str, Content] = {}
        self.policy = self.write_policy("identity_file", self.identity_file)

    def _secret(self, path: Path, text: str) -> None:
        path.touch(mode=0o600)
        path.write_text(text)

    def write_policy(self, key: str, file: Path, **retention: Any) -> Path:
        path = self.directory / f"{key}.yaml"
        document = {
            "version": 1,
            "name": "shop",
            "host": "web",
            "repository": {
                "url": str(self.directory / "repository"),
                "recipients_file": str(self.directory / "recipients.txt"),
                key: str(file),
            },
            "protect": {"volumes": [{"name": "data"}]},
            "retention": retention or {"keep_last": 2},
        }
        path.write_text(json.dumps(document))
        return path

    def meta_key_policy(self) -> Path:
        file = self.directory / "meta.key"
        self._secret(file, format_meta_key(self.repository.meta.meta_key, self.repository.id))
        return self.write_policy("meta_key_file", file)

    def nights(self, count: int, *, host: str = "web") -> list[str]:
        """So many snapshots, each with content that the others do not have."""
        made = []
        for number in range(count):
            when = FIRST + timedelta(days=len(self.contents))
            run_id = f"{when:%Y%m%dt%H%M%Sz}-{number:08x}".lower()
            target, content = (
                Target("volume", "data"),
                {b"": self._rng.randbytes(512), b"a": self._rng.randbytes(200_000)},
            )
            repository = self.opened()
            with RunWriter(repository, run_id, [self.identity.recipient], host=host) as writer:
                put_content(repository, writer, target, content)
                writer.commit(Snapshot(run_id, format_time(when), host, "shop", "ok", [target]))
            self.contents[run_id] = content
            made.append(run_id)
        return made

    def opened(self) -> Repository:
        return Repository.open(self.storage, [self.identity])

    def run(self, *arguments: str | Path, code: int = 0, policy: Path | None = None) -> CliResult:
        done = self._cli(*arguments, "--policy", policy or self.policy)
        assert done.code == code, done
        return done

    def json(self, *arguments: str | Path, code: int = 0, policy: Path | None = None) -> dict[str, Any]:
        return dict(json.loads(self.run(*arguments, "--json", code=code, policy=policy).stdout))

    def right(self, *run_ids: str) -> bool:
        """Whether just these snapshots are there, with all they held."""
        return read_everything(self.opened()) == {run: {"data": self.contents[run]} for run in run_ids}

    def objects(self, prefix: str) -> Sequence[str]:
        return [info.key for info in self.storage.list(prefix)]


@pytest.fixture
def keeper(tmp_path: Path, drkit_cli: DrkitCli, rng: random.Random) -> Keeper:
    return Keeper(tmp_path, drkit_cli, rng)


@pytest.mark.parametrize("key", ["identity", "meta key"])
def test_prune_keeps_what_the_rules_keep_and_gives_back_the_rest(keeper: Keeper, key: str) -> None:
    nights = keeper.nights(4)
    [other] = keeper.nights(1, host="elsewhere")
    policy = keeper.meta_key_policy() if key == "meta key" else keeper.policy
    before = keeper.objects("")
    planned = keeper.json("prune", "--dry-run", policy=policy)
    assert keeper.objects("") == before
    assert planned["status"] == "planned"
    assert [decision["snapshot"] for decision in planned["forget"]] == nights[:2]
    assert {decision["snapshot"] for decision in planned["keep"]} == set(nights[2:])
    assert all(decision["reasons"] for decision in planned["forget"] + planned["keep"])
    assert planned["other_snapshots"] == 1
    done = keeper.json("prune", policy=policy)
    assert (done["status"], done["forgotten"], done["denied"]) == ("ok", nights[:2], [])
    assert done["bytes_deleted"] == planned["bytes_to_free"] > 0
    assert keeper.right(*nights[2:], other)
    assert keeper.json("check", policy=policy)["status"] == "ok"
    assert not keeper.objects("sessions/") and not keeper.objects("marks/")
    again = keeper.run("prune", policy=policy).stdout
    assert "forgot 0 snapshots" in again


def test_prune_prints_its_plan_for_people(keeper: Keeper) -> None:
    nights = keeper.nights(3)
    said = keeper.run("prune", "--dry-run").stdout
    assert f"{nights[0]}  forget" in said
    assert f"{nights[2]}  keep" in said
    assert "would free" in said


def test_more_than_half_needs_to_be_said_aloud(keeper: Keeper) -> None:
    nights = keeper.nights(5)
    policy = keeper.write_policy("identity_file", keeper.identity_file, keep_last=1)
    refused = keeper.run("prune", code=23, policy=policy)
    assert "hint: Look at drkit prune --dry-run" in refused.stderr
    assert keeper.right(*nights)
    keeper.run("prune", "--yes-really", policy=policy)
    assert keeper.right(nights[-1])


def test_prune_without_snapshots_refuses(keeper: Keeper) -> None:
    assert "shows no snapshot" in keeper.run("prune", code=23).stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--max-repack", "much"), "--max-repack much: not a valid size"),
        (("--grace", "long"), "--grace long: not a valid duration"),
    ],
)
def test_what_prune_does_not_understand(keeper: Keeper, arguments: tuple[str, ...], said: str) -> None:
    assert said in keeper.run("prune", *arguments, code=2).stderr


def test_forget_removes_one_and_never_the_newest_unasked(keeper: Keeper) -> None:
    nights = keeper.nights(3)
    done = {"status": "ok", "forgotten": [nights[0]], "explained": [], "snapshots_left": 2}
    assert keeper.json("forget", nights[0]) == done
    assert keeper.right(*nights[1:])
    refused = keeper.run("forget", nights[1], nights[2], code=23)
    assert f"snapshot {nights[2]} is the newest that holds volume data" in refused.stderr
    assert keeper.right(*nights[1:])
    keeper.run("forget", nights[2], "--yes-really")
    assert keeper.right(nights[1])
    keeper.run("forget", "20990101t000000z-00000000", code=1)
    packs = len(keeper.objects("packs/"))
    keeper.run("prune", "--yes-really")
    assert len(keeper.objects("packs/")) < packs
    assert keeper.right(nights[1])


def flip(path: Path) -> None:
    """Change one bit in the middle."""
    path.chmod(0o600)
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)


@pytest.mark.parametrize("loss", ["deleted", "damaged"])
def test_repair_makes_a_lost_index_anew_and_removes_only_what_cannot_be_read(keeper: Keeper, loss: str) -> None:
    nights = keeper.nights(2)
    lost = [Path(keeper.storage.url) / key for key in keeper.objects("index/")]
    for path in lost:
        if loss == "deleted":
            path.unlink()
        else:
            flip(path)
    keeper.run("check", code=20)
    before = set(keeper.objects(""))
    done = keeper.json("repair", "index")
    assert done["status"] == "ok" and done["packs"] == len(keeper.objects("packs/"))
    unreadable = {f"index/{path.name}" for path in lost if loss == "damaged"}
    assert before - set(keeper.objects("")) == unreadable == set(done["deleted"])
    assert keeper.right(*nights)
    assert keeper.json("check")["status"] == "ok"


@pytest.mark.parametrize("key", ["identity", "meta key"])
def test_bit_rot_is_found_without_opening_data(keeper: Keeper, key: str) -> None:
    nights = keeper.nights(2)
    policy = keeper.meta_key_policy() if key == "meta key" else keeper.policy
    assert keeper.json("check", "--packs", policy=policy)["errors"] == []
    victim = max(keeper.objects("packs/"), key=lambda name: (Path(keeper.storage.url) / name).stat().st_size)
    flip(Path(keeper.storage.url) / victim)
    assert keeper.json("check", policy=policy)["status"] == "ok"  # structure alone does not read it
    found = keeper.json("check", "--packs", code=20, policy=policy)
    [error] = found["errors"]
    assert error["object"] == victim
    assert set(error["snapshots"]) <= set(nights) and error["snapshots"]
    assert error["files"]


def test_a_subset_is_read_by_chance_and_can_be_read_again(keeper: Keeper) -> None:
    keeper.nights(6)
    whole = keeper.json("verify", "--read-data-subset", "100%")["bytes"]
    some = keeper.run("verify", "--read-data-subset", "30%", "--json")
    assert 0 <= json.loads(some.stdout)["bytes"] < whole
    seed = some.stderr.rpartition("seed ")[2].split()[0]
    again = keeper.run("verify", "--read-data-subset", "30%", "--seed", seed, "--json")
    assert json.loads(again.stdout)["bytes"] == json.loads(some.stdout)["bytes"]
    for key in keeper.objects("packs/"):
        flip(Path(keeper.storage.url) / key)
    assert keeper.json("verify", "--read-data-subset", "100%", code=20)["errors"]


def test_what_is_stored_whole_but_is_no_tar_is_named(keeper: Keeper) -> None:
    """Only a writer with a fault can store that; these tests do."""
    [night] = keeper.nights(1)
    [error, *_] = keeper.json("verify", code=20)["errors"]
    assert error["snapshots"] == [night]
    assert "do not make up a tar stream" in error["problem"]


@pytest.mark.parametrize("arguments", [("--read-data-subset", "0%"), ("--read-data-subset", "x"), ("--seed", "a")])
def test_what_verify_does_not_understand(keeper: Keeper, arguments: tuple[str, ...]) -> None:
    assert "hint: " in keeper.run("verify", *arguments, code=2).stderr


@pytest.mark.parametrize("verb", [["ls", "latest"], ["diff", "latest", "latest"]])
def test_latest_says_that_it_passed_over_a_damaged_snapshot(keeper: Keeper, verb: list[str]) -> None:
    nights = keeper.nights(3)
    path = keeper.directory / "repository" / "snapshots" / nights[2]
    flip(path)
    done = keeper.run(*verb)
    assert f"snapshots/{nights[2]}" in done.stderr
    assert "that snapshot was passed over, and it may be the newest" in done.stderr
