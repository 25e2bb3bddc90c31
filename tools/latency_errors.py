"""How far the latency model is from what is measured, at random widths.

    python tools/latency_errors.py                     # into tools/results/LATENCY_MODEL.md, a quarter of an hour
    python tools/latency_errors.py --facts cpu.json    # this machine's measurements, told by the facts of a file

Every net is cut by random plans; each slim model is timed beside the dense one in onnxruntime, and the ratio is compared with
the one that the model of the target predicts.  What was measured is kept: other facts, or another model, are judged by it
without measuring again.  Each instruction set has a table of its own, judged by its own built-in facts.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from bench_latency import MODELS, RESULTS, made
from latency_nets import NETS
from machine_note import machine_note

import fxprune
from fxprune import targets
from fxprune.coupling.couple import analyse
from fxprune.labels import FloatArray
from fxprune.onnx.session import machine
from fxprune.planning import solve
from fxprune.planning.latency import latency_model
from fxprune.planning.timing import Stopwatch
from fxprune.plans import Budget, Plan
from fxprune.resizing.resolve import keep_mask

AVX512 = "onnxruntime-cpu-avx512"
WAYS = ((0.35, "auto"), (0.5, "auto"), (0.7, "auto"), (0.5, 1))
"""MACs left and step of the random plans."""

FACTS = {"AVX512": AVX512, "AVX2": "onnxruntime-cpu-avx2"}
"""What is told of machines of each instruction set."""

Row = dict[str, object]


class Table(TypedDict):
    """What one machine measured."""

    machine: str
    rows: list[Row]


def traced(name: str) -> fxprune.Trace:
    return fxprune.trace(made(name), NETS[name][1]() if name in NETS else torch.randn(1, 3, 224, 224))


def plans(trace: fxprune.Trace) -> list[Plan]:
    """The same ones at every call, whatever the machine and the model of its time."""
    solve.THRIFT = 0.0  # else time would decide where scores are alike
    torch.manual_seed(0)
    ways = enumerate(WAYS)
    return [
        fxprune.plan(trace, Budget(macs=m), criterion="random", align=step, target=AVX512, seed=k)  # type: ignore[arg-type]
        for k, (m, step) in ways
    ]


def measured(name: str) -> Row:
    trace = traced(name)
    with Stopwatch(trace, targets.get()) as watch:
        timed = [watch.measure(fxprune.slim(trace, plan)) for plan in plans(trace)]
    return {
        "model": name,
        "dense_ms": timed[0].dense_ms,
        "ratios": [t.ratio for t in timed],
        "intervals": [[t.low, t.high] for t in timed],
    }


def predicted(name: str, target: str) -> list[float]:
    trace = traced(name)
    analysis = analyse(trace)
    model = latency_model(analysis, targets.get(target))
    dense = model.milliseconds(np.ones(analysis.coupling.n_units, bool))
    return [model.milliseconds(keep_mask(analysis, plan)) / dense for plan in plans(trace)]


def page(tables: dict[str, Table]) -> str:
    """A section for each instruction set."""
    lines = [
        "# Errors of the latency model",
        "",
        "`python tools/latency_errors.py` wrote this: one thread, batch 1, processor time, medians of paired ratios.",
        "",
        "Random plans of every net. Cells: measured share of the dense time, and how far what the built-in facts predict is from it.",
    ]
    for simd, table in tables.items():
        lines += ["", f"## {simd}", "", f"{table['machine']}.", "", *section(table["rows"], FACTS[simd])[0]]
    return "\n".join(lines) + "\n"


def section(rows: list[Row], facts: str) -> tuple[list[str], FloatArray]:
    """One machine's rows by some facts, and all errors in percent."""
    ways = [f"{m:g} of the MACs, {'steps of 16' if s == 'auto' else 'no steps'}" for m, s in WAYS]
    lines = [f"| model | {' | '.join(ways)} |", f"|---|{'---|' * len(ways)}"]
    errors = []
    for row in rows:
        real = np.array(row["ratios"])
        off = 100 * (np.array(predicted(str(row["model"]), facts)) / real - 1)
        errors.append(off)
        cells = (f"{r:.3f} ({o:+.1f} %)" for r, o in zip(real, off, strict=True))
        lines.append(f"| {row['model']} | {' | '.join(cells)} |")
    every = np.concatenate(errors)
    stepped = np.concatenate([off[:3] for off in errors])
    for words, values in (("all", every), ("those in steps", stepped)):
        lines += [
            "",
            f"Of {words}: median {np.median(abs(values)):.1f} %, worst {abs(values).max():.1f} %, mean {values.mean():+.1f} %.",
        ]
    return lines, every


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument(
        "--facts", help="a target, or a file of `fxprune calibrate`, to print this machine's rows by"
    )
    parser.add_argument("--anew", action="store_true", help="measure again")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    file, simd = options.out / "latency_model.json", machine().capability
    tables: dict[str, Table] = json.loads(file.read_text()) if file.exists() else {}
    rows = [] if options.anew or simd not in tables else tables[simd]["rows"]
    for name in options.models:
        if name not in {row["model"] for row in rows}:
            rows.append(measured(name))
            tables[simd] = {"machine": machine_note(), "rows": rows}
            file.write_text(json.dumps(tables, indent=1) + "\n")
            print(name, [f"{r:.3f}" for r in rows[-1]["ratios"]], flush=True)  # type: ignore[attr-defined]
    lines, errors = section(rows, options.facts or FACTS[simd])
    print("\n".join(lines))
    print(f"median {np.median(abs(errors)):.1f} %, worst {abs(errors).max():.1f} %")
    (options.out / "LATENCY_MODEL.md").write_text(page(tables))


if __name__ == "__main__":
    main()
