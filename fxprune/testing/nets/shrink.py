"""Make a failing net small: delete statements, then parts of the plan, as long as it fails the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from fxprune.testing.nets.check import Finding, Removal, check
from fxprune.testing.nets.write import Net, Recipe, write

__all__ = ["Shrunk", "shrink"]


@dataclass(frozen=True)
class Shrunk:
    """A small net that fails like a large one.

    Attributes:
        net: The net.
        finding: How it fails.
        tries: Nets that were tried on the way.
    """

    net: Net
    finding: Finding
    tries: int

    @property
    def text(self) -> str:
        """A file that repeats the failure: the module, what is removed, and what was seen."""
        said = "\n".join(f"# {line}" for line in self.finding.said.splitlines())
        removal = {axis: list(at) for axis, at in (self.finding.removal or {}).items()}
        return (
            f"# Seed {self.net.seed}: {self.finding.verdict} at {self.finding.stage}, {self.finding.how}\n{said}\n"
            f"{self.net.source}\n\nREMOVED = {removal}\n"
        )


def shrink(net: Net, finding: Finding, *, tries: int = 200) -> Shrunk:
    """The smallest net that still fails in the same way.

    Args:
        net: A net that ``random_net`` wrote.
        finding: One of its report's.
        tries: Most nets to try.
    """
    if net.recipe is None:
        return Shrunk(net, finding, 0)
    left = _Count(tries)
    small, failure = net, finding
    again = True
    while again and left.tries:
        again = False
        for recipe in _smaller(small.recipe or net.recipe):
            other = write(recipe)
            if len(other.source) >= len(small.source) or not left.take():
                continue
            same = _same(other, finding)
            if same is not None:
                small, failure, again = other, same, True
                break
    return Shrunk(small, _smallest_removal(small, failure, left), tries - left.tries)


@dataclass
class _Count:
    tries: int

    def take(self) -> bool:
        self.tries -= 1
        return self.tries >= 0


def _smaller(recipe: Recipe) -> Iterator[Recipe]:
    """Recipes with fewer statements, the shortest first, then one output less and a smaller batch."""
    n = len(recipe.steps)
    size = n // 2
    while size:
        for start in range(0, n, size):
            yield replace(recipe, steps=recipe.steps[:start] + recipe.steps[start + size :])
        size //= 2
    if recipe.outputs > 1:
        yield replace(recipe, outputs=recipe.outputs - 1)


def _same(net: Net, finding: Finding, removal: Removal | None = None) -> Finding | None:
    """The net's first finding of the same kind."""
    try:
        report = check(net, removal=removal, only=finding, onnx=finding.stage == "onnx")
    except (RuntimeError, ValueError, IndexError, AssertionError, TypeError):
        return None  # without a statement the net itself may not run
    alike = (f for f in report.findings if (f.verdict, f.what) == (finding.verdict, finding.what))
    return next(alike, None)


def _smallest_removal(net: Net, finding: Finding, left: _Count) -> Finding:
    """Fewer axes, then fewer positions, one at a time."""
    best = finding
    options: tuple[Callable[[Removal], Iterator[Removal]], ...] = (_fewer_axes, _fewer_positions)
    for fewer in options:
        again = best.removal is not None
        while again and left.tries > 0:
            again = False
            for removal in fewer(best.removal or {}):
                if not left.take():
                    break
                same = _same(net, finding, removal)
                if same is not None and _count(same.removal) < _count(best.removal):
                    best, again = same, True
                    break
    return best


def _count(removal: Removal | None) -> int:
    return sum(len(at) for at in (removal or {}).values())


def _fewer_axes(removal: Removal) -> Iterator[Removal]:
    for axis in removal:
        yield {axis: removal[axis]}


def _fewer_positions(removal: Removal) -> Iterator[Removal]:
    for axis, at in removal.items():
        for position in at:
            yield {axis: [position]}
