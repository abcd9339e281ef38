"""Alpine: its stock image as a helper, and a helper that is built from it with GNU tar, on its own musl and BusyBox."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import docker
import pytest

from drkit.engine.client import Engine
from drkit.engine.helper.build import build_from_alpine
from drkit.engine.helper.image import HelperImage
from drkit.engine.helper.launch import run_helper
from drkit.host.state import HostState
from drkit.targets import helper as choice
from tests.support.events import RecordedEvents
from tests.support.lab import Lab, fill
from tests.support.registry import image_of_engine, registry
from tests.support.torture import ACCESS_ACL, MIB, make_torture_tree, named_acl
from tests.support.treecompare import compare_trees, describe, scan_tree


@pytest.fixture(scope="module")
def alpine_helper(
    api: docker.APIClient, engine_url: str, stock_alpine_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[HelperImage, Path]]:
    """A helper built from Alpine out of a registry, with its own apk; and the state of the host that built it."""
    state = tmp_path_factory.mktemp("alpine") / "state"
    events = RecordedEvents()
    with (
        registry(image_of_engine(api, stock_alpine_image)) as offered,
        Engine.connect(engine_url, events) as engine,
        pytest.MonkeyPatch.context() as patch,
    ):
        base = f"{offered.address}/alpine:3.22"
        # Another image under the name, as an archive could have brought it: the registry's digest decides.
        api.tag("drkit-test/busybox:1", f"{offered.address}/alpine", "3.22")
        patch.setattr(choice, "build_from_alpine", partial(build_from_alpine, base=base))
        host = HostState(state, events)
        patch.setattr(host.helpers, "lasts", lambda: True)
        helper = choice.ensure_helper(engine, host)
        history = [layer["Id"] for layer in api.history(helper.image_id)]
        assert offered.image_id in history
        api.remove_image(base, force=True)
        yield helper, state
        api.remove_image(helper.image_id, force=True)


def test_the_helper_is_built_by_alpines_own_apk(
    api: docker.APIClient, engine_url: str, alpine_helper: tuple[HelperImage, Path]
) -> None:
    helper, state = alpine_helper
    assert (helper.source, helper.full) == ("alpine", True)
    with Engine.connect(engine_url, RecordedEvents()) as engine:
        found = choice.probe(engine, HostState(state, engine.events), helper)
        lost = [name for name, kept in found.checks.items() if not kept]
        assert lost == []
        script = "cat /etc/alpine-release; apk info -e musl busybox tar findutils; tar --version; sh --help 2>&1"
        output, _ = run_helper(engine, helper.image_id, script, run_id="test")
    said = output.decode()
    assert said.startswith("3.")
    assert {"musl", "busybox", "tar", "findutils"} <= set(said.split())
    assert "(GNU tar)" in said and "BusyBox" in said


def test_everything_comes_back_through_a_helper_from_alpine(
    lab: Lab, alpine_helper: tuple[HelperImage, Path], rng: random.Random
) -> None:
    helper, lab.state = alpine_helper
    volume = lab.volume("torture")
    make_torture_tree(volume.files, rng, many=500, huge_files=False)
    os.sync()
    before = scan_tree(volume.files)
    lab.init(volume)
    [target] = lab.json("backup")["targets"]
    assert target["status"] == "ok"
    assert [text for text in target["lost"] if "trusted" not in text] == []
    assert scan_tree(volume.files) == before
    restored = lab.restore(volume)
    found = compare_trees(volume.files, restored.files)
    assert not found, describe(found)
    assert lab.json("verify")["status"] == "ok"
    kit = lab.drkit("key", "kit").stdout
    assert f"Helper image   {helper.image_id}" in kit
    # The next run takes over what has not changed, with the same helper.
    fill(volume.files, {"new": b"x" * 5000})
    [again] = lab.json("backup")["targets"]
    assert (again["status"], again["files"]) == ("ok", target["files"] + 1)


def make_plain_tree(root: Path) -> None:
    (root / "directory").mkdir(mode=0o2770)
    (root / "directory" / "file").write_bytes(bytes(range(256)) * 1000)
    (root / "directory" / "linked").hardlink_to(root / "directory" / "file")
    (root / "setuid").write_bytes(b"#!")
    os.chown(root / "setuid", 999, 998)
    (root / "setuid").chmod(0o4755)
    (root / "symlink").symlink_to("directory/file")
    (root / "-rf name with spaces, 'quotes' and \\").touch()
    (root / "caf\udce9").touch()
    os.mkfifo(root / "fifo")
    (root / "attributes").touch()
    with (root / "sparse").open("wb") as file:
        file.truncate(MIB)
    for path in scan_tree(root):
        os.utime(root / os.fsdecode(path), ns=(0, 1_600_000_000_000_000_000), follow_symlinks=False)
    os.setxattr(root / "attributes", "user.one", b"1")
    os.setxattr(root / "attributes", ACCESS_ACL, named_acl(33, 998))
    for name in ("", "attributes", "sparse"):
        os.utime(root / name, ns=(0, 1_600_000_000_123_456_789))


def test_what_stock_alpine_keeps_comes_back_and_what_it_loses_is_told(lab: Lab, stock_alpine_image: str) -> None:
    volume = lab.volume("plain")
    make_plain_tree(volume.files)
    before = scan_tree(volume.files)
    lab.init(volume, helper={"image": stock_alpine_image})

    [target] = lab.json("backup")["targets"]

    assert target["status"] == "ok"
    told = " ".join(target["lost"])
    for loss in ("xattrs, ACLs", "mtimes below a second", "holes of sparse files", "changed while they were read"):
        assert loss in told
    assert scan_tree(volume.files) == before
    restored = lab.restore(volume)
    found = compare_trees(volume.files, restored.files)
    assert {one.path for one in found} <= {b"", b"attributes", b"sparse"}, describe(found)
    assert os.listxattr(restored.files / "attributes") == []
    assert (restored.files / "sparse").read_bytes() == bytes(MIB)
    assert lab.json("verify")["status"] == "ok"
    [snapshot] = lab.snapshots()
    assert snapshot["targets"][0]["lost"] == target["lost"]
    # A full capture each time, and as good as the first.
    [again] = lab.json("backup")["targets"]
    assert again["bytes_read"] >= target["bytes_read"]


def test_the_stock_image_is_used_by_the_id_that_it_had_when_the_run_began(lab: Lab, stock_alpine_image: str) -> None:
    """It is resolved once: a name that moves meanwhile changes nothing, and the record has the id."""
    volume = lab.volume("data", {"file": b"content"})
    lab.init(volume, helper={"image": stock_alpine_image})
    image_id = lab.api.inspect_image(stock_alpine_image)["Id"]
    probed = json.loads(lab.run("helper", "probe", "--policy", lab.policy, "--json").stdout)
    assert probed["helper"]["image_id"] == image_id
    assert probed["helper"]["source"] == "stock"
    assert probed["helper"]["full"] is False
