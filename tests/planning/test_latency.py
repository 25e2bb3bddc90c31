"""The latency model against times worked out by hand, and budgets of time against a stopwatch that says what it is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torchvision
from torch import nn

import fxprune
import fxprune.planning.solve as solving
from fxprune import targets
from fxprune.coupling.analysis import Analysis
from fxprune.coupling.couple import analyse
from fxprune.criteria.score import score
from fxprune.errors import PlanError
from fxprune.planning.filling import fillable
from fxprune.planning.latency import LatencyModel, latency_model
from fxprune.planning.timing import ROUNDS, Stopwatch, Timed
from fxprune.plans import Budget, Plan
from fxprune.resizing.resolve import keep_mask

AVX512 = targets.get("onnxruntime-cpu-avx512")
FACTS = AVX512.facts


def modelled(net: nn.Module, *shape: int, batch: int = 1) -> tuple[Analysis, LatencyModel]:
    analysis = analyse(fxprune.trace(net.eval(), torch.randn(2, *shape)))
    return analysis, latency_model(analysis, AVX512, batch=batch)


def dense_ms(net: nn.Module, *shape: int, batch: int = 1) -> float:
    analysis, model = modelled(net, *shape, batch=batch)
    return model.milliseconds(np.ones(analysis.coupling.n_units, bool))


BEGUN = FACTS.node / 1e3
"""Milliseconds that one operator takes to be begun."""


def conv_ms(pixels: int, inputs: int, outputs: int, taps: int = 9) -> float:
    weights = 4 * inputs * outputs * taps / FACTS.weights
    return (pixels * float(AVX512.convolution(inputs, outputs, taps)) + weights) / 1e6 + BEGUN


def test_a_convolution_takes_what_the_facts_say() -> None:
    net = nn.Sequential(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU())
    assert dense_ms(net, 32, 10, 12) == pytest.approx(conv_ms(120, 32, 64), rel=1e-3)
    assert dense_ms(nn.Conv2d(32, 64, 3, stride=2, padding=1), 32, 10, 12) == pytest.approx(
        conv_ms(30, 32, 64), rel=1e-3
    )


def test_batches_multiply_work_and_not_weights() -> None:
    net, rows = nn.Linear(64, 96), 4
    macs, weights = 64 * 96 / FACTS.matrix / 1e6, 4 * 64 * 96 / FACTS.weights / 1e6
    assert dense_ms(net, 64) == pytest.approx(macs + weights + BEGUN, rel=1e-3)
    # Around a product of matrices in a batch there are two reshapes.
    assert dense_ms(net, rows, 64, batch=8) == pytest.approx(8 * rows * macs + weights + 3 * BEGUN, rel=1e-3)


def test_depthwise_and_narrow_groups() -> None:
    deep = nn.Conv2d(64, 64, 3, padding=1, groups=64)
    assert dense_ms(deep, 64, 8, 8) == pytest.approx(64 * 64 * 9 / FACTS.depthwise[0] / 1e6 + BEGUN, rel=1e-3)
    narrow, whole = (nn.Conv2d(64, 64, 3, padding=1, groups=g, bias=False) for g in (8, 4))
    # Eight groups of 8 are merged to four of 16, which read no more than their own weights.
    assert dense_ms(narrow, 64, 8, 8) == pytest.approx(dense_ms(whole, 64, 8, 8), rel=0.05)


def test_what_is_left_takes_less_time_in_steps_of_blocks() -> None:
    net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 32, 3), nn.GELU(), nn.Conv2d(32, 4, 1))
    analysis, model = modelled(net, 3, 12, 12)
    units = analysis.coupling.axes["0.weight", 0]

    def time(width: int) -> float:
        keep = np.ones(analysis.coupling.n_units, bool)
        keep[units[width:]] = False
        return model.milliseconds(keep)

    assert time(64) > time(48) > time(32) > time(16)
    assert time(62) == pytest.approx(time(64), rel=0.03)  # the export fills it up
    assert model.by_operator(np.ones(analysis.coupling.n_units, bool)).keys() == {
        "aten::conv2d",
        "aten::gelu",
    }


def narrower(net: nn.Module, tensor: str, width: int, *shape: int) -> tuple[float, float]:
    """Milliseconds of the dense model, and with fewer units along the first dimension of a tensor."""
    analysis, model = modelled(net, *shape)
    keep = np.ones(analysis.coupling.n_units, bool)
    dense = model.milliseconds(keep)
    keep[analysis.coupling.axes[tensor, 0][width:]] = False
    return dense, model.milliseconds(keep)


class _Joined(nn.Module):
    """Two convolutions, what they make side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(n, 64, 3, padding=1) for n in (3, 3, 128))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(torch.cat([self.a(x), self.b(x)], 1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("net", "tensor"),
    [
        (nn.Sequential(nn.Conv2d(3, 64, 3), nn.Upsample(scale_factor=2), nn.Conv2d(64, 64, 3)), "0.weight"),
        (nn.Sequential(nn.Conv2d(3, 64, 3), nn.ConvTranspose2d(64, 64, 2, stride=2)), "0.weight"),
        (nn.Sequential(nn.Conv2d(3, 64, 3), nn.GroupNorm(1, 64), nn.Conv2d(64, 64, 3)), "0.weight"),
        (_Joined(), "a.weight"),
    ],
    ids=["upsample", "transposed", "norm", "concat"],
)
def test_what_an_export_cannot_fill_up_is_slow_off_the_block(net: nn.Module, tensor: str) -> None:
    """As the padding pass leaves it: a width of 62 is slower than 64 here, and no slower where it is filled up."""
    dense, odd = narrower(net, tensor, 62, 3, 24, 24)
    assert odd > 1.02 * dense
    free = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.SiLU(), nn.Conv2d(64, 64, 3), nn.Flatten()
    )
    dense, odd = narrower(free, "0.weight", 62, 3, 24, 24)
    assert odd <= dense


