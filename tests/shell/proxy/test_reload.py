"""Settings that change while the proxy runs: what takes effect, what asks for a restart, and what is refused."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    COLLEAGUES_TOKEN,
    TOKEN,
    Gate,
    Proxy,
    Redcap,
    StartProxy,
    eventually,
    message_request,
)

from claude_proxy.errors import SettingsError
from claude_proxy.settings.alias_facts import AliasFacts
from claude_proxy.settings.table import Server, Settings
from claude_proxy.settings.values import Secret
from claude_proxy.shell.observe.journal import Journal
from claude_proxy.shell.proxy.exchange import Exchange
from claude_proxy.shell.proxy.reload import FIXED, Reloader

URL = "https://redcap.example.edu/api/"
FIRST = Settings(URL, Secret(TOKEN))


class Bench:
    """A reloader by itself: what it loads is the test's choice, and what the proxy adopts is kept."""

    def __init__(self, path: Path, running: Settings = FIRST) -> None:
        self.next: Settings | Exception = FIRST
        self.adopted: list[Settings] = []
        self.refusal: Exception | None = None
        self.out = io.StringIO()
        journal = Journal("debug", out=self.out)
        self.reloader = Reloader(path, FIRST, running, load=self._load, adopt=self._adopt, journal=journal, look=0.01)

    def reload(self, new: Settings | Exception) -> list[str]:
        """Reload, and return the lines of the journal, without their time."""
        self.next = new
        self.out.truncate(0)
        self.out.seek(0)
        self.reloader.reload()
        return [line.partition(" ")[2] for line in self.out.getvalue().splitlines()]

    def _load(self) -> Settings:
        if isinstance(self.next, Exception):
            raise self.next
        return self.next

    def _adopt(self, settings: Settings) -> None:
        if self.refusal:
            raise self.refusal
        self.adopted.append(settings)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "claude-proxy.toml")


# --- what is said -----------------------------------------------------------------------------------------------------

SAID: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["INFO settings read again changed=nothing"]),
    ({"max_calls": 5}, ["INFO settings read again changed=MAX_CALLS"]),
    (
        {"model_map": {"a": "b"}, "model_servers": {"a": "x"}, "alias_facts": {"b": AliasFacts(sees=True)}},
        ['INFO settings read again changed="MODEL_MAP, [models], [aliases]"'],
    ),
    (
        {"listen_port": 1, "max_calls": 5},
        [
            "INFO settings read again changed=MAX_CALLS",
            "WARNING restart the proxy for these settings to take effect needed=LISTEN_PORT",
        ],
    ),
    (
        {"exposed_file": "/x.toml"},
        [
            "INFO settings read again changed=nothing",
            "WARNING /x.toml holds a token or a password, and other users of this machine can read it: run chmod 600 "
            "/x.toml",
        ],
    ),
    ({"redcap_api_token": Secret("NEW")}, ["INFO settings read again changed=REDCAP_API_TOKEN"]),
]


@pytest.mark.parametrize(("changes", "lines"), SAID, ids=[",".join(changes) for changes, _ in SAID])
def test_what_is_said(changes: dict[str, Any], lines: list[str], bench: Bench) -> None:
    assert bench.reload(replace(FIRST, **changes)) == lines


@pytest.mark.parametrize("name", FIXED)
def test_what_is_fixed_stays_and_a_restart_is_asked_for_once(name: str, bench: Bench) -> None:
    changes: dict[str, Any] = {name: 1, "max_calls": 5}
    new = replace(FIRST, **changes)
    assert "needed=" + name.upper() in bench.reload(new)[-1]
    assert bench.adopted == [replace(FIRST, max_calls=5)]
    assert len(bench.reload(new)) == 1
    assert len(bench.reload(FIRST)) == 1, "it is as it was at the start again"
    assert len(bench.reload(new)) == 2


def test_what_was_fitted_to_the_machine_stays_so(tmp_path: Path) -> None:
    fitted = replace(FIRST, max_connections=50)
    bench = Bench(tmp_path / "x.toml", running=fitted)
    assert len(bench.reload(FIRST)) == 1
    assert bench.adopted == [fitted]


@pytest.mark.parametrize("where", ["load", "adopt"])
def test_settings_that_are_refused_leave_everything_as_it_was(where: str, bench: Bench) -> None:
    refusal = SettingsError("x.toml, line 3: max_calls = 0 cannot be used")
    bench.refusal = refusal if where == "adopt" else None
    lines = bench.reload(refusal if where == "load" else replace(FIRST, max_calls=5))
    assert lines == ['ERROR settings refused, the old ones stay reason="x.toml, line 3: max_calls = 0 cannot be used"']
    assert bench.adopted == []
    bench.refusal = None
    assert bench.reload(replace(FIRST, max_calls=5)) == ["INFO settings read again changed=MAX_CALLS"]


