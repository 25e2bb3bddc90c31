"""fxprune and the tools it is compared with, each as its authors recommend, behind one face.

Install the peers beside torch, not over it (a plain install of one of them may replace torch):

    pip install --no-deps torch-pruning==1.6.1 torch-kirigami==0.2.1
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Protocol

import torch_pruning as tp
from torch import nn
from torch_kirigami import AxisRef, DependencyGraph, KirigamiError, UnsupportedOperation
from torch_kirigami.pruning import ChannelRatio, Greedy, GroupMagnitude, Pruner

import fxprune
from fxprune.planning.plan import remove

__all__ = ["FXPRUNE", "PEERS", "Call", "Tool"]


@dataclass(frozen=True, eq=False)
class Call:
    """A model and how it is called.

    Attributes:
        model: Pruned in place by some tools.
        args: Example inputs.
        kwargs: Example inputs by name.
        outputs: Paths of the layers whose width is that of the output; who cannot see that is told so.
    """

    model: nn.Module
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    outputs: Sequence[str] = ()


class Tool(Protocol):
    """A way to make models smaller.  Whatever it raises is a verdict too."""

    name: str

    def refuses(self, error: Exception) -> bool:
        """Whether an error is the tool's own word that it cannot do this."""

    def remove(self, call: Call, layer: str, gone: Sequence[int]) -> nn.Module:
        """The model without these output channels of a layer."""

    def halve(self, call: Call) -> nn.Module:
        """The model with half of the channels everywhere, by magnitude (L1)."""


class Fxprune:
    """fxprune itself."""

    name = "fxprune"

    def refuses(self, error: Exception) -> bool:
        return isinstance(error, fxprune.FxpruneError)

    def remove(self, call: Call, layer: str, gone: Sequence[int]) -> nn.Module:
        trace = fxprune.trace(call.model, (call.args, dict(call.kwargs)) if call.kwargs else call.args)
        return fxprune.slim(trace, remove(trace, {(f"{layer}.weight", 0): list(gone)}))

    def halve(self, call: Call) -> nn.Module:
        trace = fxprune.trace(call.model, call.args)
        half = fxprune.Budget(channels=0.5)
        return fxprune.slim(trace, fxprune.plan(trace, half, criterion="l1", scope="local", align=1))


class TorchPruning:
    """Torch-Pruning: its dependency graph, and its magnitude pruner with the output layers ignored."""

    name = f"Torch-Pruning {version('torch-pruning')}"

    def refuses(self, error: Exception) -> bool:
        return False  # it has no errors of its own

    def remove(self, call: Call, layer: str, gone: Sequence[int]) -> nn.Module:
        first = call.model.get_submodule(layer)
        prune = tp.prune_linear_out_channels if isinstance(first, nn.Linear) else tp.prune_conv_out_channels
        inputs = dict(call.kwargs) or call.args
        graph = tp.DependencyGraph().build_dependency(call.model, example_inputs=inputs)
        graph.get_pruning_group(first, prune, idxs=list(gone)).prune()
        return call.model

    def halve(self, call: Call) -> nn.Module:
        pruner = tp.pruner.MagnitudePruner(
            call.model,
            dict(call.kwargs) or call.args,
            tp.importance.GroupMagnitudeImportance(p=1),
            pruning_ratio=0.5,
            ignored_layers=[call.model.get_submodule(path) for path in call.outputs],
        )
        pruner.step()
        return call.model


class Kirigami:
    """torch-kirigami: its graph keeps inputs and outputs by itself; greedy choice among its own candidates."""

    name = f"torch-kirigami {version('torch-kirigami')}"

    def refuses(self, error: Exception) -> bool:
        return isinstance(error, (KirigamiError, UnsupportedOperation))

    def remove(self, call: Call, layer: str, gone: Sequence[int]) -> nn.Module:
        graph = DependencyGraph.build(call.model, args=call.args, kwargs=dict(call.kwargs))
        pruner = Pruner(call.model, graph=graph)
        channels = AxisRef(graph.parameter(f"{layer}.weight"), 0).select(gone)
        model: nn.Module = pruner.apply(pruner.plan_remove([channels]))[0]
        return model

    def halve(self, call: Call) -> nn.Module:
        graph = DependencyGraph.build(call.model, args=call.args, kwargs=dict(call.kwargs))
        pruner = Pruner(call.model, graph=graph)
        strategy = Greedy(GroupMagnitude(p=1))
        found = pruner.discover_candidates()
        model: nn.Module = pruner.prune(found, budget=ChannelRatio(0.5), strategy=strategy)[0]
        return model


FXPRUNE: Tool = Fxprune()
PEERS: tuple[Tool, ...] = (TorchPruning(), Kirigami())
