"""Which slim models may be copies of the user's module: those that compute what the graph computes."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from fxprune.coupling.cost import measure
from fxprune.errors import SliceError
from fxprune.graph.trace import trace
from fxprune.graph.values import DryRun, Names
from fxprune.planning.plan import remove
from fxprune.plans import Plan
from fxprune.proof.verify import verify
from fxprune.slimming.slim import slim

EXACT = 1e-10
"""Relative difference of two float64 runs: rounding of 53-bit fractions, with digits to spare."""


class Between(nn.Module):
    """A convolution of 24 channels, something that regroups them, a convolution that reads them."""

    def __init__(self, middle: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 3, 1)
        self.middle = middle

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.middle(self.first(x)))


class OwnNorm(nn.Module):
    """Group norm by hand; the number of groups is nobody's but its own."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.view(x.shape[0], self.groups, -1)
        y = (y - y.mean(2, keepdim=True)) / (y.var(2, keepdim=True) + 1e-5).sqrt()
        return y.view(x.shape)


GROUPS = {
    "literal": (lambda: lambda x: F.group_norm(x, 6), "graph"),
    "norm without scale": (lambda: nn.GroupNorm(6, 24, affine=False), "module"),
    "norm": (lambda: nn.GroupNorm(6, 24), "module"),
    "shuffle": (lambda: nn.ChannelShuffle(6), "module"),
    "literal shuffle": (lambda: lambda x: F.channel_shuffle(x, 6), "graph"),
    "instance norm": (lambda: nn.InstanceNorm2d(24), "module"),
}


@pytest.mark.parametrize("name", GROUPS)
def test_numbers_of_groups_without_parameters(name: str) -> None:
    """Two of six groups go whole: groups of four must stay groups of four."""
    make, kind = GROUPS[name]
    found = trace(Between(make()), torch.randn(2, 3, 6, 6))
    made = remove(found, {("first.weight", 0): [0, 1, 2, 3, 12, 13, 14, 15]})
    small = slim(found, made)
    assert small.fxprune_kind == kind
    assert verify(found, made, small, tolerance=EXACT).units >= 8
    if kind == "module" and hasattr(small.middle, "num_groups"):
        assert (small.middle.num_groups, small.middle.num_channels) == (4, 16)
    if isinstance(small, Between) and isinstance(small.middle, nn.ChannelShuffle):
        assert small.middle.groups == 4


def test_a_number_of_groups_of_ones_own_class() -> None:
    found = trace(Between(OwnNorm(6)), torch.randn(2, 3, 6, 6))
    made = remove(found, {("first.weight", 0): [0, 1, 2, 3, 12, 13, 14, 15]})
    small = slim(found, made)
    assert isinstance(small, Between)
    assert (small.middle.groups, found.model.middle.groups) == (4, 6)
    assert verify(found, made, small, tolerance=EXACT).units >= 8


def test_layer_norm_without_scale_follows() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)
            self.norm = nn.LayerNorm(8, elementwise_affine=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.norm(self.first(x)))

    found = trace(Net(), torch.randn(2, 4))
    made = remove(found, {("first.weight", 0): [1, 5]})
    small = slim(found, made)
    assert (small.fxprune_kind, small.norm.normalized_shape) == ("module", (6,))
    assert verify(found, made, small, tolerance=EXACT).units == 2


# --- what an output hardly shows ----------------------------------------------------------------


class Flat(nn.Module):
    """Attention whose softmax is flat on the example: a wrong scale hardly shows."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.q, self.k = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 12)
        self.v, self.z = nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        y = F.scaled_dot_product_attention(self.q(x) * 1e-3, self.k(x) * 1e-3, self.v(x))
        return self.z(x + y)


class Gated(nn.Module):
    """A branch behind a gate that is still zero divides by the width."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.z = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 3)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        return self.z(x + self.gate * self.b(x / x.shape[-1]))


