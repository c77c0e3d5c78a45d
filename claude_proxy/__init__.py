"""Claude Code through REDCap's SecureChatAI: the Anthropic Messages API in front of a text-only module."""

__version__ = "0.1.0"
