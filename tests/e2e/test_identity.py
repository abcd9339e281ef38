"""Which machine is which, from the command line: a clone, two runs at once, a state directory that is always new."""

from __future__ import annotations

import json
import shutil

from drkit.host.throwaway import is_throwaway
from tests.support.lab import Lab, finish


def test_a_clone_is_told_and_adopt_settles_it(lab: Lab) -> None:
    volume = lab.volume("data", {"file": b"content"})
    lab.init(volume, retention={"keep_last": 1})
    lab.backup()
    copied = lab.directory / "copied-state"
    shutil.copytree(lab.state, copied)
    lab.backup()
    ours = lab.json("host", "show")["origin"]
    original, lab.state = lab.state, copied
    result = lab.drkit("backup")
    assert result.code == 0
    assert "was copied, or set back" in result.stderr
    assert "drkit host adopt" in result.stderr
    theirs = lab.json("host", "show")["origin"]
    assert theirs != ours
    for state in (copied, original):
        lab.state = state
        said = lab.fails(23, "prune")
        assert ours[:8] in said
        assert theirs[:8] in said
    assert "latest is ambiguous" in lab.fails(2, "ls", "latest", volume.name)
    assert lab.json("host", "adopt")["adopted"] == [theirs]
    newest = lab.backup()
    assert lab.json("prune", "--yes-really")["forgotten"]
    assert [each["id"] for each in lab.snapshots()] == [newest]
    assert lab.json("check")["errors"] == []
    lab.json("verify")
    lab.state = copied
    assert "was copied, or set back" in lab.drkit("backup").stderr


def test_two_runs_of_one_policy_at_once(lab: Lab) -> None:
    volume = lab.volume("data", {"file": b"content"})
    lab.init(volume)
    for _ in range(2):
        running = [lab.start("backup", "--json", "--policy", lab.policy) for _ in range(2)]
        for process in running:
            result = finish(process, 120)
            assert result.code == 0, result.stderr
            assert json.loads(result.stdout)["status"] == "ok"
    [series] = lab.json("host", "show")["series"]
    assert (series["snapshots"], series["sequence"]) == (4, 4)
    assert lab.json("host", "show")["forks"] == []
    assert lab.drkit("backup").stderr == ""


def test_a_state_directory_that_is_new_on_every_run(lab: Lab) -> None:
    """Refused where it goes with a container, told elsewhere."""
    volume = lab.volume("data", {"file": b"content"})
    lab.init(volume)
    lab.backup()
    lab.state = lab.directory / "new-state"
    result = lab.drkit("backup")
    assert result.code == (1 if is_throwaway(lab.state) else 0)
    assert "comes from another installation" in result.stderr
    assert "drkit host adopt" in result.stderr
    assert ("DRKIT_STATE_DIR" in result.stderr) == is_throwaway(lab.state)
