"""The files in deploy/ and .github/, held against the programs and schemas they are for, where these are at hand."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import (
    TOKEN,
    Gate,
    Proxy,
    Redcap,
    StartProxy,
    Wire,
    ending,
    eventually,
    find_program,
    is_listening,
    message_request,
    read_events,
)
from test_nginx import AROUND

from claude_proxy.settings.dotenv import read_dotenv
from claude_proxy.settings.sources import HOME_VARIABLE, load
from claude_proxy.settings.table import TABLE, Settings
from claude_proxy.shell.server.handler import USUAL_LIMITS

ROOT = Path(__file__).resolve().parent.parent
REDCAP = "https://redcap.example.edu/api/"
DEPLOY = ROOT / "deploy"
COMPOSE = (ROOT / "docker-compose.yml", DEPLOY / "compose.replicas.yml")
PATIENCE = 240


def run(*command: object, cwd: Path = ROOT, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={"PATH": os.environ.get("PATH", os.defpath), **environ},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


# --- systemd ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, with programs that exist here."""
    text = (DEPLOY / "claude-proxy.service").read_text(encoding="utf-8")
    (tmp_path / "claude-proxy.service").write_text(text, encoding="utf-8")
    return tmp_path / "claude-proxy.service"


def test_systemd_takes_the_unit(unit: Path) -> None:
    done = run(find_program("systemd-analyze"), "verify", unit)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_calls_the_unit_safe(unit: Path) -> None:
    done = run(find_program("systemd-analyze"), "security", "--offline=yes", "--threshold=15", unit)
    assert done.returncode == 0, done.stdout[-300:]


def test_the_grace_of_all_of_them_is_longer_than_the_proxys() -> None:
    unit, kubernetes = (DEPLOY / name for name in ("claude-proxy.service", "kubernetes.yaml"))
    patterns = [(unit, r"TimeoutStopSec=(\d+)"), (kubernetes, r"terminationGracePeriodSeconds: (\d+)")]
    patterns += [(compose, r"stop_grace_period: (\d+)s") for compose in COMPOSE]
    for path, pattern in patterns:
        (seconds,) = re.findall(pattern, path.read_text(encoding="utf-8"))
        before = re.findall(r"time\.sleep\((\d+)\)", path.read_text(encoding="utf-8"))  # what Kubernetes' preStop takes
        needed = Settings(REDCAP).shutdown_grace + USUAL_LIMITS.farewell_seconds + sum(map(int, before))
        assert int(seconds) >= needed, path.name


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("claude-proxy.service", r"MemoryMax=(\d+)G"), ("kubernetes.yaml", r"limits: .*memory: (\d+)Gi")],
)
def test_there_is_memory_for_all_bodies(name: str, pattern: str) -> None:
    (gigabytes,) = re.findall(pattern, (DEPLOY / name).read_text(encoding="utf-8"))
    settings = Settings(REDCAP)
    assert int(gigabytes) * 1024 >= 5 * settings.max_bodies_mb + settings.cache_mb + 100


@pytest.mark.parametrize("name", ["nginx.conf", "nginx-replicas.conf", "Caddyfile", "kubernetes.yaml"])
def test_no_gateway_gives_up_before_the_proxy(name: str) -> None:
    """A turn is waited for, a call made, and the reply's further calls: each may take UPSTREAM_TIMEOUT."""
    patterns = r"(?:proxy_read|response_header)_timeout (\d+)s|(?:proxy-read-timeout|timeout-server): \"?(\d+)"
    found = ["".join(each) for each in re.findall(patterns, (DEPLOY / name).read_text(encoding="utf-8"))]
    assert len(found) == (3 if name == "kubernetes.yaml" else 1)
    assert all(int(seconds) > 3 * Settings(REDCAP).upstream_timeout for seconds in found)


# --- settings ---------------------------------------------------------------------------------------------------------


