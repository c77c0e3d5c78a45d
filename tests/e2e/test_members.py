"""docs/members.md with the real Claude Code: a member's own settings, and the lab's with a member's token."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from claude_code import RunningSession, claude_binary, environment
from conftest import TOKEN, Proxy, Redcap

from claude_proxy.core.aliases.mapping import describe_alias
from claude_proxy.tools.claude_environment import AUTH_TOKEN, BASE_URL, MARK, compute_changes

pytestmark = pytest.mark.e2e

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "members.md").read_text(encoding="utf-8")
ADDRESS = "https://claude-proxy.example.edu"
IS_ROOT = sys.platform == "linux" and os.geteuid() == 0

# Gives a program an /etc of its own, in which the lab's settings lie; the machine's is not touched.
WITH_ETC = """\
cp -a /etc "$1/etc" 2> /dev/null || true
mount --bind "$1/etc" /etc
mkdir -p /etc/claude-code
cp "$2" "$3"
shift 3
exec "$@"
"""


def blocks() -> list[dict[str, Any]]:
    """The page's settings: all of them for one file, and the token alone."""
    whole, token = (json.loads(text) for text in re.findall(r"^```json\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
    return [whole, token]


def put_in(settings: Mapping[str, Any], proxy: Proxy) -> str:
    return json.dumps(settings).replace(ADDRESS, proxy.url).replace("your-redcap-token", TOKEN)


def bare(home: Path) -> dict[str, str]:
    """The environment of somebody who has set nothing."""
    kept = {"HOME", "CLAUDE_CONFIG_DIR", "TMPDIR", "PATH", "LANG", "NO_PROXY"}
    return {name: text for name, text in environment("", "", home).items() if name in kept}


def say_hello(home: Path, *before: str) -> str:
    command = [*before, str(claude_binary()), "--print", "--verbose", "--output-format=stream-json"]
    with RunningSession(command, "Say hello", cwd=home, env=bare(home)) as session:
        return session.wait().result


def write_own(home: Path, text: str) -> None:
    (home / ".claude").mkdir()
    (home / ".claude" / "settings.json").write_text(text, encoding="utf-8")


def test_the_page_says_what_env_would_say() -> None:
    whole, token = blocks()
    wanted = dict(compute_changes(ADDRESS, "your-redcap-token", describe_alias("claude"), {}).set)
    for name in (MARK, "no_proxy", "NO_PROXY"):
        del wanted[name]
    assert whole["env"] == wanted
    assert token == {"env": {AUTH_TOKEN: whole["env"][AUTH_TOKEN]}}


def test_a_members_settings_suffice(redcap: Redcap, proxy: Proxy, tmp_path: Path) -> None:
    whole, _ = blocks()
    write_own(tmp_path, put_in(whole, proxy))
    redcap.let_answer(lambda _: "Hello from the lab.")
    assert say_hello(tmp_path) == "Hello from the lab."


@pytest.mark.skipif(not IS_ROOT, reason="gives Claude Code an /etc of its own, which only root on Linux can")
def test_the_labs_settings_and_a_token_suffice(redcap: Redcap, proxy: Proxy, tmp_path: Path) -> None:
    whole, token = blocks()
    del whole["env"][AUTH_TOKEN]
    assert BASE_URL in whole["env"]
    home, space = tmp_path / "home", tmp_path / "space"
    home.mkdir()
    space.mkdir()
    write_own(home, put_in(token, proxy))
    (tmp_path / "managed.json").write_text(put_in(whole, proxy), encoding="utf-8")
    (place,) = set(re.findall(r"`(/etc/[^`]+)`", PAGE))
    redcap.let_answer(lambda _: "Hello from the lab.")
    wrapped = ["unshare", "--mount", "sh", "-euc", WITH_ETC, "sh", str(space), str(tmp_path / "managed.json"), place]
    assert say_hello(home, *wrapped) == "Hello from the lab."
