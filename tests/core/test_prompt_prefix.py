"""Prompts only grow: 95 % of a turn's prompt begin the next one's, byte for byte, so the providers' caches work."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import pairwise
from os.path import commonprefix
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))

import workload

from claude_proxy.core import models, prompt, securechat
from claude_proxy.core.memo import Memo
from claude_proxy.core.request import parse_request

SHARE = 0.95
REMINDER = 250  # characters; it is the end of every prompt, and the only thing that is not kept


def session(size: int) -> Iterator[dict[str, Any]]:
    """The requests of a session, turn by turn, up to one of so many bytes."""
    whole = workload.request(size)
    for end in range(1, len(whole["messages"]) + 1, 2):
        yield whole | {"messages": whole["messages"][:end]}


def sent(request: dict[str, Any], memo: Memo | None, *, armoured: bool) -> str:
    """What the model reads, as it is sent: the system text, then the messages."""
    alias = models.choose_alias("gpt-4.1", {}).alias
    rendered = prompt.render(parse_request(json.dumps(request).encode()), alias, armoured=armoured, memo=memo)
    fields = securechat.form_fields(rendered, token="t", prefix="p", alias=alias, max_tokens=1000)
    return fields["system"] + fields["messages"]


@pytest.mark.parametrize("armoured", [True, False])
def test_each_turn_begins_with_the_last_one(*, armoured: bool) -> None:
    memo = Memo()
    prompts = [sent(request, memo, armoured=armoured) for request in session(300_000)]
    assert len(prompts) > 30
    kept = [len(commonprefix(pair)) for pair in pairwise(prompts)]  # noqa: RUF071 - texts, not paths
    assert all(len(before) - same < REMINDER for before, same in zip(prompts, kept, strict=False))
    assert min(same / len(before) for before, same in zip(prompts, kept, strict=False)) > SHARE
    # Of the whole session, what was new in each turn included:
    assert sum(kept) / sum(map(len, prompts[1:])) > SHARE
