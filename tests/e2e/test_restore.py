"""`drkit restore` and `export` through the command line: what comes back, and what is never touched."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import docker
import pytest

from drkit.catalog.find import Scope
from drkit.engine.labels import LABEL_HELPER
from drkit.errors import IntegrityError
from drkit.operations.context import Context
from drkit.operations.restore import restore
from drkit.pipeline import extract
from drkit.pipeline.extract import Restore
from drkit.repository.format.kinds import Kind
from drkit.targets.base import RestoreOptions
from tests.support.lab import Lab, Volume, finish
from tests.support.treecompare import compare_trees, describe, scan_tree

MIB = 1 << 20


def assert_same(original: Volume | Path, restored: Volume | Path) -> None:
    left, right = (it.files if isinstance(it, Volume) else it for it in (original, restored))
    found = compare_trees(left, right)
    assert not found, describe(found)


def small_volume(lab: Lab, **create: object) -> Volume:
    volume = lab.volume("data", {"etc/app.conf": b"key=value\n", "db/table": b"rows" * 5000, "db/log": b""}, **create)
    os.chown(volume.files / "db", 999, 998)
    (volume.files / "db").chmod(0o2750)
    (volume.files / "current").symlink_to("etc/app.conf")
    return volume


def saved(volume: Volume, directory: Path) -> Path:
    """A copy of its files, made by another tool."""
    subprocess.run(["cp", "-a", str(volume.files), str(directory / "saved")], check=True)
    return directory / "saved"


# --- volumes ----------------------------------------------------------------------------------------------------------


def test_a_lost_volume_comes_back_under_its_name_with_driver_and_labels(lab: Lab, tmp_path: Path) -> None:
    volume = small_volume(lab, labels={"com.example.owner": "shop", "empty": ""})
    before = saved(volume, tmp_path)
    lab.init(volume)
    snapshot = lab.backup()
    lab.remove(volume)

    document = lab.json("restore", "latest", "--volume", volume.name)

    assert {key: document[key] for key in ("snapshot", "status", "volume", "verified")} == {
        "snapshot": snapshot,
        "status": "ok",
        "volume": volume.name,
        "verified": True,
    }
    assert (document["files"], document["seconds"] > 0) == (7, True)
    assert document["bytes"] > 20_000
    made = lab.api.inspect_volume(volume.name)
    assert (made["Driver"], made["Options"] or {}) == ("local", {})
    labels = dict(made["Labels"])
    assert labels.pop("drkit.restore")
    assert labels == {"com.example.owner": "shop", "empty": ""}
    assert_same(before, volume)
    assert list((lab.state / "restores").iterdir()) == []


def test_an_existing_volume_is_never_written_into(lab: Lab) -> None:
    volume = small_volume(lab)
    lab.init(volume)
    lab.backup()
    (volume.files / "since").write_bytes(b"written since")
    before = scan_tree(volume.files)

    said = lab.fails(1, "restore", "latest", "--volume", volume.name)

    assert volume.name in said
    assert "--to-volume" in said
    assert scan_tree(volume.files) == before
    assert lab.helpers() == []
    restored = lab.restore(volume)
    assert not (restored.files / "since").exists()
    said = lab.fails(1, "restore", "latest", "--volume", volume.name, "--to-volume", restored.name)
    assert restored.name in said


def test_dry_run_prints_the_plan_and_makes_nothing(lab: Lab) -> None:
    volume = small_volume(lab)
    lab.init(volume)
    snapshot = lab.backup()
    new = lab.forget_later(f"{lab.name}-new")
    arguments = ["latest", "--volume", volume.name, "--to-volume", new, "--dry-run"]
    plan = lab.json("restore", *arguments)
    assert (plan["snapshot"], plan["volume"], plan["files"]) == (snapshot, new, 7)
    shown = lab.drkit("restore", *arguments)
    assert (shown.code, new in shown.stdout, snapshot in shown.stdout) == (0, True, True)
    assert not lab.exists(new)


def test_a_bind_volume_is_restored_as_a_plain_one(lab: Lab, tmp_path: Path) -> None:
    """Two volumes with one bind path are one and the same data: writing the new one would overwrite production."""
    production = tmp_path / "production"
    (production / "sub").mkdir(parents=True)
    (production / "sub" / "file").write_bytes(b"production")
    options = {"type": "none", "o": "bind", "device": str(production)}
    name = f"{lab.name}-bound"
    lab.api.create_volume(lab.forget_later(name), driver_opts=options)
    bound = lab.find(name)
    lab.init(name)
    lab.backup()
    saved = tmp_path / "saved"
    shutil.copytree(production, saved)
    (production / "sub" / "file").write_bytes(b"changed since")
    before = scan_tree(production)

    new = lab.forget_later(f"{lab.name}-new")
    result = lab.drkit("restore", "latest", "--volume", name, "--to-volume", new)

    assert result.code == 0, result
    assert str(production) in result.stderr
    assert not lab.api.inspect_volume(new)["Options"]
    assert (lab.find(new).files / "sub" / "file").read_bytes() == b"production"
    assert scan_tree(production) == before
    lab.remove(bound)
    lab.json("restore", "latest", "--volume", name)
    assert not lab.api.inspect_volume(name)["Options"]
    assert scan_tree(production) == before
    plan = lab.json("restore", "latest", "--volume", name, "--to-volume", f"{new}-2", "--same-device", "--dry-run")
    assert plan["options"] == options


def test_paths_bring_their_parents_and_the_content_of_hard_links(lab: Lab) -> None:
    volume = small_volume(lab)
    content = b"shared content" * 1000
    (volume.files / "a-leader").write_bytes(content)
    for name in ("db/linked", "db/linked-too"):
        (volume.files / name).hardlink_to(volume.files / "a-leader")
    lab.init(volume)
    lab.backup()

    restored = lab.restore(volume, "--path", "/db/link*", "--path", "*.conf").files

    assert {str(path.relative_to(restored)) for path in restored.rglob("*")} == {
        "db",
        "db/linked",
        "db/linked-too",
        "etc",
        "etc/app.conf",
    }
    original, now = (volume.files / "db").stat(), (restored / "db").stat()
    for field in ("st_uid", "st_gid", "st_mode", "st_mtime_ns"):
        assert getattr(now, field) == getattr(original, field)
    assert (restored / "db" / "linked").read_bytes() == content
    assert (restored / "db" / "linked").samefile(restored / "db" / "linked-too")
    nothing = lab.forget_later(f"{lab.name}-nothing")
    arguments = ["latest", "--volume", volume.name, "--to-volume", nothing, "--path", "no/such/*"]
    said = lab.fails(1, "restore", *arguments)
    assert "no/such/*" in said
    assert not lab.exists(nothing)


def test_which_snapshot_is_meant(lab: Lab) -> None:
    volume = small_volume(lab)
    lab.init(volume)
    first = lab.backup()
    time.sleep(1.1)  # ids begin with the second
    between = datetime.now(UTC).isoformat()
    time.sleep(0.01)
    (volume.files / "second").write_bytes(b"2")
    second = lab.backup()

    def meant(*arguments: str) -> str:
        document = lab.json("restore", *arguments, "--volume", volume.name, "--to-volume", "x", "--dry-run")
        return str(document["snapshot"])

    assert meant("latest") == second
    assert meant("latest", "--at", between) == first
    assert meant(first) == first
    assert meant(first.rpartition("-")[2]) == first
    assert meant(second[:15]) == second
    for reference, code in ((first[:8], 2), ("nonsense", 1)):  # the day
        said = lab.fails(code, "restore", reference, "--volume", volume.name, "--to-volume", "x")
        assert reference in said
    early = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    assert "not found" in lab.fails(1, "restore", "latest", "--at", early, "--volume", volume.name)
    assert "not a valid time" in lab.fails(2, "restore", "latest", "--at", "yesterday", "--volume", volume.name)
    assert "holds no volume" in lab.fails(1, "restore", first, "--volume", f"{lab.name}-other")


def test_latest_of_two_hosts_or_policies_is_an_error_that_lists_them(lab: Lab) -> None:
    volume = small_volume(lab)
    lab.init(volume)
    ours = lab.backup()
    lab.write_policy(volume, host="other-host")
    theirs = lab.backup()
    environment = {"DRKIT_REPOSITORY": str(lab.repository), "DRKIT_IDENTITY_FILE": str(lab.identity)}
    arguments = ["restore", "latest", "--volume", volume.name, "--to-volume", "x", "--dry-run", "--json"]

    result = lab.run(*arguments, env=environment)

    assert result.code == 2
    assert "lab-host" in result.stderr
    assert "other-host" in result.stderr
    for host, snapshot in (("lab-host", ours), ("other-host", theirs)):
        result = lab.run(*arguments, "--host", host, env=environment)
        assert json.loads(result.stdout)["snapshot"] == snapshot, result


# --- damage and interruptions -----------------------------------------------------------------------------------------


def test_a_damaged_pack_fails_the_restore_and_leaves_no_volume(lab: Lab, rng: random.Random) -> None:
    bad = lab.volume("bad", {f"file-{number}": rng.randbytes(MIB) for number in range(8)})
    good = lab.volume("good", {"file": rng.randbytes(MIB)})
    lab.init(bad, good)
    lab.backup("--target", bad.name)
    damaged = max(lab.objects("packs/"), key=lambda path: path.stat().st_size)
    lab.backup("--target", good.name)
    data = bytearray(damaged.read_bytes())
    data[5 * MIB] ^= 1
    damaged.chmod(0o600)
    damaged.write_bytes(data)
    new = lab.forget_later(f"{lab.name}-new")

    said = lab.fails(20, "restore", "latest", "--volume", bad.name, "--to-volume", new)

    assert lab.key(damaged) in said
    assert not lab.exists(new)
    assert lab.helpers() == []
    assert list((lab.state / "restores").iterdir()) == []
    assert_same(good, lab.restore(good))
    partly = lab.restore(bad, "--path", "file-0")
    assert (partly.files / "file-0").read_bytes() == (bad.files / "file-0").read_bytes()


@pytest.fixture
def large(lab: Lab, rng: random.Random) -> Volume:
    """A volume whose restore takes a second or so."""
    volume = lab.volume("large", {f"file-{number:02d}": rng.randbytes(16 * MIB) for number in range(16)})
    lab.init(volume)
    lab.backup()
    return volume


def test_a_killed_restore_says_so_and_can_be_run_again(lab: Lab, large: Volume) -> None:
    new = lab.forget_later(f"{lab.name}-new")
    arguments = ["latest", "--volume", large.name, "--to-volume", new]
    process = lab.start("restore", *arguments, "--policy", lab.policy)
    lab.wait_for_tar(process)
    process.send_signal(signal.SIGKILL)
    finish(process)
    assert lab.exists(new)
    lab.wait_for_no_helper()

    plan = lab.json("restore", *arguments, "--dry-run")
    assert [text for text in plan["notes"] if "interrupted" in text]
    result = lab.drkit("restore", *arguments)

    assert result.code == 0, result
    assert "interrupted" in result.stderr
    assert_same(large, lab.find(new))
    assert "exists" in lab.fails(1, "restore", *arguments)


def test_a_helper_that_a_killed_restore_never_started_is_in_nobodys_way(lab: Lab, large: Volume) -> None:
    """Created, but not started, it would stay for good, and the engine would not remove the volume."""
    new = lab.forget_later(f"{lab.name}-new")
    arguments = ["latest", "--volume", large.name, "--to-volume", new]
    process = lab.start("restore", *arguments, "--policy", lab.policy)
    lab.wait_for_tar(process)
    process.send_signal(signal.SIGKILL)
    finish(process)
    lab.wait_for_no_helper()
    note = json.loads((lab.state / "restores" / new).read_text())
    host = lab.api.create_host_config(binds=[f"{new}:/volume"])
    labels = {LABEL_HELPER: note["restore_id"]}
    lab.api.create_container(note["helper"], "true", labels=labels, host_config=host)

    result = lab.drkit("restore", *arguments)

    assert result.code == 0, result
    assert_same(large, lab.find(new))
    assert lab.helpers() == []


def test_a_volume_that_took_the_name_of_a_killed_restore_is_left_alone(lab: Lab, large: Volume) -> None:
    new = lab.forget_later(f"{lab.name}-new")
    arguments = ["latest", "--volume", large.name, "--to-volume", new]
    process = lab.start("restore", *arguments, "--policy", lab.policy)
    lab.wait_for_tar(process)
    process.send_signal(signal.SIGKILL)
    finish(process)
    lab.wait_for_no_helper()
    lab.remove(lab.find(new))
    lab.api.create_volume(new)
    (lab.find(new).files / "somebody's").write_bytes(b"data")
    assert "exists" in lab.fails(1, "restore", *arguments)
    assert [path.name for path in lab.find(new).files.iterdir()] == ["somebody's"]


def test_a_second_restore_into_the_same_volume_is_refused(lab: Lab, large: Volume) -> None:
    new = lab.forget_later(f"{lab.name}-new")
    arguments = ["latest", "--volume", large.name, "--to-volume", new]
    process = lab.start("restore", *arguments, "--policy", lab.policy)
    lab.wait_for_tar(process)
    process.send_signal(signal.SIGSTOP)
    try:
        assert "is running" in lab.fails(1, "restore", *arguments)
    finally:
        process.send_signal(signal.SIGCONT)
    result = finish(process)
    assert result.code == 0, result
    assert_same(large, lab.find(new))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_an_interrupted_restore_leaves_nothing(lab: Lab, large: Volume, number: signal.Signals, code: int) -> None:
    new = lab.forget_later(f"{lab.name}-new")
    process = lab.start(
        "restore", "latest", "--volume", large.name, "--to-volume", new, "--policy", lab.policy, "--json"
    )
    lab.wait_for_tar(process)
    process.send_signal(number)
    result = finish(process, 30)
    assert result.code == code, result
    assert "Traceback" not in result.stderr
    assert not lab.exists(new)
    lab.wait_for_no_helper()
    assert list((lab.state / "restores").iterdir()) == []


@pytest.mark.parametrize("change", ["content", "mode", "missing", "extra"])
def test_what_is_not_as_recorded_after_extraction_is_found(
    lab: Lab, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the operation: no option of the command line makes a disk lie."""
    volume = small_volume(lab)
    lab.init(volume)
    lab.backup()
    new = lab.forget_later(f"{lab.name}-new")

    def spoil(name: str) -> None:
        files = lab.find(name).files
        path = files / "db" / "table"
        when = path.stat()
        if change == "content":
            path.write_bytes(b"Rows" * 5000)
            os.utime(path, ns=(when.st_atime_ns, when.st_mtime_ns))
        elif change == "mode":
            path.chmod(0o666)
        elif change == "missing":
            path.unlink()
        else:
            (files / "db" / "tablf").touch()

    @contextmanager
    def verifier(restore: Restore) -> Iterator[Callable[[], tuple[int, int]]]:
        with real_verifier(restore) as verify:
            yield lambda: (spoil(new), verify())[1]

    real_verifier = extract.verifier
    monkeypatch.setattr(extract, "verifier", verifier)
    environ = {
        **os.environ,
        "DRKIT_REPOSITORY": str(lab.repository),
        "DRKIT_IDENTITY_FILE": str(lab.identity),
        "DRKIT_STATE_DIR": str(lab.state),
    }
    with Context(now=datetime.now(UTC), environ=environ) as context, pytest.raises(IntegrityError, match="db/tab"):
        restore(context, "latest", Kind.VOLUME, volume.name, Scope(), RestoreOptions(to=new))
    assert lab.exists(new) == (change == "extra")  # which is somebody's


