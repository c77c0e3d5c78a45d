"""Message -> JSON, as clients want to see it."""

from __future__ import annotations

import json

import pytest
from core_samples import examples, json_values
from hypothesis import given

from claude_proxy.core.messages.content import Message, Text, Thinking, ToolUse, Usage
from claude_proxy.core.messages.response import error_json, message_json, to_bytes
from claude_proxy.errors import InvalidRequest, ModelOverloaded


def test_a_message() -> None:
    message = Message(
        "msg_1",
        "claude-opus-5-5",
        (Thinking("hm", "sig"), Text("Look:"), ToolUse("toolu_1", "Read", {"file_path": "/a", "n": 1})),
        "tool_use",
        Usage(12, 3),
    )
    assert message_json(message) == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-opus-5-5",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "sig"},
            {"type": "text", "text": "Look:", "citations": None},
            {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"file_path": "/a", "n": 1}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "stop_details": None,
        "container": None,
        "diagnostics": None,
        "usage": {
            "input_tokens": 12,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 3,
            "output_tokens_details": None,
            "server_tool_use": None,
            "service_tier": "standard",
            "inference_geo": None,
            "speed": None,
        },
    }


def test_a_message_may_be_empty() -> None:
    body = message_json(Message("msg_1", "m", (), "end_turn", Usage(1, 1)))
    assert (body["content"], body["stop_reason"]) == ([], "end_turn")


def test_a_stop_sequence_is_reported() -> None:
    body = message_json(Message("msg_1", "m", (Text("a"),), "stop_sequence", Usage(1, 1), stop_sequence="END"))
    assert (body["stop_reason"], body["stop_sequence"]) == ("stop_sequence", "END")


def test_what_the_request_asked_about_is_answered() -> None:
    extras = {"context_management": {"applied_edits": []}, "input_transformations": []}
    body = message_json(Message("msg_1", "m", (), "end_turn", Usage(1, 1), extras=extras))
    assert {key: body[key] for key in extras} == extras


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (InvalidRequest("Field required", "model"), "invalid_request_error", "model: Field required"),
        (ModelOverloaded("Later."), "overloaded_error", "Later."),
    ],
)
def test_the_error_envelope(error: InvalidRequest | ModelOverloaded, kind: str, message: str) -> None:
    assert error_json(error, "req_1") == {
        "type": "error",
        "error": {"type": kind, "message": message},
        "request_id": "req_1",
    }


def test_the_envelope_has_details_where_there_are_any() -> None:
    failure = InvalidRequest("this server keeps no conversations", "thread", details={"error_code": "thread_x"})
    assert error_json(failure, "req_1")["error"] == {
        "type": "invalid_request_error",
        "message": "thread: this server keeps no conversations",
        "details": {"error_code": "thread_x"},
    }


def test_json_is_compact_utf8() -> None:
    assert to_bytes({"a": [1, "é😀"], "b": None}) == '{"a":[1,"é😀"],"b":null}'.encode()


@examples(100)
@given(json_values)
def test_json_reads_back(value: object) -> None:
    assert json.loads(to_bytes(value)) == value


def test_a_lone_surrogate_becomes_a_question_mark() -> None:
    assert to_bytes(["a\ud800b"]) == b'["a?b"]'
