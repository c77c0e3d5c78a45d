"""The status page: who may see it, what it shows, that it shows no more, and how it is kept up to date."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from conftest import COLLEAGUES_TOKEN, PATIENCE, PROMPT, TOKEN, Gate, Proxy, Redcap, Wire, eventually, running_proxy

from claude_proxy import __version__
from claude_proxy.core.aliases.health import Health
from claude_proxy.settings.table import Settings
from claude_proxy.settings.values import Secret
from claude_proxy.shell.observe import status_page
from claude_proxy.shell.observe.journal import MESSAGES, Journal, Record
from claude_proxy.shell.observe.status_page import Feed, SiteFacts, describe_site, refusal, render, seconds_text

URL = "https://redcap.example.edu/api/"
NASTY = "<script>alert('a')</script>&amp;\"{{started}}"
BROWSER = {"accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"}


def basic(password: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"me:{password}".encode()).decode()}


# --- Who may look -----------------------------------------------------------------------------------------------------

LOCAL_HOSTS = ("127.0.0.1:8765", "localhost:8765", "LOCALHOST", "[::1]:8765", "127.0.0.2", "localhost.", "a.localhost")
STRANGE_HOSTS = (
    "",
    "evil.example",
    "127.0.0.1.evil.example:8765",
    "evil.example:127",
    "[",
    "0.0.0.0:8765",
    "a@b@c",
    "::1",
)


def verdict(headers: dict[str, str], peer: str = "127.0.0.1", **changes: Any) -> int | None:
    settings = Settings(**{"redcap_api_url": URL, "redcap_api_token": Secret(TOKEN), **changes})
    found = refusal(headers, peer, settings)
    return found.status if found else None


@pytest.mark.parametrize("host", LOCAL_HOSTS)
@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_a_user_of_this_machine_may_look(host: str, peer: str) -> None:
    assert verdict({"host": host}, peer) is None


@pytest.mark.parametrize("host", STRANGE_HOSTS)
@pytest.mark.parametrize("listen_host", ["127.0.0.1", "0.0.0.0", "::"])
def test_a_name_that_was_made_to_point_here_is_refused(host: str, listen_host: str) -> None:
    assert verdict({"host": host}, listen_host=listen_host) == 403


def test_the_address_that_is_listened_on_is_one_of_its_names() -> None:
    assert verdict({"host": "Lab.example.edu:8765"}, listen_host="lab.example.edu") is None


@pytest.mark.parametrize("peer", ["192.0.2.7", "2001:db8::7", "", "garbage"])
def test_another_machine_needs_the_token(peer: str) -> None:
    assert verdict({"host": "127.0.0.1"}, peer) == 401
    assert verdict({"host": "127.0.0.1", **basic(TOKEN)}, peer) is None
    assert verdict({"host": "lab.example.edu", "authorization": f"Bearer {TOKEN}"}, peer) is None
    assert verdict({"x-api-key": TOKEN}, peer) is None


@pytest.mark.parametrize("name", ["x-forwarded-for", "forwarded", "x-real-ip", "via"])
def test_a_reverse_proxy_on_this_machine_speaks_for_others(name: str) -> None:
    assert verdict({"host": "127.0.0.1", name: "192.0.2.7"}) == 401


WRONG: list[dict[str, str]] = [
    {"authorization": f"Bearer {COLLEAGUES_TOKEN}"},
    {"authorization": TOKEN},
    {"authorization": f"Basic {TOKEN}"},
    {"authorization": "Basic \xff"},
    {"authorization": "Basic " + base64.b64encode(b"\xff:\xff").decode()},
    {"authorization": "Basic " + base64.b64encode(f"{TOKEN}:".encode()).decode()},
    {"authorization": "Basic " + base64.b64encode(b"no colon").decode()},
    {"authorization": "Basic"},
    {"authorization": ""},
    {"x-api-key": "ä"},
    basic(TOKEN + "x"),
    basic("ä😀"),
    basic(""),
]


@pytest.mark.parametrize("headers", WRONG)
def test_a_wrong_credential_is_none(headers: dict[str, str]) -> None:
    assert verdict(headers, "192.0.2.7") == 401


def test_where_everybody_has_a_token_of_their_own_none_opens_the_page() -> None:
    """REDCap alone knows which are right, and it is not asked for this."""
    for headers in (basic(TOKEN), {"authorization": f"Bearer {TOKEN}"}):
        assert verdict(headers, "192.0.2.7", redcap_api_token=None) == 403
    assert verdict({"host": "127.0.0.1"}, redcap_api_token=None) is None


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_site_may_link_but_not_read(site: str) -> None:
    headers = {"host": "127.0.0.1", "sec-fetch-site": site}
    assert verdict({**headers, "sec-fetch-mode": "cors"}) == 403
    assert verdict({**headers, "sec-fetch-mode": "no-cors"}) == 403
    assert verdict({**headers, "sec-fetch-mode": "navigate"}) is None
    assert verdict({"host": "127.0.0.1", "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}) is None


PATHS = pytest.mark.parametrize("path", ["/", "/metrics", "/status/events"])


@PATHS
def test_a_refusal_is_a_page_of_one_sentence(proxy: Proxy, path: str) -> None:
    response = proxy.get(path, BROWSER)  # these tests' clients name the host "proxy"
    assert response.status == 403
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert b"The status is shown at the address of this machine only" in response.body
    assert __version__.encode() not in response.body
    assert "error=StatusRefused" in proxy.journal_line("status=403")


@PATHS
def test_a_browser_far_away_is_made_to_ask_for_the_token(proxy: Proxy, path: str) -> None:
    response = proxy.get(path, {**BROWSER, "x-forwarded-for": "192.0.2.7"})
    assert response.status == 401
    assert response.headers["www-authenticate"].startswith('Basic realm="')
    with proxy.connect() as wire:
        wire.ask("GET", path, headers={**BROWSER, **basic(TOKEN), "x-forwarded-for": "192.0.2.7"})
        assert wire.read_head().status == 200


@PATHS
def test_no_other_site_is_allowed_in(proxy: Proxy, path: str) -> None:
    with proxy.connect() as wire:
        wire.ask("GET", path, headers={**BROWSER, **proxy.credential, "origin": "https://evil.example"})
        head = wire.read_head()
    assert not [name for name in head.headers if name.startswith("access-control")]


# --- What GET / answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, {"accept": "*/*"}, {"accept": "application/json"}])
def test_programs_get_what_health_says(proxy: Proxy, headers: dict[str, str]) -> None:
    response = proxy.get("/", headers)
    assert (response.status, response.json) == (200, {"status": "ok", "version": __version__})


def test_browsers_get_the_page(redcap: Redcap, proxy: Proxy) -> None:
    redcap.queue("Yes.")
    proxy.post()
    eventually(lambda: " request " in proxy.journal)
    response = proxy.get("/", {**BROWSER, **proxy.credential})
    assert response.status == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    page = response.body.decode()
    assert "claude-sonnet-4 → <b>claude</b>" in page
    assert PROMPT not in page
    assert "{{" not in page


# --- The page ---------------------------------------------------------------------------------------------------------

NOW = 1_700_000_000.0


def site(**changes: Any) -> SiteFacts:
    settings = Settings(URL, Secret(TOKEN), **changes)
    return describe_site(settings, lambda _: Health(), now=NOW, monotonic=100.0)


def record(**changes: Any) -> Record:
    usual = {"route": MESSAGES, "status": 200, "alias": "claude", "model": "claude-sonnet-4", "seconds": 4.2}
    return Record("req_1", **{**usual, **changes})


def journal(*records: Record) -> Journal:
    made = Journal("error", out=io.StringIO(), clock=lambda: NOW)
    for each in records:
        made.request(each)
    return made


class Outline(HTMLParser):
    """The elements of a page, and whether each is closed in its turn."""

    VOID = frozenset({"meta", "link", "path"})

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page.decode())
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def count(self, tag: str) -> int:
        return sum(each == tag for each, _ in self.elements)


def test_the_page_is_well_formed_and_reaches_nobody() -> None:
    outline = Outline(render(site(), journal(*[record()] * 3).activity()))
    assert [outline.count(tag) for tag in ("h1", "main", "header", "footer", "script", "style")] == [1] * 6
    assert outline.count("caption") == outline.count("table") > 0
    ids = [found for _, attributes in outline.elements if (found := attributes.get("id"))]
    assert len(ids) == len(set(ids))
    for tag, attributes in outline.elements:
        assert "style" not in attributes, "the policy would not let it"
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("href", "src"):
            assert re.match(r"data:|#|metrics$|health$", attributes.get(name) or "#"), (tag, attributes)


def test_the_policy_lets_run_just_what_is_there() -> None:
    policy = status_page.headers()["content-security-policy"]
    assert "unsafe" not in policy
    assert policy.count("'sha256-") == 2
    for directive in ("default-src 'none'", "connect-src 'self'", "base-uri 'none'", "frame-ancestors 'none'"):
        assert directive in policy


def test_no_text_becomes_markup() -> None:
    usual = Outline(render(site(), journal(record(error="X")).activity()))
    settings = Settings(f"https://{NASTY}/api/", model_map={NASTY: "claude"})
    its_site = describe_site(settings, lambda _: Health(), now=NOW, monotonic=0)
    page = render(its_site, journal(record(model=NASTY, alias=NASTY, error=NASTY)).activity())
    assert [tag for tag, _ in Outline(page).elements] == [tag for tag, _ in usual.elements]
    assert b"alert('a')" not in page


def test_a_request_in_all_its_figures() -> None:
    amounts = {"input_tokens": 12345, "output_tokens": 67, "calls": 8, "repairs": 1, "continuations": 2}
    rows = status_page.parts(site(), journal(record(**amounts, first_byte=1.04)).activity())["finished"]
    cells = dict(re.findall(r'<td data-label="([^"]*)"[^>]*>(.*?)</td>', rows))
    assert cells == {
        "Model → alias": "claude-sonnet-4 → <b>claude</b>",
        "Status": "200",
        "Duration": "4.2 s",
        "First byte": "1.0 s",
        "Tokens in": "12,345",
        "Tokens out": "67",
        "Calls": "8",
        "Repairs": "1",
        "Continued": "2",
    }


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"status": 502, "error": "UpstreamTimeout"}, 'class="l w bad">502 UpstreamTimeout</td>'),
        ({"status": 200, "error": "UpstreamTimeout"}, 'class="l w bad">200 UpstreamTimeout</td>'),
        ({"status": 499, "error": "ClientGone"}, ">client left</td>"),
        ({"alias": "(unmapped)", "model": None}, "<b>(unmapped)</b>"),
        ({"route": "POST /v1/messages/count_tokens", "alias": None}, ">/v1/messages/count_tokens</td>"),
    ],
)
def test_what_became_of_a_request(changes: dict[str, Any], shown: str) -> None:
    assert shown in status_page.parts(site(), journal(record(**changes)).activity())["finished"]


def test_what_runs_and_what_waits() -> None:
    made = journal()
    made.begin(record(stream=True))
    made.set_phase("req_1", "waiting for a turn")
    parts = status_page.parts(site(), made.activity())
    assert "waiting for a turn" in parts["running"]
    assert "1 <small>1 waiting" in parts["figures"]


def test_the_health_of_aliases() -> None:
    health = {
        "claude": Health(90.0, 3.21, 0),
        "gpt-4o": Health(40.0, 1.0, 2),
        "o1": Health(None, 0.0, 1),
    }
    settings = Settings(URL, model_map={"my-*": "claude"})
    its_site = describe_site(settings, lambda name: health.get(name, Health()), now=NOW, monotonic=100.0)
    claude = next(each for each in its_site.aliases if each.name == "claude")
    assert claude.answered_at == NOW - 10
    assert "my-*" in claude.models
    shown = status_page.parts(its_site, journal().activity())["aliases"]
    rows = {row[: row.index("<")]: row for row in shown.split("<b>")[1:]}
    for alias, words in (("claude", "answers"), ("gpt-4o", "answered before"), ("o1", "has not answered")):
        assert f">{words}</td>" in rows[alias]
    assert ">not asked yet</td>" in rows["deepseek"]
    assert ">3.2 s</td>" in rows["claude"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (185, "3 min 5 s"),
        (3720, "1 h 2 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_charts_are_drawn_within_their_frame() -> None:
    made = journal(record(seconds=600.0, input_tokens=10**7), record(status=502, error="X"), record())
    charts = status_page.parts(site(), made.activity())["charts"]
    assert "5 min 2 s on average, the longest 10 min 0 s" in charts
    tops = [float(base) - float(height) for base, height in re.findall(r"M\d+ ([\d.]+)v-([\d.]+)", charts)]
    assert len(tops) == 5  # a bar of answered ones, of failures, of the average, of the longest, of tokens
    assert all(-0.1 <= top <= 64 for top in tops)
    assert min(tops) == 0


def test_the_template_is_found_in_an_archive(tmp_path: Path) -> None:
    """A zipapp has no files on disk."""
    folder = Path(status_page.__file__).parent
    archive = tmp_path / "proxy.pyz"
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.parents[1].rglob("*"):
            if path.suffix in {".py", ".html"}:
                file.write(path, path.relative_to(folder.parents[2]))
    code = (
        f"import sys; sys.path.insert(0, {str(archive)!r});"
        "from claude_proxy.shell.observe import status_page as s; assert '.pyz' in s.__file__; print(s.headers())"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert "sha256-" in done.stdout, done.stderr


# --- The feed ---------------------------------------------------------------------------------------------------------


def data(event: bytes) -> dict[str, str]:
    name, text = event.decode().removesuffix("\n\n").split("\n")
    assert name == "event: update"
    parsed: dict[str, str] = json.loads(text.removeprefix("data: "))
    return parsed


def test_a_feed_sends_all_at_first_and_then_what_has_changed() -> None:
    made, feed = journal(), Feed()
    first = data(feed.next(site(), made.activity()))
    assert {*status_page.parts(site(), made.activity()), "start", "news"} == set(first)
    assert feed.next(site(), made.activity()) == b""
    made.request(record())
    second = data(feed.next(site(), made.activity()))
    assert set(second) == {"figures", "charts", "finished", "news"}
    assert second["news"] == "In the last hour 1 requests ended, 0 of them failed; 0 in flight."


def test_a_feed_gives_signs_of_life() -> None:
    now = [NOW]
    made, feed = Journal("error", out=io.StringIO(), clock=lambda: now[0]), Feed()
    feed.next(site(), made.activity())
    now[0] += 14
    assert feed.next(site(), made.activity()) == b""
    now[0] += 2
    assert feed.next(site(), made.activity()) == b": alive\n\n"
    assert feed.next(site(), made.activity()) == b""


def watch(proxy: Proxy) -> Wire:
    wire = proxy.connect()
    wire.ask("GET", "/status/events", headers=proxy.credential)
    return wire


def read_update(wire: Wire) -> dict[str, str]:
    while (chunk := wire.read_chunk()).startswith(b":"):
        pass
    return data(chunk)


@pytest.fixture
def quick(redcap: Redcap) -> Iterator[Proxy]:
    """A proxy that looks for news in quick succession, for two watchers at most."""
    settings = Settings(redcap.url, Secret(TOKEN), listen_port=0, log_level="debug")
    with running_proxy(settings, look_interval=0.02, max_watchers=2) as proxy:
        yield proxy


def test_a_request_is_followed_from_its_beginning_to_its_end(redcap: Redcap, quick: Proxy) -> None:
    gate = Gate("Yes.")
    redcap.queue(gate)
    with watch(quick) as watcher, quick.stream() as wire:
        head = watcher.read_head()
        assert (head.status, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        while "asking" not in read_update(watcher).get("running", ""):
            pass
        gate.open()
        wire.read_response()
        while "<b>claude</b>" not in read_update(watcher).get("finished", ""):
            pass


def test_there_are_only_so_many_watchers(quick: Proxy) -> None:
    with watch(quick) as first, watch(quick) as second:
        assert (first.read_head().status, second.read_head().status) == (200, 200)
        assert quick.get("/status/events").error[:2] == (529, "overloaded_error")

    def is_let_in() -> bool:
        with watch(quick) as wire:
            return wire.read_head().status == 200

    eventually(is_let_in)  # those that have left make room
    lines = [line for line in quick.journal.splitlines() if '"GET /status/events"' in line]
    assert not [line for line in lines if "ClientGone" in line], "a page that is closed is no failure"


def test_a_feed_ends_when_the_proxy_is_stopped(quick: Proxy) -> None:
    with watch(quick) as wire:
        wire.read_head()
        read_update(wire)
        stopping = threading.Thread(target=quick.server.stop, args=(PATIENCE,))
        began = time.monotonic()
        stopping.start()
        while wire.read_chunk():
            pass  # the last is empty: an end, and not a cut
        stopping.join()
        assert time.monotonic() - began < PATIENCE / 2
