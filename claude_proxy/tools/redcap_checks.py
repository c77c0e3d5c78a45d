"""The way to a model, checked step by step: name, connection, TLS, REDCap, token, module, aliases, entities.

Each step needs the one before it. The first that fails ends the way and the rest are skipped, so the failure that is
shown is the cause. It is described in the words a client would get: a real call is made and its error is shown.

Nothing that came from REDCap is shown unless it looks like what it should be: a version, the names of actions.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal, TypeAlias

from claude_proxy.core.aliases.mapping import label
from claude_proxy.core.http1.answer import HttpAnswer
from claude_proxy.core.messages.content import ToolUse
from claude_proxy.core.messages.response import to_bytes
from claude_proxy.core.prompt.render import Prompt, turn
from claude_proxy.core.securechat import form
from claude_proxy.core.securechat.answer import Answer, read_answer
from claude_proxy.errors import AuthenticationFailed, ClientGone, ProxyError, SettingsError
from claude_proxy.settings.table import DEFAULT_SERVER, Settings
from claude_proxy.shell.proxy.exchange import Exchange, Outcome, new_id
from claude_proxy.shell.upstream.client import Upstream
from claude_proxy.shell.wait.waiter import Waiter
from claude_proxy.tools import model_table
from claude_proxy.tools.model_table import Row

Status: TypeAlias = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """What a check has found; of a failure, the message says what to do."""

    check: str
    status: Status
    message: str


_SHORT = 60.0  # seconds for an answer that needs no model


class Site:
    """REDCap as the settings describe it, with a token to try; calls to it can be given up."""

    def __init__(self, settings: Settings, token: str | None, patience: float) -> None:
        """Prepare.

        Raises:
            SettingsError: the address of the forward proxy cannot be used.
        """
        self.settings = settings
        self.token = token
        self.patience = patience  # seconds for each answer of a model
        self.upstream = Upstream(settings)
        self._watched, self._watching = socket.socketpair()  # when the one is closed, all calls are given up

    def give_up(self) -> None:
        """End the calls that are running."""
        self._watching.close()

    def close(self) -> None:
        """End everything."""
        self.give_up()
        self._watched.close()
        self.upstream.close()

    def waiter(self, limit: float) -> Waiter:
        """Who waits for a call, at most so many seconds."""
        return Waiter(limit=limit, client=self._watched)

    @contextlib.contextmanager
    def connecting(self) -> Iterator[tuple[Waiter, float]]:
        """A waiter with the limit of connecting, and that limit."""
        limit = self.settings.connect_timeout
        waiter = self.waiter(limit + 1)
        with waiter.within(limit):
            yield waiter, limit

    def post(self, fields: Mapping[str, str], limit: float = _SHORT) -> tuple[HttpAnswer, int]:
        """The answer, and how many bytes were sent."""
        boundary = new_id("form")
        usual = {"token": self.token or "", "format": "json", "returnFormat": "json"}
        body = form.encode_form({**usual, **fields}, boundary)
        return self.upstream.post(form.form_type(boundary), lambda: body, self.waiter(limit)), len(body)

    def read(self, came: HttpAnswer, sent: int) -> Answer:
        """A model's answer; anything else raises the `ProxyError` that a client would get."""
        url, prefix = self.settings.redcap_api_url, self.settings.redcap_module_prefix
        return read_answer(came.status, came.headers, came.body, url=url, prefix=prefix, sent_bytes=sent)


_WAY = ("name", "connection", "TLS", "REDCap", "token", "module")
CHECKS = (*_WAY, "aliases", "entities")
"""The names of the steps, in their order."""


def check_server(
    settings: Settings, token: str | None, asked: Sequence[Row] = (), patience: float = _SHORT
) -> Iterator[Finding]:
    """Go the way to one server's models; what comes after a failure is skipped.

    Args:
        settings: where the server is.
        token: the token to try; None where there is none.
        asked: the aliases to try.
        patience: seconds for each answer of a model.
    """
    found: list[Finding] = []
    obstacle = "there is no token"
    try:
        with contextlib.closing(Site(settings, token, patience)) as site:
            for finding in chain(_reach(site), _ask_redcap(site), _ask_module(site)):
                found.append(finding)
                yield finding
            if token and found[-1].status != "failed":
                yield from _ask_models(site, asked)
                return
    except (ProxyError, SettingsError) as error:
        found.append(Finding(CHECKS[len(found)], "failed", str(error)))
        yield found[-1]
    if found[-1].status == "failed":
        obstacle = f"the check of the {found[-1].check} failed"
    yield from (Finding(check, "skipped", f"not tried: {obstacle}") for check in CHECKS[len(found) :])


