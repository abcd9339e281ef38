"""README, docs and program agree; every verb and option explains itself."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from drkit import errors
from drkit.cli.main import build_app
from drkit.policy import load_policy, parse_policy
from drkit.settings import VARIABLES
from tests.test_architecture import LAYERS, source

PROJECT = Path(__file__).resolve().parent.parent
PAGES = {
    str(path.relative_to(PROJECT)): path.read_text(encoding="utf-8")
    for path in [PROJECT / "README.md", PROJECT / "CHANGELOG.md", *sorted((PROJECT / "docs").glob("*.md"))]
}
README = PAGES["README.md"]
COMMON = {"--json", "--quiet", "--verbose", "--log-format"}


def section(page: str, heading: str) -> str:
    """A page's text below a heading, up to the next one of the same level."""
    _, found, rest = PAGES[page].partition(f"\n## {heading}\n")
    assert found, f"{page} has no section '{heading}'"
    return rest.partition("\n## ")[0]


def blocks(text: str, language: str = r"\w*") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def spans(text: str) -> list[str]:
    """What stands in backticks, outside code blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def table(text: str) -> list[list[str]]:
    """The cells of all table rows in a text but the lines below headers."""
    rows = [line[1:-1].split("|") for line in re.findall(r"^\|.*\|$", text, re.MULTILINE)]
    return [[cell.strip() for cell in row] for row in rows if not set("".join(row)) <= set("- ")]


# --- verbs ------------------------------------------------------------------------------------------------------------


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


def test_the_table_of_verbs_is_complete() -> None:
    listed = [verb for row in table(section("docs/commands.md", "All verbs")) for verb in spans(row[0])]
    assert sorted(listed) == sorted(VERBS)


def test_the_readme_says_what_is_not_there_yet() -> None:
    for verb, said in {"recover": "recover a", "drill": "run drills", "schedule": "schedule itself"}.items():
        assert (verb in VERBS) != (said in " ".join(README.split())), f"{verb}: the status in README.md is not true"


# --- commands ---------------------------------------------------------------------------------------------------------


def words_of(line: str) -> list[str]:
    """The words of a command, up to whatever separates or redirects commands in a shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if set(word) <= set("();<>|&"):
            if word in "<>" and words[-1].isdigit():  # the number of a descriptor
                words.pop()
            break
        words.append(word)
    return words


def commands_shown() -> list[tuple[str, str]]:
    """What a page tells to type: the lines of code blocks that call drkit, after a prompt or not."""
    found = []
    for page, text in PAGES.items():
        for block in blocks(text):
            for line in block.replace("\\\n", " ").splitlines():
                if match := re.match(r"^(?:[$#] )?(?:sudo )?(?:[A-Z_]+=\S+ )*drkit (?!: )(.*)$", line):
                    found.append((page, match[1]))
    return found


def commands_named() -> list[tuple[str, str]]:
    """What a page or an example names in backticks, with or without all that the command needs."""
    examples = [*(PROJECT / "policies").glob("*.yaml"), PROJECT / "drkit/policy/example.yaml"]
    texts = PAGES | {str(path.relative_to(PROJECT)): path.read_text(encoding="utf-8") for path in sorted(examples)}
    return [
        (page, match[1])
        for page, text in texts.items()
        for span in spans(text)
        if (match := re.match(r"(?:[A-Z_]+=\S+ )*drkit ([a-z].*)", span))
    ]


def problem(line: str) -> str:
    """What the command line objects to in a command; empty where it would run it."""
    words = words_of(line)
    if words[0].startswith("--"):
        return ""
    verb = " ".join(words[:2]) if " ".join(words[:2]) in VERBS else words[0]
    if verb not in VERBS:
        return f"there is no verb {words[0]}"
    try:
        VERBS[verb].make_context(f"drkit {verb}", words[len(verb.split()) :])
    except typer.Exit:  # --help
        return ""
    except typer.BadParameter.__mro__[1] as error:
        return str(error.format_message())
    return ""


def test_pages_show_commands() -> None:
    assert len(commands_shown()) >= 15
    assert len([page for page, _ in commands_shown() if page == "README.md"]) >= 5
    assert len(commands_named()) >= 60


@pytest.mark.parametrize(("page", "line"), commands_shown())
def test_a_command_that_a_page_shows_would_run(page: str, line: str) -> None:
    assert problem(line) == ""


