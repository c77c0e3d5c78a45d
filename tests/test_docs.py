"""The docs are true: their links lead somewhere, their commands run, what one is said to see can be seen.

Every `sh` block of README.md and docs/ is run line by line in one shell, in a folder of its own and before the demo,
but for the lines in `NOT_RUN`, each with the reason. Python and JavaScript blocks are run, too. The tables of
docs/troubleshooting.md quote messages: the failures are provoked, and must quote the same.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from claude_code import claude_binary, run_claude
from conftest import TOKEN, Proxy, Redcap, StartProxy
from test_architecture import PACKAGES
from typescript_sdk import FOLDER, node_with_sdk

from claude_proxy.core.aliases.mapping import DEFAULT_ALIASES
from claude_proxy.demo.pages import CannedResponse
from claude_proxy.demo.scripted_model import scripted_model
from claude_proxy.settings.table import TABLE

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING", "SECURITY")),
    *sorted((ROOT / "docs").glob("*.md")),
]
PATIENCE = 240


def name_of(value: Any) -> str | None:
    return value.relative_to(ROOT).as_posix() if isinstance(value, Path) else None


def load_script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / "scripts" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    assert list(load_script("docs").broken_links(page)) == []


def test_every_page_is_in_the_site() -> None:
    listed = re.findall(r"^ +- .*: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(load_script("docs").sources().values())


@pytest.mark.slow
def test_the_site_is_built_strictly() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/docs.py"], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --- promises ---------------------------------------------------------------------------------------------------------

RELIABILITY = ROOT / "docs" / "reliability.md"


def promises() -> list[tuple[str, list[str], str]]:
    """The rows of docs/reliability.md: the promise, the tests that hold it, what was measured."""
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", RELIABILITY.read_text(encoding="utf-8"), re.MULTILINE)
    return [
        (promise, re.findall(r"`([\w/]+\.py::\w+)`", tests), measured)
        for promise, tests, measured in rows
        if promise not in {"promise", "---"}
    ]


def functions(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.slow
def test_every_promise_is_held_by_tests_that_exist() -> None:
    lost = [
        test
        for _, tests, _ in promises()
        for test in tests
        for path, _, name in [test.partition("::")]
        if name not in functions(ROOT / "tests" / path)
    ]
    assert lost == []
    assert [promise for promise, tests, measured in promises() if not tests and measured == "—"] == []
    assert len(promises()) > 60


@pytest.mark.e2e
def test_every_row_has_its_cases() -> None:
    counted = {
        promise: (tests, int(found[1]))
        for promise, tests, measured in promises()
        if (found := re.match(r"(\d+) cases", measured))
    }
    names = sorted({f"tests/{test}" for tests, _ in counted.values() for test in tests})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-n", "0", *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    there = [line.partition("[")[0].removeprefix("tests/") for line in done.stdout.splitlines()]
    assert counted
    for promise, (tests, said) in counted.items():
        assert sum(there.count(test) for test in tests) >= said, promise


# --- blocks -----------------------------------------------------------------------------------------------------------


def blocks(language: str) -> list[tuple[Path, int, str]]:
    """The fenced blocks of a language: page, line, text."""
    return [
        (page, text.count("\n", 0, match.start()) + 1, match[1])
        for page in PAGES
        for text in [page.read_text(encoding="utf-8")]
        for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    ]


def block_name(value: Any) -> str:
    return value.name if isinstance(value, Path) else str(value) if isinstance(value, int) else "-"


_SESSION = "opens a session in a terminal; tests/e2e/test_run.py runs it"
_ROOT_NEEDED = "changes the system, and needs root"
NOT_RUN: Mapping[str, str] = {
    "python3 claude_api_proxy.py init": "asks at a terminal; see test_cli.py, and the one with --url below",
    "python3 claude_api_proxy.py run": _SESSION,
    "claude --permission-mode default": _SESSION,
    "claude-proxy run": _SESSION,
    "claude-proxy exam --yes": "keeps to thirty asks a minute; see test_cli.py",
    "claude-proxy exam gpt-4.1 --yes --json": "likewise",
    "claude-proxy run --model gpt-4.1": _SESSION,
    "claude-proxy run --log proxy.log -- --continue": _SESSION,
    "docker compose logs -f": "needs Docker",
    **dict.fromkeys(
        (
            "docker compose up -d",
            "docker compose up -d --build",
            "docker compose -f deploy/compose.replicas.yml up -d --scale claude-proxy=3",
            "docker build -t claude-proxy .",
            "docker run --env-file=.env --env=LISTEN_HOST=0.0.0.0 --env=LISTEN_PORT=8765 "
            "--publish=127.0.0.1:8765:8765 --read-only --cap-drop=ALL --security-opt=no-new-privileges "
            "--stop-timeout=40 claude-proxy",
        ),
        "needs Docker; test_container.py does the same with Podman",
    ),
    **dict.fromkeys(
        (
            "kubectl create secret generic claude-proxy --from-env-file=secret.env",
            "kubectl create configmap claude-proxy-files --from-file=config/",
            "kubectl apply -f deploy/kubernetes.yaml",
            "kubectl port-forward deployment/claude-proxy 8765",
            "kubectl rollout status deployment/claude-proxy",
            "kubectl rollout undo deployment/claude-proxy",
        ),
        "needs a cluster",
    ),
    "ssh -N -L 8765:localhost:8765 claude-proxy.example.edu": "needs a server",
    "git pull": "needs the history",
    "python3 scripts/check.py": "runs these tests",
    "python3 scripts/check.py --fast": "runs some of these tests",
    "docker build -t claude-proxy:0.1.0 .": "needs Docker",
    "export SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)": "needs the history",
    "git tag -a v0.1.0 -m 'claude-proxy 0.1.0'": "needs the history",
    "python3 -m pip wheel --no-deps --wheel-dir dist .": "fetches the builder; see test_distribution.py",
    "python3 -m pip install dist/redcap_claude_proxy-*.whl": "installs here; see test_distribution.py",
    "pipx install dist/redcap_claude_proxy-*.whl": "needs pipx",
    "uvx --from dist/redcap_claude_proxy-0.1.0-py3-none-any.whl claude-proxy --version": "needs uv",
    "llm -m claude-sonnet-4.5 'Hello'": "needs llm and llm-anthropic, which the tests do not install",
    **dict.fromkeys(
        (
            "install -d /opt/claude-proxy",
            "install -m 755 dist/claude-proxy.pyz /opt/claude-proxy/",
            "install -d -m 755 /etc/claude-proxy",
            "install -m 600 deploy/claude-proxy.env /etc/claude-proxy/env",
            "nano /etc/claude-proxy/env",
            "cp /opt/claude-proxy/claude-proxy.pyz /opt/claude-proxy/before.pyz",
            "systemctl restart claude-proxy",
            "install -m 644 deploy/claude-proxy.service /etc/systemd/system/",
            "systemctl daemon-reload",
            "systemctl enable --now claude-proxy",
            "journalctl -u claude-proxy -f",
        ),
        _ROOT_NEEDED,
    ),
}
"""The lines that are not run, and why."""

MEASURES = re.compile(r"python3? -m pip install --group bench|python3? bench/|python3? -m bench")
"""The measurements take minutes, and some of them fetch what they measure."""

UNTIL_STOPPED = {
    "python3 claude_api_proxy.py demo",
    "claude-proxy serve",
    "claude-proxy serve --port 9000",
}
"""Lines that run until they are stopped: here after two seconds, unless they have ended by themselves."""


def lines_of(block: str) -> list[str]:
    """The commands of a block, one a line, without comments."""
    joined = re.sub(r"\\\n\s*", "", block)
    return [line for each in joined.splitlines() if (line := re.sub(r"(^|\s+)#.*$", "", each).strip())]


@pytest.fixture
def playground(redcap: Redcap, start_proxy: StartProxy, tmp_path: Path) -> dict[str, str]:
    """A folder with the checkout in it, commands to find, and a proxy that answers as the demo does."""
    for name in ("claude_proxy", "claude_api_proxy.py", "scripts", "deploy", ".env.example", "LICENSE"):
        source, target = ROOT / name, tmp_path / name
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    programs, home = tmp_path / "bin", tmp_path / "home"
    programs.mkdir()
    home.mkdir()
    (programs / "claude").symlink_to(claude_binary())
    (programs / "python3").symlink_to(sys.executable)
    command = programs / "claude-proxy"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path}/claude_api_proxy.py "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    (tmp_path / "file-with-the-token").write_text(TOKEN, encoding="utf-8")
    redcap.let_answer(scripted_model)
    proxy = start_proxy()
    return {
        "HOME": str(home),
        "PATH": f"{programs}:{os.environ.get('PATH', os.defpath)}",
        "LANG": "C.UTF-8",
        "NO_PROXY": "127.0.0.1,localhost",
        "REDCAP_API_URL": redcap.url,
        "REDCAP_API_TOKEN": TOKEN,
        "LISTEN_PORT": str(proxy.server.server_port),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }


def put_in(text: str, environ: Mapping[str, str]) -> str:
    """The addresses and the token of the test in the place of those of the docs."""
    return (
        text.replace("http://localhost:8765", f"http://127.0.0.1:{environ['LISTEN_PORT']}")
        .replace("your-redcap-token", TOKEN)
        .replace("https://redcap.example.edu/api/", environ["REDCAP_API_URL"])
    )


@pytest.mark.e2e
@pytest.mark.parametrize(("page", "line", "block"), blocks("sh"), ids=block_name)
def test_a_block_for_the_shell_runs(
    page: Path, line: int, block: str, playground: dict[str, str], tmp_path: Path
) -> None:
    earlier = [command for its, at, other in blocks("sh") if its == page and at < line for command in lines_of(other)]
    script = [put_in(command, playground) for command in earlier if command.startswith("export ")]
    for command in lines_of(block):
        if command in NOT_RUN or MEASURES.match(command):
            continue
        if command in UNTIL_STOPPED:
            # On a port of its own, for the test's proxy has the other.
            script.append(f"code=0; LISTEN_PORT=0 timeout 2 {command} || code=$?; test $code = 124 -o $code = 0")
        else:
            script.append(put_in(command, playground))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(script)],
        cwd=tmp_path,
        env=playground,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    doctor = "claude-proxy doctor" in block  # which finds fault with a demo's REDCap
    assert done.returncode == 0 or (doctor and done.returncode == 1), f"{script}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr


def test_each_exception_is_still_there() -> None:
    written = {command for *_, block in blocks("sh") for command in lines_of(block)}
    assert NOT_RUN.keys() - written == set()
    assert UNTIL_STOPPED - written == set()


def test_other_blocks_are_no_commands() -> None:
    languages = {
        language
        for page in PAGES
        for language in re.findall(r"^```(.*)\n(?:.*\n)*?```", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert languages <= {"sh", "python", "js", "json", "yaml", "toml", "text", ""}


def own_environment(playground: Mapping[str, str]) -> dict[str, str]:
    kept = {name: text for name, text in playground.items() if not name.startswith(("REDCAP", "LISTEN"))}
    url = f"http://127.0.0.1:{playground['LISTEN_PORT']}"
    return kept | {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_AUTH_TOKEN": TOKEN, "ANTHROPIC_API_KEY": TOKEN}


def run_as_reader(command: list[str], playground: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with nothing but what the reader of the docs has set."""
    env = own_environment(playground)
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.e2e
@pytest.mark.parametrize(("page", "line", "block"), blocks("python"), ids=block_name)
def test_a_block_of_python_runs(page: Path, line: int, block: str, playground: dict[str, str], tmp_path: Path) -> None:
    done = run_as_reader([sys.executable, "-c", block], playground, tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search("scripted stand-in|Done, in one step", done.stdout), done.stdout


@pytest.mark.e2e
@pytest.mark.parametrize(("page", "line", "block"), blocks("js"), ids=block_name)
def test_a_block_of_javascript_runs(
    page: Path, line: int, block: str, playground: dict[str, str], tmp_path: Path
) -> None:
    node = node_with_sdk()
    (tmp_path / "node_modules").symlink_to(FOLDER / "node_modules")
    (tmp_path / "example.mjs").write_text(block, encoding="utf-8")
    done = run_as_reader([str(node), "example.mjs"], playground, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "scripted stand-in" in done.stdout


@pytest.mark.e2e
def test_the_commands_that_are_mentioned_exist(playground: dict[str, str], tmp_path: Path) -> None:
    texts = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    mentioned = set(re.findall(r"(?:claude-proxy|claude_api_proxy\.py) ([a-z]+)\b(?=[^`\n]*`)", texts))
    commands = {
        word for word in mentioned if f"`claude-proxy {word}" in texts or f"claude_api_proxy.py {word}" in texts
    }
    assert commands >= {"init", "doctor", "run", "serve", "env", "models", "exam", "demo"}
    for command in sorted(commands):
        done = subprocess.run(
            ["claude-proxy", command, "--help"],
            env=playground,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, command
        assert f"claude-proxy {command}" in done.stdout


@pytest.mark.e2e
def test_the_versions_that_were_tried_are_those_of_the_tests() -> None:
    text = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    for package in ("anthropic", "claude-agent-sdk", "langchain-anthropic"):
        assert re.search(rf"`{package}`[^#]*?{re.escape(version(package))}", text), package
    lock = json.loads((ROOT / "tests" / "e2e" / "typescript" / "package-lock.json").read_text(encoding="utf-8"))
    assert lock["packages"]["node_modules/@anthropic-ai/sdk"]["version"] in text


# --- tables -----------------------------------------------------------------------------------------------------------


def test_the_architecture_names_every_room_in_its_order() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(?:claude_proxy/)?([a-z0-9_/]+?)(?:/|\.py)` \|", text, re.MULTILINE)
    rooms = [name.replace(".", "/") for name in PACKAGES if name not in {"", "__main__"}]
    assert listed == ["claude_api_proxy", *rooms]


def test_the_readme_names_the_built_in_aliases() -> None:
    rows = re.findall(r"^\| (`.*?) \| (.*) \|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    said = {
        name: name if alias == "the same" else alias.strip("`")
        for names, alias in rows
        for name in re.findall(r"`([^`]+)`", names)
        if name in DEFAULT_ALIASES
    }
    assert said == DEFAULT_ALIASES


def test_the_readme_names_defaults_as_they_are() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.*?) \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    table = {setting.name: setting.default for setting in TABLE}
    assert len(rows) > 4
    for name, default in rows:
        said = {"must be set": None, "none": ""}.get(default, default.strip("`"))
        assert table[name] == said


def test_every_setting_that_is_mentioned_exists() -> None:
    known = {setting.name for setting in TABLE} | {"MODEL_MAP", "SOURCE_DATE_EPOCH", "CLAUDE_PROXY_HOME"}
    for page in (ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("deployment", "troubleshooting"))):
        words = set(re.findall(r"`([A-Z][A-Z]+_[A-Z_]+)=?`", page.read_text(encoding="utf-8")))
        foreign = {word for word in words if word.startswith(("ANTHROPIC_", "CLAUDE_CODE_"))}
        assert words - known - foreign == set(), page.name


