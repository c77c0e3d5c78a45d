"""Reply text -> content blocks: what counts as a call, what is cut, and what is never run."""

from __future__ import annotations

import re
from typing import Any

import pytest
from core_samples import (
    ABSENT,
    BASH,
    BOOLEAN,
    INTEGER,
    READ,
    STRING,
    WRITE,
    Json,
    by_name,
    counter,
    examples,
    steps,
    tool,
    write_calls,
)
from hypothesis import given
from hypothesis import strategies as st

from claude_proxy.core.calls.call import Call
from claude_proxy.core.calls.vocabulary import Vocabulary
from claude_proxy.core.messages.content import SIGNATURE, ContentBlock, Text, Thinking, ToolUse
from claude_proxy.core.reply.read import Reply, read_reply

OFFERED = by_name(WRITE, READ, BASH)
BLOCK = """\
<function_calls>
<invoke name="Read">
<parameter name="file_path">/a</parameter>
</invoke>
</function_calls>"""
PAIR = BLOCK.replace("</function_calls>", BLOCK.removeprefix("<function_calls>\n").replace("/a", "/b"))


def read(text: str, *, cut: bool = False, single_call: bool = False) -> Reply:
    return read_reply(text, OFFERED, counter(), cut=cut, single_call=single_call)


def called(path: str, number: int = 0) -> ToolUse:
    return ToolUse(f"toolu_{number}", "Read", {"file_path": path})


# --- calls ------------------------------------------------------------------------------------------------------------

CALLS = [
    pytest.param(BLOCK, (called("/a"),), id="only a call"),
    pytest.param(f"I'll look.\n{BLOCK}", (Text("I'll look."), called("/a")), id="text, then a call"),
    pytest.param(f"\n\n I'll look. \n\n{BLOCK}\n\n", (Text("I'll look."), called("/a")), id="blanks around"),
    pytest.param(PAIR, (called("/a"), called("/b", 1)), id="two calls in one block"),
    pytest.param(
        f"One.\n{BLOCK}\nTwo.\n{BLOCK.replace('/a', '/b')}",
        (Text("One."), called("/a"), Text("Two."), called("/b", 1)),
        id="two blocks with text between",
    ),
    pytest.param(
        f"I'll look. {BLOCK}", (Text("I'll look."), called("/a")), id="on the line of the text, at the very end"
    ),
    pytest.param("  " + BLOCK.replace("\n", "\n  "), (called("/a"),), id="indented"),
    pytest.param(BLOCK.replace("\n", "\r\n"), (called("/a"),), id="CRLF between the tags"),
    pytest.param(BLOCK.replace("\n", ""), (called("/a"),), id="all on one line"),
    pytest.param(BLOCK.replace("\n", "\n\n"), (called("/a"),), id="empty lines between the tags"),
    pytest.param(
        f"```python\nx = 1\n```\n{BLOCK}", (Text("```python\nx = 1\n```"), called("/a")), id="after a closed fence"
    ),
    pytest.param(
        f"`<invoke>` it is:\n{BLOCK}", (Text("`<invoke>` it is:"), called("/a")), id="after a tag in the text"
    ),
    pytest.param(BLOCK.removeprefix("<function_calls>\n"), (called("/a"),), id="without the opening of the block"),
    pytest.param(BLOCK.removesuffix("\n</function_calls>"), (called("/a"),), id="without the end of the block"),
    pytest.param(BLOCK.replace('"Read">', '"Read" >'), (called("/a"),), id="a blank in a tag"),
    pytest.param(BLOCK.replace("Read", "read"), (called("/a"),), id="the tool in another case"),
    pytest.param(BLOCK.replace("Read", "functions.Read"), (called("/a"),), id="the tool with a namespace"),
    pytest.param(
        f"So:\n```xml\n{BLOCK}\n```", (Text("So:"), called("/a")), id="in a fence that is the whole tail of the reply"
    ),
    pytest.param(f"  ```\n  {BLOCK}\n  ```", (called("/a"),), id="in an indented fence"),
    pytest.param(f"So:\n~~~\n{BLOCK}", (Text("So:"), called("/a")), id="in a fence that is not closed"),
    pytest.param(
        f"<think>\nA file.\n</think>\n{BLOCK}", (Thinking("A file.", SIGNATURE), called("/a")), id="behind thinking"
    ),
    pytest.param(
        f"[THINK]A file.[/THINK]\n{BLOCK}",
        (Thinking("A file.", SIGNATURE), called("/a")),
        id="behind thinking in brackets",
    ),
    pytest.param(BLOCK.replace("\n", "").replace("/a", "<think>"), (called("<think>"),), id="that names a tag"),
    pytest.param(
        BLOCK.replace("\n", "") + "<think>Done.</think>",
        (Thinking("Done.", SIGNATURE), called("/a")),
        id="before thinking on the same line",
    ),
]


