"""One direction: a file imports only what stands above it, and the core nothing that talks, waits or throws dice.

The rules stand in `PACKAGES` and `PURE`. A package imports packages above it; within a package, and over all, no file
imports itself by a detour. A new package is given its place in `PACKAGES`; a breach names file, line and rule.
"""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "claude_proxy"

COMMANDS = ("serve", "run", "env", "init", "doctor", "models", "exam", "demo")
"""Loaded by their names, each alone: `serve` must not wait for what `doctor` needs. So nothing imports them."""

PACKAGES = (
    "",  # claude_proxy itself
    "errors",
    "settings",
    *(
        f"core.{name}"
        for name in (
            *("expressions", "json_text", "steps", "json_schema", "messages", "aliases", "calls", "prompt"),
            *("securechat", "reply", "http1"),
        )
    ),
    *(f"shell.{name}" for name in ("wait", "upstream", "server", "observe", "proxy")),
    "tools",
    "demo",
    "commands",
    "cli",
    "__main__",
)
"""Packages, and files that stand beside them, from the floor upwards: each may import those before it."""

PURE = frozenset(
    {
        *("__future__", "abc", "ast", "bisect", "collections", "contextlib", "copy", "dataclasses", "enum", "fnmatch"),
        *(
            "fractions",
            "functools",
            "graphlib",
            "hashlib",
            "heapq",
            "html",
            "ipaddress",
            "itertools",
            "json",
            "keyword",
            "marshal",
            "math",
            "operator",
            "re",
            "shlex",
        ),
        *("string", "struct", "textwrap", "tomllib", "types", "typing", "urllib.parse", "zlib"),
    }
)
"""The standard library's modules that compute and do nothing else. The core may import these."""

IMPURE_CALLS = frozenset({"open", "input", "print", "exec", "eval", "__import__", "breakpoint"})

STANDALONE = frozenset({"demo"})
"""Rooms that share nothing with the rest: their files import each other, and no other of the package."""

LOADED_BY_NAME = {f"{PACKAGE}.commands.{name}" for name in COMMANDS}

MAY_LOAD = {
    f"{PACKAGE}.cli": ("importlib.import_module",),
    f"{PACKAGE}.shell.observe.status_page": ("importlib.resources",),
}
"""Who may use `importlib`, and what of it."""


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_name(path): path for path in sorted((ROOT / PACKAGE).rglob("*.py"))}
ROOMS = {name for name, path in FILES.items() if path.name == "__init__.py" and name != PACKAGE}
MODULES = sorted(FILES.keys() - ROOMS)


class Import(NamedTuple):
    """One import: the line, the module, and whether it stands at the top level of the file."""

    line: int
    module: str
    at_top: bool


