"""What the engine's directories tell where they are not this process's: in a container, and on another host."""

from __future__ import annotations

from pathlib import Path

import pytest

from drkit.errors import UsageError
from drkit.operations import apart
from drkit.operations.apart import Ours, Overlap, _compared, _covered, overlaps, overlaps_of_policy
from drkit.operations.context import Context
from drkit.policy import Policy, parse_policy
from drkit.repository.format.kinds import Kind
from drkit.storage.local.mounts import Mount
from drkit.targets import plan_targets
from drkit.targets.base import Planned
from tests.support.fake_engine import FakeEngine
from tests.support.repositories import NOW

VOLUME = Path("/var/lib/docker/volumes/shop_data/_data")


def policy(url: str, volumes: str, more: str = "") -> Policy:
    return parse_policy(
        f"version: 1\nname: shop\nhost: h\nrepository: {{url: {url}, recipients_file: /r, identity_file: /i}}\n"
        f"protect: {{volumes: [{volumes}]}}\n{more}",
        Path("/etc/drkit/policies/shop.yaml"),
    )


@pytest.mark.parametrize(
    ("root", "below"),
    [
        ("/var/lib/docker/volumes/shop_data/_data", b"drkit"),
        ("/lib/docker/volumes/shop_data/_data", b"drkit"),  # /var is a file system of its own
        ("/volumes/shop_data/_data/backups", b"backups/drkit"),
        ("/var/lib/docker/volumes/shop_data2/_data", None),
        ("/var/lib/docker/volumes/other/_data", None),
        ("/srv/engine2/volumes/shop_data/_data", None),  # another engine's volume of this name
        ("/srv/shop_data/_data", None),
        ("/", None),
    ],
)
def test_in_a_container_the_mount_tells_whose_directory_it_is(root: str, below: bytes | None) -> None:
    mounts = [Mount(1, b"/x", b"/", "overlay", b"x"), Mount(2, root.encode(), b"/nowhere", "ext4", b"x")]
    found = _compared(Ours("the repository", Path("/nowhere/drkit")), "shop_data", [VOLUME], mounts)
    assert (found.below if found else None) == below


@pytest.mark.parametrize(
    ("url", "named"),
    [
        (f"{VOLUME}/drkit", "lies in the volume shop_data"),
        (f"file://{VOLUME}/drkit", "lies in the volume shop_data"),
        (f"{VOLUME}/a/../drkit", "lies in the volume shop_data"),
        (str(VOLUME), "is the directory of the volume shop_data"),
        ("/srv/docker/volumes/shop_data/_data/drkit", "lies in the volume shop_data"),
        ("/var/lib/docker/volumes/shop_other/_data/drkit", ""),
        ("/var/lib/docker/volumes/shop_data/drkit", ""),
        ("/var/backups/drkit", ""),
        ("s3://volumes/shop_data/_data/drkit", ""),
    ],
)
def test_a_policy_is_checked_without_an_engine(url: str, named: str) -> None:
    for volumes in ("{name: shop_data}", "{match: 'shop_d*'}", "{name: x1}, {match: '*_data'}"):
        found = list(overlaps_of_policy(policy(url, volumes)))
        assert [named in each.error.message for each in found] == ([True] if named else [])
    assert not list(overlaps_of_policy(policy(url, "{name: other}")))
    excluded = "{match: 'shop_*'}, {name: shop_data, exclude: [drkit]}"  # a name comes before a pattern
    assert bool(list(overlaps_of_policy(policy(url, excluded)))) is (url == str(VOLUME) or "shop_other" in url)
    if url != "/var/backups/drkit":
        mirrored = policy("/var/backups/drkit", "{name: shop_data}", f"mirror: {{url: {url}}}\n")
        assert [named in each.error.message for each in overlaps_of_policy(mirrored)] == ([True] if named else [])


@pytest.mark.parametrize(
    ("exclude", "covered"),
    [
        ((), False),
        (("/backups/",), True),
        (("backups",), True),
        (("drkit/",), True),
        (("/drkit/",), False),
        (("/backups/**",), True),
        (("/backups/drkit/*",), True),
        (("/backups/drkit/packs/",), False),
        (("*", "!/backups/"), True),  # which brings back the directory, and nothing in it
        (("/backups/", "!/backups/"), False),
        (("*.pack",), False),
    ],
)
def test_what_exclude_patterns_leave_out(exclude: tuple[str, ...], covered: bool) -> None:
    assert _covered(exclude, b"backups/drkit") is covered


def context_of(engine: FakeEngine, url: Path, state: Path) -> Context:
    context = Context(now=NOW, policy=policy(str(url), "{name: shop_data}"), environ={"DRKIT_STATE_DIR": str(state)})
    context.__dict__["engine"] = engine
    return context


def found_in(context: Context) -> list[Overlap]:
    return list(overlaps(context, plan_targets(context.required_policy, context.engine)))


def test_of_an_engine_elsewhere_nothing_is_said(tmp_path: Path) -> None:
    """Its directories are another host's, though they are called the same."""
    engine = FakeEngine(NOW)
    engine.volumes["shop_data"] = {"Name": "shop_data", "Driver": "local", "Mountpoint": str(tmp_path)}
    context = context_of(engine, tmp_path / "drkit", tmp_path.parent / "state")
    [found] = found_in(context)
    assert "shop_data" in found.error.message
    engine.is_local = False
    assert not found_in(context)


def test_a_volume_that_fails_anyway_and_one_without_directories(tmp_path: Path) -> None:
    engine = FakeEngine(NOW)
    context = context_of(engine, tmp_path / "drkit", tmp_path / "state")
    assert not found_in(context)
    engine.volumes["shop_data"] = {"Name": "shop_data", "Driver": "vendor/nas", "Mountpoint": "", "Options": None}
    assert not found_in(context)
    engine.volumes["shop_data"] |= {"Driver": "local", "Options": {"type": "nfs", "device": ":/export", "o": "addr=x"}}
    assert not found_in(context)
    engine.volumes["shop_data"] |= {"Options": {"o": "bind", "device": str(tmp_path)}}
    assert found_in(context)
    assert not list(overlaps(context, [Planned(Kind.VOLUME, "shop_data", problem="it is sick", places=(tmp_path,))]))


def test_what_the_plan_knows_of_a_volume_is_not_asked_again(tmp_path: Path) -> None:
    engine = FakeEngine(NOW)
    engine.volumes["shop_data"] = {"Name": "shop_data", "Driver": "local", "Mountpoint": str(tmp_path)}
    context = context_of(engine, tmp_path / "drkit", tmp_path / "state")
    planned = plan_targets(context.required_policy, context.engine)
    engine.volumes.clear()
    assert [each.volume for each in overlaps(context, planned)] == ["shop_data"] * 2


def test_without_a_list_of_mounts_the_inodes_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "_mounts", list)
    (tmp_path / "link").symlink_to(tmp_path)
    engine = FakeEngine(NOW)
    engine.volumes["shop_data"] = {"Name": "shop_data", "Driver": "local", "Mountpoint": str(tmp_path)}
    [found] = found_in(context_of(engine, tmp_path / "link" / "a" / "drkit", tmp_path.parent / "state"))
    with pytest.raises(UsageError, match=r"lies in the volume shop_data") as caught:
        raise found.error
    assert "exclude: ['/a/drkit/']" in (caught.value.hint or "")
