"""What is handed out: a wheel without dependencies, and the single file; both run, wherever Python does."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from email.parser import HeaderParser
from pathlib import Path

import pytest
from conftest import ending

from claude_proxy import __version__

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "claude_proxy"
PATIENCE = 240
PYTHONS = [
    python
    for folder in [Path.home() / ".pyenv" / "versions"]
    if folder.is_dir()
    for python in sorted(folder.glob("3.*/bin/python3"))
    if tuple(map(int, python.parts[-3].split(".")[:2])) >= (3, 11)
] or [Path(sys.executable)]
"""Every Python that is at hand and new enough."""


def packaged() -> set[str]:
    """What belongs to the package."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix not in {".pyc", ".pyo"}
    }


def environment(**more: str) -> dict[str, str]:
    """No settings of whoever runs the tests."""
    return {"PATH": os.environ.get("PATH", os.defpath), "NO_PROXY": "127.0.0.1", **more}


def run(*command: object, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- the wheel --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as zipped:
        names = {name for name in zipped.namelist() if ".dist-info/" not in name}
        about = {name.rpartition(".dist-info/")[2] for name in zipped.namelist() if ".dist-info/" in name}
    assert names == packaged()
    assert about == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    assert {"claude_proxy/shell/observe/status_page.html", "claude_proxy/py.typed"} <= names


def test_the_wheel_needs_nothing(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as zipped:
        (name,) = (name for name in zipped.namelist() if name.endswith("/METADATA"))
        metadata = HeaderParser().parsestr(zipped.read(name).decode())
    assert metadata.get_all("Requires-Dist") is None
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Version"] == __version__
    assert wheel.name.endswith("-py3-none-any.whl")


def test_the_wheel_is_built_reproducibly(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path)
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()


@pytest.mark.parametrize("python", PYTHONS, ids=[python.parts[-3] for python in PYTHONS])
def test_the_wheel_runs_as_a_command(wheel: Path, tmp_path: Path, python: Path) -> None:
    run(python, "-m", "venv", tmp_path / "venv")
    programs = tmp_path / "venv" / "bin"
    run(programs / "python", "-m", "pip", "install", "--no-index", "--quiet", wheel, env=environment())
    assert run(programs / "claude-proxy", "--version", cwd=tmp_path).strip() == f"claude-proxy {__version__}"
    answers(programs / "claude-proxy", "demo", "--port", "0", cwd=tmp_path)


# --- the single file --------------------------------------------------------------------------------------------------


def build(path: Path, **environ: str) -> str:
    run(sys.executable, "scripts/build_zipapp.py", path, env=environment(**environ))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_single_file_is_built_reproducibly(tmp_path: Path) -> None:
    first = build(tmp_path / "a.pyz")
    assert build(tmp_path / "b.pyz", TZ="Asia/Tokyo", PYTHONHASHSEED="7") == first
    dated = build(tmp_path / "c.pyz", SOURCE_DATE_EPOCH="1700000000")
    assert dated != first
    assert build(tmp_path / "d.pyz", SOURCE_DATE_EPOCH="1700000000", TZ="Asia/Tokyo") == dated


def test_the_single_file_holds_the_package(tmp_path: Path) -> None:
    build(tmp_path / "a.pyz")
    with zipfile.ZipFile(tmp_path / "a.pyz") as zipped:
        names = zipped.namelist()
    assert set(names) == packaged() | {"__main__.py", "LICENSE"}
    assert names == sorted(names)


@pytest.mark.parametrize("python", PYTHONS, ids=[python.parts[-3] for python in PYTHONS])
def test_the_single_file_runs(tmp_path: Path, python: Path) -> None:
    build(tmp_path / "claude-proxy.pyz")
    program = tmp_path / "claude-proxy.pyz"
    assert run(python, program, "--version", cwd=tmp_path).strip() == f"claude-proxy {__version__}"
    answers(python, program, "demo", "--port", "0", cwd=tmp_path)


def test_the_single_file_says_what_an_old_python_lacks(tmp_path: Path) -> None:
    old = sorted((Path.home() / ".pyenv" / "versions").glob("3.[6-9].*/bin/python3"))
    if not old:
        pytest.skip("there is no old Python here")
    build(tmp_path / "a.pyz")
    done = subprocess.run([old[0], tmp_path / "a.pyz"], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert "needs Python 3.11 or later" in done.stderr
    assert "Traceback" not in done.stderr


def answers(*command: object, cwd: Path) -> None:
    """The demo that a command starts answers, and shows the status page, which is a file of the package."""
    with demo(command, cwd) as url:
        body = {"model": "claude-sonnet-4", "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}]}
        request = urllib.request.Request(
            f"{url}/v1/messages", json.dumps(body).encode(), {"Authorization": "Bearer " + "DEMO" * 8}
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=PATIENCE) as response:
            assert "scripted stand-in" in json.load(response)["content"][0]["text"]
        page = urllib.request.Request(url, headers={"Accept": "text/html"})
        with direct.open(page, timeout=PATIENCE) as response:
            assert b"<!doctype html>" in response.read()[:100].lower()


@contextlib.contextmanager
def demo(command: Sequence[object], cwd: Path) -> Iterator[str]:
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with ending(process, politely=True):
        assert process.stdout
        found = next(found for line in process.stdout if (found := re.match("export ANTHROPIC_BASE_URL=(.*)", line)))
        yield found[1]


# --- every system -----------------------------------------------------------------------------------------------------

POSIX_ONLY = {"crypt", "fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
POSIX_ATTRIBUTES = {
    "os": {"chown", "fchmod", "fork", "forkpty", "getpgid", "getuid", "geteuid", "killpg", "setsid", "setuid", "uname"},
    "signal": {"SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGTSTP", "SIGUSR1"},
    "socket": {"AF_UNIX", "SO_REUSEPORT"},
    "time": {"tzset"},
}


def posix_only(source: str) -> Iterator[str]:
    """What only POSIX has, where nothing sees to its absence: a `try`, or a branch that asks for the system."""
    tree = ast.parse(source)
    guarded = {id(inside) for node in ast.walk(tree) for part in _guarded(node) for inside in ast.walk(part)}
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        match node:
            case ast.Import(names=names):
                found = [alias.name for alias in names if alias.name in POSIX_ONLY]
            case ast.ImportFrom(module=str(module)) if module in POSIX_ONLY:
                found = [module]
            case ast.Attribute(value=ast.Name(id=module), attr=name) if name in POSIX_ATTRIBUTES.get(module, ()):
                found = [f"{module}.{name}"]
            case _:
                found = []
        yield from (f"line {getattr(node, 'lineno', 0)}: {name}" for name in found)


def _guarded(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of a node that run only where the system has been asked for, or may fail."""
    if isinstance(node, ast.Try) or (isinstance(node, (ast.If, ast.IfExp)) and _asks_for_the_system(node.test)):
        yield node
    body = getattr(node, "body", None)
    statements = body if isinstance(body, list) else []
    for place, statement in enumerate(statements):
        asks = isinstance(statement, ast.If) and _asks_for_the_system(statement.test)
        if asks and isinstance(statement.body[-1], (ast.Return, ast.Raise)):
            yield from statements[place:]


def _asks_for_the_system(test: ast.expr) -> bool:
    return bool(re.search(r"os\.name|sys\.platform|hasattr\(|WINDOWS|windows|is not None", ast.unparse(test)))


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_needs_posix(path: Path) -> None:
    assert list(posix_only(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import fcntl", ["line 1: fcntl"]),
        ("from pwd import getpwnam", ["line 1: pwd"]),
        ("import signal\nsignal.signal(signal.SIGHUP, f)", ["line 2: signal.SIGHUP"]),
        ("try:\n    import resource\nexcept ImportError:\n    resource = None", []),
        ("import signal\nnumber = getattr(signal, 'SIGHUP', None)", []),
        ("import os\nif os.name == 'posix':\n    os.setsid()", []),
        ("import os\ndef f():\n    if os.name == 'nt':\n        return\n    os.setsid()", []),
        ("import os\ndef f():\n    if os.name == 'nt':\n        g()\n    os.setsid()", ["line 5: os.setsid"]),
    ],
)
def test_what_needs_posix_is_found(source: str, found: list[str]) -> None:
    assert list(posix_only(source)) == found


def test_the_versions_that_are_promised() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["dependencies"] == []
    assert project["requires-python"] == ">=3.11"
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (version,) = re.findall(r"FROM python:(3\.\d+)\.\d+-slim", dockerfile)
    assert f"Programming Language :: Python :: {version}" in project["classifiers"]


def test_the_version_is_the_same_everywhere() -> None:
    places = {
        "deploy/kubernetes.yaml": r"image: \S+/claude-proxy:(\S+)",
        "docs/install.md": r"redcap_claude_proxy-([\d.]+)-py3",
        "CONTRIBUTING.md": r"claude-proxy:(\S+) \.|tag -a v(\S+)",
        "CHANGELOG.md": r"\A# Changelog\n\n## ([\d.]+),",
    }
    for path, pattern in places.items():
        found = re.finditer(pattern, (ROOT / path).read_text(encoding="utf-8"))
        assert {match[match.lastindex or 0] for match in found} == {__version__}, path
