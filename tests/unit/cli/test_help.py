"""Summaries: the same wherever they stand, and each on one line."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from drkit.cli.main import _GROUPS, _VERBS, build_app

RUNNER = CliRunner()


def helps() -> Iterator[tuple[str, str]]:
    yield "", RUNNER.invoke(build_app(outline=True), ["--help"]).output
    for group in _GROUPS:
        yield group, RUNNER.invoke(build_app(group), [group, "--help"]).output


@pytest.mark.parametrize(("word", "text"), helps(), ids=lambda value: value if " " not in value else "")
def test_every_summary_fits_on_its_line(word: str, text: str) -> None:
    _, heading, summaries = text.partition("Commands:")
    assert heading
    assert "..." not in summaries


def test_the_outline_has_the_summaries_of_the_verbs() -> None:
    """The table in main.py repeats what the functions say, so that the root help need not load them."""

    def summaries(app: typer.Typer) -> dict[str, Any]:
        commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
        return {name: command.get_short_help_str(200) for name, command in commands.items()}

    assert summaries(build_app(outline=True)) == summaries(build_app())
    assert list(summaries(build_app())) == [*_VERBS, *_GROUPS]


def test_a_docstring_begins_with_the_summary() -> None:
    commands = typer.main.get_command(build_app()).commands  # type: ignore[attr-defined]
    for verb, summary in _VERBS.items():
        assert inspect.cleandoc(commands[verb].help or "").splitlines()[0] == summary
