"""Record real runs of a model at ATen level, for models that torch.export refuses."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from fxprune.errors import TraceError
from fxprune.graph.graph_module import NamedGraph, set_tensor
from fxprune.support.dispatch import Watching

__all__ = ["READS", "VISIBLE", "Recording", "idle_parameters", "record", "record_others"]

_TORCH = str(Path(torch.__file__).parent / "_")[:-1]  # ends with a separator: torchvision is not torch

READS = frozenset({"aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal"})
"""Operators that hand a number to Python, which may choose a branch by it."""

VISIBLE = "fxprune_visible"
"""Where a node notes the paths of the modules whose own code holds its tensor in a variable."""

MOST_RUNS = 8
"""Runs on other branches; each costs a forward pass."""

Steer = Callable[[int, object], object]
"""What Python reads instead of a number: how many it has read before, and the number."""


@dataclass(frozen=True, eq=False)
class Recording:
    """One run.

    Attributes:
        graph: The operators that ran.
        reads: How often Python read a decimal number or a flag from a tensor.
        ran: Paths of the modules whose forward was called.
    """

    graph: fx.GraphModule
    reads: int
    ran: frozenset[str]


def _user_frames() -> str:
    """The frames outside torch and fxprune, outermost first, in the form torch.fx keeps stack traces."""
    own = str(Path(__file__).parents[1])
    lines = []
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(own) and code.co_name == "record":
            break
        if not code.co_filename.startswith((_TORCH, own, "<")):
            lines.append(f'  File "{code.co_filename}", line {frame.f_lineno}, in {code.co_name}')
        frame = frame.f_back
    return "\n".join(reversed(lines))


class _Recorder(Watching):
    """Turns every operator that really runs into a graph node."""

    def __init__(self, model: nn.Module, constants: str, steer: Steer | None) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.root = NamedGraph(type(model).__name__)
        self.nodes: dict[int, fx.Node] = {}
        self.alive: list[torch.Tensor] = []
        self.names = {id(t): n for n, t in [*model.named_buffers(), *model.named_parameters()]}
        self.constants = constants
        self.steer = steer
        self.reads = 0
        self.paths: list[str] = []
        self.ran: set[str] = set()

    def bind(self, tensor: torch.Tensor, node: fx.Node) -> None:
        """Let later readers of the tensor find its node; ids are unique while tensors live."""
        node.meta["val"] = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        self.nodes[id(tensor)] = node
        self.alive.append(tensor)
        self.see(tensor)

    def see(self, value: object) -> None:
        """The code of the module that runs now holds these tensors in variables."""
        for tensor in pytree.tree_leaves(value):
            if self.paths and isinstance(tensor, torch.Tensor) and id(tensor) in self.nodes:
                self.nodes[id(tensor)].meta.setdefault(VISIBLE, set()).add(self.paths[-1])

    def node_of(self, tensor: torch.Tensor) -> fx.Node:
        """The node that made a tensor; parameters and constants get one when first read."""
        if id(tensor) not in self.nodes:
            name = self.names.get(id(tensor))
            if name is None:
                name = f"{self.constants}{len(self.alive)}"
            set_tensor(self.root, name, tensor)
            self.bind(tensor, self.graph.get_attr(name))
        return self.nodes[id(tensor)]

    def called(
        self, func: torch._ops.OpOverload, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> object:
        kwargs = dict(kwargs)
        read = pytree.tree_map_only(torch.Tensor, self.node_of, (args, kwargs))
        result = func(*args, **kwargs)
        node = self.graph.call_function(func, *read)
        node.meta["stack_trace"] = _user_frames()
        if self.paths:
            node.meta["nn_module_stack"] = {path: (path, "") for path in self.paths}
        if isinstance(result, torch.Tensor):
            self.bind(result, node)
        elif isinstance(result, (tuple, list)):
            node.meta["val"] = [
                torch.empty(r.shape, dtype=r.dtype, device="meta") if isinstance(r, torch.Tensor) else r
                for r in result
            ]
            for k, part in enumerate(result):
                if isinstance(part, torch.Tensor):
                    item = self.graph.call_function(_getitem, (node, k))
                    self.bind(part, item)
        else:
            node.meta["val"] = result
            if func._schema.name in READS and isinstance(result, (bool, float)):
                self.reads += 1
                return result if self.steer is None else self.steer(self.reads - 1, result)
        return result

    @contextlib.contextmanager
    def modules(self, model: nn.Module) -> Iterator[None]:
        """While active the paths of the modules that run are known."""

        def enter(path: str) -> Callable[[nn.Module, object, object], None]:
            def hook(_: nn.Module, args: object, kwargs: object) -> None:
                self.paths.append(path)
                self.ran.add(path)
                self.see((args, kwargs))

            return hook

        def leave(_: nn.Module, __: object, result: object) -> None:
            self.paths.pop()
            self.see(result)

        handles = []
        for path, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(enter(path), with_kwargs=True))
            handles.append(module.register_forward_hook(leave, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _getitem(sequence: object, index: int) -> object:
    return sequence[index]  # type: ignore[index]


_getitem.__name__ = "getitem"


def record(
    model: nn.Module,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    *,
    constants: str = "_recorded_constant",
    steer: Steer | None = None,
) -> Recording:
    """Run the model once and note the operators that ran.

    The graph holds for this run's control flow and shapes: it is for analysis, not for execution.

    Args:
        model: In the mode in which it is to be run.
        args: Positional arguments.
        kwargs: Arguments by name.
        constants: What the names of constants begin with.
        steer: Changes what Python reads from tensors, so that other branches run.

    Raises:
        TraceError: The model's tensors are on the meta device, where data cannot steer.
    """
    if any(t.device.type == "meta" for t in model.parameters()):
        raise TraceError(
            "torch.export refuses this model and it cannot be run on the meta device",
            advice="build the model on the CPU",
        )
    recorder = _Recorder(model, constants, steer)
    for k, leaf in enumerate(t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)):
        recorder.bind(leaf, recorder.graph.placeholder(f"input_{k}"))
    with torch.no_grad(), torch.random.fork_rng(devices=[]), recorder.modules(model), recorder:
        result = model(*args, **kwargs)
    recorder.graph.output(
        tuple(
            recorder.nodes[id(t)]
            for t in pytree.tree_leaves(result)
            if isinstance(t, torch.Tensor) and id(t) in recorder.nodes
        )
    )
    recorder.root.graph = recorder.graph
    return Recording(recorder.root, recorder.reads, frozenset(recorder.ran))


def record_others(
    model: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object], first: Recording
) -> list[Recording]:
    """Runs on branches that the example inputs do not take.

    What Python reads from tensors is negated, or replaced by one: all of it, then, while there are parameters
    that took part in no run, one read after the other.  A run is kept if it did something that no run before it did; one that fails shows nothing.

    Args:
        model: As for ``record``.
        args: Positional arguments.
        kwargs: Arguments by name.
        first: The run without interference.
    """
    chosen = [range(first.reads), *(range(k, k + 1) for k in range(first.reads) if first.reads > 1)]
    ways = [(reads, change) for reads in chosen if reads for change in (_negated, _one)][:MOST_RUNS]
    recordings: list[Recording] = []
    seen = _sites(first)
    for k, (reads, change) in enumerate(ways):
        if k > 1 and not idle_parameters(model, (first, *recordings)):
            break
        try:
            steer = partial(_steered, reads, change)
            other = record(model, args, kwargs, constants=f"_recorded_constant{k}_", steer=steer)
        except Exception:  # noqa: BLE001, S112 - a branch that no data take may fail in any way
            continue
        if not _sites(other) <= seen:
            seen |= _sites(other)
            recordings.append(other)
    return recordings


def _steered(reads: range, change: Callable[[object], object], number: int, value: object) -> object:
    return change(value) if number in reads else value


def _negated(value: object) -> object:
    return not value if isinstance(value, bool) else -value  # type: ignore[operator]


def _one(value: object) -> object:
    return type(value)(1)  # type: ignore[call-arg]


def _sites(recording: Recording) -> set[tuple[object, ...]]:
    """What a run did: operators by the place that called them, what they read of the model, and what it returned."""
    graph = recording.graph.graph
    sites: set[tuple[object, ...]] = {("returned", _site(n)) for n in graph.output_node().all_input_nodes}
    for node in graph.nodes:
        names = (str(n.target) for n in node.all_input_nodes if n.op == "get_attr")
        sites.add((*_site(node), *(n for n in names if not n.startswith("_recorded_constant"))))
    return sites


def _site(node: fx.Node) -> tuple[object, ...]:
    path = list(node.meta.get("nn_module_stack", {}))[-1:]
    return (str(node.target) if node.op == "call_function" else node.op, node.meta.get("stack_trace"), *path)


def idle_parameters(model: nn.Module, runs: Sequence[Recording]) -> dict[str, str]:
    """Parameters that took part in no run, and the path of the module whose code may come to read each.

    That is the nearest module around it that did run: what never ran can only be called from there.
    """
    used = {str(n.target) for run in runs for n in run.graph.graph.nodes if n.op == "get_attr"}
    ran = {path for run in runs for path in run.ran}
    idle = {}
    for name, _ in model.named_parameters():
        if name not in used:
            path = name.rpartition(".")[0]
            while path not in ran and path:
                path = path.rpartition(".")[0]
            idle[name] = path
    return idle