def test_the_model_says_what_the_padding_pass_does(tmp_path: Path) -> None:
    """Streams that the pass widens in the file, by the widths it leaves there."""
    net = nn.Sequential(
        *(
            nn.Conv2d(16, 62, 3),
            nn.BatchNorm2d(62),
            nn.Hardswish(),
            nn.Conv2d(62, 62, 3, groups=62),
            nn.ReLU6(),
        ),
        *(nn.MaxPool2d(2), nn.Conv2d(62, 50, 1), nn.GroupNorm(5, 50), nn.Conv2d(50, 30, 1), nn.SiLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(30, 10)),
    ).eval()
    x = torch.randn(1, 16, 12, 12)
    path = fxprune.export_onnx(net, x, tmp_path / "m.onnx", target=AVX512.name).path
    shapes = [tuple(i.dims) for i in onnx.load(path).graph.initializer if len(i.dims) == 4]
    widths = [shape[0] for shape in shapes if shape[2:] in ((3, 3), (1, 1)) and shape[0] > 1]
    assert sorted(widths) == [30, 50, 64, 64]
    analysis = analyse(fxprune.trace(net, x))
    made = {
        (analysis.calls[node].op, analysis.values[node].shape[1])  # type: ignore[union-attr]
        for node in fillable(analysis)
        if node in analysis.calls
    }
    assert {width for op, width in made if op == "aten::conv2d"} == {62}


