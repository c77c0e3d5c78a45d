"""The product on one screen: request -> prompt -> ask -> reply -> message."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace

from claude_proxy.core import followup, models, prompt, reply, securechat, slips, tokens
from claude_proxy.core.content import ContentBlock, Message, Request, Text, Thinking, ToolUse, Usage
from claude_proxy.core.models import Choice
from claude_proxy.core.prompt import Prompt
from claude_proxy.core.reply import Reply
from claude_proxy.core.securechat import Answer
from claude_proxy.errors import ModelNeverAnswered, ModelOverloaded, PromptTooLong, ProxyError
from claude_proxy.settings import Settings
from claude_proxy.shell.upstream import Upstream, Waiter

_MAX_CONTINUATIONS = 16


def new_id(prefix: str) -> str:
    """An id that is unique for ever: `msg_…`, `toolu_…`, `req_…`."""
    return f"{prefix}_{secrets.token_hex(12)}"


@dataclass(frozen=True)
class Call:
    """A request, ready to be sent.

    Attributes:
        request: what the client wants.
        choice: which alias answers, and why.
        prompt: what the model will read.
        input_tokens: the estimate for it.
    """

    request: Request
    choice: Choice
    prompt: Prompt
    input_tokens: int


@dataclass(frozen=True)
class Outcome:
    """A finished message, and what it took.

    Attributes:
        message: for the client.
        repairs: how often a call that could not be read was asked for again.
        continuations: how often a reply that was cut off was continued.
        slips: in how many edits a slip of the pen was mended.
        second_ask_error: the class of the failure that ended the asking again.
    """

    message: Message
    repairs: int = 0
    continuations: int = 0
    slips: int = 0
    second_ask_error: str | None = None


class Exchange:
    """Asks SecureChatAI, and remembers which aliases have ever answered."""

    def __init__(self, settings: Settings, upstream: Upstream) -> None:
        self.settings = settings
        self._upstream = upstream
        self._answered: set[str] = set()

    def prepare(self, request: Request) -> Call:
        """Decide who is asked, and what; nothing is sent."""
        choice = models.choose_alias(request.model, self.settings.model_map)
        rendered = prompt.render(request, armoured=self.settings.redcap_decodes_entities)
        return Call(request, choice, rendered, tokens.estimate(rendered.texts))

    def ask(self, call: Call, token: str, message_id: str, waiter: Waiter) -> Outcome:
        """Ask the model and read its reply; ask again where it cannot be read or was cut off.

        Raises:
            PromptTooLong: the prompt exceeds the alias's window; nothing was sent.
            ProxyError: REDCap or the model failed.
            ClientGone: the client did not wait for the answer.
        """
        alias = call.choice.alias
        if call.input_tokens > alias.window:
            raise PromptTooLong(call.input_tokens, alias.window)
        asking = _Asking(self, call, token, waiter)
        read = asking.read(asking.ask(call.prompt))
        read = asking.repair(asking.continue_(read))
        content, mended = self._for_client(call, read.content)
        message = Message(message_id, call.request.model, content, read.stop_reason, asking.usage)
        return Outcome(message, asking.repairs, asking.continuations, mended, asking.failure)

    def _for_client(self, call: Call, content: Iterable[ContentBlock]) -> tuple[tuple[ContentBlock, ...], int]:
        """The content as the client wants it, and in how many edits a slip was mended.

        Thinking is left out where the request does not allow it, unless there is nothing else to show.
        """
        blocks: list[ContentBlock] = []
        mended = 0
        for block in content:
            if isinstance(block, ToolUse):
                arguments = slips.mend(block.input, lambda: slips.shown_texts(call.request.messages))
                mended += arguments is not None
                blocks.append(replace(block, input=arguments or block.input))
            elif call.request.thinking or not isinstance(block, Thinking):
                blocks.append(block)
        thoughts = [Text(block.thinking) for block in content if isinstance(block, Thinking)]
        return tuple(blocks or thoughts), mended

    def post(self, call: Call, prompt: Prompt, token: str, max_tokens: int, waiter: Waiter) -> Answer:
        """Ask once.

        Raises:
            ProxyError: REDCap or the model failed.
        """
        answer = self._post(call, prompt, token, max_tokens, waiter)
        if answer.is_apology:
            raise self._explain_apology(call.choice)
        self._answered.add(call.choice.alias.name)
        return answer

    def _post(self, call: Call, prompt: Prompt, token: str, max_tokens: int, waiter: Waiter) -> Answer:
        settings = self.settings
        fields = securechat.form_fields(
            prompt,
            token=token,
            prefix=settings.redcap_module_prefix,
            alias=call.choice.alias,
            max_tokens=max_tokens,
            temperature=call.request.temperature,
            top_p=call.request.top_p,
        )
        content_type, body = securechat.encode_form(fields, new_id("form"))
        came = self._upstream.post(content_type, body, waiter)
        return securechat.read_answer(
            came.status,
            came.headers,
            came.body,
            url=settings.redcap_api_url,
            prefix=settings.redcap_module_prefix,
            sent_bytes=len(body),
        )

    def _explain_apology(self, choice: Choice) -> ProxyError:
        """SecureChatAI apologises in the same words for a model that is down and for one that does not exist."""
        name = choice.alias.name
        if name in self._answered:
            return ModelOverloaded(
                f"The model behind the SecureChatAI alias {name!r} does not answer at the moment; it has answered "
                "before. SecureChatAI has already tried three times."
            )
        return ModelNeverAnswered(
            f"The SecureChatAI alias {name!r} has not answered since this proxy started. It was chosen by "
            f"{choice.rule}. SecureChatAI apologises in the same words for a model that is down and for an alias "
            "that is not configured: check the name with your REDCap administrator, map it with MODEL_MAP, or choose "
            "another model."
        )


class _Asking:
    """The asks that one request takes: the first, at most one repair, a bounded number of continuations."""

    def __init__(self, exchange: Exchange, call: Call, token: str, waiter: Waiter) -> None:
        self._exchange = exchange
        self._call = call
        self._token = token
        self._waiter = waiter
        self._alias = call.choice.alias
        wanted = call.request.max_tokens
        self._wanted = self._alias.max_output if wanted is None else max(1, wanted)
        self._max_tokens = min(self._wanted, self._alias.max_output)
        self._armoured = exchange.settings.redcap_decodes_entities
        demanded = call.request.tool_choice.name
        tools = call.request.callable_tools
        self._tools = {tool.name: tool for tool in tools if demanded in {None, tool.name}}
        self._asked = 0
        self._text = ""
        self._cut = False
        self.usage = Usage(0, 0)
        self.repairs = 0
        self.failure: str | None = None
        self.continuations = 0

    def ask(self, prompt: Prompt) -> str:
        """Ask once, and count what it costs. All asks after the first share a time limit of their own."""
        if self._asked == 1:
            self._waiter.renew(self._exchange.settings.upstream_timeout)
        self._asked += 1
        answer = self._exchange.post(self._call, prompt, self._token, self._max_tokens, self._waiter)
        self._cut = securechat.reached_limit(self._alias, self._max_tokens, answer.output_tokens)
        self.usage = Usage(
            self.usage.input_tokens + (answer.input_tokens or tokens.estimate(prompt.texts)),
            self.usage.output_tokens + (answer.output_tokens or tokens.estimate([answer.text])),
        )
        return answer.text

    def read(self, text: str) -> Reply:
        """Read a reply."""
        self._text = text
        choice = self._call.request.tool_choice
        read = reply.read_reply(
            text,
            self._tools,
            lambda: new_id("toolu"),
            cut=self._cut,
            single_call=choice.disable_parallel_tool_use,
            decoded=self._armoured,
        )
        demanded = choice.type in {"any", "tool"} and self._tools and not read.calls and not read.truncated
        return replace(read, defect="a tool must be called now") if demanded and not read.defect else read

    def continue_(self, read: Reply) -> Reply:
        """Continue a reply that was cut off, until it is whole or the client's limit is reached."""
        while (
            read.truncated
            and self.usage.output_tokens < self._wanted
            and self.continuations < _MAX_CONTINUATIONS
            and self._text
        ):
            seam = followup.cut_back(self._text)
            try:
                more = self.ask(followup.ask_on(self._call.prompt, seam, armoured=self._armoured))
            except ProxyError as error:
                self.failure = type(error).__name__
                break  # what is whole is worth more than an error
            joined = followup.join(seam, more)
            if joined is None or len(joined) <= len(self._text):
                break
            self.continuations += 1
            read = self.read(joined)
        return read

    def repair(self, read: Reply) -> Reply:
        """Ask once more for a call that could not be read; the first reply stands if that does not help."""
        if not read.defect:
            return read
        try:
            text = self.ask(followup.ask_again(self._call.prompt, self._text, read.defect, armoured=self._armoured))
        except ProxyError as error:
            self.failure = type(error).__name__
            return read
        self.repairs += 1
        again = self.read(text)
        return again if again.calls else read
