"""The asks that one request takes: the first, at most one repair, a bounded number of continuations.

Everything here is about one reply; who is asked, and what it costs, comes in and goes out through `post`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from claude_proxy.core.aliases import tokens
from claude_proxy.core.aliases.mapping import Alias
from claude_proxy.core.calls.notation import vocabulary_of
from claude_proxy.core.json_schema.validate import faults
from claude_proxy.core.memo import Memo
from claude_proxy.core.messages.content import (
    ContentBlock,
    Message,
    Request,
    StopReason,
    Text,
    Thinking,
    ToolUse,
    Usage,
)
from claude_proxy.core.prompt.render import Prompt
from claude_proxy.core.reply import continuation, limits
from claude_proxy.core.reply import document as structured
from claude_proxy.core.reply import read as reply
from claude_proxy.core.reply.read import Reply
from claude_proxy.core.securechat.answer import Answer, reached_limit
from claude_proxy.errors import InvalidDocument, ProxyError

_MAX_CONTINUATIONS = 16


class Asking:
    """One request on its way to a reply that can be given to the client.

    Attributes:
        usage: what all asks together cost.
        repairs: how often a reply that could not be used was asked for again.
        continuations: how often a reply that was cut off was continued.
        failure: the class of the failure that ended the asking again.
    """

    def __init__(
        self,
        request: Request,
        alias: Alias,
        post: Callable[[Prompt, int], Answer],
        new_id: Callable[[], str],
        *,
        armoured: bool,
        memo: Memo | None = None,
    ) -> None:
        """Prepare; nothing is asked yet.

        Args:
            request: what the client wants.
            alias: who is asked.
            post: asks once, given a prompt and the `max_tokens` to send; raises ProxyError.
            new_id: makes a `tool_use` id.
            armoured: whether texts carry the armour of `core.entities`.
            memo: what is known from earlier requests.
        """
        self._request = request
        self._alias = alias
        self._post = post
        self._new_id = new_id
        self._armoured = armoured
        wanted = request.max_tokens
        self._wanted = alias.max_output if wanted is None else wanted
        self._max_tokens = min(self._wanted, alias.max_output)
        demanded = request.tool_choice.name
        self._tools = {tool.name: tool for tool in request.callable_tools if demanded in {None, tool.name}}
        self._vocabulary = vocabulary_of(self._tools, Memo() if memo is None else memo)
        self._text = ""  # the reply as it stands, its continuations included
        self._reply_tokens = 0  # what it cost
        self._cut = self._window_full = False
        self.usage = Usage(0, 0)
        self.repairs = 0
        self.continuations = 0
        self.failure: str | None = None

    def reply(self, prompt: Prompt) -> Reply:
        """Ask, continue what was cut off, ask again for what cannot be used.

        Raises:
            InvalidDocument: no document of the requested schema came, even when asked again.
            ProxyError: the first ask failed.
        """
        read = self._read(self._ask(prompt))
        read = self._repair(prompt, self._continue(prompt, read))
        if self._request.output_schema is not None and read.defect and not read.truncated and not read.calls:
            raise InvalidDocument
        return self._limit(read)

    # --- one ask ------------------------------------------------------------------------------------------------------

    def _ask(self, prompt: Prompt) -> str:
        answer = self._post(prompt, self._max_tokens)
        input_tokens = answer.input_tokens or tokens.estimate(prompt.texts, self._alias.tokenizer)
        output_tokens = answer.output_tokens or tokens.estimate([answer.text], self._alias.tokenizer)
        self._reply_tokens += output_tokens
        self._cut = reached_limit(self._alias, self._max_tokens, answer.output_tokens)
        self._window_full = input_tokens + output_tokens >= self._alias.window
        self.usage = Usage(self.usage.input_tokens + input_tokens, self.usage.output_tokens + output_tokens)
        return answer.text

    def _read(self, text: str) -> Reply:
        self._text = text
        choice = self._request.tool_choice
        said = continuation.unwrap(self._request.prefill, text)
        read = reply.read_reply(
            said,
            self._tools,
            self._new_id,
            cut=self._cut or self._window_full,
            single_call=choice.disable_parallel_tool_use,
            decoded=self._armoured,
            vocabulary=self._vocabulary,
        )
        if self._request.output_schema is not None and not read.calls and not read.truncated:
            return self._read_document(read)
        if self._request.prefill:
            read = replace(read, content=_spaced(self._request.prefill, said, read.content))
        return read if read.defect else replace(read, defect=self._defect(read))

    def _read_document(self, read: Reply) -> Reply:
        """The reply as one text, the document; with a defect where it is none."""
        assert self._request.output_schema is not None  # noqa: S101 - for the type checker
        text = "\n".join(block.text for block in read.content if isinstance(block, Text))
        document = structured.read_document(text, self._request.output_schema)
        if document.text is None:
            return replace(read, defect=document.defect)
        others = tuple(block for block in read.content if not isinstance(block, Text))
        return replace(read, content=(*others, Text(document.text)), defect=None)

    def _defect(self, read: Reply) -> str | None:
        """What is wrong with a reply that can be read: a call that was demanded is missing, or breaks a schema."""
        demanded = self._request.tool_choice.type in {"any", "tool"} and self._tools
        if demanded and not read.calls and not read.truncated:
            return "a tool must be called now"
        for block in read.content:
            if not isinstance(block, ToolUse) or not (tool := self._tools[block.name]).strict:
                continue
            if found := faults(block.input, tool.input_schema):
                return f"the input of {block.name} breaks its schema: {'; '.join(found)}"
        return None

    # --- further asks -------------------------------------------------------------------------------------------------

    def _continue(self, prompt: Prompt, read: Reply) -> Reply:
        """Continue a reply that was cut off, until it is whole or one of the client's limits is reached."""
        while (
            read.truncated
            and not self._window_full
            and self.usage.output_tokens < self._wanted
            and self.continuations < _MAX_CONTINUATIONS
            and self._text
            and limits.stop_at(read.content, self._request.stop_sequences)[1] is None
        ):
            seam = continuation.cut_back(self._text)
            tokens_so_far = self._reply_tokens
            try:
                more = self._ask(continuation.ask_on(prompt, seam, armoured=self._armoured))
            except ProxyError as error:
                self.failure = type(error).__name__
                break  # what is whole is worth more than an error
            joined = continuation.join(seam, more)
            if joined is None:
                self._reply_tokens = tokens_so_far
                break
            self.continuations += 1
            if len(joined) <= len(self._text):
                # Nothing was missing: the limit was reached with the last word. So a call that ends there is whole.
                self._reply_tokens = tokens_so_far
                return self._read(self._text)
            read = self._read(joined)
        return read

    def _repair(self, prompt: Prompt, read: Reply) -> Reply:
        """Ask once more for a reply that cannot be used; the first one stands if that does not help."""
        if not read.defect:
            return read
        first_tokens, self._reply_tokens = self._reply_tokens, 0
        said_nothing = all(isinstance(block, Thinking) for block in read.content)
        demand = continuation.ask_again(prompt, self._text, read.defect, armoured=self._armoured)
        try:
            text = self._ask(demand)
        except ProxyError as error:
            if said_nothing or self._request.output_schema is not None:
                raise  # there is nothing to fall back on
            self.failure = type(error).__name__
            self._reply_tokens = first_tokens
            return read
        self.repairs += 1
        again = self._continue(demand, self._read(text))
        if again.calls or ((self._request.output_schema is not None or said_nothing) and not again.defect):
            return again
        self._reply_tokens = first_tokens
        return read

    # --- limits -------------------------------------------------------------------------------------------------------

    def _limit(self, read: Reply) -> Reply:
        """Apply the limits that the module does not apply."""
        content, sequence = limits.stop_at(read.content, self._request.stop_sequences)
        if sequence is not None:
            return replace(read, content=content, stop_reason="stop_sequence", stop_sequence=sequence)
        content, was_cut = self._shorten(content)
        reason: StopReason = "max_tokens" if was_cut else read.stop_reason
        if reason == "max_tokens" and self._window_full and not was_cut:
            reason = "model_context_window_exceeded"
        return replace(read, content=content, stop_reason=reason)

    def _shorten(self, content: tuple[ContentBlock, ...]) -> tuple[tuple[ContentBlock, ...], bool]:
        """Cut to the client's `max_tokens`, but neither a document in two nor an answer for the sake of thinking."""
        if self._request.output_schema is not None:
            return content, False
        if not self._request.thinking and any(isinstance(block, Text) for block in content):
            content = tuple(block for block in content if not isinstance(block, Thinking))
        return limits.cut_to(content, self._wanted, self._reply_tokens)


def _spaced(prefill: str, said: str, content: tuple[ContentBlock, ...]) -> tuple[ContentBlock, ...]:
    """The content with the white space between the client's beginning and the model's words, which reading drops."""
    space = said[: len(said) - len(said.lstrip())]
    if prefill[-1].isspace() or not content or not isinstance(first := content[0], Text):
        return content
    return (Text(space + first.text), *content[1:])


def answer_nothing(request: Request, message_id: str, input_tokens: int) -> Message:
    """The message for `max_tokens: 0`, which asks for no reply: the real API only fills its cache."""
    return Message(message_id, request.model, (), "max_tokens", Usage(input_tokens, 0), extras=request.extras)
