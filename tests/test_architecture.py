"""The structure that DESIGN promises, read from the source with `ast`: layers, circles, owners, clocks, sizes."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent

# What stands on one line does not know of each other; every line may use those above it.
LAYERS: list[set[str]] = [
    {"errors", "literal", "tuning", "__init__"},
    {"events", "settings"},
    {"policy", "storage"},
    {"engine", "repository", "schedule", "notify", "metrics"},
    {"access", "host", "catalog"},
    {"pipeline"},
    {"targets", "quiesce", "report"},
    {"drill"},
    {"operations"},
    {"cli"},
    {"__main__"},
]
RANK = {layer: rank for rank, layers in enumerate(LAYERS) for layer in layers}

# The parts of drkit.repository: each may import those above it. The modules that are not named stand together where
# the empty set is, and may import each other.
REPOSITORY_ORDER: list[set[str]] = [
    {"format"},
    {"keys"},
    {"commit"},
    set(),
    {"holders"},
    {"mirror", "prune"},
    {"check", "repair"},
]

# Third-party packages, each with the one module or package that knows it and translates its exceptions.
OWNERS = {
    "blake3": "drkit.repository.format.digest",
    "boto3": "drkit.storage.s3.client",
    "cryptography": "drkit.repository.format.sealing",
    "docker": "drkit.engine.client",
    "msgpack": "drkit.repository.format.tree",
    "pathspec": "drkit.policy.patterns",
    "pydantic": "drkit.policy.*",
    "pyfastcdc": "drkit.repository.format.chunker",
    "pyrage": "drkit.repository.keys.identity",
    "requests": "drkit.engine.client",
    "rich": "drkit.cli.*",
    "tenacity": "drkit.storage.retry",
    "typer": "drkit.cli.*",
    "yaml": "drkit.policy.load",
    "zstandard": "drkit.repository.format.compression",
}
# Packages that another one declares and whose types its own interface shows.
PART_OF = {"botocore": "boto3", "pydantic_core": "pydantic", "urllib3": "requests"}

# Parts that must not be loaded to print a help text: they take longer than everything else together.
HEAVY = {"boto3", "botocore", "cryptography", "docker", "pydantic", "pyfastcdc", "pyrage", "requests", "zstandard"}

# Modules over 400 lines, each with the reason why two would be worse.
LONG: dict[str, str] = {}
LONGEST = 400

# Each asks the machine what time it is; only the command line may, all others are told.
CLOCKS = {
    "datetime.datetime.now",
    "datetime.datetime.today",
    "datetime.datetime.utcnow",
    "datetime.date.today",
    "time.asctime",
    "time.ctime",
    "time.gmtime",
    "time.localtime",
    "time.strftime",
    "time.time",
    "time.time_ns",
    "time.clock_gettime",
    "time.clock_gettime_ns",
}
OUTPUTS = {"print", "sys.stdout", "sys.__stdout__"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts)


@cache
def source() -> dict[str, ast.Module]:
    """Every module of drkit, by name."""
    return {module_name(path): ast.parse(path.read_bytes(), path) for path in sorted(PROJECT.glob("drkit/**/*.py"))}


def imports(module: str, tree: ast.Module) -> Iterator[tuple[str, int]]:
    """The absolute names that a module imports anywhere in it, and the lines; `from a import b` gives a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".")[: -node.level]
                base = ".".join([*package, *filter(None, [node.module])])
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def layer(module: str) -> str:
    """'drkit.policy.schema' is of 'policy'; a name in drkit itself, such as drkit.__version__, is of '__init__'."""
    part = module.split(".")[1]
    return part if part in RANK else "__init__"


def layer_violations(modules: dict[str, ast.Module]) -> list[str]:
    found = []
    for module, tree in modules.items():
        mine = layer(module)
        for name, line in imports(module, tree):
            if name.split(".")[0] != "drkit" or layer(name) == mine:
                continue
            if RANK[layer(name)] >= RANK[mine]:
                found.append(f"{module}:{line} ({mine}) imports {name} ({layer(name)})")
    return found


