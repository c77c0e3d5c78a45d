"""Content blocks: what each becomes, where it may stand, and the words for what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from core_samples import (
    IMAGE,
    IMAGE_BY_URL,
    LENIENT,
    NEW,
    PDF,
    PLAIN,
    Json,
    assistant,
    body,
    call,
    conversation,
    document,
    reference,
    result,
    system,
    text,
    user,
)

from claude_proxy.core.messages.blocks import DROPPED, READERS
from claude_proxy.core.messages.content import Block, Document, Image, Text, ToolReference, ToolResult, ToolUse
from claude_proxy.core.messages.json_node import Rules
from claude_proxy.core.messages.request import parse_request
from claude_proxy.errors import InvalidRequest

BLOCK_TAGS = ", ".join(f"'{kind}'" for kind in READERS)
SYSTEM_HOLDS = "role 'system' supports text, tool_addition, and tool_removal blocks only"
SEARCH: Json = {"type": "search_result", "source": "https://h", "title": "T", "content": [text("a"), text("b")]}


def read(*blocks: Any, rules: Rules = LENIENT) -> tuple[Block, ...]:
    """What the blocks of one user message become."""
    return parse_request(body(messages=[{"role": "user", "content": list(blocks)}]), rules).messages[0].content


def fault(messages: list[Json], rules: Rules = LENIENT) -> str:
    with pytest.raises(InvalidRequest) as caught:
        parse_request(body(messages=messages), rules)
    return caught.value.message


# --- what they become -------------------------------------------------------------------------------------------------

READ: list[tuple[str, Json, Block]] = [
    ("text", text(" a\n"), Text(" a\n")),
    ("text of an echo", text("a", citations=None, cache_control=None), Text("a")),
    ("an image", IMAGE, Image("image/png", "iVBORw0K")),
    ("an image by its address", IMAGE_BY_URL, Image(url="https://example.org/a.png")),
    ("a PDF", PDF, Document(pdf="JVBERi0=")),
    ("a PDF with a title", {**PDF, "title": "T", "context": "C"}, Document("T", "C", pdf="JVBERi0=")),
    ("a document of plain text", PLAIN, Document(content=(Text("plain words"),))),
    ("a document of a string", document({"type": "content", "content": "a"}), Document(content=(Text("a"),))),
    (
        "a document of blocks",
        document({"type": "content", "content": [text("a"), IMAGE]}, citations={"enabled": True}),
        Document(content=(Text("a"), Image("image/png", "iVBORw0K"))),
    ),
    ("a search result", SEARCH, Text("T - https://h\na\nb")),
    (
        "the state of a browser",
        {"type": "browser_state", "tabs": [{"url": "é"}], "cache_control": None},
        Text('[Browser state: {"tabs": [{"url": "é"}]}]'),
    ),
    ("a summary", {"type": "compaction", "content": "so far"}, Text("so far")),
    ("a result", result("t", "done"), ToolResult("t", (Text("done"),))),
    (
        "a result with everything",
        result("t", [text("x"), IMAGE, PDF, PLAIN, SEARCH, reference("Edit")], is_error=True, toolset_name=None),
        ToolResult(
            "t",
            (
                Text("x"),
                Image("image/png", "iVBORw0K"),
                Document(pdf="JVBERi0="),
                Document(content=(Text("plain words"),)),
                Text("T - https://h\na\nb"),
                ToolReference("Edit"),
            ),
            is_error=True,
        ),
    ),
]


@pytest.mark.parametrize(("block", "becomes"), [row[1:] for row in READ], ids=[row[0] for row in READ])
def test_a_block_of_a_user_message(block: Json, becomes: Block) -> None:
    assert read(block) == (becomes,)


@pytest.mark.parametrize("empty", [None, "", " ", [], [text(" ")]], ids=repr)
def test_a_result_may_be_empty(empty: Any) -> None:
    assert read(result("a", empty)) == (ToolResult("a"),)


def test_a_call_may_come_with_the_extras_of_an_echo() -> None:
    echoed = {**call("t", "Read"), "caller": {"type": "direct"}, "toolset_name": None}
    request = conversation(user("a"), assistant(echoed), user(result("t")))
    assert request.messages[1].content == (ToolUse("t", "Read", {}),)
    assert request.ignored == 0


def test_a_summary_without_content_says_nothing() -> None:
    assert read(text("x"), {"type": "compaction", "content": None, "signature": "s"}) == (Text("x"),)


@pytest.mark.parametrize("kind", sorted(DROPPED))
def test_what_says_nothing_to_another_model_is_left_out(kind: str) -> None:
    request = conversation(user("a"), assistant({"type": kind, "anything": [1]}, "b"), user("c"))
    assert request.messages[1].content == (Text("b"),)
    assert request.ignored == 0


@pytest.mark.parametrize("blank", ["", " \n\t"])
def test_blank_texts_are_left_out(blank: str) -> None:
    assert read(text(blank), text("a")) == (Text("a"),)
    assert conversation({"role": "user", "content": blank}).messages[0].content == ()


def test_a_string_is_one_text_block() -> None:
    as_string = {"role": "user", "content": "hello"}
    assert conversation(as_string) == conversation(user("hello"))
    assert read(result("a", "b")) == read(result("a", [text("b")]))


def test_unknown_keys_are_counted() -> None:
    blocks: list[Json] = [text("a", new=1), {**IMAGE, "new": 1}, {**PLAIN, "new": 1}, {**reference("x"), "new": 1}]
    assert conversation({"role": "user", "content": blocks}).ignored == 4


# --- what is refused --------------------------------------------------------------------------------------------------

FAULTS: list[tuple[Any, str]] = [
    # a block of a user message, and the fault behind its path
    ("text", ": Input should be a valid dictionary"),
    ({"text": "a"}, ".type: Field required"),
    ({"type": None}, ".type: Field required"),
    (
        {"type": "video"},
        f": Input tag 'video' found using 'type' does not match any of the expected tags: {BLOCK_TAGS}",
    ),
    ({"type": "text"}, ".text.text: Field required"),
    ({"type": "text", "text": ["a"]}, ".text.text: Input should be a valid string"),
    ({"type": "image"}, ".image.source: Field required"),
    ({"type": "image", "source": {}}, ".image.source.type: Field required"),
    ({"type": "image", "source": {"type": "ftp"}}, ".image.source.type: Input should be 'base64' or 'url'"),
    ({"type": "image", "source": {"type": "base64", "data": "x"}}, ".image.source.media_type: Field required"),
    (
        {"type": "image", "source": {"type": "file", "file_id": "f"}},
        ".image.source: there are no uploaded files on this server: send the content itself as a base64 source",
    ),
    (document("a"), ".document.source: Input should be a valid dictionary"),
    (document({"type": "text"}), ".document.source.data: Field required"),
    (document({"type": "ftp"}), ".document.source.type: Input should be 'base64', 'text' or 'content'"),
    (document({"type": "base64", "data": "x"}), ".document.source.media_type: Field required"),
    (
        document({"type": "base64", "media_type": "text/html", "data": "x"}),
        ".document.source.media_type: Input should be 'application/pdf'",
    ),
    (
        document({"type": "url", "url": "https://h"}),
        ".document.source: this server fetches no documents: send the content itself as a base64 or text source",
    ),
    (
        document({"type": "file", "file_id": "f"}),
        ".document.source: there are no uploaded files on this server: send the content itself as a base64 source",
    ),
    (
        document({"type": "content", "content": [PLAIN]}),
        ".document.source.content.0: `document` blocks hold image and text blocks only",
    ),
    ({**SEARCH, "content": [SEARCH]}, ".search_result.content.0: `search_result` blocks hold text blocks only"),
    ({"type": "search_result"}, ".search_result.content: Field required"),
    ({"type": "container_upload"}, ".container_upload: there are no containers on this server: leave this block out"),
    ({"type": "tool_result"}, ".tool_result.tool_use_id: Field required"),
    (result("a", 5), ".tool_result.content: Input should be a valid list"),
    (result("a", [text(5)]), ".tool_result.content.0.text.text: Input should be a valid string"),
    (result("a", is_error="no"), ".tool_result.is_error: Input should be a valid boolean"),
    (result("a", [result("b")]), ".tool_result.content.0: a tool_result holds no calls or results"),
    (result("a", [call("b", "c")]), ".tool_result.content.0: a tool_result holds no calls or results"),
    (
        result("a", [{"type": "audio"}]),
        ".tool_result.content.0: Input tag 'audio' found using 'type' does not match any of the expected tags: "
        + BLOCK_TAGS,
    ),
    (result("a", [{"type": "tool_reference"}]), ".tool_result.content.0.tool_reference.tool_name: Field required"),
    (call("a", "Read"), ": `tool_use` blocks can only be in `assistant` messages"),
    ({"type": "tool_addition", "tool": {}}, ": `tool_addition` blocks can only be in `system` messages"),
    ({"type": "compaction", "content": 5}, ".compaction.content: Input should be a valid string"),
]


@pytest.mark.parametrize(("block", "message"), FAULTS, ids=[message[:70] for _, message in FAULTS])
def test_a_fault_names_the_block(block: Any, message: str) -> None:
    assert fault([user("a"), assistant("b"), {"role": "user", "content": [block]}]) == f"messages.2.content.0{message}"


ELSEWHERE: list[tuple[Json, str]] = [
    (assistant("b", result("a")), "messages.1.content.1: `tool_result` blocks can only be in `user` messages"),
    (assistant("b", IMAGE), "messages.1.content.1: `image` blocks can only be in `user` messages"),
    (
        assistant({"type": "tool_use", "name": "Read", "input": {}}),
        "messages.1.content.0.tool_use.id: Field required",
    ),
    (
        assistant({"type": "tool_use", "id": "i", "input": {}}),
        "messages.1.content.0.tool_use.name: Field required",
    ),
    (
        assistant({"type": "tool_use", "id": "i", "name": "n", "input": "{}"}),
        "messages.1.content.0.tool_use.input: Input should be a valid dictionary",
    ),
    *(
        (system(block), f"messages.1.content.0: {SYSTEM_HOLDS}")
        for block in (IMAGE, PDF, result("a"), call("a", "Read"), reference("x"))
    ),
    (
        system({"type": "tool_addition", "tool": {"type": "mcp_toolset_reference", "name": "x"}}),
        "messages.1.content.0.tool_addition.tool: this server connects to no MCP servers: reference a tool by name",
    ),
    (system({"type": "tool_removal"}), "messages.1.content.0.tool_removal.tool: Field required"),
]


@pytest.mark.parametrize(("message", "words"), ELSEWHERE, ids=[words[:80] for _, words in ELSEWHERE])
def test_a_block_in_the_wrong_place_or_of_another_role(message: Json, words: str) -> None:
    assert fault([user("a"), message, user("c")]) == words


LET_PASS: list[tuple[str, Json, int]] = [
    ("an unknown key", text("a", new=1), 1),
    ("an unknown key of an image", {**IMAGE, "new": 1}, 1),
    ("a cache mark that nobody knows", text("", cache_control={"type": "forever"}), 0),
    (
        "an image of another type",
        {"type": "image", "source": {"type": "base64", "media_type": "image/bmp", "data": "x"}},
        0,
    ),
    ("a user's thinking", {"type": "thinking", "thinking": "x", "signature": "s"}, 0),
]


@pytest.mark.parametrize(("block", "ignored"), [row[1:] for row in LET_PASS], ids=[row[0] for row in LET_PASS])
def test_what_harms_nobody_is_let_pass(block: Json, ignored: int) -> None:
    assert conversation(user("a", block)).ignored == ignored


def test_a_search_result_may_stand_in_a_reply() -> None:
    assert len(conversation(user("a"), assistant("b", SEARCH), user("c")).messages[1].content) == 2


BY_VERSION: list[tuple[str, list[Json], str]] = [
    (
        "a document of the assistant",
        [user("a"), assistant(PLAIN), user("b")],
        "messages.1.content.0: `document` blocks can only be in `user` messages",
    ),
    (
        "citations on a user's text",
        [user(text("a", citations=[{"type": "char_location"}]))],
        "messages.0.content.0.citations: Extra inputs are not permitted",
    ),
    (
        "citations in a search result",
        [user({**SEARCH, "content": [text("a", citations=[{"type": "char_location"}])]})],
        "messages.0.content.0.search_result.content.0.citations: Extra inputs are not permitted",
    ),
]


@pytest.mark.parametrize(("messages", "message"), [row[1:] for row in BY_VERSION], ids=[row[0] for row in BY_VERSION])
def test_the_new_version_refuses_what_the_old_one_allows(messages: list[Json], message: str) -> None:
    parse_request(body(messages=messages))
    assert fault(messages, NEW) == message


def test_empty_citations_are_no_citations() -> None:
    assert read(text("a", citations=[]), rules=NEW) == (Text("a"),)
    parse_request(body(messages=[user("a"), assistant(text("b", citations=[{}])), user("c")]), NEW)
