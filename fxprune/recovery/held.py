"""The tensors that a slim graph reads: private copies to solve for, and who reads which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from torch import Tensor, fx, nn

from fxprune.errors import FxpruneError
from fxprune.graph.drafts import arguments_by_name
from fxprune.graph.graph_module import tensor_at
from fxprune.graph.values import Calls
from fxprune.ops import qualified_name
from fxprune.ops.normalise import BATCH_NORMS
from fxprune.recovery.batch_norm import Norm
from fxprune.recovery.layers import Layer

__all__ = ["Held", "norm_at"]


@dataclass(frozen=True, eq=False)
class Held:
    """Tensors of the slim graph.

    Attributes:
        calls: The graph; of the tensors that the model holds it reads private copies.
        own: The model's own ones, by name.
        aliases: For names of tied tensors the name under which the tensor is first known.
        readers: For each first name the calls that read the tensor.
        start: The private copies as they were.
    """

    calls: Calls
    own: Mapping[str, Tensor]
    aliases: Mapping[str, str]
    readers: Mapping[str, Sequence[fx.Node]]
    start: Mapping[str, Tensor]

    @staticmethod
    def of(slim: nn.Module, made: Calls, aliases: Mapping[str, str], cropped: frozenset[str]) -> Held:
        """The tensors of a slim model as a graph reads them.

        Args:
            slim: The model.
            made: The graph, with tensors as the plan makes them.
            aliases: See above.
            cropped: Names of kernels that have lost borders since.

        Raises:
            FxpruneError: The model is none of this plan.
        """
        own = {n: _mine(slim, n, t, cropped) for n, t in made.tensors.items() if n in aliases}
        private = {id(t): t.detach().clone() for t in own.values()}
        tensors = {n: private[id(own[n])] if n in own else t for n, t in made.tensors.items()}
        readers: dict[str, list[fx.Node]] = {}
        for node in made.graph.nodes:
            if node.op == "get_attr":
                name = str(node.target)
                readers.setdefault(aliases.get(name, name), []).extend(node.users)
        start = {name: tensors[name].clone() for name in own}
        return Held(Calls(made.graph, tensors), own, aliases, readers, start)

    def tensor(self, name: str) -> Tensor:
        """The private copy of that name."""
        return self.calls.tensors[name]

    def first(self, name: str) -> str:
        """The name under which a tensor is first known."""
        return self.aliases.get(name, name)

    def readers_of(self, name: str) -> Sequence[fx.Node]:
        """The calls that read a tensor under any of its names."""
        return self.readers[self.first(name)]

    def bias_of(self, layer: Layer) -> Tensor | None:
        """A layer's bias, if nothing else reads it."""
        if layer.bias is None or set(self.readers_of(layer.bias)) != set(self.readers_of(layer.weight)):
            return None
        return self.tensor(layer.bias)

    def norm_behind(self, layer: Layer) -> Norm | None:
        """The batch norm that alone reads a layer without bias, and so can add a constant."""
        readers = list(layer.node.users)
        if layer.bias is not None or len(readers) != 1 or len(self.readers_of(layer.weight)) > 1:
            return None
        norm = norm_at(readers[0], self.calls.tensors)
        return norm if norm is not None and self.alone(readers[0]) else None

    def alone(self, norm: fx.Node) -> bool:
        """Whether a batch norm's tensors are read by it only."""
        held = [n for n in norm.all_input_nodes if n.op == "get_attr"]
        return all(len(self.readers_of(str(n.target))) == 1 for n in held)

    def reset(self, but: Set[str]) -> None:
        """Put the copies back to what they were, but for some first names."""
        for name, tensor in self.start.items():
            if self.first(name) not in but:
                self.tensor(name).copy_(tensor)

    def write(self) -> None:
        """Give the model the copies' values."""
        for name, tensor in self.own.items():
            tensor.detach().copy_(self.tensor(name))


def _mine(slim: nn.Module, name: str, made: Tensor, cropped: frozenset[str]) -> Tensor:
    tensor = tensor_at(slim, name)
    dims = 2 if name in cropped else made.ndim
    if tensor is None or tensor.ndim != made.ndim or tensor.shape[:dims] != made.shape[:dims]:
        raise FxpruneError(
            f"the slim model's '{name}' is not what this plan leaves of it",
            tensor=name,
            advice="pass the model that fxprune.slim made of this trace and this plan",
        )
    return tensor


def norm_at(node: fx.Node, tensors: Mapping[str, Tensor]) -> Norm | None:
    """The batch norm that a node calls, if it has running statistics and goes by them."""
    if qualified_name(node.target) != BATCH_NORMS[0]:
        return None
    values = arguments_by_name(node)
    held = (values.get(n) for n in ("running_mean", "running_var"))
    kept = all(isinstance(h, fx.Node) and h.op == "get_attr" for h in held)
    return Norm.of(node, tensors) if kept and not values["training"] else None
