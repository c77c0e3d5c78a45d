#!/usr/bin/env python3
"""How well replies are read: a score for each kind of breakage and each dialect in `tests/replies`.

    python bench/tool_calls.py                          all groups, with every public reader that is installed
    python bench/tool_calls.py --reader claude-proxy --check --failures
    python -m pip install --group bench     installs the public readers

A case is right if exactly the calls come out that its file names, wrong if others do, refused if none does. Where
nothing may run, or where a call was cut off, only one number matters: how many ran all the same.

The public readers know no schemas. So they are judged leniently: a value counts as right if it says the same, be it a
string or not, with white space around it or without. `json-repair` repairs JSON and nothing else, so it is given the
JSON that stands in the replies of the group `json`, and no other group.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "replies"))

import corpus

from claude_proxy.core.messages.content import Tool, ToolUse
from claude_proxy.core.reply import edit_mending
from claude_proxy.core.reply import read as reply

Call: TypeAlias = corpus.Call
ReadCalls: TypeAlias = Callable[[corpus.Case, Mapping[str, Tool]], Sequence[Call]]


# --- the readers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reader:
    """A reader under comparison.

    Attributes:
        name: the package it comes from.
        read: takes the calls out of a reply.
        same: whether the calls found are those wanted.
        within: the start of the groups that it is meant for.
    """

    name: str
    read: ReadCalls
    same: Callable[[Sequence[Call], Sequence[Call]], bool]
    within: str = ""


def load_readers() -> dict[str, Reader]:
    """This project's reader, and the public ones that are installed."""
    readers = [Reader("claude-proxy", _read_with_claude_proxy, corpus.same_calls)]
    for package, name, within, make in (
        # Its own Python engine: the compiled one panics on DeepSeek's full-width bars.
        ("agent-tool-parser", "agent_tool_parser.parser", "", _agent_tool_parser),
        ("json-repair", "json_repair", "json", _json_repair),
    ):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        readers.append(Reader(package, make(module), _say_the_same, within))
    return {reader.name: reader for reader in readers}


def _read_with_claude_proxy(case: corpus.Case, tools: Mapping[str, Tool]) -> list[Call]:
    numbers = count()
    read = reply.read_reply(case.reply, tools, lambda: f"toolu_{next(numbers)}", cut=case.cut, decoded=case.decoded)
    uses = [block for block in read.content if isinstance(block, ToolUse)]
    return [
        (use.name, edit_mending.mend_edit(use.input, edit_mending.Shown([case.shown])) or use.input) for use in uses
    ]


def _agent_tool_parser(module: Any) -> ReadCalls:
    """An adapter: the package writes names in lower case and renames many; it is told to leave these alone."""

    def read(case: corpus.Case, tools: Mapping[str, Tool]) -> list[Call]:
        names = {name.lower(): name for name in tools}
        parameters = {name for tool in tools.values() for name in tool.input_schema["properties"]}
        parser = module.ToolParser(
            allowed_tools=set(names),
            tool_aliases={name: name for name in names},
            param_aliases={name.lower(): name for name in parameters},
        )
        return [(names.get(call.name, call.name), call.args) for call in parser.try_parse_all(case.reply)]

    return read


_TAGGED = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_NAMES = ("name", "tool", "function")
_ARGUMENTS = ("arguments", "parameters", "input", "args")


def _json_repair(module: Any) -> ReadCalls:
    """An adapter: the text between Hermes' tags, or a bare object, repaired and taken for calls."""

    def read(case: corpus.Case, tools: Mapping[str, Tool]) -> list[Call]:
        texts = _TAGGED.findall(case.reply) or [case.reply] * case.reply.startswith(("{", "["))
        return [call for text in texts for call in calls(module.loads(text)) if call[0] in tools]

    def calls(value: Any) -> Iterable[Call]:
        if isinstance(value, list):
            for item in value:
                yield from calls(item)
        elif isinstance(value, str) and value.lstrip().startswith("{"):
            yield from calls(module.loads(value))
        elif isinstance(value, dict):
            name, arguments = _first(value, _NAMES), _first(value, _ARGUMENTS)
            if isinstance(name, dict):
                yield from calls(name)
            elif isinstance(name, str):
                decoded = module.loads(arguments) if isinstance(arguments, str) else arguments
                yield name, decoded if isinstance(decoded, dict) else {}

    return read


def _first(value: Mapping[str, Any], keys: Iterable[str]) -> Any:
    return next((value[key] for key in keys if key in value), None)


_PYTHON_WORDS = {"True": "true", "False": "false"}


def _say_the_same(found: Sequence[Call], wanted: Sequence[Call]) -> bool:
    return bool(_plain([list(call) for call in found]) == _plain([list(call) for call in wanted]))


