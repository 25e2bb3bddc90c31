"""Equal conditions for every run of a comparison: private copies, one floating type, chance that stands still."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from fxprune.support.dispatch import Watching
from fxprune.support.process import alone

__all__ = ["Conditions", "cast", "copied", "named_arguments", "private", "unfused"]

NARROW = frozenset({torch.float16, torch.bfloat16, torch.float32})
COMPLEX = {torch.float64: torch.complex128, torch.float32: torch.complex64}

Values = dict[str, object]

# Views that come with a type of their own, and what is handed through although it is called a view.
_RETYPED = "aten::view"
_HANDED = "aten::lift_fresh"


class Conditions(Watching):
    """Runs every operator in one floating type, with random numbers that stand still.

    Types written in the model's code (``x.float()``) would end a comparison in double precision, and drawing
    numbers for fewer channels gives all of them other numbers.  What is drawn independently has one value for
    each kind of distribution: a slim model that is right for every value is right for random ones.

    Args:
        dtype: The floating type.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def called(
        self, func: torch._ops.OpOverload, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> object:
        """Run one operator."""
        return self.run(func, named_arguments(func, args, kwargs))

    def run(self, func: torch._ops.OpOverload, values: Values) -> object:
        """The operator's result on arguments by name."""
        random = torch.Tag.nondeterministic_seeded in func.tags
        draw = _DRAWN.get(func._schema.name.rstrip("_"), _repeated) if random else None
        values = {n: self._typed(v) for n, v in values.items()} if func._schema.name != _RETYPED else values
        result = draw(func, values) if draw else func(**values)
        if func.is_view and func._schema.name != _HANDED:
            return result
        return pytree.tree_map_only(Tensor, self._widened, result)

    def _typed(self, value: object) -> object:
        """A type written in the code as the type of the comparison."""
        if not isinstance(value, torch.dtype):
            return value
        return self.dtype if value in NARROW else COMPLEX[self.dtype] if value is torch.complex64 else value

    def _widened(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype) if tensor.dtype in NARROW and tensor.dtype != self.dtype else tensor


def named_arguments(
    func: torch._ops.OpOverload, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> Values:
    """The arguments of a call by the names of the operator's schema."""
    return {**dict(zip((a.name for a in func._schema.arguments), args, strict=False)), **kwargs}


# --- chance ------------------------------------------------------------------------------------

_Draw = Callable[[torch._ops.OpOverload, Values], object]

Z, U = 0.7, 0.3
"""The value that every normal and every uniform number has: of no symmetry, and inside the usual."""


def _filled(value: Callable[[Values], object]) -> _Draw:
    """Draw for the shape and type of the result, then put one value in the place of all."""

    def draw(func: torch._ops.OpOverload, values: Values) -> object:
        with _seeded():
            result = func(**values)
        assert isinstance(result, Tensor)
        return result.copy_(torch.as_tensor(value(values)).to(result.dtype))

    return draw


def _normal(values: Values) -> object:
    mean, std = values.get("mean", 0.0), values.get("std", 1.0)
    return mean + Z * std  # type: ignore[operator]


def _uniform(values: Values) -> object:
    low, high = float(values.get("from", 0.0)), float(values.get("to", 1.0))  # type: ignore[arg-type]
    return low + U * (high - low)


def _integer(values: Values) -> object:
    return values.get("low", values.get("from", 0))


def _kept(values: Values) -> object:
    return 1.0


def _all_kept(func: torch._ops.OpOverload, values: Values) -> object:
    """Dropout that drops nothing, scaled as it is in training."""
    x, p = values["input"], values["p"]
    assert isinstance(x, Tensor) and isinstance(p, float)
    train = values.get("train") is not False
    return (x / (1 - p) if train and p < 1 else x.clone()), torch.ones_like(x, dtype=torch.bool)


def _repeated(func: torch._ops.OpOverload, values: Values) -> object:
    """The same numbers in every run, where all of them are needed (permutations)."""
    with _seeded():
        return func(**values)


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    with alone(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


_DRAWN: Mapping[str, _Draw] = {
    **dict.fromkeys(
        ("aten::randn", "aten::randn_like", "aten::normal", "aten::normal_functional"), _filled(_normal)
    ),
    **dict.fromkeys(("aten::rand", "aten::rand_like", "aten::uniform"), _filled(_uniform)),
    **dict.fromkeys(("aten::randint", "aten::randint_like", "aten::random"), _filled(_integer)),
    **dict.fromkeys(("aten::bernoulli", "aten::exponential", "aten::poisson"), _filled(_kept)),
    "aten::native_dropout": _all_kept,
    **dict.fromkeys(("aten::randperm", "aten::multinomial"), _repeated),
}


# --- copies ------------------------------------------------------------------------------------


def private(module: nn.Module) -> nn.Module:
    """A copy that shares nothing with the module, in evaluation mode.

    What was computed from parameters (by the masks of ``torch.nn.utils.prune``, say), which torch does not
    copy, is copied as numbers.
    """
    memo: dict[int, object] = {}
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    clone = copy.deepcopy(module, memo)
    for part in clone.modules():
        part.training = False
    return clone


def copied(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A private copy that computes in a floating type.

    Args:
        module: Any module; it is not changed.
        dtype: ``torch.float64`` or ``torch.float32``.
    """
    clone = private(module)
    clone._apply(lambda tensor: cast(tensor, dtype))
    for part in clone.modules():
        # Tensors that are no buffers: a grid that was computed once, say.
        held = {name: value for name, value in vars(part).items() if isinstance(value, Tensor)}
        vars(part).update({name: cast(value, dtype) for name, value in held.items()})
    return clone


def cast(tensor: Tensor, dtype: torch.dtype, *, copy: bool = False) -> Tensor:
    """A floating tensor in a floating type, a complex one in that of its parts, others as they are."""
    kind = dtype if tensor.is_floating_point() else COMPLEX[dtype] if tensor.is_complex() else tensor.dtype
    return tensor.to(kind, copy=copy)


class unfused(TorchFunctionMode):  # noqa: N801 - used like a function
    """Keeps torch.nn's fused encoder kernels off, in this thread only: torch.nn asks whether a mode is active."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Call the function as it is."""
        return func(*args, **(kwargs or {}))
