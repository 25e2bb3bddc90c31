"""Facts about runtimes, as data: what a plan must know so that fewer channels mean less time.

onnxruntime's CPU convolutions work on blocks of channels, 16 with AVX-512 and 8 without.  Their
time is a staircase with steps of that width, and a width off the step is *slower than the next
wider step*: six 3x3 layers at 28x28 took, relative to 128 channels, 1.23 with 127, 0.76 with 98
and 0.59 with 96.  Linear layers have no steps.

A runtime's latency is to be predicted from its measured layers, by a cost model that belongs in
this module's `Target` when there is one; the facts here are widths only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from fxprune.errors import PlanError

__all__ = ["DEFAULT_TARGET", "Target", "get", "names"]

DEFAULT_TARGET = "onnxruntime-cpu"


@dataclass(frozen=True)
class Target:
    """A runtime on a kind of machine.

    Attributes:
        name: Under which `get` knows it.
        channel_step: Channels; widths of convolutions (per group) are best multiples of it.
    """

    name: str
    channel_step: int


def get(name: str = DEFAULT_TARGET) -> Target:
    """The facts about a runtime.

    Args:
        name: One of `names`.

    Raises:
        PlanError: There is no such target.

    Example:
        >>> get("onnxruntime-cpu-avx512").channel_step
        16
    """
    if name == DEFAULT_TARGET:
        return _this_machine()  # when asked, not when imported: a plan may be for another machine
    if name not in _FIXED:
        raise PlanError(f"there is no target '{name}'", advice=f"choose from {', '.join(names())}")
    return _FIXED[name]


def names() -> tuple[str, ...]:
    """The known targets."""
    return (DEFAULT_TARGET, *_FIXED)


def _this_machine() -> Target:
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return Target(DEFAULT_TARGET, (_AVX512 if wide else _AVX2).channel_step)


_AVX512 = Target("onnxruntime-cpu-avx512", 16)
_AVX2 = Target("onnxruntime-cpu-avx2", 8)
_ANY = Target("any", 1)

_FIXED: Mapping[str, Target] = {target.name: target for target in (_AVX512, _AVX2, _ANY)}
