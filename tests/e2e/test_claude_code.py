"""The real Claude Code, through the proxy and the pretend REDCap: judged by what it does, shows and leaves behind.

The model's replies are written as a model would write them: what stands in a file as `&sum;` is read and written as
`&amp;sum;`, because the module decodes what comes back once.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import pytest
from claude_code import Session, run_claude, start_claude
from conftest import PATIENCE, TOKEN, Gate, Proxy, Redcap, StartProxy

from claude_proxy.shell.scripted_model import scripted_model
from claude_proxy.shell.simulator import ModelRequest, text_of

pytestmark = pytest.mark.e2e


# --- What the tests work with -----------------------------------------------------------------------------------------


class Claude(Protocol):
    def __call__(
        self,
        prompt: str,
        proxy: Proxy,
        *,
        token: str = TOKEN,
        model: str | None = None,
        extra_args: Sequence[str] = (),
    ) -> Session:
        """Run one session in `folder`."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where sessions work."""
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture
def claude(tmp_path: Path, folder: Path) -> Claude:
    def run(
        prompt: str,
        proxy: Proxy,
        *,
        token: str = TOKEN,
        model: str | None = None,
        extra_args: Sequence[str] = (),
    ) -> Session:
        home = tmp_path / "home"
        return run_claude(
            prompt, base_url=proxy.url, token=token, cwd=folder, home=home, model=model, extra_args=extra_args
        )

    return run


def calls(words: str, *invokes: str) -> str:
    """A reply with calls."""
    return "\n".join([words, "<function_calls>", *invokes, "</function_calls>"])


def invoke(tool: str, **parameters: object) -> str:
    lines = [f'<parameter name="{name}">{value}</parameter>' for name, value in parameters.items()]
    return "\n".join([f'<invoke name="{tool}">', *lines, "</invoke>"])


def assert_it_went_well(session: Session, proxy: Proxy) -> None:
    assert not session.is_error, session
    assert session.exit_code == 0, session
    assert not session.denials, session
    assert not session.api_retries, session
    assert not [result for result in session.tool_results if result.is_error], session
    lines = [line for line in proxy.journal.splitlines() if 'route="POST /v1/messages"' in line]
    assert all(" status=200 " in line for line in lines)


def assert_prompts_only_grow(asked: Sequence[ModelRequest]) -> None:
    """Each prompt is the one before and more, but for the line that ends the last message: prefix caches live on it."""
    assert len({request.system for request in asked}) == 1
    for earlier, later in itertools.pairwise(asked):
        *turns, last = [text_of(message) for message in earlier.messages]
        assert [text_of(message) for message in later.messages[: len(turns)]] == turns
        body, _, reminder = last.rpartition("\n\n")
        assert "<function_calls>" in reminder
        assert text_of(later.messages[len(turns)]) == body


# --- A session --------------------------------------------------------------------------------------------------------

NOTES = "int *p = &sum;\n5 &lt; 6 and 5 < 6\n"
PROGRAM = """\
#include <stdio.h>
int sum = 3;
/* 5 &lt; 6, and &amp;lt; too; a && b; &nbsp;; 100% ${HOME} `x` \\n */
int *p = &sum;

\tint main(void) { return (*p < 4 && "</parameter>") ? 0 : 1; }
"""
PROGRAM_AS_THE_MODEL_WRITES_IT = (
    PROGRAM.replace("&amp;lt;", "&amp;amp;lt;")
    .replace("5 &lt;", "5 &amp;lt;")
    .replace("&nbsp;", "&amp;nbsp;")
    .replace("&sum;", "&amp;sum;")
)


