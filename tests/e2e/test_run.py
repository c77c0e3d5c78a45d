"""The real Claude Code as people start it: `claude-proxy run`, and with the settings that `claude-proxy env` writes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from claude_code import claude_binary
from conftest import NOTHING, PATIENCE, TOKEN, Gate, Proxy, Redcap, StartProxy, ending

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, str(ROOT / "claude_api_proxy.py"))
CLAUDES_PATIENCE = 4 * PATIENCE


class Person:
    """Somebody at a terminal, with a home and a working folder of their own."""

    def __init__(self, folder: Path, redcap_url: str) -> None:
        self.home, self.work = folder / "home", folder / "work"
        self.home.mkdir()
        self.work.mkdir()
        self.environ = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "CLAUDE": str(claude_binary()),
            "REDCAP_API_URL": redcap_url,
            "REDCAP_API_TOKEN": TOKEN,
            "LISTEN_PORT": "0",
            "CLAUDE_PROXY_HOME": str(self.home),
        }

    def types(
        self, command: Sequence[str], env: Mapping[str, str] = NOTHING, *, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.work,
            env={**self.environ, **env},
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            timeout=CLAUDES_PATIENCE,
            check=False,
        )


@pytest.fixture
def person(tmp_path: Path, redcap: Redcap) -> Person:
    return Person(tmp_path, redcap.url)


def test_run_answers_and_leaves_nothing_behind(redcap: Redcap, person: Person) -> None:
    redcap.queue("Forty-two.")
    env = {"ANTHROPIC_API_KEY": "sk-another", "HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    env |= {"NO_PROXY": "a.example.edu,127.0.0.1"}  # ours for REDCap, here on this machine
    done = person.types([*COMMAND, "run", "--log", "log", "-p", "What is six times seven?"], env)
    assert (done.returncode, done.stdout) == (0, "Forty-two.\n"), done.stderr
    assert done.stderr == "claude-proxy: claude-opus-5-5 → claude via 127.0.0.1\n"
    assert "What is six times seven?" in str(redcap.asked[0])
    lines = (person.work / "log").read_text().splitlines()
    assert ['route="POST /v1/messages" status=200 alias=claude' in line for line in lines] == [True]


def test_run_tells_claude_the_model(redcap: Redcap, person: Person) -> None:
    redcap.queue("Yes.")
    done = person.types([*COMMAND, "run", "--model", "gpt-4.1", "-p"], stdin="Do you hear me?")
    assert (done.returncode, done.stdout) == (0, "Yes.\n"), done.stderr
    assert "gpt-4.1 → gpt-4.1 via 127.0.0.1" in done.stderr
    assert redcap.asked[0].alias == "gpt-4.1"


def test_run_fails_as_claude_does(redcap: Redcap, person: Person) -> None:
    done = person.types([*COMMAND, "run", "--no-such-option"])
    assert done.returncode == 1
    assert "unknown option" in done.stderr
    assert person.types([*COMMAND, "run", "--version"]).stdout.endswith("(Claude Code)\n")


def test_a_request_to_end_ends_both(redcap: Redcap, person: Person) -> None:
    gate = Gate("Too late.")
    redcap.queue(gate)
    command = [*COMMAND, "run", "-p", "Wait."]
    with ending(subprocess.Popen(command, cwd=person.work, env=person.environ, stdin=subprocess.DEVNULL)) as process:
        assert gate.reached.wait(CLAUDES_PATIENCE)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 128 + signal.SIGTERM
    gate.open()


def test_the_environment_for_eval_works(redcap: Redcap, person: Person, start_proxy: StartProxy) -> None:
    proxy = start_proxy()
    redcap.queue("By eval.")
    script = f'eval "$({" ".join(COMMAND)} env --shell bash)" && exec "$CLAUDE" -p "Hello?"'
    done = person.types(["bash", "-c", script], {"LISTEN_PORT": str(proxy.server.server_port)})
    assert (done.returncode, done.stdout) == (0, "By eval.\n"), done.stderr
    assert_it_was_asked(proxy)


def test_the_settings_file_works_and_outranks_the_environment(
    redcap: Redcap, person: Person, start_proxy: StartProxy
) -> None:
    proxy = start_proxy()
    redcap.queue("By settings.")
    written = person.types([*COMMAND, "env", "--settings"], {"LISTEN_PORT": str(proxy.server.server_port)})
    assert written.returncode == 0, written.stderr
    others = {"ANTHROPIC_API_KEY": "sk-another", "ANTHROPIC_BASE_URL": "http://127.0.0.1:9", "NO_PROXY": ""}
    done = person.types([person.environ["CLAUDE"], "-p", "Hello?"], {**others, "HTTP_PROXY": "http://127.0.0.1:9"})
    assert (done.returncode, done.stdout) == (0, "By settings.\n"), done.stderr
    assert_it_was_asked(proxy)


def test_run_beside_settings_that_lead_elsewhere(redcap: Redcap, person: Person) -> None:
    """As `env --settings` leaves them: at an address where nothing listens now."""
    written = person.types([*COMMAND, "env", "--settings"], {"LISTEN_PORT": "9"})
    assert written.returncode == 0, written.stderr
    settings = person.home / ".claude" / "settings.json"
    assert json.loads(settings.read_text())["env"]["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:9"
    redcap.queue("All the same.")
    done = person.types([*COMMAND, "run", "-p", "Hello?"])
    assert (done.returncode, done.stdout) == (0, "All the same.\n"), done.stderr


def assert_it_was_asked(proxy: Proxy) -> None:
    line = proxy.journal_line('route="POST /v1/messages"')
    assert re.search("status=200 alias=claude", line)