# --- a bare host ------------------------------------------------------------------------------------------------------


def test_a_bare_host_restores_with_a_url_and_a_key_alone(
    lab: Lab, tmp_path: Path, remove_helper_images: Callable[[], None]
) -> None:
    """No policy, no helper image, no registry, and no tools to make a helper of: there is one in the repository."""
    volume = small_volume(lab)
    before = saved(volume, tmp_path)
    lab.init(volume)
    lab.backup()
    lab.policy.unlink()
    lab.remove(volume)
    remove_helper_images()
    environment = {
        "DRKIT_REPOSITORY": str(lab.repository),
        "DRKIT_IDENTITY_FILE": str(lab.identity),
        "DRKIT_STATE_DIR": str(lab.directory / "another-state"),
        "PATH": "/nonexistent",
    }
    assert volume.name in lab.run("snapshots", env=environment).stdout

    result = lab.run("restore", "latest", "--volume", volume.name, "--json", env=environment)

    assert result.code == 0, result
    assert json.loads(result.stdout)["verified"] is True
    assert_same(before, volume)
    # What was loaded serves from now on, also for backups.
    assert lab.run("restore", "latest", "--volume", volume.name, env=environment).code == 1
    lab.write_policy(volume)
    lab.backup()


# --- images -----------------------------------------------------------------------------------------------------------


