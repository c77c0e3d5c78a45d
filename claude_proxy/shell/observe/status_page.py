"""A journal's snapshot as a page: one self-contained document, and what keeps it up to date.

The page is cut into parts. `render` puts all of them into the template; a `Feed` sends those that have changed to the
page that is already there. So the page is whole without JavaScript, and the script has nothing to know but ids. The
policy in `HEADERS` lets run just the style and the script of the template, by their hashes, and reach nobody else.

Who may look is decided here, too. Whoever knows the token may. Without it, this machine's own users may, if they ask
for this machine by its name: a site that has had its name point to this machine (DNS rebinding) sends its own name in
`Host`. A reverse proxy on this machine speaks for others; what it adds to a request gives it away.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from html import escape
from importlib import resources
from typing import NamedTuple, TypeAlias
from urllib.parse import urlsplit

from claude_proxy import __version__
from claude_proxy.core.aliases.health import Health
from claude_proxy.core.aliases.mapping import choose_alias, label, offered_models
from claude_proxy.settings.table import DEFAULT_SERVER, Settings, is_loopback
from claude_proxy.shell.observe.journal import CLIENT_CLOSED_REQUEST, Activity, Finished, Minute, Record
from claude_proxy.shell.server import access

_SIGN_OF_LIFE = 15.0  # seconds after which a feed says something even if there is nothing new
_EVERY_ADDRESS = {"0.0.0.0", "::"}  # noqa: S104 - names nobody in particular


# --- who may look -----------------------------------------------------------------------------------------------------

# Headers that a reverse proxy adds to a request.
_SPEAKS_FOR_ANOTHER = re.compile(
    r"forwarded|x-forwarded(?:-.*)?|x-original-(?:forwarded-)?(?:for|host)|via"
    r"|(?:x-real|x-client|x-cluster-client|true-client|cf-connecting|fastly-client)-ip"
)


class Refusal(NamedTuple):
    """Why somebody may not look.

    Attributes:
        status: 401 where the token would help, else 403.
        sentence: for the person.
    """

    status: int
    sentence: str

    @property
    def headers(self) -> dict[str, str]:
        """What makes a browser ask for the token."""
        asks = {"www-authenticate": 'Basic realm="claude-proxy: the REDCap token as password", charset="UTF-8"'}
        return asks if self.status == 401 else {}


def refusal(headers: Mapping[str, str], peer: str, settings: Settings) -> Refusal | None:
    """Why a client may not look; None if it may.

    Args:
        headers: of its request.
        peer: its IP address, or "".
        settings: of the proxy.
    """
    own = settings.redcap_api_token
    if own and any(hmac.compare_digest(each.encode(), own.reveal().encode()) for each in _offered(headers)):
        return None
    is_local = is_loopback(peer) and not any(map(_SPEAKS_FOR_ANOTHER.fullmatch, headers))
    if not is_local:
        if own:
            return Refusal(401, "The status is shown to whoever knows the REDCap token of this proxy.")
        return Refusal(403, "The status is shown to users of the machine on which the proxy runs.")
    if not _names_this_machine(headers.get("host", ""), settings.listen_host):
        return Refusal(403, "The status is shown at the address of this machine only, such as http://127.0.0.1.")
    is_other_site = headers.get("sec-fetch-site") in {"cross-site", "same-site"}
    if is_other_site and headers.get("sec-fetch-mode") != "navigate":
        return Refusal(403, "The status is not shown to other sites.")
    return None


def _offered(headers: Mapping[str, str]) -> list[str]:
    """The credentials that a request carries; from a browser, which asks its user, the password."""
    scheme, _, text = headers.get("authorization", "").partition(" ")
    password = ""
    if scheme.lower() == "basic":
        with suppress(ValueError):
            password = base64.b64decode(text, validate=True).decode().partition(":")[2]
    return [*([password] if password else []), *access.credentials(headers)]


def _names_this_machine(host: str, listen_host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return is_loopback(name) or (name == listen_host.lower() and name not in _EVERY_ADDRESS)


# --- what is shown besides the snapshot -------------------------------------------------------------------------------


class AliasHealth(NamedTuple):
    """An alias of the table: the model names that lead to it, and how it fares."""

    name: str
    models: tuple[str, ...]
    health: Health
    answered_at: float | None  # Unix seconds


class SiteFacts(NamedTuple):
    """What runs here: the host of REDCap, and the aliases."""

    redcap: str
    aliases: tuple[AliasHealth, ...]


def describe_site(settings: Settings, health: Callable[[str], Health], *, now: float, monotonic: float) -> SiteFacts:
    """What runs here, from the settings and what is known of each alias.

    Args:
        settings: of the proxy.
        health: of an alias.
        now: Unix seconds.
        monotonic: the same moment on the clock of `Health`.
    """
    models: dict[str, list[str]] = {}
    for name in offered_models(settings.model_map):
        models.setdefault(choose_alias(name, *settings.model_rules).label, []).append(name)
    for pattern, alias in settings.model_map.items():
        its_label = label(alias, settings.model_servers.get(pattern, DEFAULT_SERVER))
        if pattern not in models.setdefault(its_label, []):
            models[its_label].append(pattern)
    aliases = []
    for alias, names in models.items():
        known = health(alias)
        answered_at = None if known.answered_at is None else now - (monotonic - known.answered_at)
        aliases.append(AliasHealth(alias, tuple(names), known, answered_at))
    return SiteFacts(urlsplit(settings.redcap_api_url).netloc, tuple(aliases))


# --- the page ---------------------------------------------------------------------------------------------------------


@functools.cache
def _template() -> str:
    return resources.files(__package__ or "").joinpath("status_page.html").read_text(encoding="utf-8")


def _hash(element: str) -> str:
    """The hash that lets an inline element of the template pass the policy."""
    found = re.search(f"<{element}>(.*?)</{element}>", _template(), re.DOTALL)
    text = found[1] if found else ""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@functools.cache
def headers() -> Mapping[str, str]:
    """The response headers of the page."""
    policy = (
        f"default-src 'none'; style-src {_hash('style')}; script-src {_hash('script')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "content-type": "text/html; charset=utf-8",
        "cache-control": "no-store",
        "content-security-policy": policy,
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }


def render(site: SiteFacts, snapshot: Activity) -> bytes:
    """The whole page."""
    values = {**parts(site, snapshot), "started": _start(snapshot)}
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], _template()).encode()


def render_refusal(refusal: Refusal) -> bytes:
    """A page of one sentence, in the style of the other."""
    head, _, _ = _template().partition("</head>")
    body = f"<body>\n<main><h1>claude-proxy</h1>\n<p>{escape(refusal.sentence)}</p></main>\n</body>\n</html>\n"
    return f"{head}</head>\n{body}".encode()


class Feed:
    """What one page that is open is sent: first all its parts, then those that have changed."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}
        self._last: float | None = None

    def next(self, site: SiteFacts, snapshot: Activity) -> bytes:
        """The event that is due now, or nothing."""
        values = {**parts(site, snapshot), "start": _start(snapshot), "news": _news(snapshot)}
        changed = {name: value for name, value in values.items() if self._shown.get(name) != value}
        if changed:
            self._shown, self._last = values, snapshot.now
            return f"event: update\ndata: {json.dumps(changed)}\n\n".encode()
        if self._last is not None and snapshot.now - self._last >= _SIGN_OF_LIFE:
            self._last = snapshot.now
            return b": alive\n\n"
        return b""


