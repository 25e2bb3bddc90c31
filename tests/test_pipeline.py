"""compress() in one call, its failures, and what it leaves behind them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import fxprune
from fxprune import ExportError, FxpruneError, PlanError
from fxprune.pipeline import onnx_inputs, open_model, read_plan
from fxprune.planning.solve import EXCESS

PARITY = 1e-4


def _net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 48, 3, padding=1),
        nn.BatchNorm2d(48),
        nn.ReLU(),
        nn.Conv2d(48, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 5),
    ).eval()


class _Log:
    """A watcher that remembers the steps."""

    def __init__(self) -> None:
        self.titles: list[str] = []

    def step(self, title: str):
        self.titles.append(title)
        return fxprune.console.SILENT.step(title)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8)


def test_everything_in_one_call(tmp_path: Path, x: torch.Tensor) -> None:
    net, log = _net(), _Log()
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}

    def finetune(slim: nn.Module) -> None:
        with torch.no_grad():
            slim[7].bias += 1.0

    result = fxprune.compress(
        net,
        x,
        fxprune.Budget(macs=0.5),
        out=tmp_path / "a" / "b",
        finetune=finetune,
        seconds=0.05,
        watcher=log,
    )
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())
    assert log.titles == [
        "trace",
        "plan",
        "slim",
        "verify",
        "save",
        "export dense",
        "export slim",
        "benchmark",
        "report",
    ]
    assert result.plan.predicted.macs <= (0.5 + EXCESS) * result.plan.dense.macs
    assert result.proof.error < 1e-12

    session = onnxruntime.InferenceSession(result.paths.slim_onnx)
    [got] = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    expected = result.slim(x).detach().numpy()
    assert np.abs(got - expected).max() <= PARITY * np.abs(expected).max()

    loaded = fxprune.load(_net(), result.paths.weights, x)  # what is saved is the fine-tuned model
    torch.testing.assert_close(loaded.eval()(x), result.slim(x), rtol=0, atol=0)
    assert read_plan(result.paths.plan) == read_plan(result.paths.weights) == result.plan
    assert json.loads(json.dumps(result.as_json()))["slim"]["macs"] == result.plan.predicted.macs
    report = result.paths.report.read_text()
    for name in ("widths.png", "latency.png"):
        assert f"({name})" in report
        assert (result.paths.report.parent / name).stat().st_size > 1000
    assert not [path for path in result.paths.report.parent.iterdir() if path.name.startswith(".")]


def test_keyword_inputs(tmp_path: Path) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 3)

        def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            return self.b(torch.relu(self.a(left - right)))

    inputs = {"right": torch.randn(2, 4), "left": torch.randn(2, 4)}
    result = fxprune.compress(Named().eval(), inputs, fxprune.Budget(params=0.5), out=tmp_path, seconds=0.05)
    assert result.bench["slim"].params is not None


def test_options_reach_the_planner(tmp_path: Path, x: torch.Tensor) -> None:
    result = fxprune.compress(
        _net(),
        x,
        fxprune.Budget(channels=0.5),
        out=tmp_path,
        protect=["3"],
        align=1,
        criterion="l2",
        seconds=0.05,
    )
    assert {row.name: row.after for row in result.widths} == {"0": 24, "3": 32}


def test_an_impossible_plan_leaves_no_file(tmp_path: Path, x: torch.Tensor) -> None:
    with pytest.raises(PlanError, match="fits no group"):
        fxprune.compress(_net(), x, fxprune.Budget(macs=0.5), out=tmp_path / "o", only=["nothing"])
    assert not (tmp_path / "o").exists()


def test_a_failed_export_keeps_the_weights_and_no_report(
    tmp_path: Path, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("report.md", "slim.onnx"):
        (tmp_path / name).write_text("of an earlier run")

    def fail(*_: object, **__: object) -> None:
        raise ExportError("no")

    monkeypatch.setattr("fxprune.pipeline.export_onnx", fail)
    with pytest.raises(ExportError):
        fxprune.compress(_net(), x, fxprune.Budget(macs=0.5), out=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"plan.json", "slim.safetensors", "groups.json"}


def test_a_folder_that_cannot_be(tmp_path: Path, x: torch.Tensor) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FxpruneError, match="file is a file"):
        fxprune.compress(_net(), x, fxprune.Budget(macs=0.5), out=tmp_path / "file" / "o")


class Branching(nn.Module):
    """Where it goes depends on its data, as in a detector."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 64), nn.Linear(64, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x)
        return self.b(h * 2 if h.sum() > 0 else h)


def test_a_model_that_can_be_no_onnx_gets_everything_else(tmp_path: Path) -> None:
    x, net = torch.randn(2, 8), Branching().eval()
    result = fxprune.compress(net, x, fxprune.Budget(macs=0.5), out=tmp_path / "o", seconds=0.05)
    assert {path.name for path in result.paths.report.parent.iterdir()} == {
        "plan.json",
        "slim.safetensors",
        "groups.json",
        "bench.json",
        "report.md",
        "widths.png",
        "latency.png",
    }
    assert result.proof.error < 1e-12
    assert not result.exports
    assert [row.runtime for row in result.bench.rows] == ["torch", "torch"]
    assert result.bench["slim"].macs == result.plan.predicted.macs
    facts = result.as_json()
    assert "depends on its data" in str(facts["why_no_onnx"])
    assert not {"dense_onnx", "slim_onnx"} & set(facts["files"])
    assert "No ONNX files: torch.export refuses" in result.paths.report.read_text()
    torch.testing.assert_close(fxprune.load(net, result.paths.weights, x)(x), result.slim(x), rtol=0, atol=0)


def test_onnx_inputs(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    fxprune.export_onnx(_net(), torch.zeros(2, 3, 8, 8), path)
    [tensor] = onnx_inputs(path).values()
    assert tensor.shape == (1, 3, 8, 8)
    assert isinstance(onnx_inputs(path, ["4x3x8x8"]), tuple)


def test_plans_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    (tmp_path / "other.json").write_text("[]")
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    for name, says in (
        ("none.json", "there is no file"),
        ("binary.json", "no plan can be read from"),
        ("other.json", "not a readable plan"),
        ("w.safetensors", "holds weights and no plan"),
    ):
        with pytest.raises(PlanError, match=says) as caught:
            read_plan(tmp_path / name)
        assert name in str(caught.value)


def test_where_weights_come_from(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text("from torch import nn\n\ndef make():\n    return nn.Linear(3, 4)\n")
    spec = f"{tmp_path / 'nets.py'}:make"
    assert open_model(spec, inputs=["1x3"]).weights == "as the factory made them"
    assert "random" in open_model("torchvision:squeezenet1_1").weights
    torch.save({"weight": torch.ones(4, 3), "bias": torch.zeros(4)}, tmp_path / "w.pt")
    opened = open_model(spec, weights=tmp_path / "w.pt", inputs=["1x3"])
    assert opened.weights == f"from {tmp_path / 'w.pt'}"
    assert opened.model.weight.sum() == 12