def test_an_image_comes_back_with_its_tag_and_id(lab: Lab, rng: random.Random) -> None:
    reference = lab.image("app", {"bin/app": rng.randbytes(2 * MIB), "etc/config": b"x"})
    image_id = lab.api.inspect_image(reference)["Id"]
    lab.init(images=[reference])
    [first] = lab.json("backup")["targets"]
    [second] = lab.json("backup")["targets"]
    assert first["bytes_read"] > 2 * MIB
    assert (second["status"], second["bytes_read"], second["bytes_stored"]) == ("ok", 0, 0)
    lab.api.remove_image(reference)
    lab.images_made.remove(reference)

    document = lab.json("restore", "latest", "--image", reference)

    lab.images_made.append(reference)
    assert (document["status"], document["image"], document["verified"]) == ("ok", reference, True)
    assert lab.api.inspect_image(reference)["Id"] == image_id
    # Once more, over itself: nothing to refuse.
    assert lab.json("restore", "latest", "--image", reference)["status"] == "ok"


def test_a_tag_that_is_another_image_here_is_not_taken_away(lab: Lab) -> None:
    reference = lab.image("app", {"file": b"old"})
    lab.init(images=[reference])
    lab.backup()
    lab.api.remove_image(reference)
    lab.image("app", {"file": b"new"})
    there = lab.api.inspect_image(reference)["Id"]
    said = lab.fails(1, "restore", "latest", "--image", reference)
    assert reference in said
    assert lab.api.inspect_image(reference)["Id"] == there