@pytest.mark.parametrize(("text", "content"), CALLS)
def test_text_and_calls_become_blocks_in_their_order(text: str, content: tuple[ContentBlock, ...]) -> None:
    assert read(text) == Reply(content, "tool_use")


CUT_OFF = [
    pytest.param("\nI have now read the file. It says hello.", id="words"),
    pytest.param('\n<tool_result name="Read">\nhello\n</tool_result>\nSo it says hello.', id="an invented result"),
    pytest.param("\n\nHuman: thanks\n\nAssistant: you are welcome", id="invented turns"),
    pytest.param(f'\n<tool_result name="Read">\nhello\n</tool_result>\n{BLOCK}', id="calls after an invented result"),
    pytest.param("\n```\ncode\n```", id="a fence"),
    pytest.param("\n</function_calls>", id="a closing tag too many"),
]


@pytest.mark.parametrize("more", CUT_OFF)
def test_what_follows_the_last_call_is_cut(more: str) -> None:
    assert read(f"I'll look.\n{BLOCK}{more}") == Reply((Text("I'll look."), called("/a")), "tool_use")


def test_everything_from_an_invented_turn_in_brackets_on_is_cut() -> None:
    assert read(f"Shall I? [INST]Yes, do.[/INST]\n{BLOCK}") == Reply((Text("Shall I?"),), "end_turn")


@pytest.mark.parametrize(
    "tag", ["<tool_result>", '<tool_result name="Read">', "</tool_result>", '  <tool_result name="x">']
)
def test_everything_from_an_invented_result_on_is_cut(tag: str) -> None:
    assert read(f"I think:\n{tag}\nhello\n{BLOCK}") == Reply((Text("I think:"),), "end_turn")


@pytest.mark.parametrize(
    "text",
    [
        "The results come in <tool_result> tags.",
        "```xml\n<tool_result>\nx\n</tool_result>\n```\nThat is the form.",
        "<tool_resulting> is another tag",
    ],
)
def test_a_result_that_is_only_spoken_of_is_text(text: str) -> None:
    assert read(text) == Reply((Text(text),), "end_turn")


def test_a_vocabulary_that_is_handed_in_changes_nothing() -> None:
    words = Vocabulary(OFFERED)
    for text in (PAIR, BLOCK.replace("Read", "read"), "No call.", "<think>hm</think>"):
        assert read_reply(text, OFFERED, counter(), cut=False, vocabulary=words) == read(text)


def test_only_the_first_call_counts_where_a_single_one_is_asked_for() -> None:
    assert read(f"Both:\n{PAIR}", single_call=True) == Reply((Text("Both:"), called("/a")), "tool_use")
    assert read("No call.", single_call=True) == Reply((Text("No call."),), "end_turn")


# --- no calls ---------------------------------------------------------------------------------------------------------

UNKNOWN = BLOCK.replace("Read", "Launch")
EXAMPLES = [
    pytest.param("Just words.", id="words"),
    pytest.param(f"So:\n```\n{BLOCK}\n```\nThat is how.", id="in a fence"),
    pytest.param(f"So:\n~~~\n{BLOCK}\n~~~\nThat is how.", id="in a fence of tildes"),
    pytest.param(f"So:\n````\n```\n{BLOCK}\n```\n````\nThat is how.", id="in a fence in a fence"),
    pytest.param(f"  ```\n  {BLOCK}\n  ```\nThat is how.", id="in an indented fence"),
    pytest.param(f"So:\n```\nx = 1\n{BLOCK}\n```", id="in a fence at the end that holds more"),
    pytest.param(f"Write `{BLOCK.replace(chr(10), '')}` to read.", id="in inline code"),
    pytest.param(f"Write `{BLOCK.replace(chr(10), '')}`", id="in inline code, at the end"),
    pytest.param(f"Write `{BLOCK.replace(chr(10), '')}", id="in inline code that is not closed"),
    pytest.param(f"The block {BLOCK.replace(chr(10), '')} reads a file.", id="in the middle of a sentence"),
    pytest.param("A block starts with <function_calls> and ends with </function_calls>.", id="tags spoken of"),
    pytest.param('<parameter name="a">1</parameter>', id="a lone parameter"),
]


