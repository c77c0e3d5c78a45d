"""Structured outputs: the document is found however the model wraps it, and is valid against the schema, or nothing."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from core_samples import evil_texts, examples, json_values
from hypothesis import given
from hypothesis import strategies as st

from claude_proxy.core.json_schema.validate import faults
from claude_proxy.core.reply.document import NoDocument, read_document

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "count": {"type": "integer"}},
    "required": ["name"],
    "additionalProperties": False,
}
ADA = '{"name": "Ada"}'

FOUND = [
    # what it is, the reply, the document
    ("in the tag", f"Here it is.\n<output>\n{ADA}\n</output>", ADA),
    ("in the tag, with words behind it", f"<output>{ADA}</output>\nDone.", ADA),
    ("in a tag that is not closed", f"<output>\n{ADA}", ADA),
    ("in a tag in capitals", f"<OUTPUT>{ADA}</OUTPUT>", ADA),
    ("in the last of several tags", f'<output>{{"name": "draft"}}</output>\nBetter:\n<output>{ADA}</output>', ADA),
    ("in a fence in the tag", f"<output>\n```json\n{ADA}\n```\n</output>", ADA),
    ("in a fence", f"Here:\n```json\n{ADA}\n```\nDone.", ADA),
    ("in an indented fence without a language", f"  ```\n{ADA}\n  ```", ADA),
    ("bare", ADA, ADA),
    ("bare, between white space", f"\n {ADA} \n", ADA),
    ("behind an empty tag in the words", f"I write between <output> and </output>:\n<output>{ADA}</output>", ADA),
    ("with the closing tag in a string", '<output>{"name": "a </output> b"}</output>', '{"name": "a </output> b"}'),
    ("with both tags in a string", '<output>{"name": "<output>x</output>"}</output>', '{"name": "<output>x</output>"}'),
    ("written as it was", '<output>{ "name" :\n"é\\u00e9" }</output>', '{ "name" :\n"é\\u00e9" }'),
    ("with a trailing comma", '<output>{"name": "Ada",}</output>', ADA),
    ("in single quotes", "<output>{'name': 'Ada'}</output>", ADA),
    ("with a raw newline in a string", '<output>{"name": "a\nb"}</output>', '{"name": "a\\nb"}'),
]


@pytest.mark.parametrize(("text", "document"), [row[1:] for row in FOUND], ids=[row[0] for row in FOUND])
def test_the_document_is_found(text: str, document: str) -> None:
    assert read_document(text, SCHEMA) == document


NO_DOCUMENT = "it holds no JSON document between <output> and </output>"
MISSING = [
    ("nothing", "", NO_DOCUMENT),
    ("words", "I cannot do that.", NO_DOCUMENT),
    ("words in the tag", "<output>Ada</output>", NO_DOCUMENT),
    ("cut off", '<output>{"name": "A', NO_DOCUMENT),
    ("words before a bare document", f"Here it is: {ADA}", NO_DOCUMENT),
    ("not a number", '<output>{"name": NaN}</output>', "the JSON document is not valid: "),
    ("a wrong type", '<output>{"name": 5}</output>', "the JSON document is not valid: name: "),
    ("a name is missing", "<output>{}</output>", "the JSON document is not valid: "),
    ("a name too many", '<output>{"name": "a", "x": 1}</output>', "the JSON document is not valid: "),
    ("another kind", "<output>[]</output>", "the JSON document is not valid: "),
    ("a later one that is wrong", f"<output>{ADA}</output><output>[]</output>", "the JSON document is not valid: "),
]


@pytest.mark.parametrize(("text", "defect"), [row[1:] for row in MISSING], ids=[row[0] for row in MISSING])
def test_a_reply_without_a_valid_document_has_a_defect_that_says_why(text: str, defect: str) -> None:
    with pytest.raises(NoDocument) as failure:
        read_document(text, SCHEMA)
    assert str(failure.value).startswith(defect)


@pytest.mark.parametrize("value", [5, -0.5, True, None, "a </output>", [1, {"a": []}]], ids=repr)
def test_a_document_may_be_any_json_value(value: Any) -> None:
    written = json.dumps(value)
    assert read_document(f"<output>\n{written}\n</output>", {}) == written


@examples(150)
@given(json_values, evil_texts, st.sampled_from(["<output>\n{}\n</output>", "```json\n{}\n```"]))
def test_any_document_is_read_back_exactly(value: Any, before: str, form: str) -> None:
    if "output>" in before or "```" in before or faults(value, {}):
        return
    written = json.dumps(value, ensure_ascii=False)
    found = read_document(f"{before}\n{form.replace('{}', written)}", {})
    assert json.loads(found) == value or "```" in written


@examples(200)
@given(st.lists(evil_texts | st.sampled_from(["<output>", "</output>", ADA, "{", "}", '"name"', ":", "[", "```"])))
def test_a_document_that_is_returned_is_json_and_valid(pieces: list[str]) -> None:
    with suppress(NoDocument):
        assert faults(json.loads(read_document("".join(pieces), SCHEMA)), SCHEMA) == []
