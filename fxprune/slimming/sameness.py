"""Whether a module and a graph that hold the same tensors compute the same.

First by what they call (``fxprune.graph.values``): equal names of the outputs are equal functions, which needs no
numbers.  Where the names differ, for the same thing may be said in other words, numbers decide: both run in
float64 on weights of which every one matters and on inputs of two scales.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.utils import _pytree as pytree

from fxprune.coupling.cost import measure
from fxprune.graph.live import live_value
from fxprune.graph.values import Calls, DryRun, Inputs, Names, UnknownValue
from fxprune.models.calls import untouched_random_state
from fxprune.models.conditions import Conditions, unfused
from fxprune.models.copies import copied

__all__ = ["difference"]

SCALES = (1.0, 8.0)
"""Factors of the inputs that are compared: what is flat at one scale is not at another."""

DRAWS = 8
"""Weights and inputs that are compared: a maximum, say, may hide on one what another shows."""

GAINS = (1.0, 3.0)
"""Factors of the weights, by turns of the draws: small ones make attention a mean, which no scale of its logits moves."""

TYPES = ((torch.float64, 1e-9), (None, 2.0**-6))
"""Types to compare in, the first in which both run, None for the model's own.

And the largest difference that rounding explains, relative to the largest entry of an output.
"""


def difference(
    module: nn.Module,
    calls: Callable[[], Calls],
    graph: Callable[[], nn.Module],
    dense: nn.Module,
    inputs: Inputs,
    work: tuple[int, int],
) -> str:
    """Why a module cannot stand for a graph, or empty.

    Args:
        module: A copy of the user's module with slim tensors.
        calls: Tells what the slim graph computes from the very same tensors; asked once the module runs.
        graph: Makes the graph a module, which only numbers need.
        dense: The model both were made from.
        inputs: Example inputs.
        work: Multiply-accumulates that a sample may cost, and those of the dense model by the same count.
    """
    names = Names()
    names.share(_tensors(module))
    copy = DryRun(module, names)
    got = _named(copy, inputs)
    if isinstance(got, str):
        _run_for_real(module, inputs)
    # After the module: where it does not run the graph is not asked, where both compute the same its shapes are known.
    rewritten = DryRun(calls(), names)
    wanted = _named(rewritten, inputs)
    if got != wanted or isinstance(got, str):
        why = _in_numbers(module, graph(), inputs) or _in_work(module, dense, inputs, work)
        if why:
            return why
    elif copy.calls - rewritten.calls and (why := _in_work(module, dense, inputs, work)):
        return why  # what nobody reads has no name to compare, and runs all the same
    # A graph runs the same operators in training, unless another one was traced there.
    trained = _named(copy, inputs, training=True)
    return "" if trained in (wanted, got) else _in_training(dense, inputs, trained)


def _named(run: DryRun, inputs: Inputs, *, training: bool = False) -> list[object] | str:
    """The names of what a model returns, or why there are none."""
    try:
        return run.outputs(inputs, training=training)
    except UnknownValue as error:
        return str(error)


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _in_training(dense: nn.Module, inputs: Inputs, got: list[object] | str) -> str:
    """Code that runs in training only must fit as well, as far as the dense model shows what is right."""
    run = DryRun(dense, Names())
    evaluated, trained = _named(run, inputs), _named(run, inputs, training=True)
    if isinstance(trained, str):  # it wants targets, or numbers
        return ""
    if isinstance(got, str):
        return f"in training mode: {got}"
    return "in training mode it computes something else" if trained == evaluated else ""


# --- numbers -----------------------------------------------------------------------------------


def _run_for_real(module: nn.Module, inputs: Inputs) -> None:
    """A dry run says little of what fails, or of what nobody reads; this raises what the user's code does."""
    if not _is_empty(module):
        _run(copied(module, torch.clone), inputs)


def _is_empty(module: nn.Module) -> bool:
    return any(t.is_meta for t in _tensors(module).values())


def _in_work(module: nn.Module, dense: nn.Module, inputs: Inputs, work: tuple[int, int]) -> str:
    """Padding to a fixed size, say, leaves the result as it is and makes the code do more than was planned."""
    if _is_empty(module):
        return ""
    done, planned = _macs(module, inputs), work[0]
    # Where the dense model does not cost what is counted, neither number says anything.
    if done <= planned or _macs(dense, inputs) != work[1]:
        return ""
    return f"{done} multiply-accumulates instead of {planned}"


def _macs(module: nn.Module, inputs: Inputs) -> int:
    return measure(copied(module, torch.clone).eval(), *copy.deepcopy(inputs)).macs


def _in_numbers(module: nn.Module, graph: nn.Module, inputs: Inputs) -> str:
    """Why the numbers differ, or empty."""
    if _is_empty(module):
        return "no data to compare on, and widths may steer the code"
    for dtype, tolerance in TYPES:
        try:
            for draw in range(DRAWS):
                if why := _drawn_apart(module, graph, inputs, dtype, tolerance, draw):
                    return why
        except (RuntimeError, TypeError, NotImplementedError):
            if dtype is None:
                raise
            continue
        return ""
    raise AssertionError("the last type returns or raises")


