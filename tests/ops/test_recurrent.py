"""LSTM, GRU and their cells lose hidden units: exactly, in both kinds of slim, in ONNX."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import fxprune
from fxprune.coupling.cost import measure
from fxprune.coupling.couple import analyse
from fxprune.errors import PlanError
from fxprune.graph.live import liven
from fxprune.planning.plan import plan, remove
from fxprune.plans import Plan

EXACT = 1e-10
"""Float64 rounding over five steps of a few layers."""


class Reader(nn.Module):
    """Features, a recurrent layer over time, a linear head on every step, on the last one, or on the final states."""

    def __init__(self, rnn: nn.RNNBase, read: str = "steps") -> None:
        super().__init__()
        self.features, self.rnn, self.read = nn.Linear(6, 9), rnn, read
        width = rnn.proj_size or rnn.hidden_size
        self.head = nn.Linear(width * (2 if rnn.bidirectional else 1), 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps, states = self.rnn(self.features(x).relu())
        if self.read == "states":
            last = states[0] if isinstance(states, tuple) else states
            return self.head(torch.cat([last[-2], last[-1]], -1))
        return self.head(steps[:, -1] if self.read == "last" else steps)


class Loop(nn.Module):
    """A cell in a Python loop, its state handed on."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.features, self.cell, self.head = nn.Linear(6, 9), cell, nn.Linear(cell.hidden_size, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, state, seen = self.features(x), None, []
        for step in x.unbind(1):
            state = self.cell(step, state)
            seen.append(state[0] if isinstance(state, tuple) else state)
        return self.head(torch.stack(seen, 1))


