"""Draws what became of fxprune and its peers on the same nets, for the README: ``python tools/draw_peers.py``.

It reads the tables that ``python tools/peers.py`` wrote, ``tools/results/PROBES.md`` and, where it is there,
``PEERS_NETS.md``, with what they say of the machine, and writes ``tools/docs/peers.png``.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from fxprune.report.palette import VERDICTS
from fxprune.support.files import atomic_path

__all__ = ["Panel", "draw", "read"]

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "PROBES.md": "one operator between two layers, nets that fxprune gets right",
    "PEERS_NETS.md": "random nets, half of the channels",
}
SHOWN = {
    **{name: name for name in VERDICTS},
    "crashes": "crash",
    "no answer": "crash",
    "nothing pruned": "refused",
}
"""What a verdict of the tables counts as in the picture."""

LEGEND = {"refused": "refused, or nothing pruned", "crash": "crash, or no answer in time"}


@dataclass(frozen=True)
class Panel:
    """One page of results.

    Attributes:
        title: What was tried.
        tried: How many nets.
        counts: Verdicts as in ``VERDICTS`` by the tool.
        machine: On what it was measured.
    """

    title: str
    tried: int
    counts: dict[str, Counter[str]]
    machine: str


def read(page: str, title: str) -> Panel:
    """The verdicts of a page that ``tools/peers.py`` wrote.

    Args:
        page: Its Markdown.
        title: What was tried.

    Raises:
        ValueError: The page has no rows of verdicts.
    """
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"
    ]
    # Cells of a name may hold a bar of their own: the verdicts are the last ones.
    known = {*SHOWN, "not judged"}
    found = [k for k, cells in enumerate(lines) if len(cells) > 1 and cells[-1] in known]
    if not found:
        raise ValueError("no rows of verdicts")
    tools = lines[found[0] - 2][1:]
    rows = [lines[k][-len(tools) :] for k in found]
    counts = {tool: Counter(SHOWN.get(row[k], row[k]) for row in rows) for k, tool in enumerate(tools)}
    if not any(tool.startswith("fxprune") for tool in counts):  # the probes are those that it does right
        counts = {"fxprune": Counter(right=len(rows)), **counts}
    machine = re.search(r"wrote this: ([^;]*)", page)
    return Panel(title, len(rows), counts, machine[1] if machine else "")


def draw(panels: Sequence[Panel], path: Path) -> None:
    """A bar for each tool, a panel for each kind of nets.

    Args:
        panels: From ``read``; what was not judged is left white.
        path: The file.
    """
    matplotlib.use("Agg")
    heights = [len(panel.counts) + 1.2 for panel in panels]
    figure, axes = plt.subplots(
        len(panels),
        figsize=(8, 0.42 * sum(heights) + 0.7),
        layout="constrained",
        squeeze=False,
        height_ratios=heights,
    )
    for panel, axis in zip(panels, axes.flat, strict=True):
        _draw(panel, axis)
    keys = [Patch(color=colour, label=LEGEND.get(name, name)) for name, colour in VERDICTS.items()]
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), frameon=False, fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)
    plt.close(figure)


def _draw(panel: Panel, axis: Axes) -> None:
    for place, counts in enumerate(panel.counts.values()):
        left = 0
        for name, colour in VERDICTS.items():
            bar = axis.barh(place, counts[name], left=left, color=colour, height=0.62)
            ink = "white" if name in ("right", "silently wrong") else "black"
            axis.bar_label(bar, [str(counts[name] or "")], label_type="center", color=ink, fontsize=9)
            left += counts[name]
    axis.set_yticks(range(len(panel.counts)), list(panel.counts), fontsize=9)
    axis.invert_yaxis()
    axis.set_xlim(0, panel.tried)
    axis.set_xticks([])
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    axis.set_title(f"{panel.title}: {panel.tried}", fontsize=10, loc="left")
    axis.text(1, -0.01, panel.machine, fontsize=6, ha="right", va="top", transform=axis.transAxes)


def main() -> int:
    """Draw what is there."""
    pages = {ROOT / "tools" / "results" / name: title for name, title in PAGES.items()}
    panels = [read(page.read_text(encoding="utf-8"), title) for page, title in pages.items() if page.exists()]
    draw(panels, ROOT / "tools" / "docs" / "peers.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
