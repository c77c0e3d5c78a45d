"""claude-proxy.toml: where its keys stand, what it may say, what it is refused for, and what goes before it."""

from __future__ import annotations

import os
import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest

from claude_proxy.errors import SettingsError
from claude_proxy.settings.alias_facts import AliasFacts
from claude_proxy.settings.sources import config_path, load, load_with_sources
from claude_proxy.settings.table import TABLE, Server, Settings
from claude_proxy.settings.toml_file import parse_config
from claude_proxy.settings.values import Secret

ROOT = Path(__file__).resolve().parents[2]
URL = "https://redcap.example.edu/api/"
TOKEN = "0123456789ABCDEF0123456789ABCDEF"
ENVIRON = {"REDCAP_API_URL": URL}
WITH_TOKEN = ENVIRON | {"REDCAP_API_TOKEN": TOKEN}


def write(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "claude-proxy.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def loaded(folder: Path, text: str, environ: dict[str, str] | None = None) -> Settings:
    write(folder, text)
    return load(environ or ENVIRON, folder)


def fault(folder: Path, text: str, environ: dict[str, str] | None = None) -> str:
    path = write(folder, text)
    with pytest.raises(SettingsError) as caught:
        load(environ or ENVIRON, folder)
    message = str(caught.value)
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


# --- where keys stand -------------------------------------------------------------------------------------------------

LINES = """\
# a comment = 1
max_calls = 5
"a.b" = [
  "x = 1",
  "[y]",
]

text = '''
[models]
inner = 1
'''
c.d = { e = 1, f = { g = 2 } }
[models] # and a comment
"claude-*" = "claude"
y = { alias = "z", server = "lab" }
[servers."my lab"]
url = "x"
[[list]]
z = 1
"""
PLACES = [
    (("max_calls",), 2),
    (("a.b",), 3),
    (("text",), 8),
    (("c",), 12),
    (("c", "d", "f", "g"), 12),
    (("models",), 13),
    (("models", "claude-*"), 14),
    (("models", "y", "server"), 15),
    (("servers",), 16),
    (("servers", "my lab"), 16),
    (("servers", "my lab", "url"), 17),
    (("servers", "my lab", "token"), 16),  # is not there: the table is
    (("list", "z"), 19),
]


@pytest.mark.parametrize(("keys", "line"), PLACES, ids=[".".join(keys) for keys, _ in PLACES])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_where_a_key_stands(keys: tuple[str, ...], line: int, end: str) -> None:
    assert parse_config(LINES.replace("\n", end), "f").place(*keys) == f"f, line {line}"


def test_what_is_not_there_stands_nowhere() -> None:
    file = parse_config("\ufeffa = 1\n", "f")
    assert file.place("a") == "f, line 1"
    assert file.place("b") == file.place() == "f"


BAD_SYNTAX = [
    ("a = 1\nb = yes\n", ", line 2: this is not TOML: "),
    ("a = 1\na = 2\n", ", line 2: this is not TOML: "),
    ("[models\n", ", line 1: this is not TOML: "),
    ("a = 1\nb = '''\n\n", "at the end of the file"),
    ("a = " + "[" * 100_000, "nested too deeply"),
]


@pytest.mark.parametrize(("text", "words"), BAD_SYNTAX, ids=[text[:20] for text, _ in BAD_SYNTAX])
def test_what_is_not_toml_is_refused_with_its_line(text: str, words: str, tmp_path: Path) -> None:
    assert words in fault(tmp_path, text)


# --- settings ---------------------------------------------------------------------------------------------------------

GOOD: list[tuple[str, str, Any]] = [
    ('redcap_module_prefix = "chat_ai"', "redcap_module_prefix", "chat_ai"),
    ('redcap_api_url = "http://localhost/api"', "redcap_api_url", URL),  # the environment goes first
    (f'redcap_api_token = "{TOKEN}"', "redcap_api_token", Secret(TOKEN)),
    ("redcap_decodes_entities = false", "redcap_decodes_entities", False),
    ('redcap_tls_minimum = "1.3"', "redcap_tls_minimum", "1.3"),
    ("max_calls = 1_000", "max_calls", 1000),
    ("stream_delay = 5", "stream_delay", 5),
    ("stream_delay = 0.5", "stream_delay", 0.5),
    ('log_level = "Debug"', "log_level", "debug"),
    ('log_level = ""', "log_level", "info"),
    ('vision_aliases = "my-gpt, !x*"', "vision_aliases", {"x*": False, "my-gpt": True}),
    ('vision_aliases = ["my-gpt", "!x*"]', "vision_aliases", {"x*": False, "my-gpt": True}),
    ('no_proxy = ["a", "10.0.0.0/8"]', "no_proxy", "a,10.0.0.0/8"),
    ('model_map = \'{"a": "b"}\'', "model_map", {"a": "b"}),
    ("", "max_calls", 100),
]


@pytest.mark.parametrize(("text", "field", "value"), GOOD, ids=[text for text, *_ in GOOD])
def test_a_setting_in_the_file(text: str, field: str, value: Any, tmp_path: Path) -> None:
    assert getattr(loaded(tmp_path, text), field) == value


BAD: list[tuple[str, int, str]] = [
    # text, line, words
    ("\nmax_call = 5", 2, "'max_call' is no name of a setting. Did you mean max_calls?"),
    ("MAX_CALLS = 5", 1, "Did you mean max_calls?"),
    ("[model]\na = 'b'", 1, "Did you mean models?"),
    ("frobnicate = 1", 1, "'frobnicate' is no name of a setting. docs/configuration.md"),
    ('max_calls = "5"', 1, "max_calls = '5' cannot be used: it must be a whole number, without quotes."),
    ("max_calls = true", 1, "it must be a whole number, without quotes"),
    ("max_calls = 1.5", 1, "it must be a whole number, without quotes"),
    ("max_calls = 0", 1, "max_calls = 0 cannot be used: it must be a whole number from 1 to 100000. How many calls"),
    ("stream_delay = '5'", 1, "it must be a number, without quotes"),
    ("stream_delay = nan", 1, "it must be a number of seconds from 0 to 240"),
    ("stream_delay = true", 1, "stream_delay = true cannot be used: it must be a number, without quotes"),
    ("redcap_decodes_entities = 'no'", 1, "it must be true or false, without quotes"),
    ("log_level = 1", 1, "it must be text in quotes"),
    ("log_level = 'loud'", 1, "it must be one of debug, info, warning, error"),
    ("redcap_tls_minimum = 1.2", 1, "it must be text in quotes"),
    ("vision_aliases = [1]", 1, "it must be text in quotes"),
    ("model_map = { a = 'b' }", 1, "a table of models stands below [models]"),
    ("model_map = '{\"a\": \"b\"}'\n[models]\na = 'b'", 1, "say the same"),
    ("models = 1", 1, "models must be a table. Write its entries below [models]."),
    ("[models]\n\na = 1", 3, "'a' must lead to an alias"),
    ("[models]\na = ''", 2, "'a' must lead to an alias"),
    ("[models]\na = { server = 'x' }", 2, "'a' must lead to an alias"),
    ("[models]\na = { alias = 'x', serve = 'x' }", 2, "is no name of a setting in [models.a]. Did you mean server?"),
    ("[models]\na = { alias = 'x', server = 1 }", 2, "there is no server 1; there are default."),
    ("[models]\na = { alias = 'x', server = 'lab' }", 2, "there is no server 'lab'; there are default."),
    ("[models]\ngpt-4.1 = 'x'", 2, "A name with a dot, a blank or a * stands in quotes."),
    ("[models]\nlog_level = 'debug'", 2, "log_level is a setting, and stands below [models]. Move it above"),
    ("[aliases.x]\n\nwindows = 5", 3, "Did you mean window?"),
    ("[aliases.x]\nwindow = '5'", 2, "window = '5' cannot be used: it must be a whole number of tokens"),
    ("[aliases.x]\nwindow = 0", 2, "it must be a whole number of tokens"),
    ("[aliases.x]\nmax_output = true", 2, "it must be a whole number of tokens"),
    ("[aliases.x]\nsees = 'yes'", 2, "it must be true or false"),
    ("[aliases.x]\nfamily = 'gpt'", 2, "it must be one of claude, reasoning, chat"),
    ("[aliases.x]\ntokenizer = []", 2, "it must be one of openai, claude"),
    ("[aliases]\nx = 5", 2, "aliases.x must be a table"),
    ("[aliases.gpt-4.1]\nwindow = 5", 1, "stands in quotes"),
    ("[servers.lab]\ntoken = 'X'", 1, "[servers.lab] needs a url"),
    ("[servers.lab]\nurl = 'lab'", 2, "url = 'lab' cannot be used: it must be an address such as https://"),
    ("[servers.lab]\nurl = 'https://u:hunter2@lab/'", 2, "no user name or password"),
    ("[servers.lab]\nurl = 5", 2, "url = 5 cannot be used: it must be text in quotes"),
    ("[servers.lab]\nurl = 'https://lab/api/'\nprefix = 'x'", 3, "'prefix' is no name of a setting in [servers.lab]"),
    ("[servers.lab]\nurl = 'https://lab/api/'\ndecodes_entities = 1", 3, "it must be true or false, without quotes"),
    ("[servers.default]\nurl = 'https://lab/api/'", 1, "is that of REDCAP_API_URL"),
    ("[servers.lab]\nurl = 'https://lab/api/'\ntoken = 'X'", 3, "would serve whoever reaches this proxy"),
]


@pytest.mark.parametrize(("text", "line", "words"), BAD, ids=[text for text, *_ in BAD])
def test_what_is_refused_is_named_with_its_line_and_the_rule(text: str, line: int, words: str, tmp_path: Path) -> None:
    message = fault(tmp_path, text)
    assert message.startswith(f", line {line}: ")
    assert words in message
    assert "hunter2" not in message


@pytest.mark.parametrize("value", ["two words", "tab\\tbed"])
def test_a_bad_token_is_not_shown(value: str, tmp_path: Path) -> None:
    for text in (f'redcap_api_token = "{value}"', f'[servers.lab]\nurl = "{URL}"\ntoken = "{value}"'):
        message = fault(tmp_path, text)
        assert "token cannot be used: it must be printable ASCII" in message
        assert value not in message


# --- the tables -------------------------------------------------------------------------------------------------------

TABLES = """\
[models]
"claude-opus-*" = "claude-opus-4"
fast = { alias = "gpt-4o" }
secret = { alias = "gpt-4o", server = "lab" }
[aliases."gpt-4o"]
window = 64_000
sees = false
[aliases."my-*"]
max_output = 1000
family = "reasoning"
tokenizer = "claude"
[servers.lab]
url = "https://redcap.example.edu/api"
module_prefix = "chat_ai"
decodes_entities = false
"""


def test_the_tables(tmp_path: Path) -> None:
    assert loaded(tmp_path, TABLES) == Settings(
        URL,
        model_map={"claude-opus-*": "claude-opus-4", "fast": "gpt-4o", "secret": "gpt-4o"},
        model_servers={"secret": "lab"},
        alias_facts={
            "gpt-4o": AliasFacts(window=64_000, sees=False),
            "my-*": AliasFacts(max_output=1000, family="reasoning", tokenizer="claude"),
        },
        servers={"lab": Server(URL, None, "chat_ai", decodes_entities=False)},
    )


def test_settings_at_a_server_are_those_of_its_own(tmp_path: Path) -> None:
    text = '[servers.lab]\nurl = "https://lab.example.edu/api/"\ntoken = "LAB"\nmodule_prefix = "x"\n'
    found = loaded(tmp_path, text, WITH_TOKEN)
    lab = found.at("lab")
    assert (lab.redcap_api_url, lab.redcap_api_token) == ("https://lab.example.edu/api/", Secret("LAB"))
    assert (lab.redcap_module_prefix, lab.redcap_decodes_entities) == ("x", True)
    assert found.at("default") is found


SERVER_TOKENS = [
    # url of the server, whether REDCAP_API_TOKEN goes there
    (URL, True),
    ("https://redcap.example.edu:443/other/api/", True),
    ("https://redcap.example.edu:8443/api/", False),
    ("http://redcap.example.edu/api/", False),
    ("https://lab.example.edu/api/", False),
]


@pytest.mark.parametrize(("url", "goes"), SERVER_TOKENS)
def test_a_token_goes_to_no_other_machine(url: str, goes: bool, tmp_path: Path) -> None:
    text = f'[servers.lab]\nurl = "{url}"\n'
    if goes:
        assert loaded(tmp_path, text, WITH_TOKEN).at("lab").redcap_api_token == Secret(TOKEN)
    else:
        assert "[servers.lab] needs a token of its own" in fault(tmp_path, text, WITH_TOKEN)
    assert loaded(tmp_path, text).at("lab").redcap_api_token is None, "each client's own is passed on"


# --- what goes before what --------------------------------------------------------------------------------------------

PRECEDENCE = ("the command line", "the environment", ".env", "claude-proxy.toml", "default")


@pytest.mark.parametrize("first", range(len(PRECEDENCE)))
def test_the_order_of_precedence(first: int, tmp_path: Path) -> None:
    values = [{"MAX_CALLS": str(place + 1)} if place >= first else {} for place in range(4)]
    (tmp_path / ".env").write_text("".join(f"{name}={text}\n" for name, text in values[2].items()))
    write(tmp_path, "".join(f"\nmax_calls = {text}\n" for text in values[3].values()))
    found, sources = load_with_sources(ENVIRON | values[1], tmp_path, values[0])
    assert found.max_calls == (first + 1 if first < 4 else 100)
    words = {2: str(tmp_path / ".env"), 3: f"{tmp_path / 'claude-proxy.toml'}, line 2"}
    assert sources["MAX_CALLS"] == words.get(first, PRECEDENCE[first])


def test_every_setting_and_table_has_a_source(tmp_path: Path) -> None:
    path = write(tmp_path, TABLES)
    _, sources = load_with_sources(ENVIRON, tmp_path)
    assert list(sources) == [*(setting.name for setting in TABLE), "[aliases]", "[servers]"]
    assert sources["REDCAP_API_URL"] == "the environment"
    assert sources["REDCAP_API_TOKEN"] == "not set"
    assert sources["MODEL_MAP"] == f"{path}, line 1"
    assert sources["[servers]"] == f"{path}, line 12"


def test_a_map_of_the_environment_replaces_the_whole_table(tmp_path: Path) -> None:
    found = loaded(tmp_path, TABLES, ENVIRON | {"MODEL_MAP": '{"secret": "o1"}'})
    assert (found.model_map, found.model_servers) == ({"secret": "o1"}, {})


def test_the_file_may_lie_elsewhere(tmp_path: Path) -> None:
    write(tmp_path, "max_calls = 1")
    (tmp_path / "other.toml").write_text("max_calls = 2")
    (tmp_path / "third.toml").write_text("max_calls = 3")
    (tmp_path / ".env").write_text("CLAUDE_PROXY_CONFIG=other.toml\n")
    named = {"CLAUDE_PROXY_CONFIG": str(tmp_path / "third.toml")}
    assert load(ENVIRON, tmp_path).max_calls == 2
    assert load(ENVIRON | named, tmp_path).max_calls == 3
    assert load(ENVIRON, tmp_path, named).max_calls == 3
    assert config_path(named, tmp_path) == tmp_path / "third.toml"
    assert load(ENVIRON | named, None).max_calls == 100, "without a folder no file counts"


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    assert load(ENVIRON, tmp_path) == Settings(URL)
    with pytest.raises(SettingsError) as caught:
        load(ENVIRON | {"CLAUDE_PROXY_CONFIG": str(tmp_path / "gone.toml")}, tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'gone.toml'} cannot be read: No such file or directory. Correct CLAUDE_PROXY_CONFIG, or the file."
    )


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "claude-proxy.toml").write_bytes(b"# caf\xe9")
    with pytest.raises(SettingsError, match=r"claude-proxy\.toml cannot be read: it is not UTF-8 text\. Correct it"):
        load(ENVIRON, tmp_path)


