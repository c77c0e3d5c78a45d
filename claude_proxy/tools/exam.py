"""The exam: every task put to every alias through the proxy's own code, and a table of what came of it.

What is told holds no content, unless that is asked for, and no address: it can be shown to anybody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from claude_proxy import __version__
from claude_proxy.core.aliases import tokens
from claude_proxy.core.json_text import to_json
from claude_proxy.core.messages.response import block_json
from claude_proxy.errors import ProxyError
from claude_proxy.settings.table import DEFAULT_SERVER, Settings
from claude_proxy.shell.proxy.exchange import Exchange, PreparedRequest, new_id
from claude_proxy.shell.wait.waiter import Waiter
from claude_proxy.tools import exam_tasks, model_table
from claude_proxy.tools.exam_tasks import (
    ENTITIES_CHANGED,
    LONG_FILE,
    NEEDLESS_CALL,
    OTHER_CALL,
    REPAIRED,
    RIGHT,
    TASKS,
    Task,
)

_PLAIN_ANSWER = 100  # tokens, about
_LOOK = 0.5  # seconds until a Ctrl-C is noticed that came just before a wait
_MOST = 0.75  # of the tasks: an alias that does so many is of use
_DONE = {RIGHT, REPAIRED}
_PLAIN = {task.name for task in TASKS if not task.calls}
_ABOUT_ENTITIES = {task.name for task in TASKS if task.about_entities}


@dataclass(frozen=True)
class Question:
    """A task for an alias, ready to be sent."""

    alias: str
    task: Task
    prepared: PreparedRequest


@dataclass(frozen=True)
class Mark:
    """What came of a question: what `judge` says of the answer, or the class of the error."""

    alias: str
    task: str
    verdict: str
    seconds: float = 0.0
    output_tokens: int = 0
    continuations: int = 0
    content: tuple[dict[str, Any], ...] | None = None  # None where no answer came

    @property
    def line(self) -> str:
        """The mark in a line."""
        return f"{self.alias}, {self.task}: {self.verdict}, {self.seconds:.1f} s"


def find_aliases(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """The aliases that the configured map names; without a map, those that Claude Code's own names lead to."""
    mapped = [model_table.explain(name, settings) for name in settings.model_map]
    needed = mapped or [row for row in model_table.rows(settings, environ) if row.is_needed]
    return [row.choice.label for row in model_table.aliases(needed)]


def lead_to(aliases: Iterable[str], settings: Settings) -> Settings:
    """Settings by which each alias, with its server behind an @ if need be, answers under its own name."""
    model_map, servers = dict(settings.model_map), dict(settings.model_servers)
    for label in aliases:
        name, _, server = label.rpartition("@")
        elsewhere = server in settings.servers
        model_map[label], servers[label] = (name, server) if elsewhere else (label, DEFAULT_SERVER)
    return replace(settings, model_map=model_map, model_servers=servers)


def prepare(aliases: Iterable[str], exchange: Exchange) -> Iterator[Question]:
    """All questions, in their order; nothing is sent."""
    for alias in aliases:
        for task in TASKS:
            yield Question(alias, task, prepared := exchange.prepare(exam_tasks.body(task, alias)))
        if long := exam_tasks.long_task(prepared.choice.alias):
            task, limited = long
            prepared = exchange.prepare(exam_tasks.body(task, alias))
            yield Question(alias, task, replace(prepared, choice=replace(prepared.choice, alias=limited)))


def cost(questions: Sequence[Question], per_minute: int) -> str:
    """What it will cost, in a sentence."""
    read = sum(question.prepared.input_tokens for question in questions)
    calls = [to_json(question.task.calls) for question in questions if question.task.calls]
    written = sum(tokens.estimate([text]) for text in calls) + _PLAIN_ANSWER * (len(questions) - len(calls))
    return (
        f"The exam sends {len(questions)} questions to {len({question.alias for question in questions})} alias(es), at "
        f"most {per_minute} a minute: some {read:,} tokens of prompts and {written:,} of replies, and more where a "
        "reply must be continued or asked for again."
    )


