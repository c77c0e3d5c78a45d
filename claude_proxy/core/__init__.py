"""The pure core: an Anthropic request into a prompt, a reply back into content blocks. No I/O, time or chance."""
