#!/usr/bin/env python3
"""Made tests/golden/repository-1, the frozen repository of format 1. Kept to show how, and not to be run again.

    python3 -m tests.golden.make_repository_1 DIRECTORY

As root, on a file system with xattrs and holes. What it froze is the proof that old backups stay readable: to make it
anew would throw that away. A later format gets a repository and a script of its own.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import socket
import sys
import tarfile
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from drkit.pipeline.paths import member_path
from drkit.pipeline.stream import MemberStream, iterator_readinto
from drkit.repository.format.snapshot import NameList, Snapshot, Target, format_time
from drkit.repository.format.tree import Member, TreeWriter, encode_member
from drkit.repository.keys.identity import generate_identity
from drkit.repository.keys.wraps import format_meta_key, put_escrow
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter
from drkit.storage import open_storage
from tests.support.host_tar import capture_directory

FIRST = datetime(2025, 3, 9, 1, 2, 3, 456789, tzinfo=UTC)
RUNS = ("20250309t010203z-00c0ffee", "20250310t010203z-00decade")
PASSPHRASE = "correct horse battery staple"
SECOND = 10**9


def make_volume(root: Path) -> None:
    """A little of everything that a volume can hold."""
    rng = random.Random(1)
    root.chmod(0o2751)
    os.chown(root, 999, 998)
    (root / "plain.txt").write_text("some text\n" * 50)
    (root / "binary").write_bytes(rng.randbytes(40_000))
    (root / "empty").touch()
    (root / "setuid").write_text("#!/bin/sh\n")
    (root / "setuid").chmod(0o6755)
    os.chown(root / "setuid", 2**32 - 2, 2**21)
    (root / "setuid").chmod(0o6755)
    (root / "directory" / "deep" / ("d" * 120)).mkdir(parents=True)
    (root / "directory" / "deep" / ("d" * 120) / ("f" * 250)).write_text("long names")
    (root / "directory" / "empty").mkdir(mode=0o700)
    (root / "directory" / "link").hardlink_to(root / "binary")
    (root / "zlink").hardlink_to(root / "binary")
    (root / "a").mkdir()
    (root / "a-b").write_text("sorts before what is in a\n")
    (root / "a" / "hard").hardlink_to(root / "a-b")
    (root / "a" / "x").write_text("ordering trap\n")
    (root / "symlink").symlink_to("directory/deep")
    (root / "dangling").symlink_to("/nowhere/" + "t" * 120)
    os.mkfifo(root / "fifo", 0o640)
    os.mknod(root / "null", 0o20666, os.makedev(1, 3))
    with (root / "sparse").open("wb") as file:
        file.write(b"start")
        file.seek(9 << 30)
        file.write(b"end")
    for name in (b"new\nline", b"\xff\xfe", b" blank ", b"-rf", b"back\\slash", "caf\u00e9".encode(), b"a'b\"c"):
        Path(os.fsdecode(os.path.join(os.fsencode(root), name))).write_bytes(name)
    os.setxattr(root / "plain.txt", "user.comment", b"\0binary\n=")
    os.setxattr(root / "empty", "user.empty", b"")
    # user::rw- user:1000:r-- group::r-- mask::r-- other::---
    acl = bytes.fromhex("02000000 01000600ffffffff 02000400e8030000 04000400ffffffff 10000400ffffffff 20000000ffffffff")
    os.setxattr(root / "binary", "system.posix_acl_access", acl)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "socket"))
    for number, path in enumerate(sorted(root.rglob("*"), reverse=True)):
        when = 1_700_000_000 * SECOND + number * 7 * SECOND + 123_456_789
        os.utime(path, ns=(0, -when if number % 9 == 0 else when), follow_symlinks=False)
    os.utime(root, ns=(0, 1_600_000_000 * SECOND + 1))


def image_archive() -> bytes:
    """A tar as `docker save` writes it: Go's writer, not GNU tar's."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in [
            ("01234567.json", b'{"architecture":"amd64","os":"linux"}'),
            ("layer/layer.tar", bytes(10_240)),
            ("manifest.json", b'[{"Config":"01234567.json","RepoTags":["app:1"],"Layers":["layer/layer.tar"]}]'),
        ]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return output.getvalue()


