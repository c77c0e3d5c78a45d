"""The other ways in which models write calls: what they were trained on shows through, whatever they are told.

A dialect is a way to begin a call, which no prose would use, and a reader for what follows. `read_calls` reads one
call after another, in whatever dialects, for as long as they follow directly. Whether they may run is not decided here:
names are as the model wrote them, and the caller looks for the tools they mean.

Formats are those of the vendors' chat templates: Hermes and Qwen3 (`<tool_call>` with JSON), Qwen3-Coder
(`<function=f><parameter=k>`), GLM (`<arg_key>`), Llama 3 (`<|python_tag|>`, `<function=f>{}`, a bare object), Llama 4
(a Python list of calls), Mistral (`[TOOL_CALLS]`), DeepSeek V3 to V3.1 and Kimi (special tokens), gpt-oss
(channels), Gemini and Gemma (`tool_code`, `call:f{}`), objects as in OpenAI's and Anthropic's APIs, ReAct (`Action:`).
DeepSeek V3.2's and MiniMax's tags, and the older Claude's, are near enough to the canonical notation for `reader`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from claude_proxy.core.calls import loose_json
from claude_proxy.core.calls.call import Call, CallBlock
from claude_proxy.core.expressions import expression


@dataclass(frozen=True)
class _Read:
    """What a dialect's reader made of a text."""

    calls: tuple[Call, ...]
    end: int
    complete: bool = True


_Reader: TypeAlias = Callable[[re.Match[str]], _Read | None]


class Dialect(NamedTuple):
    """How calls begin in a dialect, what reads them, and whether nothing else could begin so."""

    opening: re.Pattern[str]
    read: _Reader
    unmistakable: bool


def read_calls(text: str, start: int) -> CallBlock | None:
    """The calls that begin at a position, none if the first is cut off; None where no dialect begins."""
    calls: list[Call] = []
    position = start
    while read := _read_one(text, position, first=not calls):
        calls += read.calls
        if not read.complete:
            return CallBlock(tuple(calls), start, len(text), truncated=True)
        position = _behind(_BETWEEN, text, read.end)
        if position >= len(text) or not calls:
            break
    return CallBlock(tuple(calls), start, position) if calls else None


def begins(text: str, start: int, *, unmistakable: bool = False) -> bool:
    """Whether a dialect may begin at a position, or one that nothing else could be."""
    openings = _UNMISTAKABLE_OPENINGS if unmistakable else _OPENINGS
    return openings.match(text, start) is not None


def _read_one(text: str, start: int, *, first: bool) -> _Read | None:
    if not begins(text, start):
        return None
    for opening, reader, unmistakable in DIALECTS:
        if (first or unmistakable or reader in {_bare_json, _fenced_json}) and (match := opening.match(text, start)):
            try:
                read = reader(match)
            except loose_json.Unreadable:
                read = None
            if read:
                return read
    return None


def _behind(pattern: re.Pattern[str], text: str, position: int) -> int:
    """The position behind what matches there, or the position itself where nothing does."""
    match = pattern.match(text, position)
    return match.end() if match else position


# --- JSON -------------------------------------------------------------------------------------------------------------

_NAME_KEYS = ("name", "tool", "tool_name", "function", "function_name", "recipient_name", "action")
_ARGUMENT_KEYS = ("arguments", "parameters", "input", "args", "params", "action_input", "tool_input", "kwargs")
# Tuples, because what stands in their place may be an object or a list, which no set takes.
_TYPES_OF_CALLS = ("tool_use", "function_call")
_TYPES_OF_PROSE = ("text", "thinking")


def _as_calls(value: Any, *, certain: bool) -> tuple[Call, ...]:
    """The calls that a decoded JSON value stands for; none if it is something else.

    Where its place makes certain that it is a call, one without arguments may be meant.
    """
    match value:
        case list():
            calls = [_as_calls(item, certain=certain) for item in value if not _is_prose(item)]
            return tuple(call for part in calls for call in part) if all(calls) else ()
        case {"tool_calls": list(items)}:
            return _as_calls(items, certain=True)
        case {"function_call": dict(inner)}:
            return _as_calls(inner, certain=True)
        case {"type": "function", "function": dict(inner)} | {"function": dict(inner)}:
            return _as_calls(inner, certain=True)
        case {"content": list(items)}:
            return _as_calls(items, certain=False)
        case {"tool_uses": list(items)}:
            return _as_calls(items, certain=True)
        case dict():
            return _as_call(value, certain=certain or value.get("type") in _TYPES_OF_CALLS)
        case _:
            return ()


def _is_prose(item: Any) -> bool:
    """Whether an item of a message's content is said or thought, not called."""
    return isinstance(item, dict) and item.get("type") in _TYPES_OF_PROSE