def test_a_session_that_reads_writes_edits_runs_and_answers(
    redcap: Redcap, proxy: Proxy, claude: Claude, folder: Path
) -> None:
    (folder / "notes.txt").write_text(NOTES)
    program = folder / "sum.c"
    redcap.queue(
        calls(
            "I look at the notes in two ways.",
            invoke("Read", file_path=folder / "notes.txt"),
            invoke("Bash", command="cat notes.txt && wc -l < notes.txt", description="Show the notes"),
        ),
        calls("Now the program.", invoke("Write", file_path=program, content=f"\n{PROGRAM_AS_THE_MODEL_WRITES_IT}\n")),
        calls(
            "One line is wrong.",
            invoke(
                "Edit",
                file_path=program,
                old_string="/* 5 &amp;lt; 6",
                new_string="\n/* &amp;eacute; &\n * 6 &amp;gt; 5\n",
                replace_all="false",
            ),
        ),
        calls("Last, a copy.", invoke("Bash", command="cp sum.c copy.c && grep -c '&amp;sum;' sum.c > count.txt")),
        "Done: `int *p = &amp;sum;` points to the sum, and 5 < 6 && 6 > 5, or 5 &amp;lt; 6.",
    )
    session = claude("Make sum.c from my notes: int *p = &sum;", proxy)

    assert_it_went_well(session, proxy)
    edited = PROGRAM.replace("/* 5 &lt; 6", "/* &eacute; &\n * 6 &gt; 5")
    assert program.read_text() == edited
    assert (folder / "copy.c").read_text() == edited
    assert (folder / "count.txt").read_text() == "1\n"
    assert session.result == "Done: `int *p = &sum;` points to the sum, and 5 < 6 && 6 > 5, or 5 &lt; 6."
    assert [call.name for call in session.tool_calls] == ["Read", "Bash", "Write", "Edit", "Bash"]
    assert session.texts[0] == "I look at the notes in two ways."

    asked = redcap.asked
    assert len(asked) == 5
    assert_prompts_only_grow(asked)
    assert "x-anthropic-billing-header" not in asked[0].system
    assert "Make sum.c from my notes: int *p = &amp;sum;" in text_of(asked[0].messages[1])
    results = text_of(asked[1].messages[-1])
    assert results.index('<tool_result name="Read">') < results.index('<tool_result name="Bash">')
    assert "int *p = &amp;sum;\n5 &amp;lt; 6 and 5 < 6\n2\n</tool_result>" in results
    assert PROGRAM_AS_THE_MODEL_WRITES_IT in text_of(asked[2].messages[-2]), "its own call comes back as it wrote it"
    assert all(request.alias == "claude" for request in asked)


def test_a_session_with_the_demos_model(redcap: Redcap, proxy: Proxy, claude: Claude, folder: Path) -> None:
    redcap.let_answer(scripted_model)
    session = claude(
        "write a.c with `int *p = &sum; // 5 &lt; 6 && a` then read a.c then replace `5 &lt; 6` with `6 &gt; 5` in a.c "
        "then run `cat a.c && cp a.c b.c`",
        proxy,
    )
    assert_it_went_well(session, proxy)
    assert (folder / "b.c").read_text() == "int *p = &sum; // 6 &gt; 5 && a"
    assert session.result == 'Done, in 5 steps. The tool Bash answered: "int *p = &sum; // 6 &gt; 5 && a"'


def test_a_model_that_thinks_for_longer_than_streams_stay_silent(
    redcap: Redcap, start_proxy: StartProxy, claude: Claude
) -> None:
    proxy = start_proxy(stream_delay=0.05, ping_interval=0.1)

    def think(reply: str) -> str:
        time.sleep(0.5)
        return reply

    redcap.queue(
        lambda _: think(calls("I look.", invoke("Bash", command="echo found"))),
        lambda _: think("It is found."),
    )
    session = claude("Look for it.", proxy)
    assert_it_went_well(session, proxy)
    assert session.result == "It is found."
    assert [result.text for result in session.tool_results] == ["found"]


def test_a_user_who_interrupts_ends_the_call(redcap: Redcap, proxy: Proxy, folder: Path, tmp_path: Path) -> None:
    gate = Gate("too late")
    redcap.queue(gate)
    with start_claude("Think!", base_url=proxy.url, token=TOKEN, cwd=folder, home=tmp_path / "home") as session:
        assert gate.reached.wait(PATIENCE)
        session.interrupt()
        proxy.journal_line("status=499")
        gate.open()


# --- Tools that are found, and agents that are sent -------------------------------------------------------------------


def test_a_tool_that_is_found_by_searching_can_be_called(redcap: Redcap, proxy: Proxy, claude: Claude) -> None:
    redcap.queue(
        calls("I need another tool.", invoke("ToolSearch", query="select:CronList", max_results=3)),
        calls("There it is.", invoke("CronList")),
        "Nothing is planned.",
    )
    session = claude("What is planned?", proxy)
    assert_it_went_well(session, proxy)
    assert session.result == "Nothing is planned."
    assert [call.name for call in session.tool_calls] == ["ToolSearch", "CronList"]
    before, after, _ = redcap.asked
    description = '{"name":"CronList","description":'
    assert description not in before.system
    assert description not in after.system, "the beginning of the prompt stays as it was"
    assert text_of(after.messages[-1]).count(description) == 1
    assert not any("DeferredToolPlaceholder" in request.system for request in redcap.asked)
    assert_prompts_only_grow(redcap.asked)


