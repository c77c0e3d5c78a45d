"""The variables of a `.env` file, read as Docker Compose reads it."""

from __future__ import annotations

import re
from pathlib import Path

from claude_proxy.errors import SettingsError
from claude_proxy.settings.values import explain_unreadable

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")


def read_dotenv(path: Path) -> dict[str, str]:
    """The variables of a `.env` file; none where there is no file.

    Read as Docker Compose reads it: `NAME=value` lines, `#` comments, values bare, in single quotes (as they stand)
    or in double quotes.

    Raises:
        SettingsError: a line is no assignment, or the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        reason = explain_unreadable(error)
        raise SettingsError(f"{path} cannot be read: {reason}. Correct it, or move it away.") from None
    variables = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if not match:
            raise SettingsError(f"{path}, line {number}: this is not NAME=value. Correct the line or put # before it.")
        variables[match[1]] = _unquote(match[2])
    return variables


def _unquote(text: str) -> str:
    if quoted := re.fullmatch(r"""(["'])(.*?)\1\s*(?:#.*)?""", text):
        return quoted[2].replace('\\"', '"') if quoted[1] == '"' else quoted[2]
    return re.split(r"\s#", f" {text}", maxsplit=1)[0].strip()
