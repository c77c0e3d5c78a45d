r"""Calls as text in the canonical notation: the form that the model is shown, and asked to write.

    <function_calls>
    <invoke name="Write">
    <parameter name="file_path">/a.py</parameter>
    <parameter name="content">
    raw text, over as many lines as needed, nothing escaped
    </parameter>
    </invoke>
    </function_calls>

Where a parameter may only be a string, its value stands raw; any other value is JSON, and so is a string that would be
taken for one. A value that starts on the line after its tag loses that first newline and the one before the closing
tag; any other value is taken exactly as it stands.

Nothing is escaped, so a value may hold these very tags; `reader` says how it tells them apart. Where it would misread a
value all the same, the writer says so: `encoding="json"` marks a value as JSON, whose `<` are written `\u003c`.

Whoever changes the writer changes the reader. Writing then reading gives every input back exactly, provided that
parameter names match `[A-Za-z0-9_.-]+`, as the Messages API demands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from claude_proxy.core.calls.call import Call
from claude_proxy.core.calls.reader import Reader
from claude_proxy.core.calls.tags import BLOCK_TAG
from claude_proxy.core.calls.values import write_value
from claude_proxy.core.calls.vocabulary import Vocabulary
from claude_proxy.core.json_text import to_json
from claude_proxy.core.messages.content import Tool


class CallWriter:
    """Writes calls of certain tools, each in the plainest form that reads back as what it is.

    Whether it does is found out by reading, which is expensive.
    """

    def __init__(self, tools: Mapping[str, Tool]) -> None:
        """Prepare for the tools that are offered; calls of others are written as if they took anything."""
        self.vocabulary = Vocabulary(tools)

    def write(self, calls: Sequence[Call]) -> str:
        """Write calls as one block."""
        return self._block(calls, self._which_encoded(calls))

    def _which_encoded(self, calls: Sequence[Call]) -> tuple[bool, ...]:
        """Which calls of a block have to be encoded so that it reads back exactly."""
        plain = (False,) * len(calls)
        if self._reads_as(self._block(calls, plain), calls):
            return plain
        return tuple(not self._is_exact(call) for call in calls)

    def _is_exact(self, call: Call) -> bool:
        """Whether nothing around a call can make its plain form ambiguous: it has no tag, and reads back by itself."""
        has_tags = any("<" in to_json(value) for value in call.arguments.values())
        return not has_tags and self._reads_as(self._block([call], [False]), [call])

    def _reads_as(self, text: str, calls: Sequence[Call]) -> bool:
        """Whether a text is read as exactly these calls, even in a reply that was cut off right behind it."""
        for cut in (False, True):
            block = Reader(text, self.vocabulary, cut=cut).read(0)
            if block.calls != tuple(calls) or block.end != len(text) or block.truncated:
                return False
        return True

    def _block(self, calls: Iterable[Call], encoded: Iterable[bool]) -> str:
        invokes = [self._invoke(call, encoded=each) for call, each in zip(calls, encoded, strict=True)]
        return "\n".join([BLOCK_TAG, *invokes, "</function_calls>"])

    def _invoke(self, call: Call, *, encoded: bool) -> str:
        tool = self.vocabulary.tool(call.name)
        lines = [f'<invoke name="{call.name}">']
        for name, value in call.arguments.items():
            if encoded:
                text = to_json(value).replace("<", "\\u003c")
                lines.append(f'<parameter name="{name}" encoding="json">{text}</parameter>')
            else:
                text = write_value(value, self.vocabulary.types(tool, name))
                lines.append(f'<parameter name="{name}">{text}</parameter>')
        return "\n".join([*lines, "</invoke>"])
