"""The README and the command line say the same; every verb and option explains itself."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from drkit import errors
from drkit.cli.main import build_app
from drkit.policy import load_policy

PROJECT = Path(__file__).resolve().parent.parent
README = (PROJECT / "README.md").read_text(encoding="utf-8")
COMMON = {"--json", "--quiet", "--verbose", "--log-format"}


def verbs() -> dict[str, Any]:
    """Every command by its words: `backup`, `policy check`."""

    def walk(command: Any, words: str) -> Iterator[tuple[str, Any]]:
        if hasattr(command, "commands"):
            for name, each in command.commands.items():
                yield from walk(each, f"{words} {name}".strip())
        else:
            yield words, command

    return dict(walk(typer.main.get_command(build_app()), ""))


VERBS = verbs()


def options(command: Any) -> set[str]:
    return {name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_and_every_option_has_a_help_text(verb: str) -> None:
    command = VERBS[verb]
    assert command.help
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert parameter.help, f"{verb} {parameter.opts}"


@pytest.mark.parametrize("word", sorted({verb.split()[0] for verb in VERBS}))
def test_a_verb_is_built_alone_and_the_same(word: str) -> None:
    alone = typer.main.get_command(build_app(word)).commands  # type: ignore[attr-defined]
    assert list(alone) == [word]
    for verb in VERBS:
        if verb == word:
            assert options(alone[word]) == options(VERBS[verb])
        elif verb.startswith(f"{word} "):
            assert options(alone[word].commands[verb.split()[1]]) == options(VERBS[verb])


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_the_common_options(verb: str) -> None:
    assert options(VERBS[verb]) >= COMMON


def commands_shown() -> list[list[str]]:
    """What the README tells to type: lines of code blocks that start with drkit, after a prompt or not."""
    found = []
    for block in re.findall(r"^```\w*\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            match = re.match(r"^(?:[$#] )?(?:sudo )?((?:[A-Z_]+=\S+ )*)drkit (?!: )(.*)$", line)
            if match:
                found.append(shlex.split(match[2], comments=True))
    return [words for words in found if words]


def test_the_readme_shows_commands() -> None:
    assert len(commands_shown()) >= 4


@pytest.mark.parametrize("words", commands_shown(), ids=" ".join)
def test_a_command_in_the_readme_exists_with_its_options(words: list[str]) -> None:
    if words[0].startswith("--"):
        return
    verb = " ".join(words[:2]) if " ".join(words[:2]) in VERBS else words[0]
    assert verb in VERBS
    known = options(VERBS[verb]) | {"--help"}
    for word in words[len(verb.split()) :]:
        if re.match(r"--?[a-zA-Z]", word):
            assert word.partition("=")[0] in known, word


def test_a_verb_in_the_readme_exists() -> None:
    for verb in re.findall(r"`drkit ([a-z]+)", README):
        assert [name for name in VERBS if name.split()[0] == verb], verb


def exit_codes() -> dict[int, set[str]]:
    """The classes of drkit/errors.py by their code, without those that never leave drkit."""
    found: dict[int, set[str]] = {}
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.DrkitError):
            found.setdefault(kind.exit_code, set()).add(name)
    return found


def table_of_exit_codes() -> dict[int, str]:
    """Rows of the README's table whose first cell is a number: `| 13 | ... |`."""
    rows = re.findall(r"^\| *`?([\d/ ,]+)`? *\|(.*)\|\s*$", README, re.MULTILINE)
    return {int(code): text for codes, text in rows for code in re.findall(r"\d+", codes)}


def test_the_readme_lists_every_exit_code() -> None:
    table = table_of_exit_codes()
    assert set(table) >= {0, *exit_codes(), 130, 143}, "a table `| code | meaning |` of every exit code"


def test_the_exit_codes_in_the_docstring_are_those_of_the_classes() -> None:
    drawn = dict(re.findall(r"^ +[│├└─ ]*(\w+) +(\d+)  ", errors.__doc__ or "", re.MULTILINE))
    assert {name: int(code) for name, code in drawn.items()} == {
        name: code for code, names in exit_codes().items() for name in names
    }


@pytest.mark.parametrize("path", sorted((PROJECT / "policies").glob("*.yaml")), ids=lambda path: path.name)
def test_the_policies_load(path: Path) -> None:
    policy = load_policy(path)
    assert policy.protect.volumes or policy.protect.images


def test_messages_name_verbs_that_exist() -> None:
    """A hint is the next thing to type: a verb that is not there yet is no help."""
    found = []
    for path in sorted((PROJECT / "drkit").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named = re.findall(r"(?:(?:[Rr]un|[Ss]ee|with|then) |`)drkit ([a-z]+)", node.value)
                found += [(path.name, verb) for verb in named if verb not in ("as", "on")]
    assert len(found) > 20
    known = {words.split()[0] for words in VERBS}
    assert {item for item in found if item[1] not in known} == set()
