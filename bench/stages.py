#!/usr/bin/env python3
"""The stages of a request, and how many instructions each takes: a regression shows on a noisy machine, too.

    python bench/stages.py                     instructions that the processor carried out, counted by valgrind
    python bench/stages.py --only prepare
    python bench/stages.py --check             fails where a stage takes more than bench/instructions.json says
    python bench/stages.py --record            writes that file

Instructions hardly vary between runs and machines, but they do between releases of Python: the file says which one it
is for, and another is not compared with it. A stage is run in a process of its own, once with few repetitions and once
with more; the difference is what it costs, without the start of Python. Valgrind must be installed (Debian: `apt-get
install valgrind`). `test_stages.py` measures the same stages in time.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import workload

from claude_proxy.core.aliases import mapping
from claude_proxy.core.calls.vocabulary import Vocabulary
from claude_proxy.core.messages import events
from claude_proxy.core.messages.content import Message, Usage
from claude_proxy.core.messages.request import parse_request
from claude_proxy.core.messages.response import message_json, to_bytes
from claude_proxy.core.prompt import render
from claude_proxy.core.reply import read as reply
from claude_proxy.core.securechat import form
from claude_proxy.core.securechat.answer import read_answer
from claude_proxy.shell.proxy.cache import Cache

BASELINE = Path(__file__).with_name("instructions.json")
TOLERANCE = 0.05  # what instructions may grow by
REPLY = 4096  # characters
CAPACITY = 64_000_000  # bytes, as by default
FEW, MORE = 1, 6  # repetitions under valgrind

Stage = Callable[[], Any]


def stages(size: int) -> Mapping[str, Stage]:
    """The stages of a request of so many bytes, in their order, each ready to be run any number of times.

    "Again" is the next turn of a session that the proxy knows.
    """
    body = workload.body(size)
    alias = mapping.choose_alias(workload.MODEL, {}).alias
    cache = Cache(CAPACITY, 0)
    request = parse_request(body, run=cache.runner(""))
    prepared = render.prepare(request, alias, armoured=True, run=cache.runner(""))
    said = workload.reply(REPLY)
    came = workload.answer(said)
    tools = {tool.name: tool for tool in request.tools}
    vocabulary = Vocabulary(tools)
    ids = (f"toolu_{number}" for number in itertools.count())
    read = reply.read_reply(said, tools, lambda: next(ids), cut=False)
    message = Message("msg_1", workload.MODEL, read.content, "end_turn", Usage(1, 1))

    def write_form() -> Any:
        options: dict[str, Any] = {"token": "t", "prefix": "p", "alias": alias, "max_tokens": 1000}
        return form.encode_form(form.form_fields(prepared.prompt, **options), "form_1")

    def stream() -> Any:
        opening = events.opening_message("msg_1", workload.MODEL, 1)
        return list(events.EventStream(opening, thinking=False, delay=15, interval=10).finish(message))

    return {
        "parse": lambda: parse_request(body),
        "parse again": lambda: parse_request(body, run=cache.runner("")),
        "prepare": lambda: render.prepare(request, alias, armoured=True),
        "prepare again": lambda: render.prepare(request, alias, armoured=True, run=cache.runner("")),
        "form": write_form,
        "answer": lambda: read_answer(200, {}, came, url="", prefix="", sent_bytes=0),
        "reply": lambda: reply.read_reply(said, tools, lambda: next(ids), cut=False, vocabulary=vocabulary),
        "json": lambda: to_bytes(message_json(message)),
        "events": stream,
    }


SIZES = {"52 kB": 52_000, "740 kB": 740_000}
_OF_REPLY = ("answer", "json", "events")  # these do not see the request


def cases(only: str, sizes: Iterable[str] = tuple(SIZES)) -> Iterable[tuple[str, str]]:
    """Every stage with every size that it depends on."""
    for size in sizes:
        for name in stages(1_000):
            if only in name and (name not in _OF_REPLY or size == next(iter(SIZES))):
                yield name, size


# --- instructions -----------------------------------------------------------------------------------------------------


def run(name: str, size: str, repetitions: int) -> None:
    """What valgrind watches."""
    stage = stages(SIZES[size])[name]
    stage()  # what is made the first time is none of its cost
    gc.disable()  # when it runs depends on all that went before
    for _ in range(repetitions):
        stage()


def instructions(name: str, size: str) -> int:
    """How many instructions one run takes."""
    few, more = (_count(name, size, repetitions) for repetitions in (FEW, MORE))
    return (more - few) // (MORE - FEW)


def _count(name: str, size: str, repetitions: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        # Neither the compiling of modules nor the hashing of strings may differ between runs.
        env = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0", "HOME": folder}
        env["PYTHONPYCACHEPREFIX"] = str(BASELINE.parents[1] / ".venv" / "stages")
        tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out"]
        command = [*tool, os.path.realpath(sys.executable), "-S", __file__, "--run", name, size, str(repetitions)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    found = re.search(r"Collected : (\d+)", ended.stderr)
    if ended.returncode or not found:
        raise SystemExit(f"{' '.join(command)} failed:\n{ended.stderr[-2000:]}")
    return int(found[1])


def measure_instructions(only: str, *, check: bool, record: bool) -> int:
    """Count, and compare with what is on file."""
    if not shutil.which("valgrind"):
        raise SystemExit("valgrind is not installed: apt-get install valgrind")
    python = platform.python_version()
    known: dict[str, Any] = {"python": python, "instructions": {}}
    if BASELINE.exists():
        known = json.loads(BASELINE.read_text())
    if check and known["python"] != python:
        print(f"{BASELINE.name} is for Python {known['python']}, this is {python}: not compared.")
        return 0
    _count("parse", "52 kB", 0)  # compiles the modules
    counted: dict[str, int] = {}
    worse = False
    print("| stage | body | million instructions | on file | change |\n| --- | ---: | ---: | ---: | ---: |")
    for name, size in cases(only, ["52 kB"]):  # valgrind is slow
        key = f"{name}, {size}"
        counted[key] = instructions(name, size)
        before = known["instructions"].get(key)
        change = counted[key] / before - 1 if before else 0.0
        worse = worse or change > TOLERANCE
        on_file = f"{before / 1e6:.2f} | {change:+.1%}" if before else "– | –"
        print(f"| {name} | {size} | {counted[key] / 1e6:.2f} | {on_file} |", flush=True)
    if record:
        on_record = {"python": python, "instructions": known["instructions"] | counted}
        BASELINE.write_text(json.dumps(on_record, indent=2) + "\n")
    if check and worse:
        print(f"\nA stage takes over {TOLERANCE:.0%} more instructions than {BASELINE.name} says.")
    return int(check and worse)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="NAME", help="only stages with this in their names")
    parser.add_argument("--check", action="store_true", help="fail where there are more of them than on file")
    parser.add_argument("--record", action="store_true", help="put them on file")
    parser.add_argument("--run", nargs=3, metavar=("STAGE", "SIZE", "TIMES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        name, size, times = options.run
        run(name, size, int(times))
        return 0
    return measure_instructions(options.only, check=options.check, record=options.record)


if __name__ == "__main__":
    sys.exit(main())
