"""Settings: every one with its default, good values and bad ones; and messages that say what to do."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from claude_proxy.errors import SettingsError
from claude_proxy.settings import sources
from claude_proxy.settings.dotenv import read_dotenv
from claude_proxy.settings.sources import describe_unread, home, load
from claude_proxy.settings.table import TABLE, Settings
from claude_proxy.settings.values import Secret

ROOT = Path(__file__).resolve().parents[2]
URL = "https://redcap.example.edu/api/"
TOKEN = "0123456789ABCDEF0123456789ABCDEF"
NAMES = [setting.name for setting in TABLE]
SECRETS = {setting.name for setting in TABLE if setting.secret}

CA_BUNDLE = str(ROOT / "tests" / "authority.pem")


def loaded(**environ: str) -> Settings:
    return load({"REDCAP_API_URL": URL} | environ, None)


def fault(**environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        loaded(**environ)
    return str(caught.value)


# --- the table --------------------------------------------------------------------------------------------------------


OF_THE_FILE = ["model_servers", "alias_facts", "servers", "exposed_file"]
"""Fields that `claude-proxy.toml` alone can set."""


def test_every_setting_is_a_field_and_every_field_a_setting() -> None:
    assert [*(setting.field for setting in TABLE), *OF_THE_FILE] == [field.name for field in fields(Settings)]


def test_the_defaults_of_the_table_are_those_of_the_class() -> None:
    assert loaded() == Settings(redcap_api_url=URL)


def test_the_defaults() -> None:
    assert loaded() == Settings(
        redcap_api_url=URL,
        redcap_api_token=None,
        listen_host="localhost",
        listen_port=8765,
        redcap_module_prefix="secure_chat_ai",
        redcap_decodes_entities=True,
        model_map={},
        connect_timeout=10,
        upstream_timeout=600,
        stream_delay=15,
        ping_interval=10,
        max_connections=2000,
        max_head_kb=64,
        max_headers=100,
        max_body_mb=32,
        max_bodies_mb=256,
        cache_mb=64,
        head_timeout=20,
        body_timeout=30,
        idle_timeout=120,
        shutdown_grace=30,
        log_level="info",
        log_format="text",
    )


def test_a_name_that_is_no_setting_is_none_of_our_business() -> None:
    assert loaded(VALIDATION="strict", OTHER_PROGRAM="x") == loaded()


GOOD: list[tuple[str, str, Any]] = [
    ("CLIENT_HASH_KEY", "any-secret", Secret("any-secret")),
    ("REDCAP_API_URL", "https://redcap.example.edu/api", URL),
    ("REDCAP_API_URL", "https://redcap.example.edu/redcap/api/", "https://redcap.example.edu/redcap/api/"),
    ("REDCAP_API_URL", "http://localhost:8080/api/", "http://localhost:8080/api/"),
    ("REDCAP_API_URL", "https://[::1]:8443/api/", "https://[::1]:8443/api/"),
    ("REDCAP_API_URL", "https://h/redcap_v15/API", "https://h/redcap_v15/API"),
    ("REDCAP_API_URL", f"  {URL}\n", URL),
    ("REDCAP_API_TOKEN", TOKEN, Secret(TOKEN)),
    ("REDCAP_API_TOKEN", f" {TOKEN} ", Secret(TOKEN)),
    ("REDCAP_API_TOKEN", "short", Secret("short")),
    ("LISTEN_HOST", "localhost", "localhost"),
    ("LISTEN_HOST", "0.0.0.0", "0.0.0.0"),
    ("LISTEN_HOST", "::1", "::1"),
    ("LISTEN_PORT", "0", 0),
    ("LISTEN_PORT", "65535", 65535),
    ("REDCAP_MODULE_PREFIX", "secure_chat_ai_v2.1-b", "secure_chat_ai_v2.1-b"),
    *(("REDCAP_DECODES_ENTITIES", text, True) for text in ("true", "TRUE", "yes", "on", "1")),
    *(("REDCAP_DECODES_ENTITIES", text, False) for text in ("false", "False", "no", "off", "0")),
    ("MODEL_MAP", "{}", {}),
    ("MODEL_MAP", ' {"claude-opus-*": "claude-opus-4", "x": "o1"}', {"claude-opus-*": "claude-opus-4", "x": "o1"}),
    ("VISION_ALIASES", "my-gpt, llama-*, !llama-3*", {"llama-3*": False, "my-gpt": True, "llama-*": True}),
    ("MAX_CALLS", "1", 1),
    ("MAX_WAITING", "0", 0),
    ("CONNECT_TIMEOUT", "0.5", 0.5),
    ("CONNECT_TIMEOUT", "600", 600),
    ("SILENCE_TIMEOUT", "0.1", 0.1),
    ("REDCAP_CA_BUNDLE", CA_BUNDLE, CA_BUNDLE),
    ("REDCAP_TLS_MINIMUM", "1.3", "1.3"),
    *((name, "http://u:p@h:3128", Secret("http://u:p@h:3128")) for name in ("HTTPS_PROXY", "HTTP_PROXY")),
    *((name, "none of ours", Secret("none of ours")) for name in ("HTTPS_PROXY", "HTTP_PROXY")),
    ("NO_PROXY", "localhost, 10.0.0.0/8", "localhost, 10.0.0.0/8"),
    ("UPSTREAM_TIMEOUT", "1", 1),
    ("UPSTREAM_TIMEOUT", "7200", 7200),
    ("STREAM_DELAY", "0", 0),
    ("STREAM_DELAY", "2e1", 20),
    ("PING_INTERVAL", "0.1", 0.1),
    ("MAX_CONNECTIONS", "1", 1),
    ("MAX_HEAD_KB", "1024", 1024),
    ("MAX_HEADERS", "10", 10),
    ("MAX_BODY_MB", "0064", 64),
    ("MAX_BODIES_MB", "1000000", 1_000_000),
    ("CACHE_MB", "0", 0),
    ("CACHE_MB", "100000", 100_000),
    ("HEAD_TIMEOUT", "0.1", 0.1),
    ("BODY_TIMEOUT", "3600", 3600),
    ("IDLE_TIMEOUT", "3600", 3600),
    ("SHUTDOWN_GRACE", "0", 0),
    *(("LOG_LEVEL", text, text.lower()) for text in ("debug", "info", "WARNING", "Error")),
    *(("LOG_FORMAT", text, text.lower()) for text in ("text", "JSON")),
]


@pytest.mark.parametrize(("name", "text", "value"), GOOD, ids=[f"{name}={text}" for name, text, _ in GOOD])
def test_a_good_value(name: str, text: str, value: Any) -> None:
    assert getattr(loaded(**{name: text}), name.lower()) == value


ADDRESS = "must be an address such as https://"
BAD: list[tuple[str, str, str]] = [
    # name, value, the rule that is named
    ("REDCAP_API_URL", "redcap.example.edu/api/", ADDRESS),
    ("REDCAP_API_URL", "ftp://redcap.example.edu/api/", ADDRESS),
    ("REDCAP_API_URL", "https:///api/", ADDRESS),
    ("REDCAP_API_URL", "https://h:port/api/", "ort"),
    ("REDCAP_API_URL", "https://h:99999/api/", "ort"),
    ("REDCAP_API_URL", "https://[::1/api/", "IPv6"),
    ("REDCAP_API_URL", "https://h/api/?x=1", "must end with the path"),
    ("REDCAP_API_URL", "https://h/api/#x", "must end with the path"),
    ("REDCAP_API_URL", "https://h/a pi/", "no blanks"),
    ("REDCAP_API_URL", "https://h/äpi/", "outside ASCII"),
    ("LISTEN_HOST", "http://localhost", "host name or an IP address"),
    ("LISTEN_HOST", "a b", "host name or an IP address"),
    ("LISTEN_PORT", "65536", "whole number from 0 (any free port) to 65535"),
    ("LISTEN_PORT", "-1", "whole number from 0"),
    ("LISTEN_PORT", "80.5", "whole number from 0"),
    ("LISTEN_PORT", "http", "whole number from 0"),
    ("LISTEN_PORT", "８７６５", "whole number from 0"),
    ("REDCAP_MODULE_PREFIX", "secure chat", "one word"),
    ("REDCAP_MODULE_PREFIX", "a/b", "one word"),
    ("REDCAP_DECODES_ENTITIES", "maybe", "true or false"),
    ("REDCAP_DECODES_ENTITIES", "2", "true or false"),
    ("MODEL_MAP", '{"a": }', "cannot be read"),
    ("MODEL_MAP", '{"a": 5}', "must map names to aliases"),
    ("MODEL_MAP", '{"a": ""}', "must map names to aliases"),
    ("MODEL_MAP", '{"a": {"b": "c"}}', "must map names to aliases"),
    ("MODEL_MAP", '["a"]', "a file that can be read"),
    ("MODEL_MAP", "/nowhere/models.json", "a file that can be read (No such file or directory)"),
    ("VISION_ALIASES", "my gpt", "aliases or patterns with commas between them"),
    ("VISION_ALIASES", "!", "aliases or patterns with commas between them"),
    ("MAX_CALLS", "0", "whole number from 1 to 100000"),
    ("MAX_WAITING", "-1", "whole number from 0 to 100000"),
    ("CONNECT_TIMEOUT", "0", "number of seconds from 0.1 to 600"),
    ("CONNECT_TIMEOUT", "601", "number of seconds from 0.1 to 600"),
    ("SILENCE_TIMEOUT", "0", "number of seconds from 0.1 to 3600"),
    ("REDCAP_CA_BUNDLE", "/nowhere/ca.pem", "PEM file with certificates (No such file or directory)"),
    ("REDCAP_CA_BUNDLE", __file__, "PEM file with certificates (it holds no certificate that can be read)"),
    ("REDCAP_TLS_MINIMUM", "1.1", "one of 1.2, 1.3"),
    ("NO_PROXY", "a\tb", "printable text"),
    ("UPSTREAM_TIMEOUT", "10 minutes", "number of seconds from 1 to 7200"),
    ("UPSTREAM_TIMEOUT", "nan", "number of seconds from 1 to 7200"),
    ("UPSTREAM_TIMEOUT", "inf", "number of seconds from 1 to 7200"),
    ("STREAM_DELAY", "-1", "number of seconds from 0 to 240"),
    ("STREAM_DELAY", "241", "number of seconds from 0 to 240"),
    ("PING_INTERVAL", "0", "number of seconds from 0.1 to 120"),
    ("MAX_CONNECTIONS", "0", "whole number from 1 to 100000"),
    ("MAX_CONNECTIONS", "1e3", "whole number from 1 to 100000"),
    ("MAX_HEAD_KB", "64 KB", "whole number from 1 to 1024"),
    ("MAX_HEADERS", "9", "whole number from 10 to 10000"),
    ("MAX_BODY_MB", "1025", "whole number from 1 to 1024"),
    ("MAX_BODY_MB", "３２", "whole number from 1 to 1024"),
    ("MAX_BODIES_MB", "9" * 5000, "whole number from 1 to 1000000"),
    ("CACHE_MB", "-1", "whole number from 0 to 100000"),
    ("HEAD_TIMEOUT", "0", "number of seconds from 0.1 to 600"),
    ("BODY_TIMEOUT", "3601", "number of seconds from 0.1 to 3600"),
    ("IDLE_TIMEOUT", "never", "number of seconds from 0.1 to 3600"),
    ("SHUTDOWN_GRACE", "-1", "number of seconds from 0 to 3600"),
    ("LOG_LEVEL", "verbose", "one of debug, info, warning, error"),
    ("LOG_FORMAT", "xml", "one of text, json"),
]


@pytest.mark.parametrize(("name", "text", "rule"), BAD, ids=[f"{name}={text}" for name, text, _ in BAD])
def test_a_bad_value_is_named_with_its_setting_and_the_rule(name: str, text: str, rule: str) -> None:
    message = fault(**{name: text})
    assert message.startswith(f"{name}={text!r} cannot be used: ")
    assert rule in message
    assert next(setting.help for setting in TABLE if setting.name == name) in message


def test_every_setting_has_good_and_bad_values_here() -> None:
    elsewhere = {"ALLOWED_CLIENTS"}  # in tests/shell/server/test_access.py, for it names a file
    assert {name for name, *_ in GOOD} == set(NAMES) - elsewhere
    assert {name for name, *_ in BAD} == set(NAMES) - SECRETS - elsewhere


def test_a_missing_setting_is_named_with_the_remedy() -> None:
    with pytest.raises(SettingsError) as caught:
        load({}, None)
    message = str(caught.value)
    assert message.startswith("REDCAP_API_URL is not set. ")
    assert "REDCap shows it under API" in message
    assert "REDCAP_API_URL=https://redcap.example.edu/api/" in message
    assert ".env" in message


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_value_counts_as_not_set(name: str) -> None:
    if name == "REDCAP_API_URL":
        assert "is not set" in fault(**{name: "  "})
    else:
        assert loaded(**{name: "  "}) == loaded()


# --- secrets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["two words", "caf\xe9", "a\x07b", "tab\tbed"])
def test_a_bad_token_is_not_shown(token: str) -> None:
    message = fault(REDCAP_API_TOKEN=token)
    assert message.startswith("REDCAP_API_TOKEN cannot be used: ")
    assert "printable ASCII without blanks" in message
    assert token not in message
    assert repr(token) not in message


def test_a_secret_shows_itself_only_when_asked() -> None:
    secret = Secret(TOKEN)
    shown = [repr(secret), str(secret), f"{secret}", f"{secret!r}", repr([secret]), str(loaded(REDCAP_API_TOKEN=TOKEN))]
    assert not any(TOKEN in text for text in shown)
    assert secret.reveal() == TOKEN


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "HTTP_PROXY"])
def test_a_bad_proxy_is_not_shown(name: str) -> None:
    """It may hold a password, wherever in it."""
    message = fault(**{name: "user:hunter2\x07@proxy"})
    assert message.startswith(f"{name} cannot be used: ")
    assert "hunter2" not in message


def test_secrets_are_compared_by_what_they_hold() -> None:
    assert Secret("a") == Secret("a")
    assert hash(Secret("a")) == hash(Secret("a"))
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"


def test_a_password_in_the_address_is_not_shown() -> None:
    message = fault(REDCAP_API_URL="https://user:hunter2@redcap.example.edu/api/")
    assert "no user name or password" in message
    assert "hunter2" not in message


def test_an_address_with_a_password_is_refused() -> None:
    assert "no user name or password" in fault(REDCAP_API_URL="https://user:pw@redcap.example.edu/api/")
    assert "no user name or password" in fault(REDCAP_API_URL="https://user@redcap.example.edu/api/")


# --- names that other programs use, too -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"])
def test_the_lower_case_name_counts_too_and_comes_first(name: str, tmp_path: Path) -> None:
    def found(**environ: str) -> str:
        value = getattr(load({"REDCAP_API_URL": URL} | environ, tmp_path), name.lower())
        return value.reveal() if isinstance(value, Secret) else value

    assert found(**{name.lower(): "lower"}) == "lower"
    assert found(**{name: "upper"}) == "upper"
    assert found(**{name: "upper", name.lower(): "lower"}) == "lower"
    assert found(**{name: "upper", name.lower(): " "}) == "upper"
    (tmp_path / ".env").write_text(f"{name.lower()}=file\n")
    assert found() == "file"
    assert found(**{name: "upper"}) == "upper", "the environment wins over the file"


def test_no_other_name_counts_in_lower_case() -> None:
    assert loaded(listen_port="1") == loaded()


# --- what to tell whoever starts the proxy ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "openly"),
    [
        ("https://redcap.example.edu/api/", False),
        ("http://redcap.example.edu/api/", True),
        ("http://10.1.2.3:8080/api/", True),
        ("http://127.0.0.1.example.edu/api/", True),
        ("http://localhost.example.edu/api/", True),
        ("http://localhost:8080/api/", False),
        ("http://redcap.localhost/api/", False),
        ("http://127.0.0.1/api/", False),
        ("http://[::1]:80/api/", False),
    ],
)
def test_a_token_that_others_can_read_on_the_way_is_warned_of(url: str, openly: bool) -> None:
    settings = loaded(REDCAP_API_URL=url)
    assert settings.token_travels_openly is openly
    assert ["http://" in warning and "token" in warning for warning in settings.warnings] == [True] * openly


# --- MODEL_MAP from a file --------------------------------------------------------------------------------------------

MAP_FILES = [
    ("models.json", '{"claude-*": "claude", "fast": "gpt-4o"}'),
    ("models.toml", '"claude-*" = "claude"\nfast = "gpt-4o"\n'),
]


@pytest.mark.parametrize(("name", "text"), MAP_FILES)
def test_the_model_map_may_be_a_file(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert loaded(MODEL_MAP=str(tmp_path / name)).model_map == {"claude-*": "claude", "fast": "gpt-4o"}


BAD_MAP_FILES = [
    ("models.json", b"{", "cannot be read"),
    ("models.json", b'["a"]', "must map names to aliases"),
    ("models.json", b'{"a": "\xff"}', "not UTF-8"),
    ("models.toml", b"[a]\nb = 'c'\n", "must map names to aliases"),
    ("models.toml", b"a = ", "cannot be read"),
]


@pytest.mark.parametrize(("name", "data", "rule"), BAD_MAP_FILES, ids=str)
def test_a_bad_file(name: str, data: bytes, rule: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    message = fault(MODEL_MAP=str(tmp_path / name))
    assert str(tmp_path / name) in message
    assert rule in message


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert "Is a directory" in fault(MODEL_MAP=str(tmp_path))


def test_a_map_that_is_nested_too_deeply_is_said_so_without_a_traceback() -> None:
    fault(MODEL_MAP='{"a":' * 100_000)


# --- .env -------------------------------------------------------------------------------------------------------------

LINES: list[tuple[str, dict[str, str]]] = [
    ("A=b", {"A": "b"}),
    ("  A = b  ", {"A": "b"}),
    ("export A=b", {"A": "b"}),
    ("A=", {"A": ""}),
    ("A=b c", {"A": "b c"}),
    ("A=b=c", {"A": "b=c"}),
    ("A=b # comment", {"A": "b"}),
    ("A=b#c", {"A": "b#c"}),
    ("A= # comment", {"A": ""}),
    ("A='b # c'", {"A": "b # c"}),
    ("A='b' # comment", {"A": "b"}),
    ('A="b # c" # d', {"A": "b # c"}),
    ('A="say \\"b\\""', {"A": 'say "b"'}),
    ('A=\'{"a": "b"}\'', {"A": '{"a": "b"}'}),
    ("A='\\n'", {"A": "\\n"}),
    ("A=it's", {"A": "it's"}),
    ("A=''", {"A": ""}),
    ("# A=b", {}),
    ("\n  \n\t# x\n", {}),
    ("A=1\nB=2\r\nA=3", {"A": "3", "B": "2"}),
    ("\ufeffA=b", {"A": "b"}),
    ("_a1=b", {"_a1": "b"}),
    ("A=é😀", {"A": "é😀"}),
    ("", {}),
]


@pytest.mark.parametrize(("text", "variables"), LINES, ids=[repr(text) for text, _ in LINES])
def test_lines_of_a_dotenv(text: str, variables: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_bytes(text.encode())
    assert read_dotenv(path) == variables


@pytest.mark.parametrize("text", ["A='b' # it's 'c'", 'A="b" # say "c"'])
def test_a_comment_may_hold_quotes(text: str, tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text(text)
    assert read_dotenv(path) == {"A": "b"}


@pytest.mark.parametrize("line", [f"REDCAP_API_TOKEN {TOKEN}", TOKEN, "=b", "1A=b", "A-B=c", "export"])
def test_a_line_that_is_no_assignment_is_named_by_its_number_only(line: str, tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text(f"# first\nA=b\n{line}\n")
    with pytest.raises(SettingsError) as caught:
        read_dotenv(path)
    assert f"{path}, line 3: this is not NAME=value" in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_without_a_file_there_are_no_variables(tmp_path: Path) -> None:
    assert read_dotenv(tmp_path / ".env") == {}


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"A=caf\xe9")
    (tmp_path / "folder").mkdir()
    for name, reason in (("latin", "not UTF-8"), ("folder", "Is a directory")):
        with pytest.raises(SettingsError) as caught:
            read_dotenv(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert reason in str(caught.value)


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"REDCAP_API_URL={URL}\nLISTEN_PORT=1\nLOG_LEVEL=debug\nUNKNOWN=x\n")
    found = load({"LISTEN_PORT": "2", "LOG_LEVEL": " "}, tmp_path)
    assert (found.redcap_api_url, found.listen_port, found.log_level) == (URL, 2, "debug")
    with pytest.raises(SettingsError):
        load({}, None)


@hypothesis.settings(deadline=None, derandomize=True)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0'", exclude_categories=["Cc", "Zl", "Zp", "Cs"])))
def test_a_value_in_single_quotes_is_taken_as_it_stands(tmp_path_factory: pytest.TempPathFactory, value: str) -> None:
    path = tmp_path_factory.getbasetemp() / "quoted.env"
    path.write_text(f"A='{value}'\n", encoding="utf-8")
    assert read_dotenv(path) == {"A": value}


# --- .env.example -----------------------------------------------------------------------------------------------------

ENV_EXAMPLE = (Path(__file__).parents[2] / ".env.example").read_text(encoding="utf-8")


def test_the_example_can_be_loaded_as_it_is(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(ENV_EXAMPLE)
    assert load({}, tmp_path) == Settings(redcap_api_url="https://redcap.example.edu/api/")


def test_the_example_shows_every_setting_once_with_its_help_and_default(tmp_path: Path) -> None:
    shown = re.findall(r"^(?:# )?([A-Z_]+)=", ENV_EXAMPLE, re.MULTILINE)
    assert shown == NAMES
    words = " ".join(line.removeprefix("# ") for line in ENV_EXAMPLE.splitlines())
    assert [setting.name for setting in TABLE if setting.help not in words] == []
    (tmp_path / ".env").write_text(re.sub(r"^# ([A-Z_]+=)", r"\1", ENV_EXAMPLE, flags=re.MULTILINE))
    assert load({}, tmp_path) == Settings(
        redcap_api_url="https://redcap.example.edu/api/",
        model_map={"claude-opus-*": "claude-opus-4"},
        vision_aliases={"gpt-4o-text": False, "my-gpt": True},
    )


def test_what_must_be_given_is_not_commented_out() -> None:
    open_lines = [line for line in ENV_EXAMPLE.splitlines() if line and not line.startswith("#")]
    assert open_lines == ["REDCAP_API_URL=https://redcap.example.edu/api/", "REDCAP_API_TOKEN=", "CLIENT_HASH_KEY="]


# --- where the files lie ----------------------------------------------------------------------------------------------


def test_the_users_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = Path(sources.__file__).resolve().parents[2]
    assert home({}) == checkout
    assert home({"CLAUDE_PROXY_HOME": str(tmp_path)}) == tmp_path
    monkeypatch.setattr(
        sources, "__file__", str(tmp_path / "site-packages" / "claude_proxy" / "settings" / "sources.py")
    )
    assert home({"XDG_CONFIG_HOME": "/x"}) == Path("/x/claude-proxy")
    assert home({"APPDATA": "/y"}) == Path("/y/claude-proxy")
    assert home({}) == Path("~/.config/claude-proxy").expanduser()
    assert home({"XDG_CONFIG_HOME": "x"}) == home({}), "a relative one would be in the working folder"
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(SettingsError, match="CLAUDE_PROXY_HOME"):
        home({})


def test_settings_that_are_not_read_are_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("HTTP_PROXY=http://x\n")
    assert describe_unread(tmp_path / "own") == "", "another program's"
    (tmp_path / ".env").write_text("not ours")
    assert describe_unread(tmp_path / "own") == ""
    (tmp_path / ".env").write_text("REDCAP_API_URL=http://x/\n")
    (tmp_path / "claude-proxy.toml").touch()
    told = describe_unread(tmp_path / "own")
    assert "(.env and claude-proxy.toml) are not read" in told
    assert "--here" in told
    assert str(tmp_path / "own") in told
    assert describe_unread(tmp_path) == ""


@pytest.mark.parametrize("file", [".env", "claude-proxy.toml"])
def test_a_path_in_a_file_leads_from_there_and_not_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """A repository may hold a file of the same name: whom TLS trusts must not depend on where one stands."""
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    for folder, digit in ((mine, "a"), (theirs, "b")):
        folder.mkdir()
        (folder / "clients.txt").write_text(digit * 64)
        (folder / "models.json").write_text(f'{{"x": "{digit}"}}')
        trustme.CA().cert_pem.write_to_path(folder / "ca.pem")
    paths = {"redcap_ca_bundle": "ca.pem", "allowed_clients": "clients.txt", "model_map": "models.json"}
    lines = [f'{name.upper() if file == ".env" else name} = "{path}"' for name, path in paths.items()]
    (mine / file).write_text("\n".join(lines))
    monkeypatch.chdir(theirs)
    settings = load({"REDCAP_API_URL": "https://h/api/"}, mine)
    assert settings.redcap_ca_bundle == str(mine / "ca.pem")
    assert settings.allowed_clients == frozenset({"a" * 64})
    assert settings.model_map == {"x": "a"}
