"""Sums of products skip every pair of which one is gone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fxprune.models.conditions import Values
from fxprune.proof.masks.call import Call, Law, Result, Unknown, merged, mixed
from fxprune.proof.masks.states import ALIVE, DEAD, FREE

__all__ = [
    "attention",
    "contracted",
    "convolution",
    "deformed",
    "distances",
    "folded",
    "glu",
    "scattered",
    "weight_norm",
]


def contracted(*operands: str, added: Sequence[str] = ()) -> Law:
    """Sums of products: a pair of which one is gone is skipped, and what has no pair left is gone."""

    def law(call: Call) -> Result:
        filled = {n: call.without(n) for n in (*operands, *added) if isinstance(call[n], Tensor)}
        result = call.run(**filled)
        assert isinstance(result, Tensor)
        left = {n: (call.state(call.tensor(n)) != DEAD).to(torch.float64) for n in operands}
        whole: Values = {
            n: torch.zeros(call.tensor(n).shape, dtype=torch.float64) for n in added if n in filled
        }
        scalars: Values = {n: 1 for n in ("alpha", "beta") if n in call.values}
        pairs = call.func(**{**call.values, **left, **whole, **scalars})
        state = torch.where(pairs > 0, ALIVE, DEAD).to(torch.uint8)
        for name in added:
            if name in filled:
                state = torch.maximum(state, call.state(call.tensor(name)).clamp_min(ALIVE))
        return result, state

    return law


def convolution(call: Call) -> Result:
    """Channels that are gone are skipped; a filter that is gone, or that reads nothing any more, leaves nothing."""
    names = [n for n in ("input", "weight", "bias") if isinstance(call[n], Tensor)]
    result = call.run(**{n: call.without(n) for n in names})
    assert isinstance(result, Tensor)
    groups, transposed = int(call["groups"]), bool(call["transposed"])  # type: ignore[call-overload]
    weight = call.state(call.tensor("weight")) != DEAD
    taps = weight.flatten(2).any(2)
    place = list(range(2, call.tensor("input").ndim))
    x = call.state(call.tensor("input"))
    # Padding is nothing that a filter reads, so that its borders have to be looked at where places are gone.
    if mixed(x, place):
        if transposed or weight[0, 0].numel() > 1:
            raise Unknown(f"{call.func} works across positions that are gone")
        stride = call["stride"]
        assert isinstance(stride, (list, tuple))
        if any(s != 1 for s in stride) or any(p != 0 for p in call["padding"]):  # type: ignore[attr-defined]
            raise Unknown(f"{call.func} works across positions that are gone")
        channels = x != DEAD
    else:
        channels = merged(x, place, keepdim=True) != DEAD
    n, _, *space = channels.shape
    rows = channels.reshape(n, groups, -1, math.prod(space)).double()
    if transposed:
        pairs = torch.einsum("ngcs,gco->ngos", rows, taps.reshape(groups, -1, taps.shape[1]).double())
    else:
        pairs = torch.einsum("ngcs,goc->ngos", rows, taps.reshape(groups, -1, taps.shape[1]).double())
    state = torch.where(pairs > 0, ALIVE, DEAD).to(torch.uint8).reshape(n, -1, *space)
    if "bias" in names:
        state = torch.maximum(
            state, call.state(call.tensor("bias")).clamp_min(ALIVE).reshape(-1, *[1] * len(space))
        )
    return result, state.expand(result.shape)


def scattered(*kept: str, source: str) -> Law:
    """Sums into places: what is gone is skipped, and channels that are gone everywhere in the source stay gone."""

    def law(call: Call) -> Result:
        into, x = call.state(call.tensor("self")), call.tensor(source)
        state = call.state(x)
        dim = call.dims("dim") if "dim" in call.values else [0]
        result = call.run(**{source: call.without(source), "self": call.tensor("self").clone()})
        assert isinstance(result, Tensor)
        if not mixed(state, dim) and state.ndim == into.ndim:
            line = merged(state, dim, keepdim=True)
            if all(n in (1, m) for n, m in zip(line.shape, into.shape)):
                return result, torch.maximum(into, line.expand(into.shape))
        if not bool((state == DEAD).any()):
            return result, torch.maximum(into, torch.full((), ALIVE, dtype=torch.uint8))
        raise Unknown(f"{call.func} adds what is gone to what is left")

    return law


def folded(call: Call) -> Result:
    """Overlapping windows are summed: what is gone is skipped."""
    name = call.first()
    state = call.state(call.tensor(name))
    result = call.run(**{name: call.without(name)})
    left, gone = (call.func(**{**call.values, name: (state == s).double()}) for s in (ALIVE, DEAD))
    return result, torch.where(left > 0, ALIVE, torch.where(gone > 0, DEAD, FREE)).to(torch.uint8)


def distances(call: Call) -> Result:
    """Distances over the last dimension: coordinates of which one is gone are skipped."""
    a, b = call.state(call.tensor("x1")), call.state(call.tensor("x2"))
    gone = [s == DEAD for s in (a, b)]
    columns = [g.reshape(-1, g.shape[-1]) for g in gone]
    if any(bool((c != c[:1]).any()) for c in columns):
        raise Unknown(f"{call.func} compares points that have lost different coordinates")
    either = columns[0][0] | columns[1][0]
    filled = {n: torch.where(either, 0, call.tensor(n)) for n in ("x1", "x2")}
    return call.run(**filled), torch.full((), ALIVE, dtype=torch.uint8)


def deformed(call: Call) -> Result:
    """A convolution whose places are computed: by channel, where all places are left."""
    for name in ("offset", "mask"):
        if bool((call.state(call.tensor(name)) == DEAD).any()):
            raise Unknown(f"'{name}' of {call.func} has lost something")
    x, weight = call.state(call.tensor("input")), call.state(call.tensor("weight")) != DEAD
    if mixed(x, [2, 3]):
        raise Unknown(f"{call.func} works across positions that are gone")
    result = call.run(**{n: call.without(n) for n in ("input", "weight", "bias")})
    assert isinstance(result, Tensor)
    groups = int(call["groups"])  # type: ignore[call-overload]
    rows = (merged(x, [2, 3], keepdim=False) != DEAD).reshape(len(x), groups, -1).double()
    taps = weight.flatten(2).any(2)
    pairs = torch.einsum("ngc,goc->ngo", rows, taps.reshape(groups, -1, taps.shape[1]).double())
    state = torch.where(pairs > 0, ALIVE, DEAD).to(torch.uint8).reshape(len(x), -1)
    state = torch.maximum(state, call.state(call.tensor("bias")).clamp_min(ALIVE))
    return result, state[..., None, None].expand(result.shape)


def attention(call: Call) -> object:
    """Fused attention by matrix products and a softmax; the scale is that of the dense width."""
    query, key, value = (call.tensor(n) for n in ("query", "key", "value"))
    shared = query.shape[-3] // key.shape[-3]
    if shared > 1:
        key, value = (t.repeat_interleave(shared, -3) for t in (key, value))
    scale = query.shape[-1] ** -0.5 if call["scale"] is None else float(call["scale"])  # type: ignore[arg-type]
    scores = (query * scale) @ key.transpose(-2, -1)
    mask = call["attn_mask"] if call["attn_mask"] is not None else call["attn_bias"]
    if call["is_causal"]:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if isinstance(mask, Tensor):
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    blind = (scores == -math.inf).all(-1, keepdim=True)
    mixed_values = scores.softmax(-1).masked_fill(blind, 0.0) @ value
    return mixed_values, mixed_values.new_zeros(mixed_values.shape[:-1])


def glu(call: Call) -> object:
    """One half gated by the other."""
    one, two = call.tensor("self").chunk(2, int(call["dim"]))  # type: ignore[call-overload]
    return one * two.sigmoid()


def weight_norm(call: Call) -> object:
    """Direction and length of each filter."""
    v, dim = call.tensor("v"), int(call["dim"])  # type: ignore[call-overload]
    others = [d for d in range(v.ndim) if d != dim % v.ndim]
    length = torch.linalg.vector_norm(v, 2, others, keepdim=True)
    return (v * (call.tensor("g") / length), length)
