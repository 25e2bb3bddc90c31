"""The demo's parts at a tenth of their size; the whole of it runs with ``tools/dev.py demo``."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from fxprune.demo import Digits, DigitsNet, accuracy, run_demo, train

LEARNT = 0.5  # of ten classes; chance is 0.1


def test_split_is_fixed_and_stratified() -> None:
    one, two = Digits.load(), Digits.load()
    assert (len(one.train_labels), len(one.test_labels)) == (1347, 450)
    assert torch.equal(one.test_images, two.test_images)
    assert one.train_images.shape == (1347, 1, 16, 16)
    counts = torch.bincount(one.test_labels)
    assert counts.min() >= 43
    assert counts.max() <= 47
    assert abs(float(one.train_images.mean())) < 1e-5
    assert abs(float(one.train_images.std()) - 1) < 1e-5


def test_same_seed_same_weights() -> None:
    digits = Digits.load(side=8)
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        model = DigitsNet((4, 8, 8))
        train(model, digits, epochs=1, seed=3)
        models.append(model)
    one, two = (model.state_dict() for model in models)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not models[0].training


def test_small_demo(tmp_path: Path) -> None:
    result = run_demo(tmp_path, epochs=3, finetune_epochs=2, widths=(16, 32, 48), bench_seconds=0.1)
    assert result.accuracy["dense"] > LEARNT
    assert result.accuracy["fine-tuned"] > LEARNT
    assert list(result.accuracy) == ["dense", "sliced", "recovered", "fine-tuned"]
    assert result.accuracy["sliced"] < result.accuracy["recovered"]
    plan = result.result.plan
    assert plan.predicted.macs <= 0.5 * plan.dense.macs
    streams = [row for row in result.result.widths if row.axes > 10]
    assert len(streams) == 3
    assert any(row.after < row.before for row in streams), "a coupled residual stream is pruned"
    for name, torch_accuracy in (
        ("dense", result.accuracy["dense"]),
        ("slim", result.accuracy["fine-tuned"]),
    ):
        assert abs(result.onnx_accuracy[name] - torch_accuracy) <= 1 / 450
    assert accuracy(result.result.slim, Digits.load()) == result.accuracy["fine-tuned"]
    assert result.picture.stat().st_size > 10_000
    assert "fxprune demo" in result.result.paths.report.read_text()
    assert json.loads(json.dumps(result.as_json()))["accuracy"] == result.accuracy
