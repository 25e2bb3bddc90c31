"""Bench: several models measured against one another in one run.

What is measured: the time of one call, inputs and outputs as arrays in memory, after warm-up.
Models take turns in random order, round by round, so that a slow moment of the machine hits all
of them; a speed-up is the median of the rounds' ratios, not the ratio of two medians.  A sample
of a fast model is the mean of as many calls as fill two milliseconds: a single short call would
mostly measure the caches that the other models have just emptied.

Peak memory is measured in one process per model that does nothing else.
"""

from __future__ import annotations

import contextlib
import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch import nn

from fxprune.bench.contestants import Contestant, Facts, Model, contestant, difference
from fxprune.bench.table import BenchRow, BenchTable
from fxprune.errors import ExportError, FxpruneError
from fxprune.models.calls import Call, ExampleInputs, as_call, evaluating
from fxprune.models.copies import unchanged_buffers
from fxprune.onnx.memory_probe import CPU
from fxprune.onnx.session import RUN_LIMIT_S, SESSION_OPTIONS, machine
from fxprune.onnx.settings import Setting, settings
from fxprune.plans import Cost
from fxprune.support.process import no_garbage, untouched_random_state

__all__ = ["BenchRow", "BenchTable", "Progress", "benchmark", "check_options"]

Progress = Callable[[float, str], None]
"""Told how much is done, from 0 to 1, and what is going on."""

Times = npt.NDArray[np.float64]
"""float64[rounds, models, 2], seconds of one call: by the wall's clock, and of this thread's processor time."""

APART = 1.15
"""Times the processor time beyond which the wall's clock says more about the machine than about the model."""

WIDE = 0.2
"""Width of an interval, as a share of the speed-up, beyond which it says little."""

CROWDED = 0.1
"""Cores that others may take from those a measurement needs before its times say more about them."""

_SAMPLE_SECONDS = 2e-3
_MOST_CALLS = 1000
_LEAST: Mapping[str, int] = {
    "threads": 1,
    "repeats": 1,
    "warmup": 0,
    "seconds": 0,
    "batch": 1,
    "limit_s": 0,
}
_LEAST_ROUNDS = 5
_TELLING_S = 0.2  # the system counts processor time in hundredths of a second
_BUSY = "the machine was busy"
_RESAMPLES = 1000
_TIMED = 0.9  # share of the progress bar; the rest is for memory

_COUNTED_ONNX = (
    "params: elements of the file's weights; MACs: convolutions and products of matrices for one sample"
)
_COUNTED_GIVEN = "params and MACs as given by the caller"