def test_a_subagent_has_its_own_conversation(redcap: Redcap, proxy: Proxy, claude: Claude, folder: Path) -> None:
    def model(request: ModelRequest) -> str:
        conversation = [text_of(message) for message in request.messages]
        if "Count the words in this folder." in conversation[1]:
            ran = any("<tool_result name=" in turn for turn in conversation)
            return "There are 2 words." if ran else calls("I count.", invoke("Bash", command="cat *.txt | wc -w"))
        if "There are 2 words." in conversation[-1]:
            return "The agent counted 2 words."
        agent = {
            "description": "Count words",
            "prompt": "Count the words in this folder.",
            "run_in_background": "false",
        }
        return calls("I send an agent.", invoke("Agent", subagent_type="general-purpose", **agent))

    (folder / "a.txt").write_text("five six\n")
    redcap.let_answer(model)
    session = claude("Have somebody look at the words.", proxy)
    assert_it_went_well(session, proxy)
    assert session.result == "The agent counted 2 words."
    agent = next(call for call in session.tool_calls if call.parent is None)
    assert "There are 2 words." in session.result_of(agent).text
    own = [request for request in redcap.asked if len(request.messages) == 4 and "I count." in str(request.messages)]
    assert len(own) == 1, "the agent's tool loop"
    assert '<tool_result name="Bash">\n2\n</tool_result>' in text_of(own[0].messages[-1])
    assert "Have somebody look at the words." not in str(own[0].messages)


# --- Models -----------------------------------------------------------------------------------------------------------


def test_an_alias_can_be_chosen_by_its_own_name(redcap: Redcap, proxy: Proxy, claude: Claude, folder: Path) -> None:
    redcap.queue(calls("I write.", invoke("Bash", command="echo yes > it.txt")), "It is written.")
    session = claude("Write it.", proxy, model="o3-mini")
    assert_it_went_well(session, proxy)
    assert session.result == "It is written."
    assert (folder / "it.txt").read_text() == "yes\n"
    assert [request.alias for request in redcap.asked] == ["o3-mini"] * 2
    assert all(request.max_tokens == 32_000 for request in redcap.asked), "as the client asked; reasoning models obey"


def test_a_conversation_beyond_the_window_is_compacted_and_goes_on(
    redcap: Redcap, proxy: Proxy, claude: Claude, folder: Path
) -> None:
    """The window is the real one: nine files of some 17,000 tokens each do not fit into 128,000."""
    for number in range(9):
        (folder / f"{number}.txt").write_text("alpha beta gamma delta epsilon zeta eta theta\n" * 1500)

    def model(request: ModelRequest) -> str:
        conversation = [text_of(message) for message in request.messages]
        if "<summary>" in conversation[-1]:
            return "<analysis>\nShort.\n</analysis>\n\n<summary>\nAll nine files hold Greek letters.\n</summary>"
        if any("All nine files hold Greek letters." in turn for turn in conversation):
            return "Greek letters, in all of them."
        first = 3 * sum(message["role"] == "assistant" for message in request.messages)
        return calls("I read on.", *[invoke("Read", file_path=folder / f"{first + i}.txt") for i in range(3)])

    redcap.let_answer(model)
    session = claude("What is in these files?", proxy, model="gpt-4o")
    assert not session.is_error, session
    assert session.result == "Greek letters, in all of them."
    assert [event["compact_result"] for event in session.events if event.get("compact_result")] == ["success"]
    assert proxy.journal.count("error=PromptTooLong") == 1
    assert not redcap.refusals, "what is too long was never sent"
    assert not session.api_retries, session


# --- What goes wrong, as the user sees it -----------------------------------------------------------------------------


def failed_at_once(session: Session, proxy: Proxy, *, requests: int = 1) -> str:
    """What the user is shown when a session failed without being tried for minutes."""
    assert session.is_error, session
    assert not session.api_retries, session
    assert proxy.journal.count('route="POST /v1/messages"') == requests
    return session.result


def test_a_wrong_token_is_explained_at_once(redcap: Redcap, proxy: Proxy, claude: Claude) -> None:
    shown = failed_at_once(claude("Hello!", proxy, token="0" * 32), proxy)
    assert "401" in shown
    assert "it is not the REDCAP_API_TOKEN that the proxy was started with" in shown
    assert not redcap.requests


def test_a_token_that_redcap_refuses_is_explained_at_once(start_proxy: StartProxy, claude: Claude) -> None:
    proxy = start_proxy(redcap_api_token=None)
    assert "REDCap refused the token" in failed_at_once(claude("Hello!", proxy, token="0" * 32), proxy)


def test_an_alias_that_never_answered_is_explained_at_once(proxy: Proxy, claude: Claude) -> None:
    shown = failed_at_once(claude("Hello!", proxy, model="gtp-4o"), proxy)
    assert "'gtp-4o'" in shown
    assert "MODEL_MAP" in shown
    assert "network difficulties" not in shown, "the module's apology is not the model's words"


def test_what_fails_after_the_stream_has_begun_is_explained_too(start_proxy: StartProxy, claude: Claude) -> None:
    """The error event makes Claude Code ask once more without a stream, and that gets the true status."""
    proxy = start_proxy(stream_delay=0.0)
    shown = failed_at_once(claude("Hello!", proxy, model="gtp-4o"), proxy, requests=2)
    assert "'gtp-4o'" in shown