def hold(
    questions: Iterable[Question],
    exchange: Exchange,
    token: str,
    per_minute: int,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Mark]:
    """Ask one question after the other. An alias that fails for good is asked no more."""
    failed: set[str] = set()
    rest = 0.0  # seconds until the next ask is due
    for question in questions:
        names = question.alias, question.task.name
        if question.alias in failed:
            yield Mark(*names, "not asked")
            continue
        sleep(rest)
        began, asks, wait = time.monotonic(), 1, 0
        try:
            waiter = Waiter(limit=question.prepared.settings.upstream_timeout, tick=lambda now: now + _LOOK)
            outcome = exchange.ask(question.prepared, token, new_id("msg"), waiter)
        except ProxyError as error:
            mark = Mark(*names, type(error).__name__, time.monotonic() - began)
            wait = error.retry_after or 0
            if error.should_retry is False:
                failed.add(question.alias)
        else:
            asks += outcome.repairs + outcome.continuations
            verdict, content = exam_tasks.judge(question.task, outcome), map(block_json, outcome.message.content)
            written = outcome.message.usage.output_tokens
            mark = Mark(
                *names, verdict, time.monotonic() - began, written, outcome.continuations, content=tuple(content)
            )
        yield mark
        rest = max(wait, asks * 60 / per_minute - mark.seconds, 0)


# --- what came of it --------------------------------------------------------------------------------------------------


def as_json(marks: Sequence[Mark], *, show: bool) -> dict[str, Any]:
    """All of it, for a program; what the models wrote only if it is to be shown."""
    answers = [asdict(mark if show else replace(mark, content=None)) for mark in marks]
    return {"version": __version__, "aliases": _rows(marks), "answers": answers}


def table_text(marks: Sequence[Mark]) -> str:
    """The table for a reader, in Markdown, and what went wrong."""
    rows = [_row("", ()), *_rows(marks)]  # the first for its headings
    lines = [list(rows[0]), *([str(cell) for cell in row.values()] for row in rows[1:])]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    table = [f"| {' | '.join(map(str.ljust, line, widths))} |" for line in lines]
    wrong = [f"- {mark.line}" for mark in marks if mark.verdict not in {*_DONE, "not asked"}]
    return "\n".join([*table, "", *wrong, f"claude-proxy {__version__}"]) + "\n"


def _rows(marks: Sequence[Mark]) -> list[dict[str, Any]]:
    """A row for each alias, by the table's headings."""
    aliases = dict.fromkeys(mark.alias for mark in marks)
    return [_row(alias, [mark for mark in marks if mark.alias == alias]) for alias in aliases]


def _row(alias: str, marks: Sequence[Mark]) -> dict[str, Any]:
    answered = [mark for mark in marks if mark.content is not None]
    calls = [mark for mark in answered if mark.task not in _PLAIN]
    seconds = sum(mark.seconds for mark in answered)
    written = sum(mark.output_tokens for mark in answered)
    long = next((f"{mark.verdict}, {mark.continuations} continued" for mark in marks if mark.task == LONG_FILE), "-")
    return {
        "alias": alias,
        "fit": _fit(marks) if answered else "no answer",
        "calls read": _count(calls, {*_DONE, ENTITIES_CHANGED, OTHER_CALL}),
        "arguments exact": _count(calls, _DONE),
        "entities exact": _count([mark for mark in calls if mark.task in _ABOUT_ENTITIES], _DONE),
        "needless calls": _count([mark for mark in answered if mark.task in _PLAIN], {NEEDLESS_CALL}),
        "long file": long,
        "failed": len(marks) - len(answered),
        "seconds": round(seconds / len(answered), 1) if answered else "-",
        "tokens/s": round(written / seconds, 1) if answered else "-",
    }


def _fit(marks: Sequence[Mark]) -> str:
    if len(marks) < len(TASKS):
        return "unknown"  # it was stopped
    share = sum(mark.verdict in _DONE for mark in marks) / len(marks)
    return "yes" if share == 1 else "mostly" if share >= _MOST else "no"


def _count(marks: Sequence[Mark], verdicts: set[str]) -> str:
    return f"{sum(mark.verdict in verdicts for mark in marks)} of {len(marks)}"
