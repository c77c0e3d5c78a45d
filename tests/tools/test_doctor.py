"""The doctor: each check by itself, and the whole way against a pretend REDCap in good and in bad health."""

from __future__ import annotations

import errno
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import faults
import pytest
import trustme
from conftest import COLLEAGUES_TOKEN, PATIENCE, TOKEN, Redcap, StartProxy

from claude_proxy.demo.model import ModelFailure, ModelRequest, text_of
from claude_proxy.demo.pages import LOGIN_PAGE, MAINTENANCE_PAGE, SINGLE_SIGN_ON, CannedResponse
from claude_proxy.demo.simulator import Received
from claude_proxy.settings.table import Server, Settings
from claude_proxy.settings.values import Secret
from claude_proxy.shell.server.connections import explain_listening
from claude_proxy.tools import doctor, model_table, redcap_checks
from claude_proxy.tools.launcher import ClaudeSettings
from claude_proxy.tools.redcap_checks import CHECKS, Finding, check_all

CALL = (
    '<function_calls>\n<invoke name="report_status">\n<parameter name="status">ready</parameter>\n</invoke>\n'
    "</function_calls>"
)


def obedient(request: ModelRequest) -> str:
    """A model that does what it is told: calls the tool, or repeats the line."""
    said = text_of(request.messages[-1])
    return said.rpartition("\n")[2] if "Repeat" in said else CALL


def settings_for(redcap: Redcap, **changes: Any) -> Settings:
    return Settings(redcap_api_url=redcap.url, redcap_api_token=Secret(TOKEN), **changes)


def network(settings: Settings, token: str | None = TOKEN, patience: float = 30.0) -> dict[str, Finding]:
    """What is found on the way to REDCap, by check."""
    return {finding.check: finding for finding in check_all(settings, token, {}, patience)}


def statuses(found: Mapping[str, Finding]) -> dict[str, str]:
    return {check: finding.status for check, finding in found.items()}


@pytest.fixture(autouse=True)
def nothing_is_left_over() -> Iterator[None]:
    with faults.nothing_left_over():
        yield


# --- The way to a model -----------------------------------------------------------------------------------------------


def test_doctor_finds_all_well_with_a_healthy_redcap(redcap: Redcap) -> None:
    redcap.let_answer(obedient)
    found = network(settings_for(redcap))
    aliases = {f"alias {alias}" for alias in ("claude", "gpt-4o", "o3-mini", "o1", "gpt-4.1", "deepseek")}
    assert set(found) == {*CHECKS, *aliases} - {"aliases"}
    assert {check for check, finding in found.items() if finding.status != "ok"} == {"TLS"}
    assert found["REDCap"].message.startswith("version 15.5.0 (")
    assert found["module"].message == ("secure_chat_ai, version 1.0.0, framework 16; its actions: callAI, messages")
    assert "answers claude-opus-5-5 in 0." in found["alias claude"].message
    assert TOKEN not in repr(found)


def no_such_path(received: Received) -> CannedResponse:
    return CannedResponse(404, "<html>Not Found</html>", "text/html")


def test_every_server_is_checked(redcap: Redcap) -> None:
    redcap.let_answer(obedient)
    redcap.aliases = frozenset({"claude", "my-alias"})
    settings = settings_for(
        redcap,
        model_map={"mine": "my-alias", "theirs": "claude"},
        model_servers={"mine": "lab", "theirs": "icu"},
        servers={
            "lab": Server(redcap.url, Secret(COLLEAGUES_TOKEN)),
            "icu": Server(redcap.url, Secret("0" * 32)),
        },
    )
    found = network(settings)
    assert found["alias claude"].status == found["alias my-alias@lab"].status == found["entities@lab"].status == "ok"
    assert found["token@icu"].status == "failed"
    assert found["module@icu"].status == "skipped"
    assert "alias claude@icu" not in found


# What answers in REDCap's place, the check that fails, and words of its message.
PAGES = [
    (lambda _: LOGIN_PAGE, "REDCap", "login"),
    (lambda _: MAINTENANCE_PAGE, "REDCap", "offline"),
    (lambda _: SINGLE_SIGN_ON, "REDCap", "single sign-on"),
    (no_such_path, "REDCap", "an address that is not REDCap's API"),
]