def _as_call(value: Mapping[str, Any], *, certain: bool) -> tuple[Call, ...]:
    name = next((value[key] for key in _NAME_KEYS if isinstance(value.get(key), str)), None)
    key = next((key for key in _ARGUMENT_KEYS if key in value), None)
    if not name or (key is None and not certain):
        return ()
    arguments = _as_object(value[key]) if key else {}
    return () if arguments is None else (Call(name, arguments),)


def _as_object(value: Any) -> dict[str, Any] | None:
    """Arguments as an object: they may be encoded once more, as text, or null for none."""
    if isinstance(value, str) and value.strip():
        try:
            value = loose_json.read_value(value).value
        except loose_json.Unreadable:
            return None
    if not value:
        return {}  # PHP writes an empty object as []
    return value if isinstance(value, dict) else None


def _json_values(text: str, position: int, *, certain: bool) -> _Read | None:
    """One JSON value after another, each a call or a list of calls."""
    calls: list[Call] = []
    while True:
        begin = _behind(_SEPARATOR, text, position)
        if begin >= len(text) and certain and not calls:
            return _Read((), begin, complete=False)
        if begin >= len(text) or text[begin] not in ('{["' if certain else "{["):
            return _Read(tuple(calls), position) if calls else None
        value = loose_json.read_value(text, begin)
        if not value.complete:
            calls += _as_calls(_without_last(value.value), certain=certain)
            return _Read(tuple(calls), value.end, complete=False)
        decoded = _as_object(value.value) if isinstance(value.value, str) else value.value
        found = _as_calls(decoded, certain=certain)
        if not found:
            return _Read(tuple(calls), position) if calls else None
        calls += found
        position = value.end


def _without_last(value: Any) -> Any:
    """What is whole of a list of calls that was cut off: all but the last."""
    match value:
        case list():
            return value[:-1]
        case {"tool_calls": list(items)}:
            return items[:-1]
        case _:
            return None


_SEPARATOR = re.compile(r"[\s,;]*")
_KEYS = "|".join(
    (*_NAME_KEYS, *_ARGUMENT_KEYS, "type", "id", "tool_calls", "tool_uses", "function_call", "content", "role")
)
_CALL_LIKE = rf"""[{{\[][\s{{\[]{{0,40}}+["'“]?(?:{_KEYS})["'”]?\s*+:"""


def _tagged_json(match: re.Match[str]) -> _Read | None:
    return _json_values(match.string, match.end(), certain=True)


def _bare_json(match: re.Match[str]) -> _Read | None:
    return _json_values(match.string, match.start(), certain=False)


def _fenced_json(match: re.Match[str]) -> _Read | None:
    read = _json_values(match.string, match.end(), certain=False)
    return replace(read, end=_behind(_CLOSING_FENCE, match.string, read.end)) if read else None


def _named_json(match: re.Match[str]) -> _Read | None:
    """A call whose name the opening has given; its arguments follow as one object."""
    text, position = match.string, _behind(_OPENING_FENCE, match.string, match.end())
    if _NOTHING_BEHIND.match(text, position):
        return _Read((), position, complete=False)
    value = loose_json.read_value(text, position)
    if not value.complete:
        return _Read((), value.end, complete=False)
    arguments = _as_object(value.value)
    if arguments is None:
        return None
    end = _behind(_CLOSING_FENCE, text, value.end) if position > match.end() else value.end
    return _Read((Call(match["name"], arguments),), end)


_OPENING_FENCE = re.compile(r"\s*+```[a-z]*\s*+")
_CLOSING_FENCE = re.compile(r"\s*+```")
_NOTHING_BEHIND = re.compile(r"[`\n ]*\Z")


# --- tags -------------------------------------------------------------------------------------------------------------

_QWEN_PARAMETER = re.compile(r"\s*+<parameter=(?P<name>[^>\s]+)\s*+>")
_QWEN_END = re.compile(r"\s*+</function>(?:\s*+</tool_call>)?")
_QWEN_VALUE_END = re.compile(r"\n?</parameter>(?=\s*+(?:<parameter=|</function>|</tool_call>|\Z))|\n(?=<parameter=)")
_QWEN_INNER_CALL = re.compile(r"\n<function=[^>\n]*>")  # such as in a file about calls
_GLM_KEY = re.compile(r"\s*+<arg_key>\s{0,9}(?P<name>[^<\s]{1,200})\s{0,9}</arg_key>\s*+<arg_value>")
_GLM_VALUE_END = re.compile(r"</arg_value>(?=\s*+(?:<arg_key>|</tool_call>|\Z))")
_GLM_END = re.compile(r"\s*+</tool_call>")


_XTML_KEY = re.compile(r'\s*+<\|open\|>argument key="(?P<name>[^"<>]*)"[^<>]*<\|sep\|>')
_XTML_VALUE_END = re.compile(r"<\|close\|>argument<\|sep\|>")
_XTML_END = re.compile(r"\s*+<\|close\|>call<\|sep\|>(?:\s*+<\|close\|>tools<\|sep\|>)?")