class Averaged(nn.Module):
    """At weights as small as untrained ones, attention makes all tokens equal, and what attends to them is a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.first = nn.Linear(6, 12), nn.MultiheadAttention(12, 4, batch_first=True)
        self.q, self.k, self.v = (nn.Linear(12, 8) for _ in range(3))
        self.z = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(F.layer_norm(x, x.shape[1:])) * 0.05
        x = self.first(x, x, x, need_weights=False)[0]
        q, k, v = (f(x).unflatten(2, (4, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.z(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize(("model", "axis"), [(Flat, "q.weight"), (Gated, "a.weight"), (Averaged, "q.weight")])
def test_what_is_small_on_the_example_is_compared(model: type[nn.Module], axis: str) -> None:
    torch.manual_seed(0)
    found = trace(model(), torch.randn(2, 4, 6))
    gone = [0, 2, 4, 6] if model is Averaged else [0, 3, 5]
    made = remove(found, {(axis, 0): gone})
    small = slim(found, made)
    assert small.fxprune_kind == "graph"
    assert verify(found, made, small, tolerance=EXACT).units >= 3
    with pytest.raises(SliceError, match="differ"):
        slim(found, made, kind="module")


def test_code_that_runs_in_training_only_is_compared() -> None:
    class Net(Between):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            return self.last(F.group_norm(x, 6 if self.training else len(self.first.weight) // 4))

    class Same(Between):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            return self.last(F.group_norm(F.dropout(x, 0.5, self.training), len(self.first.weight) // 4))

    for model, kind in ((Net, "graph"), (Same, "module")):
        found = trace(model(nn.Identity()), torch.randn(2, 3, 6, 6))
        made = remove(found, {("first.weight", 0): [0, 1, 2, 3]})
        assert slim(found, made).fxprune_kind == kind


# --- what a dry run cannot tell -----------------------------------------------------------------


class Counts(nn.Module):
    """Positions made on the default device, an entry read in Python, and a table that is kept between calls."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.grid: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.a(x))
        if not torch.compiler.is_exporting():
            assert float(x.square().sum().item()) >= 0
        if not torch.compiler.is_exporting() and (self.grid is None or len(self.grid) != y.shape[-1]):
            self.grid = torch.arange(y.shape[-1])
        grid = torch.arange(y.shape[-1]) if self.grid is None else self.grid
        return self.b(y) + grid.to(y.dtype)


def test_a_dry_run_that_fails_is_no_verdict() -> None:
    model = Counts()
    for cached in (False, True):
        if cached:
            model(torch.randn(1, 3, 8, 8))
        found = trace(model, torch.randn(1, 3, 8, 8))
        made = remove(found, {("a.weight", 0): [2, 3]})
        small = slim(found, made)
        assert small.fxprune_kind == "module"
        assert verify(found, made, small, tolerance=EXACT).units == 2
        assert (small.grid is None) == (not cached), "comparing leaves nothing behind"


