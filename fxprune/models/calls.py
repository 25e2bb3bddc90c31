"""How a model is called: example inputs as a call, its tensors by name, other values and batch sizes.

A runtime such as onnxruntime knows a model as a function from named tensors to named tensors.
This module translates between that view and the user's: nested lists and dicts, keyword
arguments, numbers and flags among the inputs, structured outputs.
"""

from __future__ import annotations

import contextlib
import inspect as pyinspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils import _pytree as pytree

from fxprune.errors import FxpruneError
from fxprune.support.briefly import brief
from fxprune.support.process import alone, untouched_random_state

__all__ = [
    "Call",
    "ExampleInputs",
    "as_call",
    "evaluating",
    "output_tensors",
    "untouched_random_state",
]

ExampleInputs = torch.Tensor | Sequence[object] | Mapping[str, object]
"""A tensor or list (one argument), a tuple (positional arguments), or a dict (keyword arguments)."""


@brief
@dataclass(frozen=True, eq=False)
class Call:
    """One call of a model: ``model(*args, **kwargs)``.

    Attributes:
        args: Positional arguments, nested as the model wants them.
        kwargs: Keyword arguments.
    """

    args: tuple[object, ...]
    kwargs: Mapping[str, object]

    def __call__(self, model: nn.Module) -> object:
        """The model's outputs."""
        return model(*self.args, **self.kwargs)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Every tensor among the inputs, in the order of the arguments."""
        return tuple(leaf for leaf in self._leaves() if isinstance(leaf, torch.Tensor))

    @property
    def batch(self) -> int | None:
        """Size of the first dimension of the first input tensor that has one, or None."""
        return next((t.shape[0] for t in self.tensors if t.ndim), None)

    @property
    def batched(self) -> tuple[bool, ...]:
        """For each tensor whether its first dimension has the size of the batch."""
        return tuple(t.ndim > 0 and t.shape[0] == self.batch for t in self.tensors)

    def names(self, model: nn.Module | None = None) -> tuple[str, ...]:
        """Distinct identifiers for the tensors: the arguments' names and the path inside them.

        Example:
            >>> x = torch.zeros(1)
            >>> Call((x, [x, {"mask": x}]), {"y": x}).names()
            ('input_0', 'input_1_0', 'input_1_1_mask', 'y')
        """
        flat, _ = pytree.tree_flatten_with_path((self.args, dict(self.kwargs)))
        known = _positional_names(model) if model is not None else ()
        names = []
        for path, leaf in flat:
            if not isinstance(leaf, torch.Tensor):
                continue
            where, argument, *inside = (_key(entry) for entry in path)
            if where == "0":
                at = int(argument)
                default = "input" if len(self.args) == 1 and not self.kwargs else f"input_{at}"
                argument = known[at] if at < len(known) else default
            names.append("_".join([argument, *inside]))
        return _distinct(names)

    def with_tensors(self, tensors: Sequence[torch.Tensor]) -> Call:
        """The same call with other tensors in the place of its own."""
        leaves, spec = pytree.tree_flatten((self.args, dict(self.kwargs)))
        given = iter(tensors)
        replaced = [next(given) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        args, kwargs = pytree.tree_unflatten(replaced, spec)
        return Call(args, kwargs)

    def with_batch(self, size: int, batched: Sequence[bool] | None = None) -> Call:
        """The same call at another batch size, samples repeated in turn.

        Args:
            size: Samples.
            batched: Which tensors carry the batch; by default those whose first size is the batch.
        """
        index = torch.arange(size) % max(self.batch or 1, 1)
        carried = self.batched if batched is None else batched
        return self.with_tensors(
            [t.index_select(0, index.to(t.device)) if carry else t for t, carry in zip(self.tensors, carried)]
        )

    def resampled(self, seed: int) -> Call:
        """The same call with fresh random values, of the same kind as its own.

        Integers and flags are drawn uniformly from the closed range of the example's values, so
        that indices stay valid; floating-point values are normal with the example's mean and
        spread, kept inside its range (a constant example gives standard normal values).
        """
        random = torch.Generator().manual_seed(seed)
        return self.with_tensors([_resampled(t, random) for t in self.tensors])

    def _leaves(self) -> list[object]:
        return list(pytree.tree_leaves((self.args, dict(self.kwargs))))


def as_call(example_inputs: ExampleInputs, *, error: type[FxpruneError] = FxpruneError) -> Call:
    """Read example inputs as a call.

    Args:
        example_inputs: A tensor or list (one argument), a tuple (positional arguments), or a
            mapping (keyword arguments).
        error: The class of the error to raise.

    Raises:
        FxpruneError: Or the given subclass: there is no tensor in them.

    Example:
        >>> as_call({"x": torch.zeros(2, 3)}).batch
        2
    """
    if isinstance(example_inputs, Mapping):
        call = Call((), {str(key): value for key, value in example_inputs.items()})
    else:
        call = Call(example_inputs if isinstance(example_inputs, tuple) else (example_inputs,), {})
    if not call.tensors:
        raise error(
            f"the example inputs hold no tensor: {type(example_inputs).__name__}",
            advice="pass a Tensor, a tuple of arguments, or a dict of keyword arguments",
        )
    return call


def output_tensors(outputs: object) -> dict[str, torch.Tensor]:
    """The tensors among a model's outputs, by the path at which they stand.

    Example:
        >>> list(output_tensors({"out": torch.zeros(1), "aux": [torch.zeros(1), None]}))
        ['out', 'aux_0']
        >>> list(output_tensors((torch.zeros(1), 3)))
        ['output_0']
    """
    if isinstance(outputs, torch.Tensor):
        return {"output": outputs}
    flat, _ = pytree.tree_flatten_with_path(outputs)
    tensors = [(path, leaf) for path, leaf in flat if isinstance(leaf, torch.Tensor)]
    names = ["_".join(_key(entry) for entry in path) for path, _ in tensors]
    names = [f"output_{name}" if name[:1].isdigit() else name for name in names]
    return dict(zip(_distinct(names), [leaf for _, leaf in tensors]))


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch a model to evaluation mode, and every submodule back to its own mode after."""
    with alone():  # or two threads would give back what the other one has set
        modes = [(module, module.training) for module in model.modules()]
        try:
            # Graphs made by torch.export are fixed in one mode and refuse the call.
            with contextlib.suppress(NotImplementedError):
                model.eval()
            yield
        finally:
            # Parents come before children, so a child's own mode has the last word; train() is called
            # where it can be, since a module may do more in it than set the flag.
            for module, training in modes:
                if module.training != training:
                    with contextlib.suppress(NotImplementedError):
                        module.train(training)
                    module.training = training


