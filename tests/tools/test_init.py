"""The first steps: what is asked, what is checked, and a file that changes only when all of that went well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import COLLEAGUES_TOKEN, TOKEN, Redcap

from claude_proxy.errors import CommandFailed, SettingsError
from claude_proxy.settings.dotenv import read_dotenv
from claude_proxy.tools import init
from claude_proxy.tools.init import Console


class Talk:
    """Somebody at the terminal who answers in order, and what was shown."""

    def __init__(self, *answers: str, asks: bool = True) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.said: list[str] = []
        self.console = Console(asks, self._answer, self._answer, self.said.append, lambda f: self.said.append(f.check))

    def _answer(self, question: str) -> str:
        self.asked.append(question)
        if not self.answers:
            raise EOFError
        if self.answers[0] == "^C":
            raise KeyboardInterrupt
        return self.answers.pop(0)


def own(folder: Path) -> dict[str, str]:
    """An environment in which a folder is the user's own."""
    return {"CLAUDE_PROXY_HOME": str(folder)}


def lines(folder: Path) -> list[str]:
    return (folder / ".env").read_text().splitlines()


def test_init_writes_a_new_file_for_its_owner_alone(redcap: Redcap, tmp_path: Path) -> None:
    talk = Talk("", "nonsense", redcap.url.removesuffix("/"), "with blanks", TOKEN)
    init.begin(talk.console, own(tmp_path), tmp_path)
    assert lines(tmp_path) == [f"REDCAP_API_URL={redcap.url}", f"REDCAP_API_TOKEN={TOKEN}"]
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [".env"]
    assert [line for line in talk.said if " " not in line] == ["name", "connection", "TLS", "REDCap", "token"]
    assert sum(line.startswith("This cannot be used: it must be") for line in talk.said) == 2
    assert TOKEN not in "".join([*talk.said, *talk.asked])


THEIRS = f"# mine\r\n\r\nREDCAP_API_TOKEN='{TOKEN}'\r\nLOG_LEVEL = debug # why\r\nexport REDCAP_API_URL=http://old/api/"


