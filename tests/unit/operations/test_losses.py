"""What a backup says of a target that lost most of what it held, night after night; and how the operator ends it.

The host's own find and tar stand in for a helper's, and directories for volumes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from drkit.access.opening import open_repository
from drkit.catalog.find import find_target
from drkit.catalog.shrunk import standing
from drkit.engine.client import Engine, EngineError
from drkit.engine.labels import LABEL_HELPER, LABEL_RESTORE
from drkit.errors import DrkitError, RetentionRefused, UsageError
from drkit.events import Collected
from drkit.host.restore_journal import RestoreNote
from drkit.operations.accept import accept
from drkit.operations.backup import BackupResult, without_own
from drkit.operations.backup_run import run
from drkit.operations.context import Context
from drkit.operations.copy import copy_into
from drkit.operations.forget import forget
from drkit.operations.host import adopt
from drkit.operations.prune import prune_repository
from drkit.operations.scope import scope_of
from drkit.operations.snapshots import snapshots
from drkit.pipeline import capture
from drkit.pipeline.scan import Scan
from drkit.policy import load_policy
from drkit.repository.format.kinds import Kind, Status
from drkit.repository.format.names import new_run_id
from drkit.repository.format.snapshot import Target
from drkit.repository.mirror.mirror import open_mirror
from drkit.repository.prune.prune import Options
from drkit.storage.local.mounts import Mount
from drkit.targets import choose, plan_targets
from drkit.targets.base import Ready
from tests.support.fake_engine import HELPER, FakeEngine
from tests.support.machines import Site
from tests.support.memory_storage import MemoryStorage
from tests.support.mirroring import make_mirror
from tests.support.repositories import NOW

EVERYTHING = Options(1 << 30, yes_really=True)


class Nights:
    """One host that backs up its volumes night after night. `heard` has the warnings of the last operation."""

    def __init__(self, directory: Path, rng: random.Random) -> None:
        self.site = Site(directory, rng)
        self.directory = directory
        self.engine = FakeEngine(NOW)
        self.state = directory / "state"
        self.entries: list[dict[str, Any]] = [{"name": "media"}]
        self.night = 0
        self.heard = Collected()

    def volume(self, name: str, files: int = 300, size: int = 10, **document: Any) -> Path:
        path = self.directory / "volumes" / name
        path.mkdir(parents=True, exist_ok=True)
        for number in range(files):
            (path / f"{number:04}").write_bytes(b"x" * size)
        self.engine.volumes[name] = {"Name": name, "Driver": "local", "Options": None, "Labels": None} | document
        self.engine.files[name] = path
        return path

    def empty(self, name: str, keep: int = 0) -> None:
        for path in sorted(self.engine.files[name].iterdir())[keep:]:
            path.unlink()

    def another_disk(self, name: str, files: int = 0) -> None:
        """Another directory stands where the volume was."""
        path = self.engine.files[name]
        path.rename(path.with_name(f"{name}-before-{self.night}"))
        self.volume(name, files)

    def disk_again(self, name: str, night: int) -> None:
        path = self.engine.files[name]
        shutil.rmtree(path)
        path.with_name(f"{name}-before-{night}").rename(path)

    def context(self, keep_last: int = 3) -> Context:
        document = {
            "version": 1,
            "name": "shop",
            "host": "web",
            "repository": {
                "url": str(self.site.place),
                "recipients_file": str(self.directory / "recipients.txt"),
                "identity_file": str(self.directory / "identity.txt"),
            },
            "protect": {"volumes": self.entries},
            "retention": {"keep_last": keep_last},
        }
        policy = self.directory / "policy.yaml"
        policy.write_text(json.dumps(document))
        self.heard = Collected()
        environ = {"DRKIT_STATE_DIR": str(self.state), "DRKIT_CACHE_DIR": str(self.directory / "cache")}
        now = NOW + timedelta(days=self.night)
        return Context(now=now, policy=load_policy(policy), environ=environ, events=self.heard)

    def backup(self, *names: str) -> BackupResult:
        self.night += 1
        with self.context() as context:
            engine = cast("Engine", self.engine)
            self.engine.now = context.now
            context.__dict__["engine"] = engine
            planned = choose(without_own(context, plan_targets(context.required_policy, engine)), names)
            standby = cast("Any", SimpleNamespace(take=self.engine.take))
            ready = Ready(new_run_id(context.now, os.urandom(4)), planned, HELPER, standby)
            ran = run(context, ready, accept_repository=None, chosen=bool(names))
        return BackupResult(ran.snapshot, losses=ran.losses)

    def good(self) -> str:
        """A backup about which there is nothing to say; the snapshot's id."""
        result = self.backup()
        assert result.error is None, result.errors
        assert self.warnings == ""
        return result.snapshot.id

    @property
    def warnings(self) -> str:
        return "; ".join(f"{each.message} [{each.hint}]" for each in self.heard.warnings)

    def accept(self, *names: str) -> list[str]:
        with self.context() as context:
            return [each.snapshot for each in accept(context, names).targets]

    def prune(self, keep_last: int = 1) -> set[str]:
        """The snapshots that are left."""
        with self.context(keep_last) as context:
            repository = open_repository(context.access, None, cached=False)
            prune_repository(repository, context.policy, "web", EVERYTHING, now=context.now)
        return {each.id for each in self.site.snapshots()}

    def listed(self) -> str:
        """What `drkit snapshots` warns of."""
        with self.context() as context:
            assert snapshots(context, scope_of(context)).error is None
        return self.warnings


