"""`check`: is the structure whole? Reads every object except data chunks; the meta key is enough.

verify reports `Damage` too: which object is wrong, how, and what that hits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from drkit.errors import DrkitError, IntegrityError, ObjectNotFound, RepositoryError, counted
from drkit.events import LOGGED, Events, Warned
from drkit.repository.absence import Expected, missing
from drkit.repository.commit.marks import get_mark
from drkit.repository.commit.session import get_session
from drkit.repository.forgot import read_forgotten
from drkit.repository.format.layout import kind_of
from drkit.repository.format.limits import SEALED, WRAP
from drkit.repository.format.names import LOCKED_PREFIXES, check_content_name, display_path
from drkit.repository.format.packs import encode_entries, pack_id_of, pack_key
from drkit.repository.format.snapshot import (
    SNAPSHOT_PREFIX,
    Snapshot,
    Target,
    outline,
    stored_trees,
    tree_chunk_ids,
)
from drkit.repository.format.tree import EXTENT, Member
from drkit.repository.holders.custody import holds_another_key
from drkit.repository.index import ATTEMPTS, Index, PackedListing, index_keys, read_index
from drkit.repository.keys.wraps import TREE_KEY_ID, data_key_prefix
from drkit.repository.pack_reader import Held, PacksRead, held, read_directories, read_packs, stored_packs
from drkit.repository.proofs import read_proofs
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository

FILES_NAMED = 1000


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
    """Harmless facts worth knowing, by object: unfinished work, files that are not part of the repository."""
    index_is_wrong: bool = False
    """Whether drkit repair index has something to do."""
    seed: str | None = None
    """What chooses the same packs again, where only some were read."""
    warnings: list[Warned] = field(default_factory=list)

    def found(self, object_name: str, problem: str) -> Damage:
        """Return the finding about an object, made on first sight: only the first problem of an object is reported."""
        return self.findings.setdefault(object_name, Damage(object_name, problem))

    def include(self, other: Report) -> None:
        """Add the findings of another report."""
        self.index_is_wrong |= other.index_is_wrong
        for each in other.findings.values():
            ours = self.found(each.object, each.problem)
            if ours is not each:
                ours.snapshots += [name for name in each.snapshots if name not in ours.snapshots]
                known = set(ours.files)
                ours.files = [*ours.files, *(name for name in each.files if name not in known)][:FILES_NAMED]

    @property
    def ok(self) -> bool:
        return not self.findings

    @property
    def error(self) -> IntegrityError | None:
        """The error that decides the exit code: None if nothing is damaged."""
        if self.ok:
            return None
        ways = ["Restore them from a copy of the repository."]
        snapshots = [name for name in self.findings if name.startswith(SNAPSHOT_PREFIX)]
        if len(snapshots) < len(self.findings):
            ways.append("What is not a snapshot can be moved away too: drkit backup then stores it again.")
        if snapshots:
            ways.append("Of a snapshot that nothing brings back: drkit forget SNAPSHOT --yes-really.")
        hint = " ".join(ways)
        if self.index_is_wrong:
            hint = "Run drkit repair index, then drkit check again: what it still names must come from a copy."
        return IntegrityError(f"damaged or missing: {counted(len(self.findings), 'object')}", hint=hint)


@dataclass(frozen=True)
class _Structure:
    """Where chunks lie, and whether they can be read there.

    What a chunk that cannot be read hits is named in the finding about the object to blame.
    """

    whole: Index
    """Chunks in packs that look whole, where the index and the packs themselves place them."""
    lost: Index
    """Chunks that the index places in packs that are missing or damaged."""
    invented: dict[bytes, str]
    """Chunks that an index object places in packs which do not hold them, and that index object."""
    damaged_index: list[str]
    """Index objects that cannot be read: they are to blame for chunks that no other one places."""
    lost_keys: dict[bytes, str]
    """Data keys of which no wrap is whole, and where one would be."""

    def problem(self, chunk_id: bytes) -> tuple[str, str] | None:
        """The object that is to blame when a chunk cannot be read, and why; None when it can."""
        location = self.whole.get(chunk_id)
        if location is not None:
            key = self.lost_keys.get(location.key_id)
            return (key, "missing or damaged: the data sealed with this key cannot be opened") if key else None
        location = self.lost.get(chunk_id)
        if location is not None:
            return pack_key(location.pack_id), "missing or damaged: the index refers to it"
        if chunk_id in self.invented:
            return self.invented[chunk_id], "places a chunk where it is not"
        if self.damaged_index:
            return self.damaged_index[0], "damaged"
        return f"chunk {chunk_id.hex()}", "in no index"


def check_repository(
    repository: Repository, read: PacksRead | None = None, remembered: Sequence[Expected] = ()
) -> Report:
    """Check keys, index, packs' presence and directories, trees, snapshot records, sessions and marks. Changes nothing.

    `read` tells of packs that were read whole before: they are not read again, and the snapshots and files that the
    damaged ones hit are named too. If something seems wrong and a prune changed the index meanwhile, all is checked
    again.
    """
    for _ in range(ATTEMPTS):
        before = index_keys(repository.storage)
        report = _check_once(repository, read or PacksRead(), remembered)
        if report.ok or index_keys(repository.storage) == before:
            break
        repository.reload_index()
    return report


def check_packs(repository: Repository, events: Events = LOGGED, remembered: Sequence[Expected] = ()) -> Report:
    """Check the structure, and compare every pack with the hash that it is named after. Needs no identity."""
    read = PacksRead()
    for pack in read_packs(repository.storage, repository.objects, stored_packs(repository.storage)):
        read.add(pack)
        events.progress("check", len(pack.body))
    return check_repository(repository, read, remembered)


def _check_once(repository: Repository, read: PacksRead, remembered: Sequence[Expected]) -> Report:
    report = Report(objects=1, bytes=read.bytes)  # config was authenticated when the repository was opened
    for error in read.damaged:
        report.found(error.object_name, error.message)
    whole_keys = _check_keys(repository, report)
    packs = _check_packs(repository, report, read)
    structure = _check_index(repository, report, packs, whole_keys)
    for proof in read_proofs(repository):
        report.objects += 1
        if isinstance(proof, IntegrityError):
            report.found(proof.object_name, proof.message)
    records: list[Snapshot] = []
    with ChunkReader(repository) as reader:
        for record in repository.snapshots():
            report.objects += 1
            if isinstance(record, IntegrityError):
                report.found(record.object_name, record.message)
                continue
            for target in stored_trees(record):
                _check_target(report, reader, structure, record, target)
            records.append(outline(record))
    _check_absence(repository, report, records, remembered)
    _check_unfinished(repository, report)
    _check_shadowed(repository, report)
    return report


def _check_absence(
    repository: Repository, report: Report, records: Sequence[Snapshot], remembered: Sequence[Expected]
) -> None:
    """Find records that are gone although no note says why. The notes are read after the records: they come first."""
    notes = read_forgotten(repository)
    for error in notes.damaged:
        report.found(error.object_name, error.message)
    damaged = {name for name in report.findings if name.startswith(SNAPSHOT_PREFIX)}
    for each in missing(records, notes, remembered):
        if each.key not in damaged:
            report.found(each.key, each.problem)


def describe_file(target: Target, member: Member) -> str:
    return f"{target.title}: {display_path(member.path)}"


def _check_keys(repository: Repository, report: Report) -> set[str]:
    """Return the places of keys that have a whole wrap."""
    whole = set()
    for info in repository.storage.list("keys/"):
        kind = kind_of(info.key)
        if kind is None:
            continue
        report.objects += 1
        try:
            body = repository.storage.get(info.key, limit=SEALED[kind].stored if kind in SEALED else WRAP)
            report.bytes += len(body)
            check_content_name(info.key, body)
        except ObjectNotFound:
            continue  # a prune deleted it since the listing
        except IntegrityError as error:
            report.found(info.key, error.message)
            continue
        if kind == "wrap" and holds_another_key(repository, info.key):
            report.notes[info.key] = "holds another key than its place says: somebody put it there; it serves nobody"
        else:
            whole.add(info.key.rpartition("/")[0] + "/")
    return whole


def _check_packs(repository: Repository, report: Report, read: PacksRead) -> dict[bytes, Held]:
    """Return the packs whose directory is whole. One that is gone is missed only if something needs it."""
    stored = stored_packs(repository.storage)
    report.objects += len(stored)
    packs = {pack_id: pack for pack_id, pack in read.whole.items() if pack_id in stored}
    known = packs.keys() | {pack_id_of(error.object_name) for error in read.damaged}
    unread = {pack_id: size for pack_id, size in stored.items() if pack_id not in known}
    for pack_id, found in read_directories(repository.storage, repository.objects, unread):
        if isinstance(found, IntegrityError):
            report.found(pack_key(pack_id), found.message)
        else:
            packs[pack_id] = held(stored[pack_id], encode_entries(found))
    return packs


def _check_index(repository: Repository, report: Report, packs: dict[bytes, Held], whole_keys: set[str]) -> _Structure:
    """Read the index, and compare it with the packs that are there."""
    structure = _Structure(Index(), Index(), {}, [], {})
    objects, damaged = read_index(repository.storage, repository.objects)
    report.objects += len(objects) + len(damaged)
    for error in damaged:
        report.found(error.object_name, error.message)
        structure.damaged_index.append(error.object_name)
    lying: list[tuple[str, PackedListing]] = []
    for key, pack in ((key, pack) for key, packs_listed in objects.items() for pack in packs_listed):
        report.bytes += len(pack.entries)
        if pack.pack_id not in packs:
            # A missing pack is damage only if something needs it: a fenced run lists packs that a prune has deleted.
            structure.lost.add(pack)
        elif packs[pack.pack_id] == held(pack.size, pack.entries):
            structure.whole.add(pack)
        else:
            lying.append((key, pack))
    _check_lies(repository, report, structure, lying)
    listed = structure.whole.pack_sizes.keys() | structure.lost.pack_sizes.keys()
    report.index_is_wrong |= bool(damaged) or not packs.keys() <= listed
    for key_id in {*structure.whole.key_ids(), *structure.lost.key_ids()} - {TREE_KEY_ID}:
        prefix = data_key_prefix(key_id)
        if prefix not in whole_keys:
            wraps = [key for key in report.findings if key.startswith(prefix)]
            structure.lost_keys[key_id] = wraps[0] if wraps else prefix
    return structure


def _check_lies(
    repository: Repository, report: Report, structure: _Structure, lying: list[tuple[str, PackedListing]]
) -> None:
    """Tell an index object that lists a pack otherwise than the pack itself from a pack that is not the one it was."""
    alone = {pack.pack_id for _, pack in lying} - structure.whole.pack_sizes.keys()
    wrong = {
        pack.pack_id: pack.damage
        for pack in read_packs(repository.storage, repository.objects, sorted(alone))
        if pack.damage is not None
    }
    for key, pack in lying:
        damage = wrong.get(pack.pack_id)
        if damage is not None:
            report.found(damage.object_name, damage.message)
            structure.lost.add(pack)
            continue
        report.found(key, f"lists {pack_key(pack.pack_id)} otherwise than that pack's own directory does")
        report.index_is_wrong = True
        structure.invented.update(dict.fromkeys(pack.chunk_ids(), key))
        own = repository.directories.of(pack.pack_id)
        if own is not None:
            structure.whole.add(own)  # readers go by it
    for chunk_id in structure.invented:
        if chunk_id not in structure.whole:
            for pack in repository.directories.holders(chunk_id):  # readers look there too
                structure.whole.add_unknown(pack)


def _check_unfinished(repository: Repository, report: Report) -> None:
    """Read sessions and marks, which nothing that is stored depends on, and note what is not part of the repository."""
    for info in repository.storage.list(""):
        kind = kind_of(info.key)
        if kind is None:
            report.notes[info.key] = "not part of the repository"
        if kind not in ("session", "mark"):
            continue
        try:
            report.notes[info.key] = f"{_unfinished(repository, info.key)}; the next prune finds out"
            report.objects += 1
        except ObjectNotFound:
            continue  # ended since the listing
        except IntegrityError as error:
            report.found(info.key, error.message)
        except RepositoryError:
            raise
        except DrkitError as error:  # of a newer drkit
            report.notes[info.key] = error.message
    for path in repository.storage.foreign_files():
        report.notes[path] = "not part of the repository"


def _unfinished(repository: Repository, key: str) -> str:
    """Tell what left a session or mark. Raises IntegrityError, ObjectNotFound."""
    run_id = key.split("/")[1]
    if key.startswith("marks/"):
        count = len(get_mark(repository.storage, repository.objects, key))
        condemned = counted(count, "object")
        return f"prune {run_id} has condemned {condemned} and has not ended: it is at work, or was cut short"
    session = get_session(repository.storage, repository.objects, key)
    what = "prune" if session.prune else "run"
    return f"{what} {run_id} of host {session.host} has not ended: it is at work, or was cut short"


def _check_shadowed(repository: Repository, report: Report) -> None:
    """Report objects that somebody hid or wrote over in a store that keeps versions."""
    for key, how in repository.storage.shadowed_objects():
        if not key.startswith(LOCKED_PREFIXES):
            continue
        # Credentials that may only hide objects leave delete markers too, but never over locked objects.
        if repository.storage.traits.locks or how.startswith("written over"):
            report.found(key, f"{how}; --as-of with an earlier time reads what was there")
        else:
            report.notes[key] = how


def _check_target(
    report: Report, reader: ChunkReader, structure: _Structure, snapshot: Snapshot, target: Target
) -> None:
    """Read a target's tree, and check that every extent lies within a chunk whose pack is whole."""
    problems: dict[bytes, tuple[str, str] | None] = {}
    name = target.title
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
