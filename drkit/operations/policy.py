"""`drkit policy check` and `show`."""

from __future__ import annotations

from dataclasses import dataclass

from drkit.catalog.find import Scope, find_snapshot
from drkit.errors import DrkitError
from drkit.operations.apart import overlaps_of_policy
from drkit.operations.context import Context
from drkit.pipeline.documents import read_document
from drkit.policy import Policy, refuse_unusable
from drkit.repository.format.snapshot import Snapshot
from drkit.repository.holders.custody import require_identity
from drkit.repository.reader import ChunkReader
from drkit.storage import check_url

POLICY_DOCUMENT = "policy.yaml"
"""The name of the policy's text among the documents of a run."""


@dataclass(frozen=True)
class StoredPolicy:
    snapshot: Snapshot
    text: str


def check_policy(context: Context) -> Policy:
    """Return the policy. Raises PolicyError with every problem.

    Raises UsageError for URLs that name no storage, and for a repository in the directory of a protected volume.
    """
    policy = context.required_policy
    refuse_unusable(policy)
    check_url(policy.repository.url)
    if policy.mirror is not None:
        check_url(policy.mirror.url)
    for overlap in overlaps_of_policy(policy):
        raise overlap.error
    return policy


def show_policy(context: Context, reference: str, scope: Scope) -> StoredPolicy:
    """Return the text of the policy under which a snapshot was made. Raises AccessDenied without an identity."""
    repository = context.repository
    snapshot = find_snapshot(repository, reference, scope)
    context.warn_of_damaged_records()
    if not snapshot.documents.tree:
        if not snapshot.policy_text:  # where earlier versions kept it
            raise DrkitError(f"snapshot {snapshot.id} holds no policy", hint="Choose another: drkit snapshots.")
        return StoredPolicy(snapshot, snapshot.policy_text)
    require_identity(repository, "reading a policy")
    with ChunkReader(repository) as reader:
        text = read_document(
            reader, repository.meta.member, snapshot.documents, POLICY_DOCUMENT, of=f"snapshot {snapshot.id}"
        )
    return StoredPolicy(snapshot, text.decode("utf-8", "backslashreplace"))