def benchmark(
    models: Mapping[str, Model],
    example_inputs: ExampleInputs,
    *,
    threads: int = 1,
    repeats: int = 50,
    warmup: int = 5,
    seconds: float | None = None,
    batch: int | None = None,
    costs: Mapping[str, Cost] | None = None,
    memory: bool = True,
    levels: Sequence[str] = ("all",),
    providers: Sequence[str] = (),
    limit_s: float = RUN_LIMIT_S,
    seed: int = 0,
    progress: Progress | None = None,
) -> BenchTable:
    """Measure models against the first of them.

    Modules are given back as they were; a module that writes into its inputs gets copies of them, at each
    call.  One measurement runs at a time, whatever threads ask for others; modules are in evaluation
    mode meanwhile, for other threads, too.

    Args:
        models: ONNX files, run in onnxruntime, or torch modules, run in evaluation and inference
            mode, by the names they have in the table.
        example_inputs: What all of them are called with.
        threads: Threads inside an operator.
        repeats: Rounds: timed samples of each model.
        warmup: Untimed calls of each model before the first round.
        seconds: Go on with rounds for this long instead of ``repeats`` times, at least 5 rounds.
        batch: Batch size to repeat the example's samples to.
        costs: Params and MACs by name, instead of counting them in the file.
        memory: Measure peak memory, in one process per ONNX file.
        levels: Optimisation levels of onnxruntime to run every file at: ``"all"``, ``"extended"``, ``"basic"``,
            ``"disabled"``; the first is what the others are compared with.
        providers: Execution providers of onnxruntime to run every file on beside the CPU's own, as ``"openvino"``.
        limit_s: Seconds after which the first run of a file is stopped: a loop in it may have no end.
        seed: Of the order within the rounds.
        progress: Told how far it is.

    Returns:
        One row per model, in the order given; for a file one more for every other level and provider, right after it, as
        ``"dense @ basic"``.  Its outputs are compared: what gives other numbers has no speed-up.

    Raises:
        ExportError: A file is missing, corrupt, or does not fit the inputs; a level or provider is not there.
        FxpruneError: There is no model, or an option makes no sense.

    Example:
        >>> small, large = nn.Linear(8, 8), nn.Linear(512, 512)
        >>> table = benchmark({"a": small, "b": nn.Linear(8, 8)}, torch.ones(1, 8), repeats=5)
        >>> [row.name for row in table.rows], table["a"].speedup
        (['a', 'b'], 1.0)
    """
    _check_models(models)
    check_options(
        threads=threads, repeats=repeats, warmup=warmup, seconds=seconds, batch=batch, limit_s=limit_s
    )
    tell = progress or _silent
    call = as_call(example_inputs, error=ExportError)
    call = call if batch is None else call.with_batch(batch)
    tell(0.0, "loading")
    ways = settings(levels, providers)
    with _stage([m for m in models.values() if isinstance(m, nn.Module)], threads):
        entries = [
            entry for name, m in models.items() for entry in _entries(name, m, call, threads, ways, limit_s)
        ]
        field = [entry.one for entry in entries]
        calls = [_warm_up(one, warmup) for one in field]
        others = _Others()
        times = _rounds(field, calls, repeats, seconds, random.Random(seed), tell)
        crowd = others.note(threads)
        rows = []
        for at, entry in enumerate(entries):
            tell(_TIMED + (1 - _TIMED) * at / len(field), f"memory of {entry.name}")
            facts = entry.one.facts(call, threads, (costs or {}).get(entry.model), memory=memory)
            row = _row(entry, times[:, 0, 0], times[:, at, 0], calls[at], facts)
            if _by_cpu(threads, entries[0], entry):
                row = _with_cpu(row, times[:, 0, 1], times[:, at, 1])
            rows.append(_doubted(row, crowd))
    tell(1.0, "done")
    counted = _COUNTED_GIVEN if set(models) <= set(costs or {}) else _COUNTED_ONNX
    rows = _best_named(rows, entries, times, threads)
    session = SESSION_OPTIONS + (", unless a row says otherwise" if ways != settings() else "")
    return BenchTable(tuple(rows), machine(), threads, call.batch, len(times), warmup, counted, session)


# --- who runs --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Entry:
    """A model under a setting, and how far its outputs are from those under the first one."""

    name: str
    model: str
    one: Contestant
    difference: float | None


def _entries(
    name: str, model: Model, call: Call, threads: int, ways: Sequence[Setting], limit_s: float
) -> list[_Entry]:
    """A file under every setting; a module once."""
    first = contestant(name, model, call, threads, limit_s=limit_s, setting=ways[0])
    entries = [_Entry(name, name, first, None)]
    for way in () if first.setting is None else ways[1:]:
        one = contestant(name, model, call, threads, limit_s=limit_s, setting=way)
        shown = f"{name} @ {', '.join(way.beside(ways[0]))}"
        entries.append(_Entry(shown, name, one, difference(first, one)))
    return entries


def _by_cpu(threads: int, *entries: _Entry) -> bool:
    """Whether this thread does all the work of some models: another provider may have threads of its own."""
    return threads == 1 and all(e.one.setting is None or e.one.setting.provider == CPU for e in entries)


def _best_named(
    rows: Sequence[BenchRow], entries: Sequence[_Entry], times: Times, threads: int
) -> list[BenchRow]:
    """Rows; of each file the setting that is fastest says so, if it is faster than the first one beyond the spread."""
    best: dict[str, tuple[float, int, str]] = {}
    firsts = {entry.model: at for at, entry in reversed(list(enumerate(entries)))}
    for at, entry in enumerate(entries):
        first = firsts[entry.model]
        clock = 1 if _by_cpu(threads, entries[first], entry) else 0
        ratios = times[:, first, clock] / np.maximum(times[:, at, clock], 1e-9)
        low, high = _interval(ratios)
        ratio = float(np.median(ratios))
        if low > 1 and not rows[at].differs and ratio > best.get(entry.model, (1.0,))[0]:
            said = f"the fastest here: {ratio:.2f} times as fast ({low:.2f}..{high:.2f}) as {entries[first].name}"
            best[entry.model] = ratio, at, said
    named = list(rows)
    for _, at, said in best.values():
        named[at] = replace(rows[at], notes=(*rows[at].notes, said))
    return named


def _silent(_done: float, _what: str) -> None:
    """Nobody wants to know."""


def _check_models(models: Mapping[str, Model]) -> None:
    if not isinstance(models, Mapping) or not models:  # type: ignore[redundant-expr]  # callers may be untyped
        raise FxpruneError(
            "there is nothing to measure: models are given by name",
            advice='pass {"dense": "dense.onnx", "slim": "slim.onnx"}',
        )


def check_options(**options: float | None) -> None:
    """Refuse numbers that ``benchmark`` would refuse, before the models to measure are made.

    Args:
        options: As for ``benchmark``, by name.

    Raises:
        FxpruneError: One makes no sense.

    Example:
        >>> check_options(threads=2, seconds=None)
    """
    for name, value in options.items():
        if value is not None and not (math.isfinite(value) and value >= _LEAST[name]):
            raise FxpruneError(f"{name}={value} makes no sense", advice=f"pass {_LEAST[name]} or more")


