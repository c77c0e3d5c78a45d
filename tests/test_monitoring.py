"""Prometheus' alerts and Grafana's dashboard, held against what a running proxy exposes, and run by the real programs.

Of Prometheus, promtool tests the rules with made-up series (tests/prometheus_alerts.test.yml), and the server itself
scrapes a proxy with the configuration of docs/watching.md, evaluates the rules and answers the dashboard's queries.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import socket
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from conftest import (
    COLLEAGUES_TOKEN,
    PATIENCE,
    TOKEN,
    Proxy,
    Redcap,
    Wire,
    ending,
    eventually,
    find_program,
    running,
)
from prometheus_client import parser

from claude_proxy.settings.table import Settings
from claude_proxy.shell.observe.journal import MESSAGES, Journal, Record
from claude_proxy.shell.proxy.app import App
from claude_proxy.shell.proxy.exchange import Exchange
from claude_proxy.shell.server.handler import ProxyServer
from claude_proxy.shell.upstream.client import Upstream

ROOT = Path(__file__).resolve().parent.parent
RULES, RULES_TEST = ROOT / "deploy" / "prometheus-alerts.yml", ROOT / "tests" / "prometheus_alerts.test.yml"
DASHBOARD = ROOT / "deploy" / "grafana-dashboard.json"
OF_THE_SCRAPE = {"job", "instance"}
GRID = 24


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return loaded


def targets() -> list[tuple[str, Mapping[str, Any]]]:
    """The queries of the dashboard, each with the title of its panel."""
    return [(panel["title"], target) for panel in dashboard()["panels"] for target in panel["targets"]]


def rule_expressions() -> list[tuple[str, str]]:
    """The alerts' names and expressions."""
    text = RULES.read_text(encoding="utf-8")
    return re.findall(r"- alert: (\w+)\n +expr: (?:\|\n)?((?:.+\n)+?) +(?:for|labels):", text)


def expressions() -> list[tuple[str, str]]:
    annotations = [(each["name"], each["expr"]) for each in dashboard()["annotations"]["list"]]
    return [*rule_expressions(), *annotations, *((title, target["expr"]) for title, target in targets())]


@pytest.fixture
def busy(redcap: Redcap) -> Iterator[Proxy]:
    """A shared proxy that has counted something of everything it can count."""
    settings, out = Settings(redcap.url, listen_port=0), io.StringIO()
    journal, exchange = Journal(out=out), Exchange(settings, Upstream(settings))
    with closing(exchange), running(ProxyServer(settings, App(exchange, journal))) as server:
        proxy = Proxy(server, out)
        redcap.queue("Yes.")
        assert proxy.post().status == 200
        redcap.queue_failure()
        assert proxy.post(headers={"x-api-key": COLLEAGUES_TOKEN}).status == 529
        amounts: dict[str, Any] = {"calls": 3, "repairs": 1, "continuations": 1, "mended_edits": 1}
        journal.request(Record("req_1", route=MESSAGES, status=200, alias="claude", **amounts))
        journal.request(Record("req_2", route=MESSAGES, status=499, alias="claude"))
        yield proxy


def exposed(proxy: Proxy) -> dict[str, dict[str, set[str]]]:
    """What `/metrics` shows: for each name of a sample its labels, and the values they have."""
    found: dict[str, dict[str, set[str]]] = {}
    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # at its own name, as its users do
    with directly.open(f"{proxy.url}/metrics", timeout=PATIENCE) as response:
        text = response.read().decode()
    for family in parser.text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


# --- names ------------------------------------------------------------------------------------------------------------


def test_every_metric_and_label_is_one_that_the_proxy_exposes(busy: Proxy) -> None:
    there = exposed(busy)
    for where, expression in expressions():
        selectors = re.findall(r"\b(claude_proxy_\w+|up\b)(?:\{([^}]*)\})?", expression)
        assert selectors, where
        labels: set[str] = set(OF_THE_SCRAPE)
        for name, inside in selectors:
            known = {"up": {}, **there}[name]
            labels |= known.keys()
            for label, is_pattern, value in re.findall(r'(\w+)=(~?)"([^"]*)"', inside):
                assert label in known.keys() | OF_THE_SCRAPE, f"{where}: {name} has no {label}"
                fits = re.compile(value if is_pattern else re.escape(value)).fullmatch
                assert label in OF_THE_SCRAPE or any(map(fits, known[label])), f"{where}: {label} is never {value}"
        for grouping in re.findall(r"(?:by|on|group_left) \(([^)]*)\)", expression):
            assert set(re.findall(r"\w+", grouping)) <= labels, where


def test_every_legend_and_sentence_uses_labels_that_its_expression_leaves() -> None:
    sentences = re.split(r"- alert: ", RULES.read_text(encoding="utf-8"))[1:]
    written = [
        (*each, set(re.findall(r"\$labels\.(\w+)", text)))
        for each, text in zip(rule_expressions(), sentences, strict=True)
    ]
    written += [
        (title, target["expr"], set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])))
        for title, target in targets()
    ]
    for where, expression, labels in written:
        is_summed = re.search(r"\bsum\b", expression)
        left = (
            set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", expression)))) if is_summed else OF_THE_SCRAPE
        )
        assert labels <= left, where


