"""The product on one screen: request -> prompt -> ask -> reply -> message."""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TypeAlias, TypeVar

from claude_proxy.core.aliases import mapping, tokens
from claude_proxy.core.aliases.health import Health
from claude_proxy.core.aliases.mapping import Choice
from claude_proxy.core.aliases.tokens import Correction
from claude_proxy.core.calls.vocabulary import Vocabulary
from claude_proxy.core.messages.content import ContentBlock, Message, Request, Text, Thinking, ToolUse
from claude_proxy.core.messages.json_node import Rules
from claude_proxy.core.messages.request import parse_request
from claude_proxy.core.prompt import render
from claude_proxy.core.prompt.render import Prompt
from claude_proxy.core.reply import edit_mending
from claude_proxy.core.reply.ask_loop import Ask, AskResult, Asks, answer_nothing, ask_for_reply, callable_tools, drive
from claude_proxy.core.securechat.answer import Answer, read_answer
from claude_proxy.core.securechat.form import encode_form, form_fields, form_type
from claude_proxy.errors import ModelNeverAnswered, ModelOverloaded, PromptTooLong, ProxyError
from claude_proxy.settings.table import DEFAULT_SERVER, Settings
from claude_proxy.shell.observe.journal import Phase
from claude_proxy.shell.proxy.cache import Cache
from claude_proxy.shell.upstream.call_queue import CallQueue
from claude_proxy.shell.upstream.client import Upstream
from claude_proxy.shell.wait.waiter import Waiter

T = TypeVar("T")
_UpstreamKey: TypeAlias = tuple[Hashable, ...]

_MB = 1_000_000
_SECRET = secrets.token_bytes(32)
_numbers = itertools.count()
_NOBODY = ""  # whose the cache is: everybody's
_MOST_ALIASES = 1000  # of which something is remembered; a server has some thirty


def new_id(prefix: str) -> str:
    """An id that is unique for ever, and that nobody can guess: `msg_…`, `toolu_…`, `req_…`."""
    return f"{prefix}_{sha256(_SECRET + b'%d' % next(_numbers)).hexdigest()[:24]}"  # asks the system only once


@dataclass(frozen=True)
class Snapshot:
    """Settings, and the upstreams of the servers that they name.

    A request goes by one of these from its beginning to its end: who is let in and whose token is spent must not come
    from different settings.
    """

    settings: Settings
    upstreams: Mapping[_UpstreamKey, Upstream]


@dataclass(frozen=True)
class PreparedRequest:
    """A request, ready to be sent.

    Attributes:
        request: what the client wants.
        choice: which alias answers, and why.
        settings: as they were when the request began, for the server of the alias.
        upstream: the way to that server.
        prompt: what the model will read.
        estimated: the tokens of its texts, as they are estimated for any alias.
        input_tokens: what it will most likely cost with this alias.
        most_tokens: what it may cost, with the error that must be reckoned with.
        vocabulary: of all tools of the request.
        traceparent: the trace that the request belongs to, a W3C header for REDCap.
    """

    request: Request
    choice: Choice
    settings: Settings
    upstream: Upstream
    prompt: Prompt
    estimated: int
    input_tokens: int
    most_tokens: int
    vocabulary: Vocabulary
    traceparent: str | None = None


@dataclass(frozen=True)
class Outcome:
    """A finished message, and what it took.

    Attributes:
        message: for the client.
        repairs: how often a call that could not be read was asked for again.
        continuations: how often a reply that was cut off was continued.
        mended_edits: in how many edits what the model changed by mistake was mended.
        second_ask_error: the class of the failure that ended the asking again.
    """

    message: Message
    repairs: int = 0
    continuations: int = 0
    mended_edits: int = 0
    second_ask_error: str | None = None


