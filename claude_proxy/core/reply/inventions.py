"""Results and turns that a model has invented: only the client could have written them."""

from __future__ import annotations

import re

RESULT = re.compile(
    r"[ \t]*</?(?:tool_results?|function_results?|tool_responses?|tool_outputs?|system_message)\b", re.IGNORECASE
)
RESULT_AFTER_CALL = re.compile(
    r"[ \t]*(?:</?(?:results?|outputs?|observation|response)>|Observation:|Tool (?:result|output):|<\|im_start\|>"
    r"|```tool_outputs?)",
    re.IGNORECASE,
)
TURN = re.compile(r"[ \t]*(?:(?:\*\*)?(?:Human|User|Assistant)\b(?:\*\*)?:|#{1,6} (?:Human|User|Assistant)\b)")
CHAT_TOKENS = (
    re.compile(
        r"<(?:\|im_start\|>(?:user|tool)|\|start_header_id\|>(?:user|tool|ipython)"
        r"|(?:tool_result|function_results?|tool_response)\b[^<>\n`]*>[ \t]*(?=\n))"
    ),
    re.compile(r"\[INST\]"),
)
RESULT_FOLLOWS = r"(?=</?(?:tool_result|function_result|tool_response|tool_output)|```tool_output)"
_TURN_BEFORE_CALL = re.compile(r"(?:Human|(User)):")


def is_invented(text: str, start: int, *, called: bool, last_answer: int) -> bool:
    """Whether a line begins a result or a turn that only the client could have written.

    Args:
        text: the reply.
        start: where the line begins.
        called: whether there are calls before it.
        last_answer: where the last line begins that looks like the assistant's turn, or -1.
    """
    if RESULT.match(text, start):
        return True
    if called:
        return bool(RESULT_AFTER_CALL.match(text, start) or TURN.match(text, start))
    turn = _TURN_BEFORE_CALL.match(text, start)
    if not turn or text[max(0, start - 2) : start] != "\n\n":
        return False
    return not turn[1] or start < last_answer  # a lone `User:` may well be part of an answer
