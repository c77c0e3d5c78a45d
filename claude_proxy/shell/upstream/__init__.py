"""One POST to REDCap, over connections that are kept, and the queue of those who want to send one.

Main words: `Upstream`, `Route`, `Connection`, `Stream`, `ForwardProxy`.
"""
