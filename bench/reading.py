#!/usr/bin/env python3
"""How long the slowest replies take to read: whatever a model repeats for ever, time must grow with the length only.

    python bench/reading.py                     the 20 slowest, in seconds of CPU time per MB, as a Markdown table
    python bench/reading.py --only '<think>'    only pieces that hold this text
    python bench/reading.py --check             fails if one takes more than a second

A reply under test is one piece over and over. The pieces are all tags, tokens, brackets and quotes of the notation and
of the dialects, which are taken out of `tests/replies`, and the shortest reply of each dialect; what the reader looks
for besides stands in `OTHERS`. Each piece is repeated behind a word on each line; and as it is and on lines of its own,
behind each of `PREFIXES`; all that with the reply known to be cut off and not.

As these are thousands, all are read at two small sizes first. How much longer the larger one takes tells where a
megabyte would lead; those for which that is worst are then read at full size, and the best of three readings counts.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "replies"))

import corpus

from claude_proxy.core.messages.content import Tool
from claude_proxy.core.reply import read

MEGABYTE = 1_000_000
SMALL, MEDIUM = MEGABYTE // 256, MEGABYTE // 64
HOPELESS = 2.0  # seconds; what takes so long at a small size is not read at a larger one

TOKEN = re.compile(r"<[^<>\n]{1,60}>|\[/?[A-Z_]{3,}\]|```\w*|^[A-Z]\w+(?: \w+)?: |[^\w\s]", re.MULTILINE)
_NAME = re.compile(r"(?<=[\"=])[\w.:/]+")
OTHERS = (
    *("a", " ", "\n", "\r", "\t", "\u3000", "0", "- ", "> ", "1. ", "~~~", "`````", "&", "&amp;", "\\", "\\n", "\0"),
    *("<", "</", "<!--", "-->", "<pre>", "</pre>", "<code>", "</code>", "<example>", "<tool_result>", "</tool_result>"),
    *("Human: ", "\nHuman: x\n", "\nUser: x\n", "\nAssistant: x\n", "# User", "Observation:", "<|im_start|>user"),
    *("<think>", "</think>", "<think></think>", "</think></think><", "[THINK]", "<invoke", "<invoke name=", "invoke"),
    *("<function_calls>", "<command>", "</command>", "<Bash>", "</Bash>", "<command></command>", "<value>", "<param>"),
    *('<parameter name="x">', '<parameter name="command">', '<parameter name="x">a</parameter>', "<![CDATA[", "]]>"),
    *("{}", "[]", "{{", "[[", "[{", '[{"', '{"a":', '{"name":', '{"name": "Bash", "arguments": {', "[Bash(", "Bash("),
    *('""', "''", '"""', "'''", '",', '":', "//", "/*", "/**/", "# ", "...", "1e", "0x", "\\u", '"x" + ', "“", "”"),
)
PREFIXES: Mapping[str, str] = {
    "": "",
    "a value": '<function_calls>\n<invoke name="Write">\n<parameter name="content">\n',
    "an invoke": '<function_calls>\n<invoke name="Write">\n',
    "JSON": '<tool_call>\n{"name": "Write", "arguments": {"content": "',
    "an array": '[{"name": "Bash", "arguments": {"command": [',
    "arguments": "[Bash(command=",
    "thinking": "<think>\n",
    "a call": '<invoke name="Bash">\n<parameter name="command">ls</parameter>\n</invoke>\n</function_calls>\n',
}


@dataclass(frozen=True)
class Endless:
    """A reply that goes on and on.

    Attributes:
        piece: what it repeats.
        behind: what stands at its start, by its name in `PREFIXES`.
        cut: whether it is known to have been cut off.
    """

    piece: str
    behind: str
    cut: bool

    def text(self, size: int) -> str:
        """The reply, so many characters long or a little longer."""
        return PREFIXES[self.behind] + self.piece * (size // len(self.piece) + 1)


def pieces() -> list[str]:
    """Everything that a reply under test repeats."""
    replies: dict[str, list[str]] = {}
    for case in corpus.load():
        replies.setdefault(case.group, []).append(case.reply)
    counted = Counter(token for group in replies.values() for text in group for token in set(TOKEN.findall(text)))
    # What stands in a single reply is mostly that reply's own; what only differs in a name or in case is alike.
    alike = {_NAME.sub("x", token).lower(): token for token, number in counted.items() if number > 1}
    shortest = [min(group, key=len) for name, group in replies.items() if name.startswith("dialects/")]
    return list(dict.fromkeys([*OTHERS, *alike.values(), *shortest]))


def endless(only: str) -> Iterator[Endless]:
    """All replies under test."""
    for piece in pieces():
        if only in piece:
            yield from (Endless(f"x {piece}\n", "", cut) for cut in (False, True))
            for form in (piece, f"{piece}\n"):
                for behind in PREFIXES:
                    yield from (Endless(form, behind, cut) for cut in (False, True))


def seconds(one: Endless, size: int, tools: Mapping[str, Tool]) -> float:
    """The CPU time that reading takes."""
    text, numbers = one.text(size), count()
    start = time.process_time()
    read.read_reply(text, tools, lambda: f"toolu_{next(numbers)}", cut=one.cut)
    return time.process_time() - start


def outlook(one: Endless, tools: Mapping[str, Tool]) -> float:
    """How long a megabyte would take, going by two small sizes."""
    small = max(seconds(one, SMALL, tools), 0.0002)
    if small > HOPELESS:
        return small * (MEGABYTE / SMALL) ** 2
    medium = seconds(one, MEDIUM, tools)
    return medium * max(MEDIUM / SMALL, medium / small) ** 3  # three more steps of that kind lead to a megabyte


def measure(one: Endless, tools: Mapping[str, Tool]) -> float:
    """How long a megabyte takes: the best of three readings, or what a quarter lets expect where that is slow."""
    quarter = seconds(one, MEGABYTE // 4, tools)
    if quarter > HOPELESS:
        return quarter * 4**2
    return min(seconds(one, MEGABYTE, tools) for _ in range(3))


def report(slowest: Sequence[tuple[float, Endless]]) -> str:
    """A Markdown table."""
    lines = ["| seconds per MB | piece | behind | cut |", "| ---: | --- | --- | --- |"]
    for time_taken, one in slowest:
        shown = repr(one.piece if len(one.piece) < 60 else f"{one.piece[:57]}...").replace("|", "\\|")
        lines.append(f"| {time_taken:.2f} | `` {shown} `` | {one.behind} | {'yes' if one.cut else 'no'} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Find the slowest replies.

    Returns:
        The exit status: 1 with `--check` where one takes more than a second.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="only pieces that hold this")
    parser.add_argument("--candidates", type=int, default=60, help="how many are read at full size")
    parser.add_argument("--rows", type=int, default=20, help="how many of these are shown")
    parser.add_argument("--check", action="store_true", help="fail if one takes more than a second")
    options = parser.parse_args(arguments)

    tools = {name: Tool(name, schema) for name, schema in corpus.load_toolsets()["claude-code"].items()}
    ranked = sorted(endless(options.only), key=lambda one: outlook(one, tools), reverse=True)
    measured = [(measure(one, tools), one) for one in ranked[: options.candidates]]
    slowest = sorted(measured, key=lambda pair: pair[0], reverse=True)[: options.rows]
    print(report(slowest))
    return 1 if options.check and slowest and slowest[0][0] > 1 else 0


if __name__ == "__main__":
    sys.exit(main())
