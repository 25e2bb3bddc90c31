"""Models that a proof must not trip over, and faults that it must not overlook."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fxprune.errors import VerificationError
from fxprune.graph.trace import Trace, trace
from fxprune.planning.plan import plan, remove
from fxprune.plans import Budget, Plan
from fxprune.proof.evidence import Proof
from fxprune.proof.verify import verify
from fxprune.slimming.slim import slim
from fxprune.testing.mutation.mutant import applied, at, code, in_row
from fxprune.testing.mutation.systematic import SAID

HALF = Budget(channels=0.5)

EXACT = 1e-9
"""The default limit in float64."""


def halved(model: nn.Module, inputs: object, **options: object) -> tuple[Trace, Plan]:
    found = trace(model.eval(), inputs)  # type: ignore[arg-type]
    return found, plan(found, HALF, align=1, criterion="random", **options)  # type: ignore[arg-type]


def proved(model: nn.Module, inputs: object, **options: object) -> Proof:
    found, made = halved(model, inputs, **options)
    proof = verify(found, made, slim(found, made))
    assert proof.units > 0
    assert proof.effect > 1e-6
    return proof


class Chance(nn.Module):
    """Draws numbers in forward, some for every channel that may go."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(self.first(x).relu(), 0.3, training=True)
        x = x + torch.randn_like(x) * x.sigmoid()
        return self.last(self.second(x) + torch.rand(len(x), 1))


@pytest.mark.parametrize("kind", ["graph", "auto"])
def test_models_that_draw_numbers(kind: str) -> None:
    torch.manual_seed(0)
    found, made = halved(Chance(), torch.randn(2, 6))
    small = slim(found, made, kind=kind)  # type: ignore[arg-type]
    before = torch.get_rng_state()
    proof = verify(found, made, small)
    assert proof.judged == {"graph": 1.0, "masks": 1.0}
    assert proof.error <= EXACT
    assert torch.equal(before, torch.get_rng_state())


class Waves(nn.Module):
    """Complex weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 10), nn.Linear(10, 3)
        self.turn = nn.Parameter(torch.randn(10, 10, dtype=torch.cfloat))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.complex(self.first(x), self.first(x).cos())
        return self.last((y @ self.turn).imag)


def test_complex_parameters_stay_complex() -> None:
    """Their imaginary part counts."""
    torch.manual_seed(0)
    found = trace(Waves(), torch.randn(2, 6))
    made = remove(found, {})
    small = slim(found, made)
    assert verify(found, made, small).error <= EXACT
    with torch.no_grad():
        small.get_parameter("turn").imag.mul_(1.5)
    with pytest.raises(VerificationError, match="differs"):
        verify(found, made, small)


class Flags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.last(self.first(x).relu())
        return y, y > 0, (y > 0).sum(-1)


def test_outputs_of_other_types() -> None:
    torch.manual_seed(0)
    assert proved(Flags(), torch.randn(4, 6)).judged["masks"] == 1


class Steered(nn.Module):
    """Python reads a number, so the model is recorded; a norm sees the units that go."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        if x.sum().item() > 1e9:
            x = x.clamp(max=1e9)
        return self.last(x)


def test_recorded_models_with_statistics() -> None:
    """Zeroing alone would differ: the first oracle has no say, the second one has."""
    torch.manual_seed(0)
    found, made = halved(Steered(), torch.randn(2, 6))
    assert found.kind == "recorded"
    small = slim(found, made)
    proof = verify(found, made, small)
    assert proof.judged == {"graph": 0.0, "masks": 1.0}
    assert "statistics" in proof.unjudged
    with torch.no_grad():
        small.get_parameter("norm.bias")[0] += 1e-3
    with pytest.raises(VerificationError, match="under masks"):
        verify(found, made, small)
    with pytest.raises(VerificationError, match="nothing of the slim model could be judged"):
        verify(found, made, slim(found, made), oracles=("graph",))


class Hidden(Steered):
    """What its inner layer says never shows in the output of this input."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x))
        y = self.last(y) if y.sum().item() < 1e9 else y
        return y * 0 + 1


def test_recorded_layers_that_lost_channels_are_compared() -> None:
    """Every module's result counts, in what is left of it."""
    torch.manual_seed(0)
    found, made = halved(Hidden(), torch.randn(2, 6))
    small = slim(found, made)
    verify(found, made, small)
    with torch.no_grad():
        small.get_parameter("first.weight")[0] += 1e-3
    with pytest.raises(VerificationError, match="differs"):
        verify(found, made, small)