@pytest.mark.parametrize("text", EXAMPLES)
def test_what_only_looks_like_a_call_is_text(text: str) -> None:
    assert read(text) == Reply((Text(text.strip()),), "end_turn")


def test_an_unknown_tool_stays_text_and_is_named() -> None:
    reply = read(UNKNOWN)
    assert reply == Reply((Text(UNKNOWN),), "end_turn", defect=reply.defect)
    assert "'Launch'" in (reply.defect or "")


def test_an_unknown_tool_among_known_ones_runs_nothing() -> None:
    text = PAIR.replace(
        '<invoke name="Read">\n<parameter name="file_path">/b', '<invoke name="Launch">\n<parameter name="x">/b'
    )
    reply = read(text)
    assert reply == Reply((Text(text),), "end_turn", defect=reply.defect)
    assert "'Launch'" in (reply.defect or "")


def test_an_unknown_tool_stays_text_before_a_call_that_counts() -> None:
    text = f"{UNKNOWN}\nOr rather:"
    assert read(f"{text}\n{BLOCK}") == Reply((Text(text), called("/a")), "tool_use")


@pytest.mark.parametrize("blank", ["", " \n\t "])
def test_an_empty_reply_has_no_blocks(blank: str) -> None:
    assert read(blank) == Reply((), "end_turn", defect="the reply is empty")
    assert read_reply(blank, {}, counter(), cut=False) == Reply((), "end_turn", defect="the reply is empty")


@pytest.mark.parametrize("text", [BLOCK, f"Words.\n{BLOCK}\nMore.", "<tool_result>\nx", "words"])
def test_without_tools_the_text_is_taken_as_it_is(text: str) -> None:
    assert read_reply(text, {}, counter(), cut=False) == Reply((Text(text),), "end_turn")


def argument(schema: Json, written: str) -> Any:
    """What becomes of an optional argument `v`; ABSENT where it is left out."""
    text = (
        f'<function_calls>\n<invoke name="T">\n<parameter name="v">{written}</parameter>\n</invoke>\n</function_calls>'
    )
    (block,) = read_reply(text, by_name(tool("T", {"v": schema})), counter(), cut=False).content
    assert isinstance(block, ToolUse)
    return block.input.get("v", ABSENT)


INTEGERS = {"type": "array", "items": INTEGER}


@pytest.mark.parametrize(
    ("schema", "written", "value"),
    [
        (INTEGER, "7", 7),
        (INTEGER, " 7 ", 7),
        (INTEGER, "7.0", 7),
        (INTEGER, "", ABSENT),
        (BOOLEAN, "True", True),
        (STRING, "7", "7"),
        (STRING, "", ""),
        (INTEGERS, '["1", 2]', [1, 2]),
        ({"type": "array", "items": STRING}, "*.py", ["*.py"]),
        ({"type": "array", "items": STRING}, "[5]", ["5"]),
    ],
)
def test_arguments_are_brought_to_the_types_of_the_schema(schema: Json, written: str, value: Any) -> None:
    found = argument(schema, written)
    assert (found, type(found)) == (value, type(value))


def test_an_optional_argument_that_is_written_as_null_is_left_out() -> None:
    assert argument(INTEGER, "null") is ABSENT


# --- replies that were cut off ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["A long story", "```\ncode"])
def test_a_text_that_was_cut_off_says_so(text: str) -> None:
    assert read(text, cut=True) == Reply((Text(text),), "max_tokens", truncated=True)
    assert read_reply(text, {}, counter(), cut=True) == Reply((Text(text),), "max_tokens", truncated=True)


def test_an_empty_reply_that_was_cut_off_says_so() -> None:
    assert read("", cut=True) == Reply((), "max_tokens", truncated=True)


