"""What has come and is not read yet, and more of it when it is needed."""

from __future__ import annotations

from collections.abc import Callable

from claude_proxy.core.http1.grammar import Malformed, Side, part_of, too_large, too_long


def _ignore(_: int) -> None:
    pass


class Reader:
    """Reads lines and counted bytes, however they come. What is left over belongs to the next message."""

    def __init__(self, more: Callable[[], bytes], side: Side) -> None:
        """Begin with nothing.

        Args:
            more: returns what came next, waiting if need be; nothing at the end. What it raises goes through.
            side: how strictly it is read.
        """
        self.side = side
        self._more = more
        self._buffer = bytearray()
        self.ended = False

    def __len__(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take in what came; nothing says that no more will come."""
        self._buffer += data
        self.ended = not data

    def fill(self) -> bool:
        """Get more. False: nothing more comes."""
        if not self.ended:
            self.feed(self._more())
        return not self.ended

    def forget(self) -> None:
        """Throw away what has come."""
        self._buffer.clear()

    def peek(self, count: int) -> bytes:
        """The next bytes, as far as they have come, without reading them."""
        return bytes(self._buffer[:count])

    def line(self, most: int, limit: str) -> str:
        """Read a line, without its end; with it, it may have `most` bytes, which is the limit of that name.

        Raises:
            Malformed: it is too long, cut short or ends as it may not.
        """
        searched = 0
        while (end := self._buffer.find(b"\n", searched, most)) < 0:
            searched = len(self._buffer)
            if searched >= most:
                raise too_long(limit)
            if not self.fill():
                raise Malformed(f"broke off in its {part_of(limit)}")
        line = self._buffer[: end + 1].decode("latin-1")
        del self._buffer[: end + 1]
        if line.endswith("\r\n"):
            return line[:-2]
        if self.side.strict:
            raise Malformed("is not well-formed HTTP: a line does not end with CRLF")
        return line[:-1]

    def exactly(self, count: int, taken: Callable[[int], None] = _ignore) -> bytes:
        """Read so many bytes; `taken` is told how many have come each time that some have, and may refuse them.

        Raises:
            Malformed: they are cut short.
        """
        told = 0
        while (here := min(len(self._buffer), count)) < count:
            if here > told:
                taken(here - told)
                told = here
            if not self.fill():
                raise Malformed("broke off in its body")
        if here > told:
            taken(here - told)
        with memoryview(self._buffer) as view:
            data = bytes(view[:count])
        del self._buffer[:count]
        return data

    def rest(self, limit: int) -> bytes:
        """Read to the end of what comes.

        Raises:
            Malformed: that is more than `limit` bytes.
        """
        while len(self._buffer) <= limit and self.fill():
            pass
        if len(self._buffer) > limit:
            raise too_large(limit)
        return self.exactly(len(self._buffer))
