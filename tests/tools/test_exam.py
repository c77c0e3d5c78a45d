"""The exam against a pretend REDCap: models that are perfect, or bad in one way, and what the table says of each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import faults
import pytest
from conftest import COLLEAGUES_TOKEN, TOKEN, Redcap

from claude_proxy.core.aliases import tokens
from claude_proxy.core.aliases.mapping import describe_alias
from claude_proxy.core.calls.call import Call
from claude_proxy.core.calls.writer import CallWriter
from claude_proxy.core.messages.content import Message, Tool, ToolUse, Usage
from claude_proxy.core.prompt.armour import armour
from claude_proxy.demo.model import ModelFailure, ModelRequest, text_of
from claude_proxy.settings.table import Server, Settings
from claude_proxy.settings.values import Secret
from claude_proxy.shell.proxy.exchange import Exchange, Outcome
from claude_proxy.shell.upstream.client import Upstream
from claude_proxy.tools import exam
from claude_proxy.tools.exam import Mark
from claude_proxy.tools.exam_tasks import LONG_FILE, TASKS, TOOLS, Task, judge, long_task

WRITER = CallWriter({tool["name"]: Tool(tool["name"], tool["description"], tool["input_schema"]) for tool in TOOLS})
CAPS = {"claude": 8_192, "o3-mini": 4_000}
"""Where the exam's long file is cut."""


def task_of(request: ModelRequest) -> Task:
    """The task that a model is asked to do."""
    said = "\n".join(map(text_of, request.messages))
    long = long_task(describe_alias(request.alias))
    known = [*TASKS, *([long[0]] if long else [])]
    (found,) = [task for task in known if armour(str(task.messages[0]["content"])) in said]
    return found


def perfect(request: ModelRequest) -> str:
    """Do what the task says, and write as one reads: with the armour. Go on where a reply was cut off."""
    task = task_of(request)
    if not task.calls:
        return "Teal, Paris, or for each in *; do echo; done"
    written = armour(WRITER.write([Call(name, dict(arguments)) for name, arguments in task.calls]))
    demand = text_of(request.messages[-1])
    if "Your reply was cut off" not in demand:
        return written
    anchor = demand.partition("and go on:\n")[2].partition("\nRepeat nothing")[0]
    return f"<continuation>\n{written[written.index(anchor) :]}\n</continuation>"


def in_another_way(request: ModelRequest) -> str:
    """Write what the first ask cannot read, and repeat it rightly; say numbers as they should not be."""
    if task_of(request).name == "numbers":
        return perfect(request).replace("100", "101")
    if task_of(request).name == "a command" and len(request.messages) < 4:
        return '<function_calls>\n<invoke name="Shell">\n</invoke>\n</function_calls>'
    return perfect(request)


def forgets_the_armour(request: ModelRequest) -> str:
    return perfect(request).replace("&amp;", "&")


def calls_always(request: ModelRequest) -> str:
    if task_of(request).calls:
        return perfect(request)
    return WRITER.write([Call("Bash", {"command": "date"})])


def stops_when_cut(request: ModelRequest) -> str:
    if "Your reply was cut off" in text_of(request.messages[-1]):
        return "I have nothing to add."
    return perfect(request)


def fails(_: ModelRequest) -> str:
    raise ModelFailure("it is down")


@pytest.fixture(autouse=True)
def nothing_is_left_over() -> Iterator[None]:
    with faults.nothing_left_over():
        yield


def settings_for(redcap: Redcap, **changes: Any) -> Settings:
    return Settings(redcap_api_url=redcap.url, redcap_api_token=Secret(TOKEN), **changes)


def hold(
    redcap: Redcap,
    model: Callable[[ModelRequest], str],
    *aliases: str,
    slept: list[float] | None = None,
    **changes: Any,
) -> list[Mark]:
    """The marks of an exam before a model."""
    redcap.let_answer(model)
    settings = exam.lead_to(aliases, settings_for(redcap, **changes))
    with closing(Exchange(settings, Upstream(settings))) as exchange:
        questions = list(exam.prepare(aliases, exchange))
        sleep = (lambda _: None) if slept is None else slept.append
        return list(exam.hold(questions, exchange, TOKEN, 30, sleep))


def row(marks: list[Mark], alias: str = "claude") -> dict[str, Any]:
    """What the table says of an alias."""
    (found,) = [each for each in exam.as_json(marks, show=False)["aliases"] if each["alias"] == alias]
    return dict(found)


def verdicts(marks: list[Mark]) -> dict[str, str]:
    return {mark.task: mark.verdict for mark in marks}


@pytest.mark.parametrize("alias", CAPS)
def test_a_perfect_model_passes(redcap: Redcap, alias: str) -> None:
    marks = hold(redcap, perfect, alias)
    assert set(verdicts(marks).values()) == {"right"}
    told = row(marks, alias)
    assert (told["fit"], told["calls read"], told["arguments exact"]) == ("yes", "9 of 9", "9 of 9")
    assert (told["entities exact"], told["needless calls"], told["failed"]) == ("2 of 2", "0 of 3", 0)
    assert told["long file"] == "right, 1 continued"
    assert float(told["tokens/s"]) > 0
    assert marks[-1].output_tokens > CAPS[alias], "the file is beyond the limit"


