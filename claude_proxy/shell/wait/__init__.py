"""Waiting for a socket on behalf of one request: within limits of time, and with an eye on the client.

Main words: `Waiter`, `OutOfTime`, `Signal`.
"""
