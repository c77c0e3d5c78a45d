#!/usr/bin/env python3
"""Write the pictures of the status page in docs/images: light, dark, and as wide as a phone.

What they show is a demo: a pretend REDCap whose models take their time and sometimes fail, and an hour of requests that
takes half a minute, for the journal's clock runs fast. Needs Chromium, and Playwright from the clients.
"""

from __future__ import annotations

import io
import json
import random
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import debian
from playwright.sync_api import sync_playwright

from claude_proxy.demo.model import ModelFailure, ModelRequest
from claude_proxy.demo.simulator import ModelReply, Simulator
from claude_proxy.settings.table import Settings
from claude_proxy.settings.values import Secret
from claude_proxy.shell.observe.journal import Journal
from claude_proxy.shell.proxy.app import App
from claude_proxy.shell.proxy.exchange import Exchange
from claude_proxy.shell.server.handler import ProxyServer
from claude_proxy.shell.upstream.client import Upstream

TOKEN = "DEMO" * 8
SECONDS, REQUESTS = 30.0, 150
MODELS = ("claude-sonnet-4", "claude-sonnet-4", "claude-sonnet-4", "claude-haiku-4-5-20251001", "o3-mini", "gpt-4.1")
MODEL_MAP = {"claude-opus-5": "claude", "claude-opus-*": "claude"}
PICTURES: dict[str, dict[str, Any]] = {
    "status-light": {"color_scheme": "light", "viewport": {"width": 1200, "height": 1000}},
    "status-dark": {"color_scheme": "dark", "viewport": {"width": 1200, "height": 1000}},
    "status-phone": {"color_scheme": "light", "viewport": {"width": 360, "height": 780}, "device_scale_factor": 2},
}
CALL = '<function_calls>\n<invoke name="Bash">\n<parameter name="command">ls</parameter>\n</invoke>\n</function_calls>'
BASH = {"name": "Bash", "description": "Runs a command.", "input_schema": {"type": "object", "properties": {}}}
DICE = random.Random(5)  # noqa: S311 - not for secrets


def model(request: ModelRequest) -> ModelReply:
    """Answer after a while, now and then with a failure; the last requests stay open for the picture."""
    if "stay" in str(request.messages):
        time.sleep(60)
    time.sleep(DICE.lognormvariate(0.1, 0.7))
    if DICE.random() < 0.03 or (request.alias == "o3-mini" and DICE.random() < 0.4):
        raise ModelFailure("the demo wants a failure")
    text = CALL if DICE.random() < 0.6 else "Done."
    return ModelReply(text, int(DICE.lognormvariate(9.6, 0.5)), int(DICE.lognormvariate(5.5, 0.9)))


def ask(url: str, name: str, *, stream: bool, words: str = "Hello") -> None:
    """Send one request and read the answer to its end."""
    body = {
        "model": name,
        "max_tokens": 8000,
        "stream": stream,
        "tools": [BASH],
        "messages": [{"role": "user", "content": words}],
    }
    headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/messages", json.dumps(body).encode(), headers)  # noqa: S310 - our own
    try:
        with urllib.request.urlopen(request) as response:  # noqa: S310 - see above
            response.read()
    except urllib.error.HTTPError as failure:
        failure.close()


def main() -> None:
    """Run the demo and take the pictures."""
    begun = time.time()
    clock = lambda: begun - 3600 + min((time.time() - begun) / SECONDS, 1) * 3600  # noqa: E731
    with Simulator(model, tokens={TOKEN}) as redcap:
        settings = Settings(redcap.url, Secret(TOKEN), listen_port=0, model_map=MODEL_MAP)
        shown = Settings("https://redcap.example.edu/api/", Secret(TOKEN), model_map=MODEL_MAP)
        exchange = Exchange(shown, Upstream(settings))
        app = App(exchange, Journal("error", out=io.StringIO(), clock=clock))
        with ProxyServer(settings, app) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            run_demo(server.url, begun)
            for name, stream in (("claude-opus-5", True), ("claude-sonnet-4", True)):
                threading.Thread(
                    target=ask, args=(server.url, name), kwargs={"stream": stream, "words": "stay"}, daemon=True
                ).start()
            time.sleep(1)
            take_pictures(server.url)
            server.shutdown()


def run_demo(url: str, begun: float) -> None:
    """An hour of requests: quiet at first, then busier, with a pause."""
    with ThreadPoolExecutor(24) as pool:
        for moment in sorted(DICE.triangular(0, 1, 0.8) for _ in range(REQUESTS)):
            if 0.4 < moment < 0.48:
                continue
            time.sleep(max(0.0, begun + moment * SECONDS - time.time()))
            pool.submit(ask, url, DICE.choice(MODELS), stream=DICE.random() < 0.8)


def take_pictures(url: str) -> None:
    """Open the page in each form, and save what it looks like."""
    folder = ROOT / "docs" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=debian.find("chromium")) as browser,
    ):
        for name, form in PICTURES.items():
            with browser.new_context(**form) as context:
                page = context.new_page()
                page.goto(url)
                page.get_by_text("Live", exact=True).wait_for()
                page.screenshot(path=folder / f"{name}.png")
                print(f"wrote {(folder / name).relative_to(ROOT)}.png")


if __name__ == "__main__":
    main()