class Speakers(nn.Module):
    """Channels of several masks, merged with the batch before a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.mask, self.dec = (
            nn.Conv1d(1, 12, 4, 2),
            nn.Conv1d(12, 36, 1),
            nn.ConvTranspose1d(12, 1, 4, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        w = self.enc(x.unsqueeze(1)).relu()
        m = self.mask(w).sigmoid().view(len(x), 3, 12, -1)
        y = (w.unsqueeze(1) * m).view(-1, 12, w.shape[-1])
        return self.dec(y).view(len(x), 3, -1)


def test_channels_merged_with_the_batch() -> None:
    torch.manual_seed(0)
    assert proved(Speakers(), torch.randn(2, 40)).judged == {"graph": 1.0, "masks": 1.0}


class Small(nn.Module):
    """A branch behind a scale of 1e-5."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mix, self.last = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.back, self.scale = nn.Linear(16, 16), nn.Parameter(torch.full((16,), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(x + self.scale * self.back(self.mix(x).relu()))


def test_faults_behind_a_small_scale_are_seen() -> None:
    torch.manual_seed(0)
    found = trace(Small().eval(), torch.randn(2, 6))
    made = remove(found, {("mix.weight", 0): [1, 5, 6]})
    small = slim(found, made)
    assert verify(found, made, small).error <= EXACT
    with torch.no_grad():
        small.get_parameter("mix.weight").copy_(small.get_parameter("mix.weight").flip(0))
    with pytest.raises(VerificationError, match="differs"):
        verify(found, made, small)


class Boxes(nn.Module):
    """Coordinates and scores in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(self.first(x).relu())
        return torch.cat([640 * y[:, :4].sigmoid(), 1e-3 * y[:, 4:]], 1)


def test_small_channels_beside_large_ones_are_seen() -> None:
    torch.manual_seed(0)
    found = trace(Boxes().eval(), torch.randn(2, 3, 4, 4))
    made = remove(found, {("first.weight", 0): [1, 5, 6]})
    small = slim(found, made)
    assert verify(found, made, small).error <= EXACT
    with torch.no_grad():
        small.get_parameter("last.bias")[5] += 1e-7  # 1e-10 beside 640
    with pytest.raises(VerificationError, match="differs"):
        verify(found, made, small)


class Across(nn.Module):
    """Attention across channels, rows of queries and keys read by the same blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.z = (nn.Linear(6, 12) for _ in range(4))
        self.z = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).view(len(x), 4, 2, 6).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = torch.softmax(q.transpose(-2, -1) @ k, -1) @ v.transpose(-2, -1)
        return self.z(mixed.permute(0, 3, 1, 2).flatten(2))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_attention_across_channels(seed: int) -> None:
    torch.manual_seed(0)
    assert proved(Across(), torch.randn(2, 4, 6), blocks="inside", seed=seed).judged == {
        "graph": 1.0,
        "masks": 1.0,
    }


# --- what the user owns stays as it is ---------------------------------------------------------