def _reach(site: Site) -> Iterator[Finding]:
    """Look the host up, connect, secure the connection: through the forward proxy where there is one."""
    route = site.upstream.route
    host, _ = route.peer
    with site.connecting() as (waiter, _limit):
        addresses = route.look_up(waiter)
    found = list(dict.fromkeys(str(address[4][0]) for address in addresses))
    shown = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
    yield Finding("name", "ok", f"{host} is {shown}" if found != [host] else f"{host} is an address already")
    began = time.monotonic()
    with site.connecting() as (waiter, limit):
        connection = route.reach(addresses, waiter, limit, secure=False)
    with contextlib.closing(connection):
        answers = f"is reached through {route.proxy}" if route.proxy else "answers"
        yield Finding("connection", "ok", f"{route.where} {answers} ({_seconds(began)})")
        if not route.secured:
            yield Finding("TLS", "skipped", "there is none, for REDCAP_API_URL begins with http://")
            return
        with site.connecting() as (waiter, _limit):
            route.secure(connection, waiter)
        certificate, version = connection.stream.certificate()
    yield judge_certificate(certificate, version.replace("TLSv", "TLS "), time.time())


def _ask_redcap(site: Site) -> Iterator[Finding]:
    """Ask for REDCap's version, which tells at the same time whether the token is accepted."""
    began = time.monotonic()
    came, sent = site.post({"content": "version"})
    version = came.body[:100].decode("latin-1").strip()
    refusal: ProxyError | None = None
    if came.status == 200 and re.fullmatch(r"\d+(\.\d+){1,3}[\w.-]{0,20}", version):
        yield Finding("REDCap", "ok", f"version {version} ({_seconds(began)})")
    else:
        try:
            site.read(came, sent)
            yield Finding("REDCap", "warning", "it answers, but not with its version")
        except AuthenticationFailed as error:
            refusal = error
            message = f"it answers ({_seconds(began)}), but tells its version only to a valid token"
            yield Finding("REDCap", "ok", message)
    if not site.token:
        yield Finding(
            "token",
            "skipped",
            "there is none: REDCAP_API_TOKEN is not set, so clients bring their own. Set ANTHROPIC_AUTH_TOKEN to "
            "yours to check what needs a token.",
        )
    elif refusal:
        raise refusal
    else:
        yield Finding("token", "ok", "REDCap takes it")


def _ask_module(site: Site) -> Iterator[Finding]:
    """Ask the module who it is, and for its actions."""
    if not site.token:
        return
    facts: dict[str, Any] = {}
    refused: tuple[HttpAnswer, int] | None = None
    prefix = site.settings.redcap_module_prefix
    call = {"content": "externalModule", "prefix": prefix}
    for action in ("__info", "__version", "__actions"):
        if "module-version" in facts and "auth-actions" in facts:
            break
        came, sent = site.post({**call, "action": action})
        told = _object(came)
        if told is None or "error" in told:
            refused = refused or (came, sent)
        else:
            facts = {**told, **facts}
    if facts:
        yield judge_module(prefix, facts)
        return
    # An older framework has no such actions, but a module that is there still objects to an empty call.
    came, sent = site.post({**call, "action": "messages"})
    if came.status != 400 or (_object(came) or {}).get("type") != "error":
        site.read(*(refused or (came, sent)))
    yield Finding("module", "ok", f"{prefix} is there; this REDCap does not tell its version")


# --- the models -------------------------------------------------------------------------------------------------------


