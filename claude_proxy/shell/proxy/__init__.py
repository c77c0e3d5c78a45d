"""The proxy put together: routes, and the way of one request from JSON to message.

Main words: `App`, `Exchange`, `Cache`, `Reloader`.
"""
