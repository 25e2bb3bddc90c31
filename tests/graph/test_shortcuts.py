"""Shortcuts through torch.export: the graph, its shapes, its source lines and its errors are those without them."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import fx, nn
from torch._decomp import decomposition_table
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from fxprune.errors import TraceError
from fxprune.graph import shortcuts as shortcuts_module
from fxprune.graph import trace as trace_module
from fxprune.graph.shortcuts import _table, _ways, shortcuts
from fxprune.graph.trace import Trace, trace

WITHOUT = contextlib.nullcontext


class Code(nn.Module):
    """A function as a module, with a parameter so that there is something to trace for."""

    def __init__(self, code: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.code = code
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> object:
        return self.code(x * self.scale)


def _everything(trace: Trace) -> list[object]:
    """All that a trace says: how it was made, and of each node what it calls, where, and what comes out."""
    rows: list[object] = [trace.kind, trace.dynamic_batch, trace.why_static]
    for node in trace.graph.graph.nodes:
        values = [_described(leaf) for leaf in pytree.tree_leaves(node.meta.get("val"))]
        rows.append((node.name, str(node.target), str(node.args), node.meta.get("stack_trace"), values))
    return rows


def _described(value: object) -> object:
    if not isinstance(value, torch.Tensor):
        return str(value)
    sizes = str((*value.shape, *value.stride()))
    return sizes, value.dtype, value.device, value.requires_grad, type(value)


def _norm(x: torch.Tensor, width: int, **options: object) -> torch.Tensor:
    ones = torch.ones(width, dtype=x.dtype)
    return F.batch_norm(x, ones, ones, ones, ones, **options)  # type: ignore[arg-type]


def _in_place(name: str, x: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = getattr(F, name)(x, inplace=True)
    return result + 1


PICTURES = torch.randn(2, 3, 4, 5)
CASES: dict[str, tuple[Callable[[torch.Tensor], object], torch.Tensor]] = {
    **{
        name: (getattr(F, name), PICTURES)
        for name in (
            "hardswish",
            "hardsigmoid",
            "hardtanh",
            "gelu",
            "relu",
            "leaky_relu",
            "elu",
            "mish",
            "silu",
        )
    },
    **{
        f"{name} in place": (partial(_in_place, name), PICTURES)
        for name in ("hardswish", "hardsigmoid", "hardtanh", "leaky_relu", "elu", "mish")
    },
    "gelu by tanh": (lambda x: F.gelu(x, approximate="tanh"), PICTURES),
    "elu of other slopes": (lambda x: F.elu(x, alpha=0.5), PICTURES),
    "whole numbers": (lambda x: F.hardtanh((10 * x).int()), PICTURES),
    "half": (lambda x: F.hardswish(x.half()), PICTURES),
    "channels last": (F.hardswish, PICTURES.to(memory_format=torch.channels_last)),
    "one position": (lambda x: F.hardsigmoid(x.mean((2, 3), keepdim=True)), PICTURES),
    "turned": (lambda x: F.gelu(x.transpose(1, 3)), PICTURES),
    "a slice": (lambda x: F.gelu(x[:, 1:]), PICTURES),
    "repeated by stride": (lambda x: F.hardswish(x[:, :1].expand(-1, 3, -1, -1)), PICTURES),
    "no columns": (lambda x: F.gelu(x[:, :0]), PICTURES),
    "rows by two symbols": (lambda x: F.gelu(x.flatten(0, 1)), PICTURES),
    "rows by data": (lambda x: F.gelu(x[x.sum((1, 2, 3)) > 0]), PICTURES),
    "a line": (lambda x: F.gelu(x.mean((0, 1, 2))), PICTURES),
    "batch norm": (lambda x: _norm(x, 3), PICTURES),
    "batch norm of a line a picture": (lambda x: _norm(x.flatten(1), 60), PICTURES),
    "batch norm in half": (lambda x: _norm(x.half(), 3), PICTURES),
    "batch norm in double": (lambda x: _norm(x.double(), 3), PICTURES),
    "batch norm of this batch": (lambda x: _norm(x, 3, training=True), PICTURES),
    "batch norm without scale": (lambda x: F.batch_norm(x, torch.ones(3), torch.ones(3)), PICTURES),
    "batch norm, channels last": (lambda x: _norm(x, 3), PICTURES.to(memory_format=torch.channels_last)),
    "layer norm": (lambda x: F.layer_norm(x, (5,), torch.ones(5), torch.ones(5)), PICTURES),
    "layer norm over two axes": (lambda x: F.layer_norm(x, (4, 5)), PICTURES),
    "layer norm in half": (lambda x: F.layer_norm(x.half(), (5,)), PICTURES),
    "layer norm across": (lambda x: F.layer_norm(x.transpose(1, 3), (3,)), PICTURES),
    "layer norm of all": (lambda x: F.layer_norm(x.mean(0), (3, 4, 5)), PICTURES),
    "linear": (lambda x: F.linear(x, torch.ones(7, 5), torch.ones(7)), PICTURES),
    "linear of a line a picture": (
        lambda x: F.linear(x.flatten(1), torch.ones(7, 60), torch.ones(7)),
        PICTURES,
    ),
    "addmm": (lambda x: torch.addmm(torch.ones(2, 7), x.flatten(1)[:2], torch.ones(60, 7)), PICTURES),
    "addmm, scaled": (
        lambda x: torch.addmm(torch.ones(7), x.flatten(1), torch.ones(60, 7), alpha=2),
        PICTURES,
    ),
    "cat": (lambda x: torch.cat([x, x[:, :2] + 1, 2 * x], 1), PICTURES),
    "cat from the end": (lambda x: torch.cat([x, 2 * x], -3), PICTURES),
    "cat of positions": (lambda x: torch.cat([x, 2 * x], 2), PICTURES),
    "cat of rows": (lambda x: torch.cat([x, 2 * x], 0), PICTURES),
    "cat of single channels": (lambda x: torch.cat([x[:, :1] + 1, x[:, :1] * 2], 1), PICTURES),
    "cat of single positions": (lambda x: torch.cat([x.mean((2, 3), keepdim=True)] * 2, 1), PICTURES),
    "cat of two types": (lambda x: torch.cat([x, 2 * x.double()], 1), PICTURES),
    "cat, channels last": (
        lambda x: torch.cat([x, 2 * x], 1),
        PICTURES.to(memory_format=torch.channels_last),
    ),
    "cat with one row": (lambda x: torch.cat([x, torch.ones(2, 3, 4, 5)], 1), PICTURES),
}


@pytest.mark.parametrize("case", CASES)
def test_the_graph_is_the_same(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code, x = CASES[case]
    model = Code(code)
    short = _everything(trace(model, x))
    monkeypatch.setattr(trace_module, "shortcuts", WITHOUT)
    assert short == _everything(trace(model, x))


@pytest.mark.parametrize(
    "code",
    [
        lambda x: _norm(x, 4),
        lambda x: F.layer_norm(x, (4,)),
        lambda x: F.layer_norm(x, (5,), torch.ones(4)),
        lambda x: F.linear(x.flatten(1), torch.ones(7, 59), torch.ones(7)),
        lambda x: torch.cat([x, x[:, :, 1:]], 1),
    ],
    ids=["batch norm", "layer norm", "its weight", "linear", "cat"],
)
def test_what_does_not_fit_is_refused_in_the_same_words(
    code: Callable[[torch.Tensor], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Code(code)
    with pytest.raises(TraceError) as short:
        trace(model, PICTURES)
    monkeypatch.setattr(trace_module, "shortcuts", WITHOUT)
    with pytest.raises(TraceError) as long:
        trace(model, PICTURES)
    assert str(short.value) == str(long.value)


def test_every_shortcut_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each gives an answer of its own in one of the cases above: none is there for nothing."""
    answered: set[Callable[..., object]] = set()
    real = shortcuts_module._or_decomposed

    def noting(way: Callable[..., object], decomposition: Callable[..., object]) -> Callable[..., object]:
        def noted(*args: object) -> object:
            result = way(*args)
            if result is not None:
                answered.add(decomposition)
            return result

        return real(noted, decomposition)

    monkeypatch.setattr(shortcuts_module, "_or_decomposed", noting)
    for code, x in CASES.values():
        trace(Code(code), x)
    assert answered == {decomposition_table[op] for op, _ in _ways()}


