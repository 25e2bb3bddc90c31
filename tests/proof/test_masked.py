"""The second oracle alone: plans and slim models are made by hand here, so that no rule takes part.

Where a slim model is what a rule that knows no better would make of the net, the oracle must say so.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxprune.proof.masks
from fxprune.plans import Cost, Plan
from fxprune.proof.masks.masked import Comparison, compare

EXACT = 1e-9
"""The oracle's own limit in float64."""

BANNED = {
    "ops",
    "coupling",
    "resizing",
    "labels",
    "structures",
    "slimming",
    "planning",
    "graph",
    "oracle",
    "verify",
}

Kept = Mapping[tuple[str, int], tuple[int, ...]]


def test_the_proof_knows_no_rules() -> None:
    """Nothing in the package, not even under TYPE_CHECKING, names a module that holds rules."""
    seen = 0
    for path in sorted(Path(fxprune.proof.masks.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not any(set(n.split(".")) & BANNED for n in names if n.startswith("fxprune")), (
                path.name,
                names,
            )
            seen += len(names)
    assert seen > 20


def plan_of(kept: Kept) -> Plan:
    return Plan(dict(kept), Cost(0, 0), Cost(0, 0), "")


class Rows(nn.Module):
    """A layer, something in between, a layer that reads it."""

    def __init__(self, between: Callable[[Rows, Tensor], Tensor], width: int = 12, read: int = 12) -> None:
        super().__init__()
        self.between = between
        self.a, self.z = nn.Linear(7, width), nn.Linear(read, 3)
        self.columns = 4

    def forward(self, x: Tensor) -> Tensor:
        return self.z(self.between(self, self.a(x)))


def without(
    net: Rows, left: tuple[int, ...], read: tuple[int, ...] | None = None, columns: int = 4
) -> tuple[Plan, Rows]:
    """The plan that keeps some units of ``a``, and the net with its tensors sliced so."""
    small = deepcopy(net)
    read = left if read is None else read
    kept: Kept = {("a.weight", 0): left, ("a.bias", 0): left, ("z.weight", 1): read}
    with torch.no_grad():
        for (name, dim), index in kept.items():
            tensor = small.get_parameter(name)
            tensor.data = tensor.data.index_select(dim, torch.tensor(index))
    small.columns = columns
    return plan_of(kept), small


def judged(
    between: Callable[[Rows, Tensor], Tensor],
    left: tuple[int, ...],
    *,
    read: tuple[int, ...] | None = None,
    columns: int = 4,
    exact: bool = False,
    width: int = 12,
) -> Comparison:
    torch.manual_seed(0)
    net = Rows(between, width, width).double().eval()
    made, small = without(net, left, read, columns)
    return compare(net, made, small, (torch.randn(2, 7, dtype=torch.float64),), exact=exact)


def by_rows(operation: Callable[[Tensor], Tensor]) -> Callable[[Rows, Tensor], Tensor]:
    """Channels laid into rows of ``columns`` cells, and something across the rows."""
    return lambda net, y: operation(y.view(len(y), -1, net.columns)).flatten(1)


ACROSS = {
    "softmax": lambda y: y.softmax(1),
    "log softmax": lambda y: y.log_softmax(1),
    "log-sum-exp": lambda y: y - y.logsumexp(1, keepdim=True),
    "layer norm": lambda y: nn.functional.layer_norm(y.transpose(1, 2), (3,)).transpose(1, 2),
    "cumulative sum": lambda y: y.cumsum(1),
    "cumulative product": lambda y: y.cumprod(1),
    "cumulative maximum": lambda y: y.cummax(1).values,
    "running log-sum-exp": lambda y: y.logcumsumexp(1),
    "centred": lambda y: y - y.mean(1, keepdim=True),
    "by the largest": lambda y: y / (1 + y.amax(1, keepdim=True).abs()),
    "by the length": lambda y: y / y.norm(dim=1, keepdim=True),
    "by the spread": lambda y: y / y.std(1, keepdim=True),
    "unit rows": lambda y: nn.functional.normalize(y, dim=1),
    "product": lambda y: y * y.prod(1, keepdim=True),
}


@pytest.mark.parametrize("name", ACROSS)
def test_an_operator_across_rows_ties_the_columns(name: str) -> None:
    """Rows that keep other columns are mixed up in the slim model; rows that keep the same are right."""
    ragged = judged(by_rows(ACROSS[name]), (0, 1, 5, 6, 8, 11), columns=2)
    assert ragged.judged == 1
    assert ragged.error > 1e-3
    equal = judged(by_rows(ACROSS[name]), (0, 3, 4, 7, 8, 11), columns=2)
    assert equal.judged == 1
    assert equal.error <= EXACT
    assert equal.effect > 1e-3


LEFT = (0, 3, 4, 8, 10)

OVER_LEFT = {
    "softmax": lambda net, y: y.softmax(1),
    "layer norm": lambda net, y: nn.functional.layer_norm(y, y.shape[1:]),
    "rms norm": lambda net, y: nn.functional.rms_norm(y, y.shape[1:], eps=1e-6),
    "mean": lambda net, y: y - y.mean(1, keepdim=True),
    "variance": lambda net, y: y / y.var(1, keepdim=True),
    "spread": lambda net, y: y / y.std(1, keepdim=True, correction=0),
    "count": lambda net, y: y - y.sum(1, keepdim=True) / torch.ones_like(y).sum(1, keepdim=True),
    "positions": lambda net, y: y * torch.ones_like(y).cumsum(1),
    "cumulative sum": lambda net, y: y.cumsum(1),
    "largest": lambda net, y: y / y.max(1, keepdim=True).values,
    "smallest": lambda net, y: y / y.amin(1, keepdim=True),
    "middle one": lambda net, y: y - y.median(1, keepdim=True).values,
    "middle one of numbers": lambda net, y: (
        y - torch.where(y > 2, float("nan"), y).nanmedian(1, keepdim=True).values
    ),
    "written in place": lambda net, y: in_place(y).softmax(1) * y,
    "smallest norm": lambda net, y: y / y.norm(-float("inf"), dim=1, keepdim=True),
    "cosine": lambda net, y: y * nn.functional.cosine_similarity(y, y.sin(), dim=1)[:, None],
    "distance": lambda net, y: y * torch.cdist(y[:, None], y.cos()[:, None])[:, 0],
}


def in_place(y: Tensor) -> Tensor:
    """Distance from the smallest, some channels overwritten: what is gone does not come back by that."""
    z = y.clone()
    z[:, 1:] = 0.25
    return torch.stack([y, (z - z.amin(-1, keepdim=True)).tanh()], -1).sum(-1)


@pytest.mark.parametrize("name", OVER_LEFT)
def test_statistics_run_over_what_is_left(name: str) -> None:
    found = judged(OVER_LEFT[name], LEFT)
    assert found.judged == 1
    assert found.error <= EXACT
    assert found.effect > 1e-3


@pytest.mark.parametrize("name", ["count", "positions"])
def test_what_is_called_exact_must_not_count(name: str) -> None:
    """The numbers of a literal are those of the dense model, unless statistics may notice the removal."""
    assert judged(OVER_LEFT[name], LEFT, exact=True).error > 1e-3


def overwritten_in_all(net: Rows, y: Tensor) -> Tensor:
    """A row of numbers in every channel, then another arrangement: the row is not gone because a channel is."""
    z = y[:, :, None].expand(-1, -1, 4).clone()
    z[:, :, 2:3] = -1.0
    front, back = z.split(3, -1)
    return y * torch.cat([back.relu(), front], -1).sum((1, 2))[:, None]


def overwritten_beside(net: Rows, y: Tensor) -> Tensor:
    """Channels that hold a number only are there all the same, beside one that is gone."""
    z = y.clone()
    z[:, -7:-2] = 0.5
    rows = z.unflatten(1, (-1, 4)).amax(1)
    return y * rows.softmax(1).square().sum(1, keepdim=True)


def below(net: Rows, y: Tensor) -> Tensor:
    """Rows of zeros under the one that is made: each of their columns goes with its channel."""
    z = y.new_zeros(len(y), 3, y.shape[1])
    z[:, :1] = y[:, None]
    return y * ((z - 0.5).softmax(2) * z.cos()).sum((1, 2))[:, None]


@pytest.mark.parametrize(
    ("between", "left"),
    [(below, LEFT), (overwritten_in_all, LEFT), (overwritten_beside, tuple(range(4, 12)))],
)
def test_what_is_overwritten_stays_where_it_is_left(
    between: Callable[[Rows, Tensor], Tensor], left: tuple[int, ...]
) -> None:
    found = judged(between, left)
    assert found.judged == 1
    assert found.error <= EXACT


def framed(net: Rows, y: Tensor) -> Tensor:
    """The length of every column, frame included."""
    return y * nn.functional.pad(y[:, :, None], (1, 1), value=0.25).norm(dim=1).mean(1, keepdim=True)


def overwritten(net: Rows, y: Tensor) -> Tensor:
    return y * y[:, :, None].expand(-1, -1, 3).index_fill(2, torch.tensor([0, 2]), -1.0).sum(1).mean(
        1, keepdim=True
    )


@pytest.mark.parametrize("between", [framed, overwritten])
def test_literals_go_with_the_channel_that_they_stand_in(between: Callable[[Rows, Tensor], Tensor]) -> None:
    """A frame around a channel, or numbers written into it, are nothing that stays without it."""
    found = judged(between, LEFT, exact=True)
    assert found.judged == 1
    assert found.error <= EXACT


@pytest.mark.filterwarnings("ignore:std\\(\\):UserWarning")
def test_numbers_that_are_none_are_a_mismatch() -> None:
    """One channel has no unbiased variance: the slim model and the masked one agree, on nothing."""
    found = judged(lambda net, y: y / (1 + y.std(1, keepdim=True)), (4,))
    assert found.error == float("inf")


def by_lines(operation: Callable[[Tensor], Tensor]) -> Callable[[Rows, Tensor], Tensor]:
    """Every channel gets a line of four positions, and something picks among them."""
    return lambda net, y: operation(y[..., None] * torch.tensor([1.0, -2.0, 3.0, -1.5], dtype=y.dtype))


def unpooled(y: Tensor) -> Tensor:
    maxima, at = nn.functional.max_pool2d(y.unflatten(2, (2, 2)), 2, return_indices=True)
    return nn.functional.max_unpool2d(maxima, at, 2).sum((2, 3))


PICKED = {
    "the sorted ones": lambda y: y.gather(2, y.argsort(2)).cumsum(2)[..., 1],
    "a quantile": lambda y: y.quantile(0.3, 2),
    "a quantile of what is a number": lambda y: y.nanquantile(0.3, 2),
    "unpooling": unpooled,
}


@pytest.mark.parametrize("name", PICKED)
def test_what_an_index_picks_is_gone_where_the_index_is(name: str) -> None:
    """The index of a channel goes with it; what the others pick is judged, and channels in another order are seen."""
    between = by_lines(PICKED[name])
    found = judged(between, (0, 3, 4, 8))
    assert found.judged == 1.0 and found.error <= EXACT
    crossed = judged(between, (0, 3, 4, 8), read=(0, 4, 3, 8))
    assert crossed.judged == 1.0 and crossed.error > 0.01


def test_bags_of_rows_lose_the_columns_of_their_table() -> None:
    class Bags(Rows):
        def forward(self, x: Tensor) -> Tensor:
            bags = torch.tensor([[0, 3, 3], [6, 1, 2]])
            return self.z(nn.functional.embedding_bag(bags, self.a.weight.T, mode="sum"))

    torch.manual_seed(0)
    net = Bags(lambda net, y: y).double().eval()
    for read, right in ((LEFT, True), (LEFT[::-1], False)):
        made, small = without(net, LEFT, read)
        found = compare(net, made, small, (torch.randn(2, 7, dtype=torch.float64),))
        assert found.judged == 1.0
        assert (found.error <= EXACT) == right


UNKNOWN = {
    "places of the largest": lambda net, y: y * y.argmax(1, keepdim=True),
    "sorted": lambda net, y: y.sort(1).values,
    "the largest three": lambda net, y: y * y.topk(3, 1).values.sum(1, keepdim=True),
    "places of the middle one": lambda net, y: y * y.median(1, keepdim=True).indices,
    "spectrum": lambda net, y: y * torch.fft.rfft(y, dim=1).abs().sum(1, keepdim=True),
    "inverse": lambda net, y: y @ torch.linalg.inv(y.T @ y + torch.eye(y.shape[1])),
    "python number": lambda net, y: y * float(y.sort(1).values[0, 0]),
    "pooled channels": lambda net, y: y * nn.functional.avg_pool1d(y[:, None], 2, 1).sum(2),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_no_law_covers_is_not_judged(name: str) -> None:
    found = judged(UNKNOWN[name], LEFT)
    assert found.judged == 0
    assert found.unjudged
    assert found.error == 0


def test_what_is_not_judged_is_only_what_depends_on_it() -> None:
    class Two(Rows):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            y = self.a(x)
            return self.z(y), self.z(y.sort(1).values)

    torch.manual_seed(0)
    net = Two(lambda net, y: y).double().eval()
    made, small = without(net, LEFT)
    found = compare(net, made, small, (torch.randn(2, 7, dtype=torch.float64),))
    assert found.judged == 0.5
    assert found.error <= EXACT


@pytest.mark.parametrize("name", [*OVER_LEFT, "plain"])
def test_changed_weights_are_caught(name: str) -> None:
    torch.manual_seed(0)
    net = Rows(OVER_LEFT.get(name, lambda net, y: y.relu())).double().eval()
    made, small = without(net, LEFT)
    with torch.no_grad():
        small.z.weight[0, 0] += 1e-6
    assert compare(net, made, small, (torch.randn(2, 7, dtype=torch.float64),)).error > EXACT


def written(net: Rows, y: Tensor) -> Tensor:
    """In place, through views, over memory that was something else before."""
    out = torch.zeros_like(y)
    out[:, : y.shape[1]] = y
    out[:, ::1].mul_(2).add_(y)
    half = out.view(len(y), -1)
    half.copy_(half.clone().relu_())
    return out.sin_()


def test_writing_through_views_needs_no_law() -> None:
    found = judged(written, LEFT, exact=True)
    assert found.judged == 1
    assert found.error <= EXACT


def test_dead_numbers_do_not_leak() -> None:
    """A channel that goes may hold anything."""
    torch.manual_seed(0)
    net = Rows(lambda net, y: (y.log() + y.sqrt()).cumsum(1)).double().eval()
    with torch.no_grad():
        net.a.weight.abs_()
        net.a.bias[1] = -100.0
        net.a.weight[5] = float("inf")
    made, small = without(net, LEFT)
    found = compare(net, made, small, (torch.rand(2, 7, dtype=torch.float64),))
    assert found.judged == 1
    assert found.error <= EXACT


@pytest.mark.parametrize("draw", ["dropout", "normal", "uniform", "bernoulli"])
def test_chance_stands_still(draw: str) -> None:
    """Drawing numbers for fewer channels gives all of them other numbers: every run draws the same."""
    how: dict[str, Callable[[Rows, Tensor], Tensor]] = {
        "dropout": lambda net, y: nn.functional.dropout(y, 0.5, training=True),
        "normal": lambda net, y: y + torch.randn_like(y) * y.sigmoid(),
        "uniform": lambda net, y: y * torch.rand(y.shape[1]),
        "bernoulli": lambda net, y: y * torch.bernoulli(y.sigmoid()),
    }
    found = judged(how[draw], LEFT)
    assert found.judged == 1
    assert found.error <= EXACT


def test_types_in_the_code_do_not_cost_precision() -> None:
    found = judged(lambda net, y: y.float().softmax(1).to(y.dtype) * torch.ones(1, dtype=torch.float32), LEFT)
    assert found.error <= EXACT


def test_the_random_state_and_the_model_stay_as_they_are() -> None:
    torch.manual_seed(0)
    net = Rows(lambda net, y: nn.functional.dropout(y, 0.5, training=True)).train()
    made, small = without(net, LEFT)
    x = torch.randn(2, 7)
    before = torch.get_rng_state()
    compare(net, made, small, (x,))
    assert torch.equal(before, torch.get_rng_state())
    assert net.training
    assert net.a.weight.dtype == torch.float32


def test_outputs_keep_their_width() -> None:
    """A slim model that returns fewer numbers is wrong, even where the plan says that they go."""
    net = Rows(lambda net, y: y).double().eval()
    made, small = without(net, LEFT)
    with torch.no_grad():
        small.z.weight.data, small.z.bias.data = small.z.weight[:2], small.z.bias[:2]
    kept = {**made.kept, ("z.weight", 0): (0, 1), ("z.bias", 0): (0, 1)}
    found = compare(net, plan_of(kept), small, (torch.randn(2, 7, dtype=torch.float64),))
    assert found.error == float("inf")
    assert "output of shape (2, 2) instead of (2, 3)" in found.fault


@pytest.mark.parametrize("samples", [1, 2])
def test_a_view_that_must_copy_keeps_what_is_gone(samples: int) -> None:
    """Attention over tokens of which one is gone: with several samples its reshapes of transposed heads copy."""
    torch.manual_seed(0)

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.z = nn.Parameter(torch.randn(1, 3, 12)), nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            heads = (self.table * x[:, None, None]).unflatten(2, (3, 4)).transpose(1, 2)
            seen = nn.functional.scaled_dot_product_attention(heads, heads, heads)
            return self.z(seen.transpose(1, 2).flatten(2)).sum(1)

    dense = Tokens().double()
    slim = deepcopy(dense)
    slim.table = nn.Parameter(dense.table[:, [0, 2]].detach())
    plan = plan_of({("table", 1): (0, 2)})
    found = compare(dense, plan, slim, (torch.randn(samples).double(),))
    assert (found.judged, found.unjudged) == (1.0, ())
    assert found.error <= EXACT < 1e-3 < found.effect


def test_a_line_of_which_only_literals_are_left_is_in_doubt() -> None:
    """A row in front, of which the columns below may be gone: whether it goes with them is not seen here."""

    def front(net: Rows, y: Tensor) -> Tensor:
        rows = nn.functional.pad(y, (1, 0), value=-1.0).unflatten(1, (-1, 2))
        return y * rows.logsumexp(1).square().sum(1, keepdim=True)

    assert judged(front, (0,), width=3).judged == 0
