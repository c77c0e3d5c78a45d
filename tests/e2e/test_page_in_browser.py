"""The status page in a real browser: live, by keyboard, on a phone, in the dark, and by the rules for accessibility."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from conftest import PATIENCE, TOKEN, Gate, Proxy, Redcap, StartProxy, find_program
from playwright.sync_api import Browser, Page, expect, sync_playwright

from claude_proxy.demo.simulator import ModelReply

pytestmark = pytest.mark.e2e

OpenPage: TypeAlias = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = find_program("chromium")
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=program, args=["--no-sandbox"]) as browser,
    ):
        yield browser


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Opens a proxy's page; at the end, checks that it asked nobody else for anything, and broke no policy."""
    contexts, asked, complaints = [], [], []

    def open_page(proxy: Proxy, **form: Any) -> Page:
        context = browser.new_context(**form)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(proxy.url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    hosts = {urlsplit(url).hostname for url in asked if not url.startswith("data:")}
    assert hosts == {"127.0.0.1"}
    assert complaints == []


@pytest.fixture
def busy(redcap: Redcap, proxy: Proxy) -> Proxy:
    """A proxy that has something to show: requests answered, failed and running."""
    redcap.queue(ModelReply("Yes.", 12345, 67))
    proxy.post({"stream": True})
    redcap.queue_failure()
    proxy.post({"model": "gpt-4.1"})
    proxy.post({"model": "Meier"})
    proxy.journal_line("ModelNeverAnswered")
    return proxy


def is_live(page: Page) -> None:
    expect(page.locator("#state")).to_have_text("Live")


def test_a_request_shows_while_it_runs_and_when_it_is_finished(
    redcap: Redcap, proxy: Proxy, open_page: OpenPage
) -> None:
    page = open_page(proxy)
    is_live(page)
    expect(page.locator("#running")).to_have_text("Nothing at the moment.")
    page.evaluate("document.body.dataset.same = 'page'")
    gate = Gate(ModelReply("Yes.", 12345, 67))
    redcap.queue(gate)
    with proxy.stream() as wire:
        row = page.locator("#running tbody tr")
        expect(row).to_contain_text("claude-sonnet-4 → claude")
        expect(row).to_contain_text("asking")
        gate.open()
        wire.read_response()
    row = page.locator("#finished tbody tr")
    expect(row).to_contain_text("claude-sonnet-4 → claude")
    expect(row).to_contain_text("12,345")
    expect(page.locator("#running")).to_have_text("Nothing at the moment.")
    expect(page.locator("#aliases")).to_contain_text("answers")
    assert page.evaluate("document.body.dataset.same") == "page", "it was not loaded again"


def test_without_javascript_it_is_whole_and_stands_still(busy: Proxy, open_page: OpenPage) -> None:
    page = open_page(busy, java_script_enabled=False)
    assert page.locator("#finished tbody tr").count() == 3
    expect(page.get_by_text("Without JavaScript this page stands still")).to_be_visible()
    expect(page.get_by_role("button", name="Pause")).to_be_hidden()


def test_no_word_of_a_clients_is_shown(busy: Proxy, open_page: OpenPage) -> None:
    page = open_page(busy)
    is_live(page)
    assert "Meier" not in page.content()
    expect(page.locator("#finished")).to_contain_text("(unmapped)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_it_is_accessible(redcap: Redcap, busy: Proxy, open_page: OpenPage, scheme: str, width: int) -> None:
    gate = Gate("Yes.")
    redcap.queue(gate)
    with busy.stream() as wire:
        assert gate.reached.wait(PATIENCE)
        page = open_page(busy, color_scheme=scheme, viewport={"width": width, "height": 800}, bypass_csp=True)
        is_live(page)
        found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"]})
        gate.open()
        wire.read_response()
    assert found.violations_count == 0, found.generate_report()


def test_the_dark_is_dark(busy: Proxy, open_page: OpenPage) -> None:
    def brightness(scheme: str) -> int:
        page = open_page(busy, color_scheme=scheme)
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)))

    assert brightness("dark") < 100 < 700 < brightness("light")


@pytest.mark.parametrize("width", [320, 360, 600, 1000, 1400])
def test_nothing_is_wider_than_the_window(redcap: Redcap, busy: Proxy, open_page: OpenPage, width: int) -> None:
    gate = Gate("Yes.")
    redcap.queue(gate)
    with busy.stream() as wire:
        assert gate.reached.wait(PATIENCE)
        page = open_page(busy, viewport={"width": width, "height": 800})
        is_live(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        gate.open()
        wire.read_response()
    expect(page.locator("#finished tbody tr").first).to_be_visible()


def test_the_keyboard_goes_through_it_in_order(busy: Proxy, open_page: OpenPage) -> None:
    page = open_page(busy)
    is_live(page)
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        expect(page.locator(":focus")).to_be_in_viewport()
        reached.append(page.locator(":focus").inner_text())
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert reached == ["Skip to the requests", "Pause", "metrics", "health"]

    page.locator("a.skip").focus()
    page.keyboard.press("Enter")
    expect(page.locator(":focus")).to_have_text("The last hundred requests")


def test_it_can_be_paused(redcap: Redcap, proxy: Proxy, open_page: OpenPage) -> None:
    """What moves by itself can be stopped, and the button keeps the focus."""
    page = open_page(proxy)
    is_live(page)
    page.get_by_role("button", name="Pause").press("Enter")
    expect(page.locator("#state")).to_have_text("Paused")
    redcap.queue("Yes.")
    proxy.post()
    page.wait_for_timeout(1500)
    expect(page.locator("#finished")).to_have_text("None yet.")
    expect(page.locator(":focus")).to_have_text("Go on")
    page.keyboard.press("Enter")
    is_live(page)
    expect(page.locator("#finished tbody tr")).to_have_count(1)


@pytest.mark.parametrize("wish", ["reduce", "no-preference"])
def test_what_moves_stands_still_for_those_who_wish_so(proxy: Proxy, open_page: OpenPage, wish: str) -> None:
    page = open_page(proxy, reduced_motion=wish)
    is_live(page)
    moving = page.evaluate("document.getAnimations({subtree: true}).length")
    assert (moving == 0) == (wish == "reduce")


def test_from_another_machine_the_token_opens_it(start_proxy: StartProxy, open_page: OpenPage) -> None:
    """A browser sends the password with the feed, too."""
    proxy = start_proxy()
    page = open_page(
        proxy,
        http_credentials={"username": "me", "password": TOKEN},
        extra_http_headers={"x-forwarded-for": "192.0.2.7"},
    )
    is_live(page)
    assert TOKEN not in page.content()
