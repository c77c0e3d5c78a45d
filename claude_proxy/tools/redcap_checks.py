"""The way to a model, checked stage by stage: name, connection, TLS, REDCap, token, module, aliases.

Each stage stands on the one before. A stage that fails ends the chain, and those behind it are skipped, so the one
failure that is shown is the cause. What is said of a failure is what a client would be told: where a stage fails, a
real call is made by `Upstream`, and its sentence is taken. Only what a stage found out when it went well is said here.

What came from REDCap is shown only where it looks like what it should be: a version, the names of actions.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from claude_proxy.core.aliases.mapping import choose_alias, label
from claude_proxy.core.http1.answer import HttpAnswer
from claude_proxy.core.messages.content import ToolUse
from claude_proxy.core.messages.response import to_bytes
from claude_proxy.core.prompt.render import Prompt, turn
from claude_proxy.core.securechat import form
from claude_proxy.core.securechat.answer import read_answer
from claude_proxy.errors import AuthenticationFailed, ClientGone, ProxyError, SettingsError
from claude_proxy.settings.table import Settings
from claude_proxy.settings.toml_file import DEFAULT_SERVER
from claude_proxy.shell.proxy.exchange import Exchange, Outcome, new_id
from claude_proxy.shell.upstream.client import Upstream, Waiter
from claude_proxy.shell.upstream.connection import Connection
from claude_proxy.shell.upstream.stream import Address
from claude_proxy.tools import model_table
from claude_proxy.tools.model_table import Row

Status: TypeAlias = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """What a check has found; of a failure, the message says what to do."""

    check: str
    status: Status
    message: str


class _Groundless(Exception):
    """A stage has nothing to stand on, and nor has what comes behind it; that is no failure."""


def ok(check: str, message: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", message)


def warning(check: str, message: str) -> Finding:
    """It works, but not for everything."""
    return Finding(check, "warning", message)


def failed(check: str, message: str) -> Finding:
    """It does not work."""
    return Finding(check, "failed", message)


def skipped(check: str, message: str) -> Finding:
    """It was not tried."""
    return Finding(check, "skipped", message)


_WAY = ("name", "connection", "TLS", "REDCap", "token", "module")
CHECKS = (*_WAY, "aliases", "entities")
"""The names of the stages, in their order."""

_SHORT = 60.0  # seconds for an answer that needs no model


class Site:
    """REDCap as the settings describe it, and what is known of it so far."""

    def __init__(self, settings: Settings, token: str | None, *, patience: float = 60.0) -> None:
        """Prepare.

        Args:
            settings: where REDCap is.
            token: the token to try; None where there is none.
            patience: seconds for each answer of a model.

        Raises:
            SettingsError: the forward proxy that is to be used has an address that cannot be.
        """
        self.settings = settings
        self.token = token
        self.patience = patience
        self.upstream = Upstream(settings)
        self._route = self.upstream.route
        self._addresses: list[Address] = []
        self._connection: Connection | None = None
        self._refusal: ProxyError | None = None
        self._watched, self._watching = socket.socketpair()  # when the one is closed, all calls are given up

    def close(self) -> None:
        """Give up what is running, and close all connections."""
        self._watching.close()
        self._watched.close()
        self._drop_connection()
        self.upstream.close()

    def _waiter(self, limit: float) -> Waiter:
        return Waiter(limit=limit, client=self._watched)

    def _post(self, fields: Mapping[str, str]) -> tuple[HttpAnswer, int]:
        usual = {"token": self.token or "", "format": "json", "returnFormat": "json"}
        return self._post_form({**usual, **fields}, _SHORT)

    def _post_form(self, fields: Mapping[str, str], limit: float) -> tuple[HttpAnswer, int]:
        """The answer, and how many bytes were sent."""
        boundary = new_id("form")
        body = form.encode_form(fields, boundary)
        return self.upstream.post(form.form_type(boundary), lambda: body, self._waiter(limit)), len(body)

    def _refused(self, came: HttpAnswer, sent: int) -> None:
        """Say what is wrong with an answer that is none of the module.

        Raises:
            ProxyError: always, but for an answer of a model.
        """
        url, prefix = self.settings.redcap_api_url, self.settings.redcap_module_prefix
        read_answer(came.status, came.headers, came.body, url=url, prefix=prefix, sent_bytes=sent)

    # --- the way there ------------------------------------------------------------------------------------------------

    def check_name(self) -> Finding:
        """Look the host up, or the proxy before it."""
        host, _ = self._route.peer
        with self._connecting() as (waiter, _limit):
            self._addresses = self._route.look_up(waiter)
        found = list(dict.fromkeys(str(address[4][0]) for address in self._addresses))
        shown = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        return ok("name", f"{host} is {shown}" if found != [host] else f"{host} is an address, and needs no look-up")

    def check_connection(self) -> Finding:
        """Connect, and through the proxy where there is one."""
        began = time.monotonic()
        with self._connecting() as (waiter, limit):
            self._connection = self._route.reach(self._addresses, waiter, limit, secure=False)
        if self._route.proxy is None:
            return ok("connection", f"{self._route.where} answers ({_seconds(began)})")
        return ok("connection", f"{self._route.where} is reached through {self._route.proxy} ({_seconds(began)})")

    def check_tls(self) -> Finding:
        """Secure the connection, and read the certificate."""
        if not self._route.secured or self._connection is None:
            return skipped("TLS", "there is none, for REDCAP_API_URL begins with http://")
        with self._connecting() as (waiter, _limit):
            self._route.secure(self._connection, waiter)
        certificate, version = self._connection.stream.certificate()
        return judge_certificate(certificate, version.replace("TLSv", "TLS "), time.time())

    @contextlib.contextmanager
    def _connecting(self) -> Iterator[tuple[Waiter, float]]:
        """A waiter with the limit of connecting, and that limit."""
        limit = self.settings.connect_timeout
        waiter = self._waiter(limit + 1)
        with waiter.within(limit):
            yield waiter, limit

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # --- REDCap -------------------------------------------------------------------------------------------------------

    def check_redcap(self) -> Finding:
        """Ask for REDCap's version."""
        self._drop_connection()
        began = time.monotonic()
        came, sent = self._post({"content": "version"})
        version = came.body[:100].decode("latin-1").strip()
        if came.status == 200 and re.fullmatch(r"\d+(\.\d+){1,3}[\w.-]{0,20}", version):
            return ok("REDCap", f"version {version} ({_seconds(began)})")
        try:
            self._refused(came, sent)
        except AuthenticationFailed as error:
            self._refusal = error
            return ok("REDCap", f"it answers ({_seconds(began)}); its version it tells only with a token that is right")
        return warning("REDCap", "it answers, but not with its version")

    def check_token(self) -> Finding:
        """Say whether the token was taken."""
        if not self.token:
            raise _Groundless(
                "there is none: REDCAP_API_TOKEN is not set, so clients bring their own. Set ANTHROPIC_AUTH_TOKEN to "
                "yours to check what stands behind it"
            )
        if self._refusal:
            raise self._refusal
        return ok("token", "REDCap takes it")

    def check_module(self) -> Finding:
        """Ask the module who it is, and for its actions."""
        facts: dict[str, Any] = {}
        refused: tuple[HttpAnswer, int] | None = None
        for action in ("__info", "__version", "__actions"):
            if "module-version" in facts and "auth-actions" in facts:
                break
            came, sent = self._post(self._call(action))
            told = _object(came)
            if told is None or "error" in told:
                refused = refused or (came, sent)
            else:
                facts = {**told, **facts}
        prefix = self.settings.redcap_module_prefix
        if not facts:
            # An older framework has no such actions; a module that is there still knows what it misses in a call.
            came, sent = self._post(self._call("messages"))
            if came.status != 400 or (_object(came) or {}).get("type") != "error":
                self._refused(*(refused or (came, sent)))
            return ok("module", f"{prefix} is there; this REDCap does not tell its version")
        return judge_module(prefix, facts)

    def _call(self, action: str) -> dict[str, str]:
        return {"content": "externalModule", "prefix": self.settings.redcap_module_prefix, "action": action}

    # --- the models ---------------------------------------------------------------------------------------------------

    def check_aliases(self, asked: Sequence[Row]) -> Iterator[Finding]:
        """Let aliases make a tool call each; then see whether entities are decoded.

        Raises:
            SettingsError: there is no way to one of the other servers, which the proxy would refuse to start with.
        """
        settings = replace(self.settings, upstream_timeout=min(self.patience, self.settings.upstream_timeout))
        exchange = Exchange(settings, self.upstream)
        answered: list[Row] = []
        # Not `with`: it would wait for the running calls before they are given up.
        pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="alias")
        try:
            for row, future in [(row, pool.submit(self._try_alias, exchange, row)) for row in asked]:
                finding, has_answered = future.result()
                answered += [row] if has_answered else []
                yield finding
            yield self._check_entities(answered)
        finally:
            self._watching.close()
            pool.shutdown(cancel_futures=True)

    def _try_alias(self, exchange: Exchange, row: Row) -> tuple[Finding, bool]:
        """The finding, and whether a model answered."""
        check = f"alias {row.label}"
        waiter = self._waiter(self.patience)
        began = time.monotonic()
        try:
            outcome = exchange.ask(exchange.prepare(_errand(row.name)), self.token or "", new_id("msg"), waiter)
        except ProxyError as error:
            gave_up = time.monotonic() - began >= self.patience < self.settings.upstream_timeout
            message = _gave_up(row, self.patience) if gave_up else error.message
            if row.is_needed:
                return failed(check, message), False
            return warning(check, f"{message} Only who asks for {row.name} by name needs it."), False
        except ClientGone:
            return skipped(check, "not tried to the end"), False
        return judge_errand(check, row.name, outcome, time.monotonic() - began), True

    def _check_entities(self, answered: Sequence[Row]) -> Finding:
        if not answered:
            return skipped("entities", "not tried: no alias answers")
        for row in answered[:3]:
            decodes = judge_echo(self._echo(row))
            if decodes is not None:
                return judge_decoding(decodes=decodes, assumed=self.settings.redcap_decodes_entities)
        setting = f"REDCAP_DECODES_ENTITIES={str(self.settings.redcap_decodes_entities).lower()}"
        return warning("entities", f"could not be told: no alias repeated a text exactly. {setting} is assumed.")

    def _echo(self, row: Row) -> str:
        """What comes back of a text with entities that a model was asked to repeat; nothing where it fails."""
        fields = form.form_fields(
            Prompt("You repeat texts exactly.", (turn("user", f"{_ECHO_ORDER}\n\n{ECHO}"),)),
            token=self.token or "",
            prefix=self.settings.redcap_module_prefix,
            alias=row.alias,
            max_tokens=min(2000, row.alias.max_output),
        )
        try:
            came, sent = self._post_form(fields, self.patience)
            answer = read_answer(
                came.status,
                came.headers,
                came.body,
                url=self.settings.redcap_api_url,
                prefix=self.settings.redcap_module_prefix,
                sent_bytes=sent,
            )
        except ProxyError:
            return ""
        return "" if answer.is_apology else answer.text


