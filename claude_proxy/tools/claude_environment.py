"""What Claude Code must be told so that it talks to the proxy and to nobody else: computed, written, merged.

Claude Code takes environment variables. The `env` of its settings files outranks them, and `--settings` on the command
line outranks those, the last one only (measured with 2.1.330). So the changes are computed on top of all that is set
already: what the user chose of the sizes stays, what we wrote earlier is known by a mark and replaced.

The mark is one more variable, which names what was written with a digest of each value: a value that somebody has
edited since is no longer ours.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from claude_proxy.core.aliases.mapping import Alias

Shell: TypeAlias = Literal["bash", "fish", "powershell"]

MARK = "CLAUDE_PROXY_WROTE"
BASE_URL, AUTH_TOKEN, API_KEY = "ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY"

# What would lead Claude Code elsewhere, or give it a second credential.
INTERFERING = (
    API_KEY,
    "ANTHROPIC_UNIX_SOCKET",
    "CLAUDE_CODE_OAUTH_TOKEN",
    *(f"CLAUDE_CODE_USE_{name}" for name in ("BEDROCK", "VERTEX", "FOUNDRY", "MANTLE", "GATEWAY")),
    *(f"CLAUDE_CODE_USE_ANTHROPIC_{name}" for name in ("AWS", "GOOGLE_CLOUD")),
)
_STAY_HERE = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_TELEMETRY": "1",
}
_LOOPBACK = ("127.0.0.1", "localhost", "::1")

# The proxy continues what an alias cuts off, so a reply may be longer than the alias's own limit: this is what Claude
# Code allows a model that it does not know. And what it allows at most.
_USUAL_OUTPUT, _MOST_OUTPUT = 32_000, 128_000

# What the short names stand for in 2.1.330; the first is the model of whoever chooses none.
_SHORT_NAMES = {
    "default": "claude-opus-5-5",
    "opus": "claude-opus-5-5",
    "best": "claude-opus-5-5",
    "sonnet": "claude-sonnet-5-5",
    "opusplan": "claude-sonnet-5-5",
    "haiku": "claude-haiku-5-5",
    "fable": "claude-fable-5-2",
}
_COMMANDS = frozenset(
    {
        *("agents", "attach", "auth", "auto-mode", "doctor", "gateway", "import", "install", "logs", "mcp", "plugin"),
        *("plugins", "project", "purge", "respawn", "rm", "setup-token", "stop", "kill", "ultrareview", "update"),
        "upgrade",
    }
)


class SettingsConflict(ValueError):
    """A settings file cannot be merged with; the message says what is wrong with it and what to do."""


@dataclass(frozen=True)
class Changes:
    """Variables to set and to remove."""

    set: Mapping[str, str] = field(default_factory=dict)
    unset: tuple[str, ...] = ()

    def applied_to(self, environ: Mapping[str, str]) -> dict[str, str]:
        """An environment after the changes."""
        return {name: text for name, text in environ.items() if name not in self.unset} | dict(self.set)


# --- what the user wants ----------------------------------------------------------------------------------------------


def find_option(arguments: Sequence[str], name: str) -> str | None:
    """The value of one of claude's options, given as `--name value` or `--name=value`; the last one counts."""
    found = None
    for place, argument in enumerate(arguments):
        if argument == "--":
            break
        if argument == name and place + 1 < len(arguments):
            found = arguments[place + 1]
        elif argument.startswith(f"{name}="):
            found = argument.removeprefix(f"{name}=")
    return found


def choose_model(asked: str | None, environ: Mapping[str, str], configured: str | None) -> str:
    """The model name that Claude Code will send, given `--model`, its environment, and `model` of its settings."""
    name = next(filter(None, (asked, environ.get("ANTHROPIC_MODEL"), configured)), "default")
    short = name.lower().removesuffix("[1m]")
    family = {"default": "opus", "best": "opus", "opusplan": "sonnet"}.get(short, short)
    if short in _SHORT_NAMES:
        return environ.get(f"ANTHROPIC_DEFAULT_{family.upper()}_MODEL") or _SHORT_NAMES[short]
    return name


