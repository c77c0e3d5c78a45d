"""Reply text -> content blocks and stop reason.

Text and calls become blocks in the order in which they stand. What follows the last call is cut: a model that goes on
after its calls invents their results. So is everything from an invented tool result on, calls included. A call stands
at the start of a line, outside code fences; or anywhere, if it runs to the very end of the reply. A call that the
reply's end has cut off is never run; the whole ones before it are.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from claude_proxy.core import notation, repair
from claude_proxy.core.content import StopReason, Text, Tool, ToolUse


@dataclass(frozen=True)
class Reply:
    """A reply, read.

    Attributes:
        content: the blocks, none of them empty.
        stop_reason: as the client will be told.
    """

    content: tuple[Text | ToolUse, ...]
    stop_reason: StopReason


def read_reply(
    text: str, tools: Mapping[str, Tool], new_id: Callable[[], str], *, cut: bool, single_call: bool = False
) -> Reply:
    """Read a model's reply.

    Args:
        text: the reply as the module passed it on.
        tools: the tools that may be called, by name; none, and the text is taken as it is.
        new_id: makes a `tool_use` id, unique for ever.
        cut: whether the reply reached the limit at which the model is cut off.
        single_call: keep the first call only.
    """
    if not tools:
        return Reply((Text(text),) if text.strip() else (), "max_tokens" if cut else "end_turn")
    blocks, end = _find_blocks(text, notation.Reader(text, tools, cut=cut))
    cut = cut or any(block.truncated for block in blocks)
    content: list[Text | ToolUse] = []
    prose = 0
    for block in blocks:
        content += _text(text[prose : block.start])
        content += [_tool_use(call, tools[call.name], new_id()) for call in block.calls]
        prose = block.end
    content += _text(text[prose:end])
    calls = [index for index, item in enumerate(content) if isinstance(item, ToolUse)]
    if calls:
        last = calls[0] if single_call else calls[-1]
        return Reply(tuple(content[: last + 1]), "tool_use")
    return Reply(tuple(content), "max_tokens" if cut else "end_turn")


def _text(prose: str) -> list[Text]:
    return [Text(prose.strip())] if prose.strip() else []


def _tool_use(call: notation.Call, tool: Tool, tool_use_id: str) -> ToolUse:
    return ToolUse(tool_use_id, call.name, repair.fit_arguments(call.arguments, tool.input_schema))


# --- finding the calls ------------------------------------------------------------------------------------------------

_LINE = re.compile(r"[ \t]*(?:(?P<fence>`{3,}|~{3,})|(?P<result></?tool_result\b))?(?P<rest>[^\n]*)(?:\n|\Z)")


def _find_blocks(text: str, reader: notation.Reader) -> tuple[list[notation.CallBlock], int]:
    """The blocks of calls that count, and where the reply proper ends: at an invented result, if there is one."""
    blocks: list[notation.CallBlock] = []
    openings = deque(reader.openings())
    position, fence = 0, ""
    while position < len(text) and (line := _LINE.match(text, position)):
        position = line.end()
        if fence:
            closes = (line["fence"] or "").startswith(fence) and not line["rest"].strip()
            fence = "" if closes else fence
        elif line["fence"]:
            fence = line["fence"]
        elif line["result"]:
            return blocks, line.start()
        elif block := _block_in_line(line, openings, reader):
            position = block.end
            if all(call.name in reader.tools for call in block.calls):
                blocks.append(_without_doubt(block, text, cut=reader.cut))
    return blocks, len(text)


def _without_doubt(block: notation.CallBlock, text: str, *, cut: bool) -> notation.CallBlock:
    """A block of a cut reply, without its last call if more follows.

    Models end with their calls. So where a reply that was cut off goes on behind a block, the tags that seem to end
    the block may well stand in a value that the end of the reply cut off.
    """
    doubtful = cut and text[block.end :].strip()
    return replace(block, calls=block.calls[:-1], truncated=True) if doubtful else block


def _block_in_line(line: re.Match[str], openings: deque[int], reader: notation.Reader) -> notation.CallBlock | None:
    """The block of calls that opens in a line outside fences.

    At the start of the line it counts as it is; further on only if it is whole and ends the reply, and is no inline
    code.
    """
    while openings and reader.tags[openings[0]].start < line.start():
        openings.popleft()
    if not openings or reader.tags[openings[0]].start >= line.end():
        return None
    opening = openings[0]
    lead = line.string[line.start() : reader.tags[opening].start]
    if not lead.strip():
        return reader.read(opening)
    if lead.count("`") % 2 or not reader.is_whole(opening):
        return None
    block = reader.read(opening)
    return None if block.truncated or line.string[block.end :].strip() else block