def _start(snapshot: Activity) -> str:
    """Tells one run of the proxy from the next, whose page may be another."""
    return f"{__version__} {snapshot.started:.3f}"


def _news(snapshot: Activity) -> str:
    """For those who hear the page."""
    answered, failures = _finished(snapshot)
    running = len(snapshot.running)
    return f"In the last hour {answered + failures} requests ended, {failures} of them failed; {running} in flight."


# --- its parts --------------------------------------------------------------------------------------------------------


def parts(site: SiteFacts, snapshot: Activity) -> dict[str, str]:
    """The parts of the page, as HTML, by the id of the element that holds each."""
    return {
        "about": _about(site, snapshot),
        "figures": _figures(snapshot),
        "charts": _charts(snapshot.minutes),
        "running": _running(snapshot),
        "aliases": _aliases(site),
        "finished": _finished_requests(snapshot.finished),
    }


def _about(site: SiteFacts, snapshot: Activity) -> str:
    since = datetime.fromtimestamp(snapshot.started).astimezone()
    up = f'<time datetime="{since.isoformat(timespec="seconds")}">{_ago(snapshot.now - snapshot.started)}</time>'
    return f"{escape(__version__)} · REDCap at <strong>{escape(site.redcap)}</strong> · up {up}"


def _finished(snapshot: Activity) -> tuple[int, int]:
    """How many requests for messages ended well, and how many did not, in the last hour."""
    return sum(each.answered for each in snapshot.minutes), sum(each.failures for each in snapshot.minutes)