# --- warnings ---------------------------------------------------------------------------------------------------------

EXPOSED = [
    (f'redcap_api_token = "{TOKEN}"', 0o644, True),
    (f'redcap_api_token = "{TOKEN}"', 0o640, True),
    (f'redcap_api_token = "{TOKEN}"', 0o600, False),
    (f'[servers.lab]\nurl = "{URL}"\ntoken = "LAB"', 0o644, True),
    (f'[servers.lab]\nurl = "{URL}"', 0o644, False),
    ('https_proxy = "http://u:p@proxy:1"', 0o644, True),
    ("max_calls = 5", 0o644, False),
]


@pytest.mark.skipif(os.name != "posix", reason="file modes mean nothing there")
@pytest.mark.parametrize(("text", "mode", "warned"), EXPOSED)
def test_a_token_that_others_can_read_in_the_file_is_warned_of(
    text: str, mode: int, warned: bool, tmp_path: Path
) -> None:
    path = write(tmp_path, text, mode)
    warnings = load(WITH_TOKEN, tmp_path).warnings
    assert [f"chmod 600 {path}" in warning for warning in warnings] == [True] * warned


def test_a_server_that_is_reached_openly_is_warned_of(tmp_path: Path) -> None:
    text = '[servers.lab]\nurl = "http://lab.example.edu/api/"\n[servers.near]\nurl = "http://127.0.0.1/api/"'
    (warning,) = loaded(tmp_path, text).warnings
    assert "[servers.lab] begins with http://" in warning


