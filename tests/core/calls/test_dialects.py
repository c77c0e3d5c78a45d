"""Other ways to write calls: where they begin and end. What each means stands in the corpus of replies.

Also: whatever a reply holds, reading it gives a proper message.
"""

from __future__ import annotations

import json

import pytest
from core_samples import BASH, READ, WRITE, by_name, counter, examples, steps
from hypothesis import given
from hypothesis import strategies as st

from claude_proxy.core.calls import dialects
from claude_proxy.core.calls.call import Call
from claude_proxy.core.calls.dialects import begins, name_lone_argument, read_calls
from claude_proxy.core.calls.vocabulary import Vocabulary
from claude_proxy.core.messages.content import Text, Thinking, ToolUse
from claude_proxy.core.reply.read import Reply, read_reply
from claude_proxy.core.reply.scan import find_parts

OFFERED = by_name(WRITE, READ, BASH)
LS = Call("Bash", {"command": "ls"})
OBJECT = '{"name": "Bash", "arguments": {"command": "ls"}}'

UNMISTAKABLE = {
    "Hermes": f"<tool_call>\n{OBJECT}\n</tool_call>",
    "Hermes, a list": f"<tool_calls>[{OBJECT}]</tool_calls>",
    "Qwen3-Coder": "<function=Bash>\n<parameter=command>\nls\n</parameter>\n</function>",
    "Qwen3-Coder, wrapped": "<tool_call>\n<function=Bash>\n<parameter=command>ls</parameter></function>\n</tool_call>",
    "Llama's function": '<function=Bash>{"command": "ls"}</function>',
    "Llama's tag": f"<|python_tag|>{OBJECT}<|eom_id|>",
    "Llama's tag, Python": '<|python_tag|>Bash.call(command="ls")<|eom_id|>',
    "Llama 4": '[Bash(command="ls")]',
    "GLM": "<tool_call>Bash\n<arg_key>command</arg_key>\n<arg_value>ls</arg_value>\n</tool_call>",
    "Mistral": f"[TOOL_CALLS][{OBJECT}]",
    "Mistral, with ARGS": '[TOOL_CALLS]Bash[ARGS]{"command": "ls"}',
    "Mistral, only ARGS": 'Bash[ARGS]{"command": "ls"}',
    "DeepSeek V3": (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>Bash\n"
        '```json\n{"command": "ls"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
    ),
    "DeepSeek V3.1": '<｜tool▁call▁begin｜>Bash<｜tool▁sep｜>{"command": "ls"}<｜tool▁call▁end｜>',
    "Kimi K2": (
        "<|tool_calls_section_begin|><|tool_call_begin|>Bash<|tool_call_argument_begin|>"
        '{"command": "ls"}<|tool_call_end|><|tool_calls_section_end|>'
    ),
    "Kimi K3": (
        '<|open|>tools<|sep|><|open|>call tool="Bash"<|sep|><|open|>argument key="command"<|sep|>ls'
        "<|close|>argument<|sep|><|close|>call<|sep|><|close|>tools<|sep|>"
    ),
    "gpt-oss": '<|channel|>commentary to=Bash <|constrain|>json<|message|>{"command": "ls"}<|call|>',
    "Gemma": "<start_function_call>call:Bash{command:<escape>ls<escape>}<end_function_call>",
    "ReAct": 'Action: Bash\nAction Input: {"command": "ls"}',
}
MISTAKABLE = {
    "an object": OBJECT,
    "a list": f"[{OBJECT}]",
    "OpenAI's": '{"tool_calls": [{"type": "function", "function": {"name": "Bash", "arguments": {"command": "ls"}}}]}',
    "Anthropic's": '{"type": "tool_use", "id": "t", "name": "Bash", "input": {"command": "ls"}}',
    "a fence": f"```json\n{OBJECT}\n```",
    "a fence without a language": f"```\n{OBJECT}\n```",
    "Gemini's fence": '```tool_code\nprint(Bash(command="ls"))\n```',
}
DIALECTS = UNMISTAKABLE | MISTAKABLE
NO_DIALECT = {
    "words": "I'll look.",
    "an ordinary object": '{"colour": "red", "size": 5}',
    "an ordinary list": "[1, 2, 3]",
    "a link": "[the docs](https://example.org)",
    "a checkbox": "[ ] to do",
    "a fence": "```python\nprint(1)\n```",
    "a tag": "<div>",
    "a tag spoken of": "<tool_call> is a tag.",
    "Python": "print(Bash)",
    "ReAct without an input": "Action: Bash",
}


