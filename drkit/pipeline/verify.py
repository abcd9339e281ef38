"""Reading members back out of a repository, and comparing them with the digests in their trees."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, tee

from drkit.errors import CaptureFailed, IntegrityError
from drkit.events import Events
from drkit.pipeline.stream import MemberStream, iterator_readinto, watched
from drkit.pipeline.tar.frames import END_OF_ARCHIVE
from drkit.repository.check import Report, describe_file
from drkit.repository.format.snapshot import Snapshot, Target, stored_trees
from drkit.repository.format.tree import Member
from drkit.repository.reader import ChunkReader


class MemberVerifier:
    """Verifies the members of one snapshot after another, each distinct member once.

    Every member must have its recorded digest, and all members of a tree must make up a tar stream. `report` names what
    is wrong. Remembers 60 bytes for each distinct member.
    """

    def __init__(self, reader: ChunkReader, member_key: bytes, events: Events) -> None:
        self._reader = reader
        self._member_key = member_key
        self._events = events
        self._verified: set[int] = set()
        self.report = Report()

    def verify(self, snapshot: Snapshot) -> None:
        """Read all trees and data of a snapshot, except members that were verified before."""
        for target in stored_trees(snapshot):
            self._verify_target(snapshot, target)

    def _verify_target(self, snapshot: Snapshot, target: Target) -> None:
        """Verify members in one stream; if that fails, one by one, so that each bad file is named."""
        passed: set[int] = set()
        try:
            for member, digest in self._digests(self._unverified(target), "verify"):
                if digest != member.digest:
                    break
                passed.add(_fingerprint(member))
            else:
                self._verified |= passed
                return
            members = list(self._unverified(target))
        except IntegrityError as error:
            try:
                members = list(self._unverified(target))
            except IntegrityError:  # the tree itself cannot be read, so no file of the target can be either
                self._found(error, snapshot, target.title)
                return
        for member in members:
            try:
                found = [digest for _, digest in self._digests([member])]
            except IntegrityError as error:
                self._found(error, snapshot, describe_file(target, member))
                continue
            if found != [member.digest]:
                finding = self.report.found(
                    f"snapshots/{snapshot.id}", "holds members that do not have their recorded digest"
                )
                finding.hits(snapshot, describe_file(target, member))

    def _unverified(self, target: Target) -> Iterator[Member]:
        return (member for member in self._reader.members(target) if _fingerprint(member) not in self._verified)

    def _found(self, error: IntegrityError, snapshot: Snapshot, file: str) -> None:
        self.report.found(error.object_name or error.message, error.message).hits(snapshot, file)

    def _digests(self, members: Iterable[Member], task: str | None = None) -> Iterator[tuple[Member, bytes]]:
        """Yield members with the digest of their stored bytes. Raises IntegrityError when they cannot be read."""
        expected, read_ahead = tee(members)
        readinto = iterator_readinto(chain(self._reader.extents(read_ahead), [END_OF_ARCHIVE]))
        if task is not None:
            readinto = watched(readinto, lambda count: self._events.progress(task, count))
        stream = MemberStream(readinto, self._member_key)
        try:
            for item in stream:  # to its end, which alone tells whether the stream was whole
                member = next(expected, None)
                if member is None:
                    raise CaptureFailed("the stream has more members than the tree")
                yield member, item.digest
            if not stream.ended or next(expected, None) is not None:
                raise CaptureFailed("the stream ends too early")
        except CaptureFailed as error:
            raise IntegrityError(
                f"a tree's members do not make up a tar stream: {error.message}", hint="Run drkit check."
            ) from None


def _fingerprint(member: Member) -> int:
    return hash((member.digest, member.extents))
