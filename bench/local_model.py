#!/usr/bin/env python3
"""Let a real model call tools through the proxy, and count how many of its calls were read.

    bench/local_model.py http://127.0.0.1:8950 [--family chat] [--failures]

Any OpenAI-compatible server (Ollama, llama.cpp, vLLM) stands behind a simulated SecureChatAI; the proxy's own code asks
it and reads its replies. First come the tasks of `claude-proxy exam`, all but the long file. Then forty more demand a
call, ten none, and leave open how: a call is right if it is of a tool that fits and its arguments hold what they must.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from claude_proxy.demo.backend import openai_backend
from claude_proxy.demo.simulator import Simulator
from claude_proxy.settings.table import Settings
from claude_proxy.shell.proxy.exchange import Exchange
from claude_proxy.shell.upstream.client import Upstream
from claude_proxy.shell.wait.waiter import Waiter
from claude_proxy.tools.exam_tasks import TASKS, Call, Task, ask, body, judge


class Hint(Task):
    """A task that leaves open how it is done: calls of which tools would do, and words that the first one must hold."""

    def fits(self, calls: Sequence[Call], _read: object) -> bool:
        """Whether the first call is of one of the tools, and all of them together hold the words."""
        tools, words = {name for name, _ in self.calls}, self.calls[0][1]["words"]
        given = json.dumps([dict(arguments) for _, arguments in calls], ensure_ascii=False)
        return bool(calls) and calls[0][0] in tools and all(json.dumps(w)[1:-1] in given or w in given for w in words)


def _hint(question: str, tools: tuple[str, ...] = (), words: tuple[str, ...] = ()) -> Task:
    return Hint(question, ask(question), tuple((tool, {"words": words}) for tool in tools), 700)


_READ, _RUN = ("Read", "Bash"), ("Bash",)
_FIND, _SEARCH = ("Glob", "Bash"), ("Grep", "Bash")
_WRITE, _EDIT = ("Write", "Bash"), ("Edit", "Bash")
HINTS = (
    _hint("Show me the file /srv/app/main.py.", _READ, ("/srv/app/main.py",)),
    _hint("What does /etc/hosts say?", _READ, ("/etc/hosts",)),
    _hint("Read the first 20 lines of /var/log/syslog.", _READ, ("/var/log/syslog", "20")),
    _hint("Open README.md in /srv/app and tell me what the project does.", _READ, ("README.md",)),
    _hint("Check what version is set in /srv/app/pyproject.toml.", (*_READ, "Grep"), ("pyproject.toml",)),
    _hint("Look at lines 100 to 150 of /srv/app/core.py.", _READ, ("/srv/app/core.py",)),
    _hint("Run the tests with pytest -q.", _RUN, ("pytest -q",)),
    _hint("Run `git status` and tell me what changed.", _RUN, ("git status",)),
    _hint("Show the disk usage with df -h.", _RUN, ("df -h",)),
    _hint("Count the lines of all Python files: run `find . -name '*.py' | xargs wc -l`.", _RUN, ("xargs wc -l",)),
    _hint('Run this command: echo "a & b" && ls -la | head -n 3', _RUN, ('echo "a & b" && ls -la',)),
    _hint("Which processes use port 8080? Use lsof.", _RUN, ("lsof", "8080")),
    _hint("Make a folder /tmp/demo.", _RUN, ("mkdir", "/tmp/demo")),
    _hint("Delete the file /tmp/old.txt.", _RUN, ("rm", "/tmp/old.txt")),
    _hint("Install the requests package with pip.", _RUN, ("pip", "install", "requests")),
    _hint("Print the date in ISO format with the date command.", _RUN, ("date",)),
    _hint("Run make with a timeout of 60000 milliseconds.", _RUN, ("make",)),
    _hint("Compile main.c with gcc -Wall and 2>&1.", _RUN, ("gcc", "-Wall", "main.c")),
    _hint("Create /tmp/hello.py that prints hello.", _WRITE, ("/tmp/hello.py", "print(")),
    _hint("Write a Python function that adds two numbers into /tmp/add.py.", _WRITE, ("/tmp/add.py", "def ", "return")),
    _hint("Write /tmp/page.html with a heading that says Hello & welcome.", _WRITE, ("/tmp/page.html", "<h1")),
    _hint("Create /tmp/config.json with the keys name and port.", _WRITE, ("/tmp/config.json", "port")),
    _hint(
        "Write a shell script /tmp/run.sh that loops over *.txt and prints each name.", _WRITE, ("/tmp/run.sh", "for ")
    ),
    _hint("Write a C program with a swap function using pointers into /tmp/swap.c.", _WRITE, ("/tmp/swap.c", "int *")),
    _hint("Put the three words red, green, blue into /tmp/colors.txt, one per line.", _WRITE, ("colors.txt", "green")),
    _hint("Write a .gitignore for Python into /srv/app/.gitignore.", _WRITE, (".gitignore", "pyc")),
    _hint("Create /tmp/test_add.py with a pytest test for a function add(a, b).", _WRITE, ("test_add.py", "assert")),
    _hint("Write a SQL script /tmp/t.sql that creates a table users with id and name.", _WRITE, ("t.sql", "users")),
    _hint("In /srv/app/main.py replace `DEBUG = True` with `DEBUG = False`.", _EDIT, ("main.py", "DEBUG = False")),
    _hint("In /srv/a.py rename the variable `foo` to `bar` everywhere.", _EDIT, ("/srv/a.py", "foo", "bar")),
    _hint("Edit /srv/a.c: change `int *p = 0;` to `int *p = NULL;`.", _EDIT, ("/srv/a.c", "int *p = NULL;")),
    _hint("In /srv/index.html change the title `Old` to `New`.", _EDIT, ("index.html", "Old", "New")),
    _hint("In /srv/a.py replace `if x < 1 and y > 2:` with `if x < 2:`.", _EDIT, ("/srv/a.py", "if x < 2:")),
    _hint("Change port 8000 to 9000 in /srv/app/settings.toml.", (*_EDIT, "Read"), ("settings.toml",)),
    _hint("Find all Markdown files.", _FIND, (".md",)),
    _hint("Find all files named test_*.py under /srv.", _FIND, ("test_",)),
    _hint("Find every TODO in the code.", _SEARCH, ("TODO",)),
    _hint("Search for the function parse_request in /srv/app.", _SEARCH, ("parse_request",)),
    _hint("Which files import os? Search for `^import os`.", _SEARCH, ("import os",)),
    _hint("Read both /tmp/a.txt and /tmp/b.txt at once.", _READ, ("/tmp/a.txt", "/tmp/b.txt")),
    _hint("What is the capital of France? Just answer."),
    _hint("Explain in one sentence what a hash table is."),
    _hint("Say hello."),
    _hint("What is 17 times 3? Answer with the number only."),
    _hint("Explain what `git rebase` does; do not run anything."),
    _hint("Which is faster for lookups, a list or a set in Python? One sentence."),
    _hint("Thank you, that is all for today."),
    _hint("Show me, without running it, how a for loop looks in Bash."),
    _hint("What does HTTP status 404 mean?"),
    _hint("Translate 'good morning' into German."),
)


def _kind(task: Task) -> str:
    if not isinstance(task, Hint):
        return "of the exam"
    return "that demand a call" if task.calls else "that demand none"


def main() -> int:
    """Run the tasks and print the counts as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="an OpenAI-compatible server, such as http://127.0.0.1:11434")
    parser.add_argument("--model", help="the server's name for the model")
    parser.add_argument(
        "--alias",
        default="o3-mini",
        help="the alias under which the pretend REDCap offers it (only such ones are told max_tokens)",
    )
    parser.add_argument("--failures", action="store_true", help="print what was answered where it went wrong")
    options = parser.parse_args()
    verdicts: Counter[tuple[str, str]] = Counter()
    tasks = (*TASKS, *HINTS)
    began = time.monotonic()
    with Simulator(openai_backend(options.url, model=options.model)) as redcap:
        settings = Settings(redcap_api_url=redcap.url)
        exchange = Exchange(settings, Upstream(settings))
        for number, task in enumerate(tasks, start=1):
            call = exchange.prepare(body(task, options.alias, temperature=0))
            outcome = exchange.ask(call, "token", f"msg_{number}", Waiter(limit=600))
            verdict = judge(task, outcome)
            verdicts[_kind(task), verdict] += 1
            print(f"{number:3} {verdict:25} {task.name[:70]}", file=sys.stderr, flush=True)
            if options.failures and not verdict.startswith("right"):
                print(outcome.message.content, file=sys.stderr, flush=True)
    print("| tasks | verdict | |\n| --- | --- | ---: |")
    for (kind, verdict), count in sorted(verdicts.items()):
        print(f"| {kind} | {verdict} | {count} |")
    print(f"\n{len(tasks)} tasks in {time.monotonic() - began:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
