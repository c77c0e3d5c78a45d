"""Every golden file is what the proxy does today."""

from __future__ import annotations

from difflib import unified_diff
from pathlib import Path

import pytest
from golden import golden_files, play


@pytest.mark.parametrize("path", golden_files(), ids=lambda path: path.stem)
def test_the_exchange_goes_as_it_is_written_down(path: Path) -> None:
    written = path.read_bytes().decode()
    played = play(written)
    if played != written:
        changes = unified_diff(written.splitlines(), played.splitlines(), "as written down", "today", lineterm="")
        pytest.fail("\n".join(changes) or "only line ends differ", pytrace=False)