def code(result: BackupResult) -> int:
    return result.error.exit_code if result.error else 0


def only(result: BackupResult) -> Target:
    [target] = result.snapshot.targets
    return target


@pytest.fixture
def host(tmp_path: Path, rng: random.Random) -> Nights:
    nights = Nights(tmp_path, rng)
    nights.volume("media")
    return nights


# --- another disk -----------------------------------------------------------------------------------------------------


def test_a_disk_that_is_not_mounted_makes_the_target_partial_until_it_is_back(host: Nights) -> None:
    full = host.good()
    host.another_disk("media")
    for _ in range(3):
        result = host.backup()
        assert (code(result), result.snapshot.status, only(result).status) == (3, "partial", "partial")
        assert "300 files" in (only(result).error or "") and "0 files" in (only(result).error or "")
        assert "drkit accept media" in str(result.error)
        assert full in host.prune()
    assert find_target(host.site.open(), "latest", "volume", "media")[0].id == full
    host.disk_again("media", 1)
    host.good()


def test_latest_says_that_something_newer_is_partial(host: Nights) -> None:
    full = host.good()
    host.another_disk("media")
    newer = host.backup().snapshot.id
    heard = Collected()
    assert find_target(host.site.open(), "latest", "volume", "media", events=heard)[0].id == full
    [warning] = heard.warnings
    assert f"snapshot {newer} is newer than {full}, but volume media is partial there: " in warning.message
    heard = Collected()
    find_target(host.site.open(), newer, "volume", "media", events=heard)
    assert "is partial in snapshot" in heard.warnings[0].message


def test_another_disk_that_holds_more_is_good(host: Nights) -> None:
    host.good()
    host.another_disk("media", 301)
    host.good()


def test_one_file_less_on_another_disk_is_partial(host: Nights) -> None:
    host.good()
    host.another_disk("media", 299)
    assert only(host.backup()).status == Status.PARTIAL


