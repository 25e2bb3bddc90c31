"""What steps of widths cost and give on narrow nets: accuracy as sliced and recovered, importance, time.

    python tools/bench_steps.py --cifar ../shared      # a quarter of an hour of a core; writes tools/results/STEPS.md

The CIFAR ResNets of 16, 32 and 64 channels are planned by l1 for two shares of their MACs with steps of 16, 8 and 4, with any widths, with
residual streams left whole, and by default (``align="auto"``), for a machine with AVX-512 and one with AVX2.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from bench_recovery import Task, cifar
from machine_note import machine_note

import fxprune
from fxprune import targets
from fxprune.coupling.couple import analyse
from fxprune.criteria.score import score
from fxprune.planning.latency import latency_model
from fxprune.planning.steps import importance_kept
from fxprune.resizing.resolve import keep_mask

RESULTS = Path(__file__).resolve().parent / "results"
NETS, SHARES = ("resnet20", "resnet56"), (0.7, 0.5)
TARGETS = ("onnxruntime-cpu-avx512", "onnxruntime-cpu-avx2")
STREAM = 6
"""Tensors that a group has more than only where blocks add to it."""

Row = dict[str, object]


def ways(trace: fxprune.Trace, target: str) -> dict[str, Mapping[str, object]]:
    """Options by name."""
    streams = [g.name for g in fxprune.couple(trace) if len(g.members) > STREAM and g.pinned is None]
    steps = [step for step in (16, 8, 4) if step <= targets.get(target).channel_step]
    return {
        "default": {},
        **{f"steps of {step}": {"align": step} for step in steps},
        "any widths": {"align": 1},
        "streams whole": {"protect": streams},
        "streams whole, any widths": {"protect": streams, "align": 1},
    }


def measured(name: str, task: Task) -> list[Row]:
    """Every way and share of one net."""
    trace = fxprune.trace(task.model, task.calibration[:1])
    analysis, units = analyse(trace), score(trace, "l1").units
    rows: list[Row] = []
    for target in TARGETS:
        model = latency_model(analysis, targets.get(target))
        dense = model.milliseconds(np.ones(analysis.coupling.n_units, bool))
        for share in SHARES:
            for way, options in ways(trace, target).items():
                plan = fxprune.plan(trace, fxprune.Budget(macs=share), target=target, **options)  # type: ignore[arg-type]
                keep, slim = keep_mask(analysis, plan), fxprune.slim(trace, plan)
                sliced = task.accuracy(task.outputs(slim))
                fxprune.recover(trace, plan, slim, task.calibration)
                row: Row = {"model": name, "target": target, "share": share, "way": way}
                row |= {
                    "macs": plan.predicted.macs / plan.dense.macs,
                    "importance": importance_kept(units, keep),
                }
                row |= {"time": model.milliseconds(keep) / dense, "sliced": sliced}
                rows.append(
                    {**row, "recovered": task.accuracy(task.outputs(slim)), "class": type(slim).__name__}
                )
    return rows


def page(rows: list[Row], note: str) -> str:
    """The table."""
    lines = [
        "# Steps of widths on narrow nets",
        "",
        "`python tools/bench_steps.py --cifar FOLDER` wrote this: plans by l1, recovered on 512 images without labels, judged on all test images; one "
        f"seed. Time is that of one image as the latency model of the target tells it, relative to the dense model's. {note}.",
        "",
        "| model | target | MACs asked | way | MACs | importance kept | time | sliced, % | recovered, % |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        words = [str(row[key]) for key in ("model", "target", "share", "way")]
        shares = [f"{float(str(row[key])):.3f}" for key in ("macs", "importance", "time")]
        percent = [f"{100 * float(str(row[key])):.1f}" for key in ("sliced", "recovered")]
        lines.append(f"| {' | '.join([*words, *shares, *percent])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cifar", type=Path, required=True, help="folder with data/cifar10 and weights")
    parser.add_argument("--models", nargs="*", default=list(NETS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    file = options.out / "steps.json"
    rows: list[Row] = json.loads(file.read_text()) if file.exists() else []
    for name in options.models:
        rows = [row for row in rows if row["model"] != name] + measured(name, cifar(name, options.cifar))
        file.write_text(json.dumps(rows, indent=1) + "\n")
        (options.out / "STEPS.md").write_text(page(rows, machine_note()))
        print(name, "done", flush=True)


if __name__ == "__main__":
    main()
