"""What `exchange` does when a reply cannot be read or was cut off: it asks again, and the client sees one message."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from conftest import PROMPT, Proxy, Redcap, StartProxy

from claude_proxy.core.prompt.armour import armour
from claude_proxy.demo.model import ModelRequest
from claude_proxy.demo.simulator import ModelReply
from claude_proxy.shell.wait.waiter import Waiter

WRITE = {
    "name": "Write",
    "input_schema": {
        "type": "object",
        "properties": {"file_path": {"type": "string"}, "content": {"type": "string"}},
        "required": ["file_path", "content"],
    },
}
EDIT = {
    "name": "Edit",
    "input_schema": {
        "type": "object",
        "properties": {key: {"type": "string"} for key in ("file_path", "old_string", "new_string")},
        "required": ["file_path", "old_string", "new_string"],
    },
}
WITH_TOOLS = {"tools": [WRITE, EDIT], "max_tokens": 32000}


def written(content: str, path: str = "/a.txt") -> str:
    return (
        "I'll write it.\n<function_calls>\n"
        f'<invoke name="Write">\n<parameter name="file_path">{path}</parameter>\n'
        f'<parameter name="content">\n{content}\n</parameter>\n</invoke>\n</function_calls>'
    )


# --- repair -----------------------------------------------------------------------------------------------------------

UNREADABLE = {
    "a tool that is not there": ('<function_calls>\n<invoke name="Save">\n</invoke>\n</function_calls>', "'Save'"),
    "a dialect without what is required": (
        '<tool_call>{"name": "Write", "arguments": {}}</tool_call>',
        "lacks content",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_call_that_cannot_be_read_is_asked_for_once_more(redcap: Redcap, proxy: Proxy, name: str) -> None:
    reply, defect = UNREADABLE[name]
    redcap.queue(reply, written("x"))
    message = proxy.post(WITH_TOOLS).json

    assert [block["type"] for block in message["content"]] == ["text", "tool_use"]
    assert reply not in str(message)
    again = redcap.asked[1].messages
    assert again[-2] == {"role": "assistant", "content": reply}
    assert defect in again[-1]["content"]
    assert "repairs=1" in proxy.journal_line("POST /v1/messages")


def test_the_first_reply_stands_if_the_second_is_no_better(redcap: Redcap, proxy: Proxy) -> None:
    redcap.queue("First.\n" + UNREADABLE["a tool that is not there"][0], "Sorry, I cannot.")
    message = proxy.post(WITH_TOOLS).json
    assert message["stop_reason"] == "end_turn"
    assert message["content"][0]["text"].startswith("First.")


def test_the_first_reply_stands_if_the_second_ask_fails(redcap: Redcap, proxy: Proxy) -> None:
    redcap.queue("First.\n" + UNREADABLE["a tool that is not there"][0])
    redcap.queue_failure()
    assert proxy.post(WITH_TOOLS).json["content"][0]["text"].startswith("First.")


def test_a_demanded_call_is_demanded_once_more(redcap: Redcap, proxy: Proxy) -> None:
    redcap.queue("I would rather not.", written("x"))
    message = proxy.post({**WITH_TOOLS, "tool_choice": {"type": "any"}}).json
    assert message["stop_reason"] == "tool_use"
    assert "must be called" in redcap.asked[1].messages[-1]["content"]


def test_both_asks_are_paid_for(redcap: Redcap, proxy: Proxy) -> None:
    redcap.queue(ModelReply(UNREADABLE["a tool that is not there"][0], 100, 20), ModelReply(written("x"), 130, 30))
    usage = proxy.post(WITH_TOOLS).json["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (230, 50)


@pytest.mark.parametrize("reply", ["Just words.", '{"name": "x", "arguments": 1}', 'Use `<invoke name="Save">` so.'])
def test_an_ordinary_answer_is_not_asked_for_again(redcap: Redcap, proxy: Proxy, reply: str) -> None:
    redcap.queue(ModelReply(reply, 1, 1))
    proxy.post(WITH_TOOLS)
    assert len(redcap.asked) == 1


# --- continuation -----------------------------------------------------------------------------------------------------


def obedient(reply: str) -> Callable[[ModelRequest], str]:
    """A model that goes on as it is told: from the beginning of the last line that it is shown, between the tags."""

    def answer(request: ModelRequest) -> str:
        asked = request.messages[-1]["content"]
        if "cut off" not in asked:
            return reply
        said = request.messages[-2]["content"]
        assert reply.startswith(said), "what was said so far is shown as it was written"
        line = asked.split("and go on:\n", 1)[1].split("\nRepeat nothing", 1)[0]
        return f"<continuation>\n{reply[said.rindex(line) :]}\n</continuation>"

    return answer


def evil_text(size: int, seed: int = 1) -> str:
    """Code-like lines with indentation, blank lines, entities and tags; it does not end in white space."""
    chance = random.Random(seed)
    pieces = ["x = 1", "if a < b && c > d:", "&lt;p&gt; &sum; &amp;amp;", "", "    ", "</parameter>", "é∑漢", "`'\"\\"]
    lines: list[str] = []
    while sum(map(len, lines)) + len(lines) < size:
        lines.append(" " * chance.randrange(9) + " ".join(chance.choices(pieces, k=chance.randrange(4))))
    return "\n".join(["begin", *lines, "end"])


@pytest.mark.parametrize("alias", ["claude", "gpt-4o"])
def test_a_file_of_sixty_kilobytes_arrives_byte_for_byte(redcap: Redcap, proxy: Proxy, alias: str) -> None:
    """The module cuts replies of the alias `claude` at 8,192 tokens and trims both ends of each."""
    content = evil_text(60_000)
    redcap.let_answer(obedient(armour(written(content))))
    message = proxy.post({**WITH_TOOLS, "model": alias}).json
    assert message["content"][-1]["input"]["content"] == content
    assert message["stop_reason"] == "tool_use"
    assert len(redcap.asked) > 1 or alias == "gpt-4o"


def test_the_journal_counts_continuations(redcap: Redcap, proxy: Proxy) -> None:
    redcap.let_answer(obedient(armour(written(evil_text(60_000)))))
    proxy.post(WITH_TOOLS)
    assert f"continuations={len(redcap.asked) - 1}" in proxy.journal_line("POST /v1/messages")


def test_the_first_call_has_its_time_and_all_further_ones_have_as_much_together(
    redcap: Redcap, start_proxy: StartProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed: list[float] = []
    renew = Waiter.renew

    def noted(waiter: Waiter, limit: float) -> None:
        renewed.append(limit)
        renew(waiter, limit)

    monkeypatch.setattr(Waiter, "renew", noted)
    redcap.let_answer(obedient(armour(written(evil_text(60_000)))))
    start_proxy(upstream_timeout=77.0).post(WITH_TOOLS)
    assert len(redcap.asked) > 2
    assert renewed == [77.0, 77.0]


def test_prose_that_was_cut_off_is_continued(redcap: Redcap, proxy: Proxy) -> None:
    prose = evil_text(50_000, seed=2)
    redcap.let_answer(obedient(armour(prose)))
    message = proxy.post({"max_tokens": 32000}).json
    assert message["content"] == [{"type": "text", "text": prose.strip(), "citations": None}]
    assert message["stop_reason"] == "end_turn"


def test_nothing_is_continued_beyond_what_the_client_wants(redcap: Redcap, proxy: Proxy) -> None:
    redcap.let_answer(obedient(armour(written(evil_text(60_000)))))
    message = proxy.post({**WITH_TOOLS, "max_tokens": 8000}).json
    assert message["stop_reason"] == "max_tokens"
    assert [block["type"] for block in message["content"]] == ["text"]
    assert len(redcap.asked) == 1


BAD_CONTINUATIONS: Mapping[str, str] = {
    "something else": "<continuation>\nLet me begin anew.\n</continuation>",
    "nothing": "<continuation>\n</continuation>",
    "words": "I was already done.",
}


@pytest.mark.parametrize("name", BAD_CONTINUATIONS)
def test_a_continuation_that_does_not_fit_is_not_joined(redcap: Redcap, proxy: Proxy, name: str) -> None:
    whole = written("small", "/whole.txt").removesuffix("\n</function_calls>")
    second = written(evil_text(60_000)).partition("<function_calls>\n")[2]
    redcap.queue(armour(f"{whole}\n{second}"), BAD_CONTINUATIONS[name])
    message = proxy.post(WITH_TOOLS).json
    calls = [block["input"] for block in message["content"] if block["type"] == "tool_use"]
    assert calls == [{"file_path": "/whole.txt", "content": "small"}], "the whole call runs, the truncated one never"


def test_what_is_whole_is_kept_if_the_continuation_fails(redcap: Redcap, proxy: Proxy) -> None:
    redcap.queue(armour(written(evil_text(60_000))))
    redcap.queue_failure()
    message = proxy.post(WITH_TOOLS).json
    assert message["stop_reason"] == "max_tokens"
    assert message["content"] == [{"type": "text", "text": "I'll write it.", "citations": None}]


# --- a call at the very limit -----------------------------------------------------------------------------------------

LIMIT = 8192  # tokens, at which the module cuts the alias that is asked here
# A file that shows how a call ends, and goes on.
SHOWS_AN_END = "A call ends like this:\n</parameter>\n</invoke>\n</function_calls>\nand that is all.\n\nThe end"
FIRST_CALL = written("small", "/first.txt").removesuffix("\n</function_calls>")


def cut_behind(reply: str, end: str) -> ModelReply:
    """The beginning of a reply up to where some text first ends; just there the model reached its limit."""
    return ModelReply(armour(reply[: reply.index(end) + len(end)]), 100, LIMIT)


def goes_on(reply: str) -> Callable[[ModelRequest], str]:
    """A model that writes the last lines that it is shown, and what is missing behind them, if anything is."""

    def answer(request: ModelRequest) -> str:
        said, asked = (message["content"] for message in request.messages[-2:])
        lines = asked.split("and go on:\n", 1)[1].split("\nRepeat nothing", 1)[0]
        assert "If nothing is missing" in asked
        return f"<continuation>\n{lines}{armour(reply).removeprefix(said)}\n</continuation>"

    return answer


def calls_in(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [block["input"] for block in message["content"] if block["type"] == "tool_use"]


def test_a_call_that_was_cut_off_behind_the_tags_in_its_own_value_arrives_whole(redcap: Redcap, proxy: Proxy) -> None:
    reply = written(SHOWS_AN_END)
    redcap.queue(cut_behind(reply, "</function_calls>"), goes_on(reply))
    message = proxy.post(WITH_TOOLS).json
    assert calls_in(message) == [{"file_path": "/a.txt", "content": SHOWS_AN_END}]
    assert message["stop_reason"] == "tool_use"
    assert "continuations=1" in proxy.journal_line("POST /v1/messages")


def test_a_call_that_ends_just_at_the_limit_is_run_once_nothing_is_found_missing(redcap: Redcap, proxy: Proxy) -> None:
    reply = written("whole")
    redcap.queue(cut_behind(reply, "</function_calls>"), goes_on(reply))
    message = proxy.post(WITH_TOOLS).json
    assert calls_in(message) == [{"file_path": "/a.txt", "content": "whole"}]
    assert message["stop_reason"] == "tool_use"
    assert len(redcap.asked) == 2


def test_a_text_that_ends_just_at_the_limit_is_whole_once_nothing_is_found_missing(
    redcap: Redcap, proxy: Proxy
) -> None:
    redcap.queue(cut_behind("That is all.", "all."), goes_on("That is all."))
    message = proxy.post({"max_tokens": 32000}).json
    assert message["content"] == [{"type": "text", "text": "That is all.", "citations": None}]
    assert message["stop_reason"] == "end_turn"


@pytest.mark.parametrize("second", [None, *BAD_CONTINUATIONS.values()], ids=["an error", *BAD_CONTINUATIONS])
def test_a_call_at_the_limit_is_not_run_if_the_continuation_fails(
    redcap: Redcap, proxy: Proxy, second: str | None
) -> None:
    redcap.queue(cut_behind(written(SHOWS_AN_END), "</function_calls>"))
    if second is None:
        redcap.queue_failure()
    else:
        redcap.queue(second)
    message = proxy.post(WITH_TOOLS).json
    assert message["content"] == [{"type": "text", "text": "I'll write it.", "citations": None}]
    assert message["stop_reason"] == "max_tokens"


def test_the_calls_before_one_at_the_limit_are_run_if_the_continuation_fails(redcap: Redcap, proxy: Proxy) -> None:
    reply = f"{FIRST_CALL}\n{written(SHOWS_AN_END).partition('<function_calls>')[2].lstrip()}"
    redcap.queue(cut_behind(reply, "</function_calls>"))
    redcap.queue_failure()
    message = proxy.post(WITH_TOOLS).json
    assert calls_in(message) == [{"file_path": "/first.txt", "content": "small"}]


# --- armour that was lost --------------------------------------------------------------------------------------------


def test_an_edit_whose_entities_lost_their_armour_still_fits(redcap: Redcap, proxy: Proxy) -> None:
    """The model wrote `&sum;` as it stands in the file, and the module has decoded it."""
    history = [
        {"role": "user", "content": PROMPT},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"file_path": "/a.c"}}],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "1\tint *p = &sum;\n2\treturn *p;"},
            ],
        },
    ]
    call = (
        '<function_calls>\n<invoke name="Edit">\n<parameter name="file_path">/a.c</parameter>\n'
        '<parameter name="old_string">\nint *p = &sum;\nreturn *p;\n</parameter>\n'
        '<parameter name="new_string">\nint *p = &sum;\nreturn *p + 1;\n</parameter>\n</invoke>\n</function_calls>'
    )
    redcap.queue(call)
    message = proxy.post({**WITH_TOOLS, "messages": history}).json
    assert message["content"][0]["input"] == {
        "file_path": "/a.c",
        "old_string": "int *p = &sum;\nreturn *p;",
        "new_string": "int *p = &sum;\nreturn *p + 1;",
    }
    assert "mended_edits=1" in proxy.journal_line("POST /v1/messages")


def test_a_module_that_no_longer_decodes(redcap: Redcap, start_proxy: StartProxy) -> None:
    """Nothing is armoured, and a value that is escaped throughout is unescaped."""
    redcap.decode_entities = False
    proxy = start_proxy(redcap_decodes_entities=False)
    redcap.queue(written("a &amp;&amp; b").replace("/a.txt", "/a.sh"))
    message = proxy.post({**WITH_TOOLS, "system": "x &lt; y"}).json
    assert message["content"][-1]["input"]["content"] == "a && b"
    assert "x &lt; y" in redcap.asked[0].messages[0]["content"]