# --- export -----------------------------------------------------------------------------------------------------------


def test_export_holds_what_a_tar_of_the_volume_holds(lab: Lab, busybox_image: str, tmp_path: Path) -> None:
    volume = small_volume(lab)
    (volume.files / "db" / "linked").hardlink_to(volume.files / "db" / "table")
    lab.init(volume)
    lab.backup()
    to_file = tmp_path / "export.tar"
    document = lab.json("export", "latest", "--volume", volume.name, "-o", to_file)
    assert (document["files"], document["bytes"]) == (8, to_file.stat().st_size)
    command = ["export", "latest", "--volume", volume.name, "--policy", lab.policy]
    with (tmp_path / "stdout.tar").open("wb") as stdout:
        result = finish(lab.start(*command, stdout=stdout))
    assert result.code == 0, result
    assert (tmp_path / "stdout.tar").read_bytes() == to_file.read_bytes()

    box = lab.api.create_container(
        busybox_image,
        ["tar", "-c", "-f", "/out/plain.tar", "-C", "/volume", "."],
        host_config=lab.api.create_host_config(binds=[f"{volume.name}:/volume:ro", f"{tmp_path}:/out"]),
    )["Id"]
    try:
        lab.api.start(box)
        assert lab.api.wait(box)["StatusCode"] == 0
    finally:
        lab.api.remove_container(box, force=True)
    assert contents(to_file) == contents(tmp_path / "plain.tar")
    said = lab.fails(2, "export", "latest", "--volume", volume.name, "-o", str(to_file))
    assert f"{to_file} exists" in said