def _ask_models(site: Site, asked: Sequence[Row]) -> Iterator[Finding]:
    """Ask each alias for a tool call; then see whether entities are decoded.

    Raises:
        SettingsError: another server cannot be reached with these settings; the proxy would not start either.
    """
    settings = replace(site.settings, upstream_timeout=min(site.patience, site.settings.upstream_timeout))
    exchange = Exchange(settings, site.upstream)
    answered: list[Row] = []
    # Not `with`: it would wait for the running calls before they are given up.
    pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="alias")
    try:
        for row, future in [(row, pool.submit(_try_alias, site, exchange, row)) for row in asked]:
            finding, has_answered = future.result()
            answered += [row] if has_answered else []
            yield finding
        yield _check_entities(site, answered)
    finally:
        site.give_up()
        pool.shutdown(cancel_futures=True)


def _try_alias(site: Site, exchange: Exchange, row: Row) -> tuple[Finding, bool]:
    """The finding, and whether a model answered."""
    check = f"alias {row.choice.label}"
    began = time.monotonic()
    try:
        prepared = exchange.prepare(_errand(row.name))
        outcome = exchange.ask(prepared, site.token or "", new_id("msg"), site.waiter(site.patience))
    except ProxyError as error:
        gave_up = time.monotonic() - began >= site.patience < site.settings.upstream_timeout
        message = _gave_up(row, site.patience) if gave_up else error.message
        if row.is_needed:
            return Finding(check, "failed", message), False
        return Finding(check, "warning", f"{message} Only who asks for {row.name} by name needs it."), False
    except ClientGone:
        return Finding(check, "skipped", "stopped before it was finished"), False
    return judge_errand(check, row.name, outcome, time.monotonic() - began), True


def _check_entities(site: Site, answered: Sequence[Row]) -> Finding:
    if not answered:
        return Finding("entities", "skipped", "not tried: no alias answers")
    assumed = site.settings.redcap_decodes_entities
    for row in answered[:3]:
        decodes = judge_echo(_echo(site, row))
        if decodes is not None:
            return judge_decoding(decodes=decodes, assumed=assumed)
    setting = f"REDCAP_DECODES_ENTITIES={str(assumed).lower()}"
    message = f"could not be determined: no alias repeated a text exactly. {setting} is assumed."
    return Finding("entities", "warning", message)


def _echo(site: Site, row: Row) -> str:
    """What a model makes of a text with entities that it is asked to repeat; nothing where it fails."""
    fields = form.form_fields(
        Prompt("You repeat texts exactly.", (turn("user", f"{_ECHO_ORDER}\n\n{ECHO}"),)),
        token=site.token or "",
        prefix=site.settings.redcap_module_prefix,
        alias=row.choice.alias,
        max_tokens=min(2000, row.choice.alias.max_output),
    )
    try:
        answer = site.read(*site.post(fields, site.patience))
    except ProxyError:
        return ""
    return "" if answer.is_apology else answer.text


def check_all(settings: Settings, token: str | None, environ: Mapping[str, str], patience: float) -> Iterator[Finding]:
    """Everything that needs the network, for each server; `token` is for those that have none of their own."""
    asked = model_table.aliases(model_table.rows(settings, environ))
    for server in (DEFAULT_SERVER, *settings.servers):
        its = settings.at(server)
        own = its.redcap_api_token.reveal() if its.redcap_api_token else token
        for finding in check_server(its, own, [row for row in asked if row.choice.server == server], patience):
            is_alias = finding.check.startswith("alias ")  # whose label says the server already
            yield finding if is_alias else replace(finding, check=label(finding.check, server))


# --- what was found ---------------------------------------------------------------------------------------------------

_SOON = 14  # days
_VERSION = re.compile(r"[\w.+-]{1,30}", re.ASCII)


def _seconds(began: float) -> str:
    return f"{time.monotonic() - began:.2f} s"


