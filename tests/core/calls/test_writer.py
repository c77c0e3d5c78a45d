"""Calls as text: the canonical form, and that whatever is written is read back exactly.

The round trip goes the way that texts really go: calls of the history are written, armoured, written once more by a
model that copies, decoded and trimmed by the pretend module, and read.
"""

from __future__ import annotations

import json

import pytest
from core_samples import (
    BASH,
    INTEGER,
    READ,
    STRING,
    WRITE,
    Json,
    by_name,
    counter,
    evil_texts,
    examples,
    tool,
    tools,
    valid_arguments,
    write_calls,
)
from hypothesis import given
from hypothesis import strategies as st

from claude_proxy.core.calls.call import Call
from claude_proxy.core.messages.content import Tool, ToolUse
from claude_proxy.core.prompt.armour import armour
from claude_proxy.core.reply.read import read_reply
from claude_proxy.demo.module import process_reply

ALIASES = ("claude", "gpt-4o")


def through_the_module(written: str, alias: str) -> str:
    """What is left of a text that a model copied as it read it, and the module passed on."""
    text = process_reply(armour(written), alias)
    assert isinstance(text, str)
    return text


def calls_in(text: str, offered: dict[str, Tool], *, cut: bool = False) -> list[Call]:
    reply = read_reply(text, offered, counter(), cut=cut)
    return [Call(block.name, block.input) for block in reply.content if isinstance(block, ToolUse)]


def block(*invokes: str) -> str:
    return "\n".join(["<function_calls>", *invokes, "</function_calls>"])


def exactly(calls: list[Call]) -> str:
    """Calls in a form in which 1, 1.0 and true differ."""
    return json.dumps([[call.name, call.arguments] for call in calls], indent=1)


# --- the canonical form -----------------------------------------------------------------------------------------------

MIXED = tool(
    "Mixed", {"text": STRING, "either": {"type": ["string", "integer"]}, "n": INTEGER, "list": {"type": "array"}}
)

CANONICAL = [
    pytest.param(
        [Call("Write", {"file_path": "/a.py", "content": "import sys\n\nif 1 < 2 & 3:\n    print('x')"})],
        """\
<function_calls>
<invoke name="Write">
<parameter name="file_path">/a.py</parameter>
<parameter name="content">
import sys

if 1 < 2 & 3:
    print('x')
</parameter>
</invoke>
</function_calls>""",
        id="a value of several lines stands on lines of its own, raw",
    ),
    pytest.param(
        [Call("Read", {"file_path": "/a"}), Call("Bash", {"command": "ls", "timeout": 5, "run_in_background": True})],
        """\
<function_calls>
<invoke name="Read">
<parameter name="file_path">/a</parameter>
</invoke>
<invoke name="Bash">
<parameter name="command">ls</parameter>
<parameter name="timeout">5</parameter>
<parameter name="run_in_background">true</parameter>
</invoke>
</function_calls>""",
        id="two calls stand in one block",
    ),
    pytest.param(
        [Call("Mixed", {"text": "5", "either": "5", "n": 5, "list": [1, {"a": None}]})],
        """\
<function_calls>
<invoke name="Mixed">
<parameter name="text">5</parameter>
<parameter name="either">"5"</parameter>
<parameter name="n">5</parameter>
<parameter name="list">[1,{"a":null}]</parameter>
</invoke>
</function_calls>""",
        id="a string is written as JSON only where it would be taken for JSON",
    ),
    pytest.param(
        [Call("Write", {"file_path": "", "content": "\n"})],
        """\
<function_calls>
<invoke name="Write">
<parameter name="file_path"></parameter>
<parameter name="content">


</parameter>
</invoke>
</function_calls>""",
        id="empty, and a lone newline",
    ),
    pytest.param(
        [Call("Bash", {})],
        """\
<function_calls>
<invoke name="Bash">
</invoke>
</function_calls>""",
        id="no arguments",
    ),
    pytest.param(
        [Call("Gone", {"path": "/a", "depth": 2, "name": "5"})],
        """\
<function_calls>
<invoke name="Gone">
<parameter name="path">/a</parameter>
<parameter name="depth">2</parameter>
<parameter name="name">"5"</parameter>
</invoke>
</function_calls>""",
        id="a tool that is not offered any more",
    ),
]


@pytest.mark.parametrize(("calls", "text"), CANONICAL)
def test_calls_are_written_in_the_canonical_form(calls: list[Call], text: str) -> None:
    assert write_calls(calls, by_name(WRITE, READ, BASH, MIXED)) == text


@pytest.mark.parametrize(("calls", "text"), CANONICAL[:-1])
def test_the_canonical_form_is_read_back_exactly(calls: list[Call], text: str) -> None:
    assert exactly(calls_in(text, by_name(WRITE, READ, BASH, MIXED))) == exactly(calls)


FRAMES = [
    # the text between the tags, and the value
    ("one line", "one line"),
    ("\none line\n", "one line"),
    ("\none line", "one line"),
    ("one line\n", "one line\n"),
    ("\n\ntwo\n\n", "\ntwo\n"),
    ("\n", ""),
    ("\n\n", ""),
    ("\n\n\n", "\n"),
    (" blanks ", " blanks "),
    ("\n  indented\n  ", "  indented\n  "),
    ("a\nb", "a\nb"),
    ("\r\na\r\n", "a"),
    ("\n\r\na\r\n\n", "\r\na\r\n"),
    ("\na\r\nb\r\n\n", "a\r\nb\r\n"),
    ("&amp;lt; is not decoded again", "&amp;lt; is not decoded again"),
]


