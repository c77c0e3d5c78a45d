#!/usr/bin/env python3
"""Build the docs as a site in build/site, strictly: a link that leads nowhere is an error.

The pages are those of docs/, with README.md as the first. Links to files of the repository, which a site does not have,
lead to copies. Needs Python 3.11 and nothing else; the generator is installed into `.venv-docs`.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent))

import environments

ROOT = Path(__file__).resolve().parent.parent
STAGED, SITE = ROOT / "build" / "docs", ROOT / "build" / "site"
VENV = ROOT / ".venv-docs"
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}

_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_FENCED = re.compile(r"^(```.*?^```|~~~.*?^~~~)", re.DOTALL | re.MULTILINE)


def sources() -> dict[Path, str]:
    """The pages in the repository, and their names in the site."""
    pages = {ROOT / source: name for source, name in PAGES.items()}
    return pages | {path: path.name for path in sorted((ROOT / "docs").glob("*.md"))}


# --- links ------------------------------------------------------------------------------------------------------------


def links(text: str) -> Iterator[str]:
    """The targets of all links and pictures of a page."""
    yield from (found[2] for found in _LINK.finditer(_FENCED.sub("", text)))


def anchors(text: str) -> set[str]:
    """What a link may name behind `#`: the headings, in the way of GitHub and of the site."""
    headings = re.findall(r"^#+ (.+)$", _FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> Iterator[str]:
    """The links of a page within the repository that lead nowhere."""
    for target in links(page.read_text(encoding="utf-8")):
        parts = urlsplit(target)
        if parts.scheme:
            continue
        path = page.parent / unquote(parts.path) if parts.path else page
        if not path.exists():
            yield f"{page.relative_to(ROOT)}: there is no {target}"
        elif parts.fragment and parts.fragment not in anchors(path.read_text(encoding="utf-8")):
            yield f"{page.relative_to(ROOT)}: {target} names no heading"


# --- building ---------------------------------------------------------------------------------------------------------


def stage() -> None:
    """Put the pages together, with their links as they are in the site."""
    shutil.rmtree(STAGED, ignore_errors=True)
    shutil.copytree(ROOT / "docs" / "images", STAGED / "images")
    for page, name in sources().items():
        text = page.read_text(encoding="utf-8")
        for target in set(links(text)):
            text = text.replace(f"]({target})", f"]({_in_site(page, target)})")
        (STAGED / name).write_text(text, encoding="utf-8")


def _in_site(page: Path, target: str) -> str:
    parts = urlsplit(target)
    if parts.scheme or not parts.path:
        return target
    path = Path(posixpath.normpath((page.parent / unquote(parts.path)).as_posix()))
    fragment = f"#{parts.fragment}" if parts.fragment else ""
    if path in sources():
        return sources()[path] + fragment
    if (ROOT / "docs") in path.parents:
        return path.relative_to(ROOT / "docs").as_posix() + fragment
    copy = STAGED / "files" / (path.relative_to(ROOT).as_posix().lstrip(".") + ".txt")
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, copy)
    return copy.relative_to(STAGED).as_posix()


class _References(HTMLParser):
    """What a page of the site refers to, and what it can be referred to by."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            elif value and (tag, name) in {("a", "href"), ("img", "src"), ("script", "src"), ("link", "href")}:
                self.targets.append(value)


def broken_references() -> Iterator[str]:
    """What in the finished site leads nowhere."""
    pages = {path: _References(path.read_text(encoding="utf-8")) for path in SITE.rglob("*.html")}
    for page, references in pages.items():
        if page.name == "404.html":  # its links begin at the root of the server
            continue
        for target in references.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            path = path / "index.html" if path.is_dir() else path
            its = pages.get(path)
            lost = its and parts.fragment and parts.fragment not in its.ids and not parts.fragment.startswith("__")
            if not path.exists() or lost:
                yield f"{page.relative_to(SITE)}: {target}"


def install() -> None:
    """Bring `.venv-docs` to what pyproject.toml says."""
    environments.install(VENV, "docs")


def main() -> int:
    """Check, build, check again."""
    found = [line for page in sources() for line in broken_links(page)]
    if not found:
        install()
        stage()
        shutil.rmtree(SITE, ignore_errors=True)
        subprocess.run(
            [str(environments.python_of(VENV)), "-m", "zensical", "build", "--strict", "--clean"], cwd=ROOT, check=True
        )
        found = list(broken_references())
    print("\n".join(found) or f"wrote {SITE.relative_to(ROOT)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
