"""A slim model as a graph that is made again for what it was not traced on: other sizes, types, devices, training.

A graph holds for the example it was traced on: sizes of images, lengths of sequences, types and devices are
numbers in it, and it ran in evaluation.  The module therefore keeps the user's code, without numbers, and
traces it anew when it is called in a way that it has no graph for.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import fx, nn
from torch.fx.graph import PythonCode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode

from fxprune.errors import FxpruneError, SliceError
from fxprune.graph.graph_module import SHARED, NamedGraph
from fxprune.graph.pickling import packed
from fxprune.support.words import headline

__all__ = ["Leaf", "Made", "Maker", "SlimGraph", "Way"]

Kind = tuple[torch.dtype, str]
"""Type and kind of device that a model computes in."""


@dataclass(frozen=True)
class Leaf:
    """A tensor among the inputs, without its numbers."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')}{list(self.shape)}"


@dataclass(frozen=True, eq=False)
class Way:
    """A way to call a model: structure, sizes, types and devices of its inputs, and its mode.

    Attributes:
        leaves: The inputs in order, tensors without their numbers.
        spec: How they are nested.
        training: Whether the model is in training.
        kind: What the model computes in, None if it has no decimal numbers at all.
    """

    leaves: tuple[object, ...]
    spec: pytree.TreeSpec
    training: bool
    kind: Kind | None

    @staticmethod
    def of(module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Way:
        """How a module is called with these arguments."""
        leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
        tensors = (t for t in (*module.parameters(), *leaves) if isinstance(t, torch.Tensor))
        kind = next(((t.dtype, t.device.type) for t in tensors if t.is_floating_point()), None)
        shown = (
            Leaf(tuple(a.shape), a.dtype, a.device) if isinstance(a, torch.Tensor) else a for a in leaves
        )
        return Way(tuple(shown), spec, module.training, kind)

    def __str__(self) -> str:
        shown = ", ".join(str(a) if isinstance(a, Leaf) else repr(a) for a in self.leaves)
        return f"{shown} in {'training' if self.training else 'evaluation'}"


@dataclass(frozen=True, eq=False)
class Made:
    """A graph and the ways to call it.

    Attributes:
        graph: Its parts lie in the slim module.
        way: The way it was traced on.
        dynamic_batch: The first dimension of every tensor may be of any size.
        trains: Training differs only by batch norm and dropout, which follow the mode.
    """

    graph: fx.Graph
    way: Way
    dynamic_batch: bool
    trains: bool

    def fits(self, way: Way, *, any_kind: bool = False) -> bool:
        """Whether the graph holds for this way; types are left aside on demand."""
        if (way.training != self.way.training and not self.trains) or way.spec != self.way.spec:
            return False
        typed = self.typed and not any_kind
        pairs = zip(self.way.leaves, way.leaves, strict=True)
        return (not typed or way.kind == self.way.kind) and all(self._holds(a, b, typed) for a, b in pairs)

    @functools.cached_property
    def typed(self) -> bool:
        """A type or a device is written in the graph."""
        calls = (n for n in self.graph.nodes if n.op == "call_function")
        return any(_is_kind(leaf) for n in calls for leaf in pytree.tree_leaves((n.args, n.kwargs)))

    def _holds(self, mine: object, given: object, typed: bool) -> bool:
        if not isinstance(mine, Leaf) or not isinstance(given, Leaf):
            return type(mine) is type(given) and bool(mine == given)
        first = int(self.dynamic_batch)
        same = len(mine.shape) == len(given.shape) and mine.shape[first:] == given.shape[first:]
        return same and (not typed or (mine.dtype, mine.device.type) == (given.dtype, given.device.type))


def _is_kind(leaf: object) -> bool:
    return isinstance(leaf, torch.device) or (isinstance(leaf, torch.dtype) and leaf.is_floating_point)


class Maker(Protocol):
    """Makes graphs for further ways."""

    def make(self, owner: SlimGraph, way: Way, number: int) -> Made:
        """A graph whose parts lie in the owner under names with that number; any error says why there is none."""

    def trains_alike(self, way: Way) -> bool:
        """Whether the user's code does nothing else in training, but for batch norm and dropout."""


class SlimGraph(NamedGraph):
    """A slim model whose graph is that of the example, or one that is made when it is needed.

    Args:
        name: Of the class, for printing.
        maker: Makes further graphs.
    """

    def __init__(self, name: str, maker: Maker | None) -> None:
        self._maker = maker
        self._made: list[Made] = []
        self._others: list[NamedGraph] = []
        super().__init__(name)

    def settle(self, first: Made) -> None:
        """Take the first graph."""
        self._made = [first]
        self.graph = first.graph

    def recompile(self) -> PythonCode:
        """Write the code of the first graph anew."""
        code = super().recompile()
        kind = type(self)
        kind.forward = _choosing(kind.forward)
        if self._made:
            self._made[0] = replace(self._made[0], graph=self._graph)
        return code

    def _state(self) -> dict[str, object]:
        ways = [(packed(m.graph), m.way, m.dynamic_batch, m.trains) for m in self._made]
        return {**super()._state(), "_made": ways}

    def _restore(self, state: Mapping[str, Any]) -> None:
        graphs = [Made(graph.unpacked(), *others) for graph, *others in state["_made"]]
        super()._restore({**state, "_made": graphs})

    def run_for(self, way: Way) -> int:
        """The number of the graph for a way, made now if there is none."""
        number = next((k for k, graph in enumerate(self._made) if graph.fits(way)), None)
        if number is None and _get_current_dispatch_mode() is not None:
            # Whoever watches the operators sees to types himself (a comparison in float64, an export).
            number = next((k for k, graph in enumerate(self._made) if graph.fits(way, any_kind=True)), None)
        return self._make(way) if number is None else number

    def _make(self, way: Way) -> int:
        try:
            return self._try_to_make(way)
        except Exception as error:
            what = error.what if isinstance(error, FxpruneError) else headline(error)
            raise SliceError(
                f"this graph was made for {self._made[0].way}, and there is none for {way}: {what.splitlines()[0]}",
                source=error.source if isinstance(error, FxpruneError) else "",
                advice="call it as the example inputs were, or trace and slim the model on inputs like these",
            ) from error

    def _try_to_make(self, way: Way) -> int:
        if torch.compiler.is_exporting():
            raise SliceError("it cannot be made during an export: call the model once in this way before")
        unknown = way.training and not self._made[0].trains
        if unknown and self._maker is None:
            warnings.warn(
                "the model cannot be copied, so its graph does in training what it did in evaluation, "
                "but for batch norm and plain dropout",
                stacklevel=4,
            )
        with _disable_current_modes():
            if unknown and (self._maker is None or self._maker.trains_alike(way)):
                self._made = [replace(m, trains=True) for m in self._made]
                return self.run_for(way)
            if self._maker is None:
                raise SliceError("the user's model cannot be copied")
            further = self._maker.make(self, way, len(self._made))
        other = NamedGraph(type(self).__name__)
        # The same dictionaries: what is cast, moved or trained here is so there.
        other.__dict__.update({name: self.__dict__[name] for name in SHARED})
        other.graph = further.graph
        self._made.append(further)
        self._others.append(other)
        return len(self._others)


def _choosing(own: Callable[..., object]) -> Callable[..., object]:
    """The forward of a slim graph: the first graph's code, or that of another."""

    @functools.wraps(own)
    def forward(self: SlimGraph, *args: object, **kwargs: object) -> object:
        number = self.run_for(Way.of(self, args, kwargs)) if self._made else 0
        return self._others[number - 1].forward(*args, **kwargs) if number else own(self, *args, **kwargs)

    return forward
