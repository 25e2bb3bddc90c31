"""Tables for terminals and Markdown files, and plots.

A ``Sheet`` is a table before it is drawn: the same rows become a rich table on the terminal and
a Markdown table in a report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from fxprune.inspect import GroupRow, WidthRow
from fxprune.types import Plan

__all__ = ["Sheet", "cost_sheet", "count", "group_sheet", "pin_sheet", "share", "size", "width_sheet"]

_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_BYTES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def count(number: float) -> str:
    """A count in three digits.

    Example:
        >>> count(11_689_512), count(999), count(0)
        ('11.7 M', '999', '0')
    """
    for factor, unit in _UNITS:
        if abs(number) >= factor:
            value = number / factor
            return f"{value:.0f} {unit}" if value >= 99.95 else f"{value:.3g} {unit}"
    return f"{number:.3g}"


def size(n_bytes: float) -> str:
    """Bytes for people.

    Example:
        >>> size(46_830_571)
        '44.7 MiB'
    """
    for factor, unit in _BYTES:
        if n_bytes >= factor:
            return f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes:.0f} B"


def share(fraction: float) -> str:
    """A percentage with as many digits as matter.

    Example:
        >>> share(0.123), share(0.0004), share(0)
        ('12.3 %', '0.04 %', '0 %')
    """
    percent = 100 * fraction
    if percent == 0:
        return "0 %"
    return f"{percent:.1f} %" if percent >= 0.1 else f"{percent:.1g} %"


@dataclass(frozen=True)
class Sheet:
    """A table before it is drawn.

    Attributes:
        title: What it shows; may be empty.
        columns: Their headings; those that end in ``>`` are aligned to the right.
        rows: Texts.
        footer: A remark below it.

    Example:
        >>> print(Sheet("", ("name", "width>"), (("a", "64"),)).markdown())
        | name | width |
        | --- | ---: |
        | a | 64 |
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    footer: str = ""

    def rich(self) -> Table:
        """For a terminal."""
        table = Table(
            title=Text(self.title, style="bold") if self.title else None,
            title_justify="left",
            caption=Text(self.footer, style="dim") if self.footer else None,
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            header_style="bold cyan",
            pad_edge=False,
        )
        for number, column in enumerate(self.columns):
            right = column.endswith(">")
            table.add_column(
                column.rstrip(">"),
                justify="right" if right else "left",
                no_wrap=right,
                overflow="fold",
                style="" if number else "bold",
            )
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        return table

    def markdown(self) -> str:
        """For a report."""
        marks = ["---:" if column.endswith(">") else "---" for column in self.columns]
        heads = [column.rstrip(">") for column in self.columns]
        lines = [f"**{self.title}**", ""] if self.title else []
        lines += [_line(heads), _line(marks), *(_line(row) for row in self.rows)]
        lines += ["", self.footer] if self.footer else []
        return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def group_sheet(rows: Sequence[GroupRow]) -> Sheet:
    """The groups that can be pruned."""
    free = [row for row in rows if row.pinned is None]
    return Sheet(
        title=f"{len(free)} groups can be pruned",
        columns=("group", "width>", "axes>", "params>", "MACs>", "removing"),
        rows=tuple(
            (
                row.name,
                str(row.width),
                str(len(row.members)),
                share(row.params_share),
                share(row.macs_share),
                _removing(row),
            )
            for row in free
        ),
        footer="params, MACs: what would go if the whole group went; a weight between two groups counts for both",
    )


def _removing(row: GroupRow) -> str:
    words = "equals zeroing" if row.exact else "shifts statistics"
    return f"{words}, in blocks {', '.join(row.blocks)}" if row.blocks else words


def pin_sheet(rows: Sequence[GroupRow], *, everything: bool = False) -> Sheet:
    """The groups that cannot be pruned, and why.

    Args:
        rows: From ``group_table``.
        everything: Also those whose width an op fixes by nature, such as the extent of a kernel.
    """
    pinned = [(row, row.pinned) for row in rows if row.pinned is not None]
    shown = [(row, pin) for row, pin in pinned if everything or pin.kind != "contract"]
    hidden = len(pinned) - len(shown)
    return Sheet(
        title=f"{len(shown)} groups are pinned",
        columns=("group", "width>", "why", "by", "source"),
        rows=tuple(
            (row.name, str(row.width), pin.reason, f"{pin.op} '{pin.node}'" if pin.node else pin.op, pin.source)
            for row, pin in shown
        ),
        footer=f"and {hidden} axes that are no channels, such as kernel extents (--all shows them)" if hidden else "",
    )


def cost_sheet(plan: Plan) -> Sheet:
    """Parameters and MACs before and after."""
    pairs = (
        ("parameters", plan.dense.params, plan.predicted.params),
        ("MACs", plan.dense.macs, plan.predicted.macs),
    )
    return Sheet(
        title="",
        columns=("", "dense>", "slim>", "kept>"),
        rows=tuple((name, count(dense), count(slim), share(slim / max(dense, 1))) for name, dense, slim in pairs),
    )


def width_sheet(rows: Sequence[WidthRow]) -> Sheet:
    """Widths before and after, of the groups that change."""
    changed = [row for row in rows if row.after != row.before]
    same = len(rows) - len(changed)
    return Sheet(
        title=f"{len(changed)} of {len(rows)} groups get narrower",
        columns=("group", "dense>", "slim>", "kept>", "axes>"),
        rows=tuple(
            (row.name, str(row.before), str(row.after), share(row.after / max(row.before, 1)), str(row.axes))
            for row in changed
        ),
        footer=f"{same} stay as they are" if same else "",
    )
