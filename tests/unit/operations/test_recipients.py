"""A backup, a rewrap and a doctor when the recipients_file is not what it was."""

from __future__ import annotations

import json
import random
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from drkit.errors import AccessDenied, UsageError
from drkit.operations import doctor, keys
from drkit.operations.context import Context
from drkit.operations.copy import copy
from drkit.operations.init import init_mirror
from drkit.repository.format.snapshot import Snapshot
from drkit.repository.holders.custody import read_custody, replace_escrow
from drkit.repository.keys.identity import generate_identity
from drkit.repository.keys.labels import LABEL_PREFIX
from drkit.repository.keys.wraps import format_meta_key
from drkit.repository.repository import Repository
from drkit.storage import open_storage
from tests.support.fake_engine import FakeEngine, backup
from tests.support.machines import Machine, Site
from tests.support.repositories import NOW, read_everything


class Night:
    """A host with one volume, and the file of its recipients."""

    def __init__(self, directory: Path, rng: random.Random, *, write_only: bool) -> None:
        self.site = Site(directory, rng)
        self.machine = Machine(self.site, directory / "state", "web")
        self.file = directory / "recipients.txt"
        self.ours = self.site.identity.recipient
        self.engine = FakeEngine(NOW + timedelta(days=1000))
        self.engine.volumes["data"] = {"Name": "data", "Driver": "local", "Labels": {}, "Mountpoint": "/v"}
        self.engine.files["data"] = directory / "data"
        (directory / "data").mkdir()
        self.write_only = write_only
        self._runs = 0

    def context(self) -> Context:
        path = self.site.policy("web", "shop")
        policy = json.loads(path.read_text())
        if self.write_only:
            repository = self.site.open()
            key = self.site.directory / "meta.key"
            key.touch(mode=0o600)
            key.write_text(format_meta_key(repository.meta.meta_key, repository.id))
            del policy["repository"]["identity_file"]
            policy["repository"]["meta_key_file"] = str(key)
        path.write_text(json.dumps(policy))
        return Context(
            now=NOW + timedelta(days=1000, minutes=self._runs),
            policy_file=path,
            environ={"DRKIT_STATE_DIR": str(self.machine.state)},
        )

    def backup(self) -> tuple[Snapshot, str]:
        """The record, and what was warned of. There is something new to store."""
        self._runs += 1
        (self.site.directory / "data" / "new").write_text(f"run {self._runs}")
        with self.context() as context:
            record = backup(context, self.engine, f"21000309t010203z-{self._runs:08x}")
            return record, "; ".join(f"{each.message} [{each.hint}]" for each in context.warnings)

    def keys(self) -> list[str]:
        return sorted(info.key for info in self.site.storage.list(""))

    def refused(self, *named: str) -> str:
        """A backup stores nothing; what it says."""
        before = self.keys()
        with pytest.raises(AccessDenied) as caught:
            self.backup()
        assert self.keys() == before
        assert caught.value.exit_code == 12
        for name in named:
            assert name in caught.value.message
        return f"{caught.value.message} [{caught.value.hint}]"

    def names(self, *recipients: str) -> None:
        self.file.write_text("".join(f"{recipient}\n" for recipient in recipients))


@pytest.fixture(params=[False, True], ids=["with the identity", "write-only"])
def night(request: pytest.FixtureRequest, tmp_path: Path, rng: random.Random) -> Night:
    return Night(tmp_path, rng, write_only=request.param)


@pytest.fixture
def opens(tmp_path: Path, rng: random.Random) -> Night:
    return Night(tmp_path, rng, write_only=False)


def test_a_file_with_a_strangers_key_is_refused_until_it_is_put_back(night: Night) -> None:
    night.backup()
    right = night.file.read_text()
    stranger = generate_identity().recipient
    night.names(stranger)
    said = night.refused(night.ours, stranger)
    assert "rewrap" not in said
    assert "key add" not in said
    night.refused(night.ours)
    night.file.write_text(right)
    record, warned = night.backup()
    assert (record.status, warned) == ("ok", "")


def test_on_the_first_night_too(night: Night) -> None:
    night.names(generate_identity().recipient)
    night.refused(night.ours)


def test_one_more_is_accepted_and_named_and_opens_what_comes(night: Night) -> None:
    more = generate_identity()
    night.names(more.recipient, night.ours, night.ours)
    record, warned = night.backup()
    assert record.status == "ok"
    assert f"names {more.recipient}, which opens what is backed up now, and not the earlier" in warned
    night.names(night.ours)  # which takes nothing from a holder of the repository
    assert night.backup()[1] == ""