def test_the_units_settings_are_a_shared_proxys_and_nobodys_own() -> None:
    text = (DEPLOY / "claude-proxy.env").read_text(encoding="utf-8")
    settings = load(read_dotenv(DEPLOY / "claude-proxy.env"), None)
    assert settings.redcap_api_token is None
    names = set(re.findall(r"^#?([A-Z_]+)=", text, re.MULTILINE))
    assert names >= {"REDCAP_API_URL", "CLIENT_HASH_KEY", "ALLOWED_CLIENTS", "REDCAP_CA_BUNDLE"}
    assert names <= {setting.name for setting in TABLE}


def test_the_unit_finds_its_files_in_one_folder() -> None:
    unit = (DEPLOY / "claude-proxy.service").read_text(encoding="utf-8")
    (home,) = re.findall(rf"^Environment={HOME_VARIABLE}=(\S+)", unit, re.MULTILINE)
    (settings,) = re.findall(r"^EnvironmentFile=(\S+)$", unit, re.MULTILINE)
    text = (DEPLOY / "claude-proxy.env").read_text(encoding="utf-8")
    paths = [settings, *re.findall(r"^#?[A-Z_]+=(/\S+)$", text, re.MULTILINE)]
    assert {Path(path).parent.as_posix() for path in paths} == {home}


# --- schemas ----------------------------------------------------------------------------------------------------------


@pytest.mark.e2e
@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_compose_files_are_as_their_schema_says(path: Path) -> None:
    done = run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.e2e
def test_the_manifest_is_as_kubernetes_schemas_say() -> None:
    program = Path(sys.executable).parent / "kubernetes-validate"
    done = run(program, "--strict", DEPLOY / "kubernetes.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


FORGE = ROOT / ".github"
FORGE_FILES = [
    ("vendor.dependabot", "dependabot.yml"),
    ("vendor.github-workflows", "workflows/check.yml"),
    ("custom.github-workflows-require-timeout", "workflows/check.yml"),
    ("vendor.github-issue-forms", "ISSUE_TEMPLATE/bug_report.yml"),
    ("vendor.github-issue-forms", "ISSUE_TEMPLATE/feature_request.yml"),
    ("vendor.github-issue-config", "ISSUE_TEMPLATE/config.yml"),
]


@pytest.mark.e2e
@pytest.mark.parametrize(("schema", "name"), FORGE_FILES, ids=[f"{name}: {schema}" for schema, name in FORGE_FILES])
def test_the_forges_files_are_as_their_schemas_say(schema: str, name: str) -> None:
    done = run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, FORGE / name)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_issue_form_is_checked() -> None:
    forms = {path.relative_to(FORGE).as_posix() for path in (FORGE / "ISSUE_TEMPLATE").iterdir()}
    assert forms == {name for _, name in FORGE_FILES if name.startswith("ISSUE_TEMPLATE/")}


def test_the_forge_runs_what_ci_runs_on_every_python_that_is_claimed() -> None:
    text = (FORGE / "workflows" / "check.yml").read_text(encoding="utf-8")
    (versions,) = re.findall(r"python: \[(.+)\]$", text, re.MULTILINE)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.findall(r"[\d.]+", versions) == re.findall(r"Python :: (3\.\d+)\"", project)
    # Only root can run the containers, and in CI a skip that is not listed has failed.
    assert re.findall(r"- run: (.+)$", text, re.MULTILINE) == ['sudo env "PATH=$PATH" bash .ci/run']
    assert (ROOT / ".ci" / "run").is_file()
    (permissions,) = re.findall(r"^permissions:\n((?: .+\n)+)", text, re.MULTILINE)
    assert permissions.split() == ["contents:", "read"]


# --- images -----------------------------------------------------------------------------------------------------------


