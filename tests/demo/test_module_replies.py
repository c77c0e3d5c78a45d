"""What the real module made of 3,042 replies: the pretend one must make the same of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from claude_proxy.demo.simulator import ModelReply, Received, Simulator

MEASURED = Path(__file__).with_name("module-replies.jsonl")
SHOWN = 5


FIELDS = {"token": "x", "content": "externalModule", "prefix": "secure_chat_ai", "action": "messages"}
FIELDS |= {"messages": '[{"role":"user","content":"hello"}]'}


def answer_of(simulator: Simulator, alias: str) -> dict[str, Any]:
    """What arrives at a client, in the form of the measurements."""
    response = simulator.answer(Received(FIELDS | {"model": alias}))
    if response.status != 200:
        return {"status": response.status}
    body = json.loads(response.body)
    (block,) = body["content"]
    return {"status": 200, "text": block["text"], "stop_reason": body["stop_reason"], **body["usage"]}


def test_every_measured_reply_arrives_as_it_did_from_the_real_module() -> None:
    measured = [json.loads(line) for line in MEASURED.read_text(encoding="utf-8").splitlines()]
    replies = iter([each["reply"] for each in measured])
    simulator = Simulator(lambda _: ModelReply(next(replies), 11, 7))
    differing = []
    for each in measured:
        alias, reply = each.pop("alias"), each.pop("reply")
        if (got := answer_of(simulator, alias)) != each:
            differing.append(f"{alias} wrote {reply!r}: measured {each}, got {got}")
    assert not differing[:SHOWN], f"{len(differing)} of {len(measured)} differ"
    assert len(measured) == 3_042