def test_init_keeps_the_other_lines_of_a_file(redcap: Redcap, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(THEIRS.encode())
    (tmp_path / ".env").chmod(0o644)
    talk = Talk(redcap.url, "yes", "")  # the token is the one that is there
    init.begin(talk.console, own(tmp_path), tmp_path)
    after = (tmp_path / ".env").read_bytes().decode()
    assert after.startswith("# mine\r\n\r\nREDCAP_API_TOKEN=")
    assert after.endswith(f"\r\nLOG_LEVEL = debug # why\r\nREDCAP_API_URL={redcap.url}\r\n")
    assert "http://old/api/" in talk.asked[1]
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600


REFUSALS: list[tuple[Callable[[str], tuple[str, ...]], str]] = [
    (lambda url: (url, "no"), "left as it is"),
    (lambda url: (url,), "There was no answer"),
    (lambda url: (url, "y", COLLEAGUES_TOKEN, ""), "left as it is"),
    (lambda url: (url, "y", "0" * 32, "y", ""), "Nothing was written"),
    (lambda url: ("nonsense",) * 5, "None of these answers can be used"),
]


@pytest.mark.parametrize(("answers", "words"), REFUSALS)
def test_a_refusal_leaves_the_file_unchanged(
    redcap: Redcap, tmp_path: Path, answers: Callable[[str], tuple[str, ...]], words: str
) -> None:
    (tmp_path / ".env").write_bytes(THEIRS.encode())
    with pytest.raises(CommandFailed, match=words):
        init.begin(Talk(*answers(redcap.url)).console, own(tmp_path), tmp_path)
    assert (tmp_path / ".env").read_bytes().decode() == THEIRS


def test_a_token_that_redcap_refuses_is_written_if_one_insists(redcap: Redcap, tmp_path: Path) -> None:
    init.begin(Talk(redcap.url, "0" * 32, "y").console, own(tmp_path), tmp_path)
    assert read_dotenv(tmp_path / ".env")["REDCAP_API_TOKEN"] == "0" * 32


@pytest.mark.parametrize("place", range(4))
def test_ctrl_c_leaves_everything_as_it_was(redcap: Redcap, tmp_path: Path, place: int) -> None:
    (tmp_path / ".env").write_bytes(THEIRS.encode())
    answers = [redcap.url, "y", "0" * 32, "y", "y"]
    with pytest.raises(KeyboardInterrupt):
        init.begin(Talk(*answers[:place], "^C").console, own(tmp_path), tmp_path)
    assert (tmp_path / ".env").read_bytes().decode() == THEIRS
    assert [path.name for path in tmp_path.iterdir()] == [".env"]


# --- Without a terminal -----------------------------------------------------------------------------------------------


def test_without_a_terminal_the_token_is_read_from_standard_input(redcap: Redcap, tmp_path: Path) -> None:
    init.begin(Talk(TOKEN, asks=False).console, own(tmp_path), tmp_path, redcap.url)
    init.begin(Talk(TOKEN, asks=False).console, own(tmp_path), tmp_path, redcap.url)
    assert lines(tmp_path) == [f"REDCAP_API_URL={redcap.url}", f"REDCAP_API_TOKEN={TOKEN}"]
    with pytest.raises(CommandFailed, match="another REDCAP_API_TOKEN, which is not overwritten"):
        init.begin(Talk(COLLEAGUES_TOKEN, asks=False).console, own(tmp_path), tmp_path, redcap.url)
    with pytest.raises(CommandFailed, match="which is not overwritten"):
        init.begin(Talk(TOKEN, asks=False).console, own(tmp_path), tmp_path, "http://other/api/")
    assert lines(tmp_path) == [f"REDCAP_API_URL={redcap.url}", f"REDCAP_API_TOKEN={TOKEN}"]


@pytest.mark.parametrize(
    ("answers", "url", "words", "code"),
    [
        ((TOKEN,), None, "give --url", 2),
        ((TOKEN,), "nonsense", "--url='nonsense' cannot be used", 2),
        (("",), "", "--url='' cannot be used", 2),
        (("",), "http://x/api/", "no token on standard input", 2),
        ((), "http://x/api/", "There was no answer", 1),
        (("a b",), "http://x/api/", "cannot be used", 2),
    ],
)
def test_without_a_terminal_whatever_is_missing_is_named(
    tmp_path: Path, answers: tuple[str, ...], url: str | None, words: str, code: int
) -> None:
    with pytest.raises(CommandFailed, match=words) as caught:
        init.begin(Talk(*answers, asks=False).console, own(tmp_path), tmp_path, url)
    assert caught.value.code == code
    assert not (tmp_path / ".env").exists()


def test_without_a_terminal_a_failed_check_ends_it(redcap: Redcap, tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"REDCap refused the token.* Nothing was written\.") as caught:
        init.begin(Talk("0" * 32, asks=False).console, own(tmp_path), tmp_path, redcap.url)
    assert caught.value.code == 1
    assert not (tmp_path / ".env").exists()


# --- A folder that may be somebody else's -----------------------------------------------------------------------------

THEIR_ENV = "HTTPS_PROXY=http://me:pass@evil:3128\nDATABASE=x\n"


@pytest.mark.parametrize("asks", [False, True])
def test_what_else_a_folder_decides_is_shown_and_must_be_confirmed(
    redcap: Redcap, tmp_path: Path, *, asks: bool
) -> None:
    (tmp_path / ".env").write_text(THEIR_ENV)
    (tmp_path / "claude-proxy.toml").write_text("")
    talk = Talk(*(["no"] if asks else [TOKEN]), asks=asks)
    with pytest.raises(CommandFailed) as caught:
        init.begin(talk.console, own(tmp_path / "mine"), tmp_path, redcap.url)
    told = "".join([str(caught.value), *talk.asked])
    assert "HTTPS_PROXY=http://…@evil:3128, claude-proxy.toml" in told
    assert "DATABASE" not in told
    assert (tmp_path / ".env").read_text() == THEIR_ENV


def test_what_is_confirmed_stays(redcap: Redcap, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("NO_PROXY=x\n")
    init.begin(Talk("y", redcap.url, TOKEN).console, own(tmp_path / "mine"), tmp_path)
    assert lines(tmp_path) == ["NO_PROXY=x", f"REDCAP_API_URL={redcap.url}", f"REDCAP_API_TOKEN={TOKEN}"]


# --- What is around ---------------------------------------------------------------------------------------------------


def test_it_tells_what_wins_and_what_not_to_commit(redcap: Redcap, tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    talk = Talk(redcap.url, TOKEN)
    init.begin(talk.console, {**own(tmp_path), "REDCAP_API_URL": "http://elsewhere/api/"}, tmp_path)
    assert any("do not commit it" in line for line in talk.said)
    assert any("REDCAP_API_URL is set in the environment, too" in line for line in talk.said)


def test_a_malformed_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("nonsense")
    with pytest.raises(SettingsError, match="line 1"):
        init.begin(Talk().console, own(tmp_path), tmp_path)
    assert (tmp_path / ".env").read_text() == "nonsense"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("A=1\n")
    (tmp_path / ".env").symlink_to("real")
    init.write(tmp_path / ".env", {"B": "2"})
    assert (tmp_path / ".env").is_symlink()
    assert (tmp_path / "real").read_text() == "A=1\nB=2\n"


MERGES = [
    ("", {"A": "1"}, "A=1\n"),
    ("A=0", {"A": "1", "B": "2"}, "A=1\nB=2\n"),
    ("A=0\nA=00\n#A=3\n", {"A": "1"}, "A=0\nA=1\n#A=3\n"),
    ("AB=0\n", {"A": "1"}, "AB=0\nA=1\n"),
    ("\ufeffA = 0\n", {"A": "1"}, "\ufeffA=1\n"),
    ("B=0\r\n", {"A": "a#b $c"}, "B=0\r\nA='a#b $c'\r\n"),
]


@pytest.mark.parametrize(("text", "values", "after"), MERGES)
def test_variables_are_set_in_place_and_read_back(
    tmp_path: Path, text: str, values: dict[str, str], after: str
) -> None:
    assert init.merged(text, values) == after
    (tmp_path / ".env").write_bytes(after.encode())
    read = read_dotenv(tmp_path / ".env")
    assert {name: read[name] for name in values} == values


def test_a_value_that_cannot_be_quoted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="holds a single quote"):
        init.write(tmp_path / ".env", {"A": "it's"})
    assert list(tmp_path.iterdir()) == []
