"""Tracing: the user's model is left as it is, and what it does is found out whatever its form."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Iterator
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

from fxprune.coupling.cost import measure
from fxprune.coupling.couple import analyse, couple
from fxprune.errors import TraceError, UnsupportedOp, VerificationError
from fxprune.graph.trace import Trace, trace
from fxprune.planning.plan import plan, remove
from fxprune.plans import Budget
from fxprune.proof.verify import verify
from fxprune.report.words import describe_trace
from fxprune.slimming.slim import slim


class Small(nn.Module):
    """Every kind of state that tracing might touch: batch norm, dropout, a buffer, a frozen weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 4)
        self.register_buffer("scale", torch.full((8, 1, 1), 2.0))
        self.head.bias.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x))) * self.scale
        return self.head(self.drop(x.mean((2, 3))))


class Steered(nn.Module):
    """Control flow that hangs on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.left, self.right = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(x))
        return self.left(x) if x.sum() > 0 else self.right(x)


class FixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x).view(2, 8, 64).view(2, 8, 8, 8))


def image(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 8, 8)


def state(model: nn.Module) -> Iterator[tuple[str, object]]:
    """Everything that must be the same afterwards, tensors by identity and by value."""
    for name, module in model.named_modules():
        yield f"{name} training", module.training
        yield f"{name} attributes", sorted(k for k in vars(module) if not k.startswith("__"))
        yield f"{name} hooks", (len(module._forward_hooks), len(module._forward_pre_hooks))
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        yield f"{name} is", id(tensor)
        yield f"{name} at", tensor.data_ptr()
        yield (
            f"{name} holds",
            tensor.detach().clone().numpy().tobytes() if tensor.device.type == "cpu" else "",
        )
        yield f"{name} grad", (tensor.requires_grad, None if tensor.grad is None else tensor.grad.tolist())


@pytest.mark.parametrize("build", [Small, Steered, FixedBatch])
def test_the_model_is_left_as_it_is(build: type[nn.Module]) -> None:
    model = build()
    modes = [k % 3 == 0 for k, _ in enumerate(model.modules())]
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    model(image()).sum().backward()
    before, random = list(state(model)), torch.get_rng_state()
    x = image()
    copy, random = x.clone(), torch.get_rng_state()
    found = trace(model, x)
    analyse(found)
    made = plan(found, Budget(channels=0.5), align=1)
    verify(found, made, slim(found, made))
    assert list(state(model)) == before
    assert torch.equal(torch.get_rng_state(), random), "random numbers were drawn from the user's generator"
    assert torch.equal(x, copy)
    assert torch.get_default_dtype() is torch.float32
    assert torch.is_grad_enabled()


def test_modes_come_back_after_a_failure() -> None:
    model = Small().train()
    model.norm.eval()
    with pytest.raises(TraceError):
        trace(model, torch.zeros(2, 5, 8, 8))
    assert [m.training for m in model.modules()] == [True, True, False, True, True]


def test_a_model_in_training_mode_is_traced_as_in_evaluation() -> None:
    ops = [str(n.target) for n in trace(Small().train(), image()).graph.graph.nodes]
    assert ops == [str(n.target) for n in trace(Small().eval(), image()).graph.graph.nodes]


def test_user_lines_are_kept() -> None:
    found = trace(Small(), image())
    pins = {str(g.pinned) for g in analyse(found).coupling.groups if g.pinned}
    assert any("test_trace.py:" in pin and "in forward" in pin for pin in pins), pins


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_batch_is_dynamic_where_the_model_allows_it(batch: int) -> None:
    found = trace(Small(), image(batch))
    assert found.dynamic_batch
    assert found.why_static == ""
    assert found.batch == max(batch, 2)
    made = plan(found, Budget(channels=0.5), align=1)
    for kind in ("module", "graph"):
        small = slim(found, made, kind=kind)
        assert [tuple(small(image(n)).shape) for n in (1, 3, 7)] == [(1, 4), (3, 4), (7, 4)]
    assert analyse(found).coupling.cost.dense.macs == 3 * 8 * 9 * 64 + 8 * 4, (
        "for one sample, whatever the batch"
    )


def test_a_fixed_batch_is_static_and_says_why() -> None:
    found = trace(FixedBatch(), image(2))
    assert not found.dynamic_batch
    assert "batch" in found.why_static
    made = remove(found, {("conv.weight", 0): [1, 5]})
    small = slim(found, made)
    assert small.fxprune_kind == "graph"
    assert verify(found, made, small, tolerance=1e-10).units == 2


def test_a_model_that_data_steers_is_recorded() -> None:
    model = Steered()
    model.conv.bias.data.fill_(1.0)
    found = trace(model, image())
    assert found.kind == "recorded"
    made = remove(found, {("conv.weight", 0): [0, 3]})
    small = slim(found, made)
    assert small.fxprune_kind == "module"
    assert made.kept["left.weight", 1] == (1, 2, 4, 5, 6, 7)
    proof = verify(found, made, small)
    assert proof.error < 1e-10
    assert proof.effect > 1e-4


class Cached(nn.Module):
    """Returns an object beside its tensor, as transformers do with their cache of keys and values."""

    class Cache:
        def __init__(self, keys: torch.Tensor) -> None:
            self.keys = keys

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, Cache]:
        hidden = self.a(x)
        return self.b(hidden), Cached.Cache(hidden)


def test_why_a_model_is_recorded_shows_where_one_looks() -> None:
    found = trace(Cached(), vector())
    assert found.kind == "recorded"
    for shown in (repr(found), describe_trace(found)):
        assert "torch.export declines it: " in shown
        assert "Cached.Cache" in shown
        assert "use_cache = False" in shown
        assert len(shown) < 500


def test_a_trace_is_copied_with_its_model() -> None:
    model, x = Two(), (vector(), vector())
    found = trace(model, x)
    made = remove(found, {("a.weight", 0): [1, 4]})  # what is known of a trace is not copied
    for copied, shared in ((copy.copy(found), True), (copy.deepcopy(found), False)):
        assert (copied.model is model) == shared
        again = remove(copied, {("a.weight", 0): [1, 4]})
        assert again == made
        small = slim(copied, again)
        assert verify(copied, again, small).error < 1e-10
    with torch.no_grad():
        copied.model.a.weight.zero_()
    assert model.a.weight.any()


@pytest.mark.parametrize("dump", [pickle.dumps, lambda value: torch.save(value, io.BytesIO())])
def test_a_trace_says_why_it_cannot_be_pickled(dump) -> None:
    found = trace(Two(), (vector(), vector()))
    for value in (found, couple(found)[0]):
        with pytest.raises(TraceError, match=r"a trace cannot be pickled[\s\S]*fxprune.save.*trace again"):
            dump(value)


def test_the_branch_that_was_not_taken_follows() -> None:
    """It also reads the pruned channels: it must not end up with another width."""
    model = Steered()
    model.conv.bias.data.fill_(1.0)
    found = trace(model, image())
    assert (found.kind, len(found.extras), dict(found.idle)) == ("recorded", 1, {})
    assert "torch.export declines it: GuardOnDataDependentSymNode" in found.why_static
    made = remove(found, {("conv.weight", 0): [0, 3]})
    assert made.kept["right.weight", 1] == made.kept["left.weight", 1]
    small = slim(found, made)
    assert small.left.in_channels == small.right.in_channels == 6
    assert small.right(torch.zeros(1, 6, 2, 2)).shape == (1, 4, 2, 2)


class Exits(nn.Module):
    """The first classifier that is sure answers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 16)
        self.bodies = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.heads = nn.ModuleList(nn.Linear(16, 5) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        for body, head in zip(self.bodies, self.heads, strict=True):
            x = torch.relu(body(x))
            y = head(x)
            if float(y.softmax(-1).max()) > 0.7:
                break
        return y


@pytest.mark.parametrize("sure", [False, True], ids=["all run", "only the first runs"])
def test_what_python_decides_by_stays(sure: bool) -> None:
    model = Exits()
    model.heads[0].weight.data.mul_(100.0 if sure else 0.01)
    found = trace(model, torch.randn(1, 6))
    assert (found.kind, dict(found.idle)) == ("recorded", {})
    made = plan(found, Budget(channels=0.5), criterion="random", scope="local", align=1)
    small = slim(found, made)
    assert [h.out_features for h in small.heads] == [5, 5, 5]
    assert [b.out_features for b in small.bodies] == [8, 8, 8]
    for scale in (0.01, 1.0, 100.0):
        assert small(torch.randn(1, 6) * scale).shape == (1, 5)


class Rare(nn.Module):
    """A part that hardly any data reach: what its caller holds could be read by it, what others hold could not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.block = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        self.rare, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block(torch.relu(self.stem(x)))
        mean = float(x.mean())
        if 1234.0 < mean < 1235.0:
            x = self.rare(x)
        return self.head(x)


def test_what_never_ran_holds_what_it_could_read() -> None:
    found = trace(Rare(), torch.randn(2, 6))
    assert dict(found.idle) == {"rare.weight": "", "rare.bias": ""}
    by_axis = {axis: g for g in analyse(found).coupling.groups for axis in g.indices}
    assert by_axis["block.0.weight", 0].pinned is None
    for axis in (("stem.weight", 0), ("block.2.weight", 0)):
        assert "'rare.weight' ran neither" in str(by_axis[axis].pinned) or "decides" in str(
            by_axis[axis].pinned
        )
    assert "'rare.weight' ran neither" in str(by_axis["stem.weight", 0].pinned)


def test_a_recorded_model_needs_numbers() -> None:
    with torch.device("meta"):
        model = Steered()
    with pytest.raises(TraceError, match="meta device"):
        trace(model, image().to("meta"))


def test_meta_models_take_inputs_of_any_device() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3))
    assert trace(model, image()).fingerprint == trace(model, image().to("meta")).fingerprint


class Forked(nn.Module):
    """Code whose path depends on its data, so that only a run can be recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(x.relu() if x.sum() > 0 else x.tanh().neg())


def test_recorded_models_of_other_weights_are_the_same_model() -> None:
    torch.manual_seed(0)
    found = [trace(Forked().eval(), image()) for _ in range(8)]
    assert {t.kind for t in found} == {"recorded"}
    assert len({str([n.target for n in t.graph.graph.nodes]) for t in found}) == 2  # both paths were taken
    assert len({t.fingerprint for t in found}) == 1


def test_meta_models_are_planned_and_slimmed() -> None:
    with torch.device("meta"):
        model = Small()
    found = trace(model, image().to("meta"))
    made = plan(found, Budget(params=0.5), criterion="random", align=1)
    small = slim(found, made)
    assert sum(p.numel() for p in small.parameters()) == made.predicted.params
    assert all(p.device.type == "meta" for p in small.parameters())
    with pytest.raises(VerificationError, match="no numbers"):
        verify(found, made, small)
    # The same plan fits the model with numbers.
    real = trace(Small(), image())
    assert verify(real, made, slim(real, made), tolerance=1e-10).units > 0


def test_large_models_cost_no_memory_on_meta() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(65536, 65536), nn.ReLU(), nn.Linear(65536, 65536))
    found = trace(model, torch.empty(2, 65536, device="meta"))
    assert analyse(found).coupling.cost.dense.params == 2 * 65536 * 65537


