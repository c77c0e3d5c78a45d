"""`Request` -> `Prompt`: a conversation with tools, as a text-only model can read it.

Prompts only grow: how a message is rendered depends on the messages before it, never on later ones, so that the
providers' prefix caches work. The one exception is a short reminder at the very end. What the module would do to the
conversation is met here: the system text is never empty (or the first message would have to be a string), turns
alternate and a user has the first and the last word.

Images and PDFs keep their place between the texts where the alias can take them; elsewhere a note says what was left
out, so that the model does not imagine it.

The costly steps are `prepare_tools`, `describe_system` and, for each message, `prepare_message`: from what the
message was read as to its parts, their tokens and the JSON of its text. A message depends on little besides itself:
on the tools, on what is known of the alias (`RenderOptions`), on the names of the calls that its results answer, and
on which deferred tools were shown before it. A turn is made of its messages' pieces, and needs no text to be read
again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Literal, NamedTuple, TypeAlias

from claude_proxy.core import steps
from claude_proxy.core.aliases import tokens
from claude_proxy.core.aliases.mapping import Alias
from claude_proxy.core.calls.call import Call
from claude_proxy.core.calls.vocabulary import Vocabulary
from claude_proxy.core.calls.writer import CallWriter
from claude_proxy.core.json_text import to_json
from claude_proxy.core.messages.content import (
    Block,
    Document,
    Image,
    MessageParam,
    Request,
    Text,
    Tool,
    ToolReference,
    ToolRemoval,
    ToolResult,
    ToolUse,
)
from claude_proxy.core.prompt import armour, instructions
from claude_proxy.core.steps import Fingerprinted, Runner
from claude_proxy.errors import InvalidRequest
from claude_proxy.settings.alias_facts import Family, Tokenizer

TurnRole: TypeAlias = Literal["user", "assistant"]
Part: TypeAlias = str | Image | Document
"""A stretch of text, an image, or a PDF."""


@dataclass(frozen=True)
class Turn:
    """One turn of the rendered conversation.

    Attributes:
        role: whose turn it is.
        written: its text, as it stands in JSON between quotation marks; empty where there is anything but text.
        mixed: where there is, what it holds: texts, never two in a row, and between them images and PDFs.
    """

    role: TurnRole
    written: str
    mixed: tuple[Part, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """What it holds: texts, never two in a row, and between them images and PDFs."""
        return self.mixed or ((json.loads(f'"{self.written}"'),) if self.written else ())

    @property
    def text(self) -> str:
        """Its texts, without what stands between them."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def media(self) -> Iterator[Image | Document]:
        """Its images and PDFs."""
        return (part for part in self.mixed if not isinstance(part, str))


def turn(role: TurnRole, *parts: Part) -> Turn:
    """A turn; texts that follow each other are joined. Text alone is kept as it is sent, and in no other form."""
    merged = _merged(parts)
    if all(isinstance(part, str) for part in merged):
        return Turn(role, to_json("".join(map(str, merged)))[1:-1])
    return Turn(role, "", merged)


