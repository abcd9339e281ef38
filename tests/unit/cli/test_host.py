"""`drkit host`, as a user types it."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tests.conftest import DrkitCli
from tests.support.machines import Site


def test_a_clone_is_shown_and_settled(tmp_path: Path, drkit_cli: DrkitCli, rng: random.Random) -> None:
    site = Site(tmp_path, rng)
    web = site.machine("web")
    web.backup()
    clone = web.clone("clone")
    web.backup()
    clone.backup()
    policy = site.policy("web", "shop")

    def run(*arguments: str, code: int = 0) -> str:
        done = drkit_cli(*arguments, "--policy", policy, env={"DRKIT_STATE_DIR": str(clone.state)})
        assert done.code == code, done
        return done.stdout + done.stderr

    shown = json.loads(run("host", "show", "--json"))
    assert shown["origin"] == clone.origin
    assert {(line["origin"], line["ours"], line["snapshots"]) for line in shown["series"]} == {
        (web.origin, False, 2),
        (clone.origin, True, 1),
    }
    assert shown["forks"][0]["origins"] == [clone.origin, web.origin]
    text = run("host", "show")
    assert f"{clone.origin[:8]} (this one)" in text
    assert "fork: host web, policy shop: origin" in text
    said = run("prune", code=23)
    assert "drkit host adopt" in said
    said = run("host", "adopt")
    assert f"goes on with the series of origin {web.origin[:8]}; the next backup tells the repository" in said
    run("prune", code=23)
    clone.backup()
    run("prune", "--yes-really")
    before = clone.origin
    document = json.loads(run("host", "fork", "--json"))
    assert document["origin"] not in (before, web.origin)  # it lets go of what it took over
    assert document["adopted"] == []
    assert "an origin like xx" in run("host", "adopt", "xx", code=2)  # which no key begins with


def test_a_clone_that_says_so_before_any_backup_leaves_the_original_alone(
    tmp_path: Path, drkit_cli: DrkitCli, rng: random.Random
) -> None:
    site = Site(tmp_path, rng)
    web = site.machine("web")
    web.backup()
    clone = web.clone("clone")
    policy = site.policy("web", "shop")

    def run(*arguments: str, code: int = 0) -> str:
        done = drkit_cli(*arguments, "--policy", policy, env={"DRKIT_STATE_DIR": str(clone.state)})
        assert done.code == code, done
        return done.stdout + done.stderr

    assert "is empty" in run("host", "adopt", "", code=2)
    assert "goes on with" in run("host", "adopt", web.origin, code=2)
    own = json.loads(run("host", "fork", "--json"))["origin"]
    assert own != web.origin
    clone.backup()
    assert json.loads(run("host", "fork", "--json"))["origin"] in (own, clone.origin)
    web.backup()
    run("prune", "--yes-really")
    assert {line["origin"]: line["snapshots"] for line in json.loads(run("host", "show", "--json"))["series"]} == {
        web.origin: 2,
        own: 1,
    }