# --- troubleshooting --------------------------------------------------------------------------------------------------


def quoted() -> set[str]:
    """What the tables quote of messages: the first column of each row, where it is nothing but a quotation."""
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `([^`|]+)` \|", text, re.MULTILINE))


def page(status: int, text: str, **headers: str) -> Any:
    return lambda _: CannedResponse(status, text, "text/html", headers)


NO_SUCH_PORT = "http://127.0.0.1:1/api/"
FAILURES: Mapping[str, dict[str, Any]] = {
    "could not be reached": {"redcap_api_url": NO_SUCH_PORT},
    "cannot be resolved": {"redcap_api_url": "http://redcap.invalid/api/"},
    "does not speak TLS": {"redcap_api_url": "https"},
    "carries no credential": {"headers": {}},
    "The proxy refused the client's token": {"headers": {"x-api-key": "WRONG"}},
    "REDCap refused the token": {"redcap_api_token": None, "headers": {"x-api-key": "F" * 32}},
    "There is nothing at this path": {"path": "/v1/v1/messages"},
    "a redirect": {"intercept": page(302, "", location="https://login.example.edu/")},
    "instead of JSON": {"intercept": page(200, "<html>Log in: <input type=password>")},
    "is offline for a while": {"intercept": page(503, "<html>REDCap is offline: maintenance")},
    "gave up waiting": {"intercept": page(504, "<html>Gateway Timeout")},
    "is no reply of SecureChatAI": {"redcap_module_prefix": "another"},
    "has not answered since this proxy started": {"changes": {"model": "no-such-alias"}},
    "prompt is too long": {"changes": {"messages": [{"role": "user", "content": "word " * 400_000}]}},
}


@pytest.mark.parametrize("words", FAILURES)
def test_a_failure_reads_as_the_docs_say(words: str, redcap: Redcap, start_proxy: StartProxy) -> None:
    how = dict(FAILURES[words])
    redcap.intercept = how.pop("intercept", None)
    headers, changes = how.pop("headers", None), how.pop("changes", {})
    path = how.pop("path", "/v1/messages")
    if how.get("redcap_api_url") == "https":
        how["redcap_api_url"] = redcap.url.replace("http://", "https://")
    proxy = start_proxy(**how)
    _, _, message = proxy.post(changes, path=path, headers=headers).error
    assert words in message
    assert words in quoted()


def test_a_model_that_has_answered_before_is_overloaded(redcap: Redcap, proxy: Proxy) -> None:
    redcap.queue("Yes.")
    proxy.post()
    redcap.queue_failure()
    assert "does not answer at the moment" in proxy.post().error[2]


STARTS: Mapping[str, dict[str, str]] = {
    "REDCAP_API_URL is not set": {"REDCAP_API_URL": ""},
    "cannot be used": {"LISTEN_PORT": "http"},
}


@pytest.mark.e2e
@pytest.mark.parametrize("words", STARTS)
def test_a_start_that_fails_reads_as_the_docs_say(words: str, playground: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        ["claude-proxy", "serve"],
        cwd=tmp_path,
        env=playground | STARTS[words],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert words in quoted()


@pytest.mark.e2e
def test_a_port_that_is_taken_reads_as_the_docs_say(playground: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        ["claude-proxy"], cwd=tmp_path, env=playground, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 1
    assert "cannot listen on" in done.stderr


CLAUDE_CODE: Mapping[str, dict[str, Any]] = {
    "Connection refused": {"base_url": "http://127.0.0.1:1", "env": {"CLAUDE_CODE_MAX_RETRIES": "0"}},
    "There's an issue with the selected model": {"base_url": "/v1"},
    "Please run /login": {"token": ""},
}


@pytest.mark.e2e
@pytest.mark.parametrize("words", CLAUDE_CODE)
def test_claude_code_shows_a_failure_as_the_docs_say(words: str, proxy: Proxy, tmp_path: Path) -> None:
    how = {"base_url": proxy.url, "token": TOKEN, **CLAUDE_CODE[words]}
    if how["base_url"] == "/v1":
        how["base_url"] = f"{proxy.url}/v1"
    assert words in run_claude("Hello", cwd=tmp_path, home=tmp_path, **how).result


ELSEWHERE = {
    "are not read": "test_settings_that_are_not_read_are_told_of",
    "cannot be trusted": "upstream/test_tls.py",
    "cannot listen on": "test_a_port_that_is_taken_reads_as_the_docs_say",
    "does not answer at the moment": "test_a_model_that_has_answered_before_is_overloaded",
    "did not answer within": "upstream/test_faults.py",
    "nothing moved for": "upstream/test_faults.py",
    "needs verdicts that no text-only model can give": "test_launcher.py",
    "the working folder is not searched": "test_no_program_of_the_working_folder_gets_the_token",
}
"""Quotations that are tested in another place."""


def test_every_quotation_is_tested() -> None:
    assert quoted() == FAILURES.keys() | STARTS.keys() | CLAUDE_CODE.keys() | ELSEWHERE.keys()
    strings = " ".join(
        node.value
        for path in (ROOT / "claude_proxy").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    for words in ELSEWHERE:
        assert words in strings, words
