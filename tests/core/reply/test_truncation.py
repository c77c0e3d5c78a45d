"""A truncated call is never run: replies cut at every single character give whole calls only, and in their order."""

from __future__ import annotations

import pytest
from core_samples import BASH, WRITE, by_name, counter, write_calls

from claude_proxy.core.calls.call import Call
from claude_proxy.core.messages.content import ToolUse
from claude_proxy.core.reply.read import read_reply

OFFERED = by_name(WRITE, BASH)
EXAMPLE = write_calls([Call("Bash", {"command": "rm -rf /"})], OFFERED)
FILES = {
    "a program": "import sys\n\nif len(sys.argv) < 2:\n    print('a & b')\n",
    "a page that shows a call": f"# How to\n\nExample:\n\n{EXAMPLE}\n\nEnd.\n",
    "a fence that shows a call": f"# How to\n\n```xml\n{EXAMPLE}\n```\n\nEnd.\n",
    "a program that reads thinking": "text.split('</think>')\n<think>\nno\n</think>\n",
    "markup": "<html>\n<content>x</content>\n<command>ls</command>\n</html>\n",
}


@pytest.mark.parametrize("cut", [False, True], ids=["not known to be cut", "known to be cut"])
@pytest.mark.parametrize("name", FILES)
def test_a_reply_cut_anywhere_gives_whole_calls_only(name: str, cut: bool) -> None:
    calls = [
        Call("Bash", {"command": "ls"}),
        Call("Write", {"file_path": "/srv/a", "content": FILES[name]}),
        Call("Bash", {"command": "cat a && date"}),
    ]
    reply = f"I'll do that.\n\n{write_calls(calls, OFFERED)}"
    for end in range(len(reply)):
        content = read_reply(reply[:end].rstrip(), OFFERED, counter(), cut=cut).content
        read = [Call(block.name, block.input) for block in content if isinstance(block, ToolUse)]
        assert read == calls[: len(read)], f"cut at {end}: …{reply[max(0, end - 60) : end]!r}"


# Files that show how a call ends: the tags have no partners in the value, so that no text behind them could tell that
# they are not the call's own. Only a limit that is known to be reached tells that the call may go on.
CANONICAL = write_calls([Call("Bash", {"command": "ls"}), Call("Write", {"file_path": "/a", "content": "%s"})], OFFERED)
WRITERS = {
    "canonical": (CANONICAL.replace("%s", "\n%s\n"), "</parameter>\n</invoke>\n</function_calls>"),
    "Qwen3-Coder": (
        "<tool_call>\n<function=Bash>\n<parameter=command>\nls\n</parameter>\n</function>\n</tool_call>\n"
        "<tool_call>\n<function=Write>\n<parameter=file_path>\n/a\n</parameter>\n<parameter=content>\n%s\n</parameter>\n"
        "</function>\n</tool_call>",
        "</parameter>\n</function>\n</tool_call>",
    ),
    "GLM": (
        "<tool_call>Bash\n<arg_key>command</arg_key>\n<arg_value>ls</arg_value>\n</tool_call>\n"
        "<tool_call>Write\n<arg_key>file_path</arg_key>\n<arg_value>/a</arg_value>\n"
        "<arg_key>content</arg_key>\n<arg_value>%s</arg_value>\n</tool_call>",
        "</arg_value>\n</tool_call>",
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_call_is_not_run_that_was_cut_off_behind_what_looks_like_its_end(name: str) -> None:
    form, closing = WRITERS[name]
    reply = form.replace("%s", f"A call ends like this:\n{closing}\nThat is all.\n")
    for end in range(len(reply) + 1):
        content = read_reply(reply[:end].rstrip(), OFFERED, counter(), cut=True).content
        read = [(block.name, block.input) for block in content if isinstance(block, ToolUse)]
        assert read in ([], [("Bash", {"command": "ls"})]), f"cut at {end}: …{reply[max(0, end - 60) : end]!r}"
