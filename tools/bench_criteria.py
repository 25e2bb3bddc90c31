"""Which units should go, judged by what recovery without labels makes of the rest: criteria and scopes on trained nets.

    python tools/bench_criteria.py --cifar ../shared          # some hours of a core
    python tools/bench_criteria.py --models resnet vit --anew
    python tools/bench_criteria.py --table

The nets are those of ``bench_recovery.py``.  Each is planned for two shares of its MACs by l1 in three scopes, by the
reconstruction criterion (``fxprune.recovery.reconstruction``) in two, and by the curves of ``fxprune.sensitivity``; sliced, recovered on 512 images without
labels, and judged on all test images.  Ranks count how often a way is best.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from bench_recovery import CIFAR, NETS, SHARES, Task, cifar, digits
from machine_note import machine_note

import fxprune
from fxprune.criteria import Criterion
from fxprune.recovery.reconstruction import Reconstruction

RESULTS = Path(__file__).resolve().parent / "results"
CIFAR_SHARES = (0.475, 0.25)
WAYS = (
    *(("l1", scope) for scope in ("global", "local", "isomorphic")),
    *(("reconstruction", scope) for scope in ("global", "local")),
    ("reconstruction / mean", "global"),
    ("sensitivity", "global"),
)

Row = dict[str, object]


def criteria(trace: fxprune.Trace, task: Task) -> dict[str, tuple[str | Criterion, float]]:
    """Criteria, and the seconds of processor time that each takes to be made."""
    made: dict[str, tuple[str | Criterion, float]] = {"l1": ("l1", 0.0)}
    began = time.process_time()
    costs = Reconstruction(trace, task.calibration)
    made["reconstruction"] = costs, time.process_time() - began
    made["reconstruction / mean"] = (
        Reconstruction(trace, task.calibration, normalise="mean"),
        made["reconstruction"][1],
    )
    began = time.process_time()
    table = fxprune.sensitivity(trace, task.calibration)
    made["sensitivity"] = table.criterion(), time.process_time() - began
    return made


def measured(name: str, task: Task, shares: tuple[float, ...]) -> list[Row]:
    """Every way and share of one net."""
    trace = fxprune.trace(task.model, task.calibration[:2])
    ranked, dense = criteria(trace, task), task.outputs(task.model)
    spread = float((dense - dense.mean(0)).norm())
    rows: list[Row] = []
    for criterion, scope in WAYS:
        for share in shares:
            chosen, seconds = ranked[criterion]
            plan = fxprune.plan(trace, fxprune.Budget(macs=share), criterion=chosen, scope=scope, align=1)  # type: ignore[arg-type]
            slim = fxprune.slim(trace, plan)
            fxprune.recover(trace, plan, slim, task.calibration)
            made = task.outputs(slim)
            row: Row = {
                "model": name,
                "share": share,
                "criterion": criterion,
                "scope": scope,
                "seconds": seconds,
            }
            row |= {"macs": plan.predicted.macs / plan.dense.macs, "accuracy": task.accuracy(made)}
            rows.append({**row, "error": float((made - dense).norm()) / spread})
    return rows


def page(rows: list[Row]) -> str:
    """The table."""
    lines = [
        "# Criteria, judged after recovery",
        "",
        "`python tools/bench_criteria.py --cifar FOLDER` wrote this: accuracy in % (error of the outputs, relative to the spread of the dense model's) of plans with "
        f"align=1 after recovery on 512 images, on all test images; one seed, so differences under a point say little. {machine_note()}.",
        "",
        f"| model | MACs | {' | '.join(f'{c}, {s}' for c, s in WAYS)} |",
        f"|---|---|{'---|' * len(WAYS)}",
    ]
    cells: dict[tuple[object, object], Mapping[tuple[object, object], Row]] = {}
    for row in rows:
        key = row["model"], row["share"]
        cells[key] = {**cells.get(key, {}), (row["criterion"], row["scope"]): row}
    best, ahead = dict.fromkeys(WAYS, 0), {way: list[float]() for way in WAYS}
    for (model, share), ways in cells.items():
        errors = {way: float(str(ways[way]["error"])) for way in WAYS if way in ways}
        for way, error in errors.items():
            best[way] += error == min(errors.values())
            ahead[way].append(error / errors["l1", "global"])
        shown = [
            _cell(ways[way], bold=errors[way] == min(errors.values())) if way in ways else "–" for way in WAYS
        ]
        lines.append(f"| {model} | {share} | {' | '.join(shown)} |")
    lines.append(f"| smallest error | | {' | '.join(f'{best[way]} of {len(cells)}' for way in WAYS)} |")
    against = [f"{statistics.median(ahead[way]):.2f}" if ahead[way] else "–" for way in WAYS]
    lines.append(f"| error / that of l1, global: median | | {' | '.join(against)} |")
    took = {
        str(row["criterion"]): [float(str(r["seconds"])) for r in rows if r["criterion"] == row["criterion"]]
        for row in rows
    }
    words = ", ".join(
        f"{name} {statistics.median(s):.1f} s (at most {max(s):.1f})" for name, s in took.items()
    )
    return "\n".join([*lines, "", f"Processor time to rank: {words}."]) + "\n"


def _cell(row: Row, *, bold: bool) -> str:
    error = f"{float(str(row['error'])):.3f}"
    text = error if row["accuracy"] is None else f"{100 * float(str(row['accuracy'])):.1f} ({error})"
    return f"**{text}**" if bold else text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", help="names, or parts of them")
    parser.add_argument("--cifar", type=Path, help="folder with data/cifar10 and weights")
    parser.add_argument("--anew", action="store_true", help="measure models that have rows again")
    parser.add_argument("--table", action="store_true", help="only write the table")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    file = options.out / "criteria.json"
    rows: list[Row] = json.loads(file.read_text()) if file.exists() else []
    tasks: dict[str, tuple[Callable[[], Task], tuple[float, ...]]] = {}
    if options.cifar:
        tasks |= {f"CIFAR {n}": (partial(cifar, n, options.cifar), CIFAR_SHARES) for n in CIFAR}
    tasks |= {n: (partial(digits, n), SHARES) for n in NETS}
    for name, (make, shares) in () if options.table else tasks.items():
        if options.models and not any(part in name for part in options.models):
            continue
        if not options.anew and any(row["model"] == name for row in rows):
            continue
        new = measured(name, make(), shares)
        rows = [row for row in rows if row["model"] != name] + new
        file.write_text(json.dumps(rows, indent=1) + "\n")
        (options.out / "CRITERIA.md").write_text(page(rows))
        print(name, "done", flush=True)
    (options.out / "CRITERIA.md").write_text(page(rows))


if __name__ == "__main__":
    main()
