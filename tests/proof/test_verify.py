"""The proof is a gate: it passes what is right, and every way of being wrong is caught."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import fx, nn

from fxprune.coupling.couple import analyse
from fxprune.errors import PlanError, VerificationError
from fxprune.graph.live import liven
from fxprune.graph.trace import Trace, trace
from fxprune.planning.plan import plan, remove
from fxprune.plans import Budget, Plan
from fxprune.proof.evidence import Proof
from fxprune.proof.verify import verify
from fxprune.slimming.slim import slim

EXACT = 1e-10
"""Relative difference of two float64 runs: rounding of 53-bit fractions, with digits to spare."""

NOTICED = 1e-4
"""The default limit: a change of one weight by a tenth moves these small nets' output by far more."""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.side = nn.Conv2d(8, 8, 1, bias=False)
        self.last = nn.GroupNorm(1, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(self.last(x + self.side(x).relu()).mean((2, 3)))


class Steered(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if x.abs().sum() > 0 else x


def image(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 8, 8)


def made(build: Callable[[], nn.Module] = Net) -> tuple[Trace, Plan]:
    torch.manual_seed(0)
    x = image()
    found = trace(liven(build(), x), x)
    return found, remove(found, {("stem.weight", 0): [1, 4, 5]})


KINDS = pytest.mark.parametrize("kind", ["module", "graph"])


@KINDS
def test_what_is_right_passes(kind: str) -> None:
    found, one = made()
    proof = verify(found, one, slim(found, one, kind=kind), tolerance=EXACT)
    assert (proof.dtype, proof.inputs, proof.units, proof.livened) == ("float64", 2, 3, False)
    assert proof.error <= EXACT
    assert proof.effect > NOTICED
    assert proof.inexact == 3
    assert proof.inexact_difference > NOTICED, "group norm notices zeros"
    assert "zeroed == slim" in str(proof)
    assert json.loads(proof.to_json())["units"] == 3
    assert Proof(**json.loads(proof.to_json())) == proof


@KINDS
@pytest.mark.parametrize(
    "name",
    [
        "stem.weight",
        "stem.bias",
        "norm.weight",
        "norm.bias",
        "norm.running_mean",
        "norm.running_var",
        "side.weight",
        "last.weight",
        "last.bias",
        "head.weight",
        "head.bias",
    ],
)
def test_one_changed_number_is_caught(kind: str, name: str) -> None:
    found, one = made()
    small = slim(found, one, kind=kind)
    tensor = dict([*small.named_parameters(), *small.named_buffers()])[name]
    with torch.no_grad():
        tensor.view(-1)[0] += 0.1
    with pytest.raises(VerificationError, match="differs"):
        verify(found, one, small)


@KINDS
def test_swapped_channels_are_caught(kind: str) -> None:
    """The right shapes and the right numbers in another order."""
    found, one = made()
    small = slim(found, one, kind=kind)
    with torch.no_grad():
        small.get_parameter("stem.weight").copy_(small.get_parameter("stem.weight").flip(0))
    with pytest.raises(VerificationError, match="differs"):
        verify(found, one, small)


@KINDS
def test_another_plans_slim_model_is_caught(kind: str) -> None:
    found, one = made()
    other = remove(found, {("stem.weight", 0): [0, 2, 3]})
    with pytest.raises(VerificationError, match="differs"):
        verify(found, one, slim(found, other, kind=kind))
    narrower = remove(found, {("stem.weight", 0): [1, 4, 5, 6]})
    with pytest.raises(VerificationError, match="differs"):
        verify(found, one, slim(found, narrower, kind=kind))


def test_the_dense_model_is_no_slim_model() -> None:
    found, one = made()
    with pytest.raises(VerificationError, match="differs"):
        verify(found, one, found.model)


def test_changed_code_is_caught() -> None:
    """An activation more in the graph, another epsilon in the module."""
    found, one = made()
    graph = slim(found, one, kind="graph")
    assert isinstance(graph, fx.GraphModule)
    conv = next(n for n in graph.graph.nodes if "conv2d" in str(n.target))
    with graph.graph.inserting_after(conv):
        more = graph.graph.call_function(torch.tanh, (conv,))
    conv.replace_all_uses_with(more, delete_user_cb=lambda user: user is not more)
    graph.recompile()
    with pytest.raises(VerificationError, match="differs"):
        verify(found, one, graph)
    module = slim(found, one, kind="module")
    module.norm.eps = 0.5
    with pytest.raises(VerificationError, match="differs"):
        verify(found, one, module)


def test_a_model_that_was_trained_since_is_caught() -> None:
    found, one = made()
    small = slim(found, one).train()
    small(image(4))
    with pytest.raises(VerificationError, match="trained or changed"):
        verify(found, one, small)


def test_a_model_that_does_not_run_is_caught() -> None:
    found, one = made()
    small = slim(found, one)
    small.side = nn.Conv2d(7, 7, 1)
    with pytest.raises(VerificationError, match="does not run"):
        verify(found, one, small)


@pytest.mark.parametrize("outputs", ["shape", "number", "none"])
def test_other_outputs_are_caught(outputs: str) -> None:
    found, one = made()

    class Wrapped(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> object:
            y = self.inner(x)
            return {"shape": y[:, :2], "number": (y, y), "none": None}[outputs]

    with pytest.raises(VerificationError, match="output"):
        verify(found, one, Wrapped(slim(found, one)))


def test_numbers_that_are_none_are_caught() -> None:
    found, one = made()
    small = slim(found, one)
    with torch.no_grad():
        small.head.weight.fill_(float("nan"))
    with pytest.raises(VerificationError, match="differs"):
        verify(found, one, small)


def test_a_plan_of_another_model_is_refused() -> None:
    found, one = made()
    with pytest.raises(PlanError, match="another model"):
        verify(found, replace(one, fingerprint="0"), slim(found, one))


# --- how much a proof says ---------------------------------------------------------------------


def test_exact_groups_need_no_allowance() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(x).sigmoid())

    x = torch.randn(2, 4)
    found = trace(Plain(), x)
    one = remove(found, {("first.weight", 0): [0, 7]})
    proof = verify(found, one, slim(found, one), tolerance=EXACT)
    assert proof.inexact == 0
    assert proof.inexact_difference <= EXACT, (
        "zeroing at the reader is removing, though a dead sigmoid is not zero"
    )


def test_a_head_of_zeros_would_prove_nothing() -> None:
    """The output is constant, so the plan is proved on random weights, and the proof says so."""
    x = image()
    model = liven(Net(), x)
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    found = trace(model, x)
    one = remove(found, {("stem.weight", 0): [1]})
    proof = verify(found, one, slim(found, one), tolerance=EXACT)
    assert proof.livened
    assert proof.effect > NOTICED
    assert float(model.head.weight.detach().abs().max()) == 0, "the user's model stays as it is"


def test_zero_inputs_do_not_hide_differences() -> None:
    """Beside the example, which may be all zeros, random inputs are compared."""
    x = torch.zeros(2, 3, 8, 8)
    model = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 4, 1, bias=False))
    found = trace(model, x)
    one = remove(found, {("0.weight", 0): [1]})
    small = slim(found, one)
    assert verify(found, one, small, tolerance=EXACT).effect > NOTICED
    with torch.no_grad():
        small.get_parameter("1.weight")[0, 0] += 0.1
    with pytest.raises(VerificationError, match="differs"):
        verify(found, one, small)


