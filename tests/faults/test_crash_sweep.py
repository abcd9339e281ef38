"""Every action on a repository, or on two, killed before each storage call; in a bucket before one of them.

`scripts/campaign crashes --url s3://BUCKET` does so before every call there too.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from drkit.repository.format.snapshot import Snapshot
from drkit.repository.keys.identity import generate_identity, parse_identity
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository
from tests.support.crash_sweep import ACTIONS, key_story, story, sweep
from tests.support.s3 import S3Server, bucket, credentials

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "repository-1"
CALLS = {"backup": 26, "prune": 46, "forget": 10, "repair": 18, "copy": 60, "add": 40, "remove": 14, "rewrap": 65}
"""How many calls an action makes at the least; chance decides how much there is to move."""


@pytest.mark.parametrize("action", ACTIONS)
def test_killed_at_every_storage_call(action: str, tmp_path: Path, seed: int) -> None:
    swept = sweep(story(action, str(seed)), str(tmp_path))
    print(swept)
    assert swept.killed == swept.last - 1 >= CALLS[action]


@pytest.mark.parametrize("action", ACTIONS)
def test_killed_at_a_storage_call_in_a_bucket(
    action: str, s3_server: S3Server, seed: int, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRKIT_ENDPOINT", s3_server.http)
    with credentials(s3_server.access_key, s3_server.secret_key), bucket(s3_server.client()) as name:
        swept = sweep(story(action, str(seed)), f"s3://{name}", [rng.randint(1, CALLS[action])])
    print(swept)
    assert swept.killed == 1


def test_rewrap_of_a_repository_without_labels_killed_at_every_storage_call(tmp_path: Path) -> None:
    """The frozen one: nobody knows whom its second wraps are for, and they go."""
    owner, second = (
        parse_identity((GOLDEN / name).read_text(), source=name) for name in ("identity.txt", "escrow-identity.txt")
    )
    carol = generate_identity()
    expected = json.loads((GOLDEN / "expected.json").read_text())["tars"]
    directory = GOLDEN / "repository"
    objects = {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}

    def read(repository: Repository) -> None:
        records = [record for record in repository.snapshots() if isinstance(record, Snapshot)]
        assert {record.id for record in records} == set(expected)
        with ChunkReader(repository) as reader:
            for record in records:
                for target in record.targets:
                    for _ in reader.extents(reader.members(target)):
                        pass

    arguments = (owner.recipient, carol.recipient)
    swept = sweep(key_story("rewrap", owner, arguments, objects, [owner, second], [owner, carol], read), str(tmp_path))
    print(swept)
    assert swept.killed == swept.last - 1 > 30
