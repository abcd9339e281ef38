"""What a restore says of an image that is back without all of its names."""

from __future__ import annotations

import pytest

from drkit.operations.restore import RestoreResult
from drkit.repository.format.kinds import Kind, Status
from drkit.repository.format.snapshot import Snapshot, Target
from drkit.targets.base import Restored, RestoreOptions, RestorePlan

ID, HERE = (f"sha256:{digits * 32}" for digits in ("ab", "cd"))
PINNED = f"api@{ID}"


@pytest.mark.parametrize(
    ("unresolved", "known_as", "hint"),
    [
        ((PINNED,), "api:1", f"Run it as api:1, or pull it where its registry answers: docker pull {PINNED}."),
        ((ID,), HERE, f"Run it as {HERE}."),  # an engine with another image store gives it another id
        (("api:1", PINNED), HERE, f"Run it as {HERE}, or pull it where its registry answers: docker pull api:1."),
    ],
)
def test_it_names_what_leads_to_the_image_here(unresolved: tuple[str, ...], known_as: str, hint: str) -> None:
    target = Target(Kind.IMAGE, unresolved[0], source={"image_id": ID, "tags": []})
    snapshot = Snapshot("20260101T000000Z-00000000", "2026-01-01T00:00:00Z", "h", "p", Status.OK, [target])
    plan = RestorePlan(snapshot, target, RestoreOptions(), target.name, 1)
    error = RestoreResult(plan, Restored(target.name, 1, 1, 0.1, {}, unresolved, known_as)).error
    assert error is not None
    assert (error.exit_code, error.hint) == (3, hint)
    assert ", ".join(unresolved) in error.message