# --- the example and the reference ------------------------------------------------------------------------------------

EXAMPLE = (ROOT / "claude-proxy.example.toml").read_text(encoding="utf-8")
OPENED = re.sub(r"^#(?! )", "", EXAMPLE, flags=re.MULTILINE)


def test_the_example_can_be_loaded_as_it_is(tmp_path: Path) -> None:
    assert loaded(tmp_path, EXAMPLE) == Settings(URL)


def test_the_example_shows_every_setting_and_every_table(tmp_path: Path) -> None:
    names = [setting.field for setting in TABLE if setting.field != "model_map"]
    assert list(tomllib.loads(OPENED)) == [*names, "models", "aliases", "servers"]
    write(tmp_path, OPENED)
    bundle = ROOT / "tests" / "authority.pem"
    found = load(WITH_TOKEN | {"REDCAP_CA_BUNDLE": str(bundle)}, tmp_path)
    assert found.servers.keys() == set(found.model_servers.values())
    assert found.alias_facts
    assert found.max_calls == Settings(URL).max_calls


def test_what_is_generated_is_not_stale() -> None:
    generated = runpy.run_path(str(ROOT / "scripts" / "generate.py"))["generated"]()
    assert {path.name for path in generated} == {".env.example", "claude-proxy.example.toml", "configuration.md"}
    for path, text in generated.items():
        assert path.read_text(encoding="utf-8") == text, "run scripts/generate.py"
