"""Parameters and multiply-accumulates as exact functions of a keep mask.

Counted: parameter elements (each parameter once, however often it is used), and the
multiply-accumulates of convolutions, linear and recurrent layers, products of matrices and vectors
(attention included) and Fourier transforms (``fxprune.ops.flops`` has the convention) for one sample.
Not counted: buffers, biases' additions, normalisation, activations, gates, pooling, softmax, sampling,
and anything else without a weight or a product of matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from fxprune.graph.trace import common_batch
from fxprune.labels import BoolArray, IntArray
from fxprune.models.copies import unchanged_buffers
from fxprune.ops.flops import FORMULAS
from fxprune.plans import Cost
from fxprune.support.briefly import brief
from fxprune.support.process import no_fast_path, untouched_random_state

__all__ = ["CostBuilder", "CostModel", "Terms", "counted_macs", "measure"]

MAX_FACTORS = 8
"""Most factors in one term: a parameter with this many axes (a 3-D convolution's weight has five)."""


@brief
@dataclass(frozen=True, eq=False)
class Terms:
    """A sum of ``const * product of forms / divisor``.

    Attributes:
        const: int64[t].
        factors: int64[t, k], form indices; -1 stands for no factor.
        divisor: int64[t], form index or -1.
    """

    const: IntArray
    factors: IntArray
    divisor: IntArray

    def values(self, forms: IntArray) -> IntArray:
        """The value of each term.

        Args:
            forms: int64[..., n_forms], values of the forms.

        Returns:
            int64[..., t].
        """
        # Index -1 reads the 1 that is appended, so absent factors cost no branch.
        one = np.ones((*forms.shape[:-1], 1), np.int64)
        padded = np.concatenate([forms, one], axis=-1)
        every = np.arange(len(self.const))
        return self.of(every, padded[..., self.factors], padded[..., self.divisor])

    def of(self, term: IntArray, factors: IntArray, divisor: IntArray) -> IntArray:
        """The values of some terms at some values of their forms.

        Args:
            term: int64[n], which terms.
            factors: int64[..., n, k], values of the forms of each.
            divisor: int64[..., n], the same of the divisor, 1 where there is none.
        """
        total: IntArray = self.const[term] * factors.prod(axis=-1)
        if (self.divisor >= 0).any():
            # An empty divisor means that everything it divides is empty as well.
            total //= np.maximum(divisor, 1)
        return total


@brief
@dataclass(frozen=True, eq=False)
class CostModel:
    """Cost of the model when only some units are kept, in exact integers.

    A *form* counts the positions of an axis that are still there: its offset (positions that
    carry no unit) plus how many positions belong to each kept unit.

    Attributes:
        forms: int64 csr [n_forms, n_units], positions of each unit in each form.
        offsets: int64[n_forms], positions without units.
        params: Terms that add up to the number of parameters.
        macs: Terms that add up to the multiply-accumulates of all samples.
        samples: Number of samples that ``macs`` is for.

    Example:
        >>> build = CostBuilder()
        >>> out = build.form(np.array([0, 1, 2, 3]))
        >>> build.add_params(9 * 3, out)
        >>> build.add_macs(9 * 3 * 64, out)
        >>> model = build.build(np.arange(4))
        >>> model.dense, model.cost(np.array([True, False, True, False]))
        (Cost(params=108, macs=6912), Cost(params=54, macs=3456))
    """

    forms: csr_array
    offsets: IntArray
    params: Terms
    macs: Terms
    samples: int = 1

    def counts(self, keep: BoolArray) -> IntArray:
        """Positions left in each form: int64[n_forms] for a mask bool[n_units]."""
        return np.asarray(self.forms @ keep.astype(np.int64) + self.offsets)

    def cost(self, keep: BoolArray) -> Cost:
        """Cost when exactly the units of ``keep`` (bool[n_units]) stay."""
        return self.of_counts(self.counts(keep))

    def of_counts(self, counts: IntArray) -> Cost:
        """Cost for given form values, int64[n_forms]."""
        return Cost(
            params=int(self.params.values(counts).sum()),
            macs=int(self.macs.values(counts).sum()) // self.samples,
        )

    @cached_property
    def dense(self) -> Cost:
        """Cost when every unit stays."""
        return self.cost(np.ones(self.forms.shape[1], bool))


@dataclass
class _TermList:
    """Terms while they are being collected."""

    const: list[int] = field(default_factory=list)
    factors: list[tuple[int, ...]] = field(default_factory=list)
    divisor: list[int] = field(default_factory=list)

    def add(self, const: int, factors: tuple[int, ...], divisor: int | None) -> None:
        assert len(factors) <= MAX_FACTORS, f"a term of {len(factors)} factors"
        self.const.append(int(const))
        self.factors.append(factors + (-1,) * (MAX_FACTORS - len(factors)))
        self.divisor.append(-1 if divisor is None else divisor)

    def build(self, renumber: IntArray) -> Terms:
        """Terms over renumbered forms; ``renumber`` ends with -1 so that absent stays absent."""
        factors = renumber[np.array(self.factors, np.int64).reshape(-1, MAX_FACTORS)]
        # Most terms have two factors: drop the columns that nobody fills.
        used = max(1, int((factors >= 0).any(axis=0).sum()))
        return Terms(
            const=np.array(self.const, np.int64),
            factors=np.ascontiguousarray(factors[:, :used]),
            divisor=renumber[np.array(self.divisor, np.int64)],
        )


class CostBuilder:
    """Collects forms and terms over labels while a graph is walked, before ties are closed."""

    def __init__(self) -> None:
        self._index: dict[tuple[bytes, int], int] = {}
        self._labels: list[IntArray] = []
        self._offsets: list[int] = []
        self._params = _TermList()
        self._macs = _TermList()

    def form(self, labels: IntArray, offset: int = 0) -> int:
        """The number of positions that carry these labels, plus some that carry none.

        Args:
            labels: int64[n], label of each position; one may occur several times.
            offset: Positions without a label.

        Returns:
            Index of the form; equal arguments give the same form.
        """
        labels = np.ascontiguousarray(labels, np.int64).reshape(-1)
        key = (labels.tobytes(), offset)
        index = self._index.setdefault(key, len(self._labels))
        if index == len(self._labels):
            self._labels.append(labels)
            self._offsets.append(int(offset))
        return index

    def add_params(self, const: int, *forms: int) -> None:
        """Add ``const * product of forms`` parameters (``const`` alone for a fixed tensor)."""
        self._params.add(const, forms, None)

    def add_macs(self, const: int, *forms: int, divisor: int | None = None) -> None:
        """Add ``const * product of forms / divisor`` multiply-accumulates of one run."""
        self._macs.add(const, forms, divisor)

    def build(self, unit_of_label: IntArray, *, samples: int = 1) -> CostModel:
        """Close the model over units.

        Args:
            unit_of_label: int64[n_labels], the unit of each label after ties are closed.
            samples: Batch size of the shapes that were walked; MACs are given for one sample.
        """
        sizes = np.array([len(labels) for labels in self._labels], np.int64)
        empty = np.zeros(0, np.int64)
        units = np.asarray(unit_of_label, np.int64)[np.concatenate([*self._labels, empty])]
        n_units = int(unit_of_label.max(initial=-1)) + 1
        offsets = np.array(self._offsets, np.int64)
        first, renumber = _distinct(units, sizes, offsets)
        indptr = np.concatenate([[0], np.cumsum(sizes)])
        forms = csr_array((np.ones(len(units), np.int64), units, indptr), shape=(len(sizes), n_units))[first]
        forms.sum_duplicates()
        renumber = np.append(renumber, -1)
        return CostModel(
            forms, offsets[first], self._params.build(renumber), self._macs.build(renumber), samples
        )


def _distinct(units: IntArray, sizes: IntArray, offsets: IntArray) -> tuple[IntArray, IntArray]:
    """First occurrence of each distinct form, and the distinct form of each given one.

    After ties are closed the axes of a convolution, its bias and its batch norm are one form.
    Forms are compared as multisets of units, by the sum of a random 128-bit mark per unit:
    sorting thousands of label arrays would cost more than the rest of the model.
    """
    n_units = int(units.max(initial=-1)) + 1
    marks = np.random.default_rng(0).integers(0, 2**63, (2, n_units), np.int64).view(np.uint64)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    sums = np.zeros((len(sizes), 4), np.uint64)
    for column, mark in enumerate(marks):
        np.add.at(sums[:, column], owner, mark[units])
    sums[:, 2], sums[:, 3] = sizes, offsets
    _, first, inverse = np.unique(sums, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[inverse.reshape(-1)]


def counted_macs(run: Callable[[], object]) -> int:
    """Multiply-accumulates of whatever runs, as PyTorch's counter sees them (half its operations).

    Example:
        >>> counted_macs(lambda: torch.zeros(2, 3) @ torch.zeros(3, 5))
        30
    """
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        run()
    return int(counter.get_total_flops()) // 2


def measure(module: nn.Module, args: Sequence[object], kwargs: Mapping[str, object] | None = None) -> Cost:
    """The real cost of any module, counted while it runs.

    Runs the module once without gradients in its current mode, on copies of the arguments.  Buffers
    (the statistics of batch norm in training mode, say) and random numbers are put back afterwards.

    Args:
        module: Any module.
        args: Positional arguments; the leading dimension of the first tensor is the batch, or, where tensors lie in lists and
            dictionaries only, the one that all share.
        kwargs: Keyword arguments.

    Returns:
        Parameter elements, and multiply-accumulates per sample as PyTorch's own counter sees
        them (half its floating-point operations), with ``fxprune.ops.flops`` where it sees none.

    Example:
        >>> measure(nn.Conv2d(3, 8, 3), (torch.zeros(2, 3, 10, 10),))
        Cost(params=224, macs=13824)
    """
    kwargs = dict(kwargs or {})
    mine, named = pytree.tree_map_only(torch.Tensor, torch.clone, (tuple(args), kwargs))
    with (
        unchanged_buffers(module),
        untouched_random_state(),
        # The fused attention module is one opaque op, which the counter takes for nothing.
        no_fast_path(),
    ):
        macs = counted_macs(lambda: module(*mine, **named))
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
    batch = next(
        (tensor.shape[0] for tensor in tensors if tensor.ndim), common_batch(tuple(args), kwargs) or 1
    )
    params = sum(parameter.numel() for parameter in module.parameters())
    return Cost(params=params, macs=macs // batch)
