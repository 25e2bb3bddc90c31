"""A budget of time is met by measuring: plan by the latency model, make the model, time it in the runtime, correct.

The latency model is a good guess of ratios (a few percent).  What it misses on a model is much the same at close
widths, so two or three measurements, with a secant between them, come as close as the steps of widths allow.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from torch import nn

from fxprune.errors import PlanError
from fxprune.graph.trace import Trace
from fxprune.models.calls import Call, as_call
from fxprune.onnx.export import export_onnx
from fxprune.onnx.session import Array, Session, open_session
from fxprune.plans import Budget, Plan
from fxprune.slimming.slim import slim
from fxprune.targets import Target

__all__ = ["ROUNDS", "TOLERANCE", "Stopwatch", "Timed", "meet"]

ROUNDS = 4
"""Most models that are made and measured for a wish."""

TOLERANCE = 0.03
"""Share of the wish by which what is measured may differ."""

NOISY = 0.05
"""Half an interval beyond which a machine is too noisy to tell, as a share of the ratio."""

SECONDS = 4.0
"""Measured at least this long, and twice as long where the interval is still wide."""

_LEAST_SAMPLES = 11
_RESAMPLES = 400


@dataclass(frozen=True)
class Timed:
    """A model's time beside the dense one's.

    Attributes:
        ratio: Median of the paired ratios.
        low: Lower end of its 95 % interval.
        high: Upper end.
        dense_ms: Median time of the dense model.
    """

    ratio: float
    low: float
    high: float
    dense_ms: float

    @property
    def noisy(self) -> bool:
        """The interval is too wide to decide by."""
        return (self.high - self.low) / 2 > NOISY * self.ratio


@dataclass(eq=False)
class Stopwatch:
    """Times slim models against the dense one, in turn, in onnxruntime.

    One thread is timed in processor time, which what else runs on the machine does not count for; several in wall time.

    Attributes:
        trace: The dense model.
        target: Threads, batch and what files are made for.
        seconds: How long to measure.
    """

    trace: Trace
    target: Target
    seconds: float = SECONDS
    _folder: tempfile.TemporaryDirectory[str] = field(default_factory=tempfile.TemporaryDirectory, init=False)
    _dense: Session | None = field(default=None, init=False)

    def __enter__(self) -> Stopwatch:
        return self

    def __exit__(self, *_: object) -> None:
        self._dense = None
        self._folder.cleanup()

    def measure(self, module: nn.Module) -> Timed:
        """Time a module against the dense model.

        Raises:
            ExportError: It cannot be exported or run.
        """
        if self._dense is None:
            self._dense = self._session(self.trace.model, "dense")
        sessions = (self._dense, self._session(module, "slim"))
        times = _in_turn(sessions, self._feeds(), self.seconds, self.target.threads)
        timed = _timed(times)
        if timed.noisy:
            more = _in_turn(sessions, self._feeds(), 2 * self.seconds, self.target.threads)
            timed = _timed(np.concatenate([times, more]))
        return timed

    def _call(self) -> Call:
        return as_call((*self.trace.args,) if not self.trace.kwargs else dict(self.trace.kwargs)).with_batch(
            self.target.batch
        )

    def _session(self, module: nn.Module, name: str) -> Session:
        call, path = self._call(), Path(self._folder.name) / f"{name}.onnx"
        inputs = call.kwargs or call.args
        # Proved elsewhere: here only time is asked for.
        export_onnx(module, inputs, path, verify=False, target=self.target.name)
        return open_session(path, threads=self.target.threads)

    def _feeds(self) -> dict[str, Array]:
        assert self._dense is not None
        return self._dense.feeds(self._call())


def _in_turn(
    sessions: Sequence[Session], feeds: dict[str, Array], seconds: float, threads: int
) -> np.ndarray:
    """float64[n, sessions], seconds of calls in turn."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    names = [session.handle.get_outputs()[0].name for session in sessions]
    runs = [(session.handle.run, [name]) for session, name in zip(sessions, names, strict=True)]
    for run, wanted in runs * 2:
        run(wanted, feeds)
    rows: list[list[float]] = []
    until = time.perf_counter() + seconds
    while len(rows) < _LEAST_SAMPLES or time.perf_counter() < until:
        row = []
        for run, wanted in runs:
            began = clock()
            run(wanted, feeds)
            row.append(clock() - began)
        rows.append(row)
    return np.array(rows)


