"""Calibration measures what it says, and its file is a target."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

import fxprune
from fxprune import targets
from fxprune.coupling.cost import measure
from fxprune.errors import PlanError
from fxprune.onnx import calibrate as module
from fxprune.onnx.calibrate import BEGUN, Layer, calibrate, layer_seconds, measured_layers
from fxprune.plans import Budget


@pytest.fixture(scope="module")
def facts() -> targets.Facts:
    return calibrate(rounds=1)


def test_every_fact_is_measured(facts: targets.Facts) -> None:
    assert facts.block in (8, 16)
    for curve in (facts.blocked, facts.plain, facts.pointwise, facts.narrow):
        widths = [width for width, _ in curve]
        assert widths == sorted(set(widths))
        assert all(speed > 0 for _, speed in curve)
    assert min(*facts.depthwise, facts.matrix, facts.weights, facts.elements, facts.node) > 0


@pytest.mark.parametrize(
    "layer", [layer for layers in measured_layers(16).values() for layer in layers], ids=str
)
def test_chains_are_the_layers_they_say(layer: Layer) -> None:
    """As many multiply-accumulates as the runtime's file has, and the shape stays."""
    session = ort.InferenceSession(module._chain(layer, 2), providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {"x0": np.zeros(layer.shape, np.float32)})
    assert out.shape == layer.shape
    if layer.kind == "conv":
        net: nn.Module = nn.Conv2d(
            layer.width,
            layer.width,
            layer.kernel,
            padding=layer.kernel // 2,
            groups=layer.width // layer.group,
        )
    elif layer.kind.startswith("gemm"):
        net = nn.Linear(layer.width, layer.width)
    else:
        assert layer.macs == np.prod(layer.shape)
        return
    assert (
        measure(net, (torch.zeros(layer.shape),)).macs
        * (layer.points if layer.kind.startswith("gemm") else 1)
        == layer.macs
    )


def test_a_longer_layer_takes_longer() -> None:
    small, large = layer_seconds([Layer("conv", 16, 16, 3, 14), Layer("conv", 128, 128, 3, 56)], rounds=3)
    assert large > small > 0


def test_its_file_is_a_target(facts: targets.Facts, tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    targets.save(facts, "a CPU", path)
    target = targets.get(f"{path}?threads=2")
    assert (target.facts, target.threads, target.measurable) == (facts, 2, False)
    net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Conv2d(64, 4, 1))
    trace = fxprune.trace(net.eval(), torch.randn(1, 3, 12, 12))
    made = fxprune.plan(trace, Budget(latency=0.6), target=str(path))
    assert any("latency by facts alone" in note for note in made.notes)
    assert made.predicted.macs < made.dense.macs


def test_small_operators_between_products_are_run() -> None:
    """The runtime drops none of them, or the time of one could not be told."""
    options = ort.SessionOptions()
    layer = Layer("gemm, small", 64)
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/m.onnx"
        ort.InferenceSession(module._chain(layer, 2), options, providers=["CPUExecutionProvider"])
        kinds = [node.op_type for node in onnx.load(f"{folder}/m.onnx").graph.node]
    assert kinds.count("Gemm") == 2
    assert len(kinds) == 2 * (1 + BEGUN)


SAVER = """
import sys
from pathlib import Path
from fxprune import targets
while True:
    targets.save(targets.Facts(block=int(sys.argv[1])), "m" * 10000, Path(sys.argv[2]))
"""


def test_two_that_write_one_file_and_are_killed_leave_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    writers = [
        subprocess.Popen([sys.executable, "-c", SAVER, block, str(path)], stderr=subprocess.PIPE, text=True)
        for block in ("8", "16")
    ]
    blocks = set()
    try:
        until = time.monotonic() + 60
        while len(blocks) < 2:
            assert time.monotonic() < until, f"of two writers only {blocks} has written"
            blocks |= {targets.get(str(path)).facts.block} if path.exists() else set()
    finally:
        for writer in writers:
            writer.kill()
            said = writer.communicate()[1]
            assert writer.returncode == -signal.SIGKILL, said
    assert blocks == {8, 16}
    assert targets.get(str(path)).facts.block in blocks


def test_a_file_of_an_earlier_version_is_read(facts: targets.Facts, tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    targets.save(facts, "a CPU", path)
    held = json.loads(path.read_text())
    del held["node"]
    path.write_text(json.dumps(held))
    assert targets.get(str(path)).facts == replace(facts, node=targets.Facts(block=16).node)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"block": 0},
        {"block": "16"},
        {"matrix": -1.0},
        {"matrix": True},
        {"blocked": []},
        {"blocked": [[32, 1.0], [16, 1.0]]},
        {"blocked": [[16, "x"]]},
        {"depthwise": [1.0]},
        {"more": 1},
        {"node": 0},
        {"matrix": None},
    ],
    ids=str,
)
def test_a_damaged_file_is_refused(change: dict[str, object], facts: targets.Facts, tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    held = json.loads(json.dumps({"format": targets.FORMAT, "machine": "m", **asdict(facts)}))
    path.write_text(json.dumps({**held, **change}))
    with pytest.raises(PlanError, match=r"holds no facts|damaged"):
        targets.get(str(path))
    path.write_text("{")
    with pytest.raises(PlanError, match="no JSON"):
        targets.get(str(path))
    with pytest.raises(PlanError, match="there is no file"):
        targets.get(str(tmp_path / "none.json"))
