"""Prompts only grow: 95 % of a turn's prompt begin the next one's, byte for byte, so the providers' caches work.

What is measured is a recorded session of Claude Code: each request has the shape that it had, with made-up text.
"""

from __future__ import annotations

import json
from itertools import pairwise
from os.path import commonprefix
from typing import Any

import pytest
from recorded_session import SHAPE, conversations

from claude_proxy.core.aliases import mapping
from claude_proxy.core.messages.request import parse_request
from claude_proxy.core.prompt import render
from claude_proxy.core.securechat import form

SHARE = 0.95
REMINDER = 200  # bytes; it is the end of every prompt, and the only thing that is not kept

CONVERSATIONS = conversations()
"""The session's own, and a subagent's."""


def sent(body: dict[str, Any], alias: mapping.Alias, *, armoured: bool) -> bytes:
    """What the model reads, as it is sent: the system text, then the messages."""
    request = parse_request(json.dumps(body).encode())
    rendered = render.render(request, alias, armoured=armoured)
    fields = form.form_fields(rendered, token="t", prefix="p", alias=alias, max_tokens=1000)
    return (fields["system"] + fields["messages"]).encode()


def kept(before: bytes, after: bytes) -> int:
    """How many bytes of a prompt begin the next one."""
    return len(commonprefix([before, after]))  # noqa: RUF071 - texts, not paths


def test_the_session_is_long_and_mixed() -> None:
    calls = [block["name"] for block in SHAPE["blocks"] if block["type"] == "tool_use"]
    assert {"Read", "Bash", "Write", "Edit", "ToolSearch", "TaskCreate", "Agent"} <= set(calls)
    session, subagents = map(len, CONVERSATIONS)
    assert session > 20
    assert subagents > 2


@pytest.mark.parametrize("armoured", [True, False])
@pytest.mark.parametrize("model", ["gpt-4.1", "claude-opus-4"])
def test_each_turn_begins_with_the_last_one(model: str, *, armoured: bool) -> None:
    alias = mapping.choose_alias(model, {}).alias
    prompts = [[sent(body, alias, armoured=armoured) for body in bodies] for bodies in CONVERSATIONS]
    turns = [turn for conversation in prompts for turn in pairwise(conversation)]
    for before, after in turns:
        same = kept(before, after)
        assert same >= SHARE * len(before)
        assert len(before) - same < REMINDER
    # Of all that is sent from the second request of each conversation on, what is new in it included:
    assert sum(kept(*turn) for turn in turns) >= SHARE * sum(len(after) for _, after in turns)