# --- when -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def watching(bench: Bench) -> Iterator[Bench]:
    bench.reloader.start()
    yield bench
    bench.reloader.stop()
    eventually(lambda: not any(thread.name == "reload" for thread in threading.enumerate()))


def adopted(bench: Bench, count: int) -> None:
    eventually(lambda: len(bench.adopted) == count)


def test_a_file_is_read_again_when_it_appears_changes_is_replaced_and_goes(watching: Bench, tmp_path: Path) -> None:
    path = tmp_path / "claude-proxy.toml"
    path.write_text("a = 1")
    adopted(watching, 1)
    path.write_text("a = 12")
    adopted(watching, 2)
    (tmp_path / "new").write_text("a = 13")
    (tmp_path / "new").replace(path)
    adopted(watching, 3)
    path.unlink()
    adopted(watching, 4)


def test_a_file_that_stays_as_it_is_is_read_only_when_asked_for(watching: Bench) -> None:
    watching.reloader.ask()
    adopted(watching, 1)
    watching.reloader.ask()
    adopted(watching, 2)


def test_a_bad_file_is_refused_once_and_read_when_it_is_mended(watching: Bench, tmp_path: Path) -> None:
    path = tmp_path / "claude-proxy.toml"
    watching.next = SettingsError("bad")
    path.write_text("a =")
    eventually(lambda: "reason=bad" in watching.out.getvalue())
    watching.next = FIRST
    path.write_text("a = 1")
    adopted(watching, 1)
    assert watching.out.getvalue().count("reason=bad") == 1


def test_a_file_that_is_still_being_written_is_not_read(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "claude-proxy.toml"
    for size in range(1, 5):
        path.write_text("#" * size)
        assert not bench.reloader._has_changed()
    assert bench.reloader._has_changed()
    assert not bench.reloader._has_changed()
    os.utime(path, ns=(1, 1))
    assert [bench.reloader._has_changed() for _ in range(3)] == [False, True, False]


# --- the running proxy ------------------------------------------------------------------------------------------------


def adopt(proxy: Proxy, **changes: Any) -> None:
    proxy.server.adopt(replace(proxy.server.settings, **changes))


def ask(proxy: Proxy, **changes: Any) -> Any:
    return proxy.ask("POST", "/v1/messages", message_request(changes))


def test_the_next_request_goes_by_the_new_settings(redcap: Redcap, proxy: Proxy) -> None:
    redcap.queue("Yes.", "Yes.")
    ask(proxy, model="claude-opus-9")
    adopt(proxy, model_map={"claude-opus-*": "o3"}, alias_facts={"o3": AliasFacts(window=1234)}, max_body_mb=1)
    ask(proxy, model="claude-opus-9")
    assert [request.fields["model"] for request in redcap.requests] == ["claude", "o3"]
    adopt(proxy, model_map={"mine": "o3"})
    assert proxy.ask("GET", "/v1/models/mine").json["max_input_tokens"] == 1234
    assert ask(proxy, padding="x" * 2 * 1024**2).status == 413


def test_a_request_that_runs_keeps_its_settings(redcap: Redcap, proxy: Proxy) -> None:
    """Its alias is asked again under the old prefix, while the next one finds a module that there is not."""
    gate = Gate("Yes.")
    redcap.queue(gate)
    responses: list[Any] = []
    thread = threading.Thread(target=lambda: responses.append(ask(proxy)))
    thread.start()
    gate.reached.wait()
    adopt(proxy, redcap_module_prefix="elsewhere", redcap_api_token=Secret(COLLEAGUES_TOKEN))
    assert ask(proxy).status == 401, "the old token is no longer this proxy's"
    gate.open()
    thread.join()
    assert responses[0].status == 200
    assert redcap.requests[-1].fields["prefix"] == "secure_chat_ai"


def test_what_is_known_of_an_alias_survives(redcap: Redcap, proxy: Proxy) -> None:
    redcap.queue("Yes.")
    ask(proxy)
    adopt(proxy, max_calls=7, connect_timeout=3.0)
    redcap.queue_failure()
    assert ask(proxy).status == 529, "it has answered before"


def test_the_log_level_changes(redcap: Redcap, proxy: Proxy) -> None:
    adopt(proxy, log_level="error")
    redcap.queue("Yes.")
    ask(proxy)
    assert proxy.journal == ""


def test_settings_that_cannot_be_used_change_nothing(proxy: Proxy) -> None:
    before = proxy.server.settings
    with pytest.raises(SettingsError):
        adopt(proxy, http_proxy=Secret("socks5://x"), redcap_api_url="http://redcap.example.edu/api/")
    assert proxy.server.settings is before
    assert proxy.ask("GET", "/v1/models").status == 200


def test_settings_that_cannot_be_used_let_nobody_else_in(proxy: Proxy) -> None:
    with pytest.raises(SettingsError):
        adopt(
            proxy,
            http_proxy=Secret("socks5://x"),
            redcap_api_url="http://redcap.example.edu/api/",
            redcap_api_token=Secret(COLLEAGUES_TOKEN),
        )
    assert proxy.ask("GET", "/v1/models").status == 200
    assert proxy.ask("GET", "/v1/models", headers={"x-api-key": COLLEAGUES_TOKEN}).status == 401


def test_whoever_was_let_in_spends_the_token_that_let_them_in(
    redcap: Redcap, start_proxy: StartProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the check of the credential and the call the settings may be read again, with a token of their own."""
    proxy = start_proxy(redcap_api_token=None)
    prepare = Exchange.prepare

    def late(self: Exchange, *arguments: Any, **more: Any) -> Any:
        adopt(proxy, redcap_api_token=Secret(COLLEAGUES_TOKEN))
        return prepare(self, *arguments, **more)

    monkeypatch.setattr(Exchange, "prepare", late)
    redcap.queue("Yes.")
    assert ask(proxy).status == 200
    assert redcap.requests[-1].fields["token"] == TOKEN
    assert ask(proxy).status == 401


# --- several servers --------------------------------------------------------------------------------------------------


@pytest.fixture
def lab() -> Iterator[Redcap]:
    """Another REDCap, with another module."""
    redcap = Redcap()
    redcap.prefix = "lab_ai"
    redcap.start()
    yield redcap
    redcap.close()
    assert not redcap.left_over
    assert not redcap.unexpected


MAP: dict[str, Any] = {"model_map": {"lab-*": "gpt-4o", "near": "gpt-4o"}, "model_servers": {"lab-*": "lab"}}


@pytest.fixture
def start(start_proxy: StartProxy, lab: Redcap) -> Callable[..., Proxy]:
    def make(token: str | None = COLLEAGUES_TOKEN, **changes: Any) -> Proxy:
        servers = {"lab": Server(lab.url, Secret(token) if token else None, "lab_ai")}
        return start_proxy(**{**MAP, "servers": servers, **changes})

    return make


def test_the_model_table_chooses_the_server(redcap: Redcap, lab: Redcap, start: Callable[..., Proxy]) -> None:
    proxy = start()
    redcap.queue("Near.")
    lab.queue("Far.")
    assert ask(proxy, model="near").json["content"][0]["text"] == "Near."
    assert ask(proxy, model="lab-9").json["content"][0]["text"] == "Far."
    (far,), (near,) = lab.requests, redcap.requests
    assert (far.fields["token"], far.fields["prefix"]) == (COLLEAGUES_TOKEN, "lab_ai")
    assert (near.fields["token"], near.fields["prefix"]) == (TOKEN, "secure_chat_ai")
    assert proxy.journal_line("alias=gpt-4o@lab")
    assert proxy.journal_line("alias=gpt-4o ")


def test_a_clients_own_token_is_passed_on(lab: Redcap, start: Callable[..., Proxy]) -> None:
    proxy = start(token=None, redcap_api_token=None)
    lab.queue("Far.")
    assert ask(proxy, model="lab-9").status == 200
    assert lab.requests[0].fields["token"] == TOKEN


def test_the_same_alias_fares_by_itself_on_each_server(
    redcap: Redcap, lab: Redcap, start: Callable[..., Proxy]
) -> None:
    proxy = start()
    redcap.queue("Near.")
    assert ask(proxy, model="near").status == 200
    lab.queue_failure()
    message = ask(proxy, model="lab-9").error[2]
    assert "'gpt-4o@lab' has not answered since this proxy started" in message


def test_each_server_has_its_own_armour(redcap: Redcap, lab: Redcap, start: Callable[..., Proxy]) -> None:
    lab.decode_entities = False
    proxy = start()
    servers = {"lab": Server(lab.url, Secret(COLLEAGUES_TOKEN), "lab_ai", decodes_entities=False)}
    adopt(proxy, servers=servers)
    lab.queue("int *p = &sum;")
    content = ask(proxy, model="lab-9", messages=[{"role": "user", "content": "int *p = &sum;"}]).json["content"]
    assert content[0]["text"] == lab.asked[-1].messages[-1]["content"] == "int *p = &sum;"


def test_a_server_may_come_and_go(redcap: Redcap, lab: Redcap, start: Callable[..., Proxy]) -> None:
    proxy = start()
    lab.queue("Far.", "Far.")
    redcap.queue("Near.")
    answers = [ask(proxy, model="lab-9").json["content"][0]["text"]]
    servers = proxy.server.settings.servers
    adopt(proxy, servers={}, model_servers={})
    answers.append(ask(proxy, model="lab-9").json["content"][0]["text"])
    adopt(proxy, servers=servers, model_servers={"lab-*": "lab"})
    answers.append(ask(proxy, model="lab-9").json["content"][0]["text"])
    assert answers == ["Far.", "Near.", "Far."]
