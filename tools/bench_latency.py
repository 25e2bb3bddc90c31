"""Latency at half the MACs in onnxruntime: dense, fxprune's default plan, and Torch-Pruning.

    python tools/bench_latency.py                          # table into tools/results/LATENCY.md
    python tools/bench_latency.py --models resnet18 mobilenet_v2 --rounds 30

Every model is cut to half its MACs by magnitude (l1, groups ranked globally for fxprune, one ratio for all
layers for Torch-Pruning, found by bisection), with random weights: widths decide the latency, not values.
Torch-Pruning runs twice, with its default settings and with ``round_to=16``.  All ONNX files of one model are
timed in one run, interleaved, on one thread, batch 1, and every file has passed the same parity check
with torch.  Needs the ``peers`` extra.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from pathlib import Path

import torch
import torchvision
from machine_note import machine_note
from torch import nn

import fxprune

MODELS = ("resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "densenet121")
ROOT = Path(__file__).resolve().parent.parent


def _model(name: str) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = torchvision.models.get_model(name).eval()
    return model


def _peer(name: str, x: torch.Tensor, round_to: int | None) -> nn.Module:
    """Torch-Pruning at the uniform ratio that comes closest to half the MACs."""
    import torch_pruning as tp

    low, high = 0.05, 0.8
    best: tuple[float, nn.Module] | None = None
    for _ in range(7):
        ratio = (low + high) / 2
        model = _model(name)
        dense, _params = tp.utils.count_ops_and_params(model, x)
        outputs = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == 1000]
        pruner = tp.pruner.MagnitudePruner(
            *(model, x, tp.importance.GroupMagnitudeImportance(p=1)),
            pruning_ratio=ratio,
            ignored_layers=outputs,
            round_to=round_to,
        )
        pruner.step()
        macs, _params = tp.utils.count_ops_and_params(model, x)
        share = macs / dense
        if best is None or abs(share - 0.5) < abs(best[0] - 0.5):
            best = (share, model)
        low, high = (ratio, high) if share > 0.5 else (low, ratio)
    assert best is not None
    return best[1]


def _slim(name: str, x: torch.Tensor) -> nn.Module:
    trace = fxprune.trace(_model(name), x)
    plan = fxprune.plan(trace, fxprune.Budget(macs=0.5))
    slim = fxprune.slim(trace, plan)
    fxprune.verify(trace, plan, slim)
    return slim


def _row(name: str, rounds: int) -> list[dict[str, object]]:
    x = torch.randn(1, 3, 224, 224)
    models = {"dense": _model(name), "fxprune": _slim(name, x)}
    failed: dict[str, str] = {}
    for label, step in (("Torch-Pruning", None), ("Torch-Pruning round_to=16", 16)):
        try:
            models[label] = _peer(name, x, step)
        except Exception as error:  # noqa: BLE001 - the peer's failures are part of the table
            failed[label] = type(error).__name__
    with tempfile.TemporaryDirectory() as folder:
        files: dict[str, str | Path | nn.Module] = {}
        for label, model in models.items():
            path = Path(folder) / f"{label.replace(' ', '_')}.onnx"
            fxprune.export_onnx(model, x, path)
            files[label] = path
        table = fxprune.benchmark(files, x, repeats=rounds)
    dense = table.rows[0]
    rows: list[dict[str, object]] = [
        {
            "model": name,
            "tool": row.name,
            "macs": (row.macs or 0) / (dense.macs or 1),
            "params": (row.params or 0) / (dense.params or 1),
            "median_ms": row.median_ms,
            "speedup": row.speedup,
            "low": row.speedup_low,
            "high": row.speedup_high,
        }
        for row in table.rows
    ]
    return rows + [{"model": name, "tool": t, "failed": why} for t, why in failed.items()]


def _line(row: dict[str, object]) -> str:
    if "failed" in row:
        return f"| {row['model']} | {row['tool']} | {row['failed']} | | | |"
    return (
        f"| {row['model']} | {row['tool']} | {row['macs']:.2f} | {row['params']:.2f} | {row['median_ms']:.1f} | "
        f"{row['speedup']:.2f} ({row['low']:.2f}..{row['high']:.2f}) |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--out", type=Path, default=ROOT / "tools" / "results")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    head = "| model | tool | MACs kept | params kept | median ms | speed-up (95 % interval) |\n|---|---|---|---|---|---|"
    rows = []
    for name in options.models:
        found = _row(name, options.rounds)
        rows += found
        print("\n".join(_line(r) for r in found), flush=True)
        (options.out / "latency.json").write_text(json.dumps(rows, indent=1))
        (options.out / "LATENCY.md").write_text(
            f"# Latency at half the MACs\n\n`python tools/bench_latency.py` wrote this: onnxruntime, one thread, batch 1, "
            f"median of {options.rounds} interleaved rounds, speed-up paired with the dense model. {machine_note()}.\n\n{head}\n"
            + "\n".join(_line(r) for r in rows)
            + "\n"
        )


if __name__ == "__main__":
    main()
