"""Documents: small files that are data, such as the engine's descriptions of a target and the policy's text.

They are members of a tree, as files of a volume are, so `tar -x` of an export gives them back. What differs is that
their content can be foreseen but for a short secret in it, and the names of chunks and the digests of members are
deterministic under the meta key: so each holds a salt, in a record of its extended header that tar ignores.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from typing import Any

from drkit.errors import CaptureFailed, IntegrityError
from drkit.pipeline.tar.frames import BLOCK, TarFramer
from drkit.repository.format.digest import keyed_digest
from drkit.repository.format.snapshot import Documents, Target
from drkit.repository.format.tree import EXTENT, Member, TreeWriter, encode_member
from drkit.repository.reader import ChunkReader
from drkit.repository.writer import RunWriter

LARGEST = 4 * 1024 * 1024 - 4 * BLOCK
"""Bytes of a document. It must fit one chunk with its headers: only the piece that holds the salt would be salted."""


def as_json(description: Mapping[str, Any]) -> bytes:
    """Return a description as a document: always the same bytes for the same values."""
    return json.dumps(description, sort_keys=True, indent=1).encode() + b"\n"


def write_documents(writer: RunWriter, member_key: bytes, salt: bytes, documents: Mapping[str, bytes]) -> Documents:
    """Store documents by file name, each as one chunk. `salt` is unknown to whoever may not confirm a guess of them.

    Nothing new is stored where the repository has them all. Raises CaptureFailed for one that is too large.
    """
    tree = TreeWriter(writer.put_tree)
    for name, content in sorted(documents.items()):
        if len(content) > LARGEST:
            raise CaptureFailed(f"{name} has {len(content)} bytes, and a document {LARGEST} at most")
        raw = _raw_member(name, content, salt)
        extents = EXTENT.pack(writer.put_data(raw), 0, len(raw))
        stat = b"f 600 0 0 %d 0 0 0 1" % len(content)
        tree.add(encode_member(Member(name.encode(), stat, b"", b"", keyed_digest(member_key, raw), False, extents)))
    return Documents([chunk_id.hex() for chunk_id in tree.finish()])


def _raw_member(name: str, content: bytes, salt: bytes) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o600
    entry.pax_headers = {"comment": salt.hex()}
    return entry.tobuf(tarfile.PAX_FORMAT) + content + bytes(-len(content) % BLOCK)


def read_document(reader: ChunkReader, member_key: bytes, documents: Documents, name: str, *, of: str) -> bytes:
    """Return one document. `of` names for messages what it describes, such as "volume db".

    Raises IntegrityError if it is missing, too large, or not what was stored; AccessDenied without an identity.
    """
    target = Target("documents", f"of {of}", tree=documents.tree)
    member = next((member for member in reader.members(target) if member.path == name.encode()), None)
    if member is None:
        raise _damaged(name, of, "is not there")
    if member.raw_size > LARGEST + 4 * BLOCK:
        raise _damaged(name, of, f"has {member.raw_size} bytes")
    raw = b"".join(reader.extents([member]))
    if keyed_digest(member_key, raw) != member.digest:
        raise _damaged(name, of, "does not have its recorded digest")
    try:
        frame = next(TarFramer().frames(memoryview(raw), 0), None)
    except CaptureFailed:
        frame = None
    if frame is None or frame.end != len(raw):
        raise _damaged(name, of, "is not a member of a tar")
    return raw[frame.data : frame.data + frame.size]


def _damaged(name: str, of: str, problem: str) -> IntegrityError:
    return IntegrityError(f"document {name} of {of} {problem}", hint="Run drkit verify.", object_name=name)