class Counting(nn.Module):
    """Counts its calls and keeps a moving average, in evaluation too; writes into its input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 10), nn.Linear(10, 3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("seen", torch.zeros(10))

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2)
        self.calls.add_(1)
        y = self.first(x).relu()
        self.seen.mul_(0.9).add_(0.1 * y.detach().mean(0))
        return self.last(y - self.seen)


@pytest.mark.parametrize("kind", ["graph", "auto"])
def test_neither_models_nor_inputs_change(kind: str) -> None:
    torch.manual_seed(0)
    model, x = Counting().double(), torch.randn(2, 6, dtype=torch.float64)
    found, made = halved(model, x)
    small = slim(found, made, kind=kind)  # type: ignore[arg-type]
    held = [copy.deepcopy(m.state_dict()) for m in (model, small)]
    given = x.clone()
    proof = verify(found, made, small, inputs=x)
    assert proof.error <= EXACT
    assert torch.equal(x, given)
    for before, module in zip(held, (model, small), strict=True):
        assert all(torch.equal(before[n], t) for n, t in module.state_dict().items())


class Spectral(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 10))
        self.last = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu())


@pytest.mark.parametrize("training", [False, True])
def test_parametrised_weights(training: bool) -> None:
    torch.manual_seed(0)
    found = trace(Spectral().train(training), torch.randn(2, 6))
    made = remove(found, {("last.bias", 0): []})
    verify(found, made, slim(found, made))
    proof = proved(Spectral(), torch.randn(2, 6), only=["first*"])
    assert proof.error <= EXACT


# --- both oracles against rules that are wrong -------------------------------------------------


class Between(nn.Module):
    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.between = between
        self.first, self.last = nn.Linear(7, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)))


def silent(*names: str) -> object:
    """A walk that says nothing of a kind."""
    patches = [
        at(f"fxprune.coupling.walk:Walk.{name}", lambda _: lambda self, *args, **kwargs: None)
        for name in names
    ]
    return code("walk", "says nothing", "", *patches)


WRONG: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "count": (lambda y: y - y.sum(1, keepdim=True) / torch.ones_like(y).sum(1, keepdim=True), "inexact"),
    "positions": (lambda y: y * torch.ones_like(y).cumsum(1), "inexact"),
    "softmax": (lambda y: y.softmax(1), "inexact"),
    "layer norm": (lambda y: F.layer_norm(y, y.shape[1:]), "inexact"),
    "mean": (lambda y: y - y.mean(1, keepdim=True), "inexact"),
}


@pytest.mark.parametrize("oracle", ["graph", "masks"])
@pytest.mark.parametrize("name", WRONG)
def test_each_oracle_alone_notices_what_is_called_exact(name: str, oracle: str) -> None:
    """Values that depend on the width, under rules that do not say so."""
    between, what = WRONG[name]
    torch.manual_seed(0)
    with applied(silent(what, "pin")):  # type: ignore[arg-type]
        found = trace(Between(between).eval(), torch.randn(2, 7))
        made = remove(found, {("first.weight", 0): [2, 7, 8]})
        small = slim(found, made, kind="graph")
        with pytest.raises(VerificationError, match="differs"):
            verify(found, made, small, oracles=(oracle,))  # type: ignore[arg-type]


ROWS: dict[str, Callable[[Tensor], Tensor]] = {
    "aten::softmax": lambda y: y.softmax(1),
    "aten::log_softmax": lambda y: y.log_softmax(1),
    "aten::cumsum": lambda y: y.cumsum(1),
    "aten::layer_norm": lambda y: F.layer_norm(y.transpose(1, 2), (3,)).transpose(1, 2),
}


@pytest.mark.parametrize("oracle", ["graph", "masks"])
@pytest.mark.parametrize("op", ROWS)
def test_each_oracle_alone_notices_rows_that_are_mixed_up(op: str, oracle: str) -> None:
    """Rows keep other columns under a rule that does not look across them."""
    torch.manual_seed(0)
    model = Between(lambda y: ROWS[op](y.view(len(y), 3, 4)).flatten(1)).eval()
    with in_row(op, couple=SAID["moves"][2]["couple"])():
        found = trace(model, torch.randn(2, 7))
        made = remove(found, {("first.weight", 0): [2, 3, 4, 7, 9, 10]})
        small = slim(found, made, kind="graph")
        with pytest.raises(VerificationError, match="differs"):
            verify(found, made, small, oracles=(oracle,))  # type: ignore[arg-type]


class Kept(nn.Module):
    """Numbers in another type are a copy, which later writes do not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.one, self.two = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.make(x)
        before = y.float().to(y.dtype)
        y.relu_()
        return self.one(before) + self.two(y)


def test_a_conversion_in_the_code_is_a_copy() -> None:
    torch.manual_seed(0)
    found = trace(Kept().double().eval(), torch.randn(3, 4).double())
    made = plan(found, Budget(channels=0.5), align=1)
    proof = verify(found, made, slim(found, made))
    assert proof.judged == {"graph": 1.0, "masks": 1.0}


class Mixing(nn.Module):
    """Channels meet a parameter that no layer owns, in a model whose code decides by data."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.last = nn.Linear(4, 7), nn.Linear(6, 3)
        self.mix = nn.Parameter(torch.randn(7, 6))
        self.normed = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.normed(torch.einsum("...d,de->...e", self.make(x), self.mix))
        return self.last(y if float(x.sum()) < 1e9 else 2 * y)


def test_recorded_models_with_parameters_of_their_own() -> None:
    torch.manual_seed(0)
    found = trace(Mixing().eval(), torch.randn(2, 4))
    rows = ("normed.parametrizations.weight.original", 0)
    made = remove(found, {("make.weight", 0): [2, 5], rows: [0, 3]})
    assert found.kind == "recorded"
    assert (len(made.kept["mix", 0]), len(made.kept[rows])) == (5, 4)
    verify(found, made, slim(found, made), oracles=("graph",))
