"""The image and the two compose files, built and run for real: read-only, without rights, behind nginx, stopped.

Podman runs them (scripts/container_engine.py), in a network of its own in which the pretend REDCap listens, too. What
the registries have is not at hand there: a small Debian stands for the images that the files name.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme
from conftest import COLLEAGUES_TOKEN, PATIENCE, TOKEN, Gate, Redcap, Wire, eventually, message_request, read_events

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]  # the first has Debian's packages fetched

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ("Dockerfile", ".dockerignore", "docker-compose.yml", "deploy", "claude_api_proxy.py", "claude_proxy")
COMPOSE, REPLICAS = "docker-compose.yml", "deploy/compose.replicas.yml"
PORT = 8765
RUN = ("--no-healthcheck", "--read-only-tmpfs=false")
"""What Docker does otherwise: it needs no systemd for health checks, which the tests do by hand, and gives no /tmp."""

# What the unprivileged image of nginx has, but for its own pages.
NGINX = """\
FROM {base}
RUN printf '%s\\n' 'pid /tmp/nginx.pid; events {{}} http {{ access_log off; error_log stderr;' \\
    'client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u;' \\
    'scgi_temp_path /tmp/s; include /etc/nginx/conf.d/*.conf; }}' > /etc/nginx/nginx.conf
USER 101
CMD ["nginx", "-e", "stderr", "-g", "daemon off;"]
"""

# What a process that has been taken all rights finds out about itself.
LOOK_AROUND = """
import errno, json, os
found = {"uid": os.getuid(), "gid": os.getgid()}
for line in open("/proc/1/status"):
    name, _, text = line.partition(":")
    if name in ("CapEff", "CapPrm", "CapBnd", "NoNewPrivs", "Uid"):
        found[name] = text.split()
found["written"] = []
for folder in ("/", "/app", "/app/claude_proxy", "/tmp", "/var/tmp", "/etc"):
    try:
        open(folder + "/x", "w")
    except OSError as error:
        assert error.errno in (errno.EROFS, errno.EACCES), error
    else:
        found["written"].append(folder)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("container_engine", ROOT / "scripts" / "container_engine.py")
    assert spec
    assert spec.loader
    script: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    try:
        made = script.Engine()
    except script.Missing as reason:
        pytest.skip(f"containers cannot be run here: {reason}")
    with made:
        yield made


@pytest.fixture
def redcap(redcap: Redcap, engine: Any) -> Redcap:
    """The pretend REDCap, where containers reach it."""
    redcap.close()
    redcap.host = "198.51.100.1"
    engine.inside(redcap.start)
    return redcap


class Project:
    """A checkout, and `podman-compose` in it."""

    def __init__(self, engine: Any, folder: Path) -> None:
        self.engine = engine
        self.folder = folder

    def compose(self, file: str, *arguments: str) -> str:
        words = [sys.executable, "-m", "podman_compose", "--podman-path", self.engine.podman]
        words += [f"--podman-run-args={' '.join(RUN)}", "--podman-build-args=--pull-never"]
        done: str = self.engine.run("-f", self.folder / file, *arguments, program=words)
        return done

    @contextmanager
    def up(self, file: str, *arguments: str, env: Mapping[str, str]) -> Iterator[None]:
        """Have it run as its file says, with these lines in `.env` and those that anybody may have there."""
        lines = {"LISTEN_HOST": "localhost", "LISTEN_PORT": "9000", **env}
        (self.folder / ".env").write_text("".join(f"{name}={text}\n" for name, text in lines.items()))
        try:
            self.compose(file, "up", "--no-build", "-d", *arguments)
            yield
        finally:
            self.compose(file, "down", "--timeout", "1")

    def containers(self, service: str) -> list[str]:
        label = f"label=com.docker.compose.service={service}"
        names: list[str] = self.engine.run("ps", "--all", "--filter", label, "--format", "{{.Names}}").split()
        return names

    def log(self, container: str) -> str:
        command = [str(self.engine.podman), "logs", container]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
        return done.stdout + done.stderr

    @property
    def health_check(self) -> list[str]:
        """The command of the image's own health check."""
        (image,) = json.loads(self.engine.run("image", "inspect", "claude-proxy"))
        kind, *command = image["Healthcheck"]["Test"]
        assert kind == "CMD"
        return list(command)

    def is_healthy(self, container: str, *options: str) -> bool:
        try:
            self.engine.run("exec", *options, container, *self.health_check)
        except subprocess.CalledProcessError as error:
            if error.returncode != 1:  # it was not the check that failed
                raise
            return False
        return True

    def wire(self) -> Wire:
        """A connection to the port that is published on this machine."""
        made: Wire = self.engine.inside(lambda: Wire(PORT))
        return made

    def ask(self, body: bytes, token: str = TOKEN) -> Any:
        with self.wire() as wire:
            wire.ask("POST", "/v1/messages", body, {"x-api-key": token})
            return wire.read_response()

    def wait_until_it_answers(self) -> None:
        eventually(self._answers)

    def _answers(self) -> bool:
        try:
            with self.wire() as wire:
                wire.ask("GET", "/health")
                return wire.read_response().status == 200
        except (OSError, AssertionError):  # nginx without a proxy behind it says 502; a port without anybody, nothing
            return False


