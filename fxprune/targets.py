"""Facts about runtimes, as data: what a plan and an export must know so that fewer channels mean less time.

onnxruntime's CPU convolutions work on blocks of channels, 16 with AVX-512 and 8 without.  What it costs to be off the
block was measured with ``python tools/runtime_facts.py`` (``tools/results/RUNTIME.md`` has the table: onnxruntime
1.30, AVX-512); that of an AVX2 machine is taken to be alike, with blocks of 8.  The facts in short:

* Multiples of 4 run in blocks and cost as much as the next whole block (24 as 32, 100 as 112).
* Other widths run another kernel and are slower than the next block: 127 channels 1.3 to 1.5 times as slow as 128;
  depthwise ones many times.
* Below one block 1x1 convolutions are up to 3 times slower than at one block, 3x3 about equal.
* A grouped convolution runs in blocks only if each group reads and makes whole blocks; with zeros between them, several
  narrow groups make one block (8 channels a group: 2.2 times as fast).
* Linear layers have no steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from fxprune.errors import PlanError

__all__ = ["DEFAULT_TARGET", "Target", "get", "names"]

DEFAULT_TARGET = "onnxruntime-cpu"


# Speed by width, relative to the blocked kernel at 128 channels: channels, share.
Curve = tuple[tuple[int, float], ...]
_BLOCKED: Curve = ((16, 0.55), (32, 0.83), (48, 0.95), (128, 1.0))
_PLAIN: Curve = ((8, 0.34), (12, 0.33), (15, 0.38), (30, 0.40), (62, 0.58), (97, 0.65), (127, 0.67))
_PLAIN_POINTWISE: Curve = ((8, 0.07), (12, 0.09), (15, 0.11), (30, 0.43), (62, 0.67), (97, 0.70), (127, 0.73))
_NARROW: Curve = ((2, 0.06), (4, 0.10), (8, 0.15), (12, 0.22), (24, 0.36), (48, 0.60))
_DEPTHWISE, _DEPTHWISE_PLAIN = 0.40, 0.045

_QUARTER = 4
"""Channels: multiples of it run in blocks, filled up."""


@dataclass(frozen=True)
class Target:
    """A runtime on a kind of machine.

    Attributes:
        name: Under which `get` knows it.
        channel_step: Channels of a block; widths of convolutions (per group) are best multiples of it.  1 where
            nothing is known: then no width is better than another.
    """

    name: str
    channel_step: int

    def filled(self, channels: int) -> int:
        """Channels up to the next whole block.

        Example:
            >>> get("onnxruntime-cpu-avx512").filled(100)
            112
        """
        return -(-channels // self.channel_step) * self.channel_step

    def convolution(self, inputs: int, outputs: int, taps: int, groups: int = 1) -> float:
        """What a convolution costs at every pixel, in multiply-accumulates at the speed of 128 channels.

        Args:
            inputs: Channels that it reads, over all groups.
            outputs: Channels that it makes.
            taps: Pixels that its kernel reads.
            groups: Groups.

        Example:
            >>> avx512 = get("onnxruntime-cpu-avx512")
            >>> avx512.convolution(98, 98, 9) > avx512.convolution(112, 112, 9)
            True
        """
        if self.channel_step == 1:
            return inputs * outputs * taps / groups
        own = inputs // groups, outputs // groups
        if groups > 1 and own == (1, 1):
            in_blocks = groups % _QUARTER == 0
            return self.filled(groups) * taps / _DEPTHWISE if in_blocks else groups * taps / _DEPTHWISE_PLAIN
        if groups > 1:
            in_blocks = own[0] % self.channel_step == 0 and own[1] % self.channel_step == 0
            return groups * own[0] * own[1] * taps / _at(_BLOCKED if in_blocks else _NARROW, min(own))
        if inputs % _QUARTER == 0 and outputs % _QUARTER == 0 and min(own) >= self.channel_step:
            full = self.filled(inputs), self.filled(outputs)
            return full[0] * full[1] * taps / _at(_BLOCKED, min(full))
        return inputs * outputs * taps / _at(_PLAIN if taps > 1 else _PLAIN_POINTWISE, min(own))

    def groups_together(self, groups: int, inputs: int, outputs: int) -> int:
        """How many neighbouring groups to make one, with zeros between them.

        Args:
            groups: Groups.
            inputs: Channels that each of them reads.
            outputs: Channels that each of them makes.

        Example:
            >>> target = get("onnxruntime-cpu-avx512")
            >>> target.groups_together(26, 8, 8), target.groups_together(13, 8, 8), target.groups_together(4, 32, 32)
            (2, 1, 1)
        """
        if inputs == outputs == 1:
            return 1
        divisors = [n for n in range(1, groups + 1) if groups % n == 0]
        return min(
            divisors, key=lambda n: self.convolution(groups * inputs, groups * outputs, 1, groups // n)
        )


def _at(curve: Curve, channels: int) -> float:
    widths, shares = zip(*curve, strict=True)
    return float(np.interp(channels, np.array(widths), np.array(shares)))


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
