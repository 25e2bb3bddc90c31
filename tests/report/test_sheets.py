"""Tables in both forms, words for figures, plots that really are files, and the report's text."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from fxprune.bench.table import BenchRow, BenchTable
from fxprune.coupling.groups import Pin
from fxprune.errors import FxpruneError
from fxprune.inspection.explain import GroupRow, WidthRow
from fxprune.onnx.export import ExportReport
from fxprune.onnx.session import Port, machine
from fxprune.plans import Cost, Plan
from fxprune.report.plots import plot_latency, plot_widths
from fxprune.report.sheets import (
    Sheet,
    cost_sheet,
    export_sheet,
    group_sheet,
    pin_sheet,
    plan_view,
    result_view,
    width_sheet,
)
from fxprune.report.words import count, describe_export, describe_plan, share

PLAN = Plan({}, Cost(250, 1_000_000), Cost(1000, 4_000_000), "f", notes=("widths move in steps",))


def printed(what: object, width: int = 120) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(what)
    return capture.get()


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00 k"),
        (99_949, "99.9 k"),
        (99_951, "100 k"),
        (1_814_073_344, "1.81 G"),
        (2.5e12, "2.50 T"),
    ],
)
def test_count(number: float, text: str) -> None:
    assert count(number) == text


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0, "0 %"), (1, "100.0 %"), (0.4999, "50.0 %"), (0.00123, "0.1 %"), (0.00012, "0.01 %")],
)
def test_share(fraction: float, text: str) -> None:
    assert share(fraction) == text


def test_sheet_in_both_forms() -> None:
    sheet = Sheet(
        "a title that is wider than the table",
        ("name", "n>"),
        (("a|b", "1"), ("[red]c[/]", "22")),
        "a remark",
    )
    assert sheet.markdown() == (
        "**a title that is wider than the table**\n\n"
        "| name | n |\n| --- | ---: |\n| a\\|b | 1 |\n| \\[red\\]c\\[/\\] | 22 |\n\na remark"
    )
    lines = printed(sheet.rich()).splitlines()
    assert lines[0] == "a title that is wider than the table"
    assert any(line.split() == ["[red]c[/]", "22"] for line in lines), "markup in names is text"
    ones = [line for line in lines if line.rstrip().endswith(("1", "22"))]
    assert len({len(line.rstrip()) for line in ones}) == 1, "numbers are aligned to the right"


def test_names_are_folded_not_cut() -> None:
    name = "encoder.layers.encoder_layer_11.self_attention.in_proj_weight"
    text = printed(Sheet("", ("name", "width>"), ((name, "12345"),)).rich(), width=40)
    assert name in "".join(line.strip().removesuffix("12345").strip() for line in text.splitlines())
    assert "12345" in text


def _row(name: str, pin: Pin | None = None, blocks: tuple[str, ...] = ()) -> GroupRow:
    return GroupRow(name, 8, ((f"{name}.weight", 0),), 0.25, 0.5, not blocks, blocks, pin)


def test_groups_and_pins() -> None:
    rows = [
        _row("conv"),
        _row("heads", blocks=("12x64",)),
        _row("out", Pin("the model's output", "output", "output", "", "output")),
        _row("conv:2", Pin("the extent of a kernel", "aten.conv2d.default", "conv2d", "m.py:3", "contract")),
    ]
    free = group_sheet(rows)
    assert free.title == "2 groups can be pruned"
    assert free.rows[0] == ("conv", "8", "1", "25.0 %", "50.0 %", "equals zeroing")
    assert free.rows[1][-1] == "shifts statistics, in blocks 12x64"
    assert [row[0] for row in pin_sheet(rows).rows] == ["out"]
    assert "not shown: 1 more without channels" in pin_sheet(rows).footer
    assert [row[0] for row in pin_sheet(rows, everything=True).rows] == ["out", "conv:2"]
    assert pin_sheet(rows, everything=True).rows[1][3:] == ("aten.conv2d.default 'conv2d'", "m.py:3")


def test_costs_and_widths() -> None:
    assert cost_sheet(PLAN).rows == (
        ("parameters", "1.00 k", "250", "25.0 %"),
        ("MACs", "4.00 M", "1.00 M", "25.0 %"),
    )
    sheet = width_sheet([WidthRow("a", 64, 48, 6), WidthRow("b", 64, 64, 6)])
    assert sheet.title == "1 of 2 groups narrower"
    assert sheet.rows == (("a", "64", "48", "75.0 %", "6"),)
    assert sheet.footer == "unchanged: 1 group"
    assert describe_plan(PLAN) == "keeps 25.0 % of 4.00 M MACs, 25.0 % of 1.00 k parameters"
    assert "note: widths move in steps" in printed(plan_view(PLAN, [WidthRow("a", 64, 48, 6)]))


def _colors(path: Path) -> int:
    with Image.open(path) as image:
        return len(set(image.convert("RGB").resize((200, 100)).get_flattened_data()))


def test_plots_are_pictures(tmp_path: Path) -> None:
    rows = [WidthRow(f"layer{i // 2}.conv{i}", 64 + i, 32, 6) for i in range(100)]
    plot_widths(rows, tmp_path / "w.png")
    assert _colors(tmp_path / "w.png") > 3
    with Image.open(tmp_path / "w.png") as wide:
        assert wide.width > wide.height
    with pytest.raises(FxpruneError, match="does not exist"):
        plot_widths(rows, tmp_path / "none" / "w.png")
    assert [path.name for path in tmp_path.iterdir()] == ["w.png"]


def test_latency_plot(tmp_path: Path) -> None:
    rows = [
        BenchRow("dense", "onnxruntime", 4.0, 3.9, 4.4, 0.2, 1.0, 1.0, 1.0, 1),
        BenchRow("slim", "onnxruntime", 2.0, 1.9, 2.2, 0.1, 2.0, 1.9, 2.1, 1),
    ]
    table = BenchTable(tuple(rows), machine(), 1, 1, 10, 5, "counted")
    plot_latency(table, tmp_path / "l.svg")
    assert machine().cpu in (tmp_path / "l.svg").read_text(), "it says on what machine it was measured"
    plot_latency(table, tmp_path / "l.png")
    assert _colors(tmp_path / "l.png") > 3


def test_an_export_says_what_it_cannot_know() -> None:
    """Two outputs of zeros agree, which proves nothing; the notes of the exporter say so."""
    port = Port("x", "float32", ("batch", 3))
    note = "output 'y' is zero on the example inputs: that it agrees proves nothing"
    report = ExportReport(
        Path("m.onnx"), 18, 1_500_000, (port,), (port,), 0.0, 0.0, (1, 3), True, notes=(note,)
    )
    assert describe_export(report) == (
        f"1.50 MB, opset 18, any batch size, equal to torch within 0e+00; {note}"
    )
    assert note in printed(export_sheet(report).rich())


def test_a_report_says_when_nothing_was_gained() -> None:
    rows = [BenchRow("dense", "torch", 2.0, 1.9, 2.1, 0.1, 1.0, 1.0, 1.0, 5)]
    for low, high, says in (
        (1.2, 1.4, None),
        (0.9, 1.2, "not measurably faster"),
        (0.5, 0.8, "slower than the dense one here, 0.65 times its speed"),
    ):
        slim = BenchRow("slim", "torch", 2.0, 1.9, 2.1, 0.1, (low + high) / 2, low, high, 5)
        table = BenchTable((*rows, slim), machine(), 1, 1, 10, 5, "counted")
        text = " ".join(printed(result_view(PLAN, table, "no graph")).split())
        assert "note: no ONNX files: no graph" in text
        assert "note: widths move in steps" in text
        assert ("slim model is" in text) == (says is not None)
        assert says is None or says in text