@pytest.mark.parametrize(("intercept", "check", "words"), PAGES)
def test_a_page_in_place_of_redcap_is_recognized(redcap: Redcap, intercept: Any, check: str, words: str) -> None:
    redcap.intercept = intercept
    broken_at(network(settings_for(redcap)), check, words)


def broken_at(found: Mapping[str, Finding], check: str, words: str) -> None:
    """Only this check failed, it says so, and what stands behind it was skipped."""
    place = CHECKS.index(check)
    assert words in found[check].message
    assert found[check].status == "failed"
    assert all(found[each].status in {"ok", "skipped"} for each in CHECKS[:place])
    assert {found[each].status for each in CHECKS[place + 1 :]} <= {"skipped"}
    assert not any(each.startswith("alias ") for each in found)


def test_a_wrong_token_of_the_proxy_is_found(redcap: Redcap) -> None:
    """The proxy's own goes before what a client would bring."""
    found = network(Settings(redcap_api_url=redcap.url, redcap_api_token=Secret("0" * 32)))
    broken_at(found, "token", "REDCap refused the token")
    assert found["REDCap"].status == "ok"


def test_a_wrong_token_of_the_user_is_found(redcap: Redcap) -> None:
    broken_at(network(Settings(redcap_api_url=redcap.url), token="0" * 32), "token", "REDCap refused the token")


def test_without_a_token_the_rest_is_skipped_and_nothing_fails(redcap: Redcap) -> None:
    """A proxy that is shared has none: that is no failure, but nothing behind it can be tried."""
    found = network(Settings(redcap_api_url=redcap.url), token=None)
    assert statuses(found)["REDCap"] == "ok"
    assert statuses(found)["token"] == statuses(found)["module"] == statuses(found)["entities"] == "skipped"
    assert "ANTHROPIC_AUTH_TOKEN" in found["token"].message
    assert doctor.is_well(list(found.values()))


def test_a_missing_module_is_found(redcap: Redcap) -> None:
    redcap.prefix = "another_chat"
    broken_at(network(settings_for(redcap)), "module", "REDCAP_MODULE_PREFIX=secure_chat_ai")


def test_an_older_framework_does_not_tell_its_version(redcap: Redcap) -> None:
    def refuse(received: Received) -> CannedResponse | None:
        return CannedResponse(400, '{"error":"unknown"}') if "__" in received.fields.get("action", "") else None

    redcap.intercept = refuse
    redcap.let_answer(obedient)
    found = network(settings_for(redcap))
    assert found["module"] == Finding("module", "ok", "secure_chat_ai is there; this REDCap does not tell its version")


def test_what_one_action_does_not_tell_another_does(redcap: Redcap) -> None:
    def refuse(received: Received) -> CannedResponse | None:
        return CannedResponse(400, '{"error":"unknown"}') if received.fields.get("action") == "__info" else None

    redcap.intercept = refuse
    redcap.let_answer(obedient)
    assert "version 1.0.0, framework 16; its actions: callAI" in network(settings_for(redcap))["module"].message


def test_an_alias_that_is_not_configured_is_found(redcap: Redcap) -> None:
    redcap.let_answer(obedient)
    redcap.aliases = frozenset({"gpt-4o", "o1"})
    found = network(settings_for(redcap, model_map={"mine": "my-alias"}))
    failures = {check for check, finding in found.items() if finding.status == "failed"}
    assert failures == {"alias claude", "alias my-alias"}, "those that Claude Code asks for, and the configured ones"
    assert "an entry of MODEL_MAP" in found["alias my-alias"].message
    assert found["alias deepseek"].status == "warning"
    assert found["alias deepseek"].message.endswith("Only who asks for deepseek by name needs it.")
    assert found["entities"].status == "ok"


def test_entities_are_not_checked_if_no_alias_answers(redcap: Redcap) -> None:
    def fail(_: ModelRequest) -> str:
        raise ModelFailure("down")

    redcap.let_answer(fail)
    assert network(settings_for(redcap))["entities"].status == "skipped"