def _merged(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The same parts, with the texts joined that follow each other."""
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) == len(parts):
        return ("".join(texts),) if texts else ()
    merged: list[Part] = []
    for is_text, run in groupby(parts, key=lambda part: isinstance(part, str)):
        stretch = list(run)
        merged += ["".join(map(str, stretch))] if is_text else stretch
    return tuple(merged)


@dataclass(frozen=True)
class Prompt:
    """What the model is sent: a system text that is never empty, and turns that alternate, users' first and last."""

    system: str
    turns: tuple[Turn, ...]

    @property
    def texts(self) -> Iterator[str]:
        """Every text the model will read."""
        yield self.system
        for each in self.turns:
            yield each.text

    @property
    def media(self) -> Iterator[Image | Document]:
        """Every image and PDF that the model is sent."""
        for each in self.turns:
            yield from each.media


# Claude Code opens `system` with a line for Anthropic's billing; it changes between conversations and says nothing to
# a model.
_BILLING_HEADER = "x-anthropic-billing-header:"

# Written as the model shall read it: it is not armoured again.
_CHANNEL_NOTE = """\
# How your text travels

Between you and the user, HTML entities are decoded once. So everything you read here, and everything you write, has \
each literal entity written with its ampersand as &amp;: the C expression you see as `&amp;sum;` is `&` followed by \
`sum;` in the file, and to put an escaped less-than sign into a file you write `&amp;lt;`. Copy such sequences exactly \
as you see them. All other text, a plain & or < or > included, is written as it is.

Never begin a reply with { or with a ```json fence; put a few words before it.

What stands inside <system_message> tags comes from the operator of this conversation, not from the user."""
_CHANNEL_NOTE_WITHOUT_ENTITIES = """\
# How your text travels

Never begin a reply with { or with a ```json fence; put a few words before it.

What stands inside <system_message> tags comes from the operator of this conversation, not from the user."""

_OPENING = "(The beginning of this conversation is not shown.)"
_CLOSING = "(Go on.)"


class RenderOptions(NamedTuple):
    """What decides, besides the conversation, how it is written for a model: some of its `Alias`, and `armoured`."""

    sees: bool
    reads_pdfs: bool
    family: Family
    tokenizer: Tokenizer
    armoured: bool  # whether the module decodes entities, so that texts must carry the armour of `armour`

    def protect(self, text: str) -> str:
        """What is done to each text; texts that are joined later have line ends between them, which no entity holds."""
        return armour.armour(text) if self.armoured else text


@dataclass(frozen=True)
class Prepared:
    """A request, ready to be asked.

    Attributes:
        prompt: what the model will read.
        tokens: about how many tokens its texts are. Each message is measured by itself, so this is some tokens off
            what `tokens.estimate` says of the whole turns.
        vocabulary: of all tools of the request.
    """

    prompt: Prompt
    tokens: int
    vocabulary: Vocabulary


def render(request: Request, alias: Alias, *, armoured: bool) -> Prompt:
    """The prompt of `prepare`."""
    return prepare(request, alias, armoured=armoured).prompt


def prepare(request: Request, alias: Alias, *, armoured: bool, run: Runner = steps.run) -> Prepared:
    """Render a request for the model behind an alias; `armoured` as in `RenderOptions`.

    Raises:
        InvalidRequest: a tool's schema or a call's input is nested too deeply, or an image cannot be passed on.
    """
    view = RenderOptions(alias.sees, alias.reads_pdfs, alias.family, alias.tokenizer, armoured)
    try:
        tools = run(prepare_tools, request.tools, view)
        said = _said(request, view, _prepared_messages(request, tools, view, run), run)
        system = _system(request, tools, view, run)
    except RecursionError:
        raise InvalidRequest("The request body is nested too deeply.") from None
    prompt = Prompt("\n\n".join(part.text for part in system), tuple(map(_joined_turn, said)))
    measured = tokens.join([part.tokens for part in system])
    measured += sum(tokens.join([message.tokens for message in each]) for each in said)
    return Prepared(prompt, measured, tools.writer.vocabulary)


# --- the system text --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SystemPart:
    """A part of the system text, and how many tokens it is."""

    text: str
    tokens: int


def _system(request: Request, tools: PreparedTools, view: RenderOptions, run: Runner) -> list[SystemPart]:
    texts = tuple(text for each in request.system if (text := _without_billing_header(each)).strip())
    parts = [run(describe_system, texts, view)]
    if request.tools and request.tool_choice.type != "none":  # tools that were withdrawn stay, as all that was sent
        parts.append(tools.described)
    if request.output_schema is not None:
        parts.append(_measured(view.protect(instructions.describe_output(request.output_schema)), view))
    return parts


def describe_system(texts: tuple[str, ...], view: RenderOptions) -> SystemPart:
    """What the client says of the model's task, and what is to be said of the channel: a step."""
    note = _CHANNEL_NOTE if view.armoured else _CHANNEL_NOTE_WITHOUT_ENTITIES
    return _measured("\n\n".join([*map(view.protect, texts), note]), view)


def _measured(text: str, view: RenderOptions) -> SystemPart:
    return SystemPart(text, tokens.measure(text, view.tokenizer))


def _without_billing_header(text: str) -> str:
    return text.partition("\n")[2] if text.startswith(_BILLING_HEADER) else text


# --- the tools --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PreparedTools(Fingerprinted):
    """The tools of a request, and what follows from them.

    Attributes:
        tools: by their names.
        writer: writes calls of them.
        described: what the system text says of those that are shown from the beginning.
    """

    tools: Mapping[str, Tool]
    writer: CallWriter
    described: SystemPart

    @cached_property
    def fingerprint(self) -> bytes:
        """Stands for the tools, as an argument of steps."""
        return b"".join(tool.fingerprint for tool in self.tools.values())


def prepare_tools(tools: tuple[Tool, ...], view: RenderOptions) -> PreparedTools:
    """What follows from the tools of a request: a step."""
    by_name = {tool.name: tool for tool in tools}
    described = instructions.describe_tools(tool for tool in tools if not tool.defer_loading)
    return PreparedTools(by_name, CallWriter(by_name), _measured(view.protect(described), view))


# --- the conversation -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PreparedMessage:
    """What a message is for the model.

    Attributes:
        turn: a turn of its own; the turns of neighbours of the same side are joined.
        tokens: about how many tokens its texts are.
        shows: the names of deferred tools that are shown in it for the first time.
    """

    turn: Turn
    tokens: int
    shows: frozenset[str] = frozenset()


def prepare_text(side: TurnRole, text: str, view: RenderOptions) -> PreparedMessage:
    """What is not the client's words: a step."""
    text = view.protect(text)
    return PreparedMessage(turn(side, text), tokens.measure(text, view.tokenizer))


def _said(
    request: Request, view: RenderOptions, messages: Iterable[PreparedMessage], run: Runner
) -> list[list[PreparedMessage]]:
    """What is said in each turn: a user has the first and the last word."""
    said: list[list[PreparedMessage]] = []
    for prepared in messages:
        if prepared.turn.written or prepared.turn.mixed:
            _say(said, prepared)
    if not said or said[0][0].turn.role == "assistant":
        said.insert(0, [run(prepare_text, "user", _OPENING, view)])
    if request.prefill:
        _say(said, run(prepare_text, "assistant", request.prefill.rstrip(), view))
    if reminder := instructions.remind(request):
        _say(said, run(prepare_text, "user", reminder, view))
    elif said[-1][0].turn.role == "assistant":
        _say(said, run(prepare_text, "user", _CLOSING, view))
    return said


def _say(said: list[list[PreparedMessage]], prepared: PreparedMessage) -> None:
    if said and said[-1][0].turn.role == prepared.turn.role:
        said[-1].append(prepared)
    else:
        said.append([prepared])


def _joined_turn(said: Sequence[PreparedMessage]) -> Turn:
    turns = [message.turn for message in said]
    if len(turns) == 1:
        return turns[0]
    if any(each.mixed for each in turns):
        return turn(turns[0].role, *_joined((list(each.parts) for each in turns), "\n\n"))
    return Turn(turns[0].role, "\\n\\n".join(each.written for each in turns))


def _prepared_messages(
    request: Request, tools: PreparedTools, view: RenderOptions, run: Runner
) -> Iterator[PreparedMessage]:
    calls: dict[str, tuple[int, str, str]] = {}  # tool_use id -> the call's position, its id, the tool's name
    shown: frozenset[str] = frozenset()
    for message in request.messages:
        answered: tuple[tuple[str, str], ...] = ()
        if message.role == "assistant":
            uses = [block for block in message.content if isinstance(block, ToolUse)]
            calls |= {use.id: (place, use.id, use.name) for place, use in enumerate(uses, len(calls))}
        elif ids := {block.tool_use_id for block in message.content if isinstance(block, ToolResult)}:
            known = sorted(calls[each] for each in ids & calls.keys())
            answered = tuple((tool_use_id, name) for _, tool_use_id, name in known)
        prepared = run(prepare_message, message, tools, view, answered, shown)
        shown |= prepared.shows
        yield prepared


def prepare_message(
    message: MessageParam,
    tools: PreparedTools,
    view: RenderOptions,
    answered: tuple[tuple[str, str], ...],
    shown: frozenset[str],
) -> PreparedMessage:
    """Write a message for the model: a step.

    Args:
        message: the message.
        tools: those of the request.
        view: what decides besides.
        answered: the id and the tool's name of each call that the message's results answer, in the order of the calls.
        shown: the names of the deferred tools that have been shown before.

    Raises:
        InvalidRequest: an image cannot be passed on.
    """
    writer = _MessageWriter(tools, view, shown)
    side: TurnRole = "assistant" if message.role == "assistant" else "user"  # `system` messages stand among the user's
    parts = writer.assistant(message) if side == "assistant" else writer.user(message, answered)
    protected = [view.protect(part) if isinstance(part, str) else part for part in _merged(parts)]
    text = "".join(part for part in protected if isinstance(part, str))
    return PreparedMessage(turn(side, *protected), tokens.measure(text, view.tokenizer), writer.shown - shown)


class _MessageWriter:
    """Writes the blocks of one message.

    Attributes:
        shown: the names of deferred tools that have been shown, in this message or before.
    """

    def __init__(self, tools: PreparedTools, view: RenderOptions, shown: frozenset[str]) -> None:
        self.shown = shown
        self._tools = tools
        self._view = view

    def user(self, message: MessageParam, answered: Sequence[tuple[str, str]]) -> list[Part]:
        """What the user or the operator said, behind the results, in the order of the calls: they come as tools end."""
        calls = {tool_use_id: (place, name) for place, (tool_use_id, name) in enumerate(answered)}
        unknown = (len(calls), "unknown")
        results = [block for block in message.content if isinstance(block, ToolResult)]
        results.sort(key=lambda result: calls.get(result.tool_use_id, unknown)[0])
        texts = [self._result(calls.get(result.tool_use_id, unknown)[1], result) for result in results]
        texts += [self._plain(block) for block in message.content if not isinstance(block, ToolResult)]
        if message.role == "system":
            texts = [_wrap("system_message", "", text) for text in texts]
        return _joined(texts, "\n\n")

    def assistant(self, message: MessageParam) -> list[Part]:
        """What the assistant said, its calls in the canonical notation, whatever form they came in."""
        texts: list[list[Part]] = []
        for is_call, run in groupby(message.content, key=lambda block: isinstance(block, ToolUse)):
            if is_call:
                calls = [Call(block.name, block.input) for block in run if isinstance(block, ToolUse)]
                texts.append([self._tools.writer.write(calls)])
            else:
                texts += [self._plain(block) for block in run]
        parts = _joined(texts, "\n")
        if parts and isinstance(parts[-1], str):
            parts[-1] = parts[-1].rstrip()  # Anthropic's models refuse an assistant turn that ends in white space
        return parts

    def _result(self, name: str, result: ToolResult) -> list[Part]:
        status = ' status="error"' if result.is_error else ""
        content = _joined([self._plain(block) for block in result.content], "\n")
        return _wrap("tool_result", f' name="{name}"{status}', content)

    def _plain(self, block: Block) -> list[Part]:
        match block:
            case Text(text):
                return [text]
            case Image():
                return [self._image(block)]
            case Document():
                return self._document(block)
            case ToolReference(name):
                return [self._reference(name)]
            case ToolRemoval(name):
                return [f"[The tool {name} can no longer be called.]"]
            case _:
                return []

    def _image(self, image: Image) -> Part:
        kind = f" ({image.media_type})" if image.media_type else ""
        if not self._view.sees:
            return f"[image{kind} left out: the model behind this alias cannot see images. Do not guess what it shows.]"
        if image.url and self._view.family == "claude":
            raise InvalidRequest(
                "This server fetches no images, and the model takes them as data only: send a base64 source."
            )
        return image

    def _document(self, document: Document) -> list[Part]:
        head = f' title="{document.title}"' if document.title else ""
        context = [f"[{document.context}]"] if document.context else []
        if not document.pdf:
            parts = _joined([[*context], *(self._plain(block) for block in document.content)], "\n")
            return _wrap("document", head, parts)
        if self._view.reads_pdfs:
            return [*context, document]
        return [
            f"[PDF document{head} left out: this channel cannot carry it. Do not guess what it says; extract its text "
            "with a tool, for example pdftotext, and read that.]"
        ]

    def _reference(self, name: str) -> str:
        """A deferred tool is shown where it is first referenced."""
        tool = self._tools.tools.get(name)
        if not tool:
            return f"[The tool {name} is not available.]"
        if name in self.shown or not tool.defer_loading:
            return f"[The tool {name} can be called.]"
        self.shown |= {name}
        return f"From now on this tool can be called, too:\n{instructions.describe_tool(tool)}"


# --- putting parts together -------------------------------------------------------------------------------------------


def _joined(texts: Iterable[list[Part]], separator: str) -> list[Part]:
    """The parts one after the other, with a separator between those that are not empty."""
    joined: list[Part] = []
    for parts in texts:
        if parts:
            joined += [separator, *parts] if joined else parts
    return joined


def _wrap(tag: str, attributes: str, content: list[Part]) -> list[Part]:
    """Content within a tag that nothing in it can close: a file must not end a result and speak for somebody else."""
    while any(isinstance(part, str) and f"</{tag}" in part for part in content):
        tag += "_"
    return [f"<{tag}{attributes}>\n", *content, f"\n</{tag}>"]
