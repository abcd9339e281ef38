"""`check`: is the structure whole? Reads every object but the data chunks; the meta key is enough.

`Damage` is also what verify reports: which object is wrong, how, and whom it hits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from drkit.errors import DrkitError, IntegrityError, ObjectNotFound
from drkit.events import Warned
from drkit.repository.commit.marks import get_mark
from drkit.repository.commit.session import get_session
from drkit.repository.format.names import LOCKED_PREFIXES, display_path
from drkit.repository.format.packs import check_pack_bytes, pack_id_or_none, pack_key, read_directory
from drkit.repository.format.snapshot import Snapshot, Target, stored_trees, tree_chunk_ids
from drkit.repository.format.tree import EXTENT, Member
from drkit.repository.index import ATTEMPTS, Index, get_raw_index, index_keys, read_all, stored_packs
from drkit.repository.keys.wraps import TREE_KEY_ID, data_key_prefix, get_wrap
from drkit.repository.proofs import read_proofs
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository
from drkit.storage.base import Storage

FILES_NAMED = 1000
_PREFIXES = ("config", "keys", "packs", "index", "snapshots", "sessions", "marks", "proofs", "program")


@dataclass
class Damage:
    """One damaged object, and what cannot be restored because of it; at most 1,000 files are named."""

    object: str
    problem: str
    snapshots: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    def hits(self, snapshot: Snapshot, file: str) -> None:
        if snapshot.id not in self.snapshots:
            self.snapshots.append(snapshot.id)
        if len(self.files) < FILES_NAMED and file not in self.files[-1:]:
            self.files.append(file)


@dataclass
class Report:
    """What was looked at: `objects` read or found in the listing, `bytes` read."""

    objects: int = 0
    bytes: int = 0
    findings: dict[str, Damage] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    """What is worth knowing and harms nothing, by object: unfinished work, files that are no part of the repository."""

    def found(self, object_name: str, problem: str) -> Damage:
        """Return the finding about an object, made on first sight: the first problem of an object is the one told."""
        return self.findings.setdefault(object_name, Damage(object_name, problem))

    seed: str | None = None
    """What chooses the same packs again, where only some were read."""
    warnings: list[Warned] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.findings

    @property
    def error(self) -> IntegrityError | None:
        """The error that the exit code tells: None where nothing is damaged."""
        if self.ok:
            return None
        count = len(self.findings)
        return IntegrityError(
            f"damaged or missing: {count} object{'' if count == 1 else 's'}",
            hint="Restore them from a copy of the repository, or move them away: drkit backup then stores them again.",
        )


@dataclass(frozen=True)
class _Structure:
    """Where chunks lie, by what can be said of them. What hits a chunk is named by the storage key of its finding."""

    whole: Index
    """Chunks in packs that look whole."""
    lost: Index
    """Chunks that the index places in packs that are missing or damaged."""
    damaged_index: list[str]
    """Index objects that cannot be read: chunks that no other one places are theirs."""
    lost_keys: dict[bytes, str]
    """Data keys without a wrap that is whole, and where it would be."""

    def problem(self, chunk_id: bytes) -> tuple[str, str] | None:
        """The object that is to blame when a chunk cannot be read, and why; None when it can."""
        location = self.whole.get(chunk_id)
        if location is not None:
            key = self.lost_keys.get(location.key_id)
            return (key, "missing or damaged: the data sealed with this key cannot be opened") if key else None
        location = self.lost.get(chunk_id)
        if location is not None:
            return pack_key(location.pack_id), "missing or damaged: the index refers to it"
        if self.damaged_index:
            return self.damaged_index[0], "damaged"
        return f"chunk {chunk_id.hex()}", "in no index"


def check_repository(repository: Repository, damaged: Iterable[IntegrityError] = ()) -> Report:
    """Check keys, index, packs' presence and directories, trees, snapshot records, sessions and marks. Changes nothing.

    `damaged` is what has been found wrong with packs before: the snapshots and files that it hits are named too. Where
    a prune changes the index meanwhile and something seems to be wrong, all is looked at again.
    """
    known = list(damaged)
    for _ in range(ATTEMPTS):
        before = index_keys(repository.storage)
        report = _check_once(repository, known)
        if report.ok or index_keys(repository.storage) == before:
            break
        repository.reload_index()
    return report


def _check_once(repository: Repository, damaged: list[IntegrityError]) -> Report:
    report = Report(objects=1)  # config was read, and authenticated, when the repository was opened
    for error in damaged:
        report.found(error.object_name, error.message)
    whole_keys = _check_keys(repository, report)
    packs = _check_packs(repository, report)
    for error in damaged:
        packs.pop(pack_id_or_none(error.object_name) or b"", None)
    structure = _check_index(repository, report, packs, whole_keys)
    for proof in read_proofs(repository):
        report.objects += 1
        if isinstance(proof, IntegrityError):
            report.found(proof.object_name, proof.message)
    with ChunkReader(repository) as reader:
        for record in repository.snapshots():
            report.objects += 1
            if isinstance(record, IntegrityError):
                report.found(record.object_name, record.message)
                continue
            for target in stored_trees(record):
                _check_target(report, reader, structure, record, target)
    _check_unfinished(repository, report)
    return report


def check_pack_bytes_of(storage: Storage, pack_ids: Iterable[bytes], progress: Callable[[int], None]) -> Report:
    """Read packs whole and compare each with the hash that it is named after. Needs no key."""
    report = Report()
    for pack_id in pack_ids:
        key = pack_key(pack_id)
        try:
            body = storage.get(key)
        except ObjectNotFound:
            continue  # a prune removed it since the listing
        report.objects += 1
        report.bytes += len(body)
        try:
            check_pack_bytes(pack_id, body)
        except IntegrityError as error:
            report.found(key, error.message)
        progress(len(body))
    return report


def describe_file(target: Target, member: Member) -> str:
    return f"{target.kind} {target.name}: {display_path(member.path)}"


def _check_keys(repository: Repository, report: Report) -> set[str]:
    """Return the places of keys that have a whole wrap."""
    whole = set()
    for info in repository.storage.list("keys/"):
        report.objects += 1
        report.bytes += info.size
        try:
            get_wrap(repository.storage, info.key)
        except ObjectNotFound:
            continue  # a prune removed it since the listing
        except IntegrityError as error:
            report.found(info.key, error.message)
        else:
            whole.add(info.key.rpartition("/")[0] + "/")
    return whole


def _check_packs(repository: Repository, report: Report) -> dict[bytes, int]:
    """Return the sizes of the packs whose directory is whole."""
    packs: dict[bytes, int] = {}
    for pack_id, size in stored_packs(repository.storage).items():
        report.objects += 1
        try:
            read_directory(repository.storage, repository.objects, pack_id)
        except ObjectNotFound:
            continue  # a prune removed it since the listing; whether it is missed shows below
        except IntegrityError as error:
            report.found(pack_key(pack_id), error.message)
        else:
            packs[pack_id] = size
    return packs


def _check_index(repository: Repository, report: Report, packs: dict[bytes, int], whole_keys: set[str]) -> _Structure:
    """Read the index, and compare it with the packs that are there."""
    structure = _Structure(Index(), Index(), [], {})
    objects, damaged = read_all(
        repository.storage, lambda key: get_raw_index(repository.storage, repository.objects, key)
    )
    report.objects += len(objects) + len(damaged)
    for error in damaged:
        report.found(error.object_name, error.message)
        structure.damaged_index.append(error.object_name)
    for raw in (raw for packs_listed in objects.values() for raw in packs_listed):
        pack = raw.listing()
        report.bytes += len(raw.entries)
        size = packs.get(pack.pack_id)
        if size == pack.size:
            structure.whole.add(pack)
            continue
        # That it is gone is damage only where something needs it: a run that was fenced lists what a prune removed.
        structure.lost.add(pack)
        if size:
            report.found(pack_key(pack.pack_id), f"has {size} bytes, the index says {pack.size}")
    for key_id in {*structure.whole.key_ids(), *structure.lost.key_ids()} - {TREE_KEY_ID}:
        prefix = data_key_prefix(key_id)
        if prefix not in whole_keys:
            wraps = [key for key in report.findings if key.startswith(prefix)]
            structure.lost_keys[key_id] = wraps[0] if wraps else prefix
    return structure


def _check_unfinished(repository: Repository, report: Report) -> None:
    """Read sessions and marks, which nothing that is stored depends on, and note what is no part of the repository."""
    storage, sealer = repository.storage, repository.objects
    for info in storage.list(""):
        prefix, *rest = info.key.split("/")
        if prefix not in _PREFIXES or (prefix == "packs" and pack_id_or_none(info.key) is None):
            report.notes[info.key] = "no part of the repository"
            continue
        try:
            if prefix == "sessions":
                session = get_session(storage, sealer, info.key)
                what = "prune" if session.prune else "run"
                report.notes[info.key] = (
                    f"{what} {rest[0]} of host {session.host} has not ended: it works, or was cut short; "
                    "the next prune finds out"
                )
            elif prefix == "marks":
                ids = get_mark(storage, sealer, info.key)
                report.notes[info.key] = (
                    f"prune {rest[0]} has condemned {len(ids)} objects and has not ended: it works, or was cut short; "
                    "the next prune finds out"
                )
            else:
                continue
            report.objects += 1
        except ObjectNotFound:
            continue  # ended since the listing
        except IntegrityError as error:
            report.found(info.key, error.message)
    for key, how in storage.shadowed_objects():
        # A marker is also what a delete leaves with credentials that may do no more; over locked objects it never is.
        if key.startswith(LOCKED_PREFIXES) and (storage.traits.locks or how.startswith("written over")):
            report.found(key, f"{how}; --as-of a time before reads what was there")
        elif key.startswith(LOCKED_PREFIXES):
            report.notes[key] = how
    for path in sorted(storage.foreign_files()):
        report.notes[path] = "no part of the repository"


def _check_target(
    report: Report, reader: ChunkReader, structure: _Structure, snapshot: Snapshot, target: Target
) -> None:
    """Read a target's tree, and see that every extent lies within a chunk whose pack is whole."""
    problems: dict[bytes, tuple[str, str] | None] = {}
    name = f"{target.kind} {target.name}"
    for chunk_id in tree_chunk_ids(target):
        problem = structure.problem(chunk_id)
        if problem is not None:
            report.found(*problem).hits(snapshot, name)
    try:
        for member in reader.members(target):
            for chunk_id, offset, length in EXTENT.iter_unpack(member.extents):
                if chunk_id not in problems:
                    problems[chunk_id] = structure.problem(chunk_id)
                problem = problems[chunk_id]
                if problem is None and offset + length > _size(structure, chunk_id):
                    problem = f"chunk {chunk_id.hex()}", "an extent reaches beyond it"
                if problem is not None:
                    report.found(*problem).hits(snapshot, describe_file(target, member))
    except DrkitError as error:
        key = (
            error.object_name if isinstance(error, IntegrityError) and error.object_name else f"snapshots/{snapshot.id}"
        )
        report.found(key, error.message).hits(snapshot, name)


def _size(structure: _Structure, chunk_id: bytes) -> int:
    location = structure.whole.get(chunk_id)
    return location.size if location is not None else 0