def test_what_hangs_on_no_input_takes_no_time() -> None:
    """It is computed when the file is made: here a mask."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.mask = nn.Linear(64, 64), nn.Parameter(torch.randn(64, 64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x) * self.mask.tanh().softmax(-1).sum(0)

    analysis, model = modelled(Masked(), 64)
    assert set(model.by_operator(np.ones(analysis.coupling.n_units, bool))) == {"aten::linear", "aten::mul"}


def test_transposes_of_whole_runs_are_cheaper() -> None:
    class Moved(nn.Module):
        def __init__(self, *order: int) -> None:
            super().__init__()
            self.order = order

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.permute(0, *self.order)

    runs, across = (dense_ms(Moved(*order), 16, 24, 32) for order in ((2, 1, 3), (1, 3, 2)))
    assert across - BEGUN == pytest.approx(2.5 * (runs - BEGUN), rel=1e-3)
    assert runs - BEGUN == pytest.approx(2 * 16 * 24 * 32 / FACTS.elements / 1e6 / 2, rel=1e-3)


def test_attention_sweeps_over_its_scores() -> None:
    class Attend(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    heads, tokens, width = 4, 48, 8
    products, scores = 2 * heads * tokens**2 * width / FACTS.matrix, 3 * heads * tokens**2 / FACTS.elements
    assert dense_ms(Attend(), heads, tokens, width) == pytest.approx(
        (products + scores) / 1e6 + 8 * BEGUN, rel=1e-3
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_search_counts_the_models_time(seed: int) -> None:
    """By the facts about another machine: nothing is measured, and the plan is what was asked."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        *(nn.Conv2d(3, 96, 3), nn.ReLU(), nn.Conv2d(96, 128, 3), nn.ReLU(), nn.Conv2d(128, 64, 3, groups=2)),
        *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    )
    trace = fxprune.trace(net.eval(), torch.randn(2, 3, 16, 16))
    analysis = analyse(trace)
    model = latency_model(analysis, AVX512)
    dense = model.milliseconds(np.ones(analysis.coupling.n_units, bool))
    made = fxprune.plan(trace, Budget(latency=0.5), target=AVX512.name)
    share = model.milliseconds(keep_mask(analysis, made)) / dense
    assert 0.38 < share <= 0.505
    assert "latency by facts alone: target 'onnxruntime-cpu-avx512' is another machine" in made.notes
    fxprune.verify(trace, made, fxprune.slim(trace, made))


