"""The product on one screen: request -> prompt -> ask -> reply -> message."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from claude_proxy.core import models, prompt, reply, securechat, tokens
from claude_proxy.core.content import Message, Request, Usage
from claude_proxy.core.models import Choice
from claude_proxy.core.prompt import Prompt
from claude_proxy.core.securechat import Answer
from claude_proxy.errors import ModelNeverAnswered, ModelOverloaded, PromptTooLong, ProxyError
from claude_proxy.settings import Settings
from claude_proxy.shell.upstream import Upstream, Waiter


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


class Exchange:
    """Asks SecureChatAI, and remembers which aliases have ever answered."""

    def __init__(self, settings: Settings, upstream: Upstream) -> None:
        self._settings = settings
        self._upstream = upstream
        self._answered: set[str] = set()

    def prepare(self, request: Request) -> Call:
        """Decide who is asked, and what; nothing is sent."""
        choice = models.choose_alias(request.model, self._settings.model_map)
        rendered = prompt.render(request, armoured=self._settings.redcap_decodes_entities)
        return Call(request, choice, rendered, tokens.estimate(rendered.texts))

    def ask(self, call: Call, token: str, message_id: str, waiter: Waiter) -> Message:
        """Ask the model and read its reply.

        Raises:
            PromptTooLong: the prompt exceeds the alias's window; nothing was sent.
            ProxyError: REDCap or the model failed.
            ClientGone: the client did not wait for the answer.
        """
        alias = call.choice.alias
        if call.input_tokens > alias.window:
            raise PromptTooLong(call.input_tokens, alias.window)
        max_tokens = min(call.request.max_tokens or alias.max_output, alias.max_output)
        answer = self._post(call, token, max_tokens, waiter)
        if answer.is_apology:
            raise self._explain_apology(call.choice)
        self._answered.add(alias.name)
        read = reply.read_reply(
            answer.text,
            {tool.name: tool for tool in call.request.callable_tools},
            lambda: new_id("toolu"),
            cut=securechat.reached_limit(alias, max_tokens, answer.output_tokens),
            single_call=call.request.tool_choice.disable_parallel_tool_use,
        )
        usage = Usage(
            answer.input_tokens or call.input_tokens,
            answer.output_tokens or tokens.estimate([answer.text]),
        )
        return Message(message_id, call.request.model, read.content, read.stop_reason, usage)

    def _post(self, call: Call, token: str, max_tokens: int, waiter: Waiter) -> Answer:
        settings = self._settings
        fields = securechat.form_fields(
            call.prompt,
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