def check_site(site: Site, *, last: str = _WAY[-1]) -> Iterator[Finding]:
    """Go the way to the module, or part of it; what stands behind a failure is skipped.

    Args:
        site: where to.
        last: the last stage to try.
    """
    stages: tuple[Callable[[], Finding], ...] = (
        *(site.check_name, site.check_connection, site.check_tls),
        *(site.check_redcap, site.check_token, site.check_module),
    )
    obstacle = ""
    for check, stage in list(zip(_WAY, stages, strict=True))[: _WAY.index(last) + 1]:
        if obstacle:
            yield skipped(check, f"not tried: {obstacle}")
            continue
        try:
            yield stage()
        except _Groundless as reason:
            obstacle = f"there is no {check}"
            yield skipped(check, f"{reason}.")
        except ProxyError as error:
            obstacle = f"the check of the {check} failed"
            yield failed(check, error.message)


def check_all(settings: Settings, token: str | None, environ: Mapping[str, str], patience: float) -> Iterator[Finding]:
    """Everything that needs the network, for each server.

    Args:
        settings: where the servers are.
        token: for those that have none of their own.
        environ: the environment, which may name the models that Claude Code shall send.
        patience: seconds for each answer of a model.
    """
    table = model_table.rows(lambda name: choose_alias(name, *settings.model_rules), settings.model_map, environ)
    asked = model_table.aliases(table)
    for server in (DEFAULT_SERVER, *settings.servers):
        its = settings.at(server)
        own = its.redcap_api_token.reveal() if its.redcap_api_token else token
        for finding in _check_server(its, own, [row for row in asked if row.server == server], patience):
            if server == DEFAULT_SERVER or finding.check.startswith("alias "):
                yield finding
            else:
                yield replace(finding, check=label(finding.check, server))