class Translator(nn.Module):
    """The decoder starts where the encoder ends: layer by layer they share units."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Linear(6, 9)
        self.encoder, self.decoder = (nn.LSTM(9, 8, 2, batch_first=True) for _ in range(2))
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x)
        return self.head(self.decoder(x.flip(1), self.encoder(x)[1])[0])


class LearnedStart(nn.Module):
    """Initial states that are parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.rnn, self.head = (
            nn.Linear(6, 9),
            nn.LSTM(9, 8, 2, batch_first=True),
            nn.Linear(8, 3),
        )
        self.h, self.c = (nn.Parameter(torch.randn(2, 1, 8)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        start = [s.expand(-1, x.shape[0], -1).contiguous() for s in (self.h, self.c)]
        return self.head(self.rnn(self.features(x), tuple(start))[0])


NETS: dict[str, Callable[[], nn.Module]] = {
    "lstm, time first": lambda: Reader(nn.LSTM(9, 8)),
    "lstm, layers, directions": lambda: Reader(
        nn.LSTM(9, 8, 2, batch_first=True, bidirectional=True, dropout=0.2)
    ),
    "lstm, projections": lambda: Reader(nn.LSTM(9, 16, 2, batch_first=True, proj_size=5)),
    "lstm, last step": lambda: Reader(nn.LSTM(9, 8, 2, batch_first=True), "last"),
    "gru, layers, directions": lambda: Reader(nn.GRU(9, 8, 2, batch_first=True, bidirectional=True)),
    "gru, final states": lambda: Reader(nn.GRU(9, 8, batch_first=True, bidirectional=True), "states"),
    "rnn, no bias": lambda: Reader(nn.RNN(9, 8, batch_first=True, bias=False)),
    "rnn, relu": lambda: Reader(nn.RNN(9, 8, 2, batch_first=True, nonlinearity="relu")),
    "lstm cell": lambda: Loop(nn.LSTMCell(9, 8)),
    "gru cell": lambda: Loop(nn.GRUCell(9, 8)),
    "rnn cell": lambda: Loop(nn.RNNCell(9, 8)),
    "encoder and decoder": Translator,
    "learned states": LearnedStart,
}


def traced(net: nn.Module, x: torch.Tensor) -> fxprune.Trace:
    torch.manual_seed(0)
    return fxprune.trace(liven(net, x), x)


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # Torch runs them without oneDNN
@pytest.mark.parametrize("name", NETS)
def test_hidden_units_go(name: str) -> None:
    """Half of all units, drawn at random: proved, costs as predicted, trains."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6)
    t = traced(NETS[name](), x)
    hidden = [
        g for g in analyse(t).coupling.groups if not g.pinned and any("weight_hh" in n for n, _ in g.members)
    ]
    assert hidden and all(g.exact and g.width == 8 for g in hidden if "projections" not in name)
    made = plan(t, fxprune.Budget(channels=0.5), criterion="random", align=1, scope="local")
    for kind in ("module", "graph"):
        small = fxprune.slim(t, made, kind=kind)
        proof = fxprune.verify(t, made, small, tolerance=EXACT)
        assert proof.dtype == "float64" and proof.effect > 1e-3
        assert measure(small, (x,)) == made.predicted
        small.train()(x).square().sum().backward()
        assert all(p.grad is not None for p in small.parameters())


@pytest.mark.parametrize("kind", ["module", "graph"])
def test_a_saved_layer_loads(kind: Literal["module", "graph"], tmp_path: Path) -> None:
    x = torch.randn(2, 3, 6)
    t = traced(NETS["lstm, time first"](), x)
    made = fxprune.plan(t, fxprune.Budget(channels=0.5), align=1)
    small = fxprune.slim(t, made, kind=kind)
    fxprune.save(small, made, tmp_path / "slim.safetensors")
    again = fxprune.load(NETS["lstm, time first"](), tmp_path / "slim.safetensors", x)
    assert torch.equal(again.eval()(x), small.eval()(x))


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_the_copy_knows_its_sizes() -> None:
    net = Reader(nn.LSTM(9, 16, 2, batch_first=True, proj_size=5))
    t = traced(net, torch.randn(2, 3, 6))
    gone = {("features.weight", 0): [1], ("rnn.weight_ih_l0", 0): [3, 7], ("rnn.weight_ih_l1", 0): [0, 9]}
    made = remove(t, {**gone, ("rnn.weight_hr_l0", 0): [2], ("rnn.weight_hr_l1", 0): [4]})
    small = fxprune.slim(t, made, kind="module")
    assert isinstance(small, Reader)
    assert (small.rnn.input_size, small.rnn.hidden_size, small.rnn.proj_size) == (8, 14, 4)
    assert small.rnn.weight_ih_l0.shape == (56, 8)
    assert all(one is two for one, two in zip(small.rnn._flat_weights, small.rnn.parameters()))
    # Row j of every gate: the third of each sixteen rows is gone.
    rows = [r for r in range(64) if r % 16 not in (3, 7)]
    assert torch.equal(small.rnn.weight_hh_l0, net.rnn.weight_hh_l0[rows][:, [0, 1, 3, 4]])


def test_layers_keep_equally_many_units() -> None:
    """A stack of layers has one hidden size: what asks for another one is refused."""
    t = traced(Reader(nn.GRU(9, 8, 2, batch_first=True)), torch.randn(2, 3, 6))
    with pytest.raises(PlanError, match="must keep equally many"):
        remove(t, {("rnn.weight_ih_l0", 0): [0, 1]})
    made = remove(t, {("rnn.weight_ih_l0", 0): [0, 1], ("rnn.weight_ih_l1", 0): [5, 6]})
    assert fxprune.verify(t, made, fxprune.slim(t, made), tolerance=EXACT).units == 4


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_projection_as_wide_as_the_state_is_refused() -> None:
    """Torch would take such an LSTM for one without projections."""
    t = traced(Reader(nn.LSTM(9, 6, batch_first=True, proj_size=5)), torch.randn(2, 3, 6))
    with pytest.raises(PlanError, match="both keep 5 units"):
        fxprune.slim(t, remove(t, {("rnn.weight_ih_l0", 0): [2]}))


# --- whole models ------------------------------------------------------------------------------


class CRNN(nn.Module):
    """Text recognition: convolutions, columns as time, a bidirectional LSTM, letters."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d((2, 1))),
        )
        self.rnn = nn.LSTM(48, 16, 2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(32, 11)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(self.convs(x).permute(0, 3, 1, 2).flatten(2))[0])


class DeepConvLSTM(nn.Module):
    """Activities from sensors: convolutions along time, two LSTMs, the last step decides."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(nn.Conv2d(1, 12, (5, 1)), nn.ReLU(), nn.Conv2d(12, 12, (5, 1)), nn.ReLU())
        self.one, self.two = nn.LSTM(12 * 6, 16, batch_first=True), nn.LSTM(16, 16, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.convs(x[:, None]).transpose(1, 2).flatten(2)
        return self.head(self.two(self.one(x)[0])[0][:, -1])


@pytest.mark.parametrize(
    ("build", "x"),
    [(CRNN, torch.randn(2, 1, 8, 6)), (DeepConvLSTM, torch.randn(2, 11, 6))],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_half_of_the_hidden_units_of_a_whole_model(
    build: Callable[[], nn.Module], x: torch.Tensor, tmp_path: Path
) -> None:
    """Proved, exported, equal in onnxruntime at another batch size too."""
    t = traced(build(), x)
    made: Plan = fxprune.plan(t, fxprune.Budget(channels=0.5), scope="local", align=1)
    small = fxprune.slim(t, made)
    assert small.fxprune_kind == "module"
    assert [m.hidden_size for m in small.modules() if isinstance(m, nn.LSTM)] == [
        8 for m in t.model.modules() if isinstance(m, nn.LSTM)
    ]
    assert fxprune.verify(t, made, small, tolerance=EXACT).effect > 1e-2
    fxprune.export_onnx(small, x, tmp_path / "slim.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "slim.onnx", providers=["CPUExecutionProvider"])
    for batch in (x, torch.cat([x, x.flip(0), x])):
        (given,) = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
        with torch.no_grad():
            # Float32 sums of some dozen terms in another order.
            np.testing.assert_allclose(given, small(batch).numpy(), rtol=0, atol=1e-5)