_CUT_OFF = re.compile(r"\s*+(?:\Z|<)")


def _key_values(
    match: re.Match[str],
    key: re.Pattern[str],
    value_end: re.Pattern[str],
    call_end: re.Pattern[str],
    inner_call: re.Pattern[str] | None = None,
) -> _Read | None:
    """A named call whose parameters stand in tags, each value raw."""
    text, position = match.string, match.end()
    arguments: dict[str, Any] = {}
    while opening := key.match(text, position):
        closing = _find_end(text, opening.end(), value_end, inner_call)
        if not closing:
            return _Read((), len(text), complete=False)
        value = text[opening.end() : closing.start()]
        arguments[opening["name"]] = value.removeprefix("\n")
        position = closing.end()
    ended = call_end.match(text, position)
    if not ended:
        return _Read((), len(text), complete=False) if _CUT_OFF.match(text, position) else None
    return _Read((Call(match["name"], arguments),), ended.end())


def _find_end(
    text: str, start: int, value_end: re.Pattern[str], inner_call: re.Pattern[str] | None
) -> re.Match[str] | None:
    """Where a value ends that begins at a position; calls that stand in it whole close nothing."""
    closing = value_end.search(text, start)
    while closing and inner_call and (inner := inner_call.search(text, start, closing.end())):
        start = text.find("</function>", inner.end())
        if start < 0:
            return None
        if closing.start() < start:
            closing = value_end.search(text, start)
    return closing


_qwen_coder = partial(
    _key_values, key=_QWEN_PARAMETER, value_end=_QWEN_VALUE_END, call_end=_QWEN_END, inner_call=_QWEN_INNER_CALL
)
_glm = partial(_key_values, key=_GLM_KEY, value_end=_GLM_VALUE_END, call_end=_GLM_END)
_xtml = partial(_key_values, key=_XTML_KEY, value_end=_XTML_VALUE_END, call_end=_XTML_END)


# --- Python and lines -------------------------------------------------------------------------------------------------

_PYTHON_CALL = re.compile(r"\s*+(?:print\s*+\(\s*+)?(?P<name>[A-Za-z_][\w.]*)\s*+\(")


def _python_calls(match: re.Match[str]) -> _Read | None:
    """Python calls with keyword arguments, in a list, each on a line of its own, or printed."""
    text, position = match.string, match.end()
    calls: list[Call] = []
    while opening := _PYTHON_CALL.match(text, position):
        read = loose_json.read_arguments(text, opening.end())
        if not read.complete:
            return _Read(tuple(calls), read.end, complete=False)
        calls.append(Call(opening["name"].removesuffix(".call"), read.value))
        position = _behind(_BEHIND_PYTHON_CALL, text, read.end)
    return _Read(tuple(calls), _behind(_PYTHON_END, text, position)) if calls else None


_BEHIND_PYTHON_CALL = re.compile(r"[\s),;]*")
_PYTHON_END = re.compile(r"\s*+(?:\]|```|</tool_code>|<\|python_end\|>|<\|eom_id\|>|<\|eot_id\|>)+")


def _react(match: re.Match[str]) -> _Read | None:
    """`Action Input:` is an object; or text for a tool that takes just one, which only the tool's schema tells."""
    text, position = match.string, match.end()
    if text[position : position + 1] in {"{", "`"}:
        return _named_json(match)
    line_end = text.find("\n", position)
    line = text[position : line_end if line_end >= 0 else len(text)].strip().strip('"')
    return _Read((Call(match["name"], {"": line}),), position + len(line)) if line else None


# --- the table --------------------------------------------------------------------------------------------------------

_BAR, _GAP, _NAME = "[|｜]", "[_▁ ]", r"(?P<name>[\w.:/-]++)"
# What may stand between two calls, or behind the last.
_BETWEEN = re.compile(
    rf"(?:\s|;|,|</(?:tool_calls?|function_calls?|tools|tool_use|function)>"
    rf"|<{_BAR}[\w▁ ]*(?:end|call|eom_id|eot_id|im_end){_BAR}>|<end_function_call>|<tool_call{_BAR}>|</s>)*"
)