def test_inputs_of_the_user_count() -> None:
    """A difference that shows on some inputs only is found on those."""
    found, one = made()
    small = slim(found, one)

    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) + (x > 100).any()

    wrapped = Sometimes()
    assert verify(found, one, wrapped, tolerance=EXACT).inputs == 2
    with pytest.raises(VerificationError, match="differs"):
        verify(found, one, wrapped, inputs=image() + 200)


def test_nothing_removed_has_no_effect() -> None:
    found, _ = made()
    empty = remove(found, {})
    proof = verify(found, empty, slim(found, empty), tolerance=EXACT)
    assert (proof.units, proof.effect, proof.inexact) == (0, 0.0, 0)


def test_the_limit_is_the_users() -> None:
    found, one = made()
    small = slim(found, one).double()
    with torch.no_grad():
        small.head.bias += 1e-11
    assert verify(found, one, small).error > 1e-13
    with pytest.raises(VerificationError, match="1e-13"):
        verify(found, one, small, tolerance=1e-13)


def test_models_in_other_types_are_proved() -> None:
    for dtype in (torch.float64, torch.bfloat16):
        x = image().to(dtype)
        found = trace(Net().eval().to(dtype), x)
        one = remove(found, {("stem.weight", 0): [1]})
        small = slim(found, one)
        assert verify(found, one, small, tolerance=EXACT).dtype == "float64"
        assert {p.dtype for p in small.parameters()} == {dtype}


