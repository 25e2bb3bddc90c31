"""Function-preserving permutation of channels: the important ones first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxprune.coupling.groups import Group
from fxprune.errors import PlanError
from fxprune.graph.trace import Trace, evaluating
from fxprune.labels import IntArray
from fxprune.regularizers.terms.layout import find_parameters, row_layout
from fxprune.regularizers.terms.local import held, part
from fxprune.regularizers.terms.view import GroupView

__all__ = ["permute_", "reorder_"]

TOLERANCE = 1e-3
"""Largest relative change of the model's output taken for rounding; a wrong permutation gives about 1."""


@torch.no_grad()
def permute_(model: nn.Module, group: Group, order: IntArray) -> None:
    """Permute the units of a group along every axis they occupy, in place.

    The function of the model stays the same: what makes a channel and what reads it move together.
    The state of an optimizer does not move; permute before the first step.

    Args:
        model: The model the group is of.
        group: A group without layout constraints.
        order: int64[width]; the unit that was ``order[j]``-th becomes the j-th.

    Raises:
        PlanError: A tensor is missing or sharded, or the group has blocks.
    """
    tensors = _tensors(model, group)
    for (name, dim), index in group.indices.items():
        tensor = tensors[name]
        source = torch.from_numpy(index[order].ravel()).to(tensor.device)
        target = torch.from_numpy(index.ravel()).to(tensor.device)
        tensor.index_copy_(dim, target, tensor.index_select(dim, source))


def _tensors(model: nn.Module, group: Group) -> dict[str, Tensor]:
    """Every parameter and buffer of the group."""
    owner, _ = find_parameters(model, [name for name, _ in group.indices])
    known: dict[str, Tensor] = dict(owner.named_parameters(remove_duplicate=False))
    known |= dict(owner.named_buffers(remove_duplicate=False))
    tensors = {}
    for name, _ in group.indices:
        if group.blocks or name not in known or not part(known[name]).whole:
            raise PlanError(
                f"the units of group '{group.name}' cannot change places",
                tensor=name,
                advice="reorder whole tensors without layout constraints, before the model is sharded",
            )
        tensors[name] = held(known[name])
    return tensors


def reorder_(model: nn.Module, groups: Sequence[Group]) -> dict[str, IntArray]:
    """Give the most important units of every group the lowest indices, in place.

    Importance is the joint norm of all that makes a unit, over all producers.  Groups with
    layout constraints and pinned groups stay as they are.  If the groups carry a trace, the model's
    output on its example inputs is compared, and a permutation that changes it is undone.

    Args:
        model: The model in training; a real change of its parameters and buffers.
        groups: Its coupling groups.

    Returns:
        The permutation of each group that was reordered, by group name.

    Example:
        >>> import fxprune
        >>> net = nn.Sequential(nn.Linear(1, 3, bias=False), nn.ReLU(), nn.Linear(3, 1))
        >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0], [3.0], [2.0]]))
        >>> orders = reorder_(net, fxprune.couple(fxprune.trace(net, torch.zeros(2, 1))))
        >>> net[0].weight.flatten().tolist(), orders["0"].tolist()
        ([3.0, 2.0, 1.0], [1, 2, 0])

    References:
        Ours: the extension of DWGL that keeps what a pre-trained network knows.
    """
    owner, layout = row_layout(model, groups)
    view = GroupView(owner, layout)
    importance = view.per_atom(view.sums(2)).cpu()
    orders: dict[str, IntArray] = {}
    changed: list[Group] = []
    for group in groups:
        atom = layout.unit_atom[group.units]
        if group.pinned is None and not group.blocks and (atom >= 0).all() and group.width > 1:
            order = torch.argsort(importance[torch.from_numpy(atom)], descending=True, stable=True)
            orders[group.name] = order.numpy()
            changed.append(group)
    before = _output(model, groups)
    for group in changed:
        permute_(model, group, orders[group.name])
    if _differs(before, _output(model, groups)):
        _one_by_one(model, changed, orders, before)
    return orders


def _one_by_one(
    model: nn.Module, groups: Sequence[Group], orders: dict[str, IntArray], before: list[Tensor]
) -> None:
    """Undo everything, then permute one group at a time and keep what changes nothing."""
    for group in groups:
        permute_(model, group, orders[group.name].argsort())
    for group in groups:
        permute_(model, group, orders[group.name])
        if _differs(before, _output(model, groups)):
            permute_(model, group, orders.pop(group.name).argsort())


def _output(model: nn.Module, groups: Sequence[Group]) -> list[Tensor]:
    """Tensors the model returns on the example inputs of the groups' trace; none without a trace."""
    trace = groups[0].trace if groups else None
    if trace is None:
        return []
    args, kwargs = _on_device(trace, next(model.parameters()).device)
    with torch.no_grad(), evaluating(model), torch.random.fork_rng(devices=[]):
        leaves = pytree.tree_leaves(model(*args, **kwargs))
    return [leaf.double() for leaf in leaves if isinstance(leaf, Tensor)]


def _on_device(trace: Trace, device: torch.device) -> tuple[tuple[object, ...], Mapping[str, object]]:
    def move(leaf: object) -> object:
        return leaf.to(device) if isinstance(leaf, Tensor) else leaf

    return pytree.tree_map(move, (trace.args, dict(trace.kwargs)))  # type: ignore[no-any-return]


def _differs(before: Sequence[Tensor], after: Sequence[Tensor]) -> bool:
    return any(
        float((a - b).abs().max()) > TOLERANCE * (float(a.abs().max()) + 1e-30)
        for a, b in zip(before, after, strict=True)
        if a.numel()
    )
