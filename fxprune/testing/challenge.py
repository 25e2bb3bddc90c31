"""The library on a network, as a user would use it: analyse, plan, slim, verify, with arbitrary units taken out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from fxprune.coupling.couple import analyse
from fxprune.coupling.groups import Block, Coupling
from fxprune.errors import PlanError
from fxprune.graph.trace import Trace
from fxprune.labels import BoolArray, IntArray
from fxprune.planning.plan import plan, plan_units
from fxprune.plans import Budget, Plan
from fxprune.proof.compare import BOTH, OracleName
from fxprune.proof.verify import verify
from fxprune.resizing.resolve import EmptiedError
from fxprune.slimming.slim import Kind, slim
from fxprune.support.words import headline

__all__ = ["Challenge", "challenge", "makers", "removals"]

HALF = Budget(channels=0.5)

Maker = tuple[Callable[[], Plan], bool]
"""Makes a plan; whether the planner chooses what goes."""


@dataclass(frozen=True)
class Challenge:
    """What came of taking units (or structures) out of a network.

    Attributes:
        by: Which step raised: ``"verify"``, ``"engine"`` (any before it) or none.
        how: What was raised.
        refused: Plans that the library found contradictory only when it carried them out, and budgets that it
            could not meet; numbers left out.
        proved: Slim models that were proved right.
    """

    by: str
    how: str
    refused: frozenset[str]
    proved: int


def challenge(
    trace: Trace, *, plans: Iterable[Plan] | None = None, oracles: tuple[OracleName, ...] = BOTH
) -> Challenge:
    """Analyse, plan, slim and verify.

    Args:
        trace: Of the network.
        plans: What to take out, if not arbitrary units and half of all.
        oracles: Who proves slim models.

    Returns:
        The first thing that was raised; nothing comes out of this function itself.

    Example:
        >>> import torch, fxprune
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2)).eval()
        >>> found = challenge(fxprune.trace(net, torch.randn(2, 4)))
        >>> found.by, found.proved > 5
        ('', True)
    """
    proved, refused = 0, set[str]()
    try:
        made_by = list(makers(trace, plans))
    except Exception as error:  # noqa: BLE001 - a faulty engine may break down in any way
        return Challenge("engine", headline(error, most=200), frozenset(), 0)
    doubted = [why for _, why in analyse(trace).unsupported if why.startswith("the rule for")]
    if doubted:  # the walk does not believe the rule, pins what the operator reads, and says so
        return Challenge("engine", doubted[0], frozenset(), 0)
    for number, (make, chosen) in enumerate(made_by):
        try:
            planned = make()
        except PlanError as error:
            # Layouts, pins and emptied layers refuse units that are asked for; what the planner chooses
            # itself it must not refuse, and resolving what is left must find no contradiction.
            if isinstance(error, EmptiedError):
                continue
            if str(error).startswith("the result of") or (chosen and "may go" not in str(error)):
                refused.add(("the planner: " if chosen else "") + _numberless(headline(error, most=200)))
            continue
        except Exception as error:  # noqa: BLE001
            return Challenge("engine", headline(error, most=200), frozenset(refused), proved)
        by, how = _carried_out(trace, planned, ("graph", "auto") if number % 4 == 0 else ("graph",), oracles)
        if by:
            return Challenge(by, how, frozenset(refused), proved)
        proved += 1
    return Challenge("", "", frozenset(refused), proved)


def makers(trace: Trace, plans: Iterable[Plan] | None = None) -> Iterator[Maker]:
    """Functions that make a plan each: the given plans, or arbitrary removals and half of all channels."""
    if plans is not None:
        for planned in plans:
            yield partial(_given, planned), False
        return
    for keep in removals(analyse(trace).coupling):
        yield partial(plan_units, trace, keep), False
    yield partial(plan, trace, HALF, align=1), True


def _given(planned: Plan) -> Plan:
    return planned


def removals(coupling: Coupling, seed: int = 0) -> Iterator[BoolArray]:
    """Keep masks bool[units]: single units, arbitrary sets of units, and what fits the layouts."""
    rng = np.random.default_rng(seed)
    on_axes = np.unique(np.concatenate([*coupling.axes.values(), np.zeros(0, np.int64)]))
    free = on_axes[~coupling.pinned[on_axes]]

    def without(units: IntArray) -> BoolArray:
        keep = np.ones(coupling.n_units, bool)
        keep[units] = False
        return keep

    for _ in range(3 if len(free) > 1 else 0):
        yield without(rng.choice(free, rng.integers(1, len(free)), replace=False))
    for unit in rng.permutation(free)[:5]:
        yield without(unit)
    for axis in [a for a in coupling.axes.values() if not coupling.pinned[a].all()][:12]:
        some = np.unique(axis[~coupling.pinned[axis]])
        if len(some) > 1:
            yield without(rng.choice(some, rng.integers(1, len(some)), replace=False))
    for block in coupling.blocks[:8]:
        yield from map(without, _fitting(block, rng))


def _fitting(block: Block, rng: np.random.Generator) -> Iterator[IntArray]:
    """Units to take out of a layout: rows, columns, equally many of every row."""
    h, d = block.cells.shape
    if h > 1:
        yield block.cells[rng.choice(h, rng.integers(1, h), replace=False)]
    if d > 1:
        columns = rng.choice(d, rng.integers(1, d), replace=False)
        yield block.cells[:, columns]
        if block.columns is not None:
            yield block.columns[columns]
        else:
            yield np.concatenate([rng.choice(row, len(columns), replace=False) for row in block.cells])


def _carried_out(
    trace: Trace, planned: Plan, kinds: Sequence[Kind], oracles: tuple[OracleName, ...]
) -> tuple[str, str]:
    for kind in kinds:
        try:
            small = slim(trace, planned, kind=kind)
        except Exception as error:  # noqa: BLE001
            return "engine", headline(error, most=200)
        try:
            verify(trace, planned, small, oracles=oracles)
        except Exception as error:  # noqa: BLE001
            return "verify", headline(error, most=200)
    return "", ""


def _numberless(text: str) -> str:
    return re.sub(r"\d+", "#", text)
