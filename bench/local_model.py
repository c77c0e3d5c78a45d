#!/usr/bin/env python3
"""Let a real model call tools through the proxy, and count how many of its calls were read.

    bench/local_model.py http://127.0.0.1:8950 [--family chat] [--failures]

Any OpenAI-compatible server (Ollama, llama.cpp, vLLM) stands behind a simulated SecureChatAI; the proxy's own code asks
it and reads its replies. Forty tasks demand a call, ten demand none. What is judged is whether calls are readable, not
how clever they are: a call is right if it is of a tool that fits the task and its arguments hold what they must.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from claude_proxy.core.messages.content import Text, ToolUse
from claude_proxy.demo.backend import openai_backend
from claude_proxy.demo.simulator import Simulator
from claude_proxy.settings.table import Settings
from claude_proxy.shell.proxy.exchange import Exchange, Outcome
from claude_proxy.shell.upstream.client import Upstream
from claude_proxy.shell.wait.waiter import Waiter


@dataclass(frozen=True)
class Task:
    """What is asked, which tools would do, and what the arguments must hold; no tools, and none may be called."""

    prompt: str
    tools: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()


def _tool(name: str, description: str, **parameters: str) -> dict[str, object]:
    """A tool definition; a parameter is `type`, with `?` behind it where it is optional."""
    return {
        "name": name,
        "description": description,
        "input_schema": {
            "type": "object",
            "properties": {key: {"type": kind.rstrip("?")} for key, kind in parameters.items()},
            "required": [key for key, kind in parameters.items() if not kind.endswith("?")],
            "additionalProperties": False,
        },
    }


TOOLS = [
    _tool("Bash", "Run a shell command and return its output.", command="string", timeout="integer?"),
    _tool("Read", "Read a text file.", file_path="string", offset="integer?", limit="integer?"),
    _tool("Write", "Write a file, replacing it if it exists.", file_path="string", content="string"),
    _tool(
        "Edit",
        "Replace a text in a file by another.",
        file_path="string",
        old_string="string",
        new_string="string",
        replace_all="boolean?",
    ),
    _tool("Glob", "Find files by a pattern such as **/*.py.", pattern="string", path="string?"),
    _tool("Grep", "Search file contents for a regular expression.", pattern="string", path="string?"),
]

_READ, _RUN = ("Read", "Bash"), ("Bash",)
_FIND, _SEARCH = ("Glob", "Bash"), ("Grep", "Bash")
_WRITE, _EDIT = ("Write", "Bash"), ("Edit", "Bash")
TASKS = (
    Task("Show me the file /srv/app/main.py.", _READ, ("/srv/app/main.py",)),
    Task("What does /etc/hosts say?", _READ, ("/etc/hosts",)),
    Task("Read the first 20 lines of /var/log/syslog.", _READ, ("/var/log/syslog", "20")),
    Task("Open README.md in /srv/app and tell me what the project does.", _READ, ("README.md",)),
    Task("Check what version is set in /srv/app/pyproject.toml.", (*_READ, "Grep"), ("pyproject.toml",)),
    Task("Look at lines 100 to 150 of /srv/app/core.py.", _READ, ("/srv/app/core.py",)),
    Task("Run the tests with pytest -q.", _RUN, ("pytest -q",)),
    Task("Run `git status` and tell me what changed.", _RUN, ("git status",)),
    Task("Show the disk usage with df -h.", _RUN, ("df -h",)),
    Task("Count the lines of all Python files: run `find . -name '*.py' | xargs wc -l`.", _RUN, ("xargs wc -l",)),
    Task('Run this command: echo "a & b" && ls -la | head -n 3', _RUN, ('echo "a & b" && ls -la',)),
    Task("Which processes use port 8080? Use lsof.", _RUN, ("lsof", "8080")),
    Task("Make a folder /tmp/demo.", _RUN, ("mkdir", "/tmp/demo")),
    Task("Delete the file /tmp/old.txt.", _RUN, ("rm", "/tmp/old.txt")),
    Task("Install the requests package with pip.", _RUN, ("pip", "install", "requests")),
    Task("Print the date in ISO format with the date command.", _RUN, ("date",)),
    Task("Run make with a timeout of 60000 milliseconds.", _RUN, ("make",)),
    Task("Compile main.c with gcc -Wall and 2>&1.", _RUN, ("gcc", "-Wall", "main.c")),
    Task("Create /tmp/hello.py that prints hello.", _WRITE, ("/tmp/hello.py", "print(")),
    Task("Write a Python function that adds two numbers into /tmp/add.py.", _WRITE, ("/tmp/add.py", "def ", "return")),
    Task("Write /tmp/page.html with a heading that says Hello & welcome.", _WRITE, ("/tmp/page.html", "<h1")),
    Task("Create /tmp/config.json with the keys name and port.", _WRITE, ("/tmp/config.json", "port")),
    Task(
        "Write a shell script /tmp/run.sh that loops over *.txt and prints each name.", _WRITE, ("/tmp/run.sh", "for ")
    ),
    Task("Write a C program with a swap function using pointers into /tmp/swap.c.", _WRITE, ("/tmp/swap.c", "int *")),
    Task("Put the three words red, green, blue into /tmp/colors.txt, one per line.", _WRITE, ("colors.txt", "green")),
    Task("Write a .gitignore for Python into /srv/app/.gitignore.", _WRITE, (".gitignore", "pyc")),
    Task("Create /tmp/test_add.py with a pytest test for a function add(a, b).", _WRITE, ("test_add.py", "assert")),
    Task("Write a SQL script /tmp/t.sql that creates a table users with id and name.", _WRITE, ("t.sql", "users")),
    Task("In /srv/app/main.py replace `DEBUG = True` with `DEBUG = False`.", _EDIT, ("main.py", "DEBUG = False")),
    Task("In /srv/a.py rename the variable `foo` to `bar` everywhere.", _EDIT, ("/srv/a.py", "foo", "bar")),
    Task("Edit /srv/a.c: change `int *p = 0;` to `int *p = NULL;`.", _EDIT, ("/srv/a.c", "int *p = NULL;")),
    Task("In /srv/index.html change the title `Old` to `New`.", _EDIT, ("index.html", "Old", "New")),
    Task("In /srv/a.py replace `if x < 1 and y > 2:` with `if x < 2:`.", _EDIT, ("/srv/a.py", "if x < 2:")),
    Task("Change port 8000 to 9000 in /srv/app/settings.toml.", (*_EDIT, "Read"), ("settings.toml",)),
    Task("Find all Markdown files.", _FIND, (".md",)),
    Task("Find all files named test_*.py under /srv.", _FIND, ("test_",)),
    Task("Find every TODO in the code.", _SEARCH, ("TODO",)),
    Task("Search for the function parse_request in /srv/app.", _SEARCH, ("parse_request",)),
    Task("Which files import os? Search for `^import os`.", _SEARCH, ("import os",)),
    Task("Read both /tmp/a.txt and /tmp/b.txt at once.", _READ, ("/tmp/a.txt", "/tmp/b.txt")),
    Task("What is the capital of France? Just answer."),
    Task("Explain in one sentence what a hash table is."),
    Task("Say hello."),
    Task("What is 17 times 3? Answer with the number only."),
    Task("Explain what `git rebase` does; do not run anything."),
    Task("Which is faster for lookups, a list or a set in Python? One sentence."),
    Task("Thank you, that is all for today."),
    Task("Show me, without running it, how a for loop looks in Bash."),
    Task("What does HTTP status 404 mean?"),
    Task("Translate 'good morning' into German."),
)


def judge(task: Task, outcome: Outcome) -> str:
    """Right, after a repair, or what went wrong."""
    calls = [block for block in outcome.message.content if isinstance(block, ToolUse)]
    if not task.tools:
        return "called without need" if calls else "right, no call"
    if not calls:
        texts = " ".join(block.text for block in outcome.message.content if isinstance(block, Text))
        return (
            "unread" if any(mark in texts for mark in ("<invoke", "<parameter", '"name"', "tool_call")) else "no call"
        )
    given = json.dumps([dict(call.input) for call in calls], ensure_ascii=False)
    fits = calls[0].name in task.tools and all(json.dumps(part)[1:-1] in given or part in given for part in task.holds)
    return ("right after a repair" if outcome.repairs else "right") if fits else "other call or arguments"


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
    verdicts: Counter[str] = Counter()
    began = time.monotonic()
    with Simulator(openai_backend(options.url, model=options.model)) as redcap:
        settings = Settings(redcap_api_url=redcap.url)
        exchange = Exchange(settings, Upstream(settings))
        for number, task in enumerate(TASKS, start=1):
            body = {
                "model": options.alias,
                "max_tokens": 700,
                "temperature": 0,
                "system": "You are a coding agent. The working directory is /srv/app.",
                "tools": TOOLS,
                "messages": [{"role": "user", "content": task.prompt}],
            }
            call = exchange.prepare(json.dumps(body).encode())
            outcome = exchange.ask(call, "token", f"msg_{number}", Waiter(limit=600))
            verdict = judge(task, outcome)
            verdicts[verdict] += 1
            print(f"{number:3} {verdict:25} {task.prompt[:70]}", file=sys.stderr, flush=True)
            if options.failures and not verdict.startswith("right"):
                print(outcome.message.content, file=sys.stderr, flush=True)
    print("| verdict | tasks |\n| --- | ---: |")
    for verdict, count in verdicts.most_common():
        print(f"| {verdict} | {count} |")
    print(f"\n{len(TASKS)} tasks in {time.monotonic() - began:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
