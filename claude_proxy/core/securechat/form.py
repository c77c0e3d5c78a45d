"""`Prompt` -> the form fields of one call, and the body that carries them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from claude_proxy.core.aliases.mapping import Alias
from claude_proxy.core.json_text import to_json
from claude_proxy.core.messages.content import Document, Image
from claude_proxy.core.prompt.render import Part, Prompt, Turn


def form_fields(
    prompt: Prompt,
    *,
    token: str,
    prefix: str,
    alias: Alias,
    max_tokens: int,
    temperature: float | None = None,
    top_p: float | None = None,
) -> dict[str, str]:
    """The form fields of one call; `temperature` and `top_p` are the server's own where they are None.

    The module tells only reasoning models of `max_tokens`, and those refuse more than they can do.
    """
    fields = {
        "token": token,
        "content": "externalModule",
        "prefix": prefix,
        "action": "messages",
        "format": "json",
        "returnFormat": "json",
        "model": alias.name,
        "system": prompt.system,
        "messages": f"[{','.join(_message(turn, alias) for turn in prompt.turns)}]",
        "max_tokens": str(max_tokens),
    }
    optional = {"temperature": temperature, "top_p": top_p}
    return fields | {name: f"{value:g}" for name, value in optional.items() if value is not None}


def _message(turn: Turn, alias: Alias) -> str:
    """The JSON of a turn; its content is a string, or with images and PDFs an array as the alias's vendor wants it."""
    if not turn.mixed:
        return f'{{"role":"{turn.role}","content":"{turn.written}"}}'
    write = _anthropic_part if alias.family == "claude" else _openai_part
    # Anthropic's models refuse a text of nothing but white space.
    content = to_json([write(part) for part in turn.mixed if not isinstance(part, str) or part.strip()])
    return f'{{"role":"{turn.role}","content":{content}}}'


def _anthropic_part(part: Part) -> dict[str, Any]:
    match part:
        case Image(media_type, data):
            return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}
        case Document(title=title, pdf=pdf):
            source = {"type": "base64", "media_type": "application/pdf", "data": pdf}
            return {"type": "document", "source": source} | ({"title": title} if title else {})
        case text:
            return {"type": "text", "text": text}


def _openai_part(part: Part) -> dict[str, Any]:
    match part:
        case Image(media_type, data, url):
            return {"type": "image_url", "image_url": {"url": url or f"data:{media_type};base64,{data}"}}
        case text:
            return {"type": "text", "text": text}


def form_type(boundary: str) -> str:
    """The content type of a form whose fields stand between such boundaries."""
    return f"multipart/form-data; boundary={boundary}"


def encode_form(fields: Mapping[str, str], boundary: str) -> bytes:
    """Encode fields as multipart/form-data, which carries text as it is. The boundary must occur in no value."""
    pieces: list[str] = []  # long values are copied once, when these are joined
    for name, value in fields.items():
        pieces += (f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n', value, "\r\n")
    pieces.append(f"--{boundary}--\r\n")
    return "".join(pieces).encode(errors="replace")
