"""A GraphModule that takes any names: those of its own members, words of Python, quotes, nothing at all."""

from __future__ import annotations

import copy
import keyword
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.fx.graph import PythonCode

from fxprune.graph.pickling import packed

__all__ = ["SHARED", "NamedGraph", "is_plain", "plainly", "set_tensor", "tensor_at"]

HANDLES = "fxprune_handles"

_WORD = re.compile(r"[\w. -]+")
SHARED = ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set")
"""What a second module shares with a first to hold the same tensors, whatever becomes of them."""

_STATE = frozenset({"_graph", "_code", "_in_spec", "_out_spec", "_lineno_map", "_prologue_start", "meta"})
_OWN = frozenset(dir(fx.GraphModule)) | _STATE | {"training"}


class NamedGraph(fx.GraphModule):
    """A graph with tensors under the user's dotted names.

    ``fx.GraphModule`` writes names into Python code and keeps them as attributes beside its own; where that
    cannot be, the code asks for a tensor by a handle.

    Args:
        name: Of the class, for printing.
    """

    def __init__(self, name: str) -> None:
        self._handles: dict[str, str] = {}
        super().__init__(nn.Module(), fx.Graph(), name)

    def __setattr__(self, name: str, value: object) -> None:
        """Members of fx itself are set even where the user has a part of that name."""
        if isinstance(value, fx.Graph) and name == "graph":
            self.__dict__["_graph"] = value
            value.owning_module = self
            self.recompile()
        elif name in _STATE:
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)  # type: ignore[arg-type]

    @property
    def fxprune_handles(self) -> _Handles:
        """What generated code asks for parts whose names cannot stand in code."""
        return _Handles(self)

    def recompile(self) -> PythonCode:
        """Write the code of the graph anew."""
        with_names = [n for n in self._graph.nodes if n.op in ("get_attr", "call_module")]
        awkward = {str(n.target) for n in with_names if not is_plain(str(n.target))}
        handles = {name: f"part_{k}" for k, name in enumerate(sorted(awkward))}
        self.__dict__["_handles"] = {handle: name for name, handle in handles.items()}
        hidden = [(n, str(n.target)) for n in with_names if n.target in handles]
        try:
            for node, name in hidden:
                node.target = f"{HANDLES}.{handles[name]}"
            return super().recompile()
        finally:
            for node, name in hidden:
                node.target = name

    def __deepcopy__(self, memo: dict[int, object]) -> NamedGraph:
        """A copy of everything, parts that the graph does not name included."""
        kind = type(self).__mro__[1]  # every GraphModule has a class of its own below this one
        duplicate: fx.GraphModule = fx.GraphModule.__new__(kind)
        assert isinstance(duplicate, NamedGraph)
        memo[id(self)] = duplicate
        duplicate.__dict__.update(copy.deepcopy(self.__dict__, memo))
        duplicate._graph.owning_module = duplicate
        duplicate.recompile()
        return duplicate

    def __reduce__(self) -> tuple[Callable[..., NamedGraph], tuple[object, ...]]:
        """Everything but objects that cannot be pickled, and those as data."""
        own, kind = type(self).__mro__[:2]
        return _restored, (kind, own.__name__, self._state())

    def _state(self) -> dict[str, object]:
        """The attributes, ready to be pickled."""
        left_out = ("_code", "_lineno_map", "_prologue_start")  # the code is written anew
        kept = {name: value for name, value in self.__dict__.items() if name not in left_out}
        return {**kept, "_graph": packed(self._graph)}

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Take attributes that were pickled."""
        self.__dict__.update(state)
        self.graph = state["_graph"].unpacked()


def _restored(kind: type[NamedGraph], name: str, state: Mapping[str, Any]) -> NamedGraph:
    restored = fx.GraphModule.__new__(kind)
    assert isinstance(restored, NamedGraph)
    type(restored).__name__ = name
    restored._restore(state)
    return restored


def plainly(model: nn.Module) -> nn.Module:
    """The model, or a view of a graph with only its tensors for attributes, for code that reads them by name."""
    if not isinstance(model, NamedGraph):
        return model
    view = nn.Module()
    view.__dict__.update({name: model.__dict__[name] for name in SHARED})
    view.__dict__["forward"] = model.forward
    return view


class _Handles:
    """Parts of a graph module by their handles."""

    def __init__(self, owner: NamedGraph) -> None:
        self._owner = owner

    def __getattr__(self, handle: str) -> torch.Tensor | nn.Module:
        name = self._owner._handles[handle]
        tensor = tensor_at(self._owner, name)
        return tensor if tensor is not None else _module_at(self._owner, name.split("."))


def is_plain(name: str) -> bool:
    """A dotted name that generated code can hold and that is no member of a GraphModule itself."""
    parts = name.split(".")
    return parts[0] not in _OWN and all(_WORD.fullmatch(p) and not keyword.iskeyword(p) for p in parts)


def _module_at(root: nn.Module, path: list[str]) -> nn.Module:
    for part in path:
        child = root._modules[part]
        assert child is not None
        root = child
    return root


def set_tensor(root: nn.Module, name: str, tensor: torch.Tensor, *, persistent: bool = True) -> None:
    """Register a parameter or buffer under a dotted name, making the modules on the way."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root._modules[part] = nn.Module()
        child = root._modules[part]
        assert child is not None
        root = child
    # Not by register_buffer and setattr, which refuse names that GraphModule has taken.
    if isinstance(tensor, nn.Parameter):
        root._parameters[last] = tensor
        return
    root._buffers[last] = tensor
    (root._non_persistent_buffers_set.discard if persistent else root._non_persistent_buffers_set.add)(last)


def tensor_at(root: nn.Module, name: str) -> torch.Tensor | None:
    """The parameter, buffer or plain attribute of a dotted name, if there is one."""
    *path, last = name.split(".")
    for part in path:
        child = root._modules.get(part)
        if child is None:
            return None
        root = child
    held = root._parameters.get(last, root._buffers.get(last, vars(root).get(last)))
    return held if isinstance(held, torch.Tensor) else None
