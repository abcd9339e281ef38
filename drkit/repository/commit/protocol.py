"""The order in which runs and prunes change the storage. The code executes these lists; a model check explores them.

No decision depends on a clock. A run opens its session, then reads marks; a prune stores its mark, then lists sessions:
at least one of the two sees the other. Whoever stores packs (a prune too, which moves chunks) finishes by creating the
one key `snapshots/<its id>`; a prune that must get past a session creates that key first. Whatever is stored is seen
before the next step: packs in one listing, all else one by one (storage/acknowledged.py). See FORMAT.md, section 10.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum


class Step(StrEnum):
    """What a run or a prune does in one go. Their classes map each step to a method."""

    PLAN_PRUNE = "plan_prune"
    OPEN_SESSION = "open_session"
    STORE_MARK = "store_mark"
    LIST_SESSIONS = "list_sessions"
    SETTLE_SESSIONS = "settle_sessions"
    """Wait until each of them has ended, or fence it."""
    FORGET = "forget"
    WAIT_GRACE = "wait_grace"
    READ_MARKS = "read_marks"
    READ_SNAPSHOTS = "read_snapshots"
    READ_INDEX = "read_index"
    STORE_PACKS = "store_packs"
    STORE_INDEX = "store_index"
    LIST_PACKS = "list_packs"
    CREATE_RECORD = "create_record"
    REPLACE_INDEX = "replace_index"
    DELETE_PACKS = "delete_packs"
    DELETE_KEYS = "delete_keys"
    DELETE_MARKS = "delete_marks"
    DELETE_RECORD = "delete_record"
    CLOSE_SESSION = "close_session"


OPENING = (Step.OPEN_SESSION, Step.READ_MARKS, Step.READ_INDEX)
STORING = (Step.STORE_PACKS, Step.STORE_INDEX, Step.LIST_PACKS, Step.CREATE_RECORD)

BACKUP = (*OPENING, *STORING, Step.CLOSE_SESSION)
"""Also the order of a copy, and of anything else that adds chunks."""

PRUNE = (
    Step.PLAN_PRUNE,
    Step.OPEN_SESSION,
    Step.STORE_MARK,
    Step.LIST_SESSIONS,
    Step.SETTLE_SESSIONS,
    Step.FORGET,
    Step.WAIT_GRACE,
    Step.READ_MARKS,
    Step.READ_SNAPSHOTS,
    Step.READ_INDEX,  # after the snapshots: it then holds all that they refer to
    *STORING,  # of the chunks that are still needed in packs that go
    Step.REPLACE_INDEX,
    Step.DELETE_PACKS,
    Step.DELETE_KEYS,
    Step.DELETE_MARKS,
    Step.DELETE_RECORD,
    Step.CLOSE_SESSION,
)

Actions = Mapping[Step, Callable[[], None]]


def perform(actions: Actions, steps: Sequence[Step]) -> None:
    """Take the steps in order, each by the method that `actions` names for it."""
    for step in steps:
        actions[step]()
