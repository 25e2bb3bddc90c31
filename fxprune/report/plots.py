"""Plots for reports, drawn without a display."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fxprune.escaping import plot
from fxprune.plans import WidthRow
from fxprune.report.palette import BETWEEN, DENSE, ERROR_BARS, SLIM
from fxprune.report.width_bars import draw_widths, size_of
from fxprune.support.extras import need
from fxprune.support.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fxprune.bench.table import BenchTable

__all__ = ["plot_demo", "plot_latency", "plot_widths"]

_DPI = 150


def plot_widths(rows: Sequence[WidthRow], path: Path) -> None:
    """The share of every group that is kept, a bar each, under the names of their blocks.

    Args:
        rows: From ``width_table``.
        path: The file; its suffix decides the format.
    """
    figure = _figure(*size_of(rows))
    draw_widths(figure, rows)
    _save(figure, path)


def plot_latency(table: BenchTable, path: Path) -> None:
    """Median latencies as bars, with the tenth and the ninetieth percentile, and the machine.

    Args:
        table: From ``benchmark``.
        path: The file; its suffix decides the format.
    """
    figure = _figure(6.4, 0.7 * len(table.rows) + 1.6)
    _draw_latency(figure.subplots(), table)
    _save(figure, path)


def plot_demo(
    accuracy: Mapping[str, float], widths: Sequence[WidthRow], latency: BenchTable, path: Path
) -> None:
    """The demo in one picture: accuracies, widths and latencies.

    Args:
        accuracy: Share of right answers in [0, 1] by the name of the moment.
        widths: From ``width_table``.
        latency: From ``benchmark``.
        path: The file.
    """
    width, height = size_of(widths)
    whole = _figure(max(11, width), 3 + height)
    figure, below = whole.subfigures(2, 1, squeeze=False, height_ratios=(3, height))[:, 0]
    left, right = figure.subplots(1, 2)
    bars = left.bar(
        list(accuracy),
        [100 * value for value in accuracy.values()],
        color=[DENSE, *[BETWEEN] * (len(accuracy) - 2), SLIM],
        width=0.6,
    )
    left.bar_label(bars, fmt="%.1f %%", padding=2)
    left.set_ylim(0, 115)
    left.set_yticks(range(0, 101, 25))
    _titles(left, "accuracy on the test images", "%")
    _draw_latency(right, latency)
    draw_widths(below, widths)
    _save(whole, path)


def _draw_latency(axes: Axes, table: BenchTable) -> None:
    rows, m = table.rows, table.machine
    colors = [DENSE, *[SLIM] * (len(rows) - 1)]
    medians = [row.median_ms for row in rows]
    low = [max(0.0, row.median_ms - row.p10_ms) for row in rows]
    high = [max(0.0, row.p90_ms - row.median_ms) for row in rows]
    axes.barh(
        [plot(row.name) for row in rows],
        medians,
        xerr=[low, high],
        color=colors,
        height=0.6,
        capsize=4,
        ecolor=ERROR_BARS,
    )
    for number, row in enumerate(rows):
        text = f"  {row.median_ms:.3g} ms" + (f"  ×{row.speedup:.2f}" if number else "")
        axes.text(row.p90_ms, number, text, va="center", fontsize=9)
    axes.set_xlim(0, 1.35 * max(row.p90_ms for row in rows))
    axes.invert_yaxis()
    threads = f"{table.threads} thread{'s' * (table.threads > 1)}"
    caption = (
        f"{m.cpu}, {m.cores} cores, {m.capability}; onnxruntime {m.onnxruntime}, torch {m.torch}; {threads}"
    )
    axes.set_xlabel(plot(caption), fontsize=6, loc="left")
    _titles(axes, "latency of one call, median and p10..p90, ms", "")


def _titles(axes: Axes, title: str, ylabel: str) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_ylabel(ylabel)
    axes.spines[["top", "right"]].set_visible(False)


def _figure(width: float, height: float) -> Figure:
    need("a picture", "matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot: no display, no global state
    return figure


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a letter that the font has no picture of
        figure.savefig(temporary, dpi=_DPI)