@contextlib.contextmanager
def _stage(modules: Sequence[nn.Module], threads: int) -> Iterator[None]:
    """Equal conditions: evaluation mode, no gradients, the threads asked for, no garbage collection.

    What the models' code does to their buffers and to random numbers is undone; one measurement at a time.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(untouched_random_state())
        for module in modules:
            stack.enter_context(evaluating(module))
            stack.enter_context(unchanged_buffers(module))
        stack.enter_context(torch.inference_mode())
        gc.collect()
        stack.enter_context(no_garbage())
        torch_threads = torch.get_num_threads()
        try:
            torch.set_num_threads(threads)
            yield
        finally:
            torch.set_num_threads(torch_threads)


def _warm_up(one: Contestant, warmup: int) -> int:
    """Run untimed; give the number of calls that fill a sample."""
    durations = [_timed(one, 1)[0] for _ in range(max(warmup, 1))]
    # The first calls allocate; the fastest tells what a call costs.
    return min(max(math.ceil(_SAMPLE_SECONDS / max(min(durations), 1e-9)), 1), _MOST_CALLS)


def _timed(one: Contestant, calls: int) -> tuple[float, float]:
    start, busy = time.perf_counter(), time.thread_time()
    for _ in range(calls):
        one()
    return (time.perf_counter() - start) / calls, (time.thread_time() - busy) / calls


def _rounds(
    field: Sequence[Contestant],
    calls: Sequence[int],
    repeats: int,
    seconds: float | None,
    order: random.Random,
    tell: Progress,
) -> Times:
    times: list[list[tuple[float, float]]] = []
    start = time.perf_counter()
    while True:
        elapsed = time.perf_counter() - start
        done = len(times) / repeats if seconds is None else elapsed / max(seconds, 1e-9)
        if done >= 1 and (seconds is None or len(times) >= _LEAST_ROUNDS):
            return np.array(times)
        tell(_TIMED * min(done, 1.0), f"round {len(times) + 1}")
        turn = dict.fromkeys(range(len(field)), (0.0, 0.0))
        for at in order.sample(range(len(field)), len(field)):
            turn[at] = _timed(field[at], calls[at])
        times.append(list(turn.values()))


def _row(entry: _Entry, first: Times, own: Times, calls: int, facts: Facts) -> BenchRow:
    p10, p25, median, p75, p90 = (1e3 * float(q) for q in np.percentile(own, (10, 25, 50, 75, 90)))
    ratios = first / own
    low, high = _interval(ratios)
    row = BenchRow(
        name=entry.name,
        runtime=entry.one.runtime,
        median_ms=median,
        p10_ms=p10,
        p90_ms=p90,
        iqr_ms=p75 - p25,
        speedup=float(np.median(ratios)),
        speedup_low=low,
        speedup_high=high,
        calls_per_sample=calls,
        size_bytes=facts.size_bytes,
        peak_memory_bytes=facts.peak_memory_bytes,
        params=facts.params,
        macs=facts.macs,
        notes=facts.notes,
        difference=entry.difference,
    )
    if not row.differs:
        return row
    note = f"its outputs differ from those of {entry.model} by {entry.difference:.1e} of the largest: no speed-up"
    return replace(row, notes=(*row.notes, note))


def _with_cpu(row: BenchRow, first: Times, own: Times) -> BenchRow:
    """The same by processor time, which what else runs on the machine does not count for, and a warning if they part."""
    ratios = first / np.maximum(own, 1e-9)
    low, high = _interval(ratios)
    cpu_ms = 1e3 * float(np.median(own))
    notes = list(row.notes)
    if row.median_ms > APART * cpu_ms:
        notes.append(
            f"{_BUSY}: {row.median_ms:.3g} ms by the clock for {cpu_ms:.3g} ms of work; trust the CPU columns"
        )
    return replace(
        row,
        cpu_ms=cpu_ms,
        cpu_speedup=float(np.median(ratios)),
        cpu_speedup_low=low,
        cpu_speedup_high=high,
        notes=tuple(notes),
    )


def _doubted(row: BenchRow, crowd: str) -> BenchRow:
    """A warning where the times say more about the machine than about the model, unless one is there already."""
    said = any(note.startswith(_BUSY) for note in row.notes)
    wide = row.speedup_high - row.speedup_low > WIDE * row.speedup
    doubt = crowd or (
        "the interval is wide: measure longer (--seconds, seconds=), or on a quieter machine" if wide else ""
    )
    # One thread has its own clock, which what others do does not move.
    if said or not doubt or (row.cpu_ms is not None and not wide):
        return row
    return replace(row, notes=(*row.notes, doubt))


class _Others:
    """What else runs on the machine from now on, in cores."""

    def __init__(self) -> None:
        self._start = self._taken()

    @staticmethod
    def _taken() -> tuple[float, float]:
        """Seconds by the clock, and processor seconds of all processes but this one."""
        spent = psutil.cpu_times()
        idle = spent.idle + getattr(spent, "iowait", 0.0)
        # Guests are counted in user and nice, too.
        guests = getattr(spent, "guest", 0.0) + getattr(spent, "guest_nice", 0.0)
        return time.perf_counter(), sum(spent) - idle - guests - time.process_time()

    def note(self, threads: int) -> str:
        """A warning if they left fewer cores than the threads need; empty if not."""
        now, taken = self._taken()
        wall = now - self._start[0]
        cores = psutil.cpu_count() or 1
        others = max(taken - self._start[1], 0.0) / max(wall, 1e-9)
        free = cores - others
        if wall < _TELLING_S or free > min(threads, cores) - CROWDED:
            return ""
        return (
            f"{_BUSY}: others took {others:.1f} of {cores} cores, and {threads} thread{'s' * (threads > 1)} had "
            f"{max(free, 0.0):.1f}; measure again when it is quiet"
        )


def _interval(ratios: Times) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    drawn = np.random.default_rng(0).choice(ratios, (_RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(drawn, axis=1), (2.5, 97.5))
    return float(low), float(high)
