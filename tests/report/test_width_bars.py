"""The picture of widths: every group is on it, under its block, whatever the model."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fxprune.plans import WidthRow
from fxprune.report.palette import DENSE, SLIM
from fxprune.report.plots import plot_widths
from fxprune.report.width_bars import bars, draw_widths, size_of


def _rows(*names: str) -> list[WidthRow]:
    return [WidthRow(name, 8 * (k + 1), 2 * (k + 1), 1) for k, name in enumerate(names)]


def _resnet(blocks: int) -> list[WidthRow]:
    return _rows("conv1", *(f"layer3.{k}.conv{n}" for k in range(blocks) for n in (1, 2, 3)))


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (
            [f"encoder.layers.encoder_layer_0.{n}" for n in ("self_attention.in_proj_weight#2", "mlp.0")],
            ["encoder.layers.encoder_layer_0", "self_attention.in_proj_weight#2", "mlp.0"],
        ),
        (["layer1.0.conv1", "layer1.0.downsample.0"], ["layer1.0", "conv1", "downsample.0"]),
        (["model.2.cv1.conv", "model.2.cv1.conv#2"], ["model.2", "cv1.conv", "cv1.conv#2"]),
        (["features.denseblock1.denselayer2.conv1"], ["features.denseblock1.denselayer2.conv1"]),
        (["stem", "head:1"], ["stem", "head:1"]),
        (
            ["bert.encoder.layer.3.output", "bert.encoder.layer.3.key"],
            ["bert.encoder.layer.3", "output", "key"],
        ),
    ],
)
def test_blocks(names: list[str], labels: list[str]) -> None:
    assert [bar.label for bar in bars(_rows(*names))] == labels


@pytest.mark.parametrize("blocks", [1, 12, 50, 200])
def test_every_group_has_a_bar_as_long_as_its_share(blocks: int) -> None:
    rows, figure = _resnet(blocks), Figure()
    draw_widths(figure, rows)
    found = [
        (patch.get_width(), patch.get_facecolor())
        for axes in figure.axes
        for patch in axes.patches
        if isinstance(patch, Rectangle)
    ]
    colours = {SLIM: [], DENSE: []}  # type: dict[str, list[float]]
    for width, (red, green, blue, _) in found:
        colour = f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"
        colours[colour].append(width)
    assert colours[SLIM] == [25.0] * len(rows)
    assert colours[DENSE] == [100.0] * len(rows)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts == [f"{row.after:,} of {row.before:,}" for row in rows]
    assert len({axes.get_ylim() for axes in figure.axes}) == 1


@pytest.mark.parametrize("blocks", [1, 12, 50])
def test_labels_are_apart(blocks: int) -> None:
    """What made the picture of a ViT unreadable: labels over labels."""
    rows = [
        row
        for k in range(blocks)
        for row in _rows(*(f"encoder.layers.{k}.attention.projection.{n}" for n in "qkv"))
    ]
    figure = Figure(size_of(rows), layout="constrained", dpi=100)
    draw_widths(figure, rows)
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
        assert all(upper.y0 >= lower.y1 - 1 for upper, lower in pairwise(boxes))
        assert min(box.x0 for box in boxes) > 0
        assert all(text.get_window_extent().x1 <= figure.bbox.x1 for text in axes.texts)
    for left, right in pairwise(figure.axes):
        edge = max(text.get_window_extent().x1 for text in left.texts)
        assert edge <= min(label.get_window_extent().x0 for label in right.get_yticklabels())


def test_a_model_without_groups(tmp_path: Path) -> None:
    plot_widths([], tmp_path / "none.png")
    assert (tmp_path / "none.png").stat().st_size > 0