def capture_image(repository: Repository, writer: RunWriter, target: Target, archive: bytes) -> None:
    tree = TreeWriter(writer.put_tree)
    stream = MemberStream(iterator_readinto([archive]), repository.meta.member, writer.put_data)
    for item in stream:
        stat = b"f 644 0 0 %d 0 0 0 1" % item.frame.size
        member = Member(member_path(item.frame.name), stat, b"", b"", item.digest, False, item.extents)
        tree.add(encode_member(member))
        target.files += 1
        target.bytes += item.frame.size
    assert stream.ended
    target.tree = [chunk_id.hex() for chunk_id in tree.finish()]


def new_targets(now: datetime) -> tuple[Target, Target]:
    return (
        Target(
            "volume",
            "shop_data",
            started=format_time(now),
            seconds=1.25,
            skipped=NameList.of(["socket"]),
            lost=["trusted.* xattrs"],
            exclude=["*.tmp"],
            encoding="GNU tar 1.34, full",
            source={"Name": "shop_data", "Driver": "local", "Options": None, "Labels": {"app": "shop"}},
        ),
        Target("image", "app:1", started=format_time(now), source={"tags": ["app:1"], "architecture": "amd64"}),
    )


def new_snapshot(run_id: str, now: datetime, targets: list[Target]) -> Snapshot:
    return Snapshot(
        run_id,
        format_time(now),
        "host-1",
        "shop",
        "ok",
        targets,
        finished=format_time(now + timedelta(seconds=2)),
        policy_text="version: 1\nname: shop\n",
        drkit="0.1.0",
    )


def main(directory: Path) -> None:
    directory.mkdir()
    identity, escrow = generate_identity(), generate_identity()
    storage = open_storage(str(directory / "repository"), create=True)
    recipients = [identity.recipient, escrow.recipient]
    repository = Repository.create(storage, identity, recipients, now=FIRST)
    put_escrow(storage, repository.objects, escrow, PASSPHRASE)
    expected: dict[str, dict[str, str]] = {}
    trees: dict[str, Target] = {}
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
        root = Path(scratch)
        make_volume(root)
        for number, run_id in enumerate(RUNS):
            now = FIRST + timedelta(days=number)
            repository = Repository.open(storage, [identity])
            volume, image = new_targets(now)
            if number:  # something changed, something came, something went
                (root / "plain.txt").write_text("other text\n")
                (root / "new").write_text("new\n")
                (root / "empty").unlink()
            with RunWriter(repository, run_id, recipients, host="host-1") as writer:
                plan = capture_directory(repository, writer, volume, root, previous=trees.get("shop_data"))
                capture_image(repository, writer, image, image_archive())
                writer.commit(new_snapshot(run_id, now, [volume, image]))
            print(f"{run_id}: {volume.files} members, {plan.reads} read")
            trees = {"shop_data": volume, "app:1": image}
            with ChunkReader(repository) as reader:
                expected[run_id] = {
                    name: hashlib.sha256(b"".join(reader.extents(reader.members(target))) + bytes(1024)).hexdigest()
                    for name, target in trees.items()
                }
    tombstone = b'{"fenced": "20250311t000000z-00000000"}'
    name = "20250311t010203z-0000dead"
    storage.put(f"snapshots/{name}", repository.objects.seal("snapshot", name.encode(), tombstone))
    note = "# Of the frozen test repository beside this file, and of nothing else: it is public.\n"
    (directory / "identity.txt").write_text(f"{note}# public key: {identity.recipient}\n{identity.secret_text()}\n")
    (directory / "escrow-identity.txt").write_text(f"{note}{escrow.secret_text()}\n")
    (directory / "meta-key.json").write_text(format_meta_key(repository.meta.meta_key, repository.id))
    (directory / "expected.json").write_text(json.dumps({"passphrase": PASSPHRASE, "tars": expected}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
