"""Draws the folders of fxprune and who imports whom, made from the imports: ``python tools/draw_folders.py FILE.svg``.

Arrows that follow from others are left out (a transitive reduction), so what is drawn is the least that implies all.
Every arrow points down: ``tools/imports.py`` says the order, a test holds the sources to it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path

import networkx as nx
from imports import JOINTS, STAGES, entry, imported, own, sources

from fxprune.report.palette import BETWEEN, DENSE, LINE, SLIM

__all__ = ["arrows", "drawing"]

FORMER = frozenset({"crop", "shims"})
"""Names that old pickles ask for; nothing of the architecture."""

TITLES = {"__init__": "import fxprune", "__main__": "python -m fxprune"}
CHARACTER, ROW, GAP, HEIGHT = 8, 62, 22, 28
SWEEPS = 24

Place = str | tuple[str, str, int]
"""A folder, or the point where an arrow passes a row."""


def arrows() -> nx.DiGraph[str]:
    """From every folder to those that it imports."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    for path, tree in sources():
        mine = entry(path)
        graph.add_node(mine)
        theirs = {name for dotted, _ in imported(tree) if (name := own(dotted)) and name != mine}
        graph.add_edges_from((mine, name) for name in theirs)
    graph.remove_nodes_from(FORMER)
    return graph


def drawing(graph: nx.DiGraph[str]) -> str:
    """An SVG of a graph without circles.

    Args:
        graph: From importer to imported.
    """
    least = nx.transitive_reduction(graph)
    rows, lines = _rows(least)
    at = _places(rows, lines)
    width = max(x + _width(p) / 2 for p, (x, _) in at.items()) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {len(rows) * ROW + 30}" '
        'font-family="sans-serif" font-size="13" role="img" aria-label="folders and their imports">'
    ]
    parts += [_line([at[p] for p in line]) for line in lines]
    parts += [_box(p, *at[p]) for row in rows for p in row if isinstance(p, str)]
    parts += _legend(len(rows) * ROW + 14)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _rows(graph: nx.DiGraph[str]) -> tuple[list[list[Place]], list[list[Place]]]:
    """Folders by the longest way to the ground, top first, and for each arrow the places it runs through."""
    rank: dict[str, int] = {}
    for name in reversed(list(nx.topological_sort(graph))):
        rank[name] = 1 + max((rank[below] for below in graph.successors(name)), default=-1)
    rows: list[list[Place]] = [[] for _ in range(1 + max(rank.values()))]
    for name in sorted(rank):
        rows[-1 - rank[name]].append(name)
    lines: list[list[Place]] = []
    for above, below in sorted(graph.edges):
        passed: list[Place] = [(above, below, k) for k in range(rank[above] - 1, rank[below], -1)]
        for place in passed:
            rows[-1 - int(place[2])].append(place)
        lines.append([above, *passed, below])
    return rows, lines


def _places(
    rows: Sequence[list[Place]], lines: Iterable[Sequence[Place]]
) -> dict[Place, tuple[float, float]]:
    """Where each place is: near the mean of what it is joined with, rows spread until nothing overlaps."""
    joined: dict[Place, list[Place]] = {p: [] for row in rows for p in row}
    for line in lines:
        for one, other in pairwise(line):
            joined[one].append(other)
            joined[other].append(one)
    x: dict[Place, float] = {p: float(k) for row in rows for k, p in enumerate(row)}
    for sweep in range(SWEEPS):
        for row in rows if sweep % 2 else reversed(rows):
            wish = {p: sum(x[q] for q in joined[p]) / max(1, len(joined[p])) for p in row}
            row.sort(key=lambda p: wish[p])
            edge, shifts = -1e9, []
            for p in row:
                x[p] = max(wish[p], edge + _width(p) / 2)
                edge = x[p] + _width(p) / 2 + GAP
                shifts.append(x[p] - wish[p])
            for p in row:
                x[p] -= sum(shifts) / len(shifts)
    left = min(x[p] - _width(p) / 2 for p in x) - GAP
    return {p: (x[p] - left, k * ROW + ROW / 2) for k, row in enumerate(rows) for p in row}


def _width(place: Place) -> float:
    return CHARACTER * len(TITLES.get(place, place)) + 20 if isinstance(place, str) else 0


def _line(points: Sequence[tuple[float, float]]) -> str:
    path = f"M{points[0][0]:.0f},{points[0][1]:.0f}"
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (y0 + y1) / 2
        path += f" C{x0:.0f},{middle:.0f} {x1:.0f},{middle:.0f} {x1:.0f},{y1:.0f}"
    return f'<path d="{path}" fill="none" stroke="{LINE}" stroke-width="1.2"/>'


def _box(name: str, x: float, y: float) -> str:
    width, title = _width(name), escape(TITLES.get(name, name))
    fill, ink = (
        (SLIM, "white") if name in STAGES else (BETWEEN, "black") if name in JOINTS else (DENSE, "black")
    )
    return (
        f'<rect x="{x - width / 2:.0f}" y="{y - HEIGHT / 2:.0f}" width="{width:.0f}" height="{HEIGHT}" rx="5" fill="{fill}"/>'
        f'<text x="{x:.0f}" y="{y + 4.5:.0f}" text-anchor="middle" fill="{ink}">{title}</text>'
    )


def _legend(y: float) -> list[str]:
    kinds = (
        (SLIM, "stages: each knows one other at most"),
        (BETWEEN, "where stages meet"),
        (DENSE, "what all build on"),
    )
    return [
        f'<rect x="{GAP + 260 * k}" y="{y - 10}" width="12" height="12" fill="{colour}"/>'
        f'<text x="{GAP + 260 * k + 18}" y="{y}" fill="{LINE}">{words}</text>'
        for k, (colour, words) in enumerate(kinds)
    ]


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(drawing(arrows()), encoding="utf-8")
