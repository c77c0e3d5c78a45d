#!/usr/bin/env python3
"""Draws the charts of docs/performance.md from the tables that stand there.

    python -m pip install --group bench     once, in an environment of its own
    python bench/charts.py                              `load.py` does this at its end

So a chart cannot say anything else than the table beside it.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
IMAGES = ROOT / "docs" / "images"

Table: TypeAlias = Mapping[str, Sequence[str]]
"""The cells of each column, by its heading."""

matplotlib: Any = importlib.import_module("matplotlib")
pyplot: Any = importlib.import_module("matplotlib.pyplot")


def read_table(page: str, heading: str) -> Table:
    """The first table below a heading."""
    lines = page.partition(f"\n## {heading}\n")[2].splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("|"))
    stop = next((index for index in range(start, len(lines)) if not lines[index].startswith("|")), len(lines))
    names, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:stop])
    return {name: [row[index] for row in rows] for index, name in enumerate(names)}


def number(cell: str) -> float:
    """The figure that a cell begins with; its range may stand behind it."""
    found = re.match(r"-?[\d,.]+", cell)
    return float(found[0].replace(",", "")) if found else 0.0


def draw_bars(axes: Any, table: Table, *, unit: str, rows: Callable[[str], bool] = lambda _: True) -> None:
    """A bar for each server in each row of a table, on a logarithmic scale."""
    names, groups = list(table)[2:], next(iter(table.values()))
    shown = [index for index, group in enumerate(groups) if rows(group)]
    height = 0.8 / len(names)
    for place, name in enumerate(names):
        values = [number(table[name][index]) for index in shown]
        bars = axes.barh([row + place * height for row in range(len(shown))], values, height, label=name)
        axes.bar_label(bars, fmt="%.3g", padding=2, fontsize=8)
    axes.set_yticks([row + 0.4 - height / 2 for row in range(len(shown))], [groups[index] for index in shown])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_xlabel(unit)


def draw_lines(axes: Any, table: Table) -> None:
    """A line for each column of times, by the size of the body."""
    sizes, *columns = list(table.items())[:-1]
    for name, cells in columns:
        axes.plot(list(map(number, sizes[1])), list(map(number, cells)), marker="o", label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(visible=True, alpha=0.3)
    axes.set_xlabel("kB of the body")
    axes.set_ylabel("ms")


def draw(page: Path = PAGE, images: Path = IMAGES) -> None:
    """Draw all charts of the page."""
    text = page.read_text(encoding="utf-8")
    throughput = read_table(text, "Throughput")
    charts: Mapping[str, tuple[str, Callable[[Any], None]]] = {
        "performance-latency": (
            "Added latency at the median, one connection",
            lambda axes: draw_bars(axes, read_table(text, "Added latency"), unit="ms"),
        ),
        "performance-throughput": (
            "Throughput, 16 connections",
            lambda axes: draw_bars(axes, throughput, unit="requests/s", rows=lambda row: " 16 connections" in row),
        ),
        "performance-size": (
            "One request by the size of its body",
            lambda axes: draw_lines(axes, read_table(text, "Size")),
        ),
    }
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "claude-proxy"}  # the same tables, the same file
    for name, (title, draw_on) in charts.items():
        figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
        axes.set_title(title)
        draw_on(axes)
        axes.legend()
        figure.savefig(images / f"{name}.svg", metadata={"Date": None})
        pyplot.close(figure)


def main() -> int:
    """Draw."""
    draw()
    return 0


if __name__ == "__main__":
    sys.exit(main())
