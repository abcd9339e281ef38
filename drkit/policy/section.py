"""What every section of a policy is: a mapping with known keys, which nothing changes once it is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from drkit.policy.problem import Key, Problem


class Section(BaseModel):
    """A subclass declares keys. Its docstring and the keys' descriptions are the JSON Schema's, and the messages'."""

    # Validators are built when the first policy is loaded, all at once: one by one on import takes 10 ms longer.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    @classmethod
    def problems(cls, given: Mapping[str, Any], where: Key) -> Iterator[Problem]:
        """What is wrong between keys; what is wrong with one key, its type finds.

        `given` is what the file says, not a model: a mistake in one key must not hide these. So its values may have any
        type, and what has the wrong one is passed over.
        """
        yield from ()