@pytest.mark.parametrize("text", DIALECTS.values(), ids=DIALECTS.keys())
def test_a_dialect_begins_at_its_opening_and_nowhere_else(text: str) -> None:
    assert begins(f"Words.\n{text}", 7)
    assert not begins(f"Words.\n{text}", 0)
    assert begins(text, 0, unmistakable=True) == (text in UNMISTAKABLE.values())


@pytest.mark.parametrize("text", NO_DIALECT.values(), ids=NO_DIALECT.keys())
def test_nothing_is_read_where_no_dialect_begins(text: str) -> None:
    assert not begins(text, 0, unmistakable=True)
    assert read_calls(text, 0) is None


# What may stand before the openings of the table.
PREFIXED = (
    *(f"<tool_call>{UNMISTAKABLE[name]}" for name in ("Qwen3-Coder", "Llama's function")),
    '<|python_tag|><function=Bash>{"command": "ls"}</function>',
    f"<|python_start|>{UNMISTAKABLE['Llama 4']}<|python_end|>",
    '[TOOL_CALLS]Bash{"command": "ls"}',
    'Bash[CALL_ID]a1[ARGS]{"command": "ls"}',
    '<|start|>assistant<|channel|>commentary to=Bash<|message|>{"command": "ls"}',
    'to=Bash<|message|>{"command": "ls"}',
    'tool_code\nprint(Bash(command="ls"))',
    '<tool_code>\nprint(Bash(command="ls"))\n</tool_code>',
    '<|tool_call>call:Bash{command: "ls"}',
    '<tool_call>call:Bash{command: "ls"}',
)


def test_each_opening_of_the_table_is_covered_by_the_pattern_for_all() -> None:
    for opening, _, _ in dialects.DIALECTS:
        samples = [text for text in (*DIALECTS.values(), *PREFIXED) if opening.match(text)]
        assert samples, f"no sample begins with {opening.pattern}"
    assert [text for text in (*DIALECTS.values(), *PREFIXED) if not begins(text, 0)] == []


SPECIAL = [text for text in (*UNMISTAKABLE.values(), *PREFIXED) if text.startswith(("<|", "<｜", "[TOOL_CALLS]"))]


@pytest.mark.parametrize("text", SPECIAL)
def test_calls_that_begin_with_a_special_token_may_stand_behind_words(text: str) -> None:
    assert read(f"I'll look.{text}").calls == 1


BEHIND = [
    pytest.param(text, behind, id=f"{name}-{behind!r}")
    for name, text in DIALECTS.items()
    for behind in ("", "\n\nWords behind.", "\nObservation: x")
]


@pytest.mark.parametrize(("text", "behind"), BEHIND)
def test_a_call_is_read_from_its_start_to_its_end(text: str, behind: str) -> None:
    before = "Words.\n  "
    block = read_calls(before + text + behind, len(before))
    assert block
    assert (block.calls, block.start, block.truncated) == ((LS,), len(before), False)
    assert (before + text + behind)[block.end :].strip() == behind.strip()


FOLLOWING = [*UNMISTAKABLE.items(), ("an object", OBJECT)]


@pytest.mark.parametrize(("text", "between"), [(text, b) for _, text in FOLLOWING for b in ("\n", "\n\n")])
def test_calls_that_follow_directly_are_read_together(text: str, between: str) -> None:
    twice = f"{text}{between}{text}"
    block = read_calls(twice, 0)
    assert block
    assert (block.calls, block.end, block.truncated) == ((LS, LS), len(twice), False)


@pytest.mark.parametrize(
    "text",
    [
        '<|python_tag|>Bash.call(command="ls")',
        'tool_code\nprint(Bash(command="ls"))',
        "<tool_call>\n{'name': 'Bash', 'arguments': {'command': 'ls'}}",
        "{'name': 'Bash', 'arguments': {'command': 'ls'}}",
    ],
)
def test_words_behind_a_call_do_not_make_it_incomplete(text: str) -> None:
    assert not read(f"{text}\nI'll wait.").truncated


