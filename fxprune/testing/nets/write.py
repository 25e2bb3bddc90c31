"""Random networks as real module source.

A net is a recipe: how it begins, the kinds of its statements with a seed each, and how it ends.  Writing a
recipe draws what the kinds leave open, runs every statement on the way, and gives the text of a module.  A
statement that no longer fits (because one before it was deleted) is left out, so every recipe writes a net.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from linecache import cache as source_cache

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from fxprune.graph.live import liven
from fxprune.testing.nets.kinds import Draw, Kind, Unfit
from fxprune.testing.nets.statements import ENTRIES, HEADS, KINDS, STATEMENTS

__all__ = ["Net", "Recipe", "Step", "Writer", "from_source", "random_net", "random_nets", "write"]

LARGEST = 20_000
"""Most elements of a variable: one net costs a fraction of a second."""

STEEPEST = 1e3
"""Largest value of a variable; beyond, rounding would be blamed on the engine."""

Inputs = tuple[torch.Tensor, ...]


@contextmanager
def quiet() -> Iterator[None]:
    """What torch warns of in a net that nobody wrote is no news."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True)
class Step:
    """One statement.

    Attributes:
        kind: Name in ``KINDS``.
        seed: Of all that the kind leaves open.
    """

    kind: str
    seed: int


@dataclass(frozen=True)
class Recipe:
    """From what a net is written.

    Attributes:
        seed: Of the weights, the inputs and the end.
        entry: Name in ``ENTRIES``.
        batch: Samples in the example.
        steps: Statements in order.
        outputs: Most outputs.
    """

    seed: int
    entry: str
    batch: int
    steps: tuple[Step, ...]
    outputs: int


@dataclass(frozen=True)
class Net:
    """A network as text.

    Attributes:
        source: A module that defines the class ``Net`` and the function ``inputs``.
        name: Of the file that it stands in, for messages.
        seed: Of its weights.
        recipe: What it was written from; None for a net that was read.
        kinds: Kinds of its statements.

    Example:
        >>> net = random_net(7)
        >>> model, inputs = net.build()
        >>> model.training, inputs[0].dtype, net.source == random_net(7).source
        (False, torch.float64, True)
    """

    source: str
    name: str
    seed: int
    recipe: Recipe | None = None
    kinds: tuple[str, ...] = ()

    @cached_property
    def _names(self) -> dict[str, object]:
        lines = self.source.splitlines(keepends=True)
        source_cache[self.name] = (len(self.source), None, lines, self.name)  # tracebacks show the lines
        names: dict[str, object] = {"__name__": self.name.removesuffix(".py")}
        exec(compile(self.source, self.name, "exec"), names)  # noqa: S102 - the text was written here
        return names

    def fresh(self) -> nn.Module:
        """The module with the weights that its own ``__init__`` gives it, in float64."""
        make = self._names["Net"]
        assert callable(make)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = make()
        assert isinstance(model, nn.Module)
        return model.double().eval()

    def inputs(self, batch: int | None = None) -> Inputs:
        """Inputs, in float64 where they are no indices; of another batch size if one is given."""
        make = self._names["inputs"]
        assert callable(make)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            inputs = make() if batch is None else make(batch)
        return tuple(t.double() if t.is_floating_point() else t for t in inputs)

    def build(self) -> tuple[nn.Module, Inputs]:
        """The module with live weights (no parameter of zero, calibrated batch norm) in float64, and inputs."""
        model, inputs = self.fresh(), self.inputs()
        with torch.random.fork_rng(devices=[]), quiet():
            torch.manual_seed(self.seed)
            liven(model, inputs, seed=self.seed)
        return model, inputs


def from_source(source: str, *, name: str = "net.py", seed: int = 0) -> Net:
    """A net from the text of a module that defines ``Net`` and ``inputs(batch=...)``."""
    return Net(source, name, seed)