@pytest.fixture(scope="module")
def project(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A checkout with the image built, by `docker-compose.yml`."""
    folder = tmp_path_factory.mktemp("claude-proxy")
    for name in SHIPPED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    engine.import_base(base_of(folder))
    (folder / ".env").touch()
    made = Project(engine, folder)
    made.compose(COMPOSE, "build")
    return made


def base_of(folder: Path) -> str:
    (name,) = re.findall(r"^FROM (\S+)$", (folder / "Dockerfile").read_text(), re.MULTILINE)
    return str(name)


def one_of(names: list[str]) -> str:
    (name,) = names
    return name


# --- one --------------------------------------------------------------------------------------------------------------


def test_the_container_answers_and_can_do_nothing_else(redcap: Redcap, project: Project) -> None:
    redcap.queue("Much better.")
    with project.up(COMPOSE, env={"REDCAP_API_URL": redcap.url}):
        project.wait_until_it_answers()
        assert project.ask(message_request()).message["content"][0]["text"] == "Much better."
        container = one_of(project.containers("claude-proxy"))
        found = json.loads(project.engine.run("exec", container, "python", "-S", "-c", LOOK_AROUND))
        log = project.log(container)
    assert found == {
        "uid": 10001,
        "gid": 10001,
        "Uid": ["10001"] * 4,
        "CapPrm": ["0" * 16],
        "CapEff": ["0" * 16],
        "CapBnd": ["0" * 16],
        "NoNewPrivs": ["1"],
        "written": [],
    }
    assert "LISTEN_HOST=0.0.0.0 is an address of this container: where its port is published decides" in log
    assert log.count("LISTEN_HOST") == 1, log


def test_the_images_own_health_check_tells_life_from_death(redcap: Redcap, project: Project) -> None:
    with project.up(COMPOSE, env={"REDCAP_API_URL": redcap.url}):
        project.wait_until_it_answers()
        container = one_of(project.containers("claude-proxy"))
        assert project.is_healthy(container)
        assert not project.is_healthy(container, "--env", "LISTEN_PORT=8766"), "nobody listens there"


def test_files_in_the_mounted_folder_are_read(redcap: Redcap, project: Project) -> None:
    """The folder beside the compose file, and the settings that docs/deployment.md names for what is in it."""
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("198.51.100.1").configure_cert(tls)
    assert redcap._server
    redcap._server.socket = tls.wrap_socket(redcap._server.socket, server_side=True)
    config = project.folder / "config"
    config.mkdir(exist_ok=True)  # by an earlier start
    (config / "claude-proxy.toml").write_text('[models]\nmine = "o1"\n')
    authority.cert_pem.write_to_path(str(config / "ca.pem"))
    (config / "clients.txt").write_text(hashlib.sha256(TOKEN.encode()).hexdigest() + "\n")
    docs = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    env = dict(re.findall(r"^([A-Z_]+)=(/config/\S+)$", docs, re.MULTILINE))
    named = {Path(path).name for path in env.values()}
    assert named | {"claude-proxy.toml"} == {path.name for path in config.iterdir()}
    redcap.queue("Yes.")
    with project.up(COMPOSE, env={"REDCAP_API_URL": redcap.url.replace("http:", "https:"), **env}):
        project.wait_until_it_answers()
        assert project.ask(message_request({"model": "mine"})).message["content"][0]["text"] == "Yes."
        assert project.ask(message_request(), COLLEAGUES_TOKEN).status == 401
    assert [request.fields["model"] for request in redcap.requests] == ["o1"]


def test_env_of_a_checkout_needs_two_more_words_without_compose(redcap: Redcap, project: Project) -> None:
    """The command of docs/deployment.md; and what the container says without these words."""
    docs = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8").replace("\\\n", "")
    (command,) = re.findall(r"^docker run (.*) claude-proxy$", docs, re.MULTILINE)
    words = [word.replace("--env-file=.env", f"--env-file={project.folder}/.env") for word in command.split()]
    (project.folder / ".env").write_text(f"REDCAP_API_URL={redcap.url}\nLISTEN_HOST=localhost\nLISTEN_PORT=9000\n")
    redcap.queue("Yes.")
    container = ""
    try:
        container = project.engine.run("run", "--detach", *RUN, *words, "claude-proxy").strip()
        project.wait_until_it_answers()
        assert project.ask(message_request()).message["content"][0]["text"] == "Yes."
        assert project.engine.run("stop", container)
        without = [word for word in words if not word.startswith("--env=")]
        container = project.engine.run("run", "--detach", *RUN, *without, "claude-proxy").strip()
        eventually(lambda: "no published port leads there: set LISTEN_HOST=0.0.0.0" in project.log(container))
    finally:
        project.engine.run("rm", "--force", "--time", "0", container)


# --- a stop -----------------------------------------------------------------------------------------------------------

STREAMS = 20


@contextmanager
def streams(redcap: Redcap, project: Project) -> Iterator[tuple[list[Wire], list[Gate]]]:
    """Streams that have begun, and whose model thinks."""
    gates = [Gate("Much better.") for _ in range(STREAMS)]
    redcap.queue(*gates)
    with ExitStack() as stack:
        wires = [stack.enter_context(project.wire()) for _ in gates]
        for wire in wires:
            wire.ask("POST", "/v1/messages", message_request({"stream": True}), {"x-api-key": TOKEN})
        for wire in wires:
            assert wire.read_head().status == 200
        assert all(gate.reached.wait(PATIENCE) for gate in gates)
        yield wires, gates
        for gate in gates:
            gate.open()


@contextmanager
def stopping(project: Project, container: str) -> Iterator[None]:
    """Stop it while something else is done, as the file says: and it must end by itself."""
    thread = threading.Thread(target=project.compose, args=(COMPOSE, "stop"))
    thread.start()
    eventually(lambda: "stopping; a second signal ends at once" in project.log(container))
    yield
    thread.join(PATIENCE)
    (state,) = json.loads(project.engine.run("inspect", container))
    assert (state["State"]["Status"], state["State"]["ExitCode"]) == ("exited", 0), "137 would be a kill"


def rest_of(wire: Wire) -> list[dict[str, Any]]:
    return read_events(b"".join(iter(wire.read_chunk, b"")))


def test_a_stop_under_load_lets_streams_end(redcap: Redcap, project: Project) -> None:
    with project.up(COMPOSE, env={"REDCAP_API_URL": redcap.url, "STREAM_DELAY": "0"}):
        project.wait_until_it_answers()
        container = one_of(project.containers("claude-proxy"))
        with streams(redcap, project) as (wires, gates), stopping(project, container):
            for gate in gates:
                gate.open()
            for wire in wires:
                events = rest_of(wire)
                text = "".join(event["delta"].get("text", "") for event in events if "delta" in event)
                assert (text, events[-1]["type"]) == ("Much better.", "message_stop")


def test_a_stop_under_load_tells_those_whom_it_cannot_wait_for(redcap: Redcap, project: Project) -> None:
    env = {"REDCAP_API_URL": redcap.url, "STREAM_DELAY": "0", "SHUTDOWN_GRACE": "1"}
    with project.up(COMPOSE, env=env):
        project.wait_until_it_answers()
        container = one_of(project.containers("claude-proxy"))
        with streams(redcap, project) as (wires, _), stopping(project, container):
            for wire in wires:
                last = rest_of(wire)[-1]
                assert (last["type"], last["error"]["type"]) == ("error", "overloaded_error")


def answered_two(project: Project, container: str) -> bool:
    return project.log(container).count('route="POST /v1/messages" status=200') == 2


# --- replicas ---------------------------------------------------------------------------------------------------------


def test_replicas_behind_nginx_share_the_work(redcap: Redcap, project: Project) -> None:
    (image,) = re.findall(r"image: (nginx\S+)", (project.folder / REPLICAS).read_text())
    build = project.folder / "nginx"
    build.mkdir()
    (build / "Dockerfile").write_text(NGINX.format(base=base_of(project.folder)))
    project.engine.run("build", "--pull-never", "--tag", f"docker.io/{image}", build)
    gates = [Gate("Yes.") for _ in range(6)]
    redcap.queue(*gates)
    with project.up(REPLICAS, "--scale", "claude-proxy=3", env={"REDCAP_API_URL": redcap.url, "STREAM_DELAY": "0"}):
        replicas = project.containers("claude-proxy")
        assert len(replicas) == 3
        for replica in replicas:
            eventually(partial(project.is_healthy, replica))
        # This Podman is too old to have had nginx wait for that. It looks the replicas up when it starts.
        project.compose(REPLICAS, "restart", "nginx")
        project.wait_until_it_answers()
        with ExitStack() as stack:
            wires = [stack.enter_context(project.wire()) for _ in gates]
            for wire in wires:
                wire.ask("POST", "/v1/messages", message_request({"stream": True}), {"x-api-key": TOKEN})
                assert wire.read_head().status == 200
                assert read_events(wire.read_chunk())[0]["type"] == "message_start", "before the model has answered"
            reached = [gate.reached.wait(PATIENCE) for gate in gates]
            assert all(reached), "\n".join(map(project.log, replicas))
            for gate, wire in zip(gates, wires, strict=True):
                gate.open()
                assert rest_of(wire)[-1]["type"] == "message_stop"
        for replica in replicas:  # a request is logged when its client has its answer already
            eventually(partial(answered_two, project, replica))
        for path in ("/metrics", "/status/events"):
            with project.wire() as wire:
                wire.ask("GET", path)
                assert wire.read_response().status == 404