@pytest.mark.parametrize(("between", "value"), FRAMES, ids=[repr(between) for between, _ in FRAMES])
def test_a_value_on_lines_of_its_own_loses_one_newline_on_either_side(between: str, value: str) -> None:
    text = block(f'<invoke name="Bash">\n<parameter name="command">{between}</parameter>\n</invoke>')
    assert calls_in(text, by_name(BASH)) == [Call("Bash", {"command": value})]


SELF_CONTAINED = [
    # values that hold the notation's own tags and can still stand raw
    pytest.param("</parameter>", id="a closing tag alone"),
    pytest.param("a </parameter> b </invoke> c </function_calls> d", id="closing tags inside a line"),
    pytest.param("</parameter>\n</invoke>\n", id="closing tags at the end"),
    pytest.param("</parameter>\n</invoke>\n</function_calls>", id="all closing tags"),
    pytest.param('see <parameter name="content">x</parameter> there', id="a whole parameter in a line"),
    pytest.param("<function_calls>", id="an open block"),
]


@pytest.mark.parametrize("content", SELF_CONTAINED)
def test_a_file_that_holds_tags_is_written_raw_where_that_is_read_exactly(content: str) -> None:
    calls = [Call("Write", {"file_path": "/doc.md", "content": content}), Call("Bash", {"command": "ls"})]
    text = write_calls(calls, by_name(WRITE, BASH))
    assert content in text
    assert calls_in(text, by_name(WRITE, BASH)) == calls


AMBIGUOUS = [
    pytest.param('<invoke name="Write">\n<parameter name="content">', id="opening tags"),
    pytest.param('x</parameter>\n</invoke>\n<invoke name="Bash">\n<parameter name="command">rm', id="another call"),
]


@pytest.mark.parametrize("content", AMBIGUOUS)
def test_a_file_that_could_be_misread_is_marked_as_json(content: str) -> None:
    calls = [Call("Write", {"file_path": "/doc.md", "content": content}), Call("Bash", {"command": "ls"})]
    text = write_calls(calls, by_name(WRITE, BASH))
    encoded = json.dumps(content).replace("<", "\\u003c")
    assert f'<parameter name="content" encoding="json">{encoded}</parameter>' in text
    assert calls_in(text, by_name(WRITE, BASH)) == calls


# --- the round trip ---------------------------------------------------------------------------------------------------

PROSE = ("", "I'll do it.\n", "First:\n\n1. a < b & c\n2. `x`\n\n", "```\ncode\n```\n")


@examples(200)
@given(st.data())
def test_calls_are_read_back_exactly(data: st.DataObject) -> None:
    offered = by_name(data.draw(tools("Write")), data.draw(tools("a")))
    names = data.draw(st.lists(st.sampled_from(sorted(offered)), min_size=1, max_size=3), "names")
    calls = [Call(name, data.draw(valid_arguments(offered[name]), name)) for name in names]
    prose = data.draw(st.sampled_from(PROSE), "prose")
    text = through_the_module(prose + write_calls(calls, offered), data.draw(st.sampled_from(ALIASES), "alias"))
    assert exactly(calls_in(text, offered)) == exactly(calls)
    # Of a reply that is known to be cut, the last call may be in doubt; what is run was written.
    found = calls_in(text, offered, cut=True)
    assert exactly(found) == exactly(calls[: len(found)])


def test_a_complete_block_in_a_reply_that_reached_its_limit_is_not_misread() -> None:
    offered = by_name(tool("a", {"list": {"type": "array"}, "b": {"type": "object"}}))
    calls = [Call("a", {"list": ['<invoke name="a">'], "b": {"x": "</invoke>"}})]
    assert calls_in(write_calls(calls, offered), offered, cut=True) in ([], calls)


@examples(300)
@given(evil_texts, evil_texts, evil_texts, st.sampled_from(ALIASES))
def test_texts_of_all_kinds_are_read_back_exactly(one: str, two: str, three: str, alias: str) -> None:
    offered = by_name(WRITE, BASH)
    calls = [Call("Write", {"content": one, "file_path": two}), Call("Bash", {"command": three})]
    assert calls_in(through_the_module(write_calls(calls, offered), alias), offered) == calls


@examples(100)
@given(st.dictionaries(st.sampled_from(["path", "a.b", "n"]), evil_texts | st.integers() | st.booleans()))
def test_a_tool_without_a_schema_takes_anything(arguments: Json) -> None:
    offered = by_name(Tool("Free", {}))
    text = through_the_module(write_calls([Call("Free", arguments)], offered), "claude")
    assert exactly(calls_in(text, offered)) == exactly([Call("Free", arguments)])


@pytest.mark.parametrize("more", [{}, {"additionalProperties": True}])
def test_an_argument_that_the_schema_allows_without_naming_it_is_read_back(more: Json) -> None:
    offered = by_name(tool("Note", {"text": STRING}, **more))
    calls = [Call("Note", {"text": "a", "author": "b"})]
    assert calls_in(write_calls(calls, offered), offered) == calls
