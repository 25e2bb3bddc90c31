"""All kinds of statements, how a net begins, and how it ends."""

from __future__ import annotations

from dataclasses import dataclass

from fxprune.testing.nets.attention import ATTENTION
from fxprune.testing.nets.gates import GATES
from fxprune.testing.nets.kinds import Kind, kinds
from fxprune.testing.nets.layers import LAYERS
from fxprune.testing.nets.maths import MATHS
from fxprune.testing.nets.moves import MOVES

__all__ = ["ENTRIES", "HEADS", "KINDS", "STATEMENTS", "Entry"]

STATEMENTS: tuple[Kind, ...] = (*LAYERS, *MATHS, *MOVES, *GATES, *ATTENTION)
"""What a net's middle is drawn from."""

HEADS: tuple[Kind, ...] = kinds(
    "heads",
    (
        ("linear head", "23456", "self.{m}({x})", "nn.Linear({l}, 3)"),
        ("convolution head", "4", "self.{m}({x})", "nn.Conv2d({c}, 3, 1)"),
        ("pooled head", "345", "self.{m}({x}.flatten(2).mean(2))", "nn.Linear({c}, 3)"),
        ("flat head", "345", "self.{m}({x}.flatten(1))", "nn.Linear({whole}, 3)"),
        ("channel head", "345", "self.{m}({x}.movedim(1, -1)).relu()", "nn.Linear({c}, 3)"),
        ("sum head", "345", "{x}.sum(1)"),
        ("bare head", "23456", "{x} * 1.0"),
    ),
)
"""How a variable becomes an output; the last one makes its width part of the contract."""

KINDS: dict[str, Kind] = {kind.name: kind for kind in (*STATEMENTS, *HEADS)}
"""Statements and heads by name."""


@dataclass(frozen=True)
class Entry:
    """How a net begins.

    Attributes:
        inputs: Shape of each input without the batch; one of integers holds indices below ``vocabulary``.
        first: The layer that reads each input, so that what follows has units that may go.
        vocabulary: 0 for numbers.
    """

    inputs: dict[str, tuple[int, ...]]
    first: Kind
    vocabulary: int = 0


def _first(name: str, ranks: str, line: str, make: str) -> Kind:
    return kinds("entries", ((name, ranks, line, make),))[0]


_IMAGE = _first("image", "4", "self.{m}({x})", "nn.Conv2d({c}, {w}, 3, padding=1)")
_TOKENS = _first("tokens", "3", "self.{m}({x})", "nn.Linear({l}, {w})")

ENTRIES: dict[str, Entry] = {
    "image": Entry({"x": (3, 8, 8)}, _IMAGE),
    "small image": Entry({"x": (3, 6, 4)}, _IMAGE),
    "two images": Entry({"x": (3, 6, 6), "z": (3, 6, 6)}, _IMAGE),
    "patches": Entry(
        {"x": (3, 6, 6)},
        _first(
            "patches", "4", "self.{m}({x}).flatten(2).transpose(1, 2)", "nn.Conv2d({c}, {w}, 2, stride=2)"
        ),
    ),
    "tokens": Entry({"x": (5, 6)}, _TOKENS),
    "two streams": Entry({"x": (5, 6), "z": (4, 7)}, _TOKENS),
    "indices": Entry({"x": (6,)}, _first("indices", "2", "self.{m}({x})", "nn.Embedding(11, {w})"), 11),
    "signal": Entry(
        {"x": (2, 10)}, _first("signal", "3", "self.{m}({x})", "nn.Conv1d({c}, {w}, 3, padding=1)")
    ),
    "volume": Entry(
        {"x": (2, 4, 4, 4)}, _first("volume", "5", "self.{m}({x})", "nn.Conv3d({c}, {w}, 3, padding=1)")
    ),
    "vector": Entry({"x": (6,)}, _first("vector", "2", "self.{m}({x})", "nn.Linear({l}, {w})")),
}
"""Inputs and the layers that read them."""
