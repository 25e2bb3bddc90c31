"""Rehearsal: the own code of a recorded model runs on fewer channels before a plan or a slim model is handed out.

The slim form of a recorded model is a copy of the user's module, whose code may hold widths as numbers.  One run
beside the record shows the first operator that meets them: its result has another shape than its labels say, it
computes with another number, or it fails.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.utils import _pytree as pytree

from fxprune.coupling.couple import analyse
from fxprune.graph.trace import Trace
from fxprune.labels import IntArray, varying
from fxprune.models.conditions import named_arguments, private
from fxprune.ops import qualified_name
from fxprune.ops.base import Value
from fxprune.ops.named import HANDED_ON
from fxprune.plans import Plan
from fxprune.resizing.resolve import CrossedError, Resolution, keep_mask, resolve
from fxprune.slimming.graph_copy import Parts
from fxprune.slimming.module_copy import module_copy
from fxprune.support.dispatch import Watching
from fxprune.support.process import no_fast_path, quiet
from fxprune.support.words import headline

__all__ = ["rehearse", "stumble"]


def rehearse(trace: Trace, plan: Plan) -> None:
    """Run what a plan leaves of a recorded model; graphs made by torch.export need no rehearsal.

    Args:
        trace: A traced model.
        plan: A plan made for it.

    Raises:
        CrossedError: The code holds numbers that these units are tied to.
    """
    if trace.kind != "recorded" or not plan.kept:
        return
    analysis = analyse(trace)
    parts = Parts(trace, resolve(analysis, keep_mask(analysis, plan)), plan)
    problem, node = stumble(parts)
    if problem and node is not None:
        _refuse(parts.resolution, node, problem)


def stumble(parts: Parts, module: nn.Module | None = None) -> tuple[str, fx.Node | None]:
    """What is wrong with the code of a recorded model on fewer channels, or empty, and where, if the record goes so far.

    Args:
        parts: What is left of it.
        module: The copy of the user's module that holds it, where there is one already; a private copy of it runs.
    """
    trace = parts.trace
    # On copies: the code may count its calls, or write into its inputs.
    args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, (trace.args, dict(trace.kwargs)))
    beside = _Beside(parts.resolution)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), no_fast_path():
            copy = private(module_copy(parts) if module is None else module)
            with beside:
                copy(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - the user's own code may raise anything on fewer channels
        beside.problem = beside.problem or f"fails on fewer channels ({headline(error)})"
    return beside.problem, beside.node


class _Beside(Watching):
    """Compares every operator that runs with the record.

    Attributes:
        node: The one that runs.
        problem: What is wrong with it, or empty.
    """

    def __init__(self, resolution: Resolution) -> None:
        super().__init__()
        self._resolution = resolution
        ops = (
            n
            for n in resolution.analysis.trace.graph.graph.nodes
            if isinstance(n.target, torch._ops.OpOverload) and qualified_name(n.target) not in HANDED_ON
        )
        self._record: Iterator[fx.Node] = iter(list(ops))
        self.node: fx.Node | None = None
        self.problem = ""

    def called(
        self, func: torch._ops.OpOverload, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> object:
        if self.problem or qualified_name(func) in HANDED_ON:
            return func(*args, **kwargs)
        self.node = next(self._record, None)
        if self.node is not None and self.node.target is not func:
            # Another branch runs, for the data are others: from here on there is no record.
            self._record, self.node = iter(()), None
        result = func(*args, **kwargs)
        if self.node is not None:
            self.problem = self._told(self.node, args, result) or self._misplaced(self.node, args, kwargs)
        if self.problem and _sized_by_data(func, args, kwargs):
            # Slim weights find more or fewer (boxes, say) than were found in the record, which ends here, too.
            self._record, self.node, self.problem = iter(()), None, ""
        return result

    def _misplaced(self, node: fx.Node, args: tuple[object, ...], kwargs: Mapping[str, object]) -> str:
        """The sizes may fit and the positions be others: every second channel of what is left, say."""
        movement = self._resolution.movements.get(node)
        if movement is None:
            return ""
        given = named_arguments(node.target, args, kwargs)  # type: ignore[arg-type]
        numbers = {n: v for n, v in given.items() if not _tensors(v)}
        call = replace(movement.slim, args={**movement.slim.args, **numbers})
        if movement.expressed_by(call):
            return ""
        return "takes other positions than it would have to of what is left"

    def _told(self, node: fx.Node, args: tuple[object, ...], result: object) -> str:
        dense = self._resolution.analysis.values.get(node)
        expected = self._resolution.values.get(node, dense)
        for value, tensor in zip(_listed(expected), _listed(result), strict=False):
            if (
                isinstance(value, Value)
                and isinstance(tensor, torch.Tensor)
                and value.shape != tuple(tensor.shape)
            ):
                return (
                    f"gives {list(tensor.shape)} for {list(value.shape)}: the code holds the size as a number"
                )
        if torch.Tag.pointwise in node.target.tags:  # type: ignore[union-attr]
            for before, now in zip(node.args, args, strict=False):
                if isinstance(before, (int, float)) and before != now:
                    return f"computes with {now:g} for {before:g}: the code makes the number of a width, or of data"
        return ""


def _sized_by_data(
    func: torch._ops.OpOverload, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> bool:
    """The size of the result is known only once the entries are: without them it cannot be told."""
    with quiet(), FakeTensorMode() as mode:  # torchvision's fake nms warns of itself
        args, kwargs = pytree.tree_map_only(torch.Tensor, mode.from_tensor, (args, dict(kwargs)))
        try:
            func(*args, **kwargs)
        except DynamicOutputShapeException:
            return True
        except Exception:  # noqa: BLE001 - an operator without a fake form says nothing about its sizes
            return False
    return False


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _tensors(value: object) -> bool:
    return any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(value))


def _refuse(resolution: Resolution, node: fx.Node, problem: str) -> None:
    """Name the units that go at an operator, or at the nearest ones before it."""
    queue, seen = deque([node]), {node}
    while queue:
        at = queue.popleft()
        arrays = _losing(resolution, at)
        if arrays:
            advice = "take the size from the tensor, or leave these channels in"
            raise CrossedError(problem, node=node, advice=advice, arrays=arrays)
        queue.extend(n for n in at.all_input_nodes if n not in seen)
        seen.update(at.all_input_nodes)


def _losing(resolution: Resolution, node: fx.Node) -> list[IntArray]:
    """Units of what a call reads and makes, of arrays that lose some; results of equal size also as one array, side by side."""
    analysis = resolution.analysis
    call = analysis.calls.get(node)
    made = [v for v in _listed(analysis.values.get(node)) if isinstance(v, Value)]
    read = list(call.tensors()) if call else []
    units = [analysis.units(a) for v in [*read, *made] for a in v.arrays if varying(a)]
    rows = [analysis.units(v.arrays[0]) for v in made if len(v.arrays) == 1]
    if len(rows) == len(made) > 1 and len({r.shape for r in rows}) == 1:
        units.append(np.stack(rows))
    return [array for array in units if not resolution.keep[array].all()]