def _positional_names(model: nn.Module) -> tuple[str, ...]:
    positional = (pyinspect.Parameter.POSITIONAL_ONLY, pyinspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = pyinspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return ()
    return tuple(p.name for p in parameters if p.kind in positional)


def _key(entry: object) -> str:
    """One step of a path: an index, a key or a field's name, as an identifier."""
    for attribute in ("idx", "key", "name"):
        if hasattr(entry, attribute):
            return re.sub(r"\W", "_", str(getattr(entry, attribute)))
    return re.sub(r"\W", "_", str(entry)).strip("_")


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """The names in their order, a number added where one comes again."""
    taken: dict[str, None] = {}
    for name in names:
        candidates = (name, *(f"{name}_{n}" for n in range(2, len(names) + 2)))
        taken[next(c for c in candidates if c not in taken)] = None
    return tuple(taken)


def _resampled(example: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    if example.numel() == 0 or example.is_complex():
        return example.clone()
    low, high = (float(v) for v in torch.aminmax(example.detach().double().nan_to_num()))
    if not example.is_floating_point():
        drawn = torch.randint(int(low), int(high) + 1, example.shape, generator=random)
        return drawn.to(device=example.device, dtype=example.dtype)
    drawn = torch.randn(example.shape, generator=random)
    if low < high:
        spread, mean = torch.std_mean(example.detach().double().nan_to_num())
        drawn = (drawn * float(spread) + float(mean)).clamp(low, high)
    return drawn.to(device=example.device, dtype=example.dtype)