WHOLE = {name: text for name, text in DIALECTS.items() if name != "a fence without a language"}


@pytest.mark.parametrize("text", WHOLE.values(), ids=WHOLE.keys())
def test_wherever_a_second_call_is_cut_off_the_first_alone_is_run(text: str) -> None:
    for end in range(1, len(text)):
        piece = text[:end]
        if piece.rstrip().endswith((":", "\n``")):
            continue  # see below
        block = read_calls(f"{text}\n{piece}", 0)
        assert block
        assert block.calls in ((LS,), (LS, LS))
        assert block.calls == (LS,) or "ls" in piece


def test_half_a_code_fence_is_not_taken_for_an_argument() -> None:
    block = read_calls("<｜tool▁call▁begin｜>function<｜tool▁sep｜>Bash\n``", 0)
    assert block is None or block.calls == ()


CUT_AT_A_COLON = [
    '<tool_call>\n{"name": "Bash", "arguments":',
    '<tool_call>\n{"name":',
    '[TOOL_CALLS]Bash[ARGS]{"command":',
    "[Bash(command=",
    '{"name": "Bash", "arguments": {"command":',
    'Action: Bash\nAction Input: {"command":',
]


@pytest.mark.parametrize("text", CUT_AT_A_COLON)
def test_a_call_cut_off_at_a_colon_counts_as_truncated(text: str) -> None:
    assert read(text) == Reply((), "max_tokens", truncated=True)


def test_a_whole_call_before_one_that_is_cut_off_at_a_colon_is_run() -> None:
    reply = read(f'<tool_call>\n[{OBJECT}, {{"name":')
    assert [block for block in reply.content if isinstance(block, ToolUse)] == [ToolUse("toolu_0", *vars(LS).values())]


@pytest.mark.parametrize("arguments", ['"ls"', "'ls', 5", 'command="ls", "x"', '"it\'s"'])
def test_a_python_call_with_positional_arguments_cannot_be_read(arguments: str) -> None:
    text = f"[Bash({arguments})]"
    assert read(text) == Reply((Text(text),), "end_turn", defect="it could not be read")


def test_a_line_of_react_goes_to_the_one_required_parameter() -> None:
    assert name_lone_argument(Call("Bash", {"": "ls"}), {"command"}) == LS
    assert name_lone_argument(Call("Bash", {"": "ls"}), {"a", "b"}) == Call("Bash", {"": "ls"})
    assert name_lone_argument(LS, {"x"}) == LS


@pytest.mark.parametrize("text", DIALECTS.values(), ids=DIALECTS.keys())
@pytest.mark.parametrize("behind", ["", "\nWords."])
def test_the_last_call_of_a_reply_that_was_cut_off_is_not_run(text: str, behind: str) -> None:
    cut_off = read(f"Words.\n{text}{behind}", cut=True)
    assert (cut_off.calls, cut_off.stop_reason, cut_off.truncated) == (0, "max_tokens", True)


# --- any reply at all -------------------------------------------------------------------------------------------------


def read(text: str, *, cut: bool = False, decoded: bool = True) -> Reply:
    return read_reply(text, OFFERED, counter(), cut=cut, decoded=decoded)