# --- recorded models ---------------------------------------------------------------------------


def test_recorded_models_are_proved_by_their_own_code() -> None:
    found, _ = made(Steered)
    assert found.kind == "recorded"
    exact = remove(found, {})
    assert verify(found, exact, slim(found, exact)).error == 0.0


def test_recorded_models_are_caught_too() -> None:
    class Exact(Net):
        def __init__(self) -> None:
            super().__init__()
            del self.last  # what never runs keeps its readers whole

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.norm(self.stem(x))) if x.abs().sum() > 0 else x
            return self.head((x + self.side(x).relu()).mean((2, 3)))

    found, one = made(Exact)
    assert found.kind == "recorded"
    small = slim(found, one)
    proof = verify(found, one, small, tolerance=EXACT)
    assert proof.effect > NOTICED
    for name in ("stem.weight", "norm.running_var", "side.weight", "head.bias"):
        wrong = copy.deepcopy(small)
        tensor = dict([*wrong.named_parameters(), *wrong.named_buffers()])[name]
        with torch.no_grad():
            tensor.view(-1)[0] += 0.1
        with pytest.raises(VerificationError, match="differs"):
            verify(found, one, wrong)


def test_half_a_network_by_the_planner() -> None:
    found, _ = made()
    one = plan(found, Budget(macs=0.5), align=1)
    assert verify(found, one, slim(found, one), tolerance=EXACT).units == int((~_kept(found, one)).sum())


def _kept(found: Trace, one: Plan):
    from fxprune.resizing.resolve import keep_mask

    assert one.fingerprint == analyse(found).coupling.fingerprint
    return keep_mask(analyse(found), one)


class HeadsInTheBatch(nn.Module):
    """Attention whose heads are laid into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.out = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).view(n, tokens, 3, 4, 2).permute(2, 0, 3, 1, 4).reshape(3, n * 4, tokens, 2)
        mixed = (q @ k.transpose(1, 2)).softmax(-1) @ v
        return self.out(mixed.view(n, 4, tokens, 2).transpose(1, 2).reshape(n, tokens, width))


@pytest.mark.parametrize("given", [1, 2, 5])
def test_heads_laid_into_the_batch_are_compared_at_any_batch(given: int) -> None:
    torch.manual_seed(0)
    found = trace(HeadsInTheBatch().eval(), torch.randn(1, 6, 8))
    assert found.dynamic_batch
    plan_ = plan(found, Budget(channels=0.5), align=1)
    proof = verify(found, plan_, slim(found, plan_), inputs=torch.randn(given, 6, 8))
    assert proof.error < EXACT
    assert proof.effect > NOTICED


def test_a_batch_size_that_is_written_down_is_caught() -> None:
    """The random inputs hold one sample more than the example, where the trace takes any number."""

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 12, 1), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(x).view(x.shape[0], 6, 2, 64).sum((2, 3)))

    x = image()
    found = trace(liven(Rows(), x), x)
    assert found.dynamic_batch
    one = plan(found, Budget(channels=0.5), align=1)
    small = slim(found, one, kind="graph")
    assert verify(found, one, small, tolerance=EXACT).effect > NOTICED
    assert isinstance(small, fx.GraphModule)
    (view,) = [n for n in small.graph.nodes if "view" in str(n.target)]
    sizes = view.args[1] if len(view.args) > 1 else view.kwargs["size"]
    with small.graph.inserting_before(view):
        view.args = (view.all_input_nodes[0], [len(x), *sizes[1:]])
        view.kwargs = {}
    small.recompile()
    assert small(x).shape == (2, 2)
    with pytest.raises(VerificationError, match="does not run"):
        verify(found, one, small)
