"""Starting Claude Code: what it is told, in every notation, and what is found before it starts."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import COLLEAGUES_TOKEN, PATIENCE, TOKEN, find_program

from claude_proxy.core.aliases.mapping import describe_alias
from claude_proxy.settings.table import Settings
from claude_proxy.settings.values import Secret
from claude_proxy.tools import launcher
from claude_proxy.tools.claude_environment import (
    MARK,
    Changes,
    SettingsConflict,
    Shell,
    choose_mode,
    choose_model,
    compute_changes,
    export_lines,
    find_option,
    guess_shell,
    merge_settings,
    outranked,
    read_settings,
    settings_text,
    without_ours,
)
from claude_proxy.tools.launcher import ClaudeSettings, Launch, LaunchError
from claude_proxy.tools.model_table import Row

URL = "http://127.0.0.1:8765"
CLAUDE = describe_alias("claude")
SIZES = {
    "CLAUDE_CODE_AUTO_COMPACT_WINDOW": "200000",
    "CLAUDE_CODE_MAX_CONTEXT_TOKENS": "200000",
    "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "32000",
}


def changes_for(
    environ: Mapping[str, str], alias: str = "claude", settings_env: Mapping[str, str] | None = None
) -> Changes:
    return compute_changes(URL, TOKEN, describe_alias(alias), environ, settings_env)


# --- What the user wants ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["--model", "x"], "x"),
        (["--model=x"], "x"),
        (["--model=x", "-p", "--model", "y"], "y"),
        (["--model="], ""),
        (["--model"], None),
        (["--", "--model", "x"], None),
        (["--models", "x"], None),
    ],
)
def test_options_of_claude_are_found(arguments: list[str], value: str | None) -> None:
    assert find_option(arguments, "--model") == value


@pytest.mark.parametrize(
    ("asked", "environ", "configured", "model"),
    [
        (None, {}, None, "claude-opus-5-5"),
        (None, {}, "sonnet", "claude-sonnet-5-5"),
        (None, {"ANTHROPIC_MODEL": "haiku"}, "sonnet", "claude-haiku-5-5"),
        ("claude-sonnet-4", {"ANTHROPIC_MODEL": "haiku"}, "sonnet", "claude-sonnet-4"),
        ("Sonnet[1m]", {}, None, "claude-sonnet-5-5"),
        ("opusplan", {"ANTHROPIC_DEFAULT_SONNET_MODEL": "mine"}, None, "mine"),
        (None, {"ANTHROPIC_DEFAULT_OPUS_MODEL": "mine"}, None, "mine"),
        ("gpt-4.1", {"ANTHROPIC_DEFAULT_OPUS_MODEL": "mine"}, None, "gpt-4.1"),
        ("", {"ANTHROPIC_MODEL": ""}, "", "claude-opus-5-5"),
    ],
)
def test_the_model_is_the_one_that_claude_will_ask_for(
    asked: str | None, environ: dict[str, str], configured: str | None, model: str
) -> None:
    assert choose_model(asked, environ, configured) == model


ADDED = ("--permission-mode", "default")
MODES: list[tuple[list[str], str | None, tuple[str, ...], str]] = [
    ([], None, ADDED, "permission mode default (auto needs"),
    (["fix it"], None, ADDED, "acceptEdits"),
    (["-c", "--model", "x"], None, ADDED, "acceptEdits"),
    ([], "auto", (), "--permission-mode default"),
    (["--permission-mode", "auto"], None, (), "will ask you"),
    (["--permission-mode=auto", "-p", "x"], "default", (), "with -p refuse"),
    (["--permission-mode", "plan"], "auto", (), ""),
    (["--dangerously-skip-permissions"], None, (), ""),
    ([], "acceptEdits", (), ""),
    (["-p", "hi"], None, (), ""),
    (["-cp", "hi"], None, (), ""),
    (["--print"], None, (), ""),
    (["mcp", "list"], None, (), ""),
    (["--version"], None, (), ""),
    (["--", "-p"], None, ADDED, "acceptEdits"),
]


@pytest.mark.parametrize(("arguments", "configured", "added", "words"), MODES)
def test_the_permission_mode_is_default_unless_one_is_chosen(
    arguments: list[str], configured: str | None, added: tuple[str, ...], words: str
) -> None:
    mode = choose_mode(arguments, configured)
    assert mode.arguments == added
    assert words in mode.sentence
    assert bool(words) == bool(mode.sentence)


# --- The environment --------------------------------------------------------------------------------------------------


def test_claude_is_told_all_it_must_know() -> None:
    changes = changes_for({})
    assert changes.set == {
        "ANTHROPIC_BASE_URL": URL,
        "ANTHROPIC_AUTH_TOKEN": TOKEN,
        **SIZES,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "DISABLE_TELEMETRY": "1",
        "no_proxy": "127.0.0.1,localhost,::1",
        "NO_PROXY": "127.0.0.1,localhost,::1",
        MARK: changes.set[MARK],
    }
    assert TOKEN not in changes.set[MARK]


@pytest.mark.parametrize(
    ("alias", "window", "output"),
    [
        ("claude", "200000", "32000"),
        ("gpt-4o", "128000", "32000"),
        ("gpt-4.1", "1000000", "32768"),
        ("o3-mini", "200000", "100000"),
        ("gpt-5", "400000", "128000"),
        ("llama-4-maverick", "128000", "32000"),
    ],
)
def test_sizes_come_from_the_alias(alias: str, window: str, output: str) -> None:
    changes = changes_for({}, alias)
    assert [changes.set[name] for name in SIZES] == [window, window, output]


def test_whatever_leads_elsewhere_is_removed() -> None:
    environ = {"ANTHROPIC_API_KEY": "sk", "CLAUDE_CODE_USE_BEDROCK": "1", "ANTHROPIC_UNIX_SOCKET": "/s", "HOME": "/h"}
    applied = changes_for(environ).applied_to(environ)
    assert not {"ANTHROPIC_API_KEY", "CLAUDE_CODE_USE_BEDROCK", "ANTHROPIC_UNIX_SOCKET"} & applied.keys()
    assert applied["HOME"] == "/h"
    assert applied["ANTHROPIC_AUTH_TOKEN"] == TOKEN


@pytest.mark.parametrize("name", SIZES)
def test_a_size_that_the_user_has_set_stays(name: str) -> None:
    environ = {name: "12345"}
    assert name not in changes_for(environ).set
    assert changes_for(environ).applied_to(environ)[name] == "12345"
    assert name not in changes_for({}, settings_env=environ).set


LOOPBACK = "127.0.0.1,localhost,::1"


@pytest.mark.parametrize(
    ("environ", "lower", "upper"),
    [
        ({"NO_PROXY": "a.org"}, f"a.org,{LOOPBACK}", f"a.org,{LOOPBACK}"),
        ({"no_proxy": "a.org", "NO_PROXY": "b.org"}, f"a.org,{LOOPBACK}", f"b.org,{LOOPBACK}"),
        ({"no_proxy": " a.org , localhost,"}, "a.org,localhost,127.0.0.1,::1", "a.org,localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "*"}, "*", "*"),
        ({"NO_PROXY": ""}, LOOPBACK, LOOPBACK),
    ],
)
def test_loopback_needs_no_proxy(environ: dict[str, str], lower: str, upper: str) -> None:
    changes = changes_for(environ)
    assert (changes.set["no_proxy"], changes.set["NO_PROXY"]) == (lower, upper)


def test_what_we_wrote_is_replaced_and_the_users_exceptions_stay() -> None:
    first = changes_for({"NO_PROXY": "a.org"}, "gpt-4.1").applied_to({"NO_PROXY": "a.org"})
    second = changes_for(first, "claude")
    assert second.set["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "200000"
    assert second.set["NO_PROXY"] == f"a.org,{LOOPBACK}"
    assert second == changes_for(second.applied_to(first), "claude")


def test_what_was_edited_since_is_no_longer_ours() -> None:
    environ = {**changes_for({}).set, "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "5000"}
    assert without_ours(environ) == {"CLAUDE_CODE_MAX_OUTPUT_TOKENS": "5000"}
    assert "CLAUDE_CODE_MAX_OUTPUT_TOKENS" not in changes_for(environ).set


@pytest.mark.parametrize(
    ("settings_env", "overrides"),
    [
        ({}, {}),
        ({"ANTHROPIC_BASE_URL": URL}, {}),
        ({"ANTHROPIC_BASE_URL": "https://elsewhere"}, {"ANTHROPIC_BASE_URL": URL}),
        ({"ANTHROPIC_API_KEY": ""}, {}),
        ({"ANTHROPIC_API_KEY": "sk"}, {"ANTHROPIC_API_KEY": ""}),
        ({"CLAUDE_CODE_USE_VERTEX": "1"}, {"CLAUDE_CODE_USE_VERTEX": ""}),
        ({"no_proxy": "a.org"}, {"no_proxy": f"a.org,{LOOPBACK}"}),
        ({"CLAUDE_CODE_MAX_OUTPUT_TOKENS": "5000", "FOO": "bar"}, {}),
    ],
)
def test_what_settings_say_otherwise_is_outranked(settings_env: dict[str, str], overrides: dict[str, str]) -> None:
    assert outranked(changes_for({}, settings_env=settings_env), settings_env) == overrides


# --- Quoting ----------------------------------------------------------------------------------------------------------

# The prefix is there because shells have variables of their own: `LINES` is a number in zsh.
NASTY = {
    "NASTY_PLAIN": "http://127.0.0.1:8765",
    "NASTY_EMPTY": "",
    "NASTY_BLANKS": "  a  b ",
    "NASTY_QUOTES": "it's \"so\" 'called'",
    "NASTY_EXPANSIONS": "$HOME ${HOME} $(id) `id` !! ~ *",
    "NASTY_BACKSLASHES": "\\ \\\\ \\n \\' end\\",
    "NASTY_LINES": "one\ntwo\n\nthree\n",
    "NASTY_SEPARATORS": "; & | < > # ( ) { } [ ] % ^ =",
    "NASTY_TYPOGRAPHIC": "\u2018single\u2019 \u201a \u201b \u201cdouble\u201d",
    "NASTY_OTHER": "caf\u00e9 \u2192 \U0001f600",
}
SHELLS: list[tuple[Shell, list[str], str]] = [
    ("bash", ["bash", "--norc", "--noprofile", "-c"], 'eval "$(cat LINES)"; env -0'),
    ("bash", ["sh", "-c"], 'eval "$(cat LINES)"; env -0'),
    ("bash", ["zsh", "-f", "-c"], 'eval "$(cat LINES)"; env -0'),
    ("fish", ["fish", "--no-config", "-c"], "cat LINES | source; env -0"),
    ("powershell", ["pwsh", "-NoProfile", "-Command"], "cat LINES | Out-String | Invoke-Expression; env -0"),
]


@pytest.mark.parametrize(("shell", "command", "script"), SHELLS, ids=[command[0] for _, command, _ in SHELLS])
def test_a_shell_reads_back_what_was_quoted(shell: Shell, command: list[str], script: str, tmp_path: Path) -> None:
    program = find_program(command[0])
    lines = export_lines(Changes(NASTY, ("GONE", "NEVER_THERE")), shell)
    (tmp_path / "LINES").write_text(lines, encoding="utf-8")
    path = os.environ.get("PATH", os.defpath)
    environ = {"PATH": path, "HOME": str(tmp_path), "LANG": "C.UTF-8", "GONE": "x", "NASTY_PLAIN": "before"}
    done = subprocess.run(
        [program, *command[1:], script], cwd=tmp_path, env=environ, capture_output=True, timeout=PATIENCE, check=True
    )
    assert done.stderr == b""
    seen = dict(entry.partition("=")[::2] for entry in done.stdout.decode().split("\0"))
    assert {name: seen.get(name) for name in NASTY} == NASTY
    assert "GONE" not in seen


@pytest.mark.parametrize(
    ("shell", "text", "line"),
    [
        ("bash", "it's", "export X='it'\"'\"'s'"),
        ("fish", "it's \\n $x", r"set -gx X 'it\'s \\n $x'"),
        ("powershell", "it's $x `n", "$env:X = 'it''s $x `n'"),
        ("powershell", "\u2018a\u2019", "$env:X = '\u2018\u2018a\u2019\u2019'"),
    ],
)
def test_each_shell_has_its_own_quoting(shell: Shell, text: str, line: str) -> None:
    assert export_lines(Changes({"X": text}), shell) == f"{line}\n"


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("bash", "unset X\n"),
        ("fish", "set -e X\n"),
        ("powershell", "Remove-Item Env:X -ErrorAction SilentlyContinue\n"),
    ],
)
def test_each_shell_has_its_own_way_to_remove_a_variable(shell: Shell, line: str) -> None:
    assert export_lines(Changes({}, ("X",)), shell) == line


@pytest.mark.parametrize(
    ("named", "windows", "shell"),
    [
        ("/bin/bash", False, "bash"),
        ("/usr/bin/zsh", False, "bash"),
        ("/usr/local/bin/fish", False, "fish"),
        ("/usr/bin/pwsh", False, "powershell"),
        ("", False, "bash"),
        ("", True, "powershell"),
        (r"C:\Program Files\Git\usr\bin\bash.exe", True, "bash"),
    ],
)
def test_the_shell_is_guessed(named: str, windows: bool, shell: str) -> None:
    assert guess_shell({"SHELL": named} if named else {}, windows=windows) == shell


# --- Claude Code's settings -------------------------------------------------------------------------------------------

USERS = {"model": "sonnet", "env": {"FOO": "bar"}, "big": 12345678901234567890, "hooks": {"x": [1.5, None, "\u00e9"]}}


def merged(settings: Mapping[str, object], alias: str = "claude", environ: Mapping[str, str] | None = None) -> object:
    changes = changes_for(environ or {}, alias, read_settings(json.dumps(settings)).get("env"))
    return merge_settings(settings, changes, environ or {})


def test_the_rest_of_the_settings_is_kept() -> None:
    after = read_settings(settings_text(merge_settings(USERS, changes_for({}), {})))
    assert {key: value for key, value in after.items() if key != "env"} == {
        key: value for key, value in USERS.items() if key != "env"
    }
    assert list(after) == list(USERS)
    assert without_ours(after["env"]) == {"FOO": "bar"}
    assert after["env"]["ANTHROPIC_AUTH_TOKEN"] == TOKEN
    assert after["env"]["ANTHROPIC_API_KEY"] == ""


def test_merging_again_changes_nothing_and_another_model_only_ours() -> None:
    first = merge_settings(USERS, changes_for({}), {})
    again = merge_settings(first, changes_for({}, settings_env=first["env"]), {})
    assert again == first
    other = merge_settings(first, changes_for({}, "gpt-4.1", first["env"]), {})
    assert other["env"]["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "1000000"
    assert without_ours(other["env"]) == {"FOO": "bar"}


def test_what_is_set_now_and_cannot_be_removed_is_emptied() -> None:
    environ = {"CLAUDE_CODE_USE_BEDROCK": "1"}
    after = merge_settings({}, changes_for(environ), environ)
    assert after["env"]["CLAUDE_CODE_USE_BEDROCK"] == ""
    assert "CLAUDE_CODE_USE_VERTEX" not in after["env"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ANTHROPIC_BASE_URL", "https://elsewhere"),
        ("ANTHROPIC_AUTH_TOKEN", COLLEAGUES_TOKEN),
        ("ANTHROPIC_API_KEY", "sk"),
        ("DISABLE_TELEMETRY", "0"),
    ],
)
def test_what_we_did_not_write_is_not_overwritten(name: str, text: str) -> None:
    with pytest.raises(SettingsConflict, match=name) as caught:
        merged({"env": {name: text}})
    assert text not in str(caught.value) or text == "0"


def test_the_same_value_of_the_users_stays_the_users() -> None:
    settings = {"env": {"ANTHROPIC_BASE_URL": URL}}
    after = merge_settings(settings, changes_for({}, settings_env=settings["env"]), {})
    assert without_ours(after["env"]) == settings["env"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "JSON object"),
        ('{"a": 1, "a": 2}', '"a" stands there twice'),
        ('{"a": NaN}', "Out of range"),
        ('{"a": 1e999}', "Out of range"),
        ('{"env": []}', '"env"'),
        ('{"env": {"A": 1}}', '"env"'),
        ('{"a": ' + "[" * 100_000, "nested too deeply"),
        ("// a comment\n{}", "not valid JSON"),
    ],
)
def test_what_could_not_be_written_back_is_refused(text: str, words: str) -> None:
    with pytest.raises(SettingsConflict, match=words):
        read_settings(text)


@pytest.mark.parametrize("text", ["caf\u00e9", "\ud800", "\u2028", "\x00"])
def test_any_string_is_written_so_that_it_reads_the_same(text: str, tmp_path: Path) -> None:
    launcher.save_settings_file(tmp_path / "s.json", {"a": text})
    assert launcher.load_settings_file(tmp_path / "s.json") == {"a": text}


def test_a_file_is_for_its_owner_and_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("{}")
    (tmp_path / "real.json").chmod(0o644)
    (tmp_path / "link.json").symlink_to("real.json")
    launcher.save_settings_file(tmp_path / "link.json", {"a": 1})
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text()) == {"a": 1}
    assert stat.S_IMODE((tmp_path / "real.json").stat().st_mode) == 0o600
    assert len(list(tmp_path.iterdir())) == 2


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.json"
    path.write_text('{"old": true}')

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(LaunchError, match="No space left"):
        launcher.save_settings_file(path, {"new": True})
    assert path.read_text() == '{"old": true}'
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("data", [b"{", b"\xff\xfe", b"[]", b'{"env": 1}'])
def test_a_malformed_file_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "s.json").write_bytes(data)
    with pytest.raises(LaunchError, match="left as it is") as caught:
        launcher.load_settings_file(tmp_path / "s.json")
    assert caught.value.code == launcher.FAILED


@pytest.mark.parametrize("data", [b"", b" \n", b"\xef\xbb\xbf{}", b"{}"])
def test_an_empty_file_holds_no_settings(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "s.json").write_bytes(data)
    assert launcher.load_settings_file(tmp_path / "s.json") == {}
    assert launcher.load_settings_file(tmp_path / "none.json") == {}


def test_a_repository_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a" / ".git").mkdir(parents=True)
    assert launcher.lies_in_repository(tmp_path / "a" / "b" / "settings.json")
    assert not launcher.lies_in_repository(tmp_path / "settings.json")


# --- What Claude Code's settings files say ----------------------------------------------------------------------------


def test_claudes_settings_are_read_in_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "managed_path", lambda _: tmp_path / "managed.json")
    (tmp_path / "work" / ".claude").mkdir(parents=True)
    layers = {
        "home/settings.json": {"model": "opus", "env": {"A": "1", "B": "1"}, "permissions": {"defaultMode": "auto"}},
        "work/.claude/settings.json": {"env": {"B": "2", "C": "2"}, "permissions": {"defaultMode": "plan"}},
        "work/.claude/settings.local.json": {"model": 5, "env": {"C": "3"}},
        "work/given.json": {"model": "haiku", "env": {"D": "4"}},
        "managed.json": {"env": {"D": "5"}},
    }
    (tmp_path / "home").mkdir()
    for name, settings in layers.items():
        (tmp_path / name).write_text(json.dumps(settings))
    environ = {"CLAUDE_CONFIG_DIR": str(tmp_path / "home")}
    found = launcher.load_claude_settings(["--settings", "given.json"], environ, tmp_path / "work")
    assert found == ClaudeSettings({"A": "1", "B": "2", "C": "3", "D": "5"}, "haiku", "plan", {"D": "5"})
    inline = launcher.load_claude_settings(['--settings={"model": "sonnet"}'], environ, tmp_path / "work")
    assert inline.model == "sonnet"


def test_files_that_cannot_be_read_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text("{")
    environ = {"CLAUDE_CONFIG_DIR": str(tmp_path)}
    assert launcher.load_claude_settings([], environ, tmp_path).model is None


# --- The plan ---------------------------------------------------------------------------------------------------------

SETTINGS = Settings("https://redcap.example.edu/api/", redcap_api_token=Secret(TOKEN))


def answerer(model: str | None = None) -> Row:
    return launcher.find_answerer(model, SETTINGS, {}, {}, None)


def plan(
    *arguments: str,
    environ: Mapping[str, str] | None = None,
    claude: ClaudeSettings | None = None,
    program: str = "/bin/claude",
) -> Launch:
    return launcher.plan_launch(
        program,
        arguments,
        base_url=URL,
        token=TOKEN,
        answerer=answerer(),
        environ=environ or {},
        claude=claude or ClaudeSettings(),
    )


def test_arguments_are_handed_over_as_they_are() -> None:
    arguments = ("-p", "", "--", "a b", "\u2192", "-x=", "*")
    assert plan(*arguments).command == ("/bin/claude", *arguments)


def test_settings_that_lead_elsewhere_are_outranked_on_the_command_line() -> None:
    launch = plan("-p", claude=ClaudeSettings({"ANTHROPIC_BASE_URL": "https://elsewhere", "ANTHROPIC_API_KEY": "sk"}))
    assert launch.command[1] == "--settings"
    assert json.loads(launch.command[2]) == {"env": {"ANTHROPIC_BASE_URL": URL, "ANTHROPIC_API_KEY": ""}}
    assert launch.command[3:] == ("-p",)


@pytest.mark.parametrize(
    ("arguments", "claude", "name"),
    [
        ([], ClaudeSettings({"ANTHROPIC_AUTH_TOKEN": COLLEAGUES_TOKEN}), "ANTHROPIC_AUTH_TOKEN"),
        (["--settings", "x"], ClaudeSettings({"ANTHROPIC_BASE_URL": "https://elsewhere"}), "ANTHROPIC_BASE_URL"),
        (["--settings={}"], ClaudeSettings({"ANTHROPIC_API_KEY": "sk"}), "ANTHROPIC_API_KEY"),
        (
            [],
            ClaudeSettings({"ANTHROPIC_BASE_URL": "x"}, fixed={"ANTHROPIC_BASE_URL": "x"}),
            "ANTHROPIC_BASE_URL",
        ),
    ],
)
def test_settings_that_cannot_be_outranked_are_named(
    arguments: Sequence[str], claude: ClaudeSettings, name: str
) -> None:
    with pytest.raises(LaunchError, match=name) as caught:
        plan(*arguments, claude=claude)
    assert caught.value.code == launcher.MISUSED
    assert COLLEAGUES_TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "encoding", "line"),
    [
        ("claude-sonnet-4", "utf-8", "claude-sonnet-4 \u2192 claude via redcap.example.edu"),
        ("claude-sonnet-4", "cp1252", "claude-sonnet-4 -> claude via redcap.example.edu"),
        ("claude-sonnet-4", "cp437", "claude-sonnet-4 -> claude via redcap.example.edu"),
        ("claude-sonnet-4", None, "claude-sonnet-4 -> claude via redcap.example.edu"),
        ("claude-sonnet-4", "no-such", "claude-sonnet-4 -> claude via redcap.example.edu"),
        ("mine", "ascii", "mine -> mine (no rule maps this name) via redcap.example.edu"),
        ("a\x1b[2Jb", "ascii", "a?[2Jb -> a?[2Jb (no rule maps this name) via redcap.example.edu"),
    ],
)
def test_a_line_says_who_answers(model: str, encoding: str | None, line: str) -> None:
    assert launcher.answerer_line(answerer(model), SETTINGS, encoding) == line


def test_the_token_is_the_proxys_or_the_users() -> None:
    shared = replace(SETTINGS, redcap_api_token=None)
    mine = {"ANTHROPIC_AUTH_TOKEN": COLLEAGUES_TOKEN}
    assert launcher.client_token(SETTINGS, mine) == TOKEN
    assert launcher.client_token(shared, {}, mine) == COLLEAGUES_TOKEN
    with pytest.raises(LaunchError, match="there is no token"):
        launcher.client_token(shared, {}, {"ANTHROPIC_AUTH_TOKEN": " "})
    with pytest.raises(LaunchError, match="printable ASCII") as caught:
        launcher.client_token(shared, {"ANTHROPIC_AUTH_TOKEN": "se cret"})
    assert "se cret" not in str(caught.value)


def program(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("element", ["", ".", "bin", "{here}"])
@pytest.mark.parametrize("chosen", [None, "claude", "./claude", "bin/claude"])
def test_no_program_of_the_working_folder_gets_the_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, windows: bool, element: str, chosen: str | None
) -> None:
    here, elsewhere = tmp_path / "cloned", tmp_path / "real"
    ending = ".exe" if windows else ""
    program(here / f"claude{ending}")
    program(here / "bin" / f"claude{ending}")
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(launcher, "WINDOWS", windows)
    environ = {"PATH": os.pathsep.join([element.format(here=here), str(elsewhere)])}
    with pytest.raises(LaunchError) as caught:
        launcher.find_claude(chosen, environ)
    assert caught.value.code == launcher.NOT_FOUND
    assert not chosen or "the working folder is not searched" in str(caught.value)
    theirs = program(elsewhere / f"claude{ending}")
    if chosen in {None, "claude"}:
        assert launcher.find_claude(chosen, environ) == theirs
    assert plan(environ=environ).environ["PATH"] == str(elsewhere), "node, with which claude may start, is found there"


def test_windows_is_told_not_to_look_into_the_working_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "WINDOWS", True)
    assert plan().environ["NoDefaultCurrentDirectoryInExePath"] == "1"


def test_windows_starts_no_batch_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its command interpreter would act on the arguments."""
    monkeypatch.setattr(launcher, "WINDOWS", True)
    for name in ("claude.cmd", "claude.BAT", "claude"):
        batch = program(tmp_path / name)
        with pytest.raises(LaunchError, match="exe"):
            launcher.find_claude(batch, {})
        with pytest.raises(LaunchError, match="exe"):
            launcher.find_claude(name, {"PATH": str(tmp_path)})


def test_claude_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    environ = {"PATH": str(tmp_path / "bin")}
    with pytest.raises(LaunchError, match=r"claude\.ai/install") as caught:
        launcher.find_claude(None, environ)
    assert caught.value.code == launcher.NOT_FOUND
    for place in (tmp_path / ".local" / "bin" / "claude", tmp_path / "bin" / "claude", tmp_path / "other"):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("")
        place.chmod(0o755)
        chosen = str(place) if place.name == "other" else None
        assert launcher.find_claude(chosen, environ) == str(place)
    (tmp_path / "other").chmod(0o644)
    with pytest.raises(LaunchError, match="CLAUDE=") as caught:
        launcher.find_claude(str(tmp_path / "other"), environ)
    assert caught.value.code == launcher.NOT_FOUND


# --- The proxy's address ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8765"),
        ("0.0.0.0", "http://127.0.0.1:8765"),
        ("::1", "http://[::1]:8765"),
        ("::", "http://[::1]:8765"),
        ("localhost", "http://127.0.0.1:8765"),
    ],
)
def test_clients_on_this_machine_get_an_address_that_they_can_reach(host: str, url: str) -> None:
    assert launcher.local_url(replace(SETTINGS, listen_host=host)) == url
