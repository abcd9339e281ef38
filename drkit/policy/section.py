"""What all sections of a policy have in common: a mapping of known keys, immutable once it is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from drkit.policy.problem import Key, Problem


class Section(BaseModel):
    """Subclasses declare the keys. Their docstrings and the keys' descriptions go into the JSON Schema and messages."""

    # Validators are built when the first policy is loaded, all at once: one by one on import takes 10 ms longer.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    @classmethod
    def problems(cls, given: Mapping[str, Any], where: Key) -> Iterator[Problem]:
        """Find what is wrong between the keys of this section. The type of a key finds what is wrong with it alone.

        `given` is what the file says, not a model, so that a mistake in one key does not hide these problems. Its
        values may have any type; a value of the wrong type is skipped here.
        """
        yield from ()
