"""Record one real run of a model at ATen level, for models that torch.export refuses."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from fxprune.errors import TraceError

__all__ = ["record"]

_TORCH = str(Path(torch.__file__).parent / "_")[:-1]  # ends with a separator: torchvision is not torch


def _user_frame() -> str:
    """The innermost frame outside torch and fxprune, in the form torch.fx keeps stack traces."""
    own = str(Path(__file__).parent)
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if not code.co_filename.startswith((_TORCH, own, "<")):
            return f'  File "{code.co_filename}", line {frame.f_lineno}, in {code.co_name}'
        frame = frame.f_back
    return ""


class _Recorder(TorchDispatchMode):
    """Turns every operator that really runs into a graph node."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.nodes: dict[int, fx.Node] = {}
        self.alive: list[torch.Tensor] = []
        self.names = {id(t): n for n, t in [*model.named_buffers(), *model.named_parameters()]}

    def bind(self, tensor: torch.Tensor, node: fx.Node) -> None:
        """Let later readers of the tensor find its node; ids are unique while tensors live."""
        node.meta["val"] = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        self.nodes[id(tensor)] = node
        self.alive.append(tensor)

    def node_of(self, tensor: torch.Tensor) -> fx.Node:
        """The node that made a tensor; parameters and constants get one when first read."""
        if id(tensor) not in self.nodes:
            name = self.names.get(id(tensor))
            if name is None:
                name = f"_recorded_constant{len(self.alive)}"
            _set_attribute(self.root, name, tensor)
            self.bind(tensor, self.graph.get_attr(name))
        return self.nodes[id(tensor)]

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = dict(kwargs or {})
        read = pytree.tree_map_only(torch.Tensor, self.node_of, (args, kwargs))
        result = func(*args, **kwargs)
        node = self.graph.call_function(func, *read)
        node.meta["stack_trace"] = _user_frame()
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
        return result


def _getitem(sequence: object, index: int) -> object:
    return sequence[index]  # type: ignore[index]


_getitem.__name__ = "getitem"


def _set_attribute(root: nn.Module, name: str, tensor: torch.Tensor) -> None:
    *path, last = name.split(".")
    for part in path:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    if isinstance(tensor, nn.Parameter):
        root.register_parameter(last, tensor)
    else:
        root.register_buffer(last, tensor)


def record(model: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> fx.GraphModule:
    """Run the model once and return the graph of the operators that ran.

    The graph holds for this run's control flow and shapes: it is for analysis, not for execution.

    Raises:
        TraceError: The model's tensors are on the meta device, where data cannot steer.
    """
    if any(t.device.type == "meta" for t in model.parameters()):
        raise TraceError(
            "torch.export refuses this model and it cannot be run on the meta device",
            advice="build the model on the CPU",
        )
    recorder = _Recorder(model)
    for k, leaf in enumerate(t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)):
        recorder.bind(leaf, recorder.graph.placeholder(f"input_{k}"))
    with torch.no_grad(), torch.random.fork_rng(devices=[]), recorder:
        result = model(*args, **kwargs)
    recorder.graph.output(
        tuple(
            recorder.nodes[id(t)]
            for t in pytree.tree_leaves(result)
            if isinstance(t, torch.Tensor) and id(t) in recorder.nodes
        )
    )
    return fx.GraphModule(recorder.root, recorder.graph)
