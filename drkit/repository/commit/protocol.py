"""The order of what runs and prunes do to the storage. The code executes these very lists; a model check explores them.

Clocks decide nothing here. A run opens its session, then reads marks; a prune stores its mark, then lists sessions: one
of the two sees the other. Whoever stores packs (also a prune, which moves chunks) ends with creating the one key
`snapshots/<its id>`; a prune that has to get past a session creates that key first. See FORMAT.md, section 10.
"""

from __future__ import annotations

from collections.abc import Sequence

OPENING = ("open_session", "read_marks", "read_index")
STORING = ("store_packs", "store_index", "list_packs", "create_record")

BACKUP = (*OPENING, *STORING, "close_session")
"""Also a copy and whatever else adds chunks: the packs hold what the index did not, or all of it again."""

PRUNE = (
    "plan_prune",
    "open_session",
    "store_mark",
    "list_sessions",
    "settle_sessions",  # each of them ends, or is fenced
    "forget",
    "wait_grace",
    "read_marks",
    "read_snapshots",
    "read_index",  # after the snapshots: it then holds all that they refer to
    *STORING,  # chunks that are still needed out of packs that go
    "replace_index",
    "delete_packs",
    "delete_keys",
    "delete_marks",
    "delete_record",
    "close_session",
)


def perform(actor: object, steps: Sequence[str]) -> None:
    """Take the steps in order; each is a method of the actor of that name with an underscore before it."""
    for step in steps:
        getattr(actor, f"_{step}")()
