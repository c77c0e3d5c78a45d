"""Anthropic's TypeScript SDK as a client. Its accumulator is stricter than the Python one in some things."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import TOKEN, Proxy, Redcap

from claude_proxy.shell.simulator import ModelReply

pytestmark = pytest.mark.e2e

FOLDER = Path(__file__).parent / "typescript"
READ = (
    "I read it.\n<function_calls>\n"
    '<invoke name="read">\n<parameter name="path">/ä &amp;lt; b.txt</parameter>\n'
    '<parameter name="lines">[1, 20]</parameter>\n</invoke>\n'
    "</function_calls>"
)


@pytest.fixture(scope="module")
def node() -> str:
    """The path of Node.js, with the SDK installed as the lock file says."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        pytest.skip("Node.js with npm is not installed")
    wanted = (FOLDER / "package-lock.json").read_text(encoding="utf-8")
    stamp = FOLDER / "node_modules" / "installed-package-lock.json"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        install = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(install, cwd=FOLDER, capture_output=True, text=True, timeout=110, check=False)
        assert done.returncode == 0, done.stderr
        stamp.write_text(wanted, encoding="utf-8")
    return node


def test_a_stream_with_a_call_and_a_failure(node: str, redcap: Redcap, proxy: Proxy) -> None:
    redcap.queue(ModelReply(READ, 40, 30))
    command = [node, "client.js", proxy.url, TOKEN]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)

    assert "".join(seen["texts"]) == "I read it."
    message = seen["message"]
    assert (message["stop_reason"], message["model"]) == ("tool_use", "claude-sonnet-4")
    assert (message["usage"]["input_tokens"], message["usage"]["output_tokens"]) == (40, 30)
    text, call = message["content"]
    assert (text["type"], text["text"]) == ("text", "I read it.")
    assert (call["type"], call["name"]) == ("tool_use", "read")
    assert call["input"] == {"path": "/ä &lt; b.txt", "lines": [1, 20]}

    failure = seen["failure"]
    assert (failure["name"], failure["status"], failure["type"]) == ("InternalServerError", 502, "api_error")
    assert "'gtp-4o'" in failure["message"]
    assert failure["requestID"].startswith("req_")
    assert len(redcap.requests) == 2, "what cannot be helped is not tried again"