def test_names_of_values_tell_what_is_written_and_drawn() -> None:
    def named(step: Callable[[torch.Tensor], torch.Tensor]) -> list[object]:
        class Net(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return step(x)

        return DryRun(Net(), names).outputs(((x,), {}))

    names, x = Names(), torch.randn(2, 6)
    assert named(lambda x: x.view(2, -1) + 1) == named(lambda x: x.view(2, 6) + 1)
    assert named(lambda x: x + torch.tensor([1.0])) == named(lambda x: x + torch.tensor([1.0]))
    assert named(lambda x: x + torch.tensor([1.0])) != named(lambda x: x + torch.tensor([2.0]))
    assert named(lambda x: x + 1) != named(lambda x: x + 2)
    assert named(lambda x: x.clone().add_(1)) != named(lambda x: x.clone())

    def half_written(row: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def step(x: torch.Tensor) -> torch.Tensor:
            y = x.clone()
            y[row].zero_()
            return y * 2

        return step

    assert named(half_written(0)) == named(half_written(0))
    assert named(half_written(0)) != named(half_written(1))
    twice = named(lambda x: torch.cat([torch.rand_like(x), torch.rand_like(x)]))
    assert twice == named(lambda x: torch.cat([torch.rand_like(x), torch.rand_like(x)]))
    assert twice != named(lambda x: torch.cat([x := torch.rand_like(x), x]))


# --- copies -----------------------------------------------------------------------------------


def test_pruning_masks_go_along() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(torch.relu(self.b(torch.relu(self.a(x)))).mean((2, 3)))

    model = Net()
    prune.l1_unstructured(model.a, "weight", amount=0.3)
    prune.ln_structured(model.b, "weight", amount=0.25, n=2, dim=0)
    found = trace(model, torch.randn(1, 3, 12, 12))
    made = remove(found, {("a.weight_orig", 0): [1, 2], ("b.weight_orig", 0): [0, 7]})
    small = slim(found, made)
    assert small.fxprune_kind == "module"
    assert (small.a.out_channels, small.b.in_channels, small.b.out_channels) == (6, 6, 6)
    assert small.a.weight_mask.shape == small.a.weight_orig.shape == (6, 3, 3, 3)
    assert verify(found, made, small, tolerance=EXACT).units == 4


@pytest.mark.parametrize("kind", ["module", "graph"])
def test_memory_format_and_type_stay(kind: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)).half()
    model = model.to(memory_format=torch.channels_last)
    found = trace(model, torch.randn(1, 3, 9, 9).half().contiguous(memory_format=torch.channels_last))
    small = slim(found, remove(found, {("0.weight", 0): [2, 3]}), kind=kind)
    weights = [p for p in small.parameters() if p.ndim == 4]
    assert [tuple(p.shape) for p in weights] == [(6, 3, 3, 3), (4, 6, 1, 1)]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    assert [p.stride() for p in weights] == [(27, 1, 9, 3), (6, 1, 6, 6)]
    assert {p.dtype for p in small.parameters()} == {torch.float16}


def test_what_cannot_be_copied_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    model[0].lock = threading.Lock()
    found = trace(model, torch.randn(2, 4))
    made: Plan = remove(found, {("0.weight", 0): [2]})
    with pytest.raises(SliceError, match=r"cannot be copied: .*lock"):
        slim(found, made)
    small = slim(found, made, kind="graph")
    with pytest.warns(UserWarning, match="cannot be copied, so its graph does in training"):
        assert small.train()(torch.randn(3, 4)).shape == (3, 2)
    with pytest.raises(SliceError, match="none for float64"):
        small.eval()(torch.randn(2, 3, 4).double())


class Hidden(nn.Module):
    """Parts of fewer rows than the code would make of what is left, under a maximum that rarely tells."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(11, 7)
        self.mix, self.last = nn.Parameter(torch.randn(6, 6)), nn.Linear(1, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.mix @ self.rows(x)
        one, two, three = y.tensor_split(3, 1)
        return self.last((torch.cat([two, one.tanh(), three], 1) / (1 + y.abs())).amax(1)[:, :1])


@pytest.mark.parametrize("seed", [0, 9, 12, 13, 14, 20, 22, 23, 28, 29])
def test_what_one_example_hides_another_shows(seed: int) -> None:
    """Of rows 1, 3, 4 and 5 the code would put two into the first part, where one is left of it; examples that do not tell."""
    torch.manual_seed(seed)
    model, x = Hidden().double().eval(), torch.randint(11, (2, 6))
    found = trace(model, x)
    small = slim(found, remove(found, {("mix", 0): [0, 2]}))
    assert small.fxprune_kind == "graph"


class Padded(nn.Module):
    """Padding to a fixed number of rows: the code makes more of it than the graph where rows go."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv1d(2, 9, 3, padding=1), nn.Linear(10, 10), nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x).relu()
        z = y.new_zeros(len(y), 3 * 9, 10)
        z[:, : y.shape[1]] = y
        return self.c(self.b(z).sigmoid()[:, 9::3])


class Unread(Padded):
    """What nobody reads is split by a number: of five rows into four and one, which meet all the same."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        one, two = y[:, :8].split(4, 1)
        self.b(one * two)
        return self.c(y.sum(1))


@pytest.mark.parametrize("model", [Padded, Unread])
def test_a_copy_that_does_more_than_was_planned_is_not_taken(model: type[nn.Module]) -> None:
    torch.manual_seed(0)
    found = trace(model().eval(), torch.randn(1, 2, 10))
    made = remove(found, {("a.weight", 0): [1, 2]})
    small = slim(found, made)
    unread = 200 if model is Unread else 0  # left out of the graph
    assert measure(small, found.args).macs + unread == made.predicted.macs < made.dense.macs
    verify(found, made, small)
    with pytest.raises(SliceError, match=r"\d+ multiply-accumulates instead of \d+"):
        slim(found, made, kind="module")
