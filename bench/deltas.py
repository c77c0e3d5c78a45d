#!/usr/bin/env python3
"""What the size of a delta costs: events, system calls and processor time for a streamed reply.

    python bench/deltas.py

A reply of 64 kB is written as the server writes it, one system call an event, to a socket that another thread empties.
The reply is whole before its first delta is sent, so small deltas make nothing come sooner; they only cost.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import workload

from claude_proxy.core.messages import events
from claude_proxy.core.messages.content import Message, Text, Usage

SIZES = (64, 256, 1024, 4096, 16384, 65536)
REPLY = 65536


def main() -> int:
    """Measure and print."""
    message = Message("msg_1", workload.MODEL, (Text(workload.reply(REPLY)),), "end_turn", Usage(1, 1))
    print("| characters of a delta | events, and system calls | bytes | ms | us until the first text |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for size in SIZES:
        events.DELTA_CHARACTERS = size
        best, first, count, length = float("inf"), float("inf"), 0, 0
        for _ in range(30):
            took, to_first, count, length = _send(message)
            best, first = min(best, took), min(first, to_first)
        mark = " (now)" if size == _NOW else ""
        print(f"| {size}{mark} | {count} | {length} | {best * 1e3:.2f} | {first * 1e6:.0f} |")
    return 0


_NOW = events.DELTA_CHARACTERS


def _send(message: Message) -> tuple[float, float, int, int]:
    ours, theirs = socket.socketpair()
    reader = threading.Thread(target=_drain, args=(theirs,))
    reader.start()
    stream = events.EventStream(events.opening_message("msg_1", message.model, 1), thinking=False, delay=15, interval=9)
    count = length = 0
    first = 0.0
    began, began_cpu = time.perf_counter(), time.process_time()
    for event in stream.finish(message):
        chunk = b"%x\r\n%b\r\n" % (len(event), event)
        ours.sendall(chunk)
        count, length = count + 1, length + len(chunk)
        if not first and b"content_block_delta" in event[:40]:
            first = time.perf_counter() - began
    used = time.process_time() - began_cpu
    ours.close()
    reader.join()
    theirs.close()
    return used, first, count, length


def _drain(sock: socket.socket) -> None:
    while sock.recv(65536):
        pass


if __name__ == "__main__":
    sys.exit(main())