def test_the_manifest_names_the_images_own_user() -> None:
    (user,) = re.findall(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    manifest = (DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")
    assert re.findall(r"runAs(?:User|Group): (\d+)", manifest) == list(user)


def test_images_of_others_are_pinned_and_a_bot_renews_them() -> None:
    named = re.findall(r"^FROM (\S+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    for path in COMPOSE:
        named += re.findall(r"^ +image: (\S+:\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(named) == 2
    for image in named:
        assert re.fullmatch(r"\S+:\d+\.\d+\.\d+-\S+", image), image
    text = (FORGE / "dependabot.yml").read_text(encoding="utf-8")
    for pair in ("docker\n    directory: /\n", "docker-compose\n    directory: /deploy\n"):
        assert f"package-ecosystem: {pair}" in text


# --- nginx before replicas --------------------------------------------------------------------------------------------


def test_nginx_reads_its_part_of_the_compose_file(tmp_path: Path) -> None:
    site = (DEPLOY / "nginx-replicas.conf").read_text(encoding="utf-8")
    assert site.count("server claude-proxy:8765") == 1
    site = site.replace("server claude-proxy:8765", "server 127.0.0.1:8765")
    (tmp_path / "nginx.conf").write_text(AROUND.format(site=site), encoding="utf-8")
    done = run(find_program("nginx"), "-t", "-p", f"{tmp_path}/", "-c", "nginx.conf", "-e", "stderr")
    assert done.returncode == 0, done.stderr


# --- Caddy ------------------------------------------------------------------------------------------------------------


def test_caddy_takes_its_file(tmp_path: Path) -> None:
    done = run(
        find_program("caddy"),
        "validate",
        "--adapter",
        "caddyfile",
        "--config",
        DEPLOY / "Caddyfile",
        HOME=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr


@contextmanager
def caddy_before(proxy: Proxy, folder: Path) -> Iterator[int]:
    """A running Caddy, without TLS; its port."""
    program = find_program("caddy")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    site = (DEPLOY / "Caddyfile").read_text(encoding="utf-8")
    for shipped, here in {
        "claude-proxy.example.edu {": f"http://:{port} {{",
        "127.0.0.1:8765 {": f"127.0.0.1:{proxy.server.server_port} {{",
    }.items():
        assert site.count(shipped) == 1
        site = site.replace(shipped, here)
    (folder / "Caddyfile").write_text("{\n\tadmin off\n}\n" + site, encoding="utf-8")
    command = [str(program), "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]
    environ = {"PATH": os.defpath, "HOME": str(folder)}
    with (
        (folder / "log").open("wb") as log,
        ending(subprocess.Popen(command, env=environ, stderr=log, stdout=log), politely=True) as process,
    ):
        eventually(lambda: process.poll() is not None or is_listening(port))
        assert process.poll() is None, (folder / "log").read_text()
        yield port


def test_caddy_holds_no_event_back(redcap: Redcap, start_proxy: StartProxy, tmp_path: Path) -> None:
    find_program("caddy")
    gate = Gate("Much better.")
    redcap.queue(gate)
    proxy = start_proxy(stream_delay=0.0, ping_interval=0.1)
    with caddy_before(proxy, tmp_path) as port, Wire(port) as wire:
        wire.ask("POST", "/v1/messages", message_request({"stream": True}), {"x-api-key": TOKEN})
        assert wire.read_head().status == 200
        assert gate.reached.wait(PATIENCE)
        (first,) = read_events(wire.read_chunk())
        assert first["type"] == "message_start"
        gate.open()
        assert read_events(b"".join(iter(wire.read_chunk, b"")))[-1]["type"] == "message_stop"


def test_caddys_visitors_are_no_users_of_this_machine(proxy: Proxy, tmp_path: Path) -> None:
    with caddy_before(proxy, tmp_path) as port:
        for path, status in {"/": 401, "/metrics": 404, "/status/events": 404}.items():
            with Wire(port) as wire:
                wire.ask("GET", path, headers={"accept": "text/html"})
                assert wire.read_response().status == status, path
