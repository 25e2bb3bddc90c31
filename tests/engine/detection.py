"""Who notices a seeded fault: the library on whole networks, or only the laws and expectations of the tests.

A network is analysed, planned, slimmed and verified as a user would do it, with arbitrary units taken
out.  Where something raises that does not raise with the engine whole, the library itself has noticed.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from time import process_time

import numpy as np
import pytest
import torch
from engine.branch_nets import cuts, folds, traced, trains
from engine.frames import framed
from engine.mutation import Mutant, applied, base
from engine.probe_nets import PROBES, Probe
from engine.probing import prepared
from engine.samples import SAMPLES, SQUARE
from torch.utils._pytree import tree_map_only

from fxprune.coupling import walk
from fxprune.coupling.accounts import Ledger
from fxprune.coupling.couple import coupling, flow
from fxprune.coupling.groups import Block, Coupling
from fxprune.errors import PlanError
from fxprune.graph.trace import Trace
from fxprune.labels import BoolArray
from fxprune.ops import qualified_name
from fxprune.planning.plan import plan, plan_units
from fxprune.plans import Budget, Plan
from fxprune.proof.verify import BOTH, OracleName, verify
from fxprune.resizing.resolve import EmptiedError
from fxprune.slimming.slim import Kind, slim

UNPROVED = {
    "torchvision.roi_align.default": "the proof draws random regions, which lie outside of the picture",
    "torchvision.roi_pool.default": "the proof draws random regions, which lie outside of the picture",
}
"""Samples on which nothing is taken out of a network, and why; their laws count."""

HALF = Budget(channels=0.5)


@dataclass(frozen=True, eq=False)
class Net:
    """A network on which a fault may show.

    Attributes:
        name: The sample's or the probe's.
        trace: Its trace, made at the first call.
        law: What the tests say about it; raises where it does not hold.
        known: Operators that are in it in any case.
        plans: What is taken out of it, if not arbitrary units.
        square: Its dimensions are of equal size.
    """

    name: str
    trace: Callable[[], Trace]
    law: Callable[[], None]
    known: frozenset[str] = frozenset()
    plans: Callable[[Trace], Iterator[Plan]] | None = None
    square: bool = False

    @property
    def ops(self) -> frozenset[str]:
        """Qualified names of the operators in its graph."""
        nodes = self.trace().graph.graph.nodes
        return frozenset(qualified_name(n.target) for n in nodes if n.op == "call_function")


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant.

    Attributes:
        by: ``"verify"``: the proof failed; ``"engine"``: an earlier step of the library refused or broke down;
            ``"laws"``: only a test noticed; ``"nothing"``.
        net: The network on which it showed.
        how: What was raised.
        seconds: CPU time.
    """

    by: str
    net: str
    how: str
    seconds: float


# --- networks ----------------------------------------------------------------------------------


@cache
def nets() -> tuple[Net, ...]:
    """Every network, single operators first."""
    small = [
        Net(
            f"{s.op}-{k}",
            partial(framed, k),
            partial(_sample_law, k),
            frozenset({base(s)}),
            plans=(lambda _: iter(())) if s.op in UNPROVED else None,
            square=s in SQUARE,
        )
        for k, s in enumerate(SAMPLES)
        if not s.chance
    ]
    branched = [
        Net(f"cut: {name}", partial(traced, name), partial(_fold_law, name), plans=cuts)
        for name in ("cifar", "inception", "vit", "factors")
    ]
    auxiliary = Net(
        "auxiliary head", partial(traced, "auxiliary head"), lambda: trains(traced("auxiliary head"))
    )
    return (*small, *map(_probe_net, PROBES), *branched, auxiliary)


def _probe_net(probe: Probe) -> Net:
    # With the seed, as ``examine`` asks for it: the cache would make another trace without.
    return Net(probe.name, lambda: prepared(probe, 0)[0], partial(_probe_law, probe))


def _sample_law(number: int) -> None:
    from ops.test_laws import test_slim_is_what_is_left, test_what_may_go

    for law in (test_what_may_go, test_slim_is_what_is_left):
        with pytest.MonkeyPatch.context() as monkeypatch:
            law(SAMPLES[number], monkeypatch)


def _probe_law(probe: Probe) -> None:
    from engine.test_probes import test_arbitrary_channels

    test_arbitrary_channels(probe)
    _runs_at_another_batch(_probe_net(probe))