@pytest.mark.slow
def test_an_alias_that_never_answers_is_given_up(redcap: Redcap) -> None:
    end = threading.Event()

    def think(request: ModelRequest) -> str:
        if request.alias == "gpt-4o":
            end.wait(PATIENCE)
        return obedient(request)

    redcap.let_answer(think)
    found = network(settings_for(redcap), patience=5.0)
    end.set()
    assert found["alias gpt-4o"].status == "failed"
    assert "no answer within 5 s, the longest that doctor waits" in found["alias gpt-4o"].message
    assert found["alias claude"].status == "ok"


def test_leaving_early_does_not_wait_for_the_aliases(redcap: Redcap) -> None:
    end = threading.Event()

    def think(request: ModelRequest) -> str:
        if request.alias != "claude":
            end.wait(PATIENCE)
        return obedient(request)

    redcap.let_answer(think)
    findings = check_all(settings_for(redcap), TOKEN, {}, 30)
    for finding in findings:
        if finding.check == "alias claude":
            break
    began = time.monotonic()
    findings.close()  # type: ignore[attr-defined] # a generator
    assert time.monotonic() - began < PATIENCE / 2
    end.set()


def test_an_alias_that_calls_nothing_or_sloppily_gets_a_warning(redcap: Redcap) -> None:
    said = {"claude": "I am ready.", "gpt-4o": CALL.replace("ready", "steady"), "o1": CALL.replace("report", "no")}

    def model(request: ModelRequest) -> str:
        again = len(request.messages) > 2
        return said.get(request.alias, obedient(request)) if not again else obedient(request)

    redcap.let_answer(model)
    found = network(settings_for(redcap))
    assert "did not call the tool" in found["alias claude"].message
    assert "not with the arguments" in found["alias gpt-4o"].message
    assert {found[f"alias {alias}"].status for alias in ("claude", "gpt-4o")} == {"warning"}


def test_a_wrong_setting_for_entities_is_found(redcap: Redcap) -> None:
    redcap.let_answer(obedient)
    redcap.decode_entities = False
    finding = network(settings_for(redcap))["entities"]
    assert finding.status == "failed"
    assert finding.message.endswith("Set REDCAP_DECODES_ENTITIES=false.")
    assert network(settings_for(redcap, redcap_decodes_entities=False))["entities"].status == "ok"
    redcap.decode_entities = True
    finding = network(settings_for(redcap, redcap_decodes_entities=False))["entities"]
    assert finding.message.endswith("Set REDCAP_DECODES_ENTITIES=true.")


def test_entities_stay_unknown_if_no_model_repeats_the_text(redcap: Redcap) -> None:
    redcap.let_answer(lambda _: CALL)
    finding = network(settings_for(redcap))["entities"]
    assert (finding.status, finding.message[:23]) == ("warning", "could not be determined")


ECHOES = [
    (redcap_checks.ECHO, False),
    ("[&amp;lt;] [∑] [&eacute;]", True),
    ("Here: `[&amp;lt;] [∑] [&eacute;]`", True),
    ("[<] [∑] [é]", None),
    ("[&lt;] [∑] [é]", None),
    ("[&amp;lt;] [&sum;] [&eacute;]", None),
    ("", None),
    (f"{redcap_checks.ECHO} [&amp;lt;] [∑] [&eacute;]", None),
]


@pytest.mark.parametrize(("reply", "decoded"), ECHOES)
def test_an_echo_tells_whether_entities_were_decoded(reply: str, decoded: bool | None) -> None:
    assert redcap_checks.judge_echo(reply) is decoded


# --- The network ------------------------------------------------------------------------------------------------------


def test_a_name_that_does_not_exist_is_found() -> None:
    found = network(Settings(redcap_api_url="https://redcap.invalid/api/"))
    broken_at(found, "name", "The name redcap.invalid cannot be resolved")


def test_a_port_where_nobody_listens_is_found() -> None:
    url = f"http://127.0.0.1:{faults.closed_port()}/api/"
    broken_at(network(Settings(redcap_api_url=url)), "connection", "could not be reached")


