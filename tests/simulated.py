"""What tests of the simulator ask it with: a plain call of the module, and a model that says what it is told to."""

from __future__ import annotations

from claude_proxy.demo.model import ModelRequest
from claude_proxy.demo.simulator import ModelReply

FIELDS = {
    "token": "0123456789ABCDEF0123456789ABCDEF",
    "content": "externalModule",
    "prefix": "secure_chat_ai",
    "format": "json",
    "returnFormat": "json",
    "action": "messages",
    "model": "gpt-4o",
    "system": "Be brief.",
    "messages": '[{"role":"user","content":"hello"}]',
}


class Script:
    """A model that keeps what it was asked, and answers what it was told to."""

    def __init__(self, reply: ModelReply | str | Exception = "hi") -> None:
        self.reply = reply
        self.asked: list[ModelRequest] = []

    def __call__(self, request: ModelRequest) -> ModelReply | str:
        self.asked.append(request)
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply
