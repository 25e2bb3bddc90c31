"""The record of a run: what was asked for, what came out, and on what machine."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import annotated_types
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from fxprune.errors import FxpruneError, IntegrityWarning
from fxprune.plans import Cost
from fxprune.regularizers import Regularizer
from fxprune.report.sheets import Sheet
from fxprune.report.words import count, share
from fxprune.support import plain
from fxprune.support.briefly import brief
from fxprune.support.reading import MIB, read_text, shown

__all__ = ["Ledger", "Record", "method_figures", "read_record", "reason", "record_sheet"]

FORMAT = "fxprune-run"
VERSION = 1
_LARGEST = 64 * MIB


@brief
@dataclass(frozen=True)
class Record:
    """A finished run.

    Attributes:
        name: Of the recipe's file.
        recipe: Every value of it, defaults included.
        accuracy: Share of right answers in [0, 1] by moment: ``dense``, ``sparse`` (after the sparse phase),
            ``sliced`` (before recovery, if there is one), ``pruned`` (before fine-tuning) and ``finetuned``.
        evaluated_on: ``test``, or ``holdout``: training images set apart.
        dense: Cost of the dense model for one sample.
        slim: Cost of the slim model.
        decided: Share of the budgeted cost that the method's own decision would have kept when the budget was
            spent; None for one-shot runs.
        epochs: Epochs by phase.
        seconds: Wall time by step of the run, over all its processes in time.
        method: What the regularizer reported at the end of the sparse phase; its ``overhead`` is a mean over
            ``steps_timed`` steps.
        latency_ms: Median latency in onnxruntime, ``dense`` and ``slim``; empty if it was not measured.
        bench: The whole measurement, or None.
        machine: Processor, cores, versions.
        device: Where it was trained, and by how many processes.
        proof: How the slim model was proved right.
        notes: Of the plan and of the run.
        resumed: How often it was continued.
    """

    name: str
    recipe: Mapping[str, object]
    accuracy: Mapping[str, float]
    evaluated_on: str
    dense: Cost
    slim: Cost
    decided: float | None
    epochs: Mapping[str, float]
    seconds: Mapping[str, float]
    method: Mapping[str, float]
    latency_ms: Mapping[str, float]
    bench: Mapping[str, object] | None
    machine: Mapping[str, object]
    device: str
    proof: str
    notes: tuple[str, ...] = ()
    resumed: int = 0

    def to_json(self) -> str:
        """The record as JSON text, with a digest of its values."""
        data = {"format": FORMAT, "version": VERSION, **asdict(self)}
        return json.dumps({**data, "digest": plain.digest(data)}, indent=1)


Share = Annotated[float, annotated_types.Ge(0), annotated_types.Le(1)]
Seconds = Annotated[float, annotated_types.Ge(0)]
Figure = Annotated[float, Field(allow_inf_nan=True)]  # a method may say what it likes
Whole = Annotated[int, annotated_types.Ge(0)]


class _Checked(BaseModel):
    """Unknown keys are errors, and "1" is no number."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Cost(_Checked):
    params: Whole
    macs: Whole


class _Ledger(_Checked):
    """The fields of a ``Ledger`` that travel."""

    accuracy: dict[str, Share]
    seconds: dict[str, Seconds]
    method: dict[str, Figure]
    decided: float | None
    proof: str
    notes: list[str]
    resumed: Whole


class _File(_Checked):
    """The fields of a ``Record`` as they stand in its file."""

    format: Literal["fxprune-run"]
    version: Literal[1]
    name: str
    recipe: dict[str, JsonValue]
    accuracy: dict[str, Share]
    evaluated_on: Literal["test", "holdout"]
    dense: _Cost
    slim: _Cost
    decided: float | None
    epochs: dict[str, Whole | Seconds]
    seconds: dict[str, Seconds]
    method: dict[str, Figure]
    latency_ms: dict[str, Seconds]
    bench: dict[str, JsonValue] | None
    machine: dict[str, JsonValue]
    device: str
    proof: str
    notes: tuple[str, ...]
    resumed: Whole
    digest: str | None = None


