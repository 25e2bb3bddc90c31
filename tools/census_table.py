"""The census as a page of tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from census_models import KINDS

__all__ = ["problems_of", "table"]

Row = Mapping[str, object]

HEADER = (
    *(
        "model",
        "trace",
        "trace s",
        "couple s",
        "groups",
        "free",
        "pins: input / output / contract / data / unknown",
    ),
    *(
        "slim",
        "params left",
        "MACs left",
        "batches",
        "error",
        "error, exact groups",
        "ONNX error",
        "problems",
    ),
)
PIN_KINDS = ("input", "output", "contract", "data", "unknown")

ABOUT = """# Census of models

Written by `python tools/census.py`; every model has random live weights and goes through trace, couple, a
uniform plan that keeps half the channels (`Budget(channels=0.5)`, `scope="local"`, `align=1`), slim and verify.

* *error*: the largest difference that both oracles of `verify` find in float64, relative to what the removal does to
  that output channel.  The first runs the graph with the dead units zeroed where they are read, the second the user's
  module under masks.
* *error, exact groups*: a second plan removes a quarter of the units of every exact group at random; here plain
  zeroing in the dense model must equal slicing, without statistics taken over what is left.
* *pins*: units of parameter axes that cannot go, by kind. `unknown` is an operator without a rule.
* *groups* counts every set of axes that stand and fall together, pinned ones included; *free* are those that may go.
* *batches*: sizes at which the slim model ran and kept the dense model's output shapes.
* MACs of recorded models (detectors) are those of one run: how many boxes they look at depends on the weights.
"""


def problems_of(row: Row) -> list[str]:
    """What did not hold for a model."""
    found = row.get("problems", [])
    assert isinstance(found, list)
    return [str(p) for p in found]


def table(rows: Sequence[Row]) -> str:
    """The page.

    Args:
        rows: One row a model, in any order.
    """
    parts = [ABOUT]
    ordered = sorted(rows, key=lambda r: (list(KINDS).index(str(r["kind"])), str(r["model"])))
    parts.append(_summary(ordered))
    for kind in KINDS:
        its = [r for r in ordered if r["kind"] == kind]
        if its:
            parts.append(f"## {kind.replace('_', ' ').capitalize()}\n\n{_grid(its)}")
    parts.append(_reasons(ordered))
    parts.append(_remains(ordered))
    return "\n".join(p for p in parts if p)


def _summary(rows: Sequence[Row]) -> str:
    lines = [
        "| kind | models | without a problem | worst error | worst error, exact groups | as a module |",
        "|" + "---|" * 6,
    ]
    for kind in KINDS:
        its = [r for r in rows if r["kind"] == kind]
        if not its:
            continue
        fine = sum(not problems_of(r) for r in its)
        modules = sum(r.get("slim_kind") == "module" for r in its)
        lines.append(
            f"| {kind.replace('_', ' ')} | {len(its)} | {fine} | {_worst(its, 'uniform')} | {_worst(its, 'exact')} | {modules} |"
        )
    return "\n".join([*lines, "", *_overall(rows)]) + "\n"


def _overall(rows: Sequence[Row]) -> list[str]:
    """What is claimed of all models at once."""
    said = []
    timed = [
        (float(str(r["couple_s"])) / float(str(r["trace_s"])), str(r["model"]))
        for r in rows
        if "couple_s" in r
    ]
    if timed:
        slower = sum(ratio >= 1 for ratio, _ in timed)
        said.append(
            f"* `couple` takes longer than `torch.export` on {slower} of {len(timed)} models; "
            f"at most {max(timed)[0]:.0%} of its time ({max(timed)[1]})."
        )
    exported = [r for r in rows if isinstance(r.get("onnx"), Mapping)]
    if exported:
        said.append(
            f"* ONNX parity, {len(exported)} models: largest relative error {_worst(exported, 'onnx')}."
        )
    engines = Counter(str(r.get("engine", "")) for r in rows)
    made = ", ".join(f"{count} by {name}" for name, count in engines.most_common())
    said.append(
        f"* Rows by digest of the engine's source: {made}. `--stale` measures those of other engines again."
    )
    said.extend(_judged(rows))
    unknown = {str(r["model"]) for r in rows if any(p["kind"] == "unknown" for p in _pins(r))}
    said.append(
        f"* Operators without a rule were met in {len(unknown)} models{': ' if unknown else ''}{', '.join(sorted(unknown))}."
    )
    return said


def _judged(rows: Sequence[Row]) -> list[str]:
    """Which share of the outputs each oracle judged."""
    shares = {str(r["model"]): r["uniform"]["judged"] for r in rows if "judged" in (r.get("uniform") or {})}  # type: ignore[operator,index]
    said = []
    for oracle in ("graph", "masks"):
        part = sorted((judged[oracle], name) for name, judged in shares.items() if judged[oracle] < 1)
        named = ", ".join(f"{name} {share:.0%}" for share, name in part[:12])
        said.append(
            f"* The {oracle} oracle judged every output of {len(shares) - len(part)} of {len(shares)} models"
            + (f"; of the others: {named}." if part else ".")
        )
    return said if shares else []


def _worst(rows: Sequence[Row], which: str) -> str:
    errors = [
        (_number(r, which, "error"), str(r["model"])) for r in rows if isinstance(r.get(which), Mapping)
    ]
    return "" if not errors else f"{max(errors)[0]:.1e} ({max(errors)[1]})"


def _number(row: Row, which: str, name: str) -> float:
    part = row.get(which)
    return float(part[name]) if isinstance(part, Mapping) else float("nan")


def _grid(rows: Sequence[Row]) -> str:
    lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    lines += ["| " + " | ".join(_cells(r)) + " |" for r in rows]
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> list[str]:
    traced = str(row.get("trace_kind", ""))
    if traced == "export":
        traced += ", any batch" if row.get("dynamic_batch") else ", fixed batch"
    pins = Counter[str]()
    for pin in _pins(row):
        pins[str(pin["kind"])] += int(str(pin["units"]))
    problems = "; ".join(problems_of(row)).replace("|", "/")
    return [
        *(str(row["model"]), traced, _plain(row, "trace_s"), _plain(row, "couple_s")),
        *(_plain(row, "groups"), _plain(row, "free_groups"), " / ".join(str(pins[k]) for k in PIN_KINDS)),
        *(_plain(row, "slim_kind"), _percent(row, "params_left"), _percent(row, "macs_left")),
        ", ".join(map(str, row.get("batches", []))),  # type: ignore[call-overload]
        *(_error(row, "uniform"), _error(row, "exact"), _error(row, "onnx"), problems[:300]),
    ]


def _plain(row: Row, name: str) -> str:
    value = row.get(name, "")
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _percent(row: Row, name: str) -> str:
    value = row.get(name)
    return f"{value:.0%}" if isinstance(value, float) else ""


def _error(row: Row, which: str) -> str:
    return f"{_number(row, which, 'error'):.1e}" if isinstance(row.get(which), Mapping) else ""


def _pins(row: Row) -> list[Mapping[str, object]]:
    pins = row.get("pins", [])
    assert isinstance(pins, list)
    return pins


def _reasons(rows: Sequence[Row]) -> str:
    """Every reason to pin, with the operators that gave it and how many models it concerns."""
    units = Counter[tuple[str, str]]()
    models: dict[tuple[str, str], set[str]] = {}
    ops: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        for pin in _pins(row):
            key = (str(pin["kind"]), str(pin["reason"]))
            units[key] += int(str(pin["units"]))
            models.setdefault(key, set()).add(str(row["model"]))
            ops.setdefault(key, set()).add(str(pin["op"]).removeprefix("aten."))
    lines = [
        "## Why units are pinned",
        "",
        "| kind | reason | operators | models | units |",
        "|" + "---|" * 5,
    ]
    for key, count in sorted(units.items(), key=lambda item: (PIN_KINDS.index(item[0][0]), -item[1])):
        named = sorted(models[key])
        shown = ", ".join(named) if len(named) <= 3 else f"{len(named)}: {', '.join(named[:2])}, …"
        lines.append(f"| {key[0]} | {key[1]} | {', '.join(sorted(ops[key]))} | {shown} | {count} |")
    return "\n".join(lines) + "\n"


def _remains(rows: Sequence[Row]) -> str:
    """Models that keep more than was aimed at, and what keeps it."""
    lines = []
    for row in rows:
        why = row.get("why_left")
        if isinstance(why, list):
            lines.append(
                f"* **{row['model']}** keeps {_percent(row, 'params_left')} of its parameters: {'. '.join(why)}"
            )
    return (
        "\n".join(["## Models that keep more than 60 % of their parameters", "", *lines, ""]) if lines else ""
    )