def _object(came: HttpAnswer) -> dict[str, Any] | None:
    """The JSON object in an answer; None where there is none."""
    try:
        data = json.loads(came.body)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def judge_certificate(certificate: Mapping[str, Any], version: str, now: float) -> Finding:
    """What to say of a trusted certificate, as `getpeercert` returns it, at a time in seconds since 1970."""
    issuer = {name: text for names in certificate.get("issuer", ()) for name, text in names}
    who = str(issuer.get("organizationName") or issuer.get("commonName") or "an unnamed authority")[:60]
    until = ssl.cert_time_to_seconds(certificate["notAfter"])
    days = int((until - now) // 86400)
    end = time.strftime("%Y-%m-%d", time.gmtime(until))
    message = f"{version}; the certificate was issued by {who} and is valid until {end} ({days} days)"
    if days < _SOON:
        return Finding("TLS", "warning", f"{message}. Tell whoever runs REDCap that it must be renewed.")
    return Finding("TLS", "ok", message)


def judge_module(prefix: str, facts: Mapping[str, Any]) -> Finding:
    """What to say of a module, by what `__info`, `__version` and `__actions` answered."""
    versions = {"version": facts.get("module-version", ""), "framework": facts.get("framework-version", "")}
    told = [f"{word} {text}" for word, text in versions.items() if _VERSION.fullmatch(str(text))]
    module = ", ".join([prefix, *told])
    actions = facts.get("auth-actions")
    if not isinstance(actions, dict | list):
        return Finding("module", "ok", module)
    names = sorted(name for name in map(str, actions) if _VERSION.fullmatch(name))
    shown = ", ".join(names) or "none"
    if "messages" not in names:
        return Finding(
            "module",
            "failed",
            f"{module} does not offer the action messages to the API (it offers: {shown}). Check "
            "REDCAP_MODULE_PREFIX, or ask your REDCap administrator for a version of SecureChatAI that has it.",
        )
    return Finding("module", "ok", f"{module}; its actions: {shown}")


# --- the errand -------------------------------------------------------------------------------------------------------

_TOOL = {
    "name": "report_status",
    "description": "Reports a status to the user.",
    "input_schema": {"type": "object", "properties": {"status": {"type": "string"}}, "required": ["status"]},
}


def _errand(model: str) -> bytes:
    order = 'Call the tool report_status now, with "ready" as its status. Write nothing else.'
    messages = [{"role": "user", "content": order}]
    return to_bytes({"model": model, "max_tokens": 2000, "tools": [_TOOL], "messages": messages})


def judge_errand(check: str, name: str, outcome: Outcome, seconds: float) -> Finding:
    """What to say of an alias that answered when asked for a tool call."""
    calls = [block for block in outcome.message.content if isinstance(block, ToolUse)]
    answers = f"answers {name} in {seconds:.1f} s"
    if not calls:
        fault = ", but did not call the tool as told: Claude Code can do little with it. Map the name to another alias "
        fault += "with MODEL_MAP."
    elif outcome.repairs:
        fault = ", but its first tool call could not be read and had to be asked for again."
    elif calls[0].input != {"status": "ready"}:
        fault = " and calls a tool, but not with the arguments that it was told."
    else:
        return Finding(check, "ok", f"{answers}, and follows the tool notation")
    return Finding(check, "warning", answers + fault)


def _gave_up(row: Row, patience: float) -> str:
    return (
        f"no answer within {patience:g} s, the longest that doctor waits. The model may be slow (--timeout waits "
        f"longer), or {row.choice.alias.name!r} is no alias of this server: it was chosen by {row.choice.rule}."
    )


# --- the echo ---------------------------------------------------------------------------------------------------------

_ECHO_ORDER = "Repeat the following line exactly, character by character, and write nothing else:"
ECHO = "[&amp;amp;lt;] [&sum;] [&amp;eacute;]"
"""A line whose every item tells one decoding from none and from two, so that a model that is sloppy gives itself away.

A model that takes it upon itself to decode goes on to the end (`<`); what was decoded just once was so elsewhere.
"""
_DECODED_ONCE = "[&amp;lt;] [\u2211] [&eacute;]"


def judge_echo(reply: str) -> bool | None:
    """Whether what came back was decoded on its way; None where it cannot be told."""
    decoded, as_sent = _DECODED_ONCE in reply, ECHO in reply
    return None if decoded == as_sent else decoded


def judge_decoding(*, decodes: bool, assumed: bool) -> Finding:
    """What to say of the module's decoding of entities, and of what the settings say of it."""
    what = "decodes" if decodes else "does not decode"
    if decodes == assumed:
        return Finding("entities", "ok", f"the module {what} HTML entities, as the settings say")
    return Finding(
        "entities",
        "failed",
        f"the module {what} HTML entities in replies, but the settings say otherwise: texts with & would be changed. "
        f"Set REDCAP_DECODES_ENTITIES={str(decodes).lower()}.",
    )