class BelowMounts:
    """What the host's find tells of `media`, with disks mounted below it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.mounts: list[Mount] = []
        read = capture.read_scan

        def read_scan(*arguments: Any, **options: Any) -> Scan:
            scan = read(*arguments, **options)
            here = Mount(1, b"/media", b"/volume", "ext4", b"/dev/sda1")
            return dataclasses.replace(scan, mounts=[here, *self.mounts])

        monkeypatch.setattr(capture, "read_scan", read_scan)


@pytest.mark.parametrize("then", [None, Mount(3, b"/", b"/volume/db", "ext4", b"/dev/sdc1")])
def test_a_disk_below_the_volume_that_is_not_mounted_makes_it_partial(
    host: Nights, monkeypatch: pytest.MonkeyPatch, then: Mount | None
) -> None:
    below = BelowMounts(monkeypatch)
    disk = Mount(2, b"/", b"/volume/db", "ext4", b"/dev/sdb1")
    below.mounts = [disk, Mount(9, b"/", b"/volume/run", "tmpfs", b"tmpfs")]
    full = host.good()
    host.empty("media", keep=299)
    below.mounts = [disk]  # what is in memory comes and goes
    full = host.good()
    host.empty("media", keep=200)  # less than half of it was on that disk
    below.mounts = [then] if then else []
    for _ in range(2):
        result = host.backup()
        assert (code(result), only(result).status) == (3, "partial")
        assert "lacks what was mounted below it" in (only(result).error or "")
        assert full in host.prune()
    assert find_target(host.site.open(), "latest", "volume", "media")[0].id == full
    host.accept("media")
    host.backup()
    host.good()


def test_a_disk_below_the_volume_that_is_excluded_is_not_missing(host: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    below = BelowMounts(monkeypatch)
    below.mounts = [Mount(2, b"/", b"/volume/db", "ext4", b"/dev/sdb1")]
    host.good()
    host.entries = [{"name": "media", "exclude": ["/db/"]}]
    host.empty("media", keep=299)
    host.good()
    host.empty("media", keep=298)
    below.mounts = []
    host.good()


def test_a_volume_made_anew_on_purpose_is_accepted(host: Nights) -> None:
    full = host.good()
    host.another_disk("media", 5)
    partial = host.backup().snapshot.id
    assert host.accept("media") == [partial]
    result = host.backup()
    assert (code(result), only(result).status, only(result).accepted) == (0, "ok", partial)
    assert full not in host.prune()
    host.good()
    with pytest.raises(UsageError, match="there is nothing to accept: volume media is ok"):
        host.accept("media")


def test_after_it_was_accepted_it_may_shrink_again(host: Nights) -> None:
    host.good()
    host.another_disk("media", 200)
    host.backup()
    host.accept("media")
    host.empty("media")
    result = host.backup()
    assert (code(result), only(result).flags) == (3, ["shrunk"])


# --- the same disk ----------------------------------------------------------------------------------------------------


def test_a_loss_of_all_is_told_once_then_stands_and_what_was_there_stays(host: Nights) -> None:
    host.good()
    full = host.good()
    host.empty("media")
    result = host.backup()
    target = only(result)
    assert (code(result), result.snapshot.status) == (3, "ok")
    assert (target.status, target.flags, target.pins) == ("ok", ["shrunk"], full)
    assert "300 files of 3000 bytes in snapshot" in str(result.error) and "0 files of 0 bytes now" in str(result.error)
    assert result.error is not None and "drkit accept media" in (result.error.hint or "")
    for _ in range(3):
        result = host.backup()
        assert (code(result), only(result).flags, only(result).pins) == (0, ["shrunk"], full)
        assert "volume media has not come back to what it held" in host.warnings
        assert host.prune() == {full, result.snapshot.id}
        assert f"has lost most of what it held in snapshot {full}" in host.listed()


def test_an_accepted_loss_is_not_told_again_and_what_was_pinned_goes(host: Nights) -> None:
    full = host.good()
    host.empty("media")
    shrunk = host.backup().snapshot.id
    assert host.accept("volume:media") == [shrunk]
    with pytest.raises(UsageError, match="accepted already"):
        host.accept("media")
    assert full in host.prune(), "what was accepted counts as soon as the repository tells it"
    result = host.backup()
    assert (code(result), only(result).flags, only(result).accepted, host.warnings) == (0, [], shrunk, "")
    assert host.listed() == ""
    assert host.prune() == {result.snapshot.id}
    host.good()


def test_a_loss_that_is_undone_is_forgotten_by_itself(host: Nights) -> None:
    full = host.good()
    host.empty("media", keep=20)
    host.backup()
    host.volume("media", 269)  # less than nine tenths
    result = host.backup()
    assert (code(result), only(result).pins) == (0, full)
    host.volume("media", 290)
    newest = host.good()
    assert host.listed() == ""
    assert host.prune() == {newest}


def test_two_losses_in_a_row_pin_what_was_there_first(host: Nights) -> None:
    host.volume("media", 1000)
    full = host.good()
    host.empty("media", keep=400)
    assert code(host.backup()) == 3
    assert code(host.backup()) == 0
    host.empty("media", keep=100)
    result = host.backup()
    assert (code(result), only(result).pins) == (3, full)
    assert host.prune() == {full, result.snapshot.id}


def test_a_loss_after_an_accepted_one_pins_what_was_accepted(host: Nights) -> None:
    host.volume("media", 1000)
    host.good()
    host.empty("media", keep=400)
    half = host.backup().snapshot.id
    host.accept("media")
    host.empty("media", keep=100)
    result = host.backup()
    assert (code(result), only(result).pins) == (3, half)
    result = host.backup()
    assert (code(result), only(result).pins) == (0, half)


def test_a_loss_seen_by_a_backup_of_this_target_alone_counts(host: Nights) -> None:
    full = host.good()
    host.empty("media")
    assert only(host.backup("media")).pins == full


@pytest.mark.parametrize(
    ("before", "after", "flags"),
    [
        ((300, 10), (151, 10), []),  # less than half
        ((300, 10), (150, 10), ["shrunk"]),
        ((190, 10), (91, 10), []),  # half of it, but fewer than a hundred
        ((3, 10), (0, 0), ["shrunk"]),  # all of it
        ((3, 10), (1, 10), []),
        ((8, 16 << 20), (4, 16 << 20), ["shrunk"]),  # 64 MiB of 128
        ((7, 16 << 20), (4, 16 << 20), []),
        ((5, 10), (5, 0), ["shrunk"]),  # truncated, every file
        ((0, 0), (0, 0), []),
        ((0, 0), (5, 5), []),
    ],
)
def test_what_a_loss_is(host: Nights, before: tuple[int, int], after: tuple[int, int], flags: list[str]) -> None:
    def fill(files: int, size: int) -> None:
        host.empty("media")
        host.volume("media", files, 0)
        for path in host.engine.files["media"].iterdir():
            with path.open("wb") as file:
                file.truncate(size)  # sparse: what counts is the apparent size

    fill(*before)
    host.good()
    fill(*after)
    result = host.backup()
    assert (only(result).flags, code(result)) == (flags, 3 if flags else 0)


def test_a_slow_loss_is_not_told(host: Nights) -> None:
    for files in (300, 250, 200, 150, 100, 50):
        host.empty("media", keep=files)
        host.good()


# --- patterns, hosts, records that are gone ---------------------------------------------------------------------------


def test_what_is_excluded_from_now_on_is_no_loss(host: Nights) -> None:
    host.good()
    host.entries[0]["exclude"] = ["00*", "01*"]
    host.good()
    host.entries[0]["exclude"] = []
    host.good()


def test_a_loss_shows_although_the_patterns_were_changed(host: Nights) -> None:
    host.good()
    host.entries[0]["exclude"] = ["00*"]
    host.empty("media", keep=100)
    result = host.backup()
    assert (code(result), only(result).flags) == (3, ["shrunk"])
    assert "200 files of 2000 bytes" in str(result.error)


def test_a_host_that_has_taken_a_series_over_compares_no_file_systems(host: Nights) -> None:
    """It tells them by a secret of its own. But what is half gone is half gone."""
    host.good()
    host.state.rename(host.state.with_name("lost"))
    with host.context() as context:
        adopt(context)
    host.another_disk("media", 290)
    assert only(host.backup()).status == Status.OK
    host.empty("media")
    assert only(host.backup()).flags == ["shrunk"]


def test_without_a_file_system_in_the_record_only_a_loss_of_half_tells(host: Nights, monkeypatch: Any) -> None:
    monkeypatch.setattr("drkit.pipeline.capture._file_system", lambda scan, salt, exclude: None)
    host.good()
    host.another_disk("media", 299)
    host.good()
    host.empty("media")
    assert only(host.backup()).flags == ["shrunk"]


def test_what_is_pinned_is_not_forgotten_by_hand(host: Nights) -> None:
    full = host.good()
    host.empty("media")
    host.backup()
    with host.context() as context, pytest.raises(RetentionRefused, match=f"snapshot {full} is pinned: volume media"):
        forget(context, [full])
    with host.context() as context:
        assert forget(context, [full], yes_really=True).snapshots == [full]
    host.good()


def test_a_pinned_record_that_cannot_be_read_stays_pinned(host: Nights) -> None:
    full = host.good()
    host.empty("media")
    host.backup()
    path = host.site.place / "snapshots" / full
    stored = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(stored[:-1] + bytes([stored[-1] ^ 1]))
    result = host.backup()
    assert (code(result), only(result).flags, only(result).pins) == (0, ["shrunk"], full)
    assert f"more in snapshot {full}, 0 files" in host.warnings
    path.write_bytes(stored)
    assert full in host.prune()


def test_a_mirror_keeps_what_is_pinned_too(host: Nights) -> None:
    full = host.good()
    host.empty("media")
    shrunk = host.backup().snapshot.id
    source = host.site.open()
    storage = MemoryStorage()
    make_mirror(source, storage)
    mirror = open_mirror(source, storage)
    host.backup()
    copy_into(host.site.open(), mirror, host="web")
    with host.context(1) as context:
        plan = prune_repository(mirror, context.policy, "web", EVERYTHING, now=context.now, dry_run=True).retention
    kept = {each.snapshot: each.reasons for each in plan.keep}
    by_original = {each.id: each.original for each in mirror.snapshots() if not isinstance(each, DrkitError)}
    assert {by_original[name] for name in kept} >= {full}
    [why] = [reasons for name, reasons in kept.items() if by_original[name] == full]
    assert why == ["pinned: the capture after it shrank (volume media)"]
    assert shrunk not in {by_original[name] for name in kept}


# --- volumes that are gone --------------------------------------------------------------------------------------------


@pytest.fixture
def pattern(host: Nights) -> Iterator[Nights]:
    host.entries = [{"match": "media*"}]
    host.volume("media_nas", 5, Driver="nas")
    host.engine.drivers = ["local", "nas"]
    yield host


def hide(host: Nights, name: str) -> dict[str, Any]:
    return host.engine.volumes.pop(name)


def test_a_volume_whose_plugin_does_not_answer_fails_every_night(pattern: Nights) -> None:
    pattern.good()
    there = hide(pattern, "media_nas")
    pattern.engine.listing_warnings = ["list nas: connection refused"]
    for _ in range(3):
        result = pattern.backup()
        assert (code(result), result.snapshot.status) == (3, "partial")
        gone = result.snapshot.target("volume", "media_nas")
        assert gone is not None and (gone.status, gone.flags) == ("failed", ["gone"])
        assert "its driver nas does not answer" in (gone.error or "")
    pattern.engine.volumes["media_nas"] = there
    pattern.engine.listing_warnings, pattern.engine.unlisted = [], []
    pattern.good()


def test_a_volume_whose_plugin_was_away_when_the_engine_started_fails_every_night(pattern: Nights) -> None:
    """The engine does not warn then: it knows neither the driver nor the volume."""
    pattern.good()
    hide(pattern, "media_nas")
    pattern.engine.drivers = ["local"]
    for _ in range(2):
        assert code(pattern.backup()) == 3
    pattern.accept("media_nas")
    pattern.good()
    pattern.good()


def test_while_the_engine_cannot_list_volumes_none_is_said_to_be_removed(
    pattern: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern.entries.append({"name": "media_nas"})
    pattern.good()
    with monkeypatch.context() as broken:
        error = EngineError("list of volumes: the engine refuses: database is locked", status=500)
        broken.setattr("drkit.engine.volumes.find", lambda engine: (_ for _ in ()).throw(error))
        for _ in range(2):
            result = pattern.backup()
            assert code(result) == 3
            unlisted = result.snapshot.target("volume", "media")
            assert unlisted is not None and (unlisted.status, unlisted.flags) == ("failed", [])
            assert "the engine could not list the volumes" in (unlisted.error or "")
    pattern.good()


def test_a_volume_that_somebody_removed_is_told_once(pattern: Nights) -> None:
    pattern.good()
    hide(pattern, "media_nas")
    result = pattern.backup()
    assert code(result) == 3
    assert "the engine does not list it any more" in str(result.error)
    pattern.good()
    pattern.good()


def test_a_backup_of_one_target_hides_no_loss(pattern: Nights) -> None:
    pattern.good()
    assert code(pattern.backup("media")) == 0
    hide(pattern, "media_nas")
    assert code(pattern.backup("media")) == 0, "it was not asked for the other one"
    assert code(pattern.backup()) == 3


def test_what_no_pattern_covers_any_more_is_not_gone(pattern: Nights) -> None:
    pattern.good()
    hide(pattern, "media_nas")
    pattern.entries = [{"match": "media"}]
    pattern.good()
    pattern.entries = [{"match": "none*"}]
    assert code(pattern.backup()) == 15


def test_a_pattern_that_matched_nothing_is_not_a_volume_that_is_gone(pattern: Nights) -> None:
    pattern.entries = [{"match": "media*"}, {"match": "later_*"}]
    assert code(pattern.backup()) == 3
    pattern.volume("later_one", 3)
    pattern.good()


def restored_copy(host: Nights, name: str) -> None:
    """A copy that this host restored, which a container uses."""
    host.volume(name, 5, Labels={LABEL_RESTORE: "0011223344556677"})
    with host.context() as context:
        context.state.copies.note(name, "0011223344556677")
    host.engine.containers = [{"Id": "1" * 64, "Names": ["/app"], "State": "running", "Mounts": [{"Name": name}]}]


def test_a_copy_that_nobody_uses_any_more_is_not_gone(pattern: Nights) -> None:
    restored_copy(pattern, "media-copy")
    pattern.good()
    pattern.engine.containers = []
    result = pattern.backup()
    assert code(result) == 0, result.errors
    assert "media-copy" not in {target.name for target in result.snapshot.targets}
    pattern.good()
    hide(pattern, "media-copy")
    pattern.good()


def test_an_engine_that_fails_over_what_is_gone_costs_no_backup(pattern: Nights, monkeypatch: Any) -> None:
    pattern.good()
    hide(pattern, "media_nas")
    look_up = pattern.engine.look_up

    def sick(doing: str, path: str) -> Any:
        if path.endswith("/media_nas"):
            raise EngineError("volume media_nas: it is sick", status=500)
        return look_up(doing, path)

    monkeypatch.setattr(pattern.engine, "look_up", sick)
    result = pattern.backup()
    assert (code(result), result.snapshot.status) == (3, "partial")
    assert "the engine does not list it any more" in str(result.error)
    assert result.snapshot.id in {each.id for each in pattern.site.snapshots()}


def test_a_pattern_that_matches_nothing_but_copies_fails(pattern: Nights) -> None:
    """What they are copies of is lost, and an empty snapshot is not a good one."""
    pattern.good()
    restored_copy(pattern, "media-copy")
    pattern.engine.containers = []
    hide(pattern, "media")
    hide(pattern, "media_nas")
    for _ in range(2):
        result = pattern.backup()
        assert code(result) == 15
        assert "volume media*: no volume matches but drkit's own: media-copy" in str(result.error)
    pattern.entries = [{"match": "media*"}, {"name": "media-copy"}]
    assert code(pattern.backup()) == 3, "which tells of the two that are gone"
    pattern.good()


# --- volumes in memory, and restores that have not ended --------------------------------------------------------------


def test_a_volume_in_memory_that_nobody_uses_is_partial(host: Nights) -> None:
    host.volume("media", 3, Options={"type": "tmpfs", "device": "tmpfs"})
    result = host.backup()
    assert (code(result), only(result).status) == (3, "partial")
    assert "it is in memory, and no running container uses it" in (only(result).error or "")
    users = {"State": "running", "Mounts": [{"Name": "media"}], "Labels": {}, "ImageID": "sha256:1"}
    for different in (
        {"State": "exited"},
        {"State": "restarting"},
        {"Mounts": [{"Name": "other"}]},
        {"Labels": {LABEL_HELPER: "x"}, "ImageID": HELPER.image_id},
    ):
        host.engine.containers = [users | different]
        assert only(host.backup()).status == Status.PARTIAL
    for different in ({}, {"State": "paused"}, {"Labels": {LABEL_HELPER: "x"}}):
        host.engine.containers = [users | different]
        assert only(host.backup()).status == Status.OK


def test_a_volume_that_a_restore_has_not_finished_is_partial(host: Nights) -> None:
    full = host.good()
    host.empty("media", keep=150)
    host.engine.volumes["media"]["Labels"] = {LABEL_RESTORE: "00112233aabbccdd"}
    with host.context() as context:
        journal = context.state.restores
        journal.begin("media", RestoreNote("00112233aabbccdd"))
        running = host.backup()
        descriptor = journal._held.pop("media")
        os.close(descriptor)  # as the kernel does with that of a process that was killed
        interrupted = host.backup()
        for result in (running, interrupted):
            assert (code(result), only(result).status, only(result).flags) == (3, "partial", [])
            assert "docker volume rm media" in (only(result).error or "")
        assert find_target(host.site.open(), "latest", "volume", "media")[0].id == full
        # Somebody removed the half volume and made another one of this name, which is no restore's.
        host.engine.volumes["media"]["Labels"] = {LABEL_RESTORE: "ffffffffffffffff"}
        assert only(host.backup()).status == Status.OK


def test_a_target_that_failed_is_not_accepted(host: Nights) -> None:
    host.good()
    host.volume("more", 1)
    host.entries.append({"name": "more"})
    hide(host, "media")
    assert code(host.backup()) == 3
    with pytest.raises(UsageError, match="there is nothing to accept: volume media is failed"):
        host.accept("media")
    with pytest.raises(DrkitError, match="no snapshot of this installation holds a target nothing"):
        host.accept("nothing")


def test_accepting_needs_the_installation_that_made_the_snapshots(host: Nights) -> None:
    host.good()
    host.empty("media")
    host.backup()
    host.state.rename(host.state.with_name("lost"))
    with pytest.raises(UsageError, match="holds no snapshot that this installation made"):
        host.accept("media")


def test_a_record_with_a_foreign_pin_pins_nothing(host: Nights) -> None:
    """A record may name anything: only a snapshot of its own line is kept by it."""
    host.good()
    [record] = host.site.snapshots()
    forged = dataclasses.replace(
        record, targets=[Target(Kind.VOLUME, "media", flags=["shrunk"], pins="20200101t000000z-00000000")]
    )
    assert [each.pinned for each in standing([forged])] == [None]
