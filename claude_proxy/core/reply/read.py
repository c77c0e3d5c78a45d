"""Reply text -> content blocks and stop reason: the policy of what becomes a call.

- A call in the canonical notation counts at the start of a line, outside code fences and thinking; further on in a line
  only if it is whole, no inline code, and ends the reply. A fence that is the whole tail of the reply and holds nothing
  but calls counts, too.
- Only where there is no such call, one in another dialect counts, at the start of a line, if its name is one offered
  tool's and its required arguments are there.
- Calls that stand in thinking are thoughts. Thinking becomes a block of its own.
- What follows the last call is cut: a model that goes on after its calls invents their results. So is everything from
  an invented result or turn on, calls included.
- A call that the reply's end has cut off is never run; the whole ones before it are. Where the reply is known to have
  been cut off, its last call counts as cut off, whatever it looks like.

A reply that plainly meant a call but cannot be read has a `defect`, which says in a sentence what is wrong with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from claude_proxy.core.calls.arguments import fit_arguments
from claude_proxy.core.calls.call import CallBlock
from claude_proxy.core.calls.vocabulary import Vocabulary
from claude_proxy.core.messages.content import SIGNATURE, ContentBlock, StopReason, Text, Thinking, Tool, ToolUse
from claude_proxy.core.reply.lines import find_lone_closing, split_analysis
from claude_proxy.core.reply.scan import find_parts, without_last_call


@dataclass(frozen=True)
class Reply:
    """A reply, read."""

    content: tuple[ContentBlock, ...]  # no block is empty; thinking first
    stop_reason: StopReason
    truncated: bool = False  # so that it could be continued
    defect: str | None = None  # what is wrong with it, in a sentence that the model can mend it by
    stop_sequence: str | None = None

    @property
    def calls(self) -> int:
        """How many calls were read."""
        return sum(isinstance(block, ToolUse) for block in self.content)


# Above 40 lines, a third of them docstring: one pass from text to blocks, whose steps share their places in the text.
def read_reply(
    text: str,
    tools: Mapping[str, Tool],
    new_id: Callable[[], str],
    *,
    cut: bool,
    single_call: bool = False,
    decoded: bool = True,
    vocabulary: Vocabulary | None = None,
) -> Reply:
    """Read a model's reply.

    Args:
        text: the reply as the module passed it on.
        tools: the tools that may be called, by name; none, and no calls are looked for.
        new_id: makes a `tool_use` id, unique for ever.
        cut: whether the reply reached the limit at which the model is cut off.
        single_call: keep the first call only.
        decoded: whether the module has decoded the reply's HTML entities.
        vocabulary: that of the tools, if it is known already.
    """
    words = vocabulary or Vocabulary(tools)
    thoughts, said = _split_thinking(text, words, cut=cut)
    body = _without_partial_tag(said) if tools else said
    found = find_parts(body, words, cut=cut or body != said)
    if cut:
        found = without_last_call(found, len(body))
    truncated = cut or body != said or any(block.truncated for block in found.blocks)
    content: list[Text | ToolUse] = []
    prose = 0
    for part in found.parts:
        content += _text(body[prose : part.start])
        prose = part.end
        if isinstance(part, CallBlock):
            content += [
                ToolUse(new_id(), tool.name, fit_arguments(call.arguments, tool, decoded=decoded))
                for call in part.calls
                if (tool := words.tool(call.name))
            ]
        else:
            thoughts.append(part.text)
    content += _text(body[prose : found.end])
    calls = [index for index, item in enumerate(content) if isinstance(item, ToolUse)]
    if calls:
        content = content[: (calls[0] if single_call else calls[-1]) + 1]
    return Reply(
        content=(*_thinking(thoughts), *content),
        stop_reason="tool_use" if calls else "max_tokens" if truncated else "end_turn",
        truncated=truncated,
        defect=None if calls or truncated else found.defect if content else "the reply is empty",
    )


_MINIMAX_TOKEN = re.compile(r"\]<\]\w{1,40}\[>\[")  # M3 puts one before each tag


def _split_thinking(text: str, words: Vocabulary, *, cut: bool) -> tuple[list[str], str]:
    """The thoughts that a reply begins with, and the rest: gpt-oss's, and those whose opening tag is missing."""
    text = _MINIMAX_TOKEN.sub("", text) if "]<]" in text else text
    thoughts, text = split_analysis(text)
    if closing := find_lone_closing(text):
        blocks = (block for block in find_parts(text, words, cut=cut).blocks if not block.truncated)
        if not any(block.start < closing.start() < block.end for block in blocks):
            return [*thoughts, text[: closing.start()]], text[closing.end() :]
    return thoughts, text


# What may be a tag that the reply's end has cut off, at the start of a line; an opened block with nothing in it is as
# good as cut off.
_PARTIAL_TAG = re.compile(
    r"(?:\n|\A)[ \t]*<(?P<name>/?[a-z_]{0,14})(?:(?<=<invoke)\s[^<>\n]*|(?<=<function_calls)>\s*)?\Z"
)
_TAG_NAMES = ("function_calls", "/function_calls", "invoke", "/invoke")
_MAX_PARTIAL_TAG = 400


def _without_partial_tag(text: str) -> str:
    """A reply without the beginning of a tag that its end has cut off, if it ends in one."""
    furthest = max(0, len(text) - _MAX_PARTIAL_TAG)
    partial = _PARTIAL_TAG.match(text, max(text.rfind("\n", furthest, text.rfind("<")), furthest))
    if partial and any(name.startswith(partial["name"]) for name in _TAG_NAMES):
        return text[: partial.start()]
    return text


# What models write around their words, and no user should see: a chat template's tokens, or the speaker's name.
_FRAME_OF_WORDS = re.compile(
    r"""(?:<\|start\|>assistant)?<\|channel\|>(?:final|commentary)(?:\s*<\|constrain\|>\s*\w+)?<\|message\|>  # gpt-oss
      | <\|(?:open|close)\|>response<\|sep\|>                                                           # Kimi K3
      | <\|(?:start\|>assistant|end\|>|return\|>|im_end\|>|eot_id\|>|eom_id\|>)     # gpt-oss, Qwen and Llama: turns
    """,
    re.VERBOSE,
)
_SPEAKER = re.compile(r"\s*Assistant:\s+")


def _text(prose: str) -> list[Text]:
    speaker = _SPEAKER.match(prose)
    prose = prose[speaker.end() :] if speaker else prose
    prose = _FRAME_OF_WORDS.sub("", prose) if "<|" in prose else prose
    prose = prose.strip()
    return [Text(prose)] if prose else []


def _thinking(thoughts: list[str]) -> list[Thinking]:
    joined = "\n\n".join(thought.strip() for thought in thoughts if thought.strip())
    return [Thinking(joined, SIGNATURE)] if joined else []