def _runs_at_another_batch(net: Net) -> None:
    """A graph made of a trace for any batch size runs at another one than that of the example."""
    found = net.trace()
    if not found.dynamic_batch:
        return
    inputs = tree_map_only(torch.Tensor, lambda t: torch.cat([t, t]), (found.args, dict(found.kwargs)))
    for make, _ in _makers(net):
        with contextlib.suppress(PlanError), torch.no_grad():
            slim(found, make(), kind="graph").eval()(*inputs[0], **inputs[1])
            return


def _fold_law(name: str) -> None:
    if name != "inception":  # none of its branches is added
        folds(traced(name))


def candidates(mutant: Mutant) -> Iterator[Net]:
    """Networks that hold what is faulty: the named ones, single operators, then the others."""
    named = [n for n in nets() if n.name in mutant.first]
    yield from named
    rest = [n for n in nets() if n.name not in mutant.first]
    if not mutant.ops:
        yield from sorted(rest, key=lambda n: bool(n.known))
        return
    concerned = set(mutant.ops)
    # Where sizes differ a fault may end in a crash; where they agree only numbers tell.
    yield from sorted(
        (n for n in rest if n.known & concerned), key=lambda n: (mutant.ops[0] not in n.known, not n.square)
    )
    yield from (n for n in rest if not n.known and n.ops & concerned)


# --- the library on a network ------------------------------------------------------------------


def removals(found: Coupling, seed: int = 0) -> Iterator[BoolArray]:
    """Keep masks: single units, arbitrary sets of units, and what fits the layouts."""
    rng = np.random.default_rng(seed)
    on_axes = np.unique(np.concatenate([*found.axes.values(), np.zeros(0, np.int64)]))
    free = on_axes[~found.pinned[on_axes]]

    def without(units: object) -> BoolArray:
        keep = np.ones(found.n_units, bool)
        keep[units] = False
        return keep

    for _ in range(3 if len(free) > 1 else 0):
        yield without(rng.choice(free, rng.integers(1, len(free)), replace=False))
    for unit in rng.permutation(free)[:5]:
        yield without(unit)
    for axis in [a for a in found.axes.values() if not found.pinned[a].all()][:12]:
        some = np.unique(axis[~found.pinned[axis]])
        if len(some) > 1:
            yield without(rng.choice(some, rng.integers(1, len(some)), replace=False))
    for block in found.blocks[:8]:
        yield from map(without, _fitting(block, rng))


def _fitting(block: Block, rng: np.random.Generator) -> Iterator[object]:
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


@dataclass(frozen=True)
class Challenge:
    """What came of taking units (or structures) out of a network.

    Attributes:
        by: Which step raised: ``"verify"``, ``"engine"`` or none.
        how: What was raised.
        refused: Plans that the library found contradictory only when it carried them out, and budgets that it
            could not meet; numbers left out.
        proved: Slim models that were proved right.
    """

    by: str
    how: str
    refused: frozenset[str]
    proved: int


def challenge(net: Net, oracles: tuple[OracleName, ...] = BOTH) -> Challenge:
    """Analyse, plan, slim and verify, by all oracles or by some."""
    trace, proved, refused = net.trace(), 0, set[str]()
    try:
        makers = _makers(net)
    except Exception as error:  # noqa: BLE001 - a faulty engine may break down in any way
        return Challenge("engine", _told(error), frozenset(), 0)
    doubted = [why for _, why in flow(trace).walk.unsupported if why.startswith("the rule for")]
    if doubted:  # the walk does not believe the rule, pins what the operator reads, and says so
        return Challenge("engine", doubted[0], frozenset(), 0)
    for number, (make, chosen) in enumerate(makers):
        try:
            made = make()
        except PlanError as error:
            # Layouts, pins and emptied layers refuse units that are asked for; what the planner chooses
            # itself it must not refuse, and resolving what is left must find no contradiction.
            if isinstance(error, EmptiedError):
                continue
            if str(error).startswith("the result of") or (chosen and "may go" not in str(error)):
                refused.add(("the planner: " if chosen else "") + _numberless(_told(error)))
            continue
        except Exception as error:  # noqa: BLE001
            return Challenge("engine", _told(error), frozenset(refused), proved)
        by, how = _carried_out(trace, made, ("graph", "auto") if number % 4 == 0 else ("graph",), oracles)
        if by:
            return Challenge(by, how, frozenset(refused), proved)
        proved += 1
    return Challenge("", "", frozenset(refused), proved)


