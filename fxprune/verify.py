"""Verify: prove a slim model right, as a gate and not as a warning."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import fx, nn
from torch.fx import _pytree as fx_pytree
from torch.utils import _pytree as pytree

from fxprune.couple import coupling, flow
from fxprune.crop import outside
from fxprune.cutting import cut
from fxprune.errors import VerificationError
from fxprune.labels import varying
from fxprune.live import liven
from fxprune.ops.base import Value
from fxprune.oracle import Oracle, wide
from fxprune.resize import Resolution, expect, keep_mask, resolve
from fxprune.slim import slim as _slim
from fxprune.sources import source_of
from fxprune.structures import choose_structures
from fxprune.trace import ExampleInputs, Trace, call_arguments, evaluating
from fxprune.trace import trace as _trace
from fxprune.types import Crop, Plan

__all__ = ["Proof", "verify"]

TOLERANCE = 1e-4

_Sample = tuple[tuple[object, ...], Mapping[str, object]]


@dataclass(frozen=True)
class Proof:
    """What was compared and how close it came.

    Attributes:
        error: Largest difference between the slim model and the dense one with the same units
            zeroed where they are read, relative to the largest output; the worst input.
        tolerance: What ``error`` had to stay below.
        dtype: Floating type of the comparison.
        effect: How much the removal changes the output at all, relative; 0 where nothing was
            removed or where what was removed was already zero.
        inexact: Units removed that others see through statistics (layer norm, say).  For them
            the dense model computes those statistics over what is left.
        inexact_difference: How far simply zeroing these units would be from the slim model.
        units: Units removed.
        inputs: Number of inputs compared (the example, and random ones of its shape).
        livened: The comparison ran with random weights because the model's own output is
            constant, as with a zero-initialised head, and would have proved nothing.
        structures: Structures cut whole; the dense model was run with their results multiplied by
            zero and compared with the model that was cut, before anything else was removed.
        crops: Kernels that lost a border; it was zeroed in the dense model.
    """

    error: float
    tolerance: float
    dtype: str
    effect: float
    inexact: int
    inexact_difference: float
    units: int
    inputs: int
    livened: bool
    structures: int = 0
    crops: int = 0

    def to_json(self) -> str:
        """The proof as JSON text."""
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        note = (
            f", {self.inexact} of them inexact (zeroing alone would differ by {self.inexact_difference:.1e})"
        )
        cuts = f"{self.structures} structures cut, " if self.structures else ""
        cuts += f"{self.crops} kernels cropped, " if self.crops else ""
        return (
            f"zeroed == slim within {self.error:.1e} (limit {self.tolerance:.0e}, {self.dtype}, {self.inputs} inputs); "
            f"{cuts}{self.units} units removed{note if self.inexact else ''}, effect {self.effect:.1e}"
        )


def verify(
    trace: Trace,
    plan: Plan,
    slim: nn.Module,
    *,
    inputs: ExampleInputs | None = None,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> Proof:
    """Check that a slim model computes what the dense one computes with the same units zeroed.

    The dense graph is run with the dead units zeroed wherever a contraction reads them; statistics
    that would notice zeros are taken over what is left.  Both models run in float64 where they can,
    on the example inputs and on random ones.  Models that had to be recorded are compared through
    their own code with the consumers' input slices zeroed.

    Args:
        trace: The trace of the dense model, with the weights that were sliced.
        plan: The plan.
        slim: What ``fxprune.slim`` made, not trained since.
        inputs: Other inputs to compare on.
        tolerance: Largest relative difference allowed.
        seed: Of the random inputs.

    Returns:
        The measured differences.

    Raises:
        VerificationError: They differ, shapes included, or there is nothing to compare with.

    Example:
        >>> import torch, fxprune
        >>> net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> t = fxprune.trace(net, torch.zeros(1, 6))
        >>> p = fxprune.plan(t, fxprune.Budget(channels=0.5))
        >>> fxprune.verify(t, p, fxprune.slim(t, p)).error < 1e-12
        True
    """
    expect(trace, plan)
    if any(p.device.type == "meta" for p in trace.model.parameters()):
        raise VerificationError("the model has no numbers to compare", advice="load its weights first")
    what = _Removal.of(trace, plan)
    given = call_arguments(inputs) if inputs is not None else (trace.args, dict(trace.kwargs))
    samples: list[_Sample] = [given]
    if trace.kind == "export":
        samples.append(_random_like(_another_batch(given) if trace.dynamic_batch else given, seed))
    if _counts_samples(what.trace):
        samples = [part for sample in samples for part in _in_batches(sample, trace.batch)]
    try:
        measured = [m for s in samples for m in _compare_all(trace, what, slim, s, torch.float64)]
        dtype = "float64"
    except (RuntimeError, TypeError, NotImplementedError):
        measured, dtype = _in_single(trace, what, slim, samples), "float32"
    if all(m.flat for m in measured):
        return _on_live_copy(trace, plan, slim, tolerance, seed)
    coupled = coupling(what.trace)
    exact = np.ones(coupled.n_units, bool)
    for group in coupled.groups:
        if not group.exact:
            exact[group.units] = False
    dead = ~what.found.keep
    inexact = int((dead & ~exact).sum())
    proof = Proof(
        # Units that are said to be exact need no help: then zeros alone must give the same.
        error=max(m.error if inexact else max(m.error, m.zeroed) for m in measured),
        tolerance=tolerance,
        dtype=dtype,
        effect=max(m.effect for m in measured),
        inexact=inexact,
        inexact_difference=max(m.zeroed for m in measured),
        units=int(dead.sum()),
        inputs=len(samples),
        livened=False,
        structures=len(plan.removed),
        crops=len(plan.crops),
    )
    _gate(proof, slim)
    return proof


def _counts_samples(trace: Trace) -> bool:
    """Units repeat from sample to sample along some axis (heads are laid into the batch, say)."""
    if not trace.dynamic_batch:
        return False
    for node, held in flow(trace).walk.values.items():
        tensor = node.meta.get("val")
        if not isinstance(held, Value) or not isinstance(tensor, torch.Tensor):
            continue
        counted = {d for d, n in enumerate(tensor.shape) if type(n) is not int}
        if any(counted & set(varying(a)) for a in held.arrays):
            return True
    return False


def _in_batches(sample: _Sample, size: int) -> list[_Sample]:
    """The samples in batches of that size; the last one is filled up with the first samples."""
    tensors = [t for t in pytree.tree_leaves((sample[0], dict(sample[1]))) if isinstance(t, torch.Tensor)]
    given = len(tensors[0])
    order = torch.arange(-(-given // size) * size) % given
    return [_at(sample, index) for index in order.split(size)]


def _another_batch(sample: _Sample) -> _Sample:
    """One sample more: a batch size that is written down somewhere shows."""
    size = len(
        next(t for t in pytree.tree_leaves((sample[0], dict(sample[1]))) if isinstance(t, torch.Tensor))
    )
    return _at(sample, torch.arange(size + 1) % size)


def _at(sample: _Sample, index: torch.Tensor) -> _Sample:
    args, kwargs = pytree.tree_map_only(
        torch.Tensor, lambda t: t[index.to(t.device)], (sample[0], dict(sample[1]))
    )
    return args, kwargs


def _in_single(trace: Trace, what: _Removal, slim: nn.Module, samples: Sequence[_Sample]) -> list[_Measured]:
    """The comparison in float32, for models that fix their types."""
    try:
        return [m for s in samples for m in _compare_all(trace, what, slim, s, torch.float32)]
    except (RuntimeError, TypeError, NotImplementedError) as error:
        text = str(error).strip().splitlines() or [type(error).__name__]
        raise VerificationError(
            f"the comparison of dense and slim model does not run: {text[0]}",
            source=source_of(error),
            advice="was it changed after slim()? If not, check the inputs",
        ) from error


def _gate(proof: Proof, slim: nn.Module) -> None:
    if not proof.error <= proof.tolerance:
        raise VerificationError(
            f"the slim model differs from the zeroed dense model by {proof.error:.3g} "
            f"(allowed {proof.tolerance:g}) in {proof.dtype}",
            advice="was it trained or changed after slim()? If not, this is a bug of fxprune: please report the model",
        )


@dataclass(frozen=True, eq=False)
class _Removal:
    """What a plan removes: structures first, then units and borders of kernels of the trace that is left."""

    trace: Trace
    found: Resolution
    crops: tuple[Crop, ...]

    @staticmethod
    def of(trace: Trace, plan: Plan) -> _Removal:
        small = cut(trace, plan.removed)
        return _Removal(small, resolve(small, keep_mask(small, plan)), plan.crops)


@dataclass(frozen=True)
class _Measured:
    error: float
    effect: float
    zeroed: float
    flat: bool


def _compare_all(
    trace: Trace,
    what: _Removal,
    slim: nn.Module,
    sample: _Sample,
    dtype: torch.dtype,
) -> list[_Measured]:
    """Structures multiplied by zero against the cut model, then its units zeroed against the slim one."""
    measured = [_compare(what, slim, sample, dtype)]
    return measured if what.trace is trace else [*measured, _compare_cut(trace, what.trace, sample, dtype)]


def _compare_cut(
    trace: Trace,
    small: Trace,
    sample: _Sample,
    dtype: torch.dtype,
) -> _Measured:
    silent = {s.output for s in choose_structures(trace, small.cuts)}
    args, kwargs = _typed(sample, dtype)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), wide(dtype), evaluating(trace.model):
        operands = fx_pytree.tree_flatten_spec((args, kwargs), trace.graph._in_spec)
        dense = _leaves(Oracle(trace, _everything(trace), dtype).run(*operands))
        zeroed = _leaves(Oracle(trace, _everything(trace), dtype, silent=silent).run(*operands))
        left = _leaves(Oracle(small, _everything(small), dtype).run(*operands))
    flat = all(float(d.abs().max()) == 0 for d in dense if d.numel())
    return _Measured(_distance(zeroed, left), _distance(dense, zeroed), 0.0, flat)


def _everything(trace: Trace) -> Resolution:
    """A resolution in which every unit stays."""
    coupled = coupling(trace)
    return Resolution(np.ones(coupled.n_units, bool), {}, {}, {}, {}, coupled.cost.dense)


def _typed(sample: _Sample, dtype: torch.dtype) -> tuple[tuple[object, ...], dict[str, object]]:
    """Floating inputs in another type."""
    args, kwargs = pytree.tree_map_only(
        torch.Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, (sample[0], dict(sample[1]))
    )
    return args, kwargs


def _compare(what: _Removal, slim: nn.Module, sample: _Sample, dtype: torch.dtype) -> _Measured:
    trace, found, crops = what.trace, what.found, what.crops
    args, kwargs = _typed(sample, dtype)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), wide(dtype):
        if trace.kind == "recorded":
            models = (_zeroed_copy(what), trace.model, slim)
            zeroed, dense, small = _common([_observed(_in_type(m, dtype), args, kwargs) for m in models])
            blunt = zeroed
        else:
            small = _leaves(_run(_in_type(slim, dtype), args, kwargs))
            operands = fx_pytree.tree_flatten_spec((args, kwargs), trace.graph._in_spec)
            with evaluating(trace.model):
                zeroed = _leaves(Oracle(trace, found, dtype, crops=crops).run(*operands))
                dense = _leaves(Oracle(trace, _everything(trace), dtype).run(*operands))
                blunt = _leaves(Oracle(trace, found, dtype, restrict=False, crops=crops).run(*operands))
    return _Measured(
        error=_distance(zeroed, small),
        effect=_distance(dense, zeroed),
        zeroed=_distance(blunt, small),
        # Zeros and numbers that are none prove nothing.
        flat=not any(bool((d.isfinite() & (d != 0)).any()) for d in dense),
    )


def _run(module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> object:
    with evaluating(module):
        return module(*args, **kwargs)


def _observed(
    module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> dict[str, torch.Tensor]:
    """Every tensor that any submodule returns, by place.

    A detector's final boxes may be few or none; its heads always say something.
    """
    seen: dict[str, torch.Tensor] = {}
    calls: dict[str, int] = {}

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_: nn.Module, __: object, result: object) -> None:
            calls[name] = calls.get(name, 0) + 1
            for k, tensor in enumerate(_leaves(result)):
                seen[f"{name}#{calls[name]}.{k}"] = tensor.clone()

        return hook

    handles = [m.register_forward_hook(watch(n)) for n, m in module.named_modules()]
    try:
        _run(module, args, kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _common(runs: list[dict[str, torch.Tensor]]) -> tuple[list[torch.Tensor], ...]:
    """What all runs have in the same place and shape (widths that were pruned differ)."""
    first = runs[0]
    names = [
        n
        for n in first
        if all(n in r and r[n].shape == first[n].shape for r in runs[1:]) and first[n].numel()
    ]
    return tuple([run[n] for n in names] for run in runs)


def _in_type(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy that computes in the given type; graphs have types written in them."""
    clone = copy.deepcopy(module).to(dtype)
    if isinstance(clone, fx.GraphModule):
        for node in clone.graph.nodes:
            if node.op == "call_function":
                node.args, node.kwargs = pytree.tree_map_only(
                    torch.dtype, lambda t: dtype if t is torch.float32 else t, (node.args, node.kwargs)
                )
        clone.recompile()
    return clone