def test_a_model_that_breaks_entities_is_found(redcap: Redcap) -> None:
    marks = hold(redcap, forgets_the_armour, "claude")
    wrong = {name: verdict for name, verdict in verdicts(marks).items() if verdict != "right"}
    assert wrong == {"a file with entities": "entities changed", "an edit with entities": "entities changed"}
    told = row(marks)
    assert (told["fit"], told["calls read"], told["arguments exact"]) == ("mostly", "9 of 9", "7 of 9")
    assert told["entities exact"] == "0 of 2"


def test_a_model_that_calls_without_need_is_found(redcap: Redcap) -> None:
    marks = hold(redcap, calls_always, "claude")
    wrong = {name for name, verdict in verdicts(marks).items() if verdict == "called without need"}
    assert wrong == {task.name for task in TASKS if not task.calls}
    told = row(marks)
    assert (told["needless calls"], told["calls read"], told["fit"]) == ("3 of 3", "9 of 9", "mostly")


def test_a_model_that_is_cut_off_and_does_not_go_on_is_found(redcap: Redcap) -> None:
    marks = hold(redcap, stops_when_cut, "claude")
    assert {name: verdict for name, verdict in verdicts(marks).items() if verdict != "right"} == {LONG_FILE: "cut off"}
    told = row(marks)
    assert (told["long file"], told["calls read"], told["arguments exact"]) == ("cut off, 0 continued", *["8 of 9"] * 2)


def test_a_repair_and_other_arguments_are_told_apart(redcap: Redcap) -> None:
    marks = hold(redcap, in_another_way, "claude")
    found = verdicts(marks)
    assert (found["a command"], found["numbers"]) == ("right after a repair", "other call or arguments")
    assert (row(marks)["calls read"], row(marks)["arguments exact"]) == ("9 of 9", "8 of 9")


def test_a_model_that_only_talks_calls_nothing(redcap: Redcap) -> None:
    marks = hold(redcap, lambda _: "Certainly! I will do that right away.", "gpt-4.1")
    told = row(marks, "gpt-4.1")
    assert (told["fit"], told["calls read"], told["needless calls"]) == ("no", "0 of 8", "0 of 3")
    assert told["long file"] == "-", "its limit is too high to be tried"
    assert set(verdicts(marks).values()) == {"right", "no call"}


def test_an_alias_that_has_never_answered_is_asked_once(redcap: Redcap) -> None:
    def claude_only(request: ModelRequest) -> str:
        return perfect(request) if request.alias == "claude" else fails(request)

    marks = hold(redcap, claude_only, "o1", "claude")
    assert [mark.verdict for mark in marks[:3]] == ["ModelNeverAnswered", "not asked", "not asked"]
    assert row(marks, "o1") == row(marks, "o1") | {"fit": "no answer", "calls read": "0 of 0", "seconds": "-"}
    assert row(marks)["fit"] == "yes"
    assert [request.fields["model"] for request in redcap.requests].count("o1") == 1


def test_a_single_failure_is_shown_by_its_class_and_waited_for(redcap: Redcap) -> None:
    def stumbles(request: ModelRequest) -> str:
        return fails(request) if task_of(request).name == "numbers" else perfect(request)

    slept: list[float] = []
    marks = hold(redcap, stumbles, "claude", slept=slept)
    assert verdicts(marks)["numbers"] == "ModelOverloaded"
    assert (row(marks)["failed"], row(marks)["fit"]) == (1, "mostly")
    assert slept[0] == 0
    assert slept[2] >= 1, "as long as the failure says"
    assert "- claude, numbers: ModelOverloaded, " in exam.table_text(marks)


def test_a_wrong_token_is_tried_once_for_each_alias(redcap: Redcap) -> None:
    redcap.tokens = {COLLEAGUES_TOKEN}
    marks = hold(redcap, perfect, "claude", "o1")
    assert [mark.verdict for mark in marks if mark.verdict != "not asked"] == ["AuthenticationFailed"] * 2
    assert len(redcap.requests) == 2


def test_asks_keep_a_distance_and_continuations_count(redcap: Redcap) -> None:
    """Thirty a minute are two seconds for each ask, those of a question after the first included."""
    slept: list[float] = []
    marks = hold(redcap, perfect, "claude", "o3-mini", slept=slept)
    assert [mark.continuations for mark in marks].count(1) == 2
    due = [2 * (1 + mark.continuations) - mark.seconds for mark in marks]
    assert slept[1:] == pytest.approx([max(wait, 0) for wait in due[:-1]])