def test_torch_is_given_back_as_it_was() -> None:
    table = _table()
    assert table is not None
    before, stacks = dict(table), fx.proxy.CapturedTraceback  # type: ignore[attr-defined]
    with contextlib.suppress(KeyError), shortcuts():
        assert len(table) > len(before)
        raise KeyError
    assert dict(table) == before
    assert fx.proxy.CapturedTraceback is stacks  # type: ignore[attr-defined]


def test_other_threads_are_given_torchs_own_stacks() -> None:
    kinds: list[type] = []

    def look() -> None:
        kinds.append(type(fx.proxy.CapturedTraceback.extract()))  # type: ignore[attr-defined]

    own = fx.proxy.CapturedTraceback  # type: ignore[attr-defined]
    with shortcuts():
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        look()
    assert kinds[0] is own
    assert kinds[1] is not own


@pytest.mark.parametrize(
    "missing", ["torch._subclasses.fake_impls.get_fast_op_impls", "torch.fx.proxy.CapturedTraceback"]
)
def test_a_torch_without_one_of_them_is_left_alone(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, _, name = missing.rpartition(".")
    monkeypatch.delattr(missing)
    with shortcuts():
        assert not hasattr(sys.modules[module], name)
    assert not hasattr(sys.modules[module], name)


@pytest.mark.parametrize(
    "table", [{}, {torch.ops.aten.detach.default: lambda x: x}], ids=["other", "called otherwise"]
)
def test_a_table_of_another_kind_is_left_alone(
    table: dict[object, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch._subclasses.fake_impls.get_fast_op_impls", lambda: table)
    before = dict(table)
    with shortcuts():
        assert table == before
