#!/usr/bin/env python3
"""Made tests/golden/repository-2: a repository and its mirror, with all that repository-1 lacks. Not to be run again.

    python3 -m tests.golden.make_repository_2 DIRECTORY

As root, on a file system with xattrs and holes. It froze derived key ids, labels, signed and numbered records of two
installations, one of which took the other's series over, documents, aligned trees, a helper image, proofs, notes of
what was forgotten, a passphrase-wrapped identity, a mark, a session, a stray wrap, and copies in a mirror.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from drkit.operations.copy import copy_into
from drkit.pipeline.documents import as_json, write_documents
from drkit.repository.commit.marks import put_mark
from drkit.repository.commit.session import SESSION_PREFIX
from drkit.repository.forgot import Owner, note_forgotten
from drkit.repository.format.names import content_name
from drkit.repository.format.record import encode_snapshot
from drkit.repository.format.sealing import SigningKey
from drkit.repository.format.snapshot import NameList, Previous, Snapshot, Target, format_time, stored_trees
from drkit.repository.keys.identity import generate_identity, wrap
from drkit.repository.keys.wraps import format_meta_key, put_escrow
from drkit.repository.mirror.mirror import create_mirror, open_mirror
from drkit.repository.proofs import add_proof
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter
from drkit.storage import open_storage
from tests.golden.make_repository_1 import capture_image, image_archive, make_volume
from tests.support.host_tar import capture_directory

FIRST = datetime(2026, 11, 28, 1, 2, 3, 456789, tzinfo=UTC)
RUNS = ("20261128t010203z-00c0ffee", "20261129t010203z-00decade", "20261130t010203z-00facade")
OLD, NEW = SigningKey(b"o" * 32), SigningKey(b"n" * 32)
PASSPHRASE = "correct horse battery staple"
SALT = b"s" * 32
VOLUME = {"Name": "shop_data", "Driver": "local", "Labels": {"app": "shop", "secret": "label value"}, "Options": None}


def new_record(number: int, targets: list[Target]) -> tuple[Snapshot, SigningKey]:
    """The third one is of another installation, which took the series over."""
    now = FIRST + timedelta(days=number)
    key = OLD if number < 2 else NEW
    record = Snapshot(
        RUNS[number],
        format_time(now),
        "host-1",
        "shop",
        "ok",
        targets,
        finished=format_time(now + timedelta(seconds=2)),
        origin=key.public.hex(),
        sequence=2 + number,
        previous=Previous(RUNS[number - 1], 1 + number) if number else Previous("20261127t010203z-0badcafe", 1),
        adopted=[OLD.public.hex()] if key is NEW else [],
        policy_digest="ab" * 32,
        retention={"keep_last": 3, "timezone": "UTC"},
        compression="default",
        drkit="0.1.0",
        helper={"image_id": "sha256:" + "cd" * 32, "arch": "amd64", "full": True},
    )
    return record, key


def main(directory: Path) -> None:
    directory.mkdir()
    identity, escrow = generate_identity(), generate_identity()
    storage = open_storage(str(directory / "repository"), create=True)
    recipients = [identity.recipient, escrow.recipient]
    repository = Repository.create(storage, identity, recipients, now=FIRST)
    put_escrow(storage, repository.objects, escrow, PASSPHRASE)
    previous: Target | None = None
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
        root = Path(scratch)
        make_volume(root)
        for number, run_id in enumerate(RUNS):
            (root / "counter").write_text(f"{number}\n")
            now = format_time(FIRST + timedelta(days=number))
            volume = Target(
                "volume",
                "shop_data",
                started=now,
                seconds=1.25,
                quiesce="none",
                skipped=NameList.of(["socket"]),
                lost=["trusted.* xattrs"],
                exclude=["*.tmp"],
                encoding="GNU tar 1.34, full",
                source={"Name": "shop_data", "Driver": "local", "LabelNames": {"count": 2, "names": ["app", "secret"]}},
            )
            image = Target("image", "app:1", started=now, source={"tags": ["app:1"], "architecture": "amd64"})
            helper = Target("image", "helper")
            repository = Repository.open(storage, [identity])
            record, key = new_record(number, [volume, image])
            member = repository.meta.member
            with RunWriter(repository, run_id, recipients, host="host-1") as writer:
                capture_directory(repository, writer, volume, root, previous=previous)
                capture_image(repository, writer, image, image_archive())
                capture_image(repository, writer, helper, image_archive())
                record.helper["tree"] = helper.tree
                volume.documents = write_documents(writer, member, SALT, {"volume.json": as_json(VOLUME)})
                policy = {"policy.yaml": b"version: 1\nname: shop\n"}
                record.documents = write_documents(writer, member, SALT, policy)
                writer.commit(record, encode_snapshot(record, key, repository_id=repository.id))
            previous = volume
    repository = Repository.open(storage, [identity])
    note_forgotten(repository, {Owner(OLD.public.hex(), "host-1", "shop"): [1]})
    add_proof(
        repository, "key", {"recipient": identity.recipient, "keys": 2}, now=FIRST, host="host-1", version="0.1.0"
    )
    add_proof(repository, "drill", {"verdict": "proven"}, now=FIRST, host="host-1", version="9.0.0")
    mirror_storage = open_storage(str(directory / "mirror"), create=True)
    create_mirror(repository, mirror_storage, now=FIRST, single_writer=False)
    copies = copy_into(repository, open_mirror(repository, mirror_storage), host="host-2")
    assert len(copies.copied) == len(RUNS), copies
    expected: dict[str, dict[str, str]] = {}
    with ChunkReader(repository) as reader:
        for snapshot in repository.snapshots():
            assert isinstance(snapshot, Snapshot)
            for target in stored_trees(snapshot):
                raw = b"".join(reader.extents(reader.members(target))) + bytes(1024)
                expected.setdefault(snapshot.id, {})[target.title] = hashlib.sha256(raw).hexdigest()
    # What a prune and a run leave that were cut short, and what anybody can put there.
    put_mark(storage, repository.objects, "20261130t020304z-0000dead", [bytes(range(32))])
    payload = json.dumps({"run": "20261130t020304z-0000dead", "host": "host-1", "prune": True}).encode()
    sealed = repository.objects.seal("session", b"20261130t020304z-0000dead", payload)
    storage.put(f"{SESSION_PREFIX}20261130t020304z-0000dead/7", sealed)
    name = "20261130t030405z-0000dead"
    tombstone = json.dumps({"fenced": name, "by": "20261130t020304z-0000dead"}).encode()
    storage.put(f"snapshots/{name}", repository.objects.seal("snapshot", name.encode(), tombstone))
    fields = {"repository": repository.id.hex(), "for": "meta", "key": "A" * 43 + "="}
    stray = wrap(json.dumps(fields).encode(), [identity.recipient])
    storage.put(f"keys/meta/{content_name(stray)}", stray)
    note = "# Of the frozen test repository beside this file, and of nothing else: it is public.\n"
    (directory / "identity.txt").write_text(f"{note}# public key: {identity.recipient}\n{identity.secret_text()}\n")
    (directory / "escrow-identity.txt").write_text(f"{note}{escrow.secret_text()}\n")
    (directory / "meta-key.json").write_text(format_meta_key(repository.meta.meta_key, repository.id))
    (directory / "expected.json").write_text(json.dumps({"passphrase": PASSPHRASE, "trees": expected}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
