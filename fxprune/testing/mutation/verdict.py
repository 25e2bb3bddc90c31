"""Who notices a seeded fault: the library on whole networks, or only the laws and expectations of the tests.

Networks are gone through as ``challenge`` does it.  Where something raises that does not raise with the engine
whole, the library itself has noticed.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from time import process_time
from unittest import mock

from fxprune.coupling.accounts import Ledger
from fxprune.graph.trace import Trace
from fxprune.ops import qualified_name
from fxprune.plans import Plan
from fxprune.proof.compare import BOTH, OracleName
from fxprune.support.words import headline
from fxprune.testing.challenge import Challenge, challenge
from fxprune.testing.framed import framed
from fxprune.testing.laws import UNPROVED, slim_is_what_is_left, what_may_go
from fxprune.testing.mutation.mutant import Mutant, applied
from fxprune.testing.samples.base import Sample

__all__ = ["Subject", "Verdict", "candidates", "subject_of", "verdict", "whole"]


@dataclass(frozen=True, eq=False)
class Subject:
    """A network on which a fault may show.

    Attributes:
        name: The sample's or the probe's.
        trace: Its trace, made at the first call.
        law: Says what is not as the tests expect it, or raises.
        known: Operators that are in it in any case.
        plans: What is taken out of it, if not arbitrary units.
        square: Its dimensions are of equal size.
    """

    name: str
    trace: Callable[[], Trace]
    law: Callable[[], str]
    known: frozenset[str] = frozenset()
    plans: Callable[[Trace], Iterable[Plan]] | None = None
    square: bool = False

    @property
    def ops(self) -> frozenset[str]:
        """Qualified names of the operators in its graph."""
        nodes = self.trace().graph.graph.nodes
        return frozenset(qualified_name(n.target) for n in nodes if n.op == "call_function")

    def challenged(self, oracles: tuple[OracleName, ...]) -> Challenge:
        """What the library makes of it."""
        trace = self.trace()
        return challenge(trace, plans=self.plans and self.plans(trace), oracles=oracles)


def subject_of(sample: Sample, name: str = "", *, square: bool = False) -> Subject:
    """The network around one call."""
    return Subject(
        name or sample.op,
        partial(framed, sample),
        partial(_sample_law, sample),
        frozenset({sample.name}),
        plans=(lambda _: ()) if sample.op in UNPROVED else None,
        square=square,
    )


def _sample_law(sample: Sample) -> str:
    return what_may_go(sample) or slim_is_what_is_left(sample)


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


def candidates(mutant: Mutant, subjects: Iterable[Subject]) -> Iterator[Subject]:
    """Those networks that hold what is faulty: the named ones, single operators, then the others."""
    rest = []
    for net in subjects:
        if net.name in mutant.first:
            yield net
        else:
            rest.append(net)
    if not mutant.ops:
        yield from sorted(rest, key=lambda n: bool(n.known))
        return
    concerned = set(mutant.ops)
    # Where sizes differ a fault may end in a crash; where they agree only numbers tell.
    yield from sorted(
        (n for n in rest if n.known & concerned), key=lambda n: (mutant.ops[0] not in n.known, not n.square)
    )
    yield from (n for n in rest if not n.known and n.ops & concerned)


@contextlib.contextmanager
def _analysed_anew(trace: Trace) -> Iterator[None]:
    """What is remembered of a trace is forgotten before and after."""
    trace.memo.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            trace.memo.clear()


@contextlib.contextmanager
def _believed() -> Iterator[None]:
    """The walk takes every rule's word: nobody compares shapes or keeps account of labels."""
    with (
        mock.patch("fxprune.coupling.walk.flaw", return_value=""),
        mock.patch.object(Ledger, "forgets", return_value=False),
    ):
        yield


def _defences(oracles: tuple[OracleName, ...]) -> contextlib.AbstractContextManager[None]:
    """One oracle that is asked alone has no help from the walk either."""
    return contextlib.nullcontext() if oracles == BOTH else _believed()


@cache
def whole(net: Subject, oracles: tuple[OracleName, ...] = BOTH) -> Challenge:
    """What the engine does without a fault.

    Raises:
        AssertionError: It breaks down, or all oracles together do not prove its work right.
    """
    with _analysed_anew(net.trace()), _defences(oracles):
        outcome = net.challenged(oracles)
    unjudged = oracles != BOTH and "could be judged" in outcome.how
    assert not outcome.by or unjudged, f"{net.name}: {outcome.how}"
    return outcome


def verdict(
    mutant: Mutant,
    subjects: Iterable[Subject],
    *,
    most: int | None = None,
    oracles: tuple[OracleName, ...] = BOTH,
) -> Verdict:
    """Find out who notices a mutant.

    An oracle that is asked alone is asked on every network: that an earlier step stops at one of them
    does not say what the oracle thinks of the others.

    Args:
        mutant: The fault.
        subjects: Networks on which it may show.
        most: Networks to try at most.
        oracles: Who proves slim models; where it is one alone, the walk believes every rule.
    """
    start = process_time()
    tried: list[Subject] = []
    stopped: tuple[str, str] | None = None
    for net in islice(candidates(mutant, subjects), most):
        tried.append(net)
        expected = whole(net, oracles)
        if expected.by:  # what an oracle cannot judge without a fault tells nothing about one
            continue
        with _analysed_anew(net.trace()), applied(mutant), _defences(oracles):
            outcome = net.challenged(oracles)
        if outcome.by == "verify":
            return Verdict(outcome.by, net.name, outcome.how, process_time() - start)
        unexpected = sorted(outcome.refused - expected.refused)
        if stopped is None and (outcome.by or unexpected):
            stopped = net.name, outcome.how if outcome.by else unexpected[0]
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
def _lawful(net: Subject) -> None:
    """The law holds while the engine is whole."""
    with _analysed_anew(net.trace()):
        wrong = net.law()
    assert not wrong, f"{net.name}: {wrong}"


def _law_broken(net: Subject, mutant: Mutant) -> str:
    _lawful(net)
    with _analysed_anew(net.trace()), applied(mutant):
        try:
            return net.law()
        except Exception as error:  # noqa: BLE001
            return headline(error, most=200)