@pytest.mark.parametrize(("page", "line"), commands_named())
def test_a_command_that_a_page_names_exists_with_its_options(page: str, line: str) -> None:
    """`drkit key add|remove` names two verbs; an option or a verb may be named without the value that it needs."""
    words = words_of(line.replace("|", " OR ").strip())
    groups = {verb.split()[0] for verb in VERBS if " " in verb}
    if words[0] in groups and "OR" in words:
        assert {f"{words[0]} {word}" for word in words[1:] if word != "OR"} <= set(VERBS)
    elif words not in [[group] for group in groups]:
        assert not (said := problem(line)) or "Missing" in said or "requires an argument" in said, said


@pytest.mark.parametrize("page", PAGES)
def test_an_option_that_a_page_names_exists(page: str) -> None:
    known = {name for command in VERBS.values() for name in options(command)} | {"--help", "--debug"}
    known |= {"--clean", "--s3"}  # of scripts/quickstart and benchmarks/run
    named = {span.split()[0] for span in spans(PAGES[page]) if span.startswith("-")}
    assert named - known == set()


@pytest.mark.parametrize("line", ["backup --volume x", "verify --latest", "rescue", "restore", "key", "prune --grace"])
def test_a_wrong_command_is_seen(line: str) -> None:
    assert problem(line)


def test_no_page_lets_a_failed_backup_keep_prune_from_running() -> None:
    for page, text in PAGES.items():
        assert not [block for block in blocks(text) if re.search(r"drkit backup.*&&.*drkit prune", block)], page