class Exchange:
    """Asks SecureChatAI, within a bound on calls at once, and remembers how its aliases fare.

    Attributes:
        snapshot: what a request that begins now goes by; it is changed as one.
    """

    def __init__(self, settings: Settings, upstream: Upstream) -> None:
        """Begin, with the way to the default server.

        Raises:
            SettingsError, OSError: there is no way to one of the others.
        """
        self.snapshot = Snapshot(settings, _find_upstreams(settings, {_key_of(settings): upstream}))
        self._queue = CallQueue(settings.max_calls, settings.max_waiting)
        self._health: dict[str, Health] = {}  # by label of the alias
        self._corrections: dict[str, Correction] = {}
        self._cache = Cache(settings.cache_mb * _MB, time.monotonic())
        self._lock = threading.Lock()

    def adopt(self, settings: Settings) -> None:
        """Go by new settings from the next request on; what is known of the aliases stays known.

        Raises:
            SettingsError, OSError: there is no way to one of the servers; then nothing has changed.
        """
        before = self.snapshot.upstreams
        after = _find_upstreams(settings, before)
        self.snapshot = Snapshot(settings, after)
        self._queue.allow(settings.max_calls, settings.max_waiting)
        self._cache.allow(settings.cache_mb * _MB)
        for key in before.keys() - after.keys():
            before[key].close()

    def close(self) -> None:
        """Close the connections that are kept for the next call."""
        for upstream in self.snapshot.upstreams.values():
            upstream.close()

    def forget_idle(self, now: float) -> None:
        """Forget the content of conversations that have been idle for five minutes.

        Args:
            now: seconds, from any start; to be called every few seconds.
        """
        self._cache.expire(now)

    def prepare(
        self,
        body: bytes,
        rules: Rules = Rules(),  # noqa: B008 - frozen
        *,
        snapshot: Snapshot | None = None,
        count_only: bool = False,
        traceparent: str | None = None,
    ) -> PreparedRequest:
        """Read a request, and decide who is asked, and what; nothing is sent.

        Args:
            body: as the client sent it.
            rules: for which API version.
            snapshot: what the request has gone by so far; if left out, it begins now.
            count_only: do without `max_tokens`.
            traceparent: the trace that the request belongs to.

        Raises:
            InvalidRequest, NotFound: see `parse_request`.
        """
        snapshot = snapshot or self.snapshot
        run = self._cache.runner(_NOBODY)
        request = parse_request(body, rules, count_only=count_only, run=run)
        choice = mapping.choose_alias(request.model, *snapshot.settings.model_rules)
        settings = snapshot.settings.at(choice.server)
        prepared = render.prepare(request, choice.alias, armoured=settings.redcap_decodes_entities, run=run)
        media = tokens.estimate_media(prepared.prompt.media)
        correction = self._corrections.get(choice.label, Correction())
        upstream = snapshot.upstreams[_key_of(settings)]
        return PreparedRequest(
            *(request, choice, settings, upstream, prepared.prompt),
            estimated=prepared.tokens,
            input_tokens=correction.apply(prepared.tokens) + media,
            most_tokens=correction.apply_cautiously(prepared.tokens) + media,
            vocabulary=prepared.vocabulary,
            traceparent=traceparent,
        )

    def ask(
        self,
        prepared: PreparedRequest,
        token: str,
        message_id: str,
        waiter: Waiter,
        note: Callable[[Phase], None] = lambda _: None,
    ) -> Outcome:
        """Ask the model and read its reply; ask again where it cannot be read or was cut off.

        Args:
            prepared: what to ask.
            token: for REDCap.
            message_id: of the message to be made.
            waiter: who waits on behalf of the client.
            note: told what the request has come to.

        Raises:
            PromptTooLong: the prompt exceeds the alias's window; nothing was sent.
            ProxyError: REDCap or the model failed.
            ClientGone: the client did not wait for the answer.
        """
        request, alias = prepared.request, prepared.choice.alias
        if prepared.most_tokens > alias.window:
            raise PromptTooLong(prepared.most_tokens, alias.window)
        if request.max_tokens == 0:
            return Outcome(answer_nothing(request, message_id, prepared.input_tokens))

        def send(ask: Ask) -> Answer:
            if ask.number == 1:  # all asks after the first share a time limit of their own
                waiter.renew(prepared.settings.upstream_timeout)
                note("asking again")
            return self._send(prepared, ask, token, waiter, boundary=f"form_{message_id}")

        note("waiting for a turn")
        with self._queue.take(token, waiter):
            note("asking")
            waiter.renew(prepared.settings.upstream_timeout)
            asked = drive(_asks(prepared), send)
        return _outcome(request, asked, message_id)

    def _send(self, prepared: PreparedRequest, ask: Ask, token: str, waiter: Waiter, *, boundary: str) -> Answer:
        """Send one ask, and remember how it went.

        Raises:
            ProxyError: REDCap or the model failed.
        """
        began = waiter.elapsed
        answer = _post(prepared, ask, token, waiter, boundary)
        if answer.is_apology:
            raise self._explain_apology(prepared.choice)
        self._note_health(prepared.choice, lambda health: health.after_answer(time.monotonic(), waiter.elapsed - began))
        if ask.number == 0:
            self._learn(prepared, answer)
        return answer

    def _explain_apology(self, choice: Choice) -> ProxyError:
        """SecureChatAI apologises in the same words for a model that is down and for one that does not exist."""
        name = choice.label
        health = self._note_health(choice, Health.after_failure)
        if health.has_answered:
            return ModelOverloaded(
                f"The model behind the SecureChatAI alias {name!r} does not answer at the moment; it has answered "
                "before. SecureChatAI has already tried three times.",
                retry_after=health.retry_after,
            )
        return ModelNeverAnswered(
            f"The SecureChatAI alias {name!r} has not answered since this proxy started. It was chosen by "
            f"{choice.rule}. SecureChatAI apologises in the same words for a model that is down and for an alias "
            "that is not configured: check the name with your REDCap administrator, map it with MODEL_MAP, or choose "
            "another model."
        )

    def health(self, label: str) -> Health:
        """What is known of how an alias fares, by the label of `Choice`."""
        return self._health.get(label, Health())

    def _learn(self, prepared: PreparedRequest, answer: Answer) -> None:
        """Take the usage that came back as a measure of the estimates; that of images says nothing about texts."""
        if not answer.input_tokens or next(prepared.prompt.media, None):
            return
        name = prepared.choice.label
        with self._lock:
            known = self._corrections.get(name, Correction())
            _remember(self._corrections, name, known.learn(prepared.estimated, answer.input_tokens))

    def _note_health(self, choice: Choice, change: Callable[[Health], Health]) -> Health:
        """Remember how a call went. Of names that clients made up, only those that answer are kept."""
        name = choice.label
        with self._lock:
            health = change(self.health(name))
            if health.has_answered or not choice.is_client_text:
                _remember(self._health, name, health)
            return health