@dataclass(frozen=True)
class Mode:
    """In which permission mode claude starts: arguments to add, and what to tell the user."""

    arguments: tuple[str, ...] = ()
    sentence: str = ""


_VERDICTS = "auto needs verdicts that no text-only model can give"


def choose_mode(arguments: Sequence[str], configured: str | None) -> Mode:
    """The permission mode.

    In `auto`, the default of a fresh installation, Claude Code asks its server for verdicts that nobody here can give.
    Whoever asks for it, by an argument or by `permissions.defaultMode` of the settings, gets it and a sentence; whoever
    asks for none gets `default` and a sentence.
    """
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    skips = "--dangerously-skip-permissions" in options
    mode = find_option(arguments, "--permission-mode") or ("bypassPermissions" if skips else configured)
    if mode == "auto":
        return Mode(
            sentence=f"{_VERDICTS}: Claude Code will ask you about actions that need one, or with -p refuse them. "
            "Another mode: --permission-mode default"
        )
    if mode or _asks_no_permission(options):
        return Mode()
    return Mode(
        ("--permission-mode", "default"),
        f"permission mode default ({_VERDICTS}); another: --permission-mode acceptEdits",
    )


def _asks_no_permission(options: Sequence[str]) -> bool:
    """Whether this is no session at a terminal, so that there is no mode to choose."""
    if options and options[0] in _COMMANDS:
        return True
    return any(
        option in {"--print", "--help", "--version"} or re.fullmatch("-[a-z]*[phv][a-z]*", option) for option in options
    )


# --- the environment --------------------------------------------------------------------------------------------------


def compute_changes(
    base_url: str, token: str, alias: Alias, environ: Mapping[str, str], settings_env: Mapping[str, str] | None = None
) -> Changes:
    """What to change in an environment so that Claude Code works with an alias through the proxy.

    Sizes that the user has set, in the environment or in Claude Code's settings on top of it, are left alone.
    """
    own = without_ours(environ) | without_ours(settings_env or {})
    hosts = {**environ, **own}  # exceptions that we have added to are still the user's
    # The first is obeyed for every model name, the second for those that Claude Code does not know.
    sizes = {
        "CLAUDE_CODE_AUTO_COMPACT_WINDOW": alias.window,
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": alias.window,
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": min(max(alias.max_output, _USUAL_OUTPUT), _MOST_OUTPUT, alias.window // 2),
    }
    wanted = {
        BASE_URL: base_url,
        AUTH_TOKEN: token,
        **{name: str(size) for name, size in sizes.items() if not own.get(name)},
        **_STAY_HERE,
        # Of the two names the lower-case one counts where both are set.
        "no_proxy": _with_loopback(hosts.get("no_proxy") or hosts.get("NO_PROXY", "")),
        "NO_PROXY": _with_loopback(hosts.get("NO_PROXY") or hosts.get("no_proxy", "")),
    }
    stale = tuple(name for name in environ if name not in own and name not in wanted and name != MARK)
    return Changes({**wanted, MARK: _mark(wanted)}, (*INTERFERING, *stale))


def _with_loopback(hosts: str) -> str:
    listed = [host.strip() for host in hosts.split(",") if host.strip()]
    if "*" in listed:
        return hosts
    return ",".join([*listed, *(host for host in _LOOPBACK if host not in listed)])


def _mark(values: Mapping[str, str]) -> str:
    return ",".join(f"{name}:{_digest(text)}" for name, text in values.items())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:12]


def without_ours(environ: Mapping[str, str]) -> dict[str, str]:
    """What is set in an environment besides what we wrote there ourselves."""
    written = set(environ.get(MARK, "").split(","))
    return {name: text for name, text in environ.items() if name != MARK and f"{name}:{_digest(text)}" not in written}