def read_record(path: str | Path) -> Record:
    """A record from its file.

    Raises:
        FxpruneError: The file is missing, no record, or changed since it was written.
    """
    advice = "pass a record.json of fxprune train"
    text = read_text(path, limit=_LARGEST, advice=advice)
    try:
        record = _File.model_validate_json(text)
        data = json.loads(text)
    except (ValidationError, ValueError, RecursionError) as error:
        raise FxpruneError(f"{shown(path)} is no record of a run: {reason(error)}", advice=advice) from error
    digest = data.pop("digest", None)
    if digest is None:
        warnings.warn(f"{shown(path)} was written without a digest", IntegrityWarning, stacklevel=2)
    elif digest != plain.digest(data) or text.rstrip("\n") != json.dumps(
        {**data, "digest": digest}, indent=1
    ):
        raise FxpruneError(
            f"{shown(path)} is no record of a run any more: it was changed since it was written",
            advice="make the run again, or get the file from where it was made",
        )
    costs = {name: Cost(**data[name]) for name in ("dense", "slim")}
    values = {key: value for key, value in data.items() if key not in ("format", "version")}
    return Record(**{**values, **costs, "notes": record.notes})


def reason(error: Exception) -> str:
    """The first thing wrong, on one line, with its place in the data."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        return f"{place}: {first['msg']}" if place else str(first["msg"])
    return " ".join(str(error).split())[:200] or type(error).__name__


@dataclass
class Ledger:
    """What a run knows so far; it travels in the checkpoints.

    Attributes:
        accuracy: As in the record.
        seconds: As in the record.
        method: As in the record.
        decided: As in the record.
        proof: As in the record.
        notes: As in the record.
        resumed: As in the record.
    """

    accuracy: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    method: dict[str, float] = field(default_factory=dict)
    decided: float | None = None
    proof: str = ""
    notes: list[str] = field(default_factory=list)
    resumed: int = 0
    _running: dict[str, float] = field(default_factory=dict, repr=False)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the body's wall time to a step, also to what is saved while it runs."""
        before = self.seconds.get(name, 0.0)
        self._running[name] = time.monotonic() - before
        try:
            yield
        finally:
            self._count()
            del self._running[name]

    def _count(self) -> None:
        now = time.monotonic()
        for name, began in self._running.items():
            self.seconds[name] = round(now - began, 3)

    def note(self, text: str) -> None:
        """Remember a remark once."""
        if text not in self.notes:
            self.notes.append(text)

    def as_json(self) -> dict[str, object]:
        """Plain values, times up to now included."""
        self._count()
        return {key: value for key, value in asdict(self).items() if not key.startswith("_")}

    @staticmethod
    def of(data: object) -> Ledger:
        """A ledger from what ``as_json`` gave.

        Raises:
            FxpruneError: It is none.
        """
        try:
            return Ledger(**_Ledger.model_validate(data).model_dump())
        except ValidationError as error:
            raise FxpruneError(
                f"what is known of a run cannot be read: {reason(error)}", advice="begin the run anew"
            ) from error


def method_figures(method: Regularizer, earlier: Mapping[str, float], steps: int) -> dict[str, float]:
    """What is recorded of a method.

    Args:
        method: As it stands.
        earlier: What was recorded before the run was interrupted, or nothing.
        steps: Taken since then; the method has timed only these.
    """
    report = method.report()
    before = earlier.get("steps_timed", 0)
    timed = before + steps

    def mean(name: str, now: float) -> float:
        return (earlier.get(name, 0.0) * before + now * steps) / max(timed, 1)

    return {
        "zero_share": report.zero_share,
        "overhead_ms": mean("overhead_ms", report.overhead_ms),
        "overhead": mean("overhead", report.overhead),
        "steps_timed": timed,
        "strength": float(method.strength),
        **report.details,
    }


# --- for people ------------------------------------------------------------------------------

_MOMENTS: dict[str, str] = {
    "dense": "dense",
    "sparse": "after sparse training",
    "sliced": "pruned, before recovery",
    "pruned": "pruned, before fine-tuning",
    "finetuned": "fine-tuned",
}


def record_sheet(record: Record) -> Sheet:
    """The figures of a run that matter."""
    rows = [
        (f"accuracy, {words}", f"{100 * record.accuracy[key]:.2f} %")
        for key, words in _MOMENTS.items()
        if key in record.accuracy
    ]
    pairs = (
        ("MACs", record.dense.macs, record.slim.macs),
        ("parameters", record.dense.params, record.slim.params),
    )
    for name, before, after in pairs:
        rows.append((name, f"{count(before)} -> {count(after)} ({share(after / max(before, 1))})"))
    if record.latency_ms:
        before_ms, after_ms = record.latency_ms["dense"], record.latency_ms["slim"]
        rows.append(("latency, onnxruntime", f"{before_ms:.3g} ms -> {after_ms:.3g} ms"))
    minutes = sum(record.seconds.values()) / 60
    rows.append(("wall time", f"{minutes:.1f} min on {record.device}"))
    return Sheet(record.name, ("", "value"), tuple(rows), footer="; ".join(record.notes))