def _figures(snapshot: Activity) -> str:
    answered, failures = _finished(snapshot)
    seconds = sum(each.seconds for each in snapshot.minutes)
    totals = snapshot.totals
    figures = {
        "In flight": f"{len(snapshot.running)} <small>{snapshot.waiting or 'none'} waiting</small>",
        "Answered": f"{answered} <small>last hour</small>",
        "Failed": f'<span class="bad">{failures}</span> <small>last hour</small>' if failures else "0",
        "Average time": seconds_text(seconds / answered) if answered else "–",
        "Tokens read in all": _large(sum(totals.input_tokens.values())),
        "Tokens written in all": _large(sum(totals.output_tokens.values())),
    }
    return "".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in figures.items())


# Tables: the headings of the columns, and the classes of their cells: l aligns to the left, m is for names of models,
# n keeps a cell on one line, w gives it the whole width of a phone.
_RUNNING = {"Since": "l n", "Model → alias": "l m", "Phase": "l", "Stream": "l", "For": "n"}
_ALIASES = {
    "Alias": "l n",
    "Model names": "l m",
    "State": "l",
    "Last answer": "n",
    "Latency": "n",
    "Failures in a row": "",
}
_FINISHED = {
    "Time": "l n",
    "Model → alias": "l m",
    "Status": "l",
    "Duration": "n",
    "First byte": "n",
    **dict.fromkeys(("Tokens in", "Tokens out", "Calls", "Repairs", "Continued"), ""),
}
_Cell: TypeAlias = str | tuple[str, str]  # HTML, and classes that the cell has besides those of its column


def _running(snapshot: Activity) -> str:
    rows = [
        (
            _clock(since),
            _model(record),
            phase,
            "stream" if record.stream else "",
            seconds_text(max(snapshot.now - since, 0.0), whole=True),
        )
        for since, record, phase in snapshot.running
    ]
    return _table("Requests that are being answered", _RUNNING, rows, empty="Nothing at the moment.", is_plain=True)


def _aliases(site: SiteFacts) -> str:
    rows = [
        (
            f"<b>{escape(each.name)}</b>",
            escape(", ".join(each.models)),
            _state(each),
            "" if each.answered_at is None else _clock(each.answered_at),
            seconds_text(each.health.latency) if each.health.has_answered else "",
            _count(each.health.failures),
        )
        for each in site.aliases
    ]
    return _table("SecureChatAI's names for models, and their state", _ALIASES, rows, empty="None.", is_plain=True)


def _state(alias: AliasHealth) -> _Cell:
    if alias.health.failures:
        return ("has not answered" if alias.answered_at is None else "answered before"), "bad"
    return "not asked yet" if alias.answered_at is None else ("answers", "good")


def _finished_requests(finished: Sequence[Finished]) -> str:
    rows = [
        (
            _clock(at),
            _model(record) or escape(record.route.removeprefix("POST ")),
            _status(record),
            seconds_text(record.seconds),
            "" if record.first_byte is None else seconds_text(record.first_byte),
            *map(_count, (record.input_tokens, record.output_tokens)),
            *map(_count, (record.calls, record.repairs, record.continuations)),
        )
        for at, record in finished
    ]
    zone = datetime.fromtimestamp(finished[0].at).astimezone().tzname() if finished else ""
    return _table(f"The newest first; times are {escape(zone or 'local')}", _FINISHED, rows, empty="None yet.")


def _table(
    caption: str, columns: Mapping[str, str], rows: Sequence[Sequence[_Cell]], *, empty: str, is_plain: bool = False
) -> str:
    """A table, or a word where it has no rows.

    The caption of a plain table is for those only who cannot see what is above it.
    """
    if not rows:
        return f'<p class="none">{empty}</p>'
    heads = (f'<th scope="col"{_class("l" if "l" in classes else "")}>{name}</th>' for name, classes in columns.items())
    head, body = "".join(heads), "\n".join(_row(columns, cells) for cells in rows)
    title = f"<caption{_class('unseen' if is_plain else '')}>{caption}</caption>"
    return f"<table>{title}<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"


