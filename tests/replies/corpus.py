"""The corpus of model replies: how its files are read. `README.md` says what they hold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(__file__).resolve().parent

Call: TypeAlias = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Case:
    """One reply and the right answer to it.

    Attributes:
        path: where it stands, relative to the corpus and without its suffix.
        what: a sentence: what it shows, and which models do it.
        tools: the name of the tools that are offered, as in `tools.json`.
        cut: whether the reply is known to have reached the model's limit.
        decoded: whether the module has decoded the reply's HTML entities.
        shown: what the conversation has shown of files.
        text: what the user should see, or None where it does not matter.
        calls: the calls that must come out, in order.
        refuse: whether this is a file where nothing may run.
        reply: the reply as the module passes it on.
    """

    path: str
    what: str
    tools: str
    cut: bool
    decoded: bool
    shown: str
    text: str | None
    calls: tuple[Call, ...]
    refuse: bool
    reply: str

    @property
    def group(self) -> str:
        """The folder, and for a dialect its family."""
        return self.path.rpartition("/")[0]


def load() -> list[Case]:
    """Every case, in the order of their paths."""
    return [_read(path) for path in sorted(ROOT.rglob("*.txt"))]


def load_toolsets() -> dict[str, dict[str, dict[str, Any]]]:
    """The input schemas of the tools, by the name of the set and of the tool."""
    toolsets: dict[str, dict[str, dict[str, Any]]] = json.loads((ROOT / "tools.json").read_text(encoding="utf-8"))
    return toolsets


def same_calls(found: Sequence[Call], wanted: Sequence[Call]) -> bool:
    """Whether calls agree in order, names, arguments and types: True is not 1, and 1.0 is not 1."""
    return _canonical(found) == _canonical(wanted)


def _canonical(calls: Sequence[Call]) -> list[str]:
    return [json.dumps([name, arguments], sort_keys=True) for name, arguments in calls]


_KEYS = frozenset({"tools", "cut", "decoded", "shown", "text", "calls", "verdict"})


def _read(path: Path) -> Case:
    head, rule, reply = path.read_bytes().decode().partition("\n----\n")
    first, *lines = head.split("\n")
    keys = dict(line.split(": ", 1) for line in lines)
    if not rule or not first.startswith("# ") or not reply.endswith("\n") or not keys.keys() <= _KEYS:
        raise ValueError(f"{path} is not in the form that README.md describes")
    return Case(
        path=path.relative_to(ROOT).as_posix().removesuffix(".txt"),
        what=first.removeprefix("# "),
        tools=keys.get("tools", "claude-code"),
        cut=json.loads(keys.get("cut", "false")),
        decoded=json.loads(keys.get("decoded", "true")),
        shown=json.loads(keys.get("shown", '""')),
        text=json.loads(keys.get("text", "null")),
        calls=tuple((name, arguments) for name, arguments in json.loads(keys.get("calls", "[]"))),
        refuse=keys.get("verdict") == "refuse",
        reply=reply.removesuffix("\n"),
    )
