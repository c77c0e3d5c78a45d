"""HTTP/1.1 without sockets: one grammar for both directions, read from bytes that somebody else receives.

Main words: `Reader` (what has come), `Side` (how strict a direction is), `Malformed`, `RequestHead`, `HttpAnswer`.
"""
