"""The result of a benchmark: frozen figures, as text and as JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from fxprune.escaping import line, terminal
from fxprune.onnx.session import SESSION_OPTIONS, Machine
from fxprune.support.briefly import brief

__all__ = ["SAME", "BenchRow", "BenchTable"]

SAME = 1e-3
"""Share of the largest output by which rounding may move outputs under another setting."""


@dataclass(frozen=True)
class BenchRow:
    """One model's figures.

    Attributes:
        name: As given to the benchmark.
        runtime: ``"onnxruntime"``, with level and provider where they are others, or ``"torch"`` for a module.
        median_ms: Median latency of one call, milliseconds.
        p10_ms: Tenth percentile.
        p90_ms: Ninetieth percentile.
        iqr_ms: Distance between the quartiles.
        speedup: Median over the rounds of (first model's time / this one's).
        speedup_low: Lower end of the 95 % bootstrap interval of that median.
        speedup_high: Upper end.
        calls_per_sample: Calls timed together; a sample is their mean.
        size_bytes: Of the file and its external weights, None for a module.
        peak_memory_bytes: Highest resident memory above the bare runtime while a process of its
            own loads and runs the file, None if not measured.
        params: Elements of weights.
        macs: Multiply-accumulates for one sample.
        notes: Why a figure is missing, what was not counted, how far to trust the times.
        cpu_ms: Median processor time of one call, milliseconds; None with several threads, or another provider's.
        cpu_speedup: As ``speedup``, of processor times.
        cpu_speedup_low: As ``speedup_low``.
        cpu_speedup_high: As ``speedup_high``.
        difference: Of outputs from those under the first setting, relative to the largest; None for that one.
    """

    name: str
    runtime: str
    median_ms: float
    p10_ms: float
    p90_ms: float
    iqr_ms: float
    speedup: float
    speedup_low: float
    speedup_high: float
    calls_per_sample: int
    size_bytes: int | None = None
    peak_memory_bytes: int | None = None
    params: int | None = None
    macs: int | None = None
    notes: tuple[str, ...] = ()
    cpu_ms: float | None = None
    cpu_speedup: float | None = None
    cpu_speedup_low: float | None = None
    cpu_speedup_high: float | None = None
    difference: float | None = None

    @property
    def differs(self) -> bool:
        """It does not compute what the same file does under the first setting."""
        return self.difference is not None and not self.difference <= SAME


@brief
@dataclass(frozen=True)
class BenchTable:
    """Figures of several models, measured in one run on one machine.

    Attributes:
        rows: In the order given; the first is what the others are compared with.
        machine: Where.
        threads: Threads inside an operator; one operator runs at a time.
        batch: Samples in one call, None where the inputs have no batch.
        rounds: Timed samples per model.
        warmup: Untimed calls per model before.
        session: Options of the onnxruntime sessions.
        counted: What params and MACs count.
    """

    rows: tuple[BenchRow, ...]
    machine: Machine
    threads: int
    batch: int | None
    rounds: int
    warmup: int
    counted: str
    session: str = SESSION_OPTIONS

    def __getitem__(self, name: str) -> BenchRow:
        """The row of that name.

        Raises:
            KeyError: There is none.
        """
        rows = {row.name: row for row in self.rows}
        return rows[name]

    def to_json(self) -> str:
        """The table as JSON text; the field names are those of the attributes, with their units."""
        return json.dumps({"format": "fxprune-bench", "version": 1, **asdict(self)}, indent=1)

    def to_text(self, width: int = 110) -> str:
        """The table as plain text.

        Args:
            width: Columns.
        """
        out = io.StringIO()
        Console(file=out, width=width, color_system=None).print(self)
        return out.getvalue()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(title="latency of one call" + (f", batch {self.batch}" if self.batch else ""))
        table.add_column("model")
        for heading in _COLUMNS:
            table.add_column(heading, justify="right")
        for row in self.rows:
            # Text, as a name may hold brackets, which are markup in a string.
            table.add_row(Text(line(row.name)), *(cell(row) for cell in _COLUMNS.values()))
        yield table
        yield from (Text(terminal(text)) for text in self._captions())

    def _captions(self) -> list[str]:
        m = self.machine
        lines = [
            f"{m.cpu}, {m.cores} cores ({m.logical_cores} logical), {m.capability}, {m.memory_gib} GiB; "
            f"{m.system}, Python {m.python}, torch {m.torch}, onnxruntime {m.onnxruntime}",
            f"{self.threads} thread{'s' * (self.threads > 1)}; {self.session}",
            f"{self.rounds} rounds after {self.warmup} warm-up calls, models interleaved in random order; speed-up: "
            f"median of the rounds' ratios to {self.rows[0].name} and its 95 % interval",
            self.counted,
        ]
        return lines + [f"{row.name}: {note}" for row in self.rows for note in row.notes]


def _scaled(value: float | None, unit: str) -> str:
    """Three digits with a decimal prefix: 44.7 MB."""
    if value is None:
        return "-"
    for limit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{_digits(value / limit)} {prefix}{unit}".rstrip()
    return f"{value:.0f} {unit}".rstrip()


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def _milliseconds(value: float) -> str:
    return f"{value:.3f}" if value < 1 else _digits(value)


_COLUMNS: dict[str, Callable[[BenchRow], str]] = {
    "runtime": lambda row: row.runtime,
    "median ms": lambda row: _milliseconds(row.median_ms),
    "p10..p90": lambda row: f"{_milliseconds(row.p10_ms)}..{_milliseconds(row.p90_ms)}",
    "speed-up": lambda row: (
        "differs"
        if row.differs
        else f"{_digits(row.speedup)} ({_digits(row.speedup_low)}..{_digits(row.speedup_high)})"
    ),
    "CPU": lambda row: (
        "-"
        if row.cpu_ms is None or row.cpu_speedup is None or row.differs
        else f"{_milliseconds(row.cpu_ms)} ×{_digits(row.cpu_speedup)}"
    ),
    "file": lambda row: _scaled(row.size_bytes, "B"),
    "peak memory": lambda row: _scaled(row.peak_memory_bytes, "B"),
    "params": lambda row: _scaled(row.params, ""),
    "MACs": lambda row: _scaled(row.macs, ""),
}
