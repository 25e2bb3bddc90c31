"""A kind of statement as data, and the small language in which its source is written.

A kind's source is a template.  Its holes are filled by drawing: ``{x}`` is a live variable, ``{y}`` the new
one, ``{m}`` a name for modules and parameters, and every other hole a number, a dimension, a list of positions
or another variable that fits the shape of ``{x}``.  What a kind needs of the live variables is thus said by the
number of dimensions it takes and by its holes: one that cannot be filled (``{g}``, a divisor, of a prime width)
means that the kind does not fit here.  The shape of the result is not written down: the statement is run.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

__all__ = ["HOLES", "Draw", "Kind", "Unfit", "kinds"]

Shape = tuple[int, ...]

WIDTHS = (4, 5, 6, 7, 8, 9, 10, 12, 15, 16, 18, 20, 24)
ACTIVATIONS = (
    *("F.relu", "F.gelu", "F.silu", "torch.tanh", "F.hardswish", "F.mish", "torch.sin", "F.leaky_relu"),
    *("torch.sigmoid", "torch.cos", "F.softplus", "torch.exp", "F.elu", "F.hardtanh", "torch.square"),
)
PADDINGS = ("zeros", "reflect", "replicate", "circular")


class Unfit(Exception):
    """A hole cannot be filled for this variable."""


@dataclass(frozen=True)
class Kind:
    """One kind of statement.

    Attributes:
        name: Unique.
        family: The table it stands in.
        ranks: Numbers of dimensions that ``{x}`` may have, one digit each.
        make: Lines for ``__init__``.
        lines: Lines for ``forward``.
        weight: How often it is drawn, relative to others.
    """

    name: str
    family: str
    ranks: str
    make: tuple[str, ...]
    lines: tuple[str, ...]
    weight: float = 1.0


Row = tuple[str, str, str | tuple[str, ...]] | tuple[str, str, str | tuple[str, ...], str | tuple[str, ...]]


def kinds(family: str, rows: tuple[Row, ...], *, weight: float = 1.0) -> tuple[Kind, ...]:
    """Kinds from a table of ``(name, ranks, lines for forward[, lines for __init__])``.

    A line without an equals sign is an expression for ``{y}`` in ``forward``, and for ``self.{m}`` in ``__init__``.

    Example:
        >>> kinds("layers", (("linear", "23", "self.{m}({x})", "nn.Linear({l}, {w})"),))[0].lines
        ('{y} = self.{m}({x})',)
    """
    listed = []
    for name, ranks, lines, *make in rows:
        body = _complete(lines, "{y}")
        members = _complete(make[0], "self.{m}") if make else ()
        listed.append(Kind(name, family, ranks, members, body, weight))
    return tuple(listed)


def _complete(lines: str | tuple[str, ...], name: str) -> tuple[str, ...]:
    return (f"{name} = {lines}",) if isinstance(lines, str) else lines


@dataclass
class Draw(Mapping[str, str]):
    """Fills the holes of one statement; each is drawn once.

    Attributes:
        rng: The statement's own generator.
        x: Name of the variable that is read.
        shapes: Shapes of all live variables.
        y: Name of the new variable.
        m: Name for modules and parameters.
        batch: Samples in the example.
    """

    rng: random.Random
    x: str
    shapes: Mapping[str, Shape]
    y: str
    m: str
    batch: int
    drawn: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, hole: str) -> str:
        if hole not in self.drawn:
            self.drawn[hole] = str(HOLES[hole](self))
        return self.drawn[hole]

    def __iter__(self) -> Iterator[str]:
        return iter(HOLES)

    def __len__(self) -> int:
        return len(HOLES)

    @property
    def shape(self) -> Shape:
        """Shape of the variable that is read."""
        return self.shapes[self.x]

    def size(self, dim: int) -> int:
        """Its size along a dimension."""
        if dim >= len(self.shape):
            raise Unfit
        return self.shape[dim]

    def number(self, hole: str) -> int:
        """The value of a hole that holds a number."""
        return int(self[hole])

    def one_of(self, options: list[int] | tuple[int, ...]) -> int:
        """A random one, if there is any."""
        if not options:
            raise Unfit
        return self.rng.choice(options)


# --- numbers -----------------------------------------------------------------------------------


def _divisors(n: int) -> list[int]:
    return [d for d in range(2, n) if n % d == 0]


def _size(dim: int) -> Callable[[Draw], int]:
    return lambda draw: draw.size(dim)


def _written_size(dim: int) -> Callable[[Draw], str]:
    """The size as a number, or as what the code asks the tensor for."""

    def written(draw: Draw) -> str:
        size = draw.size(dim)
        ways = (str(size), str(size), f"{draw.x}.shape[{dim}]", f"{draw.x}.size({dim})")
        return draw.rng.choice(ways)

    return written


def _last(draw: Draw) -> int:
    return draw.shape[-1]


def _written_last(draw: Draw) -> str:
    return draw.rng.choice((str(draw.shape[-1]), f"{draw.x}.shape[-1]", f"{draw.x}.size(-1)"))


def _samples(draw: Draw) -> str:
    return draw.rng.choice((f"{draw.x}.shape[0]", f"{draw.x}.size(0)", f"len({draw.x})"))


def _width(draw: Draw) -> int:
    """A new width: often one that another variable has, so that sums and joins find partners."""
    known = [s[1] for s in draw.shapes.values() if len(s) > 2 and 2 < s[1] <= 24]
    return draw.rng.choice(known) if known and draw.rng.random() < 0.4 else draw.rng.choice(WIDTHS)


def _divisor(of: str) -> Callable[[Draw], int]:
    return lambda draw: draw.one_of(_divisors(draw.number(of)))


def _rest(whole: str, part: str) -> Callable[[Draw], int]:
    return lambda draw: draw.number(whole) // draw.number(part)


def _written_rest(whole: str, part: str, dim: int) -> Callable[[Draw], str]:
    """The other factor: a number, left to torch, or calculated from the shape."""

    def written(draw: Draw) -> str:
        part_ = draw.number(part)
        ways = (str(draw.number(whole) // part_), "-1", f"{draw.x}.shape[{dim}] // {part_}")
        return draw.rng.choice(ways)

    return written


def _multiple(of: str) -> Callable[[Draw], int]:
    return lambda draw: draw.number(of) * draw.rng.randint(1, max(1, 24 // draw.number(of)))


def _kernel(draw: Draw) -> int:
    smallest = min(draw.shape[2:], default=1)
    return draw.one_of([k for k in (1, 3, 3, 5) if k // 2 < smallest])


# --- dimensions and positions ------------------------------------------------------------------


def _dim(draw: Draw) -> int:
    """A dimension after the batch with several positions, most often the first or the last."""
    wide = [d for d in range(1, len(draw.shape)) if draw.shape[d] > 1]
    ends = [d for d in (1, len(draw.shape) - 1) if d in wide]
    return draw.one_of(ends if ends and draw.rng.random() < 0.7 else wide)


def _written_dim(draw: Draw) -> int:
    dim = draw.number("d")
    return draw.rng.choice((dim, dim - len(draw.shape)))


def _other_dim(draw: Draw) -> int:
    dim = draw.number("d")
    return draw.one_of([d for d in range(1, len(draw.shape)) if d != dim])


def _length(draw: Draw) -> int:
    return draw.shape[draw.number("d")]


def _start(draw: Draw) -> int:
    return draw.rng.randrange(draw.number("s") // 2 + 1) if draw.number("s") > 1 else 0


def _stop(draw: Draw) -> int:
    return draw.rng.randint(draw.number("i") + 1, draw.number("s"))


def _colons(draw: Draw) -> str:
    """What stands before the dimension in an index: ``:, :,``."""
    return ":, " * draw.number("d")


def _positions(draw: Draw) -> str:
    size = draw.number("s")
    return str([draw.rng.randrange(size) for _ in range(draw.rng.randint(2, max(2, size)))])


def _shuffled(draw: Draw) -> str:
    order = list(range(draw.number("s")))
    draw.rng.shuffle(order)
    return str(order)


def _some(draw: Draw) -> str:
    """Distinct positions in order."""
    size = draw.number("s")
    return str(sorted(draw.rng.sample(range(size), draw.rng.randint(1, size - 1))))


def _permutation(draw: Draw) -> str:
    order = list(range(1, len(draw.shape)))
    if len(order) < 2:
        raise Unfit
    while order == sorted(order):
        draw.rng.shuffle(order)
    return ", ".join(map(str, (0, *order)))


def _parts(draw: Draw) -> str:
    """Sizes of two or three parts of the dimension."""
    size = draw.number("s")
    if size < 3:
        raise Unfit
    cuts = sorted(draw.rng.sample(range(1, size), draw.rng.randint(1, min(2, size - 1))))
    return str([b - a for a, b in zip([0, *cuts], [*cuts, size], strict=True)])


# --- other variables ---------------------------------------------------------------------------


def _like(draw: Draw) -> str:
    return draw.rng.choice([v for v, s in draw.shapes.items() if v != draw.x and s == draw.shape] or _none())


def _broadcasting(draw: Draw) -> str:
    """Another variable of the same number of dimensions, each equal or one."""
    shape = draw.shape
    fits = [
        v
        for v, s in draw.shapes.items()
        if v != draw.x and len(s) == len(shape) and all(a in (1, b) for a, b in zip(s, shape, strict=True))
    ]
    return draw.rng.choice(fits or _none())


def _joinable(draw: Draw) -> str:
    """Another variable (or the same) that differs at most along the dimension."""
    dim, shape = draw.number("d"), draw.shape
    fits = [
        v
        for v, s in draw.shapes.items()
        if len(s) == len(shape) and all(a == b for k, (a, b) in enumerate(zip(s, shape)) if k != dim)
    ]
    others = [v for v in fits if v != draw.x]
    return draw.rng.choice(others or fits)


def _same_features(draw: Draw) -> str:
    """Another variable of three dimensions, for cross attention."""
    fits = [v for v, s in draw.shapes.items() if v != draw.x and len(s) == 3 and s[0] == draw.shape[0]]
    return draw.rng.choice(fits or _none())


def _same_samples(draw: Draw) -> str:
    """Another variable of any shape over the same samples."""
    fits = [v for v, s in draw.shapes.items() if v != draw.x and s[0] == draw.shape[0] and len(s) > 1]
    return draw.rng.choice(fits or _none())


def _none() -> list[str]:
    raise Unfit


HOLES: Mapping[str, Callable[[Draw], object]] = {
    "x": lambda draw: draw.x,
    "y": lambda draw: draw.y,
    "m": lambda draw: draw.m,
    "n": _samples,
    "c": _size(1),
    **{f"s{dim}": _size(dim) for dim in range(1, 5)},
    **{f"S{dim}": _written_size(dim) for dim in range(1, 5)},
    "C": _written_size(1),
    "l": _last,
    "L": _written_last,
    "whole": lambda draw: math.prod(draw.shape[1:]),
    "w": _width,
    "a": _divisor("c"),
    "b": _rest("c", "a"),
    "B": _written_rest("c", "a", 1),
    "p": _divisor("l"),
    "q": _rest("l", "p"),
    "Q": _written_rest("l", "p", -1),
    "b1": _divisor("b"),
    "b2": _rest("b", "b1"),
    "g": lambda draw: draw.one_of([*_divisors(draw.size(1)), *_divisors(draw.size(1)), draw.size(1)]),
    "wg": _multiple("g"),
    "h": lambda draw: draw.one_of((2, 3, 4)),
    "hd": lambda draw: draw.one_of((2, 4, 6)),
    "k": _kernel,
    "kp": lambda draw: draw.number("k") // 2,
    "mode": lambda draw: draw.rng.choice(PADDINGS),
    "act": lambda draw: draw.rng.choice(ACTIVATIONS),
    "bias": lambda draw: draw.rng.choice((True, False)),
    "flag": lambda draw: draw.rng.choice((True, False)),
    "f": lambda draw: draw.rng.choice((0.1, 0.25, 0.5, 1.0, 1.5, 2.0, -0.5, -1.0)),
    "two": lambda draw: draw.one_of((2, 3)),
    "d": _dim,
    "D": _written_dim,
    "e": _other_dim,
    "s": _length,
    "sd": lambda draw: draw.one_of(_divisors(draw.number("s"))),
    "i": _start,
    "j": _stop,
    "cut": lambda draw: draw.one_of(range(1, draw.number("s"))),  # type: ignore[arg-type]
    "colons": _colons,
    "at": _positions,
    "order": _shuffled,
    "some": _some,
    "perm": _permutation,
    "parts": _parts,
    "tail": lambda draw: tuple(draw.shape[1:]),
    "de": lambda draw: draw.one_of([d for d in range(1, len(draw.shape)) if draw.shape[d] % 2 == 0]),
    "d12": lambda draw: draw.one_of((1, 2)),
    "du": lambda draw: draw.rng.randint(1, len(draw.shape)),
    "fl": lambda draw: draw.rng.randint(1, len(draw.shape) - 2),
    "i0": lambda draw: draw.rng.randrange((draw.shape[-1] + 1) // 2),
    "i1": lambda draw: draw.rng.randrange((draw.size(1) + 1) // 2),
    "o": _like,
    "v": _broadcasting,
    "u": _joinable,
    "z": _same_features,
    "r": _same_samples,
    "vl": lambda draw: draw.shapes[draw["z"]][-1],
    "rw": lambda draw: draw.shapes[draw["r"]][1],
    "rr": lambda draw: tuple(range(2, len(draw.shapes[draw["r"]]))) or _none(),
}
"""What can stand in braces."""
