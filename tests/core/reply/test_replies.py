"""Every reply in `tests/replies` is read as its file says."""

from __future__ import annotations

import re
import sys
from fnmatch import fnmatch
from itertools import count
from pathlib import Path

import pytest

from claude_proxy.core.messages.content import Text, Tool, ToolUse
from claude_proxy.core.reply import edit_mending
from claude_proxy.core.reply import read as reply

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "replies"))
import corpus

CASES = corpus.load()
TOOLS = {
    toolset: {name: Tool(name, schema) for name, schema in tools.items()}
    for toolset, tools in corpus.load_toolsets().items()
}
CONTENTS = re.findall(r"^\| (.+?) \| (`.+`) \|$", (corpus.ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.path)
def test_reply_is_read_as_its_file_says(case: corpus.Case) -> None:
    numbers = count()
    read = reply.read_reply(
        case.reply, TOOLS[case.tools], lambda: f"toolu_{next(numbers)}", cut=case.cut, decoded=case.decoded
    )

    uses = [block for block in read.content if isinstance(block, ToolUse)]
    found = [
        (use.name, edit_mending.mend_edit(use.input, edit_mending.Shown([case.shown])) or use.input) for use in uses
    ]
    if case.refuse:
        assert found == [], f"nothing may run: {case.what}"
    assert corpus.same_calls(found, case.calls), f"{case.what}\nfound:  {found}\nwanted: {list(case.calls)}"
    assert len({use.id for use in uses}) == len(uses)
    assert (read.stop_reason == "tool_use") == bool(uses)
    if case.text is not None:
        shown = "\n".join(block.text for block in read.content if isinstance(block, Text)).strip()
        assert shown == case.text, case.what


def test_corpus_is_consistent() -> None:
    for case in CASES:
        assert case.what.endswith("."), f"{case.path} does not start with a sentence"
        assert not (case.refuse and case.calls), f"{case.path} wants calls where nothing may run"
        assert case.refuse or case.calls or case.text is not None, f"{case.path} demands nothing"
        assert case.reply == case.reply.strip(), f"{case.path} is not trimmed, as the module would have done"
        assert {name for name, _ in case.calls} <= TOOLS[case.tools].keys(), f"{case.path} wants an unknown tool"


def test_each_named_breakage_and_dialect_has_files() -> None:
    assert len(CONTENTS) > 50
    for name, patterns in CONTENTS:
        for pattern in re.findall("`([^`]+)`", patterns):
            assert any(fnmatch(case.path, pattern) for case in CASES), f"{name}: no file matches {pattern}"


def test_each_file_is_in_the_table_of_contents() -> None:
    patterns = [pattern for _, patterns in CONTENTS for pattern in re.findall("`([^`]+)`", patterns)]
    assert [case.path for case in CASES if not any(fnmatch(case.path, pattern) for pattern in patterns)] == []