# --- forms of inputs ---------------------------------------------------------------------------


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, left: torch.Tensor, right: torch.Tensor, *, flip: bool = False) -> torch.Tensor:
        x = self.a(left) + self.b(right)
        return self.head(x.flip(1) if flip else x)


class Nested(Two):
    def forward(self, both: dict[str, list[torch.Tensor]], extra: tuple[torch.Tensor, float]) -> torch.Tensor:
        x, factor = extra
        return self.head(self.a(both["l"][0]) * factor + self.b(both["l"][1]) + self.b(x))


class Flagged(Two):
    def forward(
        self, flip: bool, left: torch.Tensor, none: None, right: torch.Tensor, text: str
    ) -> torch.Tensor:
        return super().forward(left, right, flip=flip and none is None and text == "text")


class Listed(Two):
    def forward(
        self, factor: torch.Tensor, both: list[torch.Tensor], options: dict[str, list[object]]
    ) -> torch.Tensor:
        return super().forward(*both, flip=options["flags"][0] is True) * factor


def vector(n: int = 3) -> torch.Tensor:
    return torch.randn(n, 4)


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (Two, lambda: (vector(), vector())),
        (Two, lambda: {"left": vector(), "right": vector()}),
        (Two, lambda: {"right": vector(), "left": vector(), "flip": True}),
        (Nested, lambda: ({"l": [vector(), vector()]}, (vector(), 2.0))),
        (Nested, lambda: {"both": {"l": [vector(), vector()]}, "extra": (vector(), 2.0)}),
        (Two, lambda: {"left": vector(), "right": vector(), "flip": None}),
        (Flagged, lambda: (True, vector(), None, vector(), "text")),
        (Nested, lambda: ({"l": [vector(), vector()]}, (vector(), torch.tensor(2.0)))),
        (Listed, lambda: (torch.tensor(2.0), [vector(), vector()], {"flags": [True, None, 3]})),
    ],
    ids=[
        "positional",
        "by name",
        "by name with a flag",
        "nested",
        "nested by name",
        "None by name",
        "flags by position",
        "a number as a tensor",
        "a list",
    ],
)
def test_inputs_of_every_form(model: type[nn.Module], inputs) -> None:
    found = trace(model(), inputs())
    assert found.dynamic_batch, found.why_static
    for kind in ("auto", "graph"):
        made = remove(found, {("a.weight", 0): [1, 4]})
        small = slim(found, made, kind=kind)
        proof = verify(found, made, small, tolerance=1e-10)
        assert proof.effect > 1e-4
        result = small(*found.args, **found.kwargs)
        assert result.shape == (3, 2)
        args, kwargs = tree_map_only(
            torch.Tensor, lambda t: torch.cat([t, t]) if t.ndim else t, (found.args, found.kwargs)
        )
        assert small(*args, **kwargs).shape == (6, 2)


