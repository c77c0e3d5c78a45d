#!/usr/bin/env python3
"""How many streams the proxy holds at once while a slow model thinks, and what memory that takes.

    python -m pip install --group bench     once, in an environment of its own
    python bench/streams.py                             a thousand streams, a model that takes 20 s
    python bench/streams.py --streams 200 --delay 5 --size 100

The pretend REDCap, the proxy (started as users start it) and the clients are processes of their own.
All streams are opened as fast as the proxy takes them; each must end with the model's answer. Memory is the proxy's
resident set, measured ten times a second; `--size` is that of one request's body in KB, which `--messages` divides.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from claude_proxy.demo.model import ModelRequest
from claude_proxy.demo.simulator import Simulator

psutil: Any = importlib.import_module("psutil")

ANSWER = "The answer of a slow model."
KB = 1024


def serve_simulator(delay: float) -> None:
    """Be the pretend REDCap: print its address, and answer until the parent ends this."""

    def think(_: ModelRequest) -> str:
        time.sleep(delay)
        return ANSWER

    raise_file_limit()
    with Simulator(think) as redcap:
        print(redcap.url, flush=True)
        time.sleep(3600)


def request_body(number: int, size: int, messages: int) -> bytes:
    """A request of so many KB that is like no other: each stream is another conversation."""
    around = len(json.dumps({"role": "assistant", "content": ""})) + 2
    length = max(1, size * KB // messages - around)
    question = f"Patient {number}: is it better? "
    texts = (f"{each} {question * (length // len(question) + 1)}"[:length] for each in range(messages))
    roles = ("user", "assistant")
    conversation = [{"role": roles[place % 2], "content": text} for place, text in enumerate(texts)]
    return json.dumps({"model": "gpt-4.1", "max_tokens": 100, "stream": True, "messages": conversation}).encode()


async def hold(port: int, body: bytes, verdicts: Counter[str], first_bytes: list[float]) -> None:
    """One stream, from the request to the last event; its verdict is counted."""
    began = time.monotonic()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST /v1/messages HTTP/1.1\r\nhost: bench\r\nx-api-key: token\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = await reader.read(1)
        first_bytes.append(time.monotonic() - began)
        while not answer.endswith(b"0\r\n\r\n") and (data := await reader.read(65536)):
            answer += data
        writer.close()
    except OSError as error:
        verdicts[type(error).__name__] += 1
        return
    status = answer.partition(b"\r\n")[0].decode()
    whole = ANSWER.encode() in answer and b"message_stop" in answer
    verdicts["answered" if whole else f"no answer: {status}"] += 1


async def measure(process: Any, sizes: list[int]) -> None:
    """Note the process's resident set until cancelled."""
    while True:
        sizes.append(process.memory_info().rss)
        await asyncio.sleep(0.1)


async def run(port: int, bodies: list[bytes], process: Any) -> tuple[Counter[str], list[float], int]:
    """Hold all streams; verdicts, seconds to each first byte, and the largest resident set in bytes."""
    verdicts: Counter[str] = Counter()
    first_bytes: list[float] = []
    sizes: list[int] = []
    measuring = asyncio.create_task(measure(process, sizes))
    await asyncio.gather(*(hold(port, body, verdicts, first_bytes) for body in bodies))
    measuring.cancel()
    return verdicts, first_bytes, max(sizes)


def raise_file_limit() -> None:
    """Allow this process as many open files as it may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def start(command: list[str], env: dict[str, str], folder: str, pattern: str, stream: str) -> tuple[Any, str]:
    """Start a process, and wait for the line that names its address."""
    with Path(folder, "log").open("wb") as log:
        pipes: dict[str, int | IO[bytes]] = {"stdout": log, "stderr": log, stream: subprocess.PIPE}
        process = psutil.Popen(command, cwd=folder, env=env, **pipes)
    for line in getattr(process, stream):
        if found := re.search(pattern, line.decode()):
            return process, found[1]
    raise SystemExit(f"{command} did not start")


def main() -> int:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000, metavar="N", help="streams at once (1000)")
    parser.add_argument("--delay", type=float, default=20.0, metavar="S", help="seconds the model takes (20)")
    parser.add_argument("--size", type=int, default=2, metavar="KB", help="size of a request's body (2)")
    parser.add_argument("--messages", type=int, default=1, metavar="N", help="messages in each body, an odd number (1)")
    parser.add_argument(
        "--calls", type=int, metavar="N", help="MAX_CALLS: calls to REDCap at once (as many as streams)"
    )
    parser.add_argument("--simulator", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.simulator:
        serve_simulator(options.delay)
        return 0
    raise_file_limit()
    bodies = [request_body(number, options.size, options.messages) for number in range(options.streams)]
    calls = options.calls or options.streams
    with tempfile.TemporaryDirectory() as folder:
        env = {"PATH": os.environ["PATH"], "LISTEN_PORT": "0", "LOG_LEVEL": "error"}
        command = [sys.executable, __file__, "--simulator", "--delay", str(options.delay)]
        simulator, url = start(command, env, folder, "(http://.*)", "stdout")
        command = [sys.executable, str(ROOT / "claude_api_proxy.py")]
        env |= {"REDCAP_API_URL": url, "MAX_CALLS": str(calls)}
        proxy, address = start(command, env, folder, r"listens on (\S+) ", "stderr")
        try:
            at_rest = proxy.memory_info().rss
            began = time.monotonic()
            port = int(address.rpartition(":")[2])
            verdicts, first_bytes, most = asyncio.run(run(port, bodies, proxy))
            seconds = time.monotonic() - began
            used = proxy.cpu_times()
        finally:
            proxy.terminate()
            simulator.kill()
    sent = sum(map(len, bodies)) / KB**2
    print(f"{options.streams} streams of {options.size} KB, {sent:.0f} MB together")
    print(f"  a model that takes {options.delay:g} s, {calls} at once")
    for verdict, count in verdicts.most_common():
        print(f"  {verdict}: {count}")
    print(f"  time: {seconds:.1f} s; slowest first byte: {max(first_bytes):.1f} s")
    print(f"  the proxy's memory: {at_rest / KB**2:.0f} MB at rest, {most / KB**2:.0f} MB at most")
    print(f"  the proxy's processor time: {used.user + used.system:.1f} s; exit code {proxy.wait()}")
    return 0 if verdicts["answered"] == options.streams else 1


if __name__ == "__main__":
    sys.exit(main())
