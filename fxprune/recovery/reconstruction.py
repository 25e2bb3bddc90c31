"""What a unit's removal costs once the layers that read it have been solved for: a criterion that knows the data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fxprune.coupling.couple import analyse
from fxprune.coupling.groups import Coupling
from fxprune.criteria.base import Need, Normalise, View
from fxprune.graph.trace import Trace
from fxprune.graph.values import Calls
from fxprune.labels import FloatArray, IntArray
from fxprune.recovery.calibration import gathered
from fxprune.recovery.layers import Layer, layer_of
from fxprune.recovery.lockstep import Side
from fxprune.recovery.visit import ROWS
from fxprune.support.process import untouched_random_state

__all__ = ["Reconstruction"]

RIDGE = 1e-2
"""As recovery's: relative to the mean of the inputs' variances."""


class Reconstruction:
    """Squared error that is left of each layer when a unit goes and the layer is solved for again, added over the layers that read it.

    For a layer ``y = W x`` with centred second moments ``S`` of its inputs, and the inputs ``u`` of one unit:
    ``I(u) = tr(W_u [(S^-1)_uu]^-1 W_u^T) / tr(W S W^T)``.  Units are looked at one by one, as if no other went.

    Args:
        trace: The model, with the weights that are to be judged.
        data: Batches as the model is called with, as for ``recover``.
        samples: To use at most.
        normalise: ``"none"`` leaves errors, which compare over layers; ``"mean"`` divides by the group's mean.
        seed: Of the positions that are drawn in large feature maps.

    References:
        Hassibi and Stork, "Second Order Derivatives for Network Pruning: Optimal Brain Surgeon", NIPS 1992, eq. 5, for
        blocks of weights, with the moments of a layer's inputs in the place of the Hessian.
    """

    name = "reconstruction"
    needs = frozenset[Need]()

    def __init__(
        self,
        trace: Trace,
        data: Iterable[object],
        *,
        samples: int = 512,
        normalise: Normalise = "none",
        seed: int = 0,
    ) -> None:
        self.normalise: Literal["mean", "none"] = normalise
        with torch.no_grad(), untouched_random_state():
            self.units = _costs(trace, data, samples, seed)

    def score(self, view: View) -> FloatArray:
        """Importance float64[n_units]."""
        del view
        return self.units


def _costs(trace: Trace, data: Iterable[object], samples: int, seed: int) -> FloatArray:
    coupling = analyse(trace).coupling
    total, seen = np.zeros(coupling.n_units), np.zeros(coupling.n_units, bool)
    for layer, rows in _inputs(trace, data, samples, seed):
        weight = trace.tensor(layer.weight)
        columns = _columns(coupling, layer, weight, trace.aliases)
        if columns is None:
            continue
        units, costs = _removal_costs(layer.matrix(weight)[0].double(), rows, columns)
        np.add.at(total, units, costs)
        seen[units] = True
    total[~seen] = np.nan
    return total


def _inputs(trace: Trace, data: Iterable[object], samples: int, seed: int) -> Iterator[tuple[Layer, Tensor]]:
    """Every layer of one group, with rows of its inputs."""
    graph = trace.graph.graph
    names = {str(n.target) for n in graph.nodes if n.op == "get_attr"}
    tensors = {n: trace.tensor(n) for n in names}
    side, random = Side(Calls(graph, tensors)), torch.Generator().manual_seed(seed)
    chunks = gathered(trace, data, samples, fixed=analyse(trace).counts_samples).chunks()
    side.begin(chunks)
    most = -(-ROWS // len(chunks))
    for node in graph.nodes:
        layer = layer_of(node, tensors)
        if isinstance(layer, Layer) and len(layer.matrix(tensors[layer.weight])) == 1:
            found = []
            for k in range(len(chunks)):
                x, y = side.value(layer.x, k), side.call(node, k)
                assert isinstance(x, Tensor) and isinstance(y, Tensor)
                found.append(layer.rows(x, y, most, random)[0][0].float())
            yield layer, torch.cat(found)
        side.run(node)


def _columns(coupling: Coupling, layer: Layer, weight: Tensor, aliases: Mapping[str, str]) -> IntArray | None:
    """The unit of each input of a layer; None where its inputs are no units."""
    name = aliases.get(layer.weight, layer.weight)
    for dim in range(weight.ndim):
        units = coupling.axes.get((name, dim))
        if units is None:
            continue
        shape = [-1 if d == dim else 1 for d in range(weight.ndim)]
        matrix = layer.matrix(torch.from_numpy(units).reshape(shape).expand(weight.shape))[0]
        # Along the inputs the units differ from column to column, and are the same in every row.
        if bool((matrix == matrix[:1]).all()) and not bool((matrix[0] == matrix[0, 0]).all()):
            return matrix[0].numpy()
    return None


def _removal_costs(matrix: Tensor, rows: Tensor, columns: IntArray) -> tuple[IntArray, FloatArray]:
    """Units that a layer reads, and what the removal of each costs it."""
    rows = rows - rows.mean(0)
    moments = (rows.T @ rows).double() / len(rows)
    whole = float((matrix @ moments * matrix).sum())
    tiny = torch.finfo(torch.float64).tiny
    moments.diagonal().add_(RIDGE * float(moments.diagonal().mean()) + tiny)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
    units, counts = np.unique(columns, return_counts=True)
    order = np.argsort(columns, kind="stable")
    starts = np.cumsum(counts) - counts
    costs = np.zeros(len(units))
    for count in np.unique(counts):
        mine = counts == count
        index = torch.from_numpy(order[starts[mine][:, None] + np.arange(count)])  # units, inputs of each
        blocks = inverse[index[:, :, None], index[:, None, :]]
        weights = matrix[:, index].permute(1, 2, 0)  # units, inputs, outputs
        each = (weights * torch.linalg.solve(blocks, weights)).sum((1, 2))
        costs[mine] = each.cpu().numpy() / max(whole, tiny)
    return units, costs
