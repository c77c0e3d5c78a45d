"""`Request` -> `Prompt`: a conversation with tools, as a text-only model can read it.

Prompts only grow: how a message is rendered depends on the messages before it, never on later ones, so that the
providers' prefix caches work. The one exception is a short reminder at the very end. What the module would do to the
conversation is met here: the system text is never empty (or the first message would have to be a string), turns
alternate and a user has the first and the last word.

Images and PDFs keep their place between the texts where the alias can take them; elsewhere a note says what was left
out, so that the model does not imagine it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Literal, TypeAlias

from claude_proxy.core.aliases.mapping import Alias
from claude_proxy.core.calls.call import Call
from claude_proxy.core.calls.writer import CallWriter
from claude_proxy.core.memo import Memo
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
from claude_proxy.errors import InvalidRequest

Side: TypeAlias = Literal["user", "assistant"]
Part: TypeAlias = str | Image | Document
"""A stretch of text, an image, or a PDF."""


@dataclass(frozen=True)
class Turn:
    """One turn of the rendered conversation.

    Attributes:
        role: whose turn it is.
        parts: what it holds: texts, never two in a row, and between them images and PDFs.
    """

    role: Side
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """Its texts, without what stands between them."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def media(self) -> Iterator[Image | Document]:
        """Its images and PDFs."""
        return (part for part in self.parts if not isinstance(part, str))


def turn(role: Side, *parts: Part) -> Turn:
    """A turn; texts that follow each other are joined."""
    return Turn(role, _merged(parts))


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


def render(request: Request, alias: Alias, *, armoured: bool, memo: Memo | None = None) -> Prompt:
    """Render a request for the model behind an alias.

    Args:
        request: the request.
        alias: the model, which may be unable to see.
        armoured: whether the module decodes entities, so that texts must carry the armour of `core.entities`.
        memo: what was found out when earlier turns of conversations were rendered.

    Raises:
        InvalidRequest: a tool's schema or a call's input is nested too deeply, or an image cannot be passed on.
    """
    memo = Memo() if memo is None else memo
    try:
        turns = _turns(request, _Renderer(request.tools, alias, memo, armoured=armoured))
        return Prompt(_system(request, memo, armoured=armoured), tuple(turns))
    except RecursionError:
        raise InvalidRequest("The request body is nested too deeply.") from None


def _protection(*, armoured: bool) -> Callable[[str], str]:
    """What is done to each text; texts that are joined later have line ends between them, which no entity holds."""
    return armour.armour if armoured else _unchanged


def _unchanged(text: str) -> str:
    return text


# --- the system text --------------------------------------------------------------------------------------------------


def _system(request: Request, memo: Memo, *, armoured: bool) -> str:
    protect = _protection(armoured=armoured)
    texts = [_without_billing_header(text) for text in request.system]
    parts = [protect(text) for text in texts if text.strip()]
    parts.append(_CHANNEL_NOTE if armoured else _CHANNEL_NOTE_WITHOUT_ENTITIES)
    if request.tools and request.tool_choice.type != "none":  # tools that were withdrawn stay, as all that was sent
        shown = tuple(tool for tool in request.tools if not tool.defer_loading)
        parts.append(
            memo.content(("catalogue", armoured), lambda: protect(instructions.describe_tools(shown, memo)), of=shown)
        )
    if request.output_schema is not None:
        parts.append(protect(instructions.describe_output(request.output_schema)))
    return "\n\n".join(parts)


def _without_billing_header(text: str) -> str:
    return text.partition("\n")[2] if text.startswith(_BILLING_HEADER) else text


# --- the conversation -------------------------------------------------------------------------------------------------


def _turns(request: Request, renderer: _Renderer) -> list[Turn]:
    """The rendered turns: `system` messages join the user's, consecutive ones of a side become one."""
    sides: list[tuple[Side, list[Part]]] = []
    for message in request.messages:
        if parts := renderer.render(message):
            _say(sides, "assistant" if message.role == "assistant" else "user", parts)
    if not sides or sides[0][0] == "assistant":
        sides.insert(0, ("user", [_OPENING]))
    if request.prefill:
        _say(sides, "assistant", [renderer.protect(request.prefill.rstrip())])
    if reminder := instructions.remind(request):
        _say(sides, "user", [renderer.protect(reminder)])
    elif sides[-1][0] == "assistant":
        _say(sides, "user", [_CLOSING])
    return [turn(side, *parts) for side, parts in sides]


