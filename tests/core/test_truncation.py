"""A truncated call is never run: replies cut at every single character give whole calls only, and in their order."""

from __future__ import annotations

import pytest
from core_samples import BASH, WRITE, by_name, counter

from claude_proxy.core.content import ToolUse
from claude_proxy.core.notation import Call, write_calls
from claude_proxy.core.reply import read_reply

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