DIALECTS: tuple[Dialect, ...] = tuple(
    Dialect(expression(pattern), reader, unmistakable)
    for pattern, reader, unmistakable in (
        # Qwen3-Coder, Llama 3
        (rf"(?:<tool_call>\s*+)?<function={_NAME}\s*+>(?=\s*+(?:<parameter=|</function>|\Z))", _qwen_coder, True),
        (rf"(?:<tool_call>\s*+|<\|python_tag\|>\s*+)?<function={_NAME}\s*+>\s*+(?=[{{`]|\Z)", _named_json, True),
        # GLM
        (rf"<tool_call>\s*+{_NAME}\s*+(?=<arg_key>|</tool_call>|\Z)", _glm, True),
        # Hermes, Qwen, MiniMax M1
        (r"<(?:tool_calls?|function_calls?|tools|tool_use)>\s*+(?=[{\[\"]|\Z)", _tagged_json, True),
        # Llama
        (r"<\|python_tag\|>\s*+(?=[{\[])", _tagged_json, True),
        (r"<\|python_tag\|>(?=\s*+[A-Za-z_])", _python_calls, True),
        (r"(?:<\|python_start\|>\s*+)?\[\s*+(?=[A-Za-z_][\w.]*\()", _python_calls, True),
        # Mistral
        (r"\[TOOL_CALLS\]\s*+(?=\[\s*+\{|\[?\Z)", _tagged_json, True),
        (rf"(?:\[TOOL_CALLS\]\s*+)?{_NAME}\s*+(?:\[CALL_ID\]\s*+\w+\s*+)?\[ARGS\]\s*+(?=\{{|\Z)", _named_json, True),
        (rf"\[TOOL_CALLS\]\s*+{_NAME}\s*+(?=\{{|\Z)", _named_json, True),
        # DeepSeek V3 to V3.1, Kimi K2
        (
            rf"(?:<{_BAR}tool{_GAP}calls{_GAP}(?:section{_GAP})?begin{_BAR}>\s*+)?<{_BAR}tool{_GAP}call{_GAP}begin{_BAR}>\s*+"
            rf"(?:function\s*+<{_BAR}tool{_GAP}sep{_BAR}>\s*+)?{_NAME}\s*+"
            rf"(?:<{_BAR}tool{_GAP}(?:sep|call{_GAP}argument{_GAP}begin){_BAR}>)?\s*+(?=[{{`]|\Z)",
            _named_json,
            True,
        ),
        # Kimi K3
        (rf"(?:<\|open\|>tools<\|sep\|>\s*+)?<\|open\|>call tool=\"{_NAME}\"[^<>]*<\|sep\|>", _xtml, True),
        # gpt-oss
        (
            rf"(?:<\|start\|>assistant)?(?:<\|channel\|>\s*+\w+)?\s*+to={_NAME}\s*+(?:<\|channel\|>\s*+\w+)?\s*+"
            r"(?:<\|constrain\|>\s*+\w+|\b(?:json|code)\b)?\s*+<\|message\|>\s*+(?=\{|\Z)",
            _named_json,
            True,
        ),
        # Gemini, Gemma
        (r"(?:```tool_code|tool_code|<tool_code>)[ \t]*\n", _python_calls, False),
        (rf"(?:<start_function_call>|<\|?tool_call>)\s*+call:{_NAME}\s*+(?=\{{|\Z)", _named_json, True),
        # objects as in the APIs, in a fence or bare
        (rf"```(?:json|tool_call|tool_use|tool)?[ \t]*\n\s*+(?={_CALL_LIKE})", _fenced_json, False),
        (rf"(?={_CALL_LIKE})", _bare_json, False),
        # ReAct
        (rf"Action:[ \t]*{_NAME}[ \t]*\n\s*+Action Input:\s*+", _react, True),
    )
)


def _any_of(openings: Iterable[re.Pattern[str]]) -> re.Pattern[str]:
    """One pattern that matches where any of some openings does: one look is quicker than one for each."""
    return expression("|".join(opening.pattern.replace("(?P<name>", "(?:") for opening in openings))


_OPENINGS = _any_of(opening for opening, _, _ in DIALECTS)
_UNMISTAKABLE_OPENINGS = _any_of(opening for opening, _, unmistakable in DIALECTS if unmistakable)

# The newline before a line at whose start a dialect may begin. Were blank lines not passed over, each would be read to
# the last.
OPENING_OF_LINE = expression(rf"\n[^\S\n]*+(?=\S)(?:{_OPENINGS.pattern})")

# Tokens that begin calls wherever they stand: models write them behind their words on the same line.
SPECIAL_TOKENS = (
    re.compile(
        rf"<(?:\|start\|>assistant|\|channel\|>|\|open\|>tools|\|python_(?:tag|start)\|>"
        rf"|{_BAR}?tool{_GAP}calls?[_▁ |｜>])"
    ),
    re.compile(r"\[TOOL_CALLS\]"),
)
ANY_SPECIAL_TOKEN = _any_of(SPECIAL_TOKENS)


def name_lone_argument(call: Call, required: Iterable[str]) -> Call:
    """A ReAct call whose input was a line of text: the tool's one required parameter takes it."""
    names = list(required)
    if set(call.arguments) == {""} and len(names) == 1:
        return Call(call.name, {names[0]: call.arguments[""]})
    return call