def import_circle(modules: dict[str, ast.Module]) -> list[str]:
    """A circle of modules that import each other, if there is one: in functions and for the type checker too."""

    def module_of(name: str) -> str | None:
        while name and name not in modules and f"{name}.__init__" not in modules:
            name = name.rpartition(".")[0]
        return name if name in modules else f"{name}.__init__" if name else None

    graph = {
        module: {found for name, _ in imports(module, tree) if (found := module_of(name)) and found != module}
        for module, tree in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def repository_rank(part: str) -> int:
    return next((rank for rank, parts in enumerate(REPOSITORY_ORDER) if part in parts), REPOSITORY_ORDER.index(set()))


def repository_violations(modules: dict[str, ast.Module]) -> list[str]:
    found = []
    for module, tree in modules.items():
        if not module.startswith("drkit.repository."):
            continue
        mine = module.split(".")[2]
        for name, line in imports(module, tree):
            if not name.startswith("drkit.repository.") or (part := name.split(".")[2]) == mine:
                continue
            both_between = repository_rank(part) == repository_rank(mine) == REPOSITORY_ORDER.index(set())
            if repository_rank(part) >= repository_rank(mine) and not both_between:
                found.append(f"{module}:{line} imports {name}")
    return found


def third_party(modules: dict[str, ast.Module]) -> dict[str, set[str]]:
    """The third-party packages that are imported, each with the modules that do."""
    users: dict[str, set[str]] = defaultdict(set)
    for module, tree in modules.items():
        for name, _ in imports(module, tree):
            top = name.split(".")[0]
            if top != "drkit" and top not in sys.stdlib_module_names:
                users[PART_OF.get(top, top)].add(module)
    return dict(users)


def owner_violations(modules: dict[str, ast.Module]) -> list[str]:
    return [
        f"{user} imports {package}, which belongs to {OWNERS.get(package, 'nobody yet')}"
        for package, users in third_party(modules).items()
        for user in sorted(users)
        if not fnmatch(user, OWNERS.get(package, ""))
    ]


def bound_names(tree: ast.Module, module: str) -> dict[str, str]:
    """What the names that a module imports stand for: `from datetime import datetime as dt` binds dt."""
    bound = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                bound[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return bound


def dotted(node: ast.expr, bound: dict[str, str]) -> str:
    """The full name of an expression like `dt.now`; empty where it is no plain name."""
    if isinstance(node, ast.Name):
        return bound.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (base := dotted(node.value, bound)):
        return f"{base}.{node.attr}"
    return ""


def uses(forbidden: set[str], modules: dict[str, ast.Module]) -> list[str]:
    """Where a forbidden name is used, called or handed on, outside cli."""
    found = []
    for module, tree in modules.items():
        if layer(module) == "cli":
            continue
        bound = bound_names(tree, module)
        for node in ast.walk(tree):
            if isinstance(node, ast.Name | ast.Attribute) and dotted(node, bound) in forbidden:
                found.append(f"{module}:{node.lineno} uses {dotted(node, bound)}")
    return found


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> set[str]:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    return {
        normalized(re.split(r"[\s<>=!~;\[]", requirement, maxsplit=1)[0]) for requirement in project["dependencies"]
    }


def test_every_module_has_a_layer() -> None:
    children = {path.stem for path in (PROJECT / "drkit").iterdir() if path.is_dir() or path.suffix == ".py"}
    assert children - {"__pycache__"} <= set(RANK), "name the layer of a new module in LAYERS"


def test_imports_point_one_way() -> None:
    assert layer_violations(source()) == []


def test_no_modules_import_each_other() -> None:
    assert import_circle(source()) == []


def test_imports_within_the_repository_point_one_way() -> None:
    assert repository_violations(source()) == []


def test_a_third_party_package_has_one_owner() -> None:
    assert owner_violations(source()) == []


def test_dependencies_are_what_is_imported() -> None:
    distributions = packages_distributions()
    imported = {normalized(distributions[package][0]) for package in third_party(source())}
    assert imported | {"tzdata"} == declared()  # which zoneinfo of the standard library reads


def test_no_clock_outside_cli() -> None:
    assert uses(CLOCKS, source()) == []


def test_no_output_outside_cli() -> None:
    assert uses(OUTPUTS, source()) == []


def test_long_modules_have_a_reason() -> None:
    lengths = {module_name(path): len(path.read_text().splitlines()) for path in PROJECT.glob("drkit/**/*.py")}
    long = {module for module, length in lengths.items() if length > LONGEST}
    assert long == set(LONG), "split the module, or give its reason in LONG; a reason no longer needed goes"


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import runpy, sys\n"
        "sys.argv = ['drkit', '--help']\n"
        "try:\n    runpy.run_module('drkit', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "print('loaded:', *sorted({name.split('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
    loaded = set(done.stdout.rpartition("loaded:")[2].split())
    assert "typer" in loaded, "the list of modules is not what this test thinks"
    assert loaded & HEAVY == set()


# The checks above pass when they see nothing; these show that they see.


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("drkit.policy.x", "from drkit.storage import Storage"),
        ("drkit.policy.x", "import drkit.storage"),
        ("drkit.policy.x", "from ..repository import keys"),
        ("drkit.engine.x", "def f():\n    from drkit.repository import keys"),
        ("drkit.pipeline.x", "from drkit import cli"),
        ("drkit.errors", "from drkit import policy"),
    ],
)
def test_a_wrong_import_is_seen(module: str, text: str) -> None:
    assert len(layer_violations({module: ast.parse(text)})) == 1


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("drkit.policy.x", "from drkit.errors import PolicyError"),
        ("drkit.policy.x", "from drkit.policy.schema import Policy"),
        ("drkit.policy.x", "from . import schema"),
        ("drkit.pipeline.x", "from drkit.engine import client\nfrom drkit import __version__"),
    ],
)
def test_a_right_import_passes(module: str, text: str) -> None:
    assert layer_violations({module: ast.parse(text)}) == []


@pytest.mark.parametrize(
    "text",
    [
        "from drkit.b import x",
        "import drkit.b",
        "from drkit import b",
        "from .b import x",
        "if TYPE_CHECKING:\n    from drkit.b import x",
        "def f():\n    from drkit.b import x",
        "from drkit.c import x",
    ],
)
def test_a_circle_is_seen(text: str) -> None:
    others = {
        "drkit.b": "from drkit.c import y",
        "drkit.c.__init__": "from drkit.a import y",
        "drkit.d": "import drkit.a",
    }
    modules = {name: ast.parse(other) for name, other in others.items()}
    found = import_circle({**modules, "drkit.a": ast.parse(text)})
    assert {"drkit.a", "drkit.c.__init__"} <= set(found) <= {"drkit.a", "drkit.b", "drkit.c.__init__"}
    assert import_circle({**modules, "drkit.a": ast.parse("from drkit.errors import x")}) == []


@pytest.mark.parametrize(
    ("module", "text", "wrong"),
    [
        ("drkit.repository.format.x", "from drkit.repository.keys import wraps", 1),
        ("drkit.repository.commit.x", "from drkit.repository.index import Index", 1),
        ("drkit.repository.reader", "from drkit.repository.holders.custody import grant", 1),
        ("drkit.repository.mirror.x", "from drkit.repository.prune.plan import plan_prune", 1),
        ("drkit.repository.prune.x", "from drkit.repository.check import Report", 1),
        ("drkit.repository.reader", "from drkit.repository.index import Index", 0),
        ("drkit.repository.reader", "from drkit.repository.commit.marks import Marks", 0),
        ("drkit.repository.prune.x", "from drkit.repository.prune.plan import plan_prune", 0),
    ],
)
def test_the_order_within_the_repository_is_seen(module: str, text: str, wrong: int) -> None:
    assert len(repository_violations({module: ast.parse(text)})) == wrong


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("drkit.operations.x", "import docker.errors"),
        ("drkit.engine.x", "from urllib3 import exceptions"),
        ("drkit.pipeline.x", "import numpy"),
    ],
)
def test_a_package_away_from_its_owner_is_seen(module: str, text: str) -> None:
    assert len(owner_violations({module: ast.parse(text)})) == 1


@pytest.mark.parametrize(
    "text",
    [
        "import time\ntime.time()",
        "from time import time as clock\nclock()",
        "from datetime import datetime\nf(default_factory=datetime.now)",
        "import datetime as d\nd.datetime.now(d.timezone.utc)",
        "from datetime import date\ndate.today()",
    ],
)
def test_a_clock_is_seen(text: str) -> None:
    assert uses(CLOCKS, {"drkit.pipeline.x": ast.parse(text)})


def test_monotonic_time_is_no_clock() -> None:
    assert uses(CLOCKS, {"drkit.pipeline.x": ast.parse("import time\ntime.monotonic()\nnow.time()")}) == []


@pytest.mark.parametrize("text", ["print(1)", "import sys\nsys.stdout.write('')", "from sys import stdout\nstdout"])
def test_an_output_is_seen(text: str) -> None:
    assert uses(OUTPUTS, {"drkit.pipeline.x": ast.parse(text)})
