"""What helps people to use the proxy: starting Claude Code, first steps, checks.

Main words: `launcher`, `doctor`, `Finding`.
"""