def test_an_escrow_key_that_the_file_lost(night: Night) -> None:
    safe = generate_identity().recipient
    night.names(night.ours, safe)
    keys.add_recipient(night.site.open(), safe, "safe")
    night.backup()
    night.names(night.ours)
    night.refused(f"{safe} (safe)")
    keys.remove_recipient(night.site.open(), "safe")  # somewhere else: this host is told once
    record, warned = night.backup()
    assert record.status == "ok"
    assert f"{safe} opened this repository when this host last backed up" in warned
    assert night.backup()[1] == ""


def test_a_removal_on_this_host_is_no_surprise(opens: Night) -> None:
    safe = generate_identity().recipient
    opens.names(opens.ours, safe)
    keys.add(opens.context(), safe, "safe")
    opens.backup()
    keys.remove(opens.context(), "safe")
    _, warned = opens.backup()
    assert f"names {safe}, which opens what is backed up now" in warned, "the file still names it"
    opens.names(opens.ours)
    assert opens.backup()[1] == ""


@pytest.mark.parametrize("text", ["", "# nobody\n", "\n \n"])
def test_a_file_without_a_recipient(night: Night, text: str) -> None:
    night.file.write_text(text)
    before = night.keys()
    with pytest.raises(UsageError, match="names no recipient"):
        night.backup()
    assert night.keys() == before


def test_an_ssh_recipient_counts_by_its_key_and_not_by_its_comment(opens: Night, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "me@here", "-f", tmp_path / "id"], check=True)
    line = (tmp_path / "id.pub").read_text().strip()
    opens.names(opens.ours, line)
    keys.add(opens.context(), line, "laptop")
    assert opens.backup()[1] == ""
    opens.names(opens.ours, line.replace("me@here", "somebody@else"))
    assert opens.backup()[1] == ""
    opens.names(opens.ours)
    said = opens.refused("(laptop)")
    assert f"drkit key remove '{line.rsplit(' ', 1)[0]}'" in said


def test_a_passphrase_copy_of_the_identity_is_no_second_holder(opens: Night) -> None:
    replace_escrow(opens.site.open(), "five random words or more")
    assert opens.backup()[1] == ""
    opens.names(generate_identity().recipient)
    opens.refused(opens.ours)


def test_labels_deleted_from_the_storage_do_not_let_a_replaced_file_pass(night: Night) -> None:
    night.backup()
    for info in list(night.site.storage.list(LABEL_PREFIX)):
        night.site.storage.delete(info.key)
    night.names(generate_identity().recipient)
    night.refused(night.ours)


def test_rewrap_takes_the_keys_from_nobody_that_the_file_lost(opens: Night) -> None:
    safe, stranger = generate_identity().recipient, generate_identity().recipient
    keys.add(opens.context(), safe, "safe")
    opens.names(opens.ours, stranger)
    before = opens.keys()
    with pytest.raises(AccessDenied, match="safe"):
        keys.rewrap(opens.context())
    assert opens.keys() == before
    opens.names(opens.ours, safe, stranger)
    changed = keys.rewrap(opens.context())
    assert (changed.made, changed.removed) == (1, 0)


def test_a_mirror_goes_by_the_repository_and_not_by_the_file(opens: Night, tmp_path: Path) -> None:
    opens.backup()
    opens.names(generate_identity().recipient)
    environ = {"DRKIT_STATE_DIR": str(opens.machine.state)}
    policy = opens.context().required_policy
    place = str(tmp_path / "mirror")
    with Context(now=NOW, policy=policy, url=place, environ=environ) as context:
        made = init_mirror(context, str(opens.site.place))
        assert [holder.recipient for holder in made.holders] == [opens.ours]
    assert len(copy(opens.context(), to=place).copied) == 1
    mirror = Repository.open(open_storage(place), [opens.site.identity])
    assert read_everything(mirror)
    assert [holder.recipient for holder in read_custody(mirror).holders()] == [opens.ours]


def test_doctor_tells_before_the_night(night: Night) -> None:
    stranger = generate_identity().recipient
    night.names(night.ours, stranger)
    with night.context() as context:
        found = list(doctor._tried("repository", lambda: doctor._repository(context, [])))
    [warned] = [each for each in found if each.status == "warning"]
    assert stranger in warned.detail
    night.names(stranger)
    with night.context() as context:
        found = list(doctor._tried("repository", lambda: doctor._repository(context, [])))
    [failed] = [each for each in found if each.status == "failed"]
    assert (failed.exit_code, night.ours in failed.detail) == (12, True)