def _say(sides: list[tuple[Side, list[Part]]], side: Side, parts: Sequence[Part]) -> None:
    if sides and sides[-1][0] == side:
        sides[-1][1].extend(["\n\n", *parts])
    else:
        sides.append((side, [*parts]))


_Named: TypeAlias = tuple[str, ToolResult]
"""A result, and the name of the tool that it comes from."""


class _Renderer:
    """Renders messages in their order; what it remembers comes from earlier messages only."""

    def __init__(self, tools: tuple[Tool, ...], alias: Alias, memo: Memo, *, armoured: bool) -> None:
        self.tools = {tool.name: tool for tool in tools}
        self.writer = memo.content("writer", lambda: CallWriter(self.tools, memo), of=tools)
        self.alias = alias
        self.shown = {tool.name for tool in tools if not tool.defer_loading}
        self.calls: dict[str, tuple[int, str]] = {}  # tool_use id -> the call's position and the tool's name
        self.protect = _protection(armoured=armoured)
        self._memo = memo
        self._way = (armoured, alias.sees, alias.reads_pdfs, alias.family)

    def render(self, message: MessageParam) -> tuple[Part, ...]:
        """The parts of a message, as they were rendered a turn ago if nothing has changed that they depend on."""
        self._number_calls(message)
        results = self._results(message)
        if _has_references(message):  # they depend on those before
            return self._render(message, results)
        names = tuple((name, id(result)) for name, result in results)
        return self._memo.content(
            ("parts", self._way, self.writer.offered, names), lambda: self._render(message, results), of=(message,)
        )

    def _render(self, message: MessageParam, results: list[_Named]) -> tuple[Part, ...]:
        parts = self._assistant(message) if message.role == "assistant" else self._user(message, results)
        return tuple(self.protect(part) if isinstance(part, str) else part for part in _merged(parts))

    def _user(self, message: MessageParam, results: list[_Named]) -> list[Part]:
        """What the user or the operator said, behind the results of the calls."""
        texts = [self._result(name, result) for name, result in results]
        texts += [self._plain(block) for block in message.content if not isinstance(block, ToolResult)]
        if message.role == "system":
            texts = [_wrap("system_message", "", text) for text in texts]
        return _joined(texts, "\n\n")

    def _assistant(self, message: MessageParam) -> list[Part]:
        """What the assistant said, its calls in the canonical notation, whatever form they came in."""
        texts: list[list[Part]] = []
        for is_call, run in groupby(message.content, key=lambda block: isinstance(block, ToolUse)):
            if is_call:
                calls = [Call(block.name, block.input) for block in run if isinstance(block, ToolUse)]
                texts.append([self.writer.write(calls)])
            else:
                texts += [self._plain(block) for block in run]
        parts = _joined(texts, "\n")
        if parts and isinstance(parts[-1], str):
            parts[-1] = parts[-1].rstrip()  # Anthropic's models refuse an assistant turn that ends in white space
        return parts

    def _number_calls(self, message: MessageParam) -> None:
        for block in message.content:
            if isinstance(block, ToolUse):
                self.calls[block.id] = (len(self.calls), block.name)

    def _results(self, message: MessageParam) -> list[_Named]:
        """The tool results of a message in the order of their calls: they come in the order in which tools finished."""
        unknown = (len(self.calls), "unknown")
        results = [
            (*self.calls.get(block.tool_use_id, unknown), block)
            for block in message.content
            if isinstance(block, ToolResult)
        ]
        return [(name, result) for _, name, result in sorted(results, key=itemgetter(0))]

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
        if not self.alias.sees:
            return f"[image{kind} left out: the model behind this alias cannot see images. Do not guess what it shows.]"
        if image.url and self.alias.family == "claude":
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
        if self.alias.reads_pdfs:
            return [*context, document]
        return [
            f"[PDF document{head} left out: this channel cannot carry it. Do not guess what it says; extract its text "
            "with a tool, for example pdftotext, and read that.]"
        ]

    def _reference(self, name: str) -> str:
        """A deferred tool is shown where it is first referenced."""
        if name in self.shown:
            return f"[The tool {name} can be called.]"
        if name not in self.tools:
            return f"[The tool {name} is not available.]"
        self.shown.add(name)
        return f"From now on this tool can be called, too:\n{instructions.describe_tool(self.tools[name])}"


def _has_references(message: MessageParam) -> bool:
    """Whether a message names tools that may have been shown before it."""
    return any(
        isinstance(block, ToolReference)
        or (isinstance(block, ToolResult) and any(isinstance(item, ToolReference) for item in block.content))
        for block in message.content
    )


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