def _makers(net: Net) -> list[tuple[Callable[[], Plan], bool]]:
    """Functions that make a plan each, and whether the planner chooses what goes."""
    if net.plans is not None:
        return [(partial(_given, made), False) for made in net.plans(net.trace())]
    asked = [(partial(plan_units, net.trace(), keep), False) for keep in removals(coupling(net.trace()))]
    return [*asked, (partial(plan, net.trace(), HALF, align=1), True)]


def _given(made: Plan) -> Plan:
    return made


def _carried_out(
    trace: Trace, made: Plan, kinds: Sequence[Kind], oracles: tuple[OracleName, ...]
) -> tuple[str, str]:
    for kind in kinds:
        try:
            small = slim(trace, made, kind=kind)
        except Exception as error:  # noqa: BLE001
            return "engine", _told(error)
        try:
            verify(trace, made, small, oracles=oracles)
        except Exception as error:  # noqa: BLE001
            return "verify", _told(error)
    return "", ""


def _told(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]


# --- with a fault ------------------------------------------------------------------------------


@contextlib.contextmanager
def analysed_anew(trace: Trace) -> Iterator[None]:
    """What is remembered of a trace is forgotten before and after."""
    trace.cache.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            trace.cache.clear()


@contextlib.contextmanager
def believed() -> Iterator[None]:
    """The walk takes every rule's word: nobody compares shapes or keeps account of labels."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(walk, "flaw", lambda *_: "")
        monkeypatch.setattr(Ledger, "forgets", lambda *_: False)
        yield


def _defences(oracles: tuple[OracleName, ...]) -> contextlib.AbstractContextManager[None]:
    """One oracle that is asked alone has no help from the walk either."""
    return contextlib.nullcontext() if oracles == BOTH else believed()


@cache
def whole(net: Net, oracles: tuple[OracleName, ...] = BOTH) -> Challenge:
    """What the engine does without a fault.

    Raises:
        AssertionError: It breaks down, or proves its own work wrong.
    """
    with analysed_anew(net.trace()), _defences(oracles):
        found = challenge(net, oracles)
    assert not found.by, f"{net.name}: {found.how}"
    return found


def _numberless(text: str) -> str:
    return re.sub(r"\d+", "#", text)


def verdict(mutant: Mutant, *, most: int | None = None, oracles: tuple[OracleName, ...] = BOTH) -> Verdict:
    """Find out who notices a mutant.

    An oracle that is asked alone is asked on every network: that an earlier step stops at one of them
    does not say what the oracle thinks of the others.

    Args:
        mutant: The fault.
        most: Networks to try at most.
        oracles: Who proves slim models; where it is one alone, the walk believes every rule.
    """
    start = process_time()
    tried = list(islice(candidates(mutant), most))
    stopped: tuple[str, str] | None = None
    for net in tried:
        expected = whole(net, oracles).refused
        with analysed_anew(net.trace()), applied(mutant), _defences(oracles):
            found = challenge(net, oracles)
        if found.by == "verify":
            return Verdict(found.by, net.name, found.how, process_time() - start)
        unexpected = sorted(found.refused - expected)
        if stopped is None and (found.by or unexpected):
            stopped = net.name, found.how if found.by else unexpected[0]
        if stopped and oracles == BOTH:
            break
    if stopped:
        return Verdict("engine", *stopped, process_time() - start)
    for net in tried:
        how = _law_broken(net, mutant)
        if how:
            return Verdict("laws", net.name, how, process_time() - start)
    return Verdict("nothing", "", "", process_time() - start)


@cache
def _lawful(net: Net) -> None:
    """The law holds while the engine is whole."""
    with analysed_anew(net.trace()):
        net.law()


def _law_broken(net: Net, mutant: Mutant) -> str:
    _lawful(net)
    with analysed_anew(net.trace()), applied(mutant):
        try:
            net.law()
        except Exception as error:  # noqa: BLE001
            return _told(error)
    return ""


def tally(found: Sequence[Verdict]) -> dict[str, int]:
    """How many verdicts of each kind."""
    return {by: sum(v.by == by for v in found) for by in ("verify", "engine", "laws", "nothing")}