def _drawn_apart(
    module: nn.Module,
    graph: nn.Module,
    inputs: Inputs,
    dtype: torch.dtype | None,
    tolerance: float,
    draw: int,
) -> str:
    """Why the numbers differ on the weights and inputs of one draw, or empty; the first draw is the example itself."""
    generator = torch.Generator().manual_seed(draw)
    values = _live(module, dtype, generator)
    if draw:
        gain = GAINS[draw // len(SCALES) % len(GAINS)] if dtype else 1.0
        values = {key: gain * _reordered(value, generator) for key, value in values.items()}
    graph, module = (copied(m, lambda t: _value(t, values, dtype)) for m in (graph, module))
    samples = _samples(inputs, dtype, generator if draw else None)
    for given in samples[draw % len(samples) :][: 1 if draw else None]:
        try:
            wanted = _run(graph, copy.deepcopy(given), dtype)
        except (RuntimeError, ValueError, IndexError):
            if draw:
                return ""  # the model does not take these inputs
            raise
        if draw and not any(bool(t.isfinite().any()) for t in wanted if isinstance(t, torch.Tensor)):
            return ""  # too large for the model
        if why := _unequal(_run(module, given, dtype), wanted, tolerance):
            return why
    return ""


def _live(
    module: nn.Module, dtype: torch.dtype | None, generator: torch.Generator
) -> dict[int, torch.Tensor]:
    """Weights of which every one matters, in the given type, by the id of the model's own."""
    return {
        id(p): live_value(n, p.detach().to(dtype or p.dtype), generator)
        for n, p in module.named_parameters()
        if p.is_floating_point()
    }


def _value(
    tensor: torch.Tensor, values: Mapping[int, torch.Tensor], dtype: torch.dtype | None
) -> torch.Tensor:
    if id(tensor) in values:
        return values[id(tensor)].clone()
    return tensor.to(dtype or tensor.dtype, copy=True) if tensor.is_floating_point() else tensor.clone()


def _samples(inputs: Inputs, dtype: torch.dtype | None, order: torch.Generator | None) -> list[Inputs]:
    """The example at several scales, on demand with its entries in another order.

    Constant ones (zeros, say) become random numbers, for zeros hide differences.
    """
    generator = torch.Generator().manual_seed(0)
    leaves, spec = pytree.tree_flatten((inputs[0], dict(inputs[1])))
    floating = [isinstance(a, torch.Tensor) and a.is_floating_point() for a in leaves]
    drawn = [_drawn(a, generator) if f else a for a, f in zip(leaves, floating, strict=True)]
    if order is not None:
        drawn = [_reordered(a, order) if isinstance(a, torch.Tensor) else a for a in drawn]
    return [
        pytree.tree_unflatten(
            [
                (a * scale).to(dtype or a.dtype) if f else a.clone() if isinstance(a, torch.Tensor) else a
                for a, f in zip(drawn, floating, strict=True)
            ],
            spec,
        )
        for scale in (SCALES if any(floating) else SCALES[:1])
    ]


def _drawn(example: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    constant = example.numel() > 1 and bool((example == example.flatten()[0]).all())
    return torch.randn(example.shape, generator=generator).to(example) if constant else example


def _reordered(tensor: torch.Tensor, order: torch.Generator) -> torch.Tensor:
    turn = torch.randperm(tensor.numel(), generator=order).to(tensor.device)
    return tensor.flatten()[turn].view(tensor.shape)


def _run(model: nn.Module, inputs: Inputs, dtype: torch.dtype | None = None) -> list[object]:
    """Leaves of what a model returns in evaluation, with equal random numbers, attention off its fused kernels."""
    for module in model.modules():
        module.training = False
    conditions = Conditions(dtype) if dtype else contextlib.nullcontext()
    with torch.no_grad(), untouched_random_state(), unfused(), conditions:
        torch.manual_seed(0)
        return list(pytree.tree_leaves(model(*inputs[0], **inputs[1])))


def _unequal(one: list[object], two: list[object], tolerance: float) -> str:
    if len(one) != len(two):
        return f"{len(one)} outputs instead of {len(two)}"
    for a, b in zip(one, two, strict=True):
        if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
            continue
        if a.shape != b.shape:
            return f"output shape {tuple(a.shape)} instead of {tuple(b.shape)}"
        x, y = (t.to(torch.complex128 if t.is_complex() else torch.float64) for t in (a, b))
        finite = torch.isfinite(y)
        if not torch.equal(torch.isfinite(x), finite):
            return "an output is not finite"
        if y.numel() and not finite.any():
            return "no output is finite: nothing can be compared"
        scale = float(y[finite].abs().max()) if y.numel() else 0.0
        error = float((x - y)[finite].abs().max()) if y.numel() else 0.0
        if not error <= tolerance * max(scale, 1e-30):
            return f"outputs differ by {error:.3g} where they reach {scale:.3g}"
    return ""
