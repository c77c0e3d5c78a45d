"""Edit mending: an edit's old text is corrected to what the conversation has shown."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from core_samples import Json, evil_texts, examples
from hypothesis import given
from hypothesis import strategies as st

from claude_proxy.core.messages.content import Image, MessageParam, Text, ToolResult, ToolUse
from claude_proxy.core.prompt.armour import could_be_decoded, find
from claude_proxy.core.reply.edit_mending import Shown, mend_edit, shown_texts
from claude_proxy.demo.php import html_entity_decode


def edit(old: str, new: str = "new", **more: object) -> Json:
    return {"file_path": "/a∑.c", "old_string": old, "new_string": new, **more}


def mended(arguments: Json, *shown: str) -> Json | None:
    return mend_edit(arguments, Shown(shown))


FILE = "#include <a.h>\nint *p = &sum;\nif (5 &lt; 6)\n    return 'ü';\n"

MENDED = [
    # what was shown, the edit's texts, and what they should have been
    pytest.param([FILE], ("int *p = ∑", "q"), ("int *p = &sum;", "q"), id="a part of a line"),
    pytest.param([FILE], ("if (5 < 6)", "if (5 < 7)"), ("if (5 &lt; 6)", "if (5 &lt; 7)"), id="a changed line"),
    pytest.param(
        [FILE],
        ("int *p = ∑\nif (5 < 6)", "int *p = ∑\nint q;\nif (5 < 7)"),
        ("int *p = &sum;\nif (5 &lt; 6)", "int *p = &sum;\nint q;\nif (5 &lt; 7)"),
        id="lines that the new text shares and others are meant alike",
    ),
    pytest.param([FILE], ("9\tint *p = &sum;", "9\tint q;"), ("int *p = &sum;", "int q;"), id="line numbers"),
    pytest.param(["a\nb"], ("  7→a\n  8→b", "  7→a\n  8→c"), ("a\nb", "a\nc"), id="other line numbers"),
    pytest.param(["it&#39;s"], ("it's", ""), ("it&#39;s", ""), id="an apostrophe"),
    pytest.param(["&sum;", "words", "x = &sum; and &sum;"], ("∑", "∑"), ("&sum;", "&sum;"), id="one twin, many times"),
    pytest.param(["a &amp;lt; b"], ("a &lt; b", ""), ("a &amp;lt; b", ""), id="an escaped ampersand"),
    pytest.param(
        ["<a> &sum; 'x'"], ("∑", "∑ <b> 'y'"), ("&sum;", "&sum; <b> 'y'"), id="what the file writes as it is stays so"
    ),
    pytest.param(
        ["&eacute; &sum;"], ("∑", "é∑"), ("&sum;", "&eacute;&sum;"), id="an entity from elsewhere in the file"
    ),
    pytest.param(
        ["&sum; &lt; &eacute;"], ("∑ &lt;", "é &lt;"), ("&sum; &lt;", "&eacute; &lt;"), id="an entity that was kept"
    ),
    pytest.param(["a &amp;lt; b"], ("a &lt; b", "c &lt; d"), ("a &amp;lt; b", "c &amp;lt; d"), id="an escaped one"),
    pytest.param(
        ["<p>1 &lt; 2</p>\n<p>2</p>"],
        ("<p>1 < 2</p>\n<p>2</p>", "<p>1 < 2</p>\n<p>3</p>"),
        ("<p>1 &lt; 2</p>\n<p>2</p>", "<p>1 &lt; 2</p>\n<p>3</p>"),
        id="what a changed line shares with the one it replaces",
    ),
    pytest.param(["&sum;&sum;x&sum;"], ("∑x", ""), ("&sum;x", ""), id="from the middle on"),
]


@pytest.mark.parametrize(("shown", "written", "meant"), MENDED)
def test_an_edit_is_mended_to_the_text_that_was_shown(
    shown: list[str], written: tuple[str, str], meant: tuple[str, str]
) -> None:
    assert mended(edit(*written, replace_all=True), *shown) == edit(*meant, replace_all=True)


@pytest.mark.parametrize("names", [("old_str", "new_str"), ("oldText", "newText"), ("OLD_STRING", "NEW_STRING")])
def test_edits_of_other_tools_are_mended_whatever_they_call_their_texts(names: tuple[str, str]) -> None:
    assert mended(dict(zip(names, ("∑", "∑"), strict=True)), FILE) == dict(zip(names, ("&sum;", "&sum;"), strict=True))


NOTHING = [
    pytest.param([FILE, "int *p = ∑"], edit("int *p = ∑"), id="shown as it is, too"),
    pytest.param(["9\tx"], edit("9\tx"), id="line numbers that were shown"),
    pytest.param(["x"], edit("9\ty"), id="line numbers before what was not shown"),
    pytest.param(["x\ny"], edit("8\tx\n10\ty"), id="numbers that do not follow each other"),
    pytest.param(["&sum; x", "&#8721; x"], edit("∑ x"), id="two twins"),
    pytest.param(["&sum; x &#8721; x"], edit("∑ x"), id="two twins in one text"),
    pytest.param([FILE], edit("int *q = ∑"), id="nothing like it was shown"),
    pytest.param([], edit("∑"), id="nothing was shown"),
    pytest.param(["∑ &sum; x"], edit("∑ x", "∑ é"), id="a new character that the file does not have"),
    pytest.param(["x &sum; é &eacute;"], edit("x ∑", "x é"), id="a new character that the file writes in two ways"),
    pytest.param(["&sum;<&lt;"], edit("∑<<", "<"), id="an old character that the file writes in two ways"),
    pytest.param(["&sum; &lt;"], edit("∑", "&lt;"), id="an entity in the new text, and none in the old one"),
    pytest.param(["x&lt;\nx<"], edit("x<\nx<", "x<"), id="a line that the old text has twice, in two ways"),
    pytest.param(["a&#10;∑"], edit("a\n∑", "b"), id="an entity for the end of a line"),
    pytest.param(["a\nb"], edit("7\ta\n8\tb", "7\ta\n7\tc\n8\tb"), id="line numbers that are in disorder"),
    pytest.param(["&lt;" * 1000], edit("<" * 500), id="very many twins that overlap"),
    pytest.param([FILE], {"file_path": "/a", "content": "int *p = ∑"}, id="no edit"),
    pytest.param([FILE], {"old_string": ["∑"], "new_string": None}, id="no text"),
    pytest.param([FILE], {}, id="no arguments"),
]


@pytest.mark.parametrize(("shown", "arguments"), NOTHING)
def test_nothing_is_mended_without_need_or_in_doubt(shown: list[str], arguments: Json) -> None:
    assert mended(arguments, *shown) is None


@pytest.mark.parametrize("arguments", [edit("plain words\n(1 + 2)"), edit(""), {"command": "∑"}])
def test_the_conversation_is_not_searched_for_an_edit_that_cannot_be_wrong(arguments: Json) -> None:
    class Untouchable(tuple[str, ...]):
        def __iter__(self) -> Iterator[str]:
            raise AssertionError("the conversation was gone through")

    assert mend_edit(arguments, Shown(Untouchable())) is None


def test_an_edit_with_only_some_entities_decoded_is_mended() -> None:
    assert mended(edit("int *p = ∑\nif (5 &lt; 6)"), FILE) == edit("int *p = &sum;\nif (5 &lt; 6)")


def test_text_that_would_have_to_be_decoded_twice_is_left_alone() -> None:
    assert mended(edit("5 < 6 ∑"), "5 &amp;lt; 6 &sum;") is None


@examples(300)
@given(evil_texts, evil_texts, evil_texts)
def test_the_mended_text_was_shown_and_decodes_to_what_was_written(before: str, old: str, after: str) -> None:
    written = html_entity_decode(old)
    found = mended(edit(written), f"{before}\n{old}\n{after}")
    if found is not None:
        assert found["old_string"] != written
        assert html_entity_decode(found["old_string"]) == written
    elif written != old and "\t" not in old and could_be_decoded(written):
        # Left alone only where it was shown as it is or where it is in doubt.
        shown = f"{before}\n{old}\n{after}"
        assert written in shown or html_entity_decode(shown).count(written) > 1


def test_the_texts_of_a_conversation_come_latest_first_without_images_and_calls() -> None:
    messages = [
        MessageParam("user", (Text("a"), Image("image/png", "aGk="))),
        MessageParam("assistant", (Text("b"), ToolUse("t", "Read", {"x": "not this"}))),
        MessageParam("user", (ToolResult("t", (Text("c"), Image("image/png", "aGk="), Text("d"))), Text("e"))),
    ]
    assert list(shown_texts(messages)) == ["e", "c\nd", "b", "a"]


def test_line_numbers_are_removed_from_what_a_file_reading_tool_returned() -> None:
    def shown_by(tool: str) -> list[str]:
        call = MessageParam("assistant", (ToolUse("t", tool, {}),))
        return list(shown_texts([call, MessageParam("user", (ToolResult("t", (Text("  1\ta\n  2→b"),)),))]))

    assert shown_by("Read") == ["a\nb"]
    assert shown_by("Bash") == ["  1\ta\n  2→b"]


# --- the decoding that mistakes are recognized by ---------------------------------------------------------------------

_NUMBERS = st.builds(
    lambda number, form: form.format(number),
    st.integers(0, 0x110100) | st.sampled_from([9, 10, 13, 31, 32, 126, 127, 128, 159, 160, 0xD7FF, 0xD800, 0xE000]),
    st.sampled_from(["&#{};", "&#x{:x};", "&#X{:X};", "&#000{};", "&#{}", "&#x0{:x}; "]),
)


@examples(400)
@given(st.lists(evil_texts | _NUMBERS, max_size=5).map("".join))
def test_entities_are_found_as_the_module_decodes_them(text: str) -> None:
    parts, last = [], 0
    for start, end, character in find(text):
        parts += [text[last:start], character]
        last = end
    assert "".join([*parts, text[last:]]) == html_entity_decode(text)