@pytest.mark.parametrize(
    ("backup", "prune", "exits", "runs"),
    [
        (0, 0, 0, ["backup", "prune"]),
        (3, 0, 3, ["backup", "prune"]),  # a target failed, or the mirror was out of reach
        (13, 0, 13, ["backup", "prune"]),  # the disk was full
        (0, 13, 13, ["backup", "prune"]),
        (3, 20, 20, ["backup", "prune"]),
        (15, 1, 15, ["backup", "prune"]),
        (20, 0, 20, ["backup"]),
    ],
)
def test_the_nightly_script_prunes_and_tells_the_worse_code(
    tmp_path: Path, backup: int, prune: int, exits: int, runs: list[str]
) -> None:
    [script] = blocks(section("docs/operating.md", "Every night"), "sh")
    stub = f"""#!/bin/sh
        echo "$1" >>{tmp_path}/log
        case $1 in backup) exit {backup} ;; prune) exit {prune} ;; esac
        exit 99
    """
    for name, text in (("drkit", stub), ("nightly", script)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    done = subprocess.run([tmp_path / "nightly"], env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert done.returncode == exits
    assert (tmp_path / "log").read_text().split() == runs


def test_the_policy_on_the_page_loads() -> None:
    [text] = blocks(section("docs/operating.md", "The policy"), "yaml")
    assert parse_policy(text, PROJECT / "policy.yaml").retention


# --- exit codes -------------------------------------------------------------------------------------------------------


INTERNAL = {"ObjectNotFound", "ObjectExists"}
"""They never leave drkit."""


def exit_codes() -> dict[int, set[str]]:
    """The classes of drkit/errors.py by their code, without those that never leave drkit."""
    found: dict[int, set[str]] = {}
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.DrkitError):
            found.setdefault(kind.exit_code, set()).add(name)
    return found


def test_the_table_of_exit_codes_is_that_of_the_classes() -> None:
    listed = {
        code.strip(): set(spans(row[1])) for row in table(PAGES["docs/exit-codes.md"])[1:] for code in row[0].split(",")
    }
    expected = {str(code): names - INTERNAL for code, names in exit_codes().items()}
    assert listed == expected | {number: set() for number in ("0", "129", "130", "131", "143")}


def test_the_exit_codes_in_the_docstring_are_those_of_the_classes() -> None:
    drawn = dict(re.findall(r"^ +[│├└─ ]*(\w+) +(\d+)  ", errors.__doc__ or "", re.MULTILINE))
    assert {name: int(code) for name, code in drawn.items()} == {
        name: code for code, names in exit_codes().items() for name in names
    }


# --- environment ------------------------------------------------------------------------------------------------------


def variables_read() -> set[str]:
    """The environment variables that drkit looks up, by any mapping that is called an environment."""
    found = set()
    for tree in source().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                if node.func.attr in ("get", "getenv") and re.search(r"\b(environ|os)$", ast.unparse(node.func.value)):
                    found.add(node.args[0])
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "directory_from":
                found |= {*node.args[1:], *(keyword.value for keyword in node.keywords)}
            elif isinstance(node, ast.Subscript) and re.search(r"\benviron$", ast.unparse(node.value)):
                found.add(node.slice)
    return {node.value for node in found if isinstance(node, ast.Constant)}


def variables_of_scripts() -> set[str]:
    """Those that a script may be given, because it has a default for them."""
    scripts = [path for path in (PROJECT / "scripts").iterdir() if path.is_file()]
    return {name for path in scripts for name in re.findall(r"\$\{(DRKIT_\w+):-", path.read_text(encoding="utf-8"))}


def test_the_table_of_variables_is_what_the_code_reads() -> None:
    program, _, scripts = PAGES["docs/environment.md"].partition("\n## For the scripts\n")
    read = variables_read()
    assert len(read) > 12
    assert {name for row in table(program)[1:] for name in spans(row[0])} == {
        name for name in read if name.startswith("DRKIT_")
    }
    assert {name for name in read if name not in program} == set()
    assert {name for row in table(scripts)[1:] for name in spans(row[0])} == variables_of_scripts()
    assert {name for name in read if name.startswith("DRKIT_")} == VARIABLES


def test_no_page_and_no_message_names_a_variable_that_nothing_reads() -> None:
    known = variables_read() | variables_of_scripts()
    texts = [*PAGES.values(), *(path.read_text(encoding="utf-8") for path in PROJECT.glob("drkit/**/*.py"))]
    assert {name for text in texts for name in re.findall(r"\bDRKIT_[A-Z_]+\b", text)} - known == set()


# --- layout -----------------------------------------------------------------------------------------------------------


def layout() -> str:
    """The packages of drkit and the modules beside them, by layers, each with the first line of its docstring."""

    def entries(module: str, depth: int) -> Iterator[tuple[str, str]]:
        package = PROJECT.joinpath(*module.split("."))
        name = module.rpartition(".")[2] + ("/" if package.is_dir() else ".py")
        tree = source()[f"{module}.__init__" if package.is_dir() else module]
        yield "  " * depth + name, (ast.get_docstring(tree) or "").splitlines()[0]
        for child in sorted(package.glob("*/__init__.py")):
            yield from entries(f"{module}.{child.parent.name}", depth + 1)

    known = {module.split(".")[1] for module in source() if not module.startswith("drkit.__")}
    groups = [[entry for name in sorted(layer & known) for entry in entries(f"drkit.{name}", 0)] for layer in LAYERS]
    width = max(len(name) for group in groups for name, _ in group) + 2
    return "\n\n".join("\n".join(f"{name:{width}}{said}" for name, said in group) for group in groups if group) + "\n"


def test_the_layout_is_that_of_the_packages() -> None:
    shown = blocks(section("docs/layout.md", "Inside drkit"))[0]
    assert shown == layout(), "paste into docs/layout.md what python -m tests.test_docs prints"


@pytest.mark.parametrize("page", PAGES)
def test_a_path_on_a_page_exists(page: str) -> None:
    """In docs/contributing.md a row in italics begins with a path that does not exist yet."""
    planned = {spans(row[1])[0] for row in table(PAGES[page]) if row[0].startswith("*")}
    pattern = r"(?<![\w/.~-])(?:drkit|scripts|benchmarks|tests|docs|policies)/[\w/.-]*[\w/]"
    named = set(re.findall(pattern, PAGES[page]))
    assert {path for path in named if not (PROJECT / path).exists()} == planned


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", PAGES[page]):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (PROJECT / page).parent / path if path else PROJECT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


def test_every_page_is_linked_from_the_readme() -> None:
    assert {page for page in PAGES if page != "README.md"} - set(re.findall(r"\]\(([^)\s#]+)", README)) == set()


# --- style and truth --------------------------------------------------------------------------------------------------


def test_the_readme_takes_two_minutes_to_read() -> None:
    assert len(README.split()) <= 700
    assert len(PAGES["docs/contributing.md"].split()) <= 500, "more than a page"


def test_the_page_on_retention_tells_whether_proofs_count() -> None:
    passed = any(
        isinstance(node, ast.keyword) and node.arg == "proven"
        for module, tree in source().items()
        if module.startswith("drkit.operations.")
        for node in ast.walk(tree)
    )
    assert passed != ("Retention does not know about proofs yet." in PAGES["docs/operating.md"])


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


if __name__ == "__main__":
    print(layout(), end="")
