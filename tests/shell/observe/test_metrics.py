"""The metrics, read back by the official parsers."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import pytest
from conftest import PATIENCE, PROMPT, Gate, Proxy, Redcap, StartProxy, eventually
from prometheus_client import parser
from prometheus_client.openmetrics import parser as open_parser

from claude_proxy import __version__
from claude_proxy.shell.observe import metrics
from claude_proxy.shell.observe.journal import BUCKETS, MESSAGES, UNMAPPED, Journal, Record

LOCAL = {"host": "127.0.0.1"}


def record(**changes: Any) -> Record:
    return Record("req_1", **{"route": MESSAGES, "status": 200, "alias": "claude", "seconds": 42.0, **changes})


def journal(*records: Record) -> Journal:
    made = Journal("error", out=io.StringIO())
    for each in records:
        made.request(each)
    return made


def families(text: str, form: str = metrics.TEXT) -> dict[str, Any]:
    parse = parser if form == metrics.TEXT else open_parser
    return {family.name: family for family in parse.text_string_to_metric_families(text)}


def read(made: Journal, form: str = metrics.TEXT) -> dict[str, Any]:
    return families(metrics.render(made.activity(), form).decode(), form)


def values(family: Any, suffix: str = "") -> dict[tuple[str, ...], float]:
    return {tuple(sample.labels.values()): sample.value for sample in family.samples if sample.name.endswith(suffix)}


FORMS = pytest.mark.parametrize("form", [metrics.TEXT, metrics.OPEN_METRICS])


@FORMS
def test_what_there_is_from_the_start(form: str) -> None:
    made = journal()
    found = read(made, form)
    (build,) = found["claude_proxy_build_info"].samples
    assert (build.labels["version"], build.value) == (__version__, 1)
    assert values(found["claude_proxy_requests_in_flight"]) == {(): 0}
    assert values(found["claude_proxy_requests_waiting"]) == {(): 0}
    assert values(found["claude_proxy_client_disconnects"]) == {(): 0}
    assert values(found["claude_proxy_start_time_seconds"])[()] == pytest.approx(made.activity().started, abs=0.01)
    failures = values(found["claude_proxy_upstream_failures"])
    assert ("UpstreamTimeout",) in failures
    assert set(failures.values()) == {0}


@FORMS
def test_requests_and_their_sums(form: str) -> None:
    amounts = {
        "input_tokens": 1000,
        "output_tokens": 10,
        "calls": 2,
        "repairs": 1,
        "continuations": 3,
        "mended_edits": 4,
    }
    found = read(journal(record(**amounts), record(**amounts), record(alias=UNMAPPED, status=499)), form)
    assert values(found["claude_proxy_requests"]) == {(MESSAGES, "200", "claude"): 2, (MESSAGES, "499", "other"): 1}
    assert values(found["claude_proxy_client_disconnects"]) == {(): 1}
    for name, amount in amounts.items():
        family = found[f"claude_proxy_{name.replace('calls', 'tool_calls')}"]
        assert family.type == "counter"
        assert values(family) == {("claude",): 2 * amount}


@FORMS
def test_histograms(form: str) -> None:
    found = read(journal(record(first_byte=0.05), record(seconds=0.2), record(seconds=9999.0)), form)
    family = found["claude_proxy_request_duration_seconds"]
    assert family.type == "histogram"
    buckets = values(family, "_bucket")
    assert list(buckets.values()) == sorted(buckets.values()), "each counts all below it"
    assert len(buckets) == len(BUCKETS) + 1
    assert {float(le): count for (_, _, le), count in buckets.items() if float(le) in {0.1, 0.25, 60.0}} == {
        0.1: 0,
        0.25: 1,
        60.0: 2,
    }
    assert values(family, "_count") == {(MESSAGES, "claude"): 3}
    assert values(family, "_sum")[MESSAGES, "claude"] == pytest.approx(10041.2)
    assert values(found["claude_proxy_first_byte_seconds"], "_count") == {(MESSAGES, "claude"): 1}


def test_what_is_in_flight() -> None:
    made = journal()
    for number, phase in enumerate(("asking", "waiting for a turn", "waiting for a turn")):
        made.begin(Record(f"req_{number}"))
        made.set_phase(f"req_{number}", phase)  # type: ignore[arg-type]
    found = read(made)
    assert values(found["claude_proxy_requests_in_flight"]) == {(): 3}
    assert values(found["claude_proxy_requests_waiting"]) == {(): 2}


@FORMS
@pytest.mark.parametrize("alias", ['a"b', "a\\b", "a\nb", "\\n", "ä😀", '"} 1\nforged 1'])
def test_an_alias_of_any_characters(alias: str, form: str) -> None:
    found = read(journal(record(alias=alias)), form)
    assert values(found["claude_proxy_requests"]) == {(MESSAGES, "200", alias): 1}


# --- The route --------------------------------------------------------------------------------------------------------


def get(proxy: Proxy, headers: dict[str, str]) -> Any:
    response = proxy.get("/metrics", {**proxy.credential, **headers})
    assert response.status == 200
    form = metrics.OPEN_METRICS if "openmetrics" in response.headers["content-type"] else metrics.TEXT
    return response, families(response.body.decode(), form)


def samples(found: Iterable[Any]) -> str:
    return "\n".join(str(sample) for family in found for sample in family.samples)


def test_what_clients_write_is_no_label(redcap: Redcap, start_proxy: StartProxy) -> None:
    proxy = start_proxy()
    redcap.queue("Yes.")
    proxy.post()
    proxy.post({"model": "Meier"})
    proxy.get("/Meier", {})
    proxy.ask("MEIER", "/v1/messages")
    eventually(lambda: proxy.journal.count(" request ") == 4)
    response, found = get(proxy, {})
    assert response.headers["content-type"] == metrics.TEXT
    assert "Meier" not in samples(found.values())
    assert PROMPT not in response.body.decode()
    assert values(found["claude_proxy_requests"]) == {
        (MESSAGES, "200", "claude"): 1,
        (MESSAGES, "502", "other"): 1,
        ("-", "404", ""): 1,
        ("/v1/messages", "405", ""): 1,
    }
    assert values(found["claude_proxy_upstream_failures"])["ModelNeverAnswered",] == 1


def test_what_is_in_flight_shows_while_it_is(redcap: Redcap, proxy: Proxy) -> None:
    gate = Gate("Yes.")
    redcap.queue(gate)
    with proxy.stream() as wire:
        assert gate.reached.wait(PATIENCE)
        _, found = get(proxy, {})
        assert values(found["claude_proxy_requests_in_flight"]) == {(): 1}
        gate.open()
        wire.read_response()
    eventually(lambda: values(get(proxy, {})[1]["claude_proxy_requests_in_flight"]) == {(): 0})


def test_open_metrics_for_those_who_ask(proxy: Proxy) -> None:
    accept = "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
    response, found = get(proxy, {"accept": accept})
    assert response.headers["content-type"] == metrics.OPEN_METRICS
    assert found["claude_proxy_build_info"]