# --- alerts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [("check", "rules", "--lint-fatal", RULES), ("test", "rules", RULES_TEST)], ids=lambda words: words[0]
)
def test_promtool_takes_the_rules(words: tuple[str | Path, ...]) -> None:
    command = [find_program("promtool"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    names = [name for name, _ in rule_expressions()]
    text = RULES_TEST.read_text(encoding="utf-8")
    assert names == re.findall(r"alert: (\w+)", RULES.read_text(encoding="utf-8"))
    assert set(re.findall(r"alertname: (\w+)\n +exp_alerts:\n +- exp_labels", text)) == set(names)
    assert set(re.findall(r"alertname: (\w+), exp_alerts: \[\]", text)) == set(names)


# --- the dashboard ----------------------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_grafanas_own_types_know_every_key_of_the_dashboard() -> None:
    """They drop what they do not know, and add what was left to its default."""
    types = importlib.import_module("grafana_foundation_sdk.models.dashboard")
    encoder = importlib.import_module("grafana_foundation_sdk.cog.encoder")
    importlib.import_module("grafana_foundation_sdk.cog.plugins").register_default_plugins()
    read = types.Dashboard.from_json(dashboard())
    assert list(_lost(dashboard(), json.loads(json.dumps(read, cls=encoder.JSONEncoder)))) == []


def _lost(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """The places of a value that are not in another one, or are different there."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            yield from _lost(value, after[key], f"{path}/{key}") if key in after else [f"{path}/{key}"]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, pair in enumerate(zip(before, after, strict=True)):
            yield from _lost(*pair, f"{path}/{number}")
    elif before != after:
        yield path


def test_the_panels_lie_side_by_side_and_are_explained() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["description"].endswith(".") for panel in panels)
    places = [panel["gridPos"] for panel in panels]
    assert all(place["x"] + place["w"] <= GRID for place in places)
    for one, other in combinations(places, 2):
        is_beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert is_beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


def test_the_dashboard_names_no_data_source_of_ours() -> None:
    source = {"type": "prometheus", "uid": "${datasource}"}
    shown = dashboard()
    asking = [*shown["panels"], *shown["annotations"]["list"], *(target for _, target in targets())]
    assert all(each["datasource"] == source for each in asking)
    assert "datasource" in {variable["name"] for variable in shown["templating"]["list"]}


# --- the real Prometheus ----------------------------------------------------------------------------------------------


class Prometheus:
    """A running Prometheus that scrapes a proxy as docs/watching.md says."""

    def __init__(self, port: int) -> None:
        self._port = port

    def get(self, path: str) -> Any:
        with Wire(self._port) as wire:
            wire.ask("GET", path)
            return wire.read_response().json

    def query(self, expression: str) -> list[Any]:
        answer = self.get(f"/api/v1/query?query={quote(expression)}")
        assert answer["status"] == "success", answer
        result: list[Any] = answer["data"]["result"]
        return result

    def is_ready(self) -> bool:
        try:
            return bool(self.query('up{job="claude-proxy"} == 1'))
        except (OSError, AssertionError, ValueError):  # it does not listen, or has not read its files yet
            return False


@pytest.fixture
def prometheus(busy: Proxy, tmp_path: Path) -> Iterator[Prometheus]:
    program = find_program("prometheus")
    docs = (ROOT / "docs" / "watching.md").read_text(encoding="utf-8")
    (scrape,) = re.findall(r"^```yaml\n(scrape_configs:\n.*?)^```", docs, re.DOTALL | re.MULTILINE)
    here = {"/etc/prometheus/claude-proxy-token": f"{tmp_path}/token", "claude-proxy.example.edu:8765": busy.url[7:]}
    for said, ours in here.items():
        assert scrape.count(said) == 1
        scrape = scrape.replace(said, ours)
    settings = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
    whole = f"global: {json.dumps(settings)}\nrule_files: [{json.dumps(str(RULES))}]\n{scrape}"
    (tmp_path / "prometheus.yml").write_text(whole, encoding="utf-8")
    (tmp_path / "token").write_text(TOKEN, encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(program), f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    command.append(f"--web.listen-address=127.0.0.1:{port}")
    with (
        (tmp_path / "log").open("wb") as log,
        ending(subprocess.Popen(command, env={"PATH": os.defpath}, stderr=log, stdout=log), politely=True) as process,
    ):
        made = Prometheus(port)
        eventually(lambda: process.poll() is not None or made.is_ready())
        assert process.poll() is None, (tmp_path / "log").read_text()
        yield made


@pytest.mark.slow
def test_prometheus_finds_something_for_every_panel_and_evaluates_every_rule(prometheus: Prometheus) -> None:
    variables = {"$__rate_interval": "1m", "$instance": ".*"}
    for _, target in targets():
        expression = target["expr"]
        for name, value in variables.items():
            expression = expression.replace(name, value)
        eventually(partial(prometheus.query, expression))  # a rate needs two scrapes
    eventually(lambda: all(rule["health"] != "unknown" for rule in rules(prometheus)))
    assert {rule["health"]: rule.get("lastError") for rule in rules(prometheus)} == {"ok": None}
    assert [rule["name"] for rule in rules(prometheus)] == [name for name, _ in rule_expressions()]


def rules(prometheus: Prometheus) -> list[dict[str, Any]]:
    return [rule for group in prometheus.get("/api/v1/rules")["data"]["groups"] for rule in group["rules"]]
