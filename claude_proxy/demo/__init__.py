"""A pretend REDCap with SecureChatAI, and a small scripted model behind it, for the demo and the tests.

It shares nothing with the rest, so that a mistake made on both sides shows. Main words: `Simulator`, `ModelReply`.
"""