PIECES = (
    *("<tool_call>", "</tool_call>", "<tool_calls>", "<function=Bash>", "</function>", "<parameter=command>"),
    *("</parameter>", "<|python_tag|>", "<|eom_id|>", "[TOOL_CALLS]", "[ARGS]", "Bash", "<arg_key>", "</arg_key>"),
    *(
        "<arg_value>",
        "</arg_value>",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁sep｜>",
        "<|tool_call_end|>",
    ),
    *("<|start|>assistant", "<|channel|>", "analysis", "commentary", "final", " to=Bash", "<|message|>", "<|end|>"),
    *("<|constrain|>json", "<|open|>tools<|sep|>", '<|open|>call tool="Bash"<|sep|>', "<|close|>call<|sep|>"),
    *('<|open|>argument key="command"<|sep|>', "<|close|>argument<|sep|>", "call:Bash", "<start_function_call>"),
    *("tool_code\n", "Action: Bash\n", "Action Input: ", "Observation: ", "Bash(", 'command="ls"', ")", "print("),
    *("<function_calls>", "</function_calls>", '<invoke name="Bash">', '<invoke name="X">', "</invoke>", "<Bash>"),
    *('<parameter name="command">', '<parameter name="timeout">', "<command>", "</command>", "<value>", "]<]x[>["),
    *("<invoke name='Bash'>", '<｜DSML｜invoke name="Bash">', "<think>", "</think>", "<thinking>", "</thinking>"),
    *("<tool_result>", "</tool_result>", "Human: x", "User: ", "Assistant: ", "```", "```json\n", "~~~", "`"),
    *(
        '{"name": "Bash", ',
        '"arguments": ',
        '{"command": "ls"}',
        '{"',
        '": ',
        '"',
        "{",
        "}",
        "[",
        "]",
        ",",
        "1e999",
        "NaN",
    ),
    *("null", "\\", "\\ud800", "'", "5", "words", "&lt;", "<", "\n", "\n", "\n", "\n\n", " ", "\r\n", "\0"),
    *(OBJECT, f"<tool_call>{OBJECT}</tool_call>", *DIALECTS.values()),
)
soups = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)


@examples(800)
@given(soups | st.text(max_size=20), st.booleans(), st.booleans())
def test_any_reply_gives_a_proper_message(text: str, cut: bool, decoded: bool) -> None:
    found = read(text, cut=cut, decoded=decoded)
    ids = [block.id for block in found.content if isinstance(block, ToolUse)]
    assert len(set(ids)) == len(ids) == found.calls
    for block in found.content:
        match block:
            case Text(words) | Thinking(words):
                assert words.strip()
            case ToolUse(_, name, arguments):
                assert name in OFFERED
                assert isinstance(arguments, dict)
                assert json.loads(json.dumps(arguments, allow_nan=False)) == arguments
    assert (found.stop_reason == "tool_use") == bool(ids)
    assert found.truncated or not cut


@pytest.mark.parametrize("value", ["{}", "[]", '{"type": []}', "5", "null"])
def test_an_object_with_a_type_that_is_no_call_is_text(value: str) -> None:
    for text in (f'{{"type": {value}}}', f'[{{"type": {value}}}]', f'{{"content": [{{"type": {value}}}]}}'):
        assert read(text) == Reply((Text(text),), "end_turn")


ENDLESS = [
    *(f"{text}\n" for text in DIALECTS.values()),
    *(piece for piece in PIECES if not piece.isspace()),
    *(
        f"{piece}\n"
        for piece in ("<tool_call>", "{", "[{", "</think>", "Action: Bash", "```json", "<invoke name='Bash'>")
    ),
]


@pytest.mark.parametrize(("most", "calls"), [(2_000_000, 1), (500, 0)])
def test_only_so_much_text_is_read_in_vain(most: int, calls: int) -> None:
    no_calls = '{"type":\n' * 5 + f'"{"x" * 500}"' + "}" * 5
    found = find_parts(f"{no_calls}\n{OBJECT}", Vocabulary(OFFERED), cut=False, most_wasted=most)
    assert sum(len(block.calls) for block in found.blocks) == calls


FOR_EVER = ["{", "[", '"', " ", "{}", "[]"]


@pytest.mark.parametrize("piece", sorted(set(ENDLESS)))
def test_reading_takes_time_in_proportion_to_the_text(piece: str) -> None:
    some = steps(lambda: read(piece * 50))
    more = steps(lambda: read(piece * 200))
    assert more < 6 * some + 500


@pytest.mark.parametrize("piece", FOR_EVER)
def test_endlessly_nested_arguments_do_not_make_the_reader_fail(piece: str) -> None:
    assert read('<tool_call>{"name": "Bash", "arguments": ' + piece * 20_000).calls == 0


@pytest.mark.slow
def test_many_invented_turns_do_not_stall_the_reader() -> None:
    # Were the rest of the text searched at each of them, this would take minutes.
    text = "Words." + "\n\nUser: x" * 100_000
    assert read(text).content == (Text(text),)
