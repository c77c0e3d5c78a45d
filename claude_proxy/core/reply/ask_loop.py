"""The ask loop: the asks that one request takes, the first, at most one repair, a bounded number of continuations.

It is a generator: it yields each `Ask` and is sent the `Answer`, or thrown the `ProxyError` that came instead. So it
knows nothing of how an ask is sent or what it costs to wait, and a test reads as a dialogue. `drive` runs it with a
function that sends.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar

from claude_proxy.core.aliases import tokens
from claude_proxy.core.aliases.mapping import Alias
from claude_proxy.core.calls.vocabulary import Vocabulary
from claude_proxy.core.json_schema.validate import faults
from claude_proxy.core.messages.content import (
    ContentBlock,
    Message,
    Request,
    StopReason,
    Text,
    Thinking,
    Tool,
    ToolUse,
    Usage,
)
from claude_proxy.core.prompt.render import Prompt
from claude_proxy.core.reply import continuation, limits
from claude_proxy.core.reply.document import NoDocument, read_document
from claude_proxy.core.reply.read import Reply, read_reply
from claude_proxy.core.securechat.answer import Answer, reached_limit
from claude_proxy.errors import InvalidDocument, ProxyError

T = TypeVar("T")

_MAX_CONTINUATIONS = 16


@dataclass(frozen=True)
class Ask:
    """One ask: what the model is to be sent."""

    prompt: Prompt
    max_tokens: int
    number: int  # 0 for the first ask of a request


@dataclass(frozen=True)
class AskResult:
    """What came of all asks together."""

    reply: Reply
    usage: Usage
    repairs: int  # how often a reply that could not be used was asked for again
    continuations: int  # how often a reply that was cut off was continued
    failure: str | None  # the class of the failure that ended the asking early


Asks: TypeAlias = Generator[Ask, Answer, T]
"""Asks that end in a result."""


def drive(asks: Asks[T], send: Callable[[Ask], Answer]) -> T:
    """Run asks to their result.

    Raises:
        ProxyError: `send` has raised it, and the asks, into which it was thrown, have no use for it.
    """
    try:
        ask = next(asks)
        while True:
            try:
                answer = send(ask)
            except ProxyError as error:
                ask = asks.throw(error)
            else:
                ask = asks.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


def ask_for_reply(
    request: Request,
    alias: Alias,
    prompt: Prompt,
    new_id: Callable[[], str],
    *,
    armoured: bool,
    vocabulary: Vocabulary | None = None,
) -> Asks[AskResult]:
    """Ask, continue what was cut off, and ask again for what cannot be used.

    Args:
        request: what the client wants.
        alias: who is asked.
        prompt: the request as the model reads it.
        new_id: makes a `tool_use` id.
        armoured: whether texts carry the armour of `core.prompt.armour`.
        vocabulary: of the tools that the request lets the reply call, where it is known already.

    Raises:
        InvalidDocument: no document of the requested schema came, even when asked again.
        ProxyError: the first ask failed.
    """
    words = vocabulary or Vocabulary(callable_tools(request))
    loop = _Loop(request, alias, new_id, armoured, words)
    draft = yield from loop.first_draft(prompt)
    reply = loop.limited(draft)
    return AskResult(reply, loop.usage, loop.repairs, loop.continuations, loop.failure)


def callable_tools(request: Request) -> dict[str, Tool]:
    """The tools that the reply may call, by name: all that are offered, or the one that is demanded."""
    demanded = request.tool_choice.name
    return {tool.name: tool for tool in request.callable_tools if demanded in {None, tool.name}}


@dataclass(frozen=True)
class _Said:
    """What the model has said, in one ask, or in several, whose texts are joined."""

    text: str
    tokens: int
    cut: bool  # at one of the alias's limits
    window_full: bool  # prompt and answer fill the alias's window


@dataclass(frozen=True)
class _Draft:
    """What the model has said so far, its continuations included, and how that reads."""

    said: _Said
    reply: Reply


@dataclass
class _Loop:
    """The asks of one request. It counts what they cost; all else goes from one to the next as a `_Draft`."""

    request: Request
    alias: Alias
    new_id: Callable[[], str]
    armoured: bool
    words: Vocabulary
    asks: int = 0
    usage: Usage = field(default=Usage(0, 0))
    repairs: int = 0
    continuations: int = 0
    failure: str | None = None

    @property
    def wanted(self) -> int:
        """How many tokens the client wants at most."""
        return self.alias.max_output if self.request.max_tokens is None else self.request.max_tokens

    def first_draft(self, prompt: Prompt) -> Asks[_Draft]:
        """Ask until the reply can be given to the client, or cannot be helped."""
        said = yield from self._ask(prompt)
        draft = yield from self._continue(prompt, self._draft(said))
        draft = yield from self._repair(prompt, draft)
        reply = draft.reply
        if self.request.output_schema is not None and reply.defect and not reply.truncated and not reply.calls:
            raise InvalidDocument
        return draft

    # --- one ask ------------------------------------------------------------------------------------------------------

    def _ask(self, prompt: Prompt) -> Asks[_Said]:
        max_tokens = min(self.wanted, self.alias.max_output)
        self.asks += 1
        answer = yield Ask(prompt, max_tokens, self.asks - 1)
        input_tokens = answer.input_tokens or tokens.estimate(prompt.texts, self.alias.tokenizer)
        output_tokens = answer.output_tokens or tokens.estimate([answer.text], self.alias.tokenizer)
        self.usage = Usage(self.usage.input_tokens + input_tokens, self.usage.output_tokens + output_tokens)
        window_full = input_tokens + output_tokens >= self.alias.window
        cut = window_full or reached_limit(self.alias, max_tokens, answer.output_tokens)
        return _Said(answer.text, output_tokens, cut, window_full)

    def _draft(self, said: _Said) -> _Draft:
        return _Draft(said, self._read(said))

    def _read(self, said: _Said) -> Reply:
        request = self.request
        text = continuation.without_prefill(request.prefill, said.text)
        read = read_reply(
            text,
            self.words.tools,
            self.new_id,
            cut=said.cut,
            single_call=request.tool_choice.disable_parallel_tool_use,
            decoded=self.armoured,
            vocabulary=self.words,
        )
        if request.output_schema is not None and not read.calls and not read.truncated:
            return _as_document(read, request.output_schema)
        if request.prefill:
            read = replace(read, content=_spaced(request.prefill, text, read.content))
        return read if read.defect else replace(read, defect=self._defect(read))

    def _defect(self, read: Reply) -> str | None:
        """What is wrong with a reply that can be read: a call that was demanded is missing, or breaks a schema."""
        demanded = self.request.tool_choice.type in {"any", "tool"} and self.words.tools
        if demanded and not read.calls and not read.truncated:
            return "a tool must be called now"
        for block in read.content:
            if not isinstance(block, ToolUse) or not (tool := self.words.tools[block.name]).strict:
                continue
            if found := faults(block.input, tool.input_schema):
                return f"the input of {block.name} breaks its schema: {'; '.join(found)}"
        return None

    # --- further asks -------------------------------------------------------------------------------------------------

    def _continue(self, prompt: Prompt, draft: _Draft) -> Asks[_Draft]:
        """Continue a reply that was cut off, until it is whole or one of the client's limits is reached."""
        for _ in range(_MAX_CONTINUATIONS - self.continuations):
            if not self._may_go_on(draft):
                break
            seam = continuation.find_seam(draft.said.text)
            try:
                more = yield from self._ask(continuation.continuation_prompt(prompt, seam, armoured=self.armoured))
            except ProxyError as error:
                self.failure = type(error).__name__
                break  # what is whole is worth more than an error
            joined = continuation.join(seam, more.text)
            if joined is None:
                break
            self.continuations += 1
            if len(joined) <= len(draft.said.text):
                # Nothing was missing: the limit was reached with the last word. So a call that ends there is whole.
                return self._draft(replace(more, text=draft.said.text, tokens=draft.said.tokens))
            draft = self._draft(replace(more, text=joined, tokens=draft.said.tokens + more.tokens))
        return draft

    def _may_go_on(self, draft: _Draft) -> bool:
        return bool(
            draft.reply.truncated
            and not draft.said.window_full
            and self.usage.output_tokens < self.wanted
            and draft.said.text
            and limits.stop_at(draft.reply.content, self.request.stop_sequences)[1] is None
        )

    def _repair(self, prompt: Prompt, draft: _Draft) -> Asks[_Draft]:
        """Ask once more for a reply that cannot be used; the first one stands if that does not help."""
        read = draft.reply
        if not read.defect:
            return draft
        said_nothing = all(isinstance(block, Thinking) for block in read.content)
        demand = continuation.repair_prompt(prompt, draft.said.text, read.defect, armoured=self.armoured)
        try:
            said = yield from self._ask(demand)
        except ProxyError as error:
            if said_nothing or self.request.output_schema is not None:
                raise  # there is nothing to fall back on
            self.failure = type(error).__name__
            return draft
        self.repairs += 1
        again = yield from self._continue(demand, self._draft(said))
        helps_without_call = self.request.output_schema is not None or said_nothing
        if again.reply.calls or (helps_without_call and not again.reply.defect):
            return again
        return draft

    # --- limits -------------------------------------------------------------------------------------------------------

    def limited(self, draft: _Draft) -> Reply:
        """The reply within the limits that the module does not apply."""
        read = draft.reply
        content, sequence = limits.stop_at(read.content, self.request.stop_sequences)
        if sequence is not None:
            return replace(read, content=content, stop_reason="stop_sequence", stop_sequence=sequence)
        content, was_cut = self._shorten(content, draft.said.tokens)
        reason: StopReason = "max_tokens" if was_cut else read.stop_reason
        if reason == "max_tokens" and draft.said.window_full and not was_cut:
            reason = "model_context_window_exceeded"
        return replace(read, content=content, stop_reason=reason)

    def _shorten(
        self, content: tuple[ContentBlock, ...], tokens_of_reply: int
    ) -> tuple[tuple[ContentBlock, ...], bool]:
        """Cut to the client's `max_tokens`, but neither a document in two nor an answer for the sake of thinking."""
        if self.request.output_schema is not None:
            return content, False
        if not self.request.thinking and any(isinstance(block, Text) for block in content):
            content = tuple(block for block in content if not isinstance(block, Thinking))
        return limits.cut_to(content, self.wanted, tokens_of_reply)


def _as_document(read: Reply, schema: Mapping[str, Any]) -> Reply:
    """The reply as one text, the document; with a defect if it is not valid."""
    text = "\n".join(block.text for block in read.content if isinstance(block, Text))
    try:
        document = read_document(text, schema)
    except NoDocument as error:
        return replace(read, defect=str(error))
    others = tuple(block for block in read.content if not isinstance(block, Text))
    return replace(read, content=(*others, Text(document)), defect=None)


def _spaced(prefill: str, said: str, content: tuple[ContentBlock, ...]) -> tuple[ContentBlock, ...]:
    """The content with the white space between the client's beginning and the model's words, which reading drops."""
    space = said[: len(said) - len(said.lstrip())]
    if prefill[-1].isspace() or not content or not isinstance(first := content[0], Text):
        return content
    return (Text(space + first.text), *content[1:])


def answer_nothing(request: Request, message_id: str, input_tokens: int) -> Message:
    """The message for `max_tokens: 0`, which asks for no reply: the real API only fills its cache."""
    return Message(message_id, request.model, (), "max_tokens", Usage(input_tokens, 0), extras=request.extras)
