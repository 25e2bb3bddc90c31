"""Tables for terminals and Markdown files.

A ``Sheet`` is a table before it is drawn: the same rows become a rich table on the terminal and
a Markdown table in a report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fxprune.escaping import line, markdown, terminal
from fxprune.plans import Plan
from fxprune.report.words import count, say_no_gain, say_passes, share

if TYPE_CHECKING:  # a report shows what all stages made and imports none of them
    from fxprune.bench.profile import OperatorTimes
    from fxprune.bench.table import BenchTable
    from fxprune.inspection.explain import GroupRow, WidthRow
    from fxprune.onnx.export import ExportReport
    from fxprune.planning.sensitivity import Sensitivity

__all__ = [
    "Sheet",
    "bench_sheet",
    "cost_sheet",
    "export_json",
    "export_sheet",
    "group_sheet",
    "operator_sheet",
    "pin_sheet",
    "plan_view",
    "result_view",
    "sensitivity_sheet",
    "width_sheet",
]


def _groups(number: int) -> str:
    return f"{number} group{'s' * (number != 1)}"


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

    def rich(self) -> RenderableType:
        """For a terminal."""
        table = Table(box=box.SIMPLE_HEAD, header_style="bold cyan", pad_edge=False)
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
            table.add_row(*(Text(line(cell)) for cell in row))
        # Not the table's own title and caption: those are folded to its width.
        title = [Text(line(self.title), style="bold")] if self.title else []
        return Group(*title, table, Text(terminal(f"{self.footer}\n") if self.footer else "", style="dim"))

    def markdown(self) -> str:
        """For a report."""
        marks = ["---:" if column.endswith(">") else "---" for column in self.columns]
        heads = [column.rstrip(">") for column in self.columns]
        lines = [f"**{markdown(self.title)}**", ""] if self.title else []
        lines += [_line(heads), f"| {' | '.join(marks)} |", *(_line(row) for row in self.rows)]
        lines += ["", markdown(self.footer)] if self.footer else []
        return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(markdown, cells))} |"


def group_sheet(rows: Sequence[GroupRow]) -> Sheet:
    """The groups that can be pruned."""
    free = [row for row in rows if row.pinned is None]
    return Sheet(
        title=f"{_groups(len(free))} can be pruned",
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
        title=f"{_groups(len(shown))} pinned",
        columns=("group", "width>", "why", "by", "source"),
        rows=tuple(
            (
                row.name,
                str(row.width),
                pin.reason,
                f"{pin.op} '{pin.node}'" if pin.node else pin.op,
                pin.source,
            )
            for row, pin in shown
        ),
        footer=f"not shown: {hidden} more without channels, such as kernel extents (--all shows them)"
        if hidden
        else "",
    )


def sensitivity_sheet(table: Sensitivity) -> Sheet:
    """What hangs on each group, the most sensitive ones first by their largest share."""
    columns = sorted({probe.asked for probe in table.probes})
    rows: list[tuple[float, tuple[str, ...]]] = []
    for name, probes in table.groups.items():
        cells = {p.asked: f"{p.sliced:.3f} -> {p.recovered:.3f}" for p in probes}
        last = probes[-1]
        shown = (name, str(last.units), share(last.macs), *(cells.get(c, "") for c in columns))
        rows.append((last.recovered, shown))
    return Sheet(
        title=f"Outputs off by, when a share of one group goes ({table.samples} samples)",
        columns=("group", "width>", "MACs>", *(f"-{100 * c:g} %>" for c in columns)),
        rows=tuple(cells for _, cells in sorted(rows, key=lambda row: -row[0])),
        footer="error relative to the spread of the dense outputs on samples that were held out, as sliced -> recovered; "
        "MACs: what the largest share saves" + "".join(f"; {note}" for note in table.notes),
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
        rows=tuple(
            (name, count(dense), count(slim), share(slim / max(dense, 1))) for name, dense, slim in pairs
        ),
    )


def width_sheet(rows: Sequence[WidthRow]) -> Sheet:
    """Widths before and after, of the groups that change."""
    changed = [row for row in rows if row.after != row.before]
    same = len(rows) - len(changed)
    return Sheet(
        title=f"{len(changed)} of {_groups(len(rows))} narrower",
        columns=("group", "dense>", "slim>", "kept>", "axes>"),
        rows=tuple(
            (row.name, str(row.before), str(row.after), share(row.after / max(row.before, 1)), str(row.axes))
            for row in changed
        ),
        footer=f"unchanged: {_groups(same)}" if same else "",
    )


def plan_view(plan: Plan, widths: Sequence[WidthRow]) -> RenderableType:
    """A plan for a terminal: costs, widths, notes."""
    notes = [Text(terminal(f"note: {note}"), style="yellow") for note in plan.notes]
    return Group(width_sheet(widths).rich(), cost_sheet(plan).rich(), *notes)


def result_view(plan: Plan, table: BenchTable, why_no_onnx: str = "") -> RenderableType:
    """What a compression brought, for a terminal."""
    said = (*plan.notes, f"no ONNX files: {why_no_onnx}" if why_no_onnx else "", say_no_gain(table))
    notes = [Text(terminal(f"note: {note}"), style="yellow") for note in said if note]
    return Group(cost_sheet(plan).rich(), table, *notes)


def export_sheet(report: ExportReport) -> Sheet:
    """Inputs and outputs of an ONNX file."""
    ports = [("input", port) for port in report.inputs] + [("output", port) for port in report.outputs]
    notes = ([f"fixed batch size: {report.why_static}"] if report.why_static else []) + (
        [f"weights beside it in {report.external_data}"] if report.external_data else []
    )
    notes += [f"made faster: {say_passes(report)}"] if report.passes else []
    notes += report.notes
    return Sheet(
        title="",
        columns=("", "name", "type"),
        rows=tuple((kind, *str(port).split(": ", 1)) for kind, port in ports),
        footer="; ".join(notes),
    )


def export_json(report: ExportReport) -> dict[str, object]:
    """An export as plain values."""
    return {**asdict(report), "path": str(report.path)}


def operator_sheet(times: Sequence[OperatorTimes]) -> Sheet:
    """Milliseconds and nodes by operator, file beside file."""
    kinds = list(dict.fromkeys(kind for entry in times for kind in entry.milliseconds))
    columns = [f"{entry.name}, ms>" for entry in times] + [f"nodes in {entry.name}>" for entry in times]

    def row(kind: str) -> tuple[str, ...]:
        spent = [f"{entry.milliseconds.get(kind, 0.0):.3f}" for entry in times]
        return (kind, *spent, *(str(entry.nodes.get(kind, 0)) for entry in times))

    total = ("all", *(f"{entry.total:.3f}" for entry in times), *(str(sum(e.nodes.values())) for e in times))
    footer = "of the graphs as onnxruntime optimises them; a profile makes every node a little slower"
    return Sheet("where the time goes", ("operator", *columns), (*map(row, kinds), total), footer)


def bench_sheet(table: BenchTable) -> Sheet:
    """Latencies, sizes and costs of the measured models."""
    return Sheet(
        title="",
        columns=(
            "model",
            "median ms>",
            "p10..p90>",
            "speed-up>",
            "95 % interval>",
            "file>",
            "peak memory>",
            "params>",
            "MACs>",
        ),
        rows=tuple(
            (
                row.name,
                f"{row.median_ms:.3g}",
                f"{row.p10_ms:.3g}..{row.p90_ms:.3g}",
                f"{row.speedup:.2f}",
                f"{row.speedup_low:.2f}..{row.speedup_high:.2f}",
                *(
                    "-" if value is None else count(value, unit)
                    for value, unit in (
                        (row.size_bytes, "B"),
                        (row.peak_memory_bytes, "B"),
                        (row.params, ""),
                        (row.macs, ""),
                    )
                ),
            )
            for row in table.rows
        ),
    )
