"""The profile names the operators that run, as often as they run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from fxprune.bench.profile import OperatorTimes, profile
from fxprune.errors import ExportError
from fxprune.onnx.export import export_onnx
from fxprune.report.sheets import operator_sheet


def net(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, width), nn.Softmax(-1), nn.Linear(width, width), nn.Softmax(-1), nn.Linear(width, 3)
    )


def test_files_side_by_side(tmp_path: Path) -> None:
    x = torch.randn(2, 8)
    files = {str(w): export_onnx(net(w), x, tmp_path / f"{w}.onnx").path for w in (512, 16)}
    large, small = profile(files, x, runs=5)
    assert (large.name, small.name) == ("512", "16")
    assert large.nodes == small.nodes == {"Gemm": 3, "Softmax": 2}
    assert large.milliseconds["Gemm"] > small.milliseconds["Gemm"] > 0
    assert list(large.milliseconds.values()) == sorted(large.milliseconds.values(), reverse=True)
    assert large.total == pytest.approx(sum(large.milliseconds.values()))


def test_the_sheet_has_what_either_file_has() -> None:
    one = OperatorTimes("a|b", {"Conv": 2.0, "Add": 0.5}, {"Conv": 3, "Add": 1})
    other = OperatorTimes("slim", {"Gemm": 1.0}, {"Gemm": 2})
    rows = operator_sheet([one, other]).rows
    assert rows[0] == ("Conv", "2.000", "0.000", "3", "0")
    assert rows[2] == ("Gemm", "0.000", "1.000", "0", "2")
    assert rows[-1] == ("all", "2.500", "1.000", "4", "2")


def test_bad_files_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="there is no file"):
        profile({"a": tmp_path / "none.onnx"}, torch.ones(1, 3))
    path = export_onnx(nn.Linear(3, 2), torch.ones(1, 3), tmp_path / "m.onnx").path
    with pytest.raises(ExportError, match="do not fit"):
        profile({"a": path}, torch.ones(1, 4))
