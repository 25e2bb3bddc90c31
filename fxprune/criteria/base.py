"""What a criterion sees of a model, and what it must offer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np

from fxprune.coupling.groups import Coupling
from fxprune.errors import PlanError
from fxprune.labels import FloatArray
from fxprune.plans import Axis
from fxprune.support.briefly import brief

if TYPE_CHECKING:  # which criteria there are is asked on a command line, where torch takes seconds
    import torch

__all__ = ["Criterion", "Evidence", "Members", "Need", "Normalise", "View", "slice_sums"]

Need = Literal["gradients", "activations"]
Members = Literal["all", "producers"]
Normalise = Literal["mean", "none"]
Map = Callable[["torch.Tensor"], "torch.Tensor"]

CHUNK = 1 << 18
"""Weight elements that are mapped at once: the intermediate stays in the processor's cache."""


@brief
@dataclass(frozen=True, eq=False)
class Evidence:
    """What was seen while the user's batches ran.

    Attributes:
        products: float64[batches, size] per axis: for each batch the sum of weight x gradient over
            the slice of each index.
        squares: float64[size] per axis: mean over batches of the sum of (weight x gradient)^2.
        activations: float64[size] per producer axis: mean absolute output of each index.
    """

    products: Mapping[Axis, FloatArray] = field(default_factory=dict)
    squares: Mapping[Axis, FloatArray] = field(default_factory=dict)
    activations: Mapping[Axis, FloatArray] = field(default_factory=dict)


@brief
@dataclass(frozen=True, eq=False)
class View:
    """A model as a criterion sees it: units, weights and evidence.

    Attributes:
        coupling: Units, groups and axes.
        tensor: Parameter or buffer by name.
        batch_norms: Names of batch-norm scale parameters.
        evidence: What the user's batches showed.
        seed: Seed of everything random.
    """

    coupling: Coupling
    tensor: Callable[[str], torch.Tensor]
    batch_norms: frozenset[str] = frozenset()
    evidence: Evidence = field(default_factory=Evidence)
    seed: int = 0

    def axes(self, members: Members) -> list[Axis]:
        """Axes along which units are made, and with ``"all"`` those along which they are summed over."""
        axes: dict[Axis, None] = {}
        for group in self.coupling.groups:
            if group.pinned is None:
                axes.update(dict.fromkeys(group.producers))
                if members == "all":
                    axes.update(dict.fromkeys(group.consumers))
        return list(axes)

    def weight(self, name: str) -> torch.Tensor:
        """A weight to read.

        Raises:
            PlanError: It has no values.
        """
        tensor = self.tensor(name).detach()
        if tensor.is_meta:
            raise PlanError(
                "the weights are on the meta device, so there is nothing to score",
                tensor=name,
                advice="load weights first, or plan by shape alone with criterion='random'",
            )
        return tensor

    def gather(self, values: Mapping[Axis, FloatArray]) -> FloatArray:
        """Sum values of positions into their units.

        Args:
            values: float64[..., size] for some axes.

        Returns:
            float64[..., n_units]; NaN for units that occupy none of these axes.
        """
        leading = next((v.shape[:-1] for v in values.values()), ())
        total = np.zeros((self.coupling.n_units, *leading))
        seen = np.zeros(self.coupling.n_units, bool)
        for axis, value in values.items():
            units = self.coupling.axes[axis]
            np.add.at(total, units, np.moveaxis(value, -1, 0))
            seen[units] = True
        total[~seen] = np.nan
        return np.moveaxis(total, 0, -1)

    def sums(self, members: Members, element: Map) -> FloatArray:
        """Sum ``element(weight)`` over the weights of each unit: float64[n_units], NaN where it has none."""
        dims: dict[str, list[int]] = {}
        for name, dim in self.axes(members):
            dims.setdefault(name, []).append(dim)
        values: dict[Axis, FloatArray] = {}
        for name, at in dims.items():
            for dim, value in zip(at, slice_sums(self.weight(name), at, element), strict=True):
                values[name, dim] = value
        return self.gather(values)


@runtime_checkable
class Criterion(Protocol):
    """An importance criterion: a number for each unit, low for what may go.

    Attributes:
        name: Name in the registry.
        needs: Evidence that the user's batches must provide.
        normalise: ``"mean"`` divides by the group's mean, so that groups of different layers compare under
            ``scope="global"``; ``"none"`` leaves values that already compare.
    """

    @property
    def name(self) -> str:
        """Name in the registry."""
        ...

    @property
    def needs(self) -> frozenset[Need]:
        """Evidence that the user's batches must provide."""
        ...

    @property
    def normalise(self) -> Normalise:
        """How scores of different groups are made comparable."""
        ...

    def score(self, view: View) -> FloatArray:
        """Importance float64[n_units], NaN where the criterion has nothing to say."""
        ...


def slice_sums(weight: torch.Tensor, dims: Iterable[int], element: Map) -> list[FloatArray]:
    """Sum ``element(weight)`` over everything but one dimension, for several dimensions in one reading.

    Args:
        weight: Any tensor.
        dims: Dimensions to keep, each alone.
        element: Elementwise map.

    Returns:
        float64[size of the dimension] for each of ``dims``.

    Example:
        >>> import torch
        >>> [sums.tolist() for sums in slice_sums(torch.tensor([[1.0, -2.0], [3.0, 4.0]]), (0, 1), torch.abs)]
        [[3.0, 7.0], [4.0, 6.0]]
    """
    import torch

    dims = tuple(dims)
    rows = weight.reshape(weight.shape[0], -1)
    step = max(1, CHUNK // max(1, rows.shape[1]))
    lengths: list[torch.Tensor] = []
    across = torch.zeros(rows.shape[1], dtype=torch.float64, device=weight.device)
    for start in range(0, len(rows), step):
        chunk = element(rows[start : start + step].float())
        if 0 in dims:
            lengths.append(chunk.sum(1))
        if dims != (0,):
            across += chunk.sum(0)  # within a chunk float32 suffices: torch adds in pairs
    inner = across.reshape(weight.shape[1:])
    results: list[FloatArray] = []
    for dim in dims:
        if dim == 0:
            value = torch.cat(lengths)
        else:
            rest = [d for d in range(inner.ndim) if d != dim - 1]
            value = inner.sum(rest) if rest else inner
        results.append(value.cpu().numpy().astype(np.float64))
    return results