def contents(path: Path) -> dict[str, tuple[object, ...]]:
    """What a member is, by path. Which of two hard links holds the content depends on the order of the directory."""
    found: dict[str, tuple[object, ...]] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            name = member.name.removeprefix("./") or "."
            content = b""
            if member.isfile() or member.islnk():
                file = tar.extractfile(member)
                assert file is not None
                content = file.read()
            kind = "file" if member.islnk() else "link" if member.issym() else "dir" if member.isdir() else "file"
            found[name] = (kind, member.mode, member.uid, member.gid, int(member.mtime), content)
    return found


def test_a_failed_export_leaves_no_file(lab: Lab, rng: random.Random, tmp_path: Path) -> None:
    volume = lab.volume("data", {f"file-{number}": rng.randbytes(MIB) for number in range(4)})
    lab.init(volume)
    lab.backup("--target", volume.name)
    pack = max(lab.objects("packs/"), key=lambda path: path.stat().st_size)
    data = bytearray(pack.read_bytes())
    data[2 * MIB] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    out = tmp_path / "out"
    out.mkdir()
    assert lab.key(pack) in lab.fails(20, "export", "latest", "--volume", volume.name, "-o", str(out / "x.tar"))
    assert list(out.iterdir()) == []
    result = lab.drkit("export", "latest", "--volume", volume.name, "-o", tmp_path / "no" / "x.tar")
    assert (result.code, "no such file or directory" in result.stderr) == (1, True)


