"""A proxy that several people share: who may use it, and what its figures call them."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from conftest import Redcap, StartProxy

from claude_proxy.errors import SettingsError
from claude_proxy.settings.sources import load
from claude_proxy.settings.table import Settings
from claude_proxy.settings.values import Secret
from claude_proxy.shell.server.access import is_allowed, pseudonym

URL = "https://redcap.example.edu/api/"
ANNE, BEN = "A" * 32, "B" * 32


def digest(token: str) -> str:
    return sha256(token.encode()).hexdigest()


def test_without_a_list_every_token_is_allowed() -> None:
    assert is_allowed(ANNE, Settings(URL))


def test_a_list_allows_whom_it_names(tmp_path: Path) -> None:
    path = tmp_path / "people"
    path.write_text(f"# the lab\n\n{digest(ANNE).upper()}  Anne\n")
    settings = load({"REDCAP_API_URL": URL, "ALLOWED_CLIENTS": str(path)}, None)
    assert is_allowed(ANNE, settings)
    assert not is_allowed(BEN, settings)


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "lists nobody"), (f"{digest(ANNE)}\n{ANNE}\n", "line 2 of the file must begin with a SHA-256 digest")],
)
def test_a_bad_list_is_refused_and_not_quoted(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "people"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load({"REDCAP_API_URL": URL, "ALLOWED_CLIENTS": str(path)}, None)
    assert said in str(caught.value)
    assert ANNE not in str(caught.value)


def test_a_client_has_one_name_as_long_as_the_key_is_the_same() -> None:
    one, two = (Settings(URL, client_hash_key=Secret(key)) for key in ("one", "two"))
    names = {pseudonym(token, settings) for token in (ANNE, BEN) for settings in (one, two)}
    assert len(names) == 4
    assert pseudonym(ANNE, one) == pseudonym(ANNE, Settings(URL, client_hash_key=Secret("one")))
    assert pseudonym(ANNE, Settings(URL)) == pseudonym(ANNE, Settings(URL)) != pseudonym(ANNE, one)
    assert not any(ANNE in name or digest(ANNE).startswith(name) for name in names)


def test_a_shared_proxy_turns_away_who_is_not_listed_and_counts_the_others(
    redcap: Redcap, start_proxy: StartProxy
) -> None:
    proxy = start_proxy(redcap_api_token=None, allowed_clients=frozenset({digest(ANNE)}), client_hash_key=Secret("key"))
    refused = proxy.ask("POST", "/v1/messages", headers={"authorization": f"Bearer {BEN}"})
    assert refused.error[:2] == (401, "authentication_error")
    assert "ALLOWED_CLIENTS" in refused.error[2]
    assert not redcap.requests
    proxy.ask("POST", "/v1/messages/count_tokens", headers={"authorization": f"Bearer {ANNE}"})
    line = proxy.journal_line("POST /v1/messages/count_tokens")
    assert f"client={pseudonym(ANNE, Settings(URL, client_hash_key=Secret('key')))}" in line
