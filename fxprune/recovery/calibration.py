"""Calibration data: the user's batches as chunks that a graph can be called with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fxprune.errors import FxpruneError
from fxprune.graph.trace import Trace
from fxprune.support.briefly import brief

__all__ = ["Calibration", "gathered", "kept"]

CHUNK = 32
"""Samples of a call, at most."""

FEWEST = 2
"""Samples of a call, at least."""

PARTS = 8
"""One part in so many is held out."""


@brief
@dataclass(frozen=True, eq=False)
class Calibration:
    """Samples.

    Attributes:
        leaves: What one call passes, flat; tensors with a batch hold all samples.
        batched: Numbers of the leaves with a batch.
        size: Samples of one call.
        fixed: Every call must have exactly so many.
    """

    leaves: tuple[object, ...]
    batched: tuple[int, ...]
    size: int
    fixed: bool

    @property
    def samples(self) -> int:
        """How many there are."""
        first = self.leaves[self.batched[0]]
        assert isinstance(first, Tensor)
        return len(first)

    def chunks(self, most: int | None = None) -> list[list[object]]:
        """The samples, or the first of them, call by call; the last of several calls may be smaller."""
        count = self.samples if most is None else min(most, self.samples)
        # A graph for any number of samples need not be one for a single sample.
        least = self.size if self.fixed else min(self.size, FEWEST)
        starts = range(0, count - least + 1, self.size)
        return [self._slice(a, min(a + self.size, count)) for a in starts]

    def count(self, chunks: Sequence[Sequence[object]]) -> int:
        """Samples in some chunks."""
        return sum(len(chunk[self.batched[0]]) for chunk in chunks)  # type: ignore[arg-type, misc]

    def _slice(self, start: int, stop: int) -> list[object]:
        own = set(self.batched)
        return [leaf[start:stop] if k in own else leaf for k, leaf in enumerate(self.leaves)]  # type: ignore[index]


def kept(data: Iterable[object]) -> Iterable[object]:
    """Samples that can be gone through more than once.

    Example:
        >>> twice = kept(iter([1, 2]))
        >>> list(twice), list(twice)
        ([1, 2], [1, 2])
    """
    return data if isinstance(data, (Tensor, np.ndarray)) else list(data)


def gathered(trace: Trace, data: Iterable[object], samples: int, *, fixed: bool = False) -> Calibration:
    """Read batches until there are enough samples.

    Args:
        trace: Its example says what a call looks like.
        data: One tensor; or batches: what the model is called with (a tensor, a tuple of positional arguments, a dict of
            arguments by name), where further entries (labels) are left aside.
        samples: Where to stop.
        fixed: Every call must have as many samples as the graph was made with, also where any number would run.

    Raises:
        FxpruneError: A batch does not fit the example, or there are too few samples.
    """
    example, spec = pytree.tree_flatten((trace.args, dict(trace.kwargs)))
    first = next((t for t in example if isinstance(t, Tensor) and t.ndim), None)
    if first is None:
        raise FxpruneError("the example inputs have no batch", advice="trace the model on a batch of samples")
    batched = tuple(
        k for k, t in enumerate(example) if isinstance(t, Tensor) and t.ndim and t.shape[0] == first.shape[0]
    )
    found: list[list[Tensor]] = []
    count = 0
    for batch in [data] if isinstance(data, (Tensor, np.ndarray)) else data:
        leaves = _leaves(trace, batch, spec)
        found.append([_fitting(leaves[k], example[k]) for k in batched])
        count += len(found[-1][0])
        if count >= samples:
            break
    fixed = fixed or not trace.dynamic_batch
    exact = trace.batch if trace.dynamic_batch else len(first)
    size = exact if fixed else max(FEWEST, min(CHUNK, min(count, samples) // PARTS))
    if count < 2 * size:
        raise FxpruneError(
            f"{count} calibration samples are too few: some to learn from and some to judge by are needed, at least {2 * size}",
            advice="pass more batches; some hundred samples are worth it",
        )
    together = [torch.cat(parts)[:samples] for parts in zip(*found, strict=True)]
    own = dict(zip(batched, together, strict=True))
    return Calibration(tuple(own.get(k, leaf) for k, leaf in enumerate(example)), batched, size, fixed)


def _leaves(trace: Trace, batch: object, spec: pytree.TreeSpec) -> list[object]:
    """What a batch passes, flat."""
    if isinstance(batch, Mapping):
        missing = [n for n in trace.kwargs if n not in batch]
        args: tuple[object, ...] = ()
        if missing or trace.args:
            raise _unfit(f"a mapping with {', '.join(map(str, batch)) or 'nothing'}", trace)
        kwargs = {n: batch[n] for n in trace.kwargs}
    elif isinstance(batch, (tuple, list)):
        args, kwargs = tuple(batch[: len(trace.args)]), dict(trace.kwargs)
    else:
        args, kwargs = (batch,), dict(trace.kwargs)
    args = pytree.tree_map_only(np.ndarray, torch.from_numpy, args)
    leaves, given = pytree.tree_flatten((args, kwargs))
    if given != spec or (trace.kwargs and not isinstance(batch, Mapping)):
        raise _unfit(f"a {type(batch).__name__}", trace)
    return leaves


def _fitting(value: object, example: object) -> Tensor:
    assert isinstance(example, Tensor)
    if not isinstance(value, Tensor) or value.shape[1:] != example.shape[1:] or value.ndim != example.ndim:
        shown = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise FxpruneError(
            f"a calibration batch holds {shown} where the example has {list(example.shape)}",
            advice="sizes other than the first must be those of the example inputs",
        )
    if value.dtype != example.dtype:
        raise FxpruneError(
            f"a calibration batch is of {value.dtype} where the example is of {example.dtype}",
            advice="prepare it as the model's inputs are: scaled, normalised, in the same type",
        )
    return value.detach().to(example.device)


def _unfit(what: str, trace: Trace) -> FxpruneError:
    names = [f"{len(trace.args)} positional arguments"] * bool(trace.args) + list(trace.kwargs)
    return FxpruneError(
        f"a calibration batch is {what}, and the model was traced on {', '.join(names)}",
        advice="pass batches as the example inputs were: a tensor, a tuple of arguments or a dict; labels may follow in a tuple",
    )
