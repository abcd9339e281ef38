"""The length of a pax record counts itself, also where that adds a digit."""

from __future__ import annotations

from drkit.engine.helper.pax import pax_record
from drkit.pipeline.tar.frames import pax_records


def test_a_record_of_any_length_can_be_read_back() -> None:
    for size in range(1200):
        record = pax_record(b"path", b"x" * size)
        assert pax_records(record) == {b"path": b"x" * size}
        assert int(record.split(b" ", 1)[0]) == len(record)
