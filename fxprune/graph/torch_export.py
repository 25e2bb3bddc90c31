"""torch.export as fxprune uses it: any signature, any names, one flat graph of operators."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Mapping

import torch
from torch import fx, nn
from torch.export import _unlift
from torch.utils import _pytree as pytree

from fxprune.graph.graph_module import is_plain, plainly, set_tensor, tensor_at
from fxprune.ops import overload

__all__ = ["exported"]

# Checks of types and devices that torch.export writes beside casts: they would refuse what the model accepts.
CHECKS = frozenset({"aten::_assert_tensor_metadata"})

SIZES = (int, float, bool, torch.SymInt, torch.SymFloat, torch.SymBool)
"""What is no tensor among the results of operators."""


def exported(
    model: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object], *, dynamic: bool
) -> fx.GraphModule:
    """The graph of a model; whatever torch.export raises comes out.

    Args:
        model: In the mode in which it is to be traced.
        args: Positional arguments.
        kwargs: Arguments by name.
        dynamic: Let the first dimension of every tensor be of any size, where the model allows it.

    Returns:
        A graph whose ``get_attr`` nodes carry the model's dotted names.
    """
    shapes = _shapes(model, args, kwargs) if dynamic else None
    program = torch.export.export(plainly(model), args, dict(kwargs), dynamic_shapes=shapes, strict=False)
    graph = _as_module(program)
    for node in list(graph.graph.nodes):
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.name in CHECKS:
            graph.graph.erase_node(node)
    return graph


def _shapes(model: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, object]:
    """``dynamic_shapes`` by the names of the signature, as torch.export binds them: ``*args`` are one tuple."""
    bound = inspect.signature(model.forward).bind(*args, **kwargs).arguments

    def of(leaf: object) -> object:
        return {0: torch.export.Dim.AUTO} if isinstance(leaf, torch.Tensor) and leaf.ndim else None

    return {name: pytree.tree_map(of, value) for name, value in bound.items()}


class _Warnings:
    """Python's ``warnings`` without ``catch_warnings``, which hides those of all threads; ours are hidden as it is."""

    catch_warnings = contextlib.nullcontext

    def simplefilter(self, *_args: object) -> None:
        """Everything that is said here is hidden already."""

    def __getattr__(self, name: str) -> object:
        return getattr(warnings, name)


def _unlifted(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """The program with its tensors as attributes."""
    theirs = vars(_unlift)
    try:
        if theirs.get("warnings") is warnings:  # torch's own affair: another release may do without
            theirs["warnings"] = _Warnings()
        return program.module(check_guards=False)
    finally:
        if isinstance(theirs.get("warnings"), _Warnings):
            theirs["warnings"] = warnings


def _as_module(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """The program as a module; names that cannot stand in Python code are put back when the code is written."""
    signature = program.graph_signature
    specs = [s for s in (*signature.input_specs, *signature.output_specs) if isinstance(s.target, str)]
    awkward = sorted({s.target for s in specs if s.target and not is_plain(s.target)})
    if not awkward:
        return _inlined(_unlifted(program))
    safe = {name: f"fxprune_tensor_{k}" for k, name in enumerate(awkward)}
    for spec in specs:
        spec.target = safe.get(spec.target, spec.target)
    for table in (program._state_dict, program._constants):
        for name in [n for n in table if n in safe]:
            table[safe[name]] = table.pop(name)
    graph = _inlined(_unlifted(program))
    names = {short: name for name, short in safe.items()}
    for node in graph.graph.nodes:
        if node.op == "get_attr" and node.target in names:
            tensor = tensor_at(graph, node.target)
            assert tensor is not None
            node.target = names[node.target]
            set_tensor(graph, node.target, tensor)
    return graph


def _inlined(module: fx.GraphModule) -> fx.GraphModule:
    """Replace calls that only switch gradients or autocast by the operators inside them."""
    changed = False
    for node in list(module.graph.nodes):
        name = getattr(node.target, "__name__", "") if node.op == "call_function" else ""
        if name not in ("wrap_with_set_grad_enabled", "wrap_with_autocast"):
            continue
        at, inner_node = next(
            (k, a) for k, a in enumerate(node.args) if isinstance(a, fx.Node) and a.op == "get_attr"
        )
        inner = module.get_submodule(str(inner_node.target))
        assert isinstance(inner, fx.GraphModule)
        _inlined(inner)
        silent = name == "wrap_with_set_grad_enabled" and node.args[0] is False
        guarded = silent and any(_writes(part) for part in inner.graph.nodes)
        values: dict[fx.Node, object] = {}
        operands = iter(node.args[at + 1 :])
        with module.graph.inserting_before(node):
            for part in inner.graph.nodes:
                if part.op == "placeholder":
                    operand = next(operands)
                    values[part] = _without_gradient(module.graph, operand) if guarded else operand
                elif part.op == "output":
                    results = fx.map_arg(part.args[0], values.__getitem__)  # type: ignore[arg-type]
                else:
                    values[part] = module.graph.node_copy(part, values.__getitem__)  # type: ignore[arg-type]
            if silent:
                results = fx.map_arg(results, lambda n: _without_gradient(module.graph, n))  # type: ignore[arg-type, return-value]
        _replace_results(module.graph, node, results)
        module.graph.erase_node(node)
        changed = True
    if module.graph.eliminate_dead_code(_is_run) or changed:
        module.recompile()
    return module


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _without_gradient(graph: fx.Graph, value: object) -> object:
    """A tensor cut off from its gradient, as code under ``torch.no_grad`` leaves it and may write into it."""
    if not isinstance(value, fx.Node) or not isinstance(value.meta.get("val"), torch.Tensor):
        return value
    node = graph.call_function(overload("aten::detach"), (value,))
    node.meta = dict(value.meta)
    return node


def _is_run(node: fx.Node) -> bool:
    """Whether a call stays though nobody reads its result: the user's code runs it, and it must fit what is left."""
    is_call = node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload)
    return (is_call and not isinstance(node.meta.get("val"), SIZES)) or node.is_impure()


def _replace_results(graph: fx.Graph, node: fx.Node, results: object) -> None:
    """Point the readers of a call's results at the inlined nodes."""
    assert isinstance(results, (tuple, list))
    for user in list(node.users):
        assert user.target.__name__ == "getitem"  # type: ignore[union-attr]
        user.replace_all_uses_with(results[user.args[1]])  # type: ignore[index]
        graph.erase_node(user)