def test_unbatched_images_in_a_list_are_no_batch() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, images: list[torch.Tensor], targets: dict[str, object]) -> torch.Tensor:
            return self.conv(torch.stack(images)).mean((2, 3))

    found = trace(Detector(), ([torch.zeros(3, 8, 8), torch.zeros(3, 8, 8)], {"boxes": None}))
    assert not found.dynamic_batch
    assert "no common first dimension" in found.why_static


def test_inputs_that_are_no_tensors() -> None:
    with pytest.raises(TraceError, match="no tensor"):
        trace(Small(), (1, "two", [None]))
    with pytest.raises(TraceError, match=r"torch\.nn\.Module"):
        trace(lambda x: x, image())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "x", [torch.zeros(2, 5, 8, 8), torch.zeros(3), torch.zeros(2, 3, 8, 8, dtype=torch.long)]
)
def test_inputs_that_do_not_fit_are_refused_with_the_users_line(x: torch.Tensor) -> None:
    with pytest.raises(TraceError) as caught:
        trace(Small(), x)
    assert "example inputs" in caught.value.what
    assert "test_trace.py" in caught.value.source
    assert caught.value.advice


# --- parts of models ---------------------------------------------------------------------------


class Regions(nn.Module):
    """Gradients and autocast are switched inside of forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            x = torch.relu(self.a(x))
        with torch.autocast("cpu", enabled=False):
            return self.b(x)


def test_regions_of_other_modes_are_looked_into() -> None:
    found = trace(Regions(), vector())
    made = remove(found, {("a.weight", 0): [0, 2]})
    assert made.kept["b.weight", 1] == (1, 3, 4, 5)
    assert verify(found, made, slim(found, made), tolerance=1e-10).units == 2


def test_tied_tensors_are_one() -> None:
    model = nn.Sequential(
        nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False), nn.Linear(4, 2)
    )
    model[2].weight = model[0].weight
    found = trace(model, vector())
    assert found.aliases["2.weight"] == "0.weight"
    assert "2.weight" not in found.names
    assert analyse(found).coupling.cost.dense.params == 16 + 10


def test_auxiliary_parts_of_training_are_traced() -> None:
    class Aux(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.head, self.aux = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> object:
            x = torch.relu(self.trunk(x))
            return (self.head(x), self.aux(x)) if self.training else self.head(x)

    found = trace(Aux(), vector())
    assert found.extras
    made = remove(found, {("trunk.weight", 0): [5]})
    assert made.kept["aux.weight", 1] == (0, 1, 2, 3, 4)
    small = slim(found, made).train()
    assert [t.shape for t in small(vector())] == [(3, 2), (3, 3)]


def test_weights_are_read_at_the_moment_of_use() -> None:
    model = Small()
    found = trace(model, image())
    made = remove(found, {("conv.weight", 0): [0]})
    with torch.no_grad():
        model.head.weight.fill_(7.0)
    assert float(slim(found, made).head.weight.detach().min()) == 7.0


def test_fingerprints_tell_models_apart() -> None:
    one, two = trace(Small(), image(2)), trace(Small(), image(4))
    assert one.fingerprint == two.fingerprint, "weights and batch do not matter"
    other = Small()
    other.head = nn.Linear(8, 5)
    assert trace(other, image()).fingerprint != one.fingerprint


def test_strict_names_the_operator_without_rule() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.linalg.pinv(self.a(x)).t())

    from fxprune.coupling.couple import couple

    found = trace(Odd(), vector())
    with pytest.raises(UnsupportedOp, match="linalg_pinv") as caught:
        couple(found, strict=True)
    assert "test_trace.py" in caught.value.source
    (pinned,) = (g.pinned for g in couple(found) if ("a.weight", 0) in g.indices)
    assert pinned is not None
    assert pinned.kind == "unknown"
    assert "linalg_pinv" in pinned.reason


def test_grids_of_numbers_as_inputs() -> None:
    """Integer inputs (token ids) stay what they are."""
    model = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 4), nn.Linear(4, 2))
    found: Trace = trace(model, torch.randint(9, (2, 5)))
    made = remove(found, {("0.weight", 1): [0, 1]})
    proof = verify(found, made, slim(found, made), tolerance=1e-10)
    assert np.isfinite(proof.effect)
    assert proof.effect > 1e-4


def test_functional_parameters() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w1 = nn.Parameter(torch.randn(6, 4))
            self.w2 = nn.Parameter(torch.randn(2, 6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(F.linear(x, self.w1).tanh(), self.w2)

    found = trace(Bare(), vector())
    made = remove(found, {("w1", 0): [2]})
    small = slim(found, made)
    assert (small.fxprune_kind, tuple(small.w1.shape), tuple(small.w2.shape)) == ("module", (5, 4), (2, 5))
    assert verify(found, made, small, tolerance=1e-10).units == 1


# --- what nobody reads -------------------------------------------------------------------------


class Unread(nn.Module):
    """Layers that run and whose results come to nothing, as a head that was switched off."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)
        self.up, self.then = nn.ConvTranspose2d(8, 6, 2, stride=2), nn.Conv2d(6, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        self.then(self.up(x))
        return self.last(x.mean((2, 3)))


@pytest.mark.parametrize("kind", ["module", "graph"])
def test_what_nobody_reads_runs_on_what_is_left(kind: Literal["module", "graph"]) -> None:
    """The user's code runs such layers all the same: they lose the channels that they would not find any more."""
    torch.manual_seed(0)
    model, x = Unread().eval(), torch.randn(2, 3, 6, 6)
    found = trace(model, x)
    made = remove(found, {("first.weight", 0): [1, 4, 5]})
    assert made.kept["up.weight", 0] == (0, 2, 3, 6, 7)
    assert made.dense == measure(model, (x,)), "they cost what they cost"
    small = slim(found, made, kind=kind)
    assert small.up.weight.shape == (5, 6, 2, 2)
    assert verify(found, made, small).judged == {"graph": 1.0, "masks": 1.0}
    if kind == "module":
        assert measure(small, (x,)) == made.predicted


class UnreadIndex(nn.Module):
    """An index that nobody follows, beyond what is left."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4)
        self.register_buffer("order", torch.randperm(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x.index_select(1, self.order)
        return self.last(x)


def test_code_that_does_not_run_on_what_is_left_is_no_module() -> None:
    """Nobody compares what nobody reads, but a copy of the module would stumble over it."""
    torch.manual_seed(0)
    model, x = UnreadIndex().eval(), torch.randn(2, 6)
    found = trace(model, x)
    made = remove(found, {("first.weight", 0): [1, 4]})
    small = slim(found, made)
    assert small.fxprune_kind == "graph"
    assert verify(found, made, small).judged == {"graph": 1.0, "masks": 1.0}


class Silenced(nn.Module):
    """A part without gradient, and a running mean that is written under ``no_grad`` in training."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.still, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        with torch.no_grad():
            if self.training:
                self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
            shift = self.still(x).tanh()
        return self.last(x.relu() + shift - self.mean)


def test_no_grad_holds_in_a_graph() -> None:
    """A slim graph computes the same gradients as a copy of the module, and writes the same state."""
    torch.manual_seed(0)
    model, x = Silenced().double().eval(), torch.randn(5, 6).double()
    found = trace(model, x)
    made = remove(found, {("first.weight", 0): [1, 4]})
    module, graph = (slim(found, made, kind=kind).train() for kind in ("module", "graph"))
    for _ in range(2):  # what is written must not carry a graph over to the next step
        for small in (module, graph):
            small.zero_grad()
            small(x).square().sum().backward()
    assert graph.still.weight.grad is None
    assert torch.allclose(graph.mean, module.mean, rtol=1e-12)
    for name in ("first.weight", "first.bias", "last.weight"):
        one, two = (dict(small.named_parameters())[name].grad for small in (module, graph))
        assert torch.allclose(one, two, rtol=1e-10, atol=1e-12), name
