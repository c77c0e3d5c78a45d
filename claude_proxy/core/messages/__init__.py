"""The Anthropic side: the JSON of a request to `Request`, a `Message` to JSON or to events.

Main words: `Request`, `Message`, the content blocks (`Text`, `ToolUse`, ...), `Node` (one JSON value with its path).
"""
