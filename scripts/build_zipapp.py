#!/usr/bin/env python3
"""Write `dist/claude-proxy.pyz`: the whole proxy in one file, which any Python from 3.11 on runs.

    python3 scripts/build_zipapp.py [PATH]

The same sources give the same bytes on every machine: the files are sorted and stored without compression (whose result
depends on the library), and their times are those of SOURCE_DATE_EPOCH, or else the first that a zip file can hold.
"""

from __future__ import annotations

import io
import os
import sys
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "claude_proxy"
KINDS = {".py", ".html", ".typed"}
FIRST_TIME = (1980, 1, 1, 0, 0, 0)
SHEBANG = b"#!/usr/bin/env python3\n"


def contents() -> dict[str, bytes]:
    """The files of the archive: the package, and a start that tells an old Python what is missing."""
    files = {
        path.relative_to(ROOT).as_posix(): path.read_bytes()
        for path in PACKAGE.rglob("*")
        if path.suffix in KINDS and path.is_file()
    }
    return {"__main__.py": files["claude_proxy/__main__.py"], "LICENSE": (ROOT / "LICENSE").read_bytes(), **files}


def archive(environ: Mapping[str, str]) -> bytes:
    """The bytes of the file."""
    moment = _moment(environ.get("SOURCE_DATE_EPOCH", ""))
    out = io.BytesIO()
    out.write(SHEBANG)
    with zipfile.ZipFile(out, "a") as zipped:
        for name, data in sorted(contents().items()):
            entry = zipfile.ZipInfo(name, moment)
            entry.create_system = 3  # Unix, wherever it is built
            entry.external_attr = 0o100644 << 16
            zipped.writestr(entry, data, zipfile.ZIP_STORED)
    return out.getvalue()


def _moment(epoch: str) -> tuple[int, int, int, int, int, int]:
    if not epoch:
        return FIRST_TIME
    year, month, day, hour, minute, second = time.gmtime(int(epoch))[:6]
    return max(FIRST_TIME, (year, month, day, hour, minute, second))


def main() -> None:
    """Write the file."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist" / "claude-proxy.pyz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(archive(os.environ))
    path.chmod(0o755)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