def imports(source: str) -> Iterator[Import]:
    """All imports of a file, those in branches and functions included; `from p import m` is one of `p.m`."""
    tree = ast.parse(source)
    inside = {
        id(node) for function in ast.walk(tree) if isinstance(function, _FUNCTIONS) for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        at_top = id(node) not in inside
        match node:
            case ast.Import(names=names):
                yield from (Import(node.lineno, alias.name, at_top) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = "." * level + (module or "")
                yield from (Import(node.lineno, f"{base}.{alias.name}", at_top) for alias in names)


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def place_of(module: str) -> int | None:
    """Where the package of a module of ours stands; None for a module that is not ours, or has no place."""
    if module.partition(".")[0] != PACKAGE:
        return None
    name = module.removeprefix(PACKAGE).removeprefix(".")
    while name and name not in PACKAGES:
        name = name.rpartition(".")[0]
    return PACKAGES.index(name) if name or module == PACKAGE else None


def module_of(imported: str) -> str | None:
    """The file of the package that an import reaches; None for one outside the package."""
    name = imported
    while name:
        if name in FILES:
            return name
        name = name.rpartition(".")[0]
    return None


def in_standard_library(imported: str) -> bool:
    return imported.partition(".")[0] in sys.stdlib_module_names


def is_pure(imported: str) -> bool:
    parts = imported.split(".")
    return any(".".join(parts[:count]) in PURE for count in range(1, len(parts) + 1))


def breaches(module: str, source: str) -> list[str]:
    """What a file does against the rules."""
    found = []
    for line, imported, at_top in imports(source):
        where = f"{module}, line {line}: {imported}"
        if not at_top:
            found.append(f"{where} is imported inside a function")
        if imported.startswith("."):
            found.append(f"{where} is imported by a relative name")
        elif imported.partition(".")[0] == PACKAGE:
            found += _breaches_of_order(module, where, module_of(imported) or imported)
        elif not in_standard_library(imported):
            found.append(f"{where} is not of the standard library")
        elif module.startswith(f"{PACKAGE}.core.") and not is_pure(imported):
            found.append(f"{where} is not pure, and the core is (if it is, add it to PURE)")
        elif imported.partition(".")[0] == "importlib" and imported not in MAY_LOAD.get(module, ()):
            found.append(f"{where} can load modules unseen by these rules")
    if module.startswith(f"{PACKAGE}.core."):
        found += _impure_calls(module, source)
    return found


def _breaches_of_order(module: str, where: str, target: str) -> Iterator[str]:
    if target in LOADED_BY_NAME:
        yield f"{where} is loaded by its name and nowhere else"
    place, own = place_of(target), place_of(module)
    if target == module or place is None or own is None or place > own:
        yield f"{where} does not stand above {module} in PACKAGES"
    rooms = {f"{PACKAGE}.{room}." for room in STANDALONE}
    if any(module.startswith(room) and not target.startswith(room) for room in rooms):
        yield f"{where} is imported by a room that shares nothing with the rest"


def _impure_calls(module: str, source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in IMPURE_CALLS:
            yield f"{module}, line {node.lineno}: {node.id}, and the core is pure"


# --- the code ---------------------------------------------------------------------------------------------------------


def sources() -> dict[str, str]:
    return {name: path.read_text(encoding="utf-8") for name, path in FILES.items()}


def test_every_file_has_its_place() -> None:
    assert [name for name in MODULES if place_of(name) is None] == []
    assert len(MODULES) > 15


def test_every_place_is_taken() -> None:
    taken = {place_of(name) for name in MODULES}
    assert [name for place, name in enumerate(PACKAGES) if name and place not in taken] == []


@pytest.mark.parametrize("module", MODULES)
def test_a_file_keeps_the_rules(module: str) -> None:
    assert breaches(module, FILES[module].read_text(encoding="utf-8")) == []


def test_no_file_imports_itself_by_a_detour() -> None:
    graph = {
        module: {target for each in imports(source) if (target := module_of(each.module)) and target != PACKAGE}
        for module, source in sources().items()
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the files


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_rooms_say_what_they_are_for_and_import_nothing(room: str) -> None:
    source = FILES[room].read_text(encoding="utf-8")
    assert list(imports(source)) == []
    assert ast.get_docstring(ast.parse(source))


def test_every_command_has_a_module() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "claude_api_proxy.py"), "--help"], capture_output=True, text=True, check=True
    )
    assert set(re.findall(r"^    (\w+) ", done.stdout, re.MULTILINE)) == set(COMMANDS)


def test_the_script_of_a_bare_checkout_only_starts_the_proxy() -> None:
    imported = {each.module for each in imports((ROOT / "claude_api_proxy.py").read_text(encoding="utf-8"))}
    assert imported == {"sys", "claude_proxy.cli.main"}


# --- the rules themselves ---------------------------------------------------------------------------------------------

BREACHES = [
    ("core.messages.content", "from claude_proxy.core.calls.tags import find_tags", "does not stand above"),
    ("core.messages.content", "from claude_proxy.core.calls import tags", "does not stand above"),
    ("core.messages.content", "import claude_proxy.core.messages.content", "does not stand above"),
    ("core.aliases.tokens", "from claude_proxy.shell.upstream import client", "does not stand above"),
    ("core.aliases.tokens", "from claude_proxy.cli import main", "does not stand above"),
    ("errors", "from claude_proxy.settings.table import Settings", "does not stand above"),
    (
        "shell.observe.journal",
        "if TYPE_CHECKING:\n    from claude_proxy.shell.proxy.app import App",
        "does not stand above",
    ),
    ("core.reply.read", "from . import document", "relative"),
    ("cli", "def main():\n    from claude_proxy.shell.proxy.app import App", "inside a function"),
    ("cli", "class A:\n    async def main(self):\n        import json", "inside a function"),
    ("cli", "from claude_proxy.commands import serve", "loaded by its name"),
    ("commands.demo", "from claude_proxy.commands.serve import run", "loaded by its name"),
    ("shell.proxy.app", "from importlib import import_module", "unseen"),
    ("shell.observe.status_page", "import importlib.util", "unseen"),
    ("cli", "import requests", "not of the standard library"),
    ("cli", "from yaml.nodes import Node", "not of the standard library"),
    ("demo.simulator", "from claude_proxy.core.messages.content import Text", "shares nothing"),
    ("demo.simulator", "import claude_proxy", "shares nothing"),
    ("demo.php", "from claude_proxy.core.json_text import to_json", "shares nothing"),
    ("demo.scripted_model", "from claude_proxy.core.calls.tags import find_tags", "shares nothing"),
    ("core.reply.read", "def f():\n    open('x')", "the core is pure"),
    ("core.reply.read", "run = eval", "the core is pure"),
    *(
        ("core.reply.read", f"import {name}", "is not pure")
        for name in (
            *("socket", "ssl", "http.client", "threading", "time", "os", "os.path", "random", "secrets", "logging"),
            *("subprocess", "asyncio", "pathlib", "datetime", "sys", "urllib.request", "io", "tempfile", "uuid"),
            *("select", "selectors", "signal", "multiprocessing", "concurrent.futures", "importlib"),
        )
    ),
    ("core.reply.read", "from urllib import request", "is not pure"),
    ("core.reply.read", "from time import monotonic", "is not pure"),
]


@pytest.mark.parametrize(("module", "source", "rule"), BREACHES, ids=[f"{m}: {s}" for m, s, _ in BREACHES])
def test_a_breach_is_found(module: str, source: str, rule: str) -> None:
    (breach,) = breaches(f"{PACKAGE}.{module}", source)
    assert rule in breach
    assert breach.startswith(f"{PACKAGE}.{module}, line ")


KEPT = [
    (
        "core.reply.read",
        "from claude_proxy.core.calls import reader, tags\nfrom claude_proxy.core.messages.content import Text",
    ),
    ("core.reply.read", "import json, re\nfrom collections.abc import Mapping\nfrom urllib.parse import urlsplit"),
    ("shell.proxy.app", "import http.server, time, threading\nfrom claude_proxy import __version__"),
    ("demo.scripted_model", "from claude_proxy.demo.model import ModelReply"),
    ("demo.simulator", "import socket\nfrom claude_proxy.demo import php, vendors"),
    ("cli", "if True:\n    import tomllib"),
    ("cli", "from importlib import import_module"),
    ("commands.demo", "from claude_proxy.commands.serving import listen"),
    ("core.messages.content", "class ToolUse:\n    input: dict[str, str]"),
]


@pytest.mark.parametrize(("module", "source"), KEPT, ids=[f"{m}: {s}" for m, s in KEPT])
def test_what_the_rules_allow(module: str, source: str) -> None:
    assert breaches(f"{PACKAGE}.{module}", source) == []