def random_net(seed: int) -> Net:
    """The random net of a seed.

    Args:
        seed: Any number; the same one always gives the same text.

    Returns:
        A net of three to ten statements that runs, with finite outputs that are not all zero.
    """
    for attempt in range(50):
        rng = random.Random(f"{seed}/{attempt}")
        net = write(_drawn(rng, seed))
        if net.kinds and _runs(net):
            return net
    raise AssertionError(f"no net of seed {seed} runs")


def random_nets(seeds: range) -> Iterator[tuple[str, nn.Module, Inputs]]:
    """Source, live module and inputs of the net of every seed, for any tool that is to be tried."""
    for seed in seeds:
        net = random_net(seed)
        yield (net.source, *net.build())


def _runs(net: Net) -> bool:
    try:
        model, inputs = net.build()
        with torch.no_grad(), quiet():
            outputs = [t for t in tree_leaves(model(*inputs)) if isinstance(t, torch.Tensor)]
    except (RuntimeError, ValueError, IndexError, AssertionError):
        return False
    return all(bool(t.isfinite().all()) and float(t.abs().max()) > 1e-6 for t in outputs)


# --- writing -----------------------------------------------------------------------------------


def _drawn(rng: random.Random, seed: int) -> Recipe:
    """A recipe whose statements all fit."""
    entry = rng.choice(list(ENTRIES))
    recipe = Recipe(seed, entry, rng.choice((1, 2, 2, 3)), (), rng.choice((1, 1, 2, 3)))
    writer, wanted = Writer(recipe), rng.randint(3, 10)
    steps: list[Step] = []
    weights = [kind.weight for kind in STATEMENTS]
    for kind in rng.choices(STATEMENTS, weights, k=40 * wanted):
        step = Step(kind.name, rng.randrange(2**31))
        if writer.add(step):
            steps.append(step)
        if len(steps) == wanted:
            break
    return replace(recipe, steps=tuple(steps))


def write(recipe: Recipe) -> Net:
    """The net of a recipe."""
    writer = Writer(recipe)
    kinds = [step.kind for step in recipe.steps if writer.add(step)]
    return Net(writer.text(), f"random_net_{recipe.seed}.py", recipe.seed, recipe, tuple(kinds))