def outranked(changes: Changes, settings_env: Mapping[str, str]) -> dict[str, str]:
    """What must be said with `--settings` too, because settings files say otherwise; they outrank the environment."""
    differing = {
        name: text for name, text in changes.set.items() if name != MARK and settings_env.get(name, text) != text
    }
    return differing | dict.fromkeys((name for name in changes.unset if settings_env.get(name)), "")


# --- as text for a shell ----------------------------------------------------------------------------------------------


def guess_shell(environ: Mapping[str, str], *, windows: bool) -> Shell:
    """The shell that most likely reads the lines."""
    name = re.split(r"[/\\]", environ.get("SHELL", ""))[-1].lower().removesuffix(".exe")
    if name == "fish":
        return "fish"
    return "powershell" if name in {"pwsh", "powershell"} or (windows and not name) else "bash"


def export_lines(changes: Changes, shell: Shell) -> str:
    """The changes as lines for `eval` (bash, zsh, sh), `source` (fish) or `Invoke-Expression` (PowerShell)."""
    remove, write, quote = {
        "bash": ("unset {}", "export {}={}", shlex.quote),
        "fish": ("set -e {}", "set -gx {} {}", _quote_for_fish),
        "powershell": ("Remove-Item Env:{} -ErrorAction SilentlyContinue", "$env:{} = {}", _quote_for_powershell),
    }[shell]
    removed = [remove.format(name) for name in changes.unset]
    return "\n".join([*removed, *(write.format(name, quote(text)) for name, text in changes.set.items()), ""])


def _quote_for_fish(text: str) -> str:
    return "'" + re.sub(r"([\\'])", r"\\\1", text) + "'"


def _quote_for_powershell(text: str) -> str:
    # The typographic quotes end a string there just as the plain one does.
    return "'" + re.sub("(['\u2018\u2019\u201a\u201b])", r"\1\1", text) + "'"


# --- as Claude Code's settings ----------------------------------------------------------------------------------------


def read_settings(text: str) -> dict[str, Any]:
    """The object in a settings file.

    Raises:
        SettingsConflict: the text is not JSON that could be written back with the same meaning.
    """
    try:
        data = json.loads(text, object_pairs_hook=_unique)
        json.dumps(data, allow_nan=False)  # which refuses NaN, and numbers that are too large for a float
    except RecursionError:
        raise SettingsConflict("it is nested too deeply") from None
    except ValueError as error:
        raise SettingsConflict(f"it is not valid JSON ({error})") from None
    if not isinstance(data, dict):
        raise SettingsConflict("it does not hold a JSON object")
    env = data.get("env", {})
    if not isinstance(env, dict) or not all(isinstance(value, str) for value in env.values()):
        raise SettingsConflict('its "env" does not map names to strings')
    return data


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key, value in pairs:
        if key in data:
            raise ValueError(f"{json.dumps(key)} stands there twice")
        data[key] = value
    return data


def merge_settings(settings: Mapping[str, Any], changes: Changes, environ: Mapping[str, str]) -> dict[str, Any]:
    """Claude Code's settings with the changes in their `env`; what we wrote there earlier goes.

    Settings cannot remove a variable, but an empty one counts as none: that is written for the key that most people
    have, and for whatever else is set now.

    Raises:
        SettingsConflict: one of the names has another value, which we did not write.
    """
    kept = without_ours(settings.get("env", {}))
    empty = dict.fromkeys((name for name in changes.unset if name == API_KEY or environ.get(name)), "")
    wanted = {name: text for name, text in changes.set.items() if name != MARK} | empty
    taken = [name for name, text in wanted.items() if kept.get(name, text) != text]
    if taken:
        names = ", ".join(taken)
        raise SettingsConflict(f'its "env" has other values of {names}, which claude-proxy did not write')
    ours = {name: text for name, text in wanted.items() if name not in kept}
    return {**settings, "env": {**kept, **ours, MARK: _mark(ours)}}


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings as Claude Code writes them."""
    text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    # A lone surrogate, which JSON can express and UTF-8 cannot.
    return json.dumps(settings, indent=2) + "\n" if re.search("[\ud800-\udfff]", text) else text
