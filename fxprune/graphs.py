"""Traced graphs as modules: copied, given tensors, and made to follow ``train()`` and ``eval()``."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import fx, nn

from fxprune.ops import DROPOUTS, qualified_name
from fxprune.ops.normalise import BATCH_NORMS
from fxprune.shims import BatchNorm, Dropout
from fxprune.trace import Trace

__all__ = ["Draft", "arguments_by_name", "draft", "set_tensor", "shared", "tensor_at"]

MODES = "fxprune_modes"


@dataclass(frozen=True, eq=False)
class Draft:
    """A graph that is being rewritten, before it becomes a module.

    Attributes:
        graph: A copy of the trace's graph.
        root: Holds the tensors and submodules that the graph names.
        copies: For every node of the trace's graph its copy.
    """

    graph: fx.Graph
    root: nn.Module
    copies: dict[fx.Node, fx.Node]

    def module(self, name: str, *, training: bool) -> fx.GraphModule:
        """Finish: batch norm and dropout follow train and eval, dead nodes go.

        Args:
            name: Of the class, for printing.
            training: Mode to begin in.
        """
        _attach_modes(self.graph, self.root)
        module = fx.GraphModule(self.root, self.graph, name)
        module.graph.eliminate_dead_code()
        module.recompile()
        module.train(training)
        return module


def draft(trace: Trace) -> Draft:
    """A copy of the traced graph to rewrite, with nothing attached yet."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(trace.graph.graph, copies))
    graph._codegen = copy.copy(trace.graph.graph._codegen)
    return Draft(graph, nn.Module(), copies)


def shared(trace: Trace, made: Draft) -> Draft:
    """Attach the model's own tensors, not copies: training the graph trains the model."""
    persistent = set(trace.model.state_dict(keep_vars=True))
    for name in dict.fromkeys(str(n.target) for n in made.graph.nodes if n.op == "get_attr"):
        owner = trace.aliases.get(name, name)
        set_tensor(made.root, name, trace.tensor(owner), persistent=name in persistent)
    return made


def set_tensor(root: nn.Module, name: str, tensor: torch.Tensor, *, persistent: bool = True) -> None:
    """Register a parameter or buffer under a dotted name, making the modules on the way."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]  # type: ignore[assignment]
    if isinstance(tensor, nn.Parameter):
        root.register_parameter(last, tensor)
    else:
        root.register_buffer(last, tensor, persistent=persistent)


def tensor_at(root: nn.Module, name: str) -> torch.Tensor | None:
    """The parameter or buffer of a dotted name, if there is one."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            return None
        root = root._modules[part]  # type: ignore[assignment]
    return root._parameters.get(last) if last in root._parameters else root._buffers.get(last)


def arguments_by_name(node: fx.Node) -> dict[str, object]:
    """The arguments of an operator call by the names of its schema; defaults are left out."""
    names = [a.name for a in node.target._schema.arguments]  # type: ignore[union-attr]
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _attach_modes(graph: fx.Graph, root: nn.Module) -> None:
    """Let batch norm and dropout see train() and eval(): modules in the place of frozen calls."""
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        found = _shim(node, root)
        if found is None:
            continue
        shim, operands = found
        if MODES not in root._modules:
            root.add_module(MODES, nn.Module())
        root.get_submodule(MODES).add_module(node.name, shim)
        with graph.inserting_after(node):
            new = graph.call_module(f"{MODES}.{node.name}", operands)  # type: ignore[arg-type]
        new.meta = node.meta
        node.replace_all_uses_with(new)
        graph.erase_node(node)


def _shim(node: fx.Node, root: nn.Module) -> tuple[nn.Module, tuple[object, ...]] | None:
    """What stands in for a call whose training flag torch.export froze, and its operands.

    The graph is traced in evaluation mode: what trains there (dropout that is always on) does so by the user's
    own code, in every mode.
    """
    name = qualified_name(node.target)
    if name != BATCH_NORMS[0] and name not in DROPOUTS:
        return None
    values = arguments_by_name(node)
    if values.get("training") is True or values.get("train") is True:
        return None
    if name == BATCH_NORMS[0]:
        if values["running_mean"] is not None:
            operands = tuple(values[n] for n in ("input", "weight", "bias", "running_mean", "running_var"))
            operands = (*operands, _counter(node, values["running_mean"], root))
            return BatchNorm(float(values["momentum"]), float(values["eps"])), operands  # type: ignore[arg-type]
    else:
        # The tensor is called input, or self where dropout works in place.
        return Dropout(float(values["p"]), DROPOUTS[name]), (node.all_input_nodes[0],)  # type: ignore[arg-type]
    return None


def _counter(node: fx.Node, mean: object, root: nn.Module) -> fx.Node | None:
    """The number of batches seen, which torch.nn's batch norm counts beside its running mean."""
    if not isinstance(mean, fx.Node) or mean.op != "get_attr":
        return None
    name = f"{str(mean.target).rpartition('.')[0]}.num_batches_tracked".lstrip(".")
    if tensor_at(root, name) is None:
        return None
    with node.graph.inserting_before(node):
        return node.graph.get_attr(name)