def test_a_port_without_tls_is_found(redcap: Redcap) -> None:
    url = redcap.url.replace("http:", "https:")
    broken_at(network(Settings(redcap_api_url=url)), "TLS", "does not speak TLS")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA(organization_name="Example University")


def test_a_certificate_of_an_unknown_authority_is_found(authority: trustme.CA) -> None:
    with faults.Server(faults.keep_answering, tls=faults.certified(authority)) as server:
        url = f"https://localhost:{server.port}/api/"
        broken_at(network(Settings(redcap_api_url=url)), "TLS", "by an authority that this machine does not know")


VERSION = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\n15.5.0"


def test_tls_is_described_in_a_sentence(authority: trustme.CA, tmp_path: Path) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with faults.Server(faults.answering(VERSION), tls=faults.certified(authority)) as server:
        bundle = str(tmp_path / "ca.pem")
        settings = Settings(redcap_api_url=f"https://localhost:{server.port}/api/", redcap_ca_bundle=bundle)
        found = network(settings, token=None)
    assert found["TLS"].status == "ok"
    assert found["TLS"].message.startswith("TLS 1.3; the certificate was issued by Example University and is valid ")
    assert found["REDCap"].message.startswith("version 15.5.0")


def test_a_proxy_that_refuses_the_tunnel_is_found() -> None:
    with faults.Server(faults.answering(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")) as server:
        proxy = Secret(f"http://127.0.0.1:{server.port}")
        found = network(Settings(redcap_api_url="https://redcap.example.edu/api/", https_proxy=proxy))
    broken_at(found, "connection", "Ask whoever runs the proxy to allow it")


def test_a_certificate_that_expires_soon_gets_a_warning() -> None:
    certificate = {"notAfter": "Jan 10 00:00:00 2027 GMT", "issuer": ((("commonName", "Someone"),),)}
    then = 1_799_539_200  # 2027-01-10
    finding = redcap_checks.judge_certificate(certificate, "TLS 1.2", then - 3 * 86400)
    assert finding.status == "warning"
    assert "issued by Someone and is valid until 2027-01-10 (3 days)" in finding.message
    assert redcap_checks.judge_certificate(certificate, "TLS 1.2", then - 30 * 86400).status == "ok"


def test_an_unusable_forward_proxy_is_found() -> None:
    settings = Settings(redcap_api_url="http://redcap.example.edu/api/", http_proxy=Secret("socks5://x"))
    found = network(settings)
    assert found["name"].status == "failed"
    assert "HTTP_PROXY cannot be used" in found["name"].message


@pytest.mark.parametrize(
    ("facts", "status", "words"),
    [
        ({"module-version": "2.1", "auth-actions": ["messages"]}, "ok", "chat, version 2.1; its actions: messages"),
        (
            {"module-version": "<b>", "auth-actions": {"callAI": ""}},
            "failed",
            "chat does not offer the action messages",
        ),
        ({"module-version": "2.1"}, "ok", "chat, version 2.1"),
    ],
)
def test_a_module_is_judged_by_what_it_tells(facts: dict[str, Any], status: str, words: str) -> None:
    finding = redcap_checks.judge_module("chat", facts)
    assert finding.status == status
    assert finding.message.startswith(words)


# --- This machine -----------------------------------------------------------------------------------------------------

REMOTE = Settings(redcap_api_url="https://redcap.example.edu/api/", redcap_api_token=Secret(TOKEN))
URL = {"REDCAP_API_URL": "https://redcap.example.edu/api/"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without Claude Code and its settings."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def examine(folder: Path, environ: Mapping[str, str]) -> dict[str, Finding]:
    """What is found offline."""
    all_of_it = {"PATH": str(folder / "bin"), "LISTEN_PORT": "0", **environ}
    return {finding.check: finding for finding in doctor.examine(all_of_it, folder, offline=True)}


def test_doctor_shows_where_settings_come_from(home: Path) -> None:
    (home / ".env").write_text(f"REDCAP_API_TOKEN={TOKEN}\nMAX_CALLS=7\nREDCAP_TOKEN=x\nOTHER=y\nUPSTREAM_TIMOUT=3\n")
    found = examine(home, {**URL, "MAX_CALLS": "8", "REDCAP_CA": "x", "https_proxy": "http://u:secret@p:1"})
    assert found["REDCAP_API_URL"].message == "https://redcap.example.edu/api/ (from the environment)"
    assert found["REDCAP_API_TOKEN"].message == f"set, but not shown (from {home / '.env'})"
    assert found["MAX_CALLS"].message == "8 (from the environment). .env has another value, which is not used."
    assert found["MAX_CALLS"].status == "warning"
    assert "Is REDCAP_API_TOKEN meant?" in found["REDCAP_TOKEN"].message
    assert "Is UPSTREAM_TIMEOUT meant?" in found["UPSTREAM_TIMOUT"].message
    assert "REDCAP_CA" in found
    assert "OTHER" not in found
    assert "NO_PROXY" in found["https_proxy"].message, "the only thing to be said of it under this name"
    assert TOKEN not in repr(found)
    assert "u:secret" not in repr(found)
    assert {found[check].status for check in CHECKS} == {"skipped"}


def test_unusable_settings_are_reported_and_the_rest_is_skipped(home: Path) -> None:
    found = examine(home, {})
    assert found["settings"].status == "failed"
    assert "REDCAP_API_URL is not set" in found["settings"].message
    assert {found[check].status for check in ("port", *CHECKS)} == {"skipped"}
    assert not doctor.is_well(list(found.values()))


def test_a_malformed_dotenv_file_is_reported(home: Path) -> None:
    (home / ".env").write_text("nonsense")
    assert "line 1" in examine(home, URL)["settings"].message


@pytest.mark.slow
def test_the_port_is_free_or_taken_by_a_proxy_or_by_another_program(start_proxy: StartProxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        finding = doctor.check_port(Settings("http://x/", listen_port=port))
        assert finding.status == "failed"
        assert "another program listens there" in finding.message
    assert doctor.check_port(Settings("http://x/", listen_port=port)) == Finding(
        "port", "ok", f"localhost:{port} is free"
    )
    shared = start_proxy(redcap_api_token=None)
    taken = Settings("http://x/", listen_port=shared.server.server_port)
    finding = doctor.check_port(taken)
    assert finding.status == "warning"
    assert "a claude-proxy " in finding.message


def test_failures_to_listen_are_explained() -> None:
    assert "special rights" in explain_listening(OSError(errno.EACCES, ""))
    assert "not one of this machine" in explain_listening(OSError(errno.EADDRNOTAVAIL, ""))


def fake_claude(folder: Path, code: str) -> None:
    program = folder / "bin" / "claude"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{code}\n")
    program.chmod(0o755)


def test_claude_codes_version_is_shown(home: Path) -> None:
    environ = {"PATH": str(home / "bin")}
    assert doctor.check_claude(environ, {}).status == "warning"
    fake_claude(home, 'echo "2.1.330 (Claude Code)"')
    finding = doctor.check_claude(environ, {})
    assert (finding.status, finding.message) == ("ok", f"2.1.330 ({home / 'bin' / 'claude'})")
    fake_claude(home, "exit 3")
    assert "did not say its version" in doctor.check_claude(environ, {}).message
    assert "no program" in doctor.check_claude(environ, {"CLAUDE": "/nowhere"}).message


HERE = "http://127.0.0.1:8765"
INTERFERENCE: list[tuple[dict[str, str], ClaudeSettings, str, str, str]] = [
    ({}, ClaudeSettings(), "Claude Code", "ok", "nothing"),
    ({"ANTHROPIC_BASE_URL": f"{HERE}/"}, ClaudeSettings(), "Claude Code", "ok", "nothing"),
    ({"ANTHROPIC_BASE_URL": "http://localhost:8765"}, ClaudeSettings(), "Claude Code", "ok", "nothing"),
    ({"ANTHROPIC_API_KEY": "k"}, ClaudeSettings(), "ANTHROPIC_API_KEY", "warning", "set in the environment"),
    ({"ANTHROPIC_BASE_URL": "https://x"}, ClaudeSettings(), "ANTHROPIC_BASE_URL", "warning", f"is not {HERE}"),
    ({}, ClaudeSettings({"CLAUDE_CODE_USE_BEDROCK": "1"}), "CLAUDE_CODE_USE_BEDROCK", "warning", "settings.json"),
    ({}, ClaudeSettings({"ANTHROPIC_AUTH_TOKEN": "other"}), "Claude Code", "failed", "ANTHROPIC_AUTH_TOKEN"),
    ({"HTTP_PROXY": "http://p:1"}, ClaudeSettings(), "HTTP_PROXY", "warning", "does not name 127.0.0.1"),
    ({"https_proxy": "http://p:1", "NO_PROXY": "a, 127.0.0.1"}, ClaudeSettings(), "Claude Code", "ok", "nothing"),
    ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "*"}, ClaudeSettings(), "Claude Code", "ok", "nothing"),
    ({}, ClaudeSettings(mode="auto"), "Claude Code", "warning", "verdicts"),
]


@pytest.mark.parametrize(("environ", "claude", "check", "status", "words"), INTERFERENCE)
def test_whatever_keeps_claude_code_from_the_proxy_is_found(
    environ: dict[str, str], claude: ClaudeSettings, check: str, status: str, words: str
) -> None:
    (finding,) = doctor.check_interference(REMOTE, TOKEN, environ, claude)
    assert (finding.check, finding.status) == (check, status)
    assert words in finding.message


# --- As text, as JSON -------------------------------------------------------------------------------------------------


def test_findings_are_shown_as_lines_and_as_json() -> None:
    findings = [Finding("Python", "ok", "3.14"), Finding("na\x1b[me", "failed", "a\nb")]
    assert doctor.line(findings[0]) == "ok       Python                    3.14"
    assert doctor.line(findings[1], colour=True).startswith("\x1b[1;31mfailed \x1b[0m  na?[me ")
    assert doctor.line(findings[1]).endswith("  a?b")
    assert doctor.summary(findings) == "2 checks: 1 ok, 1 failed."
    told = json.loads(json.dumps(doctor.as_json(findings)))
    assert told["ok"] is False
    assert told["checks"][0] == {"check": "Python", "status": "ok", "message": "3.14"}


# --- The table of models ----------------------------------------------------------------------------------------------


def test_the_table_is_what_a_request_would_meet() -> None:
    model_map = {"exact": "gpt-5", "claude-opus-*": "my-opus"}
    table = model_table.rows(replace(REMOTE, model_map=model_map), {})
    by_name = {row.name: row for row in table}
    assert len(by_name) == len(table)
    assert by_name["claude-opus-5-5"].choice.alias.name == "my-opus"
    assert by_name["claude-opus-5-5"].choice.rule == "the pattern 'claude-opus-*' of MODEL_MAP"
    assert by_name["claude-opus-*"].choice.alias.name == "my-opus"
    assert by_name["exact"].choice.rule == "an entry of MODEL_MAP"
    assert by_name["*claude*haiku*"].choice.rule == "the built-in rule for names like *claude*haiku*"
    assert by_name["*claude*"].choice.rule == "the built-in rule for names like *claude*"
    assert [row.choice.label for row in model_table.aliases(table) if row.is_needed] == [
        "my-opus",
        "claude",
        "gpt-4o",
        "gpt-5",
    ]
    text = model_table.table_text(table)
    assert text.isascii()
    assert "exact" in text
    named = model_table.rows(REMOTE, {"ANTHROPIC_MODEL": "o1"})
    assert (named[0].name, named[0].is_needed) == ("o1", True)


def test_one_name_is_explained() -> None:
    row = model_table.explain("zork", REMOTE)
    assert row.choice.is_client_text
    assert "it apologizes" in model_table.row_text(row, "zork")
    assert model_table.sent_name("opus", {"ANTHROPIC_DEFAULT_OPUS_MODEL": "x"}) == "x"
    row = model_table.explain("claude-haiku-5-5", REMOTE)
    assert "Claude Code sends claude-haiku-5-5 for haiku.\n" in model_table.row_text(row, "haiku")
