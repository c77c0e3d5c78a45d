"""Regular expressions that are compiled when they are first used."""

from __future__ import annotations

import gc
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

from claude_proxy.core.expressions import _Expression, expression

CORE = Path(sys.modules["claude_proxy.core"].__path__[0])


def test_an_expression_does_what_a_compiled_one_does() -> None:
    word = expression(r"(?P<word>[a-z]+)", re.IGNORECASE)
    assert word.pattern == r"(?P<word>[a-z]+)"
    for _ in range(2):
        assert [match["word"] for match in word.finditer("one Two")] == ["one", "Two"]
        assert word.sub("x", "one Two") == "x x"
        assert word.fullmatch("one Two") is None
    assert dict(word.groupindex) == {"word": 1}


def test_nothing_is_compiled_before_its_use() -> None:
    broken = expression("(")
    with pytest.raises(re.error, match="missing \\)"):
        broken.search("")


def test_each_of_the_core_can_be_compiled() -> None:
    """Or a slip of ours would show when some reply first needs it."""
    for file in CORE.rglob("[!_]*.py"):
        import_module(".".join(("claude_proxy.core", *file.relative_to(CORE).with_suffix("").parts)))
    found = [each for each in gc.get_objects() if isinstance(each, _Expression) and each.pattern != "("]
    assert len(found) > 25
    for each in found:
        re.compile(each.pattern, each._flags)