def _timed(times: np.ndarray) -> Timed:
    ratios = times[:, 1] / times[:, 0]
    drawn = np.random.default_rng(0).choice(ratios, (_RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(drawn, axis=1), (2.5, 97.5))
    return Timed(float(np.median(ratios)), float(low), float(high), float(np.median(times[:, 0])) * 1e3)


# --- meeting a wish ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Try:
    """A plan that was aimed somewhere, and where it got."""

    aim: float
    plan: Plan
    timed: Timed


def meet(trace: Trace, wish: Budget, planned: Callable[[Budget], Plan], target: Target) -> Plan:
    """The plan whose measured time is what is wished, as near as the steps of widths allow.

    Args:
        trace: The dense model.
        wish: A budget of latency.
        planned: Makes a plan for a budget of latency by the model.
        target: Where it is to run.

    Raises:
        PlanError: Milliseconds cannot be measured here, or the dense model is faster than the wish.
        ExportError: The model cannot be exported.
    """
    why = "" if target.measurable else "is another machine"
    why = "cannot have this model as a file" if trace.kind == "recorded" else why
    if why:
        if wish.latency is None:
            raise PlanError(
                f"latency_ms= is measured, and target '{target.name}' {why}",
                advice="use latency=, a fraction, which is planned by the facts about the target",
            )
        plan = planned(wish)
        return replace(plan, notes=(*plan.notes, f"latency by facts alone: target '{target.name}' {why}"))
    with Stopwatch(trace, target) as watch:
        aim = wish.latency
        if aim is None:
            aim = _fraction(wish, watch.measure(trace.model).dense_ms)
        return _met(trace, aim, planned, watch)


def _fraction(wish: Budget, dense_ms: float) -> float:
    assert wish.latency_ms is not None
    if wish.latency_ms >= dense_ms:
        raise PlanError(
            f"the dense model takes {dense_ms:.3g} ms here, no more than the {wish.latency_ms:g} ms of the budget",
            advice="ask for less time, or leave the model as it is",
        )
    return wish.latency_ms / dense_ms


def _met(trace: Trace, wish: float, planned: Callable[[Budget], Plan], watch: Stopwatch) -> Plan:
    tries: list[_Try] = []
    aim = wish
    while len(tries) < ROUNDS:
        plan = planned(Budget(latency=aim))
        if any(plan.kept == t.plan.kept for t in tries):
            break  # no width moves between the two aims
        tries.append(_Try(aim, plan, watch.measure(slim(trace, plan))))
        if abs(tries[-1].timed.ratio / wish - 1) <= TOLERANCE:
            break
        aim = float(np.clip(_next(tries, wish), 1e-3, 1.0))
    best = min(tries, key=lambda t: abs(t.timed.ratio / wish - 1))
    return replace(best.plan, notes=(*best.plan.notes, *_said(best, wish, len(tries), watch.target)))


def _next(tries: Sequence[_Try], wish: float) -> float:
    """Where to aim next: along the secant of the two nearest, or towards the dense model (all of its time at an aim of one), or nothing."""
    near = sorted(tries, key=lambda t: abs(t.timed.ratio - wish))[:2]
    if len(near) == 2:
        (a, b), (x, y) = (near[0].aim, near[1].aim), (near[0].timed.ratio, near[1].timed.ratio)
        slope = (y - x) / (b - a) if b != a else 0.0
        if slope > 0.2:
            return a + (wish - x) / slope
    aim, ratio = near[0].aim, near[0].timed.ratio
    return aim + (wish - ratio) * (1 - aim) / (1 - ratio) if ratio < wish else aim * wish / ratio


def _said(best: _Try, wish: float, rounds: int, target: Target) -> tuple[str, ...]:
    timed = best.timed
    stated = (
        f"measured: {100 * timed.ratio:.1f} % of the dense model's {timed.dense_ms:.3g} ms "
        f"({100 * timed.low:.1f}..{100 * timed.high:.1f} %), {100 * wish:.1f} % was asked; {rounds} model{'s' * (rounds != 1)} made; "
        f"threads {target.threads}, batch {target.batch}"
    )
    doubt = "the machine is too busy for this wish to be told from others" if timed.noisy else ""
    return (stated, doubt) if doubt else (stated,)
