"""The real Claude Code, through the proxy and the pretend REDCap: judged by what it does, shows and leaves behind.

The model's replies are written as a model would write them: what stands in a file as `&sum;` is read and written as
`&amp;sum;`, because the module decodes what comes back once.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from base64 import b64decode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest
from claude_code import NO_EXTRAS, Session, calls, invoke, run_claude, start_claude
from conftest import PATIENCE, TOKEN, Gate, Proxy, Redcap, StartProxy
from small_files import PDF_BYTES, PNG, PNG_BYTES

from claude_proxy.demo.model import ModelRequest, text_of
from claude_proxy.demo.scripted_model import scripted_model

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
        env: Mapping[str, str] = NO_EXTRAS,
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
        env: Mapping[str, str] = NO_EXTRAS,
    ) -> Session:
        return run_claude(
            prompt,
            base_url=proxy.url,
            token=token,
            cwd=folder,
            home=tmp_path / "home",
            model=model,
            extra_args=extra_args,
            env=env,
        )

    return run


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


# --- MCP --------------------------------------------------------------------------------------------------------------

BED = "mcp__ward__bed"
BED_IN_FULL = '{"name":"mcp__ward__bed","description":"Says how the patient in a bed is."'
BED_SAYS = f'<tool_result name="{BED}">\nBetter: 5 &amp;lt; 6 && 37.2 < 38 °C\n</tool_result>'


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """Where the MCP server writes down what it was asked."""
    return tmp_path / "record.jsonl"


@pytest.fixture
def ward(record: Path) -> Sequence[str]:
    """The arguments that give a session the MCP server, and leave to call its tool."""
    server = {"command": sys.executable, "args": [str(Path(__file__).with_name("mcp_server.py")), str(record)]}
    config = json.dumps({"mcpServers": {"ward": server}})
    return [f"--mcp-config={config}", "--strict-mcp-config", f"--allowedTools={BED},ToolSearch"]


def asked_of(record: Path) -> list[object]:
    return [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]


def test_a_tool_of_an_mcp_server_is_found_and_runs(
    redcap: Redcap, proxy: Proxy, claude: Claude, ward: Sequence[str], record: Path
) -> None:
    redcap.queue(
        calls("I need the tool for beds.", invoke("ToolSearch", query=f"select:{BED}", max_results=1)),
        calls("I ask.", invoke(BED, number=7, note="\n5 &amp;lt; 6\n&& more\n")),
        "Bed 7 is better: 5 &amp;lt; 6.",
    )
    session = claude("How is bed 7?", proxy, extra_args=ward)
    assert_it_went_well(session, proxy)
    assert session.result == "Bed 7 is better: 5 &lt; 6."
    assert [call.name for call in session.tool_calls] == ["ToolSearch", BED]
    assert asked_of(record) == [{"number": 7, "note": "5 &lt; 6\n&& more"}]
    before, found, told = redcap.asked
    assert BED in "".join(map(text_of, before.messages)), "its name"
    assert BED_IN_FULL not in "".join(map(text_of, before.messages))
    assert text_of(found.messages[-1]).count(BED_IN_FULL) == 1
    assert BED_SAYS in text_of(told.messages[-1])
    assert_prompts_only_grow(redcap.asked)


def test_a_tool_of_an_mcp_server_without_tool_search(
    redcap: Redcap, proxy: Proxy, claude: Claude, ward: Sequence[str], record: Path
) -> None:
    redcap.queue(calls("I ask.", invoke(BED, number='"7"')), "Bed 7 is better.")
    session = claude("How is bed 7?", proxy, extra_args=ward, env={"ENABLE_TOOL_SEARCH": "false"})
    assert_it_went_well(session, proxy)
    assert session.result == "Bed 7 is better."
    assert asked_of(record) == [{"number": 7}], "an integer, as its schema says"
    assert BED_IN_FULL in redcap.asked[0].system
    assert '"name":"ToolSearch"' not in redcap.asked[0].system
    assert BED_SAYS in text_of(redcap.asked[1].messages[-1])
    assert_prompts_only_grow(redcap.asked)


# --- Structured output ------------------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {"bed": {"type": "integer"}, "better": {"type": "boolean"}, "notes": {"type": "array"}},
    "required": ["bed", "better"],
}


def test_structured_output(redcap: Redcap, proxy: Proxy, claude: Claude) -> None:
    """To Claude Code it is a tool: words in its place are answered with a reminder, a breach of the schema too."""
    redcap.queue(
        "Bed 7 is better.",
        calls("Here it is.", invoke("StructuredOutput", bed=7)),
        calls("Again.", invoke("StructuredOutput", bed=7, better="true", notes='["5 &amp;lt; 6", {"a": 1}]')),
    )
    session = claude("How is bed 7?", proxy, extra_args=[f"--json-schema={json.dumps(SCHEMA)}"])
    assert not session.is_error, session
    output = next(event["structured_output"] for event in session.events if event["type"] == "result")
    assert output == {"bed": 7, "better": True, "notes": ["5 &lt; 6", {"a": 1}]}
    assert [result.is_error for result in session.tool_results] == [True, False]
    assert "StructuredOutput" in text_of(redcap.asked[1].messages[-1])
    assert '<tool_result name="StructuredOutput" status="error">' in text_of(redcap.asked[2].messages[-1])


# --- Pictures and PDFs ------------------------------------------------------------------------------------------------


def shown_by(redcap: Redcap, kind: str) -> list[dict[str, Any]]:
    """The parts of a kind in the last turn that the model was sent."""
    content = redcap.asked[-1].messages[-1]["content"]
    return [part for part in content if part["type"] == kind] if isinstance(content, list) else []


@pytest.mark.parametrize(("model", "kind"), [(None, "image"), ("gpt-4o", "image_url"), ("o3-mini", None)])
def test_a_picture_is_shown_to_a_model_that_can_see(
    redcap: Redcap, proxy: Proxy, claude: Claude, folder: Path, model: str | None, kind: str | None
) -> None:
    (folder / "red.png").write_bytes(PNG_BYTES)
    redcap.queue(calls("I look.", invoke("Read", file_path=folder / "red.png")), "I have looked.")
    session = claude("What is in red.png?", proxy, model=model)
    assert_it_went_well(session, proxy)
    assert session.result == "I have looked."
    told = text_of(redcap.asked[-1].messages[-1])
    assert '<tool_result name="Read">\n' in told
    if kind is None:
        assert "left out: the model behind this alias cannot see images." in told
        assert "image" not in str([part for part in redcap.asked[-1].messages if not isinstance(part["content"], str)])
        return
    (part,) = shown_by(redcap, kind)
    as_image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    as_url = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    assert part in (as_image, as_url)
    assert not redcap.refusals


@pytest.mark.parametrize("model", [None, "gpt-4o"])
def test_a_pdf_is_shown_to_a_model_that_can_read_it(
    redcap: Redcap, proxy: Proxy, claude: Claude, folder: Path, model: str | None
) -> None:
    (folder / "bed.pdf").write_bytes(PDF_BYTES)
    redcap.queue(calls("I look.", invoke("Read", file_path=folder / "bed.pdf")), "I have looked.")
    session = claude("What is in bed.pdf?", proxy, model=model)
    assert_it_went_well(session, proxy)
    assert session.result == "I have looked."
    told = text_of(redcap.asked[-1].messages[-1])
    if model:
        assert "left out: this channel cannot carry it." in told
        assert "extract its text with a tool, for example pdftotext" in told
        return
    (part,) = shown_by(redcap, "document")
    assert part["source"]["media_type"] == "application/pdf"
    assert b64decode(part["source"]["data"]) == PDF_BYTES
    assert not redcap.refusals


# --- Thinking, and replies that are cut off ---------------------------------------------------------------------------


def test_what_a_model_thinks_is_shown_and_not_done(redcap: Redcap, proxy: Proxy, claude: Claude, folder: Path) -> None:
    thought = calls("I could do this:", invoke("Bash", command="touch thought.txt"))
    redcap.queue(
        f"<think>\n{thought}\nBut no.\n</think>\n" + calls("I do it.", invoke("Bash", command="touch done.txt")),
        "<think>\nIt is done.\n</think>\n\nDone.",
    )
    session = claude("Do it.", proxy)
    assert_it_went_well(session, proxy)
    assert session.result == "Done."
    assert session.texts == ("I do it.", "Done.")
    assert [path.name for path in folder.iterdir()] == ["done.txt"]
    first, second = session.thoughts
    assert "touch thought.txt" in first
    assert second == "It is done."
    assert "But no." not in str(redcap.asked[1].messages), "thinking is not told again"


def test_a_call_that_was_cut_off_is_continued(redcap: Redcap, proxy: Proxy, claude: Claude, folder: Path) -> None:
    """The alias ends its replies at 8,192 tokens and says nothing; the file is longer."""
    text = "".join(f"    line {number} && 5 &amp;lt; 6\n" for number in range(1500))
    whole = calls("I write.", invoke("Write", file_path=folder / "long.txt", content=f"\n{text}\n"))

    def model(request: ModelRequest) -> str:
        demand = text_of(request.messages[-1])
        if "was cut off by a length limit" in demand:
            said = text_of(request.messages[-2])
            anchor = demand.partition("go on:\n")[2].partition("\nRepeat nothing")[0]
            return f"<continuation>\n{whole[len(said) - len(anchor) :]}\n</continuation>"
        return "It is written." if "<tool_result" in demand else whole

    redcap.let_answer(model)
    session = claude("Write it.", proxy)
    assert_it_went_well(session, proxy)
    assert session.result == "It is written."
    assert len(whole) > 8192 * 4
    assert (folder / "long.txt").read_text() == text.replace("&amp;", "&")
    assert [call.name for call in session.tool_calls] == ["Write"]
    assert " continuations=1" in proxy.journal


def test_a_reply_beyond_the_clients_limit_is_gone_on_with(redcap: Redcap, proxy: Proxy, claude: Claude) -> None:
    """Claude Code sees the stop reason and asks for the rest."""
    text = " ".join(f"word{number}" for number in range(2000))
    redcap.queue(text, "and that is the end.")
    session = claude("Tell me.", proxy, env={"CLAUDE_CODE_MAX_OUTPUT_TOKENS": "1000"})
    assert not session.is_error, session
    cut, end = session.texts
    assert text.startswith(cut)
    assert end == session.result == "and that is the end."
    assert text_of(redcap.asked[1].messages[-2]) == cut.rstrip()


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
    """The window is the real one: nine files of some 17,000 tokens each do not fit into 128,000.

    How often Claude Code compacts is its own affair: it keeps the end of the conversation, as far as it thinks it fits.
    """
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
    assert {event["compact_result"] for event in session.events if event.get("compact_result")} == {"success"}
    assert "error=PromptTooLong" in proxy.journal, "the proxy's count made it compact, not its own"
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