def _check_server(settings: Settings, token: str | None, asked: Sequence[Row], patience: float) -> Iterator[Finding]:
    behind = CHECKS[len(_WAY) :]
    try:
        site = Site(settings, token, patience=patience)
    except SettingsError as error:
        yield failed(CHECKS[0], str(error))
        yield from (skipped(check, "not tried: the settings cannot be used") for check in CHECKS[1:])
        return
    with contextlib.closing(site):
        for finding in check_site(site):
            yield finding
        if finding.status in {"failed", "skipped"}:
            yield from (skipped(check, "not tried: the module could not be asked") for check in behind)
            return
        try:
            yield from site.check_aliases(asked)
        except SettingsError as error:
            yield failed(behind[0], str(error))


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
    """What to say of a certificate that is trusted.

    Args:
        certificate: as `ssl.SSLSocket.getpeercert` returns it.
        version: of TLS, as it is written.
        now: seconds since 1970.
    """
    issuer = {name: text for names in certificate.get("issuer", ()) for name, text in names}
    who = str(issuer.get("organizationName") or issuer.get("commonName") or "an unnamed authority")[:60]
    until = ssl.cert_time_to_seconds(certificate["notAfter"])
    days = int((until - now) // 86400)
    message = (
        f"{version}; the certificate was issued by {who} and is valid until "
        f"{time.strftime('%Y-%m-%d', time.gmtime(until))} ({days} days)"
    )
    if days < _SOON:
        return warning("TLS", f"{message}. Tell whoever runs REDCap that it must be renewed.")
    return ok("TLS", message)


def judge_module(prefix: str, facts: Mapping[str, Any]) -> Finding:
    """What to say of a module that told about itself.

    Args:
        prefix: the module's.
        facts: what `__info`, `__version` and `__actions` answered.
    """
    versions = {
        "version": facts.get("module-version"),
        "framework": facts.get("framework-version"),
    }
    told = [f"{name} {text}" for name, text in versions.items() if _VERSION.fullmatch(str(text)) and text is not None]
    actions = facts.get("auth-actions")
    if not isinstance(actions, dict | list):
        return ok("module", ", ".join([prefix, *told]))
    names = sorted(name for name in map(str, actions) if _VERSION.fullmatch(name))
    shown = ", ".join(names) or "none"
    if "messages" not in names:
        return failed(
            "module",
            f"{', '.join([prefix, *told])} does not offer the action messages to the API (it offers: {shown}). Check "
            "REDCAP_MODULE_PREFIX, or ask your REDCap administrator for a version of SecureChatAI that has it.",
        )
    return ok("module", f"{', '.join([prefix, *told])}; its actions: {shown}")


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
        return warning(
            check,
            f"{answers}, but did not call the tool that it was told to: Claude Code can do little with it. Map the "
            "name to another alias with MODEL_MAP.",
        )
    if outcome.repairs:
        return warning(check, f"{answers}, but its first tool call could not be read and had to be asked for again.")
    if calls[0].input != {"status": "ready"}:
        return warning(check, f"{answers} and calls a tool, but not with the arguments that it was told.")
    return ok(check, f"{answers}, and follows the tool notation")


def _gave_up(row: Row, patience: float) -> str:
    return (
        f"no answer within {patience:g} s, which is as long as is waited here. The model may be slow (--timeout waits "
        f"longer), or {row.alias.name!r} is no alias of this server: it was chosen by {row.rule}."
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
        return ok("entities", f"the module {what} HTML entities, as the settings say")
    return failed(
        "entities",
        f"the module {what} HTML entities in replies, but the settings say otherwise: texts with & would be changed. "
        f"Set REDCAP_DECODES_ENTITIES={str(decodes).lower()}.",
    )