TRUNCATED = [
    pytest.param("I'll write it.\n<function_calls>", id="after the block's tag"),
    pytest.param('I\'ll write it.\n<function_calls>\n<invoke name="Write">', id="after the invoke's tag"),
    pytest.param(
        'I\'ll write it.\n<function_calls>\n<invoke name="Write">\n<parameter name="content">\nimport', id="in a value"
    ),
    pytest.param(
        'I\'ll write it.\n<invoke name="Write">\n<parameter name="content">\na\n</parameter>\n',
        id="before the invoke's end",
    ),
]


@pytest.mark.parametrize("cut", [True, False], ids=["known to be cut", "not known to be cut"])
@pytest.mark.parametrize("text", TRUNCATED)
def test_a_truncated_call_is_never_run(text: str, cut: bool) -> None:
    assert read(text, cut=cut) == Reply((Text("I'll write it."),), "max_tokens", truncated=True)


@pytest.mark.parametrize("cut", [True, False], ids=["known to be cut", "not known to be cut"])
def test_the_whole_calls_before_a_truncated_one_are_run(cut: bool) -> None:
    text = PAIR[: PAIR.index("/b")]
    assert read(text, cut=cut) == Reply((called("/a"),), "tool_use", truncated=True)


@pytest.mark.parametrize("behind", ["", "\n \n", "\nWords.", "\n<", "\n</"])
def test_the_last_call_of_a_reply_that_was_cut_off_is_not_run(behind: str) -> None:
    """The tags that seem to end it may stand in its value, which goes on behind the limit."""
    whole = Reply((Text("Words."), called("/a")), "tool_use", truncated=True)
    assert read(f"Words.\n{PAIR}{behind}", cut=True) == whole
    assert read(f"Words.\n{BLOCK}{behind}", cut=True) == Reply((Text("Words."),), "max_tokens", truncated=True)


# A file that speaks of the notation. Nothing but the cut tells that its tags are not the call's own.
FILE_CUT_OFF = """\
<function_calls>
<invoke name="Write">
<parameter name="file_path">/doc.md</parameter>
<parameter name="content">
A call ends with
</parameter>
</invoke>
</function_calls>
"""


@pytest.mark.parametrize("more", ["and then come the results", "or\n</function_calls>\n.", "`</invoke>`"])
def test_tags_in_a_file_that_was_cut_off_do_not_make_its_call_whole(more: str) -> None:
    reply = read(FILE_CUT_OFF + more, cut=True)
    assert calls_of(reply) == []
    assert reply.stop_reason == "max_tokens"


@pytest.mark.parametrize("more", ["and then come the results", f"Another one:\n{BLOCK}", f"```\n{BLOCK}"])
def test_nothing_behind_the_doubtful_call_counts(more: str) -> None:
    assert read(FILE_CUT_OFF + more, cut=True) == Reply((), "max_tokens", truncated=True)


SEQUENCE = [
    Call("Write", {"file_path": "/a.py", "content": "import sys\n\nprint(1 < 2)\n"}),
    Call("Read", {"file_path": "/b", "offset": 5}),
    Call("Bash", {"command": "ls\nls -a", "run_in_background": False}),
]
WRITTEN = "First.\n" + write_calls(SEQUENCE, OFFERED)


def calls_of(reply: Reply) -> list[Call]:
    return [Call(block.name, block.input) for block in reply.content if isinstance(block, ToolUse)]


@pytest.mark.parametrize("cut", [True, False], ids=["known to be cut", "not known to be cut"])
def test_wherever_a_reply_is_cut_off_no_call_is_run_that_is_not_whole(cut: bool) -> None:
    for end in range(len(WRITTEN)):
        reply = read(WRITTEN[:end], cut=cut)
        whole = WRITTEN[:end].count("</invoke>")
        assert calls_of(reply) == SEQUENCE[: len(calls_of(reply))]
        assert len(calls_of(reply)) <= whole
        assert (reply.stop_reason == "tool_use") == bool(calls_of(reply))


def test_wherever_a_reply_ends_its_whole_calls_are_run() -> None:
    for end in range(len(WRITTEN)):
        whole = WRITTEN[:end].count("</invoke>")
        assert calls_of(read(WRITTEN[:end])) == SEQUENCE[:whole]