def test_an_image_is_exported_as_docker_load_takes_it(lab: Lab, tmp_path: Path) -> None:
    reference = lab.image("app", {"file": b"content"})
    lab.init(images=[reference])
    lab.backup()
    lab.json("export", "latest", "--image", reference, "-o", tmp_path / "image.tar")
    lab.api.remove_image(reference)
    with (tmp_path / "image.tar").open("rb") as archive:
        list(lab.api.load_image(archive))
    assert lab.api.inspect_image(reference)["Config"]["Cmd"]


# --- the story --------------------------------------------------------------------------------------------------------


def test_a_live_postgresql_is_destroyed_and_comes_back_with_its_rows(lab: Lab, data_image: str) -> None:
    volume = lab.volume("postgres")
    lab.init(volume, images=[data_image])
    box = start_postgres(lab, data_image, volume)
    try:
        sql(lab, box, "create table orders (id serial primary key, item text)")
        sql(lab, box, "insert into orders (item) select 'item ' || n from generate_series(1, 5000) n")
        document = lab.json("backup")  # of the running server: what a power cut would leave
    finally:
        lab.api.remove_container(box, force=True)
    assert [target["status"] for target in document["targets"]] == ["ok", "ok"]
    lab.remove(volume)

    assert lab.json("restore", "latest", "--volume", volume.name)["verified"] is True

    box = start_postgres(lab, data_image, volume)
    try:
        assert sql(lab, box, "select count(*), sum(id), max(item) from orders") == "5000|12502500|item 999"
        sql(lab, box, "insert into orders (item) values ('after')")
    finally:
        lab.api.remove_container(box, force=True)


def start_postgres(lab: Lab, image: str, volume: Volume) -> str:
    host = lab.api.create_host_config(binds=[f"{volume.name}:/var/lib/postgresql/data"], network_mode="none")
    box = str(lab.api.create_container(image, ["postgres"], host_config=host)["Id"])
    lab.api.start(box)
    deadline = time.monotonic() + 60
    while run_in(lab, box, ["pg_isready", "-U", "postgres"])[0]:
        if time.monotonic() > deadline:
            log = lab.api.logs(box, tail=20).decode()
            lab.api.remove_container(box, force=True)
            pytest.fail(f"PostgreSQL did not become ready:\n{log}")
        time.sleep(0.2)
    return box


def sql(lab: Lab, box: str, statement: str) -> str:
    code, said = run_in(lab, box, ["psql", "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-tAc", statement])
    assert code == 0, said
    return said.strip()


def run_in(lab: Lab, box: str, command: list[str]) -> tuple[int, str]:
    try:
        execution = lab.api.exec_create(box, command)["Id"]
        said = lab.api.exec_start(execution).decode()
        return int(lab.api.exec_inspect(execution)["ExitCode"]), said
    except docker.errors.APIError as error:  # it does not run yet, or no more
        return 1, str(error)