def _asks(prepared: PreparedRequest) -> Asks[AskResult]:
    """What is to be asked, one thing after the other."""
    request = prepared.request
    return ask_for_reply(
        request,
        prepared.choice.alias,
        prepared.prompt,
        lambda: new_id("toolu"),
        armoured=prepared.settings.redcap_decodes_entities,
        vocabulary=prepared.vocabulary if len(callable_tools(request)) == len(request.tools) else None,
    )


def _post(prepared: PreparedRequest, ask: Ask, token: str, waiter: Waiter, boundary: str) -> Answer:
    """Post one ask, in a form with a boundary that nobody could have put into the prompt."""
    settings, own = prepared.settings, prepared.settings.redcap_api_token
    size = 0

    def write() -> bytes:
        """The form; it is written when it is sent, and not held while the model thinks."""
        nonlocal size
        fields = form_fields(
            ask.prompt,
            token=own.reveal() if own else token,
            prefix=settings.redcap_module_prefix,
            alias=prepared.choice.alias,
            max_tokens=ask.max_tokens,
            temperature=prepared.request.temperature,
            top_p=prepared.request.top_p,
        )
        body = encode_form(fields, boundary)
        size = len(body)
        return body

    trace = {"traceparent": prepared.traceparent} if prepared.traceparent else None
    came = prepared.upstream.post(form_type(boundary), write, waiter, trace)
    url, prefix = settings.redcap_api_url, settings.redcap_module_prefix
    return read_answer(came.status, came.headers, came.body, url=url, prefix=prefix, sent_bytes=size)


def _remember(known: dict[str, T], name: str, value: T) -> None:
    """Remember something of an alias, within the bound on how many are known."""
    if name in known or len(known) < _MOST_ALIASES:
        known[name] = value


def _key_of(settings: Settings) -> _UpstreamKey:
    """What an upstream depends on: settings that agree in this can share one."""
    return (
        *(settings.redcap_api_url, settings.connect_timeout, settings.silence_timeout),
        *(settings.redcap_ca_bundle, settings.redcap_tls_minimum),
        *(settings.https_proxy, settings.http_proxy, settings.no_proxy),
    )


def _find_upstreams(settings: Settings, known: Mapping[_UpstreamKey, Upstream]) -> dict[_UpstreamKey, Upstream]:
    """An upstream for every server; those that are known already are kept."""
    sites = [settings.at(name) for name in (DEFAULT_SERVER, *settings.servers)]
    return {_key_of(site): known.get(_key_of(site)) or Upstream(site) for site in sites}


def _outcome(request: Request, asked: AskResult, message_id: str) -> Outcome:
    """The reply as the client wants it.

    Thinking is left out where the request does not allow it, unless the model has said nothing else.
    """
    read = asked.reply
    blocks: list[ContentBlock] = []
    mended_edits = 0
    for block in read.content:
        if isinstance(block, ToolUse):
            arguments = edit_mending.mend_edit(block.input, lambda: edit_mending.shown_texts(request.messages))
            mended_edits += arguments is not None
            blocks.append(replace(block, input=arguments or block.input))
        elif not isinstance(block, Thinking):
            blocks.append(block)
        elif request.thinking:
            blocks.append(replace(block, thinking="") if request.hides_thinking else block)
    if not blocks and read.stop_sequence is None:
        blocks += [Text(block.thinking) for block in read.content if isinstance(block, Thinking)]
    message = Message(
        message_id, request.model, tuple(blocks), read.stop_reason, asked.usage, read.stop_sequence, request.extras
    )
    return Outcome(message, asked.repairs, asked.continuations, mended_edits, asked.failure)
