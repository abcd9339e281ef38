"""Which options of a volume a restore takes over: none that could make the new volume the old one's data."""

from __future__ import annotations

import pytest

from drkit.engine.volumes import harmless_options


@pytest.mark.parametrize(
    "options",
    [
        {"type": "none", "o": "bind", "device": "/srv/data"},
        {"type": "nfs", "o": "addr=10.0.0.1,rw", "device": ":/export"},
        {"type": "nfs4", "o": "addr=10.0.0.1,rw", "device": ":/export"},
        {"type": "cifs", "o": "username=u,password=secret", "device": "//server/share"},
        {"type": "btrfs", "device": "/dev/sdb1"},
        {"type": "overlay", "device": "overlay", "o": "lowerdir=/a,upperdir=/b,workdir=/c"},
        {"o": "bind", "device": "/srv/data"},
        {"device": "/srv/data"},
        {"type": "none", "o": "rbind"},
        {"unheard-of": "option"},
    ],
)
def test_what_names_data_is_dropped_unless_the_caller_wants_the_same(options: dict[str, str]) -> None:
    plan = harmless_options("local", options)
    assert (plan.driver, plan.options) == ("local", {})
    assert len(plan.dropped) == 1
    assert "secret" not in plan.dropped[0]
    same = harmless_options("local", options, same_device=True)
    assert (same.driver, same.options, same.dropped) == ("local", options, ())


@pytest.mark.parametrize("options", [None, {}, {"size": "10g"}])
def test_plain_volumes_keep_what_they_have(options: dict[str, str] | None) -> None:
    plan = harmless_options("local", options)
    assert (plan.driver, plan.options, plan.dropped) == ("local", options or {}, ())


def test_a_quota_survives_what_is_dropped_beside_it() -> None:
    plan = harmless_options("local", {"type": "none", "o": "bind", "device": "/srv", "size": "1g"})
    assert plan.options == {"size": "1g"}


@pytest.mark.parametrize("same_device", [False, True])
def test_a_volume_in_memory_is_never_made(same_device: bool) -> None:
    plan = harmless_options("local", {"type": "tmpfs", "device": "tmpfs", "o": "size=64m"}, same_device=same_device)
    assert plan.options == {}
    assert "in memory" in plan.dropped[0]


def test_another_drivers_options_are_not_guessed_at() -> None:
    options = {"sshcmd": "user@host:/path", "password": "secret"}
    plan = harmless_options("vieux/sshfs", options)
    assert (plan.driver, plan.options) == ("local", {})
    assert "vieux/sshfs" in plan.dropped[0] and "secret" not in plan.dropped[0]
    assert harmless_options("vieux/sshfs", options, same_device=True).options == options
    assert harmless_options("portworx", None).driver == "portworx"