def test_wherever_a_reply_is_cut_off_its_calls_before_the_last_one_are_run() -> None:
    for end in range(len(WRITTEN)):
        begun = len(re.findall("<invoke name=[^>]*>", WRITTEN[:end]))
        assert calls_of(read(WRITTEN[:end], cut=True)) == SEQUENCE[: max(0, begun - 1)]


@pytest.mark.parametrize("piece", ["<", "</"])
def test_a_tag_that_is_cut_off_before_its_name_is_no_text_behind_the_calls(piece: str) -> None:
    text = BLOCK.removesuffix("</function_calls>") + piece
    assert read(text) == Reply((called("/a"),), "tool_use", truncated=True)


# --- any reply at all -------------------------------------------------------------------------------------------------

SOUP = (
    *("<function_calls>", "</function_calls>", '<invoke name="Read">', '<invoke name="Launch">', "</invoke>"),
    *('<parameter name="file_path">', '<parameter name="offset">', '<parameter name="zip">', "</parameter>"),
    *("<tool_result>", "</tool_result>", "```", "~~~", "`", "\n", "\n", "\n", " ", "5", "words", BLOCK, PAIR, "<inv"),
)
soups = st.lists(st.sampled_from(SOUP), max_size=30).map("".join)


@examples(500)
@given(soups, st.booleans(), st.booleans())
def test_any_soup_of_tags_gives_a_proper_message(text: str, cut: bool, single_call: bool) -> None:
    reply = read(text, cut=cut, single_call=single_call)
    calls = [block for block in reply.content if isinstance(block, ToolUse)]
    assert all(block.text.strip() for block in reply.content if isinstance(block, Text))
    assert all(call.name in OFFERED for call in calls)
    assert [call.id for call in calls] == [f"toolu_{number}" for number in range(len(calls))]
    assert len(calls) <= 1 or not single_call
    assert len(calls) <= text.count("</invoke>")
    if calls:
        assert reply.stop_reason == "tool_use"
        assert reply.content[-1] == calls[-1]
    else:
        assert reply.stop_reason in ("end_turn", "max_tokens")
        assert reply.stop_reason == "max_tokens" or not cut


TAGS = re.compile(r"invoke|function_calls>|tool_result|^[ \t]*<inv\Z", re.MULTILINE)


@examples(200)
@given(soups.filter(lambda text: not TAGS.search(text)))
def test_a_reply_without_tags_is_its_text(text: str) -> None:
    reply = read(text)
    assert reply == Reply((Text(text.strip()),) if text.strip() else (), "end_turn", defect=reply.defect)
    assert (reply.defect is None) == bool(text.strip())


INVOKE = '<invoke name="Bash"><parameter name="command">'
ENDLESS = [
    pytest.param(BLOCK + "\n", "", id="calls"),
    pytest.param(BLOCK.replace("\n", "") + " words\n", "", id="calls and words"),
    pytest.param("x " + BLOCK.replace("\n", "") + "\n", "", id="calls behind words"),
    pytest.param("<function_calls>\n", "", id="opened blocks"),
    pytest.param(INVOKE, "", id="opened invokes"),
    pytest.param(INVOKE, "</parameter></invoke>", id="opened invokes, one closed"),
    pytest.param("</parameter></invoke>", "", id="closing tags"),
    pytest.param(f"x {INVOKE}</parameter>\n", "", id="values"),
    pytest.param('<parameter name="command">a</parameter>', "", id="parameters"),
    pytest.param("```\n", "", id="fences"),
    pytest.param("`<invoke name=", "", id="halves of tags"),
    pytest.param(
        f"x {INVOKE}\n",
        "</parameter></invoke></function_calls> end",
        id="blocks behind words that all end together",
    ),
]


@pytest.mark.parametrize("cut", [True, False], ids=["cut", "whole"])
@pytest.mark.parametrize(("piece", "end"), ENDLESS)
def test_reading_takes_time_in_proportion_to_the_text(piece: str, end: str, cut: bool) -> None:
    some = steps(lambda: read(piece * 100 + end, cut=cut))
    more = steps(lambda: read(piece * 400 + end, cut=cut))
    assert more < 6 * some
