"""What a plan leaves of each group, as bars under the names of their blocks, in as many columns as it takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fxprune.escaping import plot
from fxprune.plans import WidthRow
from fxprune.report.palette import DENSE, LINE, SLIM

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["Bar", "bars", "draw_widths", "size_of"]

_LINES = 64  # of one column
_COLUMNS = 4
_INCHES = 0.145  # of one line
_COLUMN_INCHES = 5.2
_LONGEST = 34  # letters of one label
_FONT = 6.5

_NUMBER = re.compile(r"\d+")
_NUMBERED = re.compile(r".*\d")


@dataclass(frozen=True)
class Bar:
    """A line of the picture: a bar, or the name of the block that the next ones belong to.

    Attributes:
        label: What stands left of it.
        row: The group; None for the name of a block.
    """

    label: str
    row: WidthRow | None = None


def bars(rows: Sequence[WidthRow]) -> list[Bar]:
    """Groups in their order under the names of their blocks; a group that is alone in its block has its whole name.

    Example:
        >>> names = ("stem", "layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1")
        >>> [(bar.label, bar.row is None) for bar in bars([WidthRow(name, 8, 4, 1) for name in names])]
        [('stem', False), ('layer1.0', True), ('conv1', False), ('conv2', False), ('layer1.1.conv1', False)]
    """
    blocks: dict[str, list[WidthRow]] = {}
    for row in rows:
        blocks.setdefault(_block(row.name), []).append(row)
    lines: list[Bar] = []
    for block, inside in blocks.items():
        if not block or len(inside) == 1:
            lines += [Bar(row.name, row) for row in inside]
        else:
            lines += [Bar(block), *(Bar(row.name[len(block) + 1 :], row) for row in inside)]
    return lines


def _block(name: str) -> str:
    """The path up to the innermost part that is counted: ``encoder.layers.3`` of ``encoder.layers.3.mlp.0``."""
    above = name.split(".")[:-1]
    for counted in (_NUMBER, _NUMBERED):
        at = next((k for k in reversed(range(len(above))) if counted.fullmatch(above[k])), None)
        if at is not None:
            return ".".join(above[: at + 1])
    return ".".join(above)


def _columns(lines: Sequence[Bar]) -> list[list[Bar]]:
    """Lines side by side, as even as can be; no block's name stands last in a column."""
    count = min(_COLUMNS, -(-len(lines) // _LINES))
    size = -(-len(lines) // max(count, 1))
    columns: list[list[Bar]] = [[]]
    for line in lines:
        full = len(columns[-1]) >= size and len(columns) < count
        if full or (line.row is None and len(columns[-1]) == size - 1 and len(columns) < count):
            columns.append([])
        columns[-1].append(line)
    return columns


def size_of(rows: Sequence[WidthRow]) -> tuple[float, float]:
    """Width and height of the picture, in inches."""
    columns = _columns(bars(rows))
    longest = max(map(len, columns))
    return _COLUMN_INCHES * len(columns) + 0.4, _INCHES * max(longest, 4) + 0.9


def draw_widths(figure: Figure | SubFigure, rows: Sequence[WidthRow]) -> None:
    """Draw the share that is kept of every group, with its widths as numbers.

    Args:
        figure: Filled with the picture.
        rows: From ``width_table``.
    """
    columns = _columns(bars(rows))
    longest = max(map(len, columns))
    kept = sum(row.after for row in rows) / max(sum(row.before for row in rows), 1)
    figure.suptitle(f"channels kept of each group: {100 * kept:.0f} % of all", fontsize=10, x=0.01, ha="left")
    for axes, column in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
        _draw(axes, column, longest)


def _draw(axes: Axes, column: Sequence[Bar], longest: int) -> None:
    held = [(at, bar.row) for at, bar in enumerate(column) if bar.row is not None]
    places = [at for at, _ in held]
    shares = [100 * row.after / max(row.before, 1) for _, row in held]
    axes.barh(places, [100] * len(held), color=DENSE, height=0.72)
    axes.barh(places, shares, color=SLIM, height=0.72)
    for at, row in held:
        axes.text(102, at, f"{row.after:,} of {row.before:,}", va="center", fontsize=_FONT)
    axes.set_yticks(range(len(column)), [plot(_short(bar.label)) for bar in column], fontsize=_FONT)
    for tick, bar in zip(axes.get_yticklabels(), column, strict=True):
        tick.set_fontweight("bold" if bar.row is None else "normal")
    axes.tick_params(length=0)
    axes.set_xlim(0, 128)
    axes.set_xticks(range(0, 101, 25), [f"{n} %" for n in range(0, 101, 25)], fontsize=_FONT, color=LINE)
    # The same height of a bar in every column.
    axes.set_ylim(max(longest, 4) - 0.4, -0.6)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)


def _short(label: str) -> str:
    """The end of a long name tells more than its beginning."""
    return label if len(label) <= _LONGEST else f"…{label[1 - _LONGEST :]}"