def _plain(value: Any) -> Any:
    """A value without its types: numbers, booleans and what is JSON inside a string all as plain text."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        try:
            decoded = json.loads(value)
        except (ValueError, RecursionError):
            return _PYTHON_WORDS.get(value.strip(), value.strip())
        return value.strip() if isinstance(decoded, str) else _plain(decoded)
    return json.dumps(value)


# --- the score --------------------------------------------------------------------------------------------------------

_KINDS = ("complete", "must not run", "truncated")


@dataclass
class Score:
    """What one reader made of the corpus.

    Attributes:
        counts: how many cases of a kind and group came out right, wrong, refused, or ran although they must not.
        failures: the paths of those that did not come out right.
    """

    counts: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)

    def total(self, kind: str) -> Counter[str]:
        """All groups of a kind together."""
        return sum((counts for (other, _), counts in self.counts.items() if other == kind), Counter[str]())

    def reaches_goal(self) -> bool:
        """Whether all complete ones are right, and nothing ran that must not."""
        complete, rest = self.total("complete"), self.total("must not run") + self.total("truncated")
        return complete.keys() <= {"right"} and "ran" not in rest


def kind_of(case: corpus.Case) -> str:
    """Which of the kinds a case is."""
    if case.path.startswith("truncated/"):
        return "truncated"
    return "complete" if case.calls else "must not run"


def judge(case: corpus.Case, found: Sequence[Call], reader: Reader) -> str:
    """Whether calls are "right" or "wrong", were "refused", or "ran" although they must not."""
    if reader.same(found, case.calls):
        return "right"
    if kind_of(case) == "complete":
        return "wrong" if found else "refused"
    if found and not reader.same(found, case.calls[: len(found)]):
        return "ran"
    return "refused"


def score(reader: Reader, cases: Iterable[corpus.Case], toolsets: Mapping[str, Mapping[str, Tool]]) -> Score:
    """Let a reader read the cases that it is meant for."""
    result = Score()
    for case in cases:
        if case.path.startswith(reader.within):
            verdict = judge(case, reader.read(case, toolsets[case.tools]), reader)
            result.counts.setdefault((kind_of(case), case.group), Counter())[verdict] += 1
            if verdict != "right":
                result.failures.append((case.path, verdict))
    return result


# --- the report -------------------------------------------------------------------------------------------------------


def report(scores: Mapping[str, Score]) -> str:
    """The score of all readers, as Markdown."""
    return "\n\n".join(f"## {kind.capitalize()}\n\n{_table(kind, scores)}" for kind in _KINDS)


def _table(kind: str, scores: Mapping[str, Score]) -> str:
    counted = ("right", "wrong", "refused") if kind == "complete" else ("right", "ran")
    groups = sorted({group for one in scores.values() for other, group in one.counts if other == kind})
    sizes = {
        group: max(one.counts.get((kind, group), Counter()).total() for one in scores.values()) for group in groups
    }
    header = ["group", "cases", *(f"{name}: {word}" for name in scores for word in counted)]
    rows = [
        [group, str(sizes[group]), *_cells([one.counts.get((kind, group)) for one in scores.values()], counted)]
        for group in groups
    ]
    totals = ["**all**", str(sum(sizes.values())), *_cells([one.total(kind) for one in scores.values()], counted)]
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *rows, totals])


def _cells(counts: Iterable[Counter[str] | None], counted: Iterable[str]) -> list[str]:
    """The numbers of a row; a reader that saw none of its cases has dashes."""
    words = list(counted)
    return [str(one[word]) if one else "–" for one in counts for word in words]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison.

    Returns:
        The exit status: 1 with `--check` where this project's reader misses its goal.
    """
    readers = load_readers()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--reader", action="append", choices=sorted(readers), help="compare this one only; repeatable")
    parser.add_argument("--group", default="", metavar="PATH", help="only cases whose path starts so: dialects/glm")
    parser.add_argument("--failures", action="store_true", help="list the cases that did not come out right")
    parser.add_argument("--check", action="store_true", help="fail unless claude-proxy reaches its goal")
    options = parser.parse_args(arguments)

    cases = [case for case in corpus.load() if case.path.startswith(options.group)]
    toolsets = {
        toolset: {name: Tool(name, schema) for name, schema in tools.items()}
        for toolset, tools in corpus.load_toolsets().items()
    }
    chosen = options.reader or list(readers)
    scores = {name: score(readers[name], cases, toolsets) for name in chosen}
    sys.stdout.write(report(scores) + "\n")
    if options.failures:
        for name, one in scores.items():
            lines = [f"- {verdict}: {path}" for path, verdict in one.failures]
            sys.stdout.write("\n".join([f"\n## {name}: not right", "", *lines]) + "\n")
    ours = scores.get("claude-proxy")
    return 1 if options.check and ours and not ours.reaches_goal() else 0


if __name__ == "__main__":
    sys.exit(main())