def _row(columns: Mapping[str, str], cells: Sequence[_Cell]) -> str:
    html = ""
    for place, ((name, classes), cell) in enumerate(zip(columns.items(), cells, strict=True)):
        text, more = (cell, "") if isinstance(cell, str) else cell
        opening, tag = (f'td data-label="{name}"', "td") if place else ('th scope="row"', "th")
        html += f"<{opening}{_class(f'{classes} {more}')}>{text}</{tag}>"
    return f"<tr>{html}</tr>"


def _class(names: str) -> str:
    return f' class="{names.strip()}"' if names.strip() else ""


def _clock(at: float) -> str:
    moment = datetime.fromtimestamp(at).astimezone()
    return f'<time datetime="{moment.isoformat(timespec="seconds")}">{moment:%H:%M:%S}</time>'


def _model(record: Record) -> str:
    """`name → alias`; nothing where no alias was asked."""
    if record.alias is None:
        return ""
    name = f"{escape(record.model)} → " if record.model else ""
    return f"{name}<b>{escape(record.alias)}</b>"


def _status(record: Record) -> _Cell:
    if record.status == CLIENT_CLOSED_REQUEST:
        return "client left", "w"
    text = f"{record.status} {escape(record.error or '')}".strip()
    return (text, "w bad") if record.has_failed else text


def _count(number: int | None) -> str:
    return f"{number:,}" if number else ""


def _large(number: int) -> str:
    return f"{number:,}" if number < 10_000_000 else f"{number / 1_000_000:,.1f} M"


def seconds_text(seconds: float, *, whole: bool = False) -> str:
    """A duration as people write it: `0.4 s`, `12 s`, `3 min 5 s`, `1 h 2 min`."""
    if seconds < 9.95 and not whole:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds if whole else seconds + 0.5), 60)
    if not minutes:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _ago(seconds: float) -> str:
    """A duration in the largest units that say enough."""
    minutes = max(int(seconds // 60), 0)
    if minutes < 1:
        return "less than a minute"
    days, hours = divmod(minutes // 60, 24)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"


# --- charts -----------------------------------------------------------------------------------------------------------

_HEIGHT = 64
_STEP, _BAR = 4, 3  # the width of a minute, and of its bar


def _charts(minutes: Sequence[Minute]) -> str:
    answered, failures = sum(each.answered for each in minutes), sum(each.failures for each in minutes)
    ended = [each.answered + each.failures for each in minutes]
    times = "–"
    if answered:
        average, longest = sum(each.seconds for each in minutes) / answered, max(each.longest for each in minutes)
        times = f"{seconds_text(average)} on average, the longest {seconds_text(longest)}"
    read, written = [each.input_tokens for each in minutes], [each.output_tokens for each in minutes]
    return "".join(
        (
            _chart(
                "Requests a minute",
                f"at most {max(ended, default=0)}; {failures} failed",
                {"f": ended, "a": [each.answered for each in minutes]},
            ),
            _chart(
                "Time for an answer",
                times,
                {"b": [each.longest for each in minutes], "a": [each.average for each in minutes]},
            ),
            _chart("Tokens read a minute", f"{sum(read):,} in the last hour", {"a": read}),
            _chart("Tokens written a minute", f"{sum(written):,} in the last hour", {"a": written}),
        )
    )


def _chart(title: str, summary: str, layers: Mapping[str, Sequence[float]]) -> str:
    """A chart of bars, a minute each, by the class of their colour; later ones cover earlier ones.

    Its words say what its picture shows, so that one may do without the picture.
    """
    scale = _HEIGHT / (max(map(max, layers.values())) or 1)
    drawing = "".join(
        f'<path class="{name}" d="{"".join(_bar(place, height * scale) for place, height in enumerate(bars))}"/>'
        for name, bars in layers.items()
    )
    return (
        f"<figure><figcaption>{title}<span>{summary}</span></figcaption>"
        f'<svg viewBox="0 0 {_STEP * 60} {_HEIGHT}" preserveAspectRatio="none" aria-hidden="true">{drawing}</svg>'
        "</figure>"
    )


def _bar(place: int, height: float) -> str:
    return f"M{place * _STEP} {_HEIGHT}v{-height:.1f}h{_BAR}v{height:.1f}z" if height else ""
