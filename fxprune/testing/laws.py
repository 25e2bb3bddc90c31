"""Laws that every rule obeys, on samples of its operator; each says what is wrong, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from fxprune.coupling.cost import counted_macs
from fxprune.testing.challenge import challenge
from fxprune.testing.framed import framed
from fxprune.testing.lone import disturb, left, lone, plans, slimmed, zeroed
from fxprune.testing.samples.base import Sample

__all__ = ["LAWS", "UNPROVED", "Law", "slim_is_what_is_left", "what_may_go"]

Law = Callable[[Sample], str]

EXACT = 1e-11
"""Largest difference relative to the largest entry: single calls in float64, where only the order of a few
additions differs; a norm over a single position multiplies that by the inverse root of its epsilon, 316."""


UNPROVED = {
    "torchvision.roi_align.default": "the proof draws random regions, which lie outside of the picture",
    "torchvision.roi_pool.default": "the proof draws random regions, which lie outside of the picture",
}
"""Samples on which nothing is taken out of a network, and why; their other laws count."""


def what_may_go(sample: Sample) -> str:
    """Exactly the expected dimensions hold units that may go: a rule that pins more saves less than it could."""
    with lone(sample) as one:
        if one.doubted:
            return f"the walk does not believe it: {one.doubted}"
        free = one.free()
    if sample.free is not None and free != sample.free:
        return f"units may go from '{free}', expected were '{sample.free}' (dimensions of each operand)"
    if sample.free is None and set(free) <= set("- "):
        return "nothing may go; if that is right say so with free='-'"
    return ""


def slim_is_what_is_left(sample: Sample) -> str:
    """The resized operator on what is left of its operands gives what is left of its results.

    And no label is dropped: whatever the removed positions hold, what is left stays the same.
    """
    with lone(sample) as one:
        allowed = plans(one)
        if not allowed and not set(one.free()) <= set("- "):
            return "units may go, but no removal is possible"
        for each in allowed:
            gone = f"when {_told(each.kept)} are kept"
            oracle, dense = zeroed(one, each)
            goal, small = left(one, oracle, dense), slimmed(one, each)
            shapes = [tuple(t.shape) for t in small], [tuple(t.shape) for t in goal]
            if shapes[0] != shapes[1]:
                return f"the slim call gives shapes {shapes[0]} where {shapes[1]} are left {gone}"
            if sample.chance:
                continue
            if not all(map(_close, goal, small)):
                return f"the slim call is off by {_gap(goal, small):.1e} from what is left {gone}"
            disturb(one, each)
            oracle, dense = zeroed(one, each)
            if not all(map(_close, goal, left(one, oracle, dense))):
                return f"what is left depends on what was removed {gone}"
    return ""


def costs_are_counted(sample: Sample) -> str:
    """Multiply-accumulates are what PyTorch's counter sees when the call runs."""
    with lone(sample) as one:
        counted = counted_macs(lambda: one.trace.graph(*one.trace.args))
        said = one.coupling.cost.dense.macs
    if said == counted:
        return ""
    return (
        f"the rule counts {said} multiply-accumulates, PyTorch's counter {counted} "
        "(torch.utils.flop_counter.register_flop_formula tells it what an operator costs)"
    )


def networks_are_proved(sample: Sample) -> str:
    """A network around the call goes through trace, plan, slim and verify, arbitrary units taken out."""
    if sample.chance:
        return ""
    trace = framed(sample)
    trace.memo.clear()  # its rule may be another one by now
    outcome = challenge(trace, plans=() if sample.op in UNPROVED else None)
    return f"{outcome.by}: {outcome.how}" if outcome.by else ""


LAWS: Mapping[str, Law] = {
    "what may go": what_may_go,
    "slim is what is left": slim_is_what_is_left,
    "costs are counted": costs_are_counted,
    "networks are proved": networks_are_proved,
}
"""By name, cheap ones first."""


def _told(kept: Mapping[tuple[str, int], tuple[int, ...]]) -> str:
    return ", ".join(f"{list(index)} of dimension {dim} of {name}" for (name, dim), index in kept.items())


def _real(tensor: torch.Tensor) -> torch.Tensor:
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).double()


def _close(one: torch.Tensor, two: torch.Tensor) -> bool:
    if one.shape != two.shape:
        return False
    if not one.numel() or torch.equal(one, two):
        return True
    one, two = _real(one), _real(two)
    scale = float(one.abs().nan_to_num(0, 0, 0).max()) or 1.0
    return torch.allclose(one, two, rtol=0, atol=EXACT * scale, equal_nan=True)


def _gap(one: list[torch.Tensor], two: list[torch.Tensor]) -> float:
    return max(
        float((_real(a) - _real(b)).abs().nan_to_num().max())
        for a, b in zip(one, two, strict=True)
        if a.numel()
    )
