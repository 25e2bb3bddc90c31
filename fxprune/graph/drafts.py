"""Traced graphs as modules: copied, given tensors, and made to follow ``train()`` and ``eval()``."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import fx, nn

from fxprune.graph.graph_module import NamedGraph, set_tensor, tensor_at
from fxprune.graph.shims import BatchNorm, Dropout
from fxprune.graph.trace import Trace
from fxprune.ops import DROPOUTS, qualified_name
from fxprune.ops.normalise import BATCH_NORMS

__all__ = ["Draft", "arguments_by_name", "draft", "is_dead", "shared"]

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
    root: NamedGraph
    copies: dict[fx.Node, fx.Node]

    def module(self, *, training: bool) -> NamedGraph:
        """The root, made to run the graph.

        Args:
            training: Mode to begin in.
        """
        self.finish()
        self.root.graph = self.graph
        self.root.train(training)
        return self.root

    def finish(self, prefix: str = "") -> fx.Graph:
        """Let batch norm and dropout follow train and eval, by parts of the root; dead nodes go.

        Args:
            prefix: What the names of these parts begin with.
        """
        self.graph.owning_module = self.root
        _attach_modes(self.graph, self.root, prefix)
        return self.swept()

    def swept(self) -> fx.Graph:
        """The graph without dead nodes."""
        for node in reversed(self.graph.nodes):
            if is_dead(node):
                self.graph.erase_node(node)
        return self.graph


def is_dead(node: fx.Node) -> bool:
    """Nobody reads the node, and nothing else comes of it."""
    # fx's own sweep looks parts up as attributes, which not every name can be.
    quiet = not node.users and node.op not in ("placeholder", "output")
    return quiet and not (node.op == "call_function" and node.is_impure())


def draft(trace: Trace, root: NamedGraph | None = None) -> Draft:
    """A copy of the traced graph to rewrite, with nothing attached yet.

    Args:
        trace: A traced model.
        root: What is to hold the tensors; by default an empty module.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(trace.graph.graph, copies))
    graph._codegen = copy.copy(trace.graph.graph._codegen)
    return Draft(graph, NamedGraph(type(trace.model).__name__) if root is None else root, copies)


def shared(trace: Trace, rewritten: Draft) -> Draft:
    """Attach the model's own tensors, not copies: training the graph trains the model."""
    persistent = set(trace.model.state_dict(keep_vars=True))
    for name in dict.fromkeys(str(n.target) for n in rewritten.graph.nodes if n.op == "get_attr"):
        owner = trace.aliases.get(name, name)
        set_tensor(rewritten.root, name, trace.tensor(owner), persistent=name in persistent)
    return rewritten


def arguments_by_name(node: fx.Node) -> dict[str, object]:
    """The arguments of an operator call by the names of its schema; defaults are left out."""
    names = [a.name for a in node.target._schema.arguments]  # type: ignore[union-attr]
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _attach_modes(graph: fx.Graph, root: NamedGraph, prefix: str) -> None:
    """Let batch norm and dropout see train() and eval(): modules in the place of frozen calls."""
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        stand_in = _shim(node, root)
        if stand_in is None:
            continue
        shim, operands = stand_in
        modes = root._modules.setdefault(MODES, nn.Module())
        assert modes is not None
        modes.add_module(prefix + node.name, shim.train(root.training))
        with graph.inserting_after(node):
            new = graph.call_module(f"{MODES}.{prefix}{node.name}", operands)  # type: ignore[arg-type]
        new.meta = node.meta
        node.replace_all_uses_with(new)
        graph.erase_node(node)


def _shim(node: fx.Node, root: nn.Module) -> tuple[nn.Module, tuple[object, ...]] | None:
    """What stands in for a call whose training flag torch.export froze, and its operands.

    What trains although the graph was traced in evaluation (dropout that is always on) does so by the user's own
    code, in every mode; a graph that was traced in training is run in training only.
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