def _zeroed_copy(what: _Removal) -> nn.Module:
    """The user's model with the input slices of dead units, and the borders that go, zeroed in every consumer."""
    trace, found = what.trace, what.found
    module = copy.deepcopy(trace.model)
    parameters = dict(module.named_parameters())
    units = coupling(trace).axes
    for group in coupling(trace).groups:
        for name, dim in group.consumers:
            dead = np.flatnonzero(~found.keep[units[name, dim]])
            parameters[name].data.index_fill_(dim, torch.from_numpy(dead), 0)
    for crop in what.crops:
        weight = parameters[crop.tensor].data
        weight.masked_fill_(outside(crop, weight), 0)
    return module


def _leaves(tree: object) -> list[torch.Tensor]:
    return [t for t in pytree.tree_leaves(tree) if isinstance(t, torch.Tensor)]


def _distance(reference: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """Largest difference relative to the largest entry, the worst output."""
    if len(reference) != len(other):
        raise VerificationError(f"{len(other)} outputs instead of {len(reference)}")
    worst = 0.0
    for a, b in zip(reference, other, strict=True):
        if a.shape != b.shape:
            raise VerificationError(f"output of shape {tuple(b.shape)} instead of {tuple(a.shape)}")
        if not a.numel():
            continue
        x, y = a.double(), b.double()
        both = torch.isfinite(x) & torch.isfinite(y)
        if not torch.equal(x[~both], y[~both]) and not (torch.isnan(x[~both]) & torch.isnan(y[~both])).all():
            return float("inf")
        scale = float(x[both].abs().max()) if both.any() else 0.0
        gap = float((x - y)[both].abs().max()) if both.any() else 0.0
        worst = max(worst, gap / scale if scale else gap)
    return worst


def _random_like(sample: _Sample, seed: int) -> tuple[tuple[object, ...], dict[str, object]]:
    """Random floating inputs of the same shapes; indices and masks stay as they are."""
    generator = torch.Generator().manual_seed(seed)

    def redraw(t: torch.Tensor) -> torch.Tensor:
        if not t.is_floating_point():
            return t
        return torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype).to(t.device)

    args, kwargs = pytree.tree_map_only(torch.Tensor, redraw, (sample[0], dict(sample[1])))
    return args, kwargs


def _on_live_copy(trace: Trace, plan: Plan, slim: nn.Module, tolerance: float, seed: int) -> Proof:
    """Prove the plan on random weights where the model's own output is constant zero."""
    kind = str(getattr(slim, "fxprune_kind", "module"))
    inputs: ExampleInputs = dict(trace.kwargs) if trace.kwargs else trace.args
    model = liven(copy.deepcopy(trace.model), inputs, seed=seed)
    live = _trace(model, inputs)
    small = _slim(live, plan, kind="graph" if kind == "graph" else "module")
    what = _Removal.of(live, plan)
    measured = _compare_all(live, what, small, (live.args, live.kwargs), torch.float64)
    if all(m.flat for m in measured):
        raise VerificationError(
            "the model's output is zero whatever its weights: nothing can be compared",
            advice="give example inputs that produce an output",
        )
    error, effect, zeroed = (max(getattr(m, k) for m in measured) for k in ("error", "effect", "zeroed"))
    units = int((~what.found.keep).sum())
    proof = Proof(
        error, tolerance, "float64", effect, 0, zeroed, units, 1, True, len(plan.removed), len(plan.crops)
    )
    _gate(proof, slim)
    return proof
