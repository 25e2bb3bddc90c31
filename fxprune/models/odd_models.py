"""Models that cannot be traced, told by what they are, and inputs of types that their operators do not take."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy

from fxprune.errors import TraceError
from fxprune.support.source_lines import source_of

__all__ = ["check_operands", "check_traceable"]

# Operators whose operands must have one type, which torch.export does not check.
ONE_TYPE = frozenset(
    {"aten::linear", "aten::matmul", "aten::bmm", "aten::mm", "aten::conv1d", "aten::conv2d", "aten::conv3d"}
)


def check_traceable(model: nn.Module) -> None:
    """Refuse what has no Python code, no weights yet, or no end.

    Raises:
        TraceError: Which of these it is, and what to do.
    """
    _check_finite(model, "", [])
    on_meta = any(t.is_meta for t in (*model.parameters(), *model.buffers()))
    if torch.get_default_device().type == "meta" and not on_meta:
        raise TraceError(
            "torch.set_default_device('meta') is in force: what the model's code makes would have no numbers",
            advice="call torch.set_default_device('cpu') first",
        )
    for path, module in model.named_modules():
        where = f"the part '{path}' of the model" if path else "the model"
        if isinstance(module, torch.jit.ScriptModule):
            raise TraceError(
                f"{where} is TorchScript ({type(module).__name__}), which has no Python code to prune",
                advice="pass the module that was scripted, traced or frozen, with the same weights",
            )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise TraceError(
                f"'{name}' is lazy: it has no shape before the first call",
                tensor=name,
                advice="call the model once on example inputs before it is traced",
            )
        if tensor.is_floating_point() and tensor.dtype.itemsize < 2:
            raise TraceError(
                f"'{name}' is of type {str(tensor.dtype).removeprefix('torch.')}, for which torch has hardly any operators",
                tensor=name,
                advice="prune the model in float32 or bfloat16, then convert its weights",
            )


def _check_finite(module: nn.Module, path: str, above: list[nn.Module]) -> None:
    for name, child in module._modules.items():
        if child is None:
            continue
        inner = f"{path}.{name}" if path else name
        if any(child is m for m in (*above, module)):
            raise TraceError(
                f"the part '{inner}' is a module that contains it: the model has no end",
                advice="keep the reference outside of the modules, in a list or a closure",
            )
        _check_finite(child, inner, [*above, module])


@contextlib.contextmanager
def told() -> Iterator[None]:
    """While a model is traced, refuse code that ends the program or draws numbers that no graph can draw.

    Raises:
        TraceError: The code calls ``sys.exit``, or draws Python's or numpy's random numbers.
    """
    before = _generators()
    try:
        yield
    except SystemExit as error:
        raise TraceError(
            f"the model's code ends the program (SystemExit: {error})",
            source=source_of(error),
            advice="let it raise another exception, or return",
        ) from error
    drawn = [name for name, state in _generators().items() if state != before[name]]
    if drawn:
        raise TraceError(
            f"the model's forward draws random numbers of {' and '.join(drawn)}: a graph would hold one draw for ever",
            advice="draw them with torch.rand and its like",
        )


def _generators() -> dict[str, object]:
    _, keys, *place = np.random.get_state()  # noqa: NPY002  the model's code may use it
    return {"Python": random.getstate(), "numpy": (np.asarray(keys).tobytes(), *place)}


def check_operands(graph: fx.Graph) -> None:
    """Refuse operands of different types, as the model itself would when it runs.

    Raises:
        TraceError: An operator, its source line and the types.
    """
    for node in graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload) or node.target._schema.name not in ONE_TYPE:
            continue
        values = [n.meta.get("val") for n in node.args[:2] if isinstance(n, fx.Node)]
        types = {v.dtype for v in values if isinstance(v, torch.Tensor)}
        if len(types) > 1:
            raise TraceError(
                f"the model does not run on the example inputs: {node.target._schema.name.partition('::')[2]} is "
                f"given {' and '.join(sorted(str(t).removeprefix('torch.') for t in types))}",
                node=node.name,
                op=str(node.target),
                source=source_of(node),
                advice="pass inputs of the type that the model computes in",
            )