def test_what_it_costs_is_said_and_holds(redcap: Redcap) -> None:
    settings = exam.lead_to(["claude", "o1"], settings_for(redcap))
    with closing(Exchange(settings, Upstream(settings))) as exchange:
        questions = list(exam.prepare(["claude", "o1"], exchange))
    sentence = exam.cost(questions, 30)
    told = [int(number.replace(",", "")) for number in re.findall(r"[\d,]*\d", sentence)]
    assert told[:3] == [len(questions), 2, 30]
    assert not redcap.requests
    marks = hold(redcap, perfect, "claude", "o1")
    assert told[4] == pytest.approx(sum(mark.output_tokens for mark in marks), rel=0.3)


# --- which aliases ----------------------------------------------------------------------------------------------------


def test_the_aliases_of_the_configured_map_are_examined() -> None:
    settings = Settings(
        "http://h/api/",
        model_map={"claude-opus-*": "my-opus", "claude-sonnet-*": "my-opus", "fast": "quick"},
        model_servers={"fast": "lab"},
        servers={"lab": Server("http://lab/api/")},
    )
    assert exam.find_aliases(settings, {}) == ["my-opus", "quick@lab"]
    assert exam.find_aliases(Settings("http://h/api/"), {}) == ["claude", "gpt-4o"]


def test_an_alias_is_asked_under_its_own_name_on_its_server(redcap: Redcap) -> None:
    """No rule for names may lead elsewhere: `claude-opus-4` as a model's name is answered by `claude`."""
    redcap.aliases = frozenset({"claude-opus-4", "quick"})
    lab = {"lab": Server(redcap.url, Secret(COLLEAGUES_TOKEN))}
    marks = hold(redcap, lambda _: "Yes.", "claude-opus-4", "quick@lab", servers=lab)
    asked = {(request.fields["model"], request.fields["token"]) for request in redcap.requests}
    assert asked == {("claude-opus-4", TOKEN), ("quick", COLLEAGUES_TOKEN)}
    assert {mark.alias for mark in marks} == {"claude-opus-4", "quick@lab"}


# --- the tasks, and what is told --------------------------------------------------------------------------------------


def test_tasks_have_names_of_their_own_and_enough_tokens() -> None:
    assert len({task.name for task in TASKS} | {LONG_FILE}) == len(TASKS) + 1 == 12
    assert [task.name for task in TASKS if task.about_entities] == ["a file with entities", "an edit with entities"]


@pytest.mark.parametrize("alias", ["claude", "gpt-4o", "o1", "my-own"])
def test_the_long_file_is_beyond_the_limit_of_the_alias(alias: str) -> None:
    found = long_task(describe_alias(alias))
    assert found
    task, limited = found
    content = task.calls[0][1]["content"]
    assert tokens.estimate([content], limited.tokenizer) > 1.15 * limited.max_output
    assert task.max_tokens > 2 * limited.max_output, "the client's own limit does not end it"
    assert content.splitlines()[-1] in task.messages[0]["content"]


def test_a_line_end_at_the_end_of_a_file_does_not_matter() -> None:
    task = TASKS[3]
    (name, arguments), *_ = task.calls

    def verdict(content: str, *more: ToolUse) -> str:
        call = ToolUse("toolu_1", name, {**arguments, "content": content})
        return judge(task, Outcome(Message("msg_1", "claude", (call, *more), "tool_use", Usage(1, 1))))

    content = arguments["content"]
    assert verdict(content) == verdict(content + "\n") == "right"
    assert verdict(content + " ") == verdict(" " + content) == "other call or arguments"
    assert (
        verdict(content.replace("<b>", "&lt;b&gt;")) == verdict(content.replace("<", "&amp;lt;")) == "entities changed"
    )
    assert verdict(content, ToolUse("toolu_2", "Bash", {"command": "date"})) == "other call or arguments"


def test_content_is_told_on_request_only(redcap: Redcap) -> None:
    marks = hold(redcap, perfect, "claude")
    told = json.dumps(exam.as_json(marks, show=False)), exam.table_text(marks)
    assert not any(word in text for text in told for word in ("O'Brien", "Paris", TOKEN, "127.0.0.1"))
    assert "Paris" in json.dumps(exam.as_json(marks, show=True))


def test_the_table_is_markdown(redcap: Redcap) -> None:
    table = exam.table_text(hold(redcap, forgets_the_armour, "claude")).splitlines()
    assert re.fullmatch(r"\| alias +\| fit +\| calls read \| .* tokens/s +\|", table[0])
    assert re.fullmatch(r"(\| -+ )+\|", table[1])
    assert re.match(r"\| claude +\| mostly +\| 9 of 9 ", table[2])
    assert len({len(line) for line in table[:3]}) == 1
    assert [line.rpartition(", ")[0] for line in table[4:-1]] == [
        "- claude, a file with entities: entities changed",
        "- claude, an edit with entities: entities changed",
    ]


def test_an_alias_whose_exam_was_stopped_is_not_judged() -> None:
    assert row([Mark("claude", "numbers", "right", 1.0, 10, content=())])["fit"] == "unknown"
