"""Every option with a value, of every verb, given twice."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from drkit.cli.main import build_app
from drkit.errors import UsageError

RUNNER = CliRunner()
APP = build_app()


@pytest.fixture(autouse=True)
def logger() -> Iterator[None]:
    """drkit sets its logger up for a process of its own; later tests use the one that was there."""
    log = logging.getLogger("drkit")
    before = log.handlers[:], log.level, log.propagate
    yield
    log.handlers[:], log.level, log.propagate = before


def options(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, inner in getattr(command, "commands", {}).items():
        yield from options(inner, (*words, name))
    if not hasattr(command, "commands"):
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.is_flag:
                yield words, parameter


ALL = list(options(typer.main.get_command(APP)))


def test_there_are_many() -> None:
    assert len(ALL) > 100
    assert sum(parameter.multiple for _, parameter in ALL) >= 2


def run(words: tuple[str, ...], *arguments: str) -> Exception | None:
    result = RUNNER.invoke(APP, [*words, *arguments], standalone_mode=False)
    return result.exception if isinstance(result.exception, Exception) else None


@pytest.mark.parametrize(
    ("words", "option"),
    [(words, option) for words, option in ALL if not option.multiple],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value.opts[0],
)
def test_an_option_that_takes_one_value_is_refused_when_given_twice(words: tuple[str, ...], option: Any) -> None:
    for first, second in ((option.opts[0], option.opts[-1]), (f"{option.opts[0]}=x", option.opts[-1])):
        given = [first, "x"] if "=" not in first else [first]
        error = run(words, *given, second, "x")
        assert isinstance(error, UsageError), (words, error)
        assert error.exit_code == 2
        assert f"{option.opts[0]} is given 2 times" in error.message


def test_a_repeatable_option_and_a_flag_are_taken_twice() -> None:
    given = ("--escrow-recipient", "a", "--escrow-recipient", "b", "--json", "--json")
    error = run(("init",), *given, "--policy", "/nonexistent")
    assert "/nonexistent" in str(error)


def test_a_value_that_looks_like_the_option_is_a_value() -> None:
    assert "cannot read policy --policy" in str(run(("snapshots",), "--policy", "--policy"))