@pytest.mark.parametrize(("seed", "budget"), [(0, "macs"), (1, "macs"), (0, "latency"), (1, "latency")])
def test_where_layers_score_alike_time_decides(
    seed: int, budget: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At half the work less of the time is left; at one time more of the importance."""
    torch.manual_seed(seed)
    net = torchvision.models.resnet18().eval()
    trace = fxprune.trace(net, torch.randn(2, 3, 64, 64))
    model, scores = latency_model(analyse(trace), AVX512), score(trace, "l1").units
    times, kept = [], []
    name = "THRIFT" if budget == "macs" else "TIME_THRIFT"
    for power in (0.0, getattr(solving, name)):
        monkeypatch.setattr(solving, name, power)
        made = fxprune.plan(trace, Budget(**{budget: 0.5}), target=AVX512.name)
        keep = keep_mask(analyse(trace), made)
        times.append(model.milliseconds(keep))
        kept.append(np.nansum(scores[keep]))
    if budget == "macs":
        assert times[1] < 0.97 * times[0]
    else:
        assert kept[1] > 1.02 * kept[0]


def test_no_layer_goes_as_a_whole_because_it_is_slow() -> None:
    """Layers of one pixel wait for their weights: hundreds of times as long for as much work."""
    torch.manual_seed(0)
    net = torchvision.models.resnet18().eval()
    trace = fxprune.trace(net, torch.randn(2, 3, 32, 32))
    made = fxprune.plan(trace, Budget(macs=0.5), target=AVX512.name, align=1)
    sizes = {axis: trace.tensor(axis[0]).shape[axis[1]] for axis in made.kept}
    assert min(len(index) / sizes[axis] for axis, index in made.kept.items()) > 0.03
    assert made.predicted.params > 0.1 * made.dense.params


def test_a_transformer_is_timed_too() -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    trace = fxprune.trace(layer.eval(), torch.randn(2, 6, 32))
    made = fxprune.plan(trace, Budget(latency=0.6), target=AVX512.name, align=1)
    assert made.predicted.macs < 0.8 * made.dense.macs


# --- measuring -----------------------------------------------------------------------------------


def net() -> nn.Module:
    torch.manual_seed(0)
    # Wide enough for steps of blocks to be small.
    layers = (nn.Conv2d(3, 384, 3), nn.ReLU(), nn.Conv2d(384, 640, 1), nn.ReLU(), nn.Conv2d(640, 10, 1))
    return nn.Sequential(*layers).eval()


def told(monkeypatch: pytest.MonkeyPatch, ratio: object, *, spread: float = 0.01) -> list[float]:
    """A stopwatch that computes the ratio from the share of parameters left; what it was asked."""
    asked: list[float] = []
    dense = sum(p.numel() for p in net().parameters())

    def measure(watch: Stopwatch, module: nn.Module) -> Timed:
        share = sum(p.numel() for p in module.parameters()) / dense
        asked.append(share)
        value = ratio(share)  # type: ignore[operator]
        return Timed(value, value * (1 - spread), value * (1 + spread), 20.0)

    monkeypatch.setattr(Stopwatch, "measure", measure)
    return asked


def planned(budget: Budget, **options: object) -> Plan:
    trace = fxprune.trace(net(), torch.randn(1, 3, 12, 12))
    return fxprune.plan(trace, budget, align=1, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("law", [lambda s: s, lambda s: s**0.5, lambda s: 0.2 + 0.8 * s, lambda s: s**1.5])
def test_a_wish_is_met_as_it_is_measured(law: object, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = told(monkeypatch, law)
    made = planned(Budget(latency=0.6))
    assert len(asked) <= ROUNDS
    share = made.predicted.params / made.dense.params
    assert law(share) == pytest.approx(0.6, rel=0.035)  # type: ignore[operator]
    (note,) = (n for n in made.notes if n.startswith("measured: "))
    assert "60.0 % was asked" in note
    assert "threads 1, batch 1" in note


def test_what_cannot_be_met_ends_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = told(monkeypatch, lambda share: 0.8 + 0.2 * share)
    made = planned(Budget(latency=0.3))
    assert len(asked) <= ROUNDS
    assert made.predicted.params < 0.1 * made.dense.params


def test_a_busy_machine_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, lambda share: share, spread=0.2)
    assert any("too busy for this wish" in note for note in planned(Budget(latency=0.6)).notes)


def test_milliseconds_are_a_share_of_what_the_dense_model_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, lambda share: share)
    made = planned(Budget(latency_ms=12.0))
    assert made.predicted.params / made.dense.params == pytest.approx(0.6, rel=0.035)
    with pytest.raises(PlanError, match="takes 20 ms here, no more than the 25 ms"):
        planned(Budget(latency_ms=25.0))
    with pytest.raises(PlanError, match="is measured, and target 'any' is another machine"):
        planned(Budget(latency_ms=12.0), target="any")


@pytest.mark.parametrize("target", ["onnxruntime-cpu", "onnxruntime-cpu?threads=2&batch=3"])
def test_a_stopwatch_runs_both_models(target: str) -> None:
    trace = fxprune.trace(net(), torch.randn(1, 3, 12, 12))
    small = fxprune.slim(trace, fxprune.plan(trace, Budget(macs=0.1), align=1))
    with Stopwatch(trace, targets.get(target), seconds=0.3) as watch:
        timed = watch.measure(small)
    assert 0 < timed.low <= timed.ratio <= timed.high
    assert timed.dense_ms > 0


def test_a_plan_for_this_machine_is_measured() -> None:
    trace = fxprune.trace(net(), torch.randn(1, 3, 24, 24))
    made = fxprune.plan(trace, Budget(latency=0.6))
    assert any(note.startswith("measured: ") for note in made.notes)
    assert made.predicted.macs < made.dense.macs
    fxprune.verify(trace, made, fxprune.slim(trace, made))


# --- words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan"), True, "3"])
def test_milliseconds_are_a_time(value: object) -> None:
    with pytest.raises(PlanError, match="latency_ms"):
        Budget(latency_ms=value)  # type: ignore[arg-type]
    assert Budget(latency_ms=2500).quantity == "latency"


def test_a_target_has_threads_and_batch() -> None:
    target = targets.get("onnxruntime-cpu-avx2?batch=8&threads=2")
    assert (target.threads, target.batch, target.measurable) == (2, 8, False)
    assert targets.get().measurable
    for odd in ("threads=0", "threads=two", "batch", "cores=2", "threads=2&"):
        with pytest.raises(PlanError, match="neither threads=N nor batch=N"):
            targets.get(f"onnxruntime-cpu?{odd}")
