"""Waiting without losing sight of anything: for sockets on behalf of one request, and for signals.

A `Waiter` waits within limits of time and keeps an eye on the client. Main words: `Waiter`, `OutOfTime`, `Signal`,
`Wakeup`.
"""