class Writer:
    """Writes statements one after the other and runs each on the way.

    Attributes:
        shapes: Of the live variables.
        read: Variables that a statement has read.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.entry = ENTRIES[recipe.entry]
        self.count = 0
        self.members: list[str] = []
        self.lines: list[str] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.read: set[str] = set()
        self.holder = nn.Module()
        self.names: dict[str, object] = {"self": self.holder, "torch": torch, "nn": nn, "F": F, "math": math}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self._begin()

    def _begin(self) -> None:
        given = {}
        for name, shape in self.entry.inputs.items():
            full = (self.recipe.batch, *shape)
            vocabulary = self.entry.vocabulary
            self.names[name] = torch.randint(vocabulary, full) if vocabulary else torch.randn(full)
            given[name] = full
        rng = random.Random(f"{self.recipe.seed}/entry")
        for name, full in given.items():
            runs = self._try(self.entry.first, rng, name, {**self.shapes, name: full})
            assert runs, "an entry does not run"

    def add(self, step: Step) -> bool:
        """Write a statement if it fits."""
        kind, rng = KINDS[step.kind], random.Random(step.seed)
        fits = [name for name, shape in self.shapes.items() if str(len(shape)) in kind.ranks]
        if not fits:
            return False
        # Mostly on what was made last, so that statements follow one another.
        x = fits[max(-len(fits), -1 - int(rng.expovariate(1.6)))]
        return self._try(kind, rng, x, self.shapes)

    def _try(self, kind: Kind, rng: random.Random, x: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        number = self.count + 1
        draw = Draw(rng, x, shapes, f"h{number}", f"layer{number}", self.recipe.batch)
        try:
            lines = [line.format_map(draw) for line in kind.lines]
            members = [line.format_map(draw) for line in kind.make]
        except (Unfit, ZeroDivisionError):
            return False
        before = dict(self.names)
        result = self._run(members, lines, f"h{number}")
        if result is None:
            self._forget(before, f"layer{number}")
            return False
        self.count = number
        self.members += members
        self.lines += lines
        self.shapes[f"h{number}"] = tuple(result.shape)
        self.read |= {draw.drawn[hole] for hole in "xovuzr" if hole in draw.drawn}
        return True

    def _forget(self, names: Mapping[str, object], member: str) -> None:
        """Undo what a statement has defined."""
        self.names.clear()
        self.names.update(names)
        for store in (self.holder._modules, self.holder._parameters, self.holder._buffers):
            for name in [n for n in store if n == member or n.startswith(f"{member}_")]:
                del store[name]

    def _run(self, members: list[str], lines: list[str], y: str) -> torch.Tensor | None:
        """The variable that the statement makes, or None where it does not run or makes nothing usable."""
        try:
            with torch.no_grad(), quiet():
                exec("\n".join(members), self.names)  # noqa: S102 - the text stands in the tables
                self.holder.eval()
                exec("\n".join(lines), self.names)  # noqa: S102
        except (RuntimeError, ValueError, IndexError, AssertionError, TypeError):
            return None
        result = self.names.get(y)
        return result if isinstance(result, torch.Tensor) and self._usable(result) else None

    def _usable(self, result: torch.Tensor) -> bool:
        return (
            result.is_floating_point()
            and 2 <= result.ndim <= 6
            and result.shape[0] == self.recipe.batch
            and 0 < result.numel() <= LARGEST
            and bool(result.isfinite().all())
            and 1e-6 < float(result.abs().max()) <= STEEPEST
        )

    def text(self) -> str:
        """The module's source, ended by heads on what nobody has read."""
        rng = random.Random(f"{self.recipe.seed}/heads")
        unread = [name for name in self.shapes if name not in self.read][-self.recipe.outputs :]
        outputs = []
        for name in unread:
            rank = str(len(self.shapes[name]))
            heads = [head for head in HEADS if rank in head.ranks]
            weights = [3.0 if head.make else 0.5 for head in heads]
            for head in rng.choices(heads, weights, k=8):
                if self._try(head, rng, name, self.shapes):
                    outputs.append(f"h{self.count}")
                    break
        return _module(self.recipe, self.members, self.lines, _returned(rng, outputs or unread[-1:]))


def _returned(rng: random.Random, outputs: list[str]) -> str:
    if len(outputs) == 1 and rng.random() < 0.8:
        return outputs[0]
    named = ", ".join(f"'out{k}': {name}" for k, name in enumerate(outputs))
    return rng.choice((f"({', '.join(outputs)},)", f"[{', '.join(outputs)}]", f"{{{named}}}"))


def _module(recipe: Recipe, members: list[str], lines: list[str], returned: str) -> str:
    entry = ENTRIES[recipe.entry]
    names = ", ".join(entry.inputs)
    random_ = (
        f"torch.randint({entry.vocabulary}, (batch, {{}}))" if entry.vocabulary else "torch.randn(batch, {})"
    )
    given = ", ".join(random_.format(", ".join(map(str, shape))) for shape in entry.inputs.values())
    math_ = ["import math", ""] if any("math." in line for line in (*members, *lines)) else []
    return "\n".join(
        [
            *math_,
            "import torch",
            "from torch import nn",
            "from torch.nn import functional as F",
            "",
            "",
            "class Net(nn.Module):",
            "    def __init__(self):",
            "        super().__init__()",
            *(f"        {line}" for line in members),
            "",
            f"    def forward(self, {names}):",
            *(f"        {line}" for line in lines),
            f"        return {returned}",
            "",
            "",
            f"def inputs(batch={recipe.batch}):",
            f"    return ({given},)",
            "",
        ]
    )
