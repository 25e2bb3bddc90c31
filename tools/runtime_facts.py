"""What a convolution costs in onnxruntime on this machine, by its widths: ``python tools/runtime_facts.py``.

Layers are timed as ``fxprune calibrate`` times them (``fxprune/onnx/calibrate.py``), at more widths.  The facts in
``fxprune/targets.py`` follow from this table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from machine_note import machine_note

from fxprune.onnx.calibrate import Layer, layer_seconds

RESULTS = Path(__file__).resolve().parent / "results"

WIDTHS = (8, 12, 15, 16, 24, 28, 30, 32, 40, 48, 60, 62, 64, 96, 97, 98, 100, 112, 127, 128)
KINDS = {
    "3x3": [Layer("conv", c, c, 3, 28 if c >= 32 else 84) for c in WIDTHS],
    "1x1": [Layer("conv", c, c, 1, 28 if c >= 32 else 84) for c in WIDTHS],
    "depthwise 3x3": [Layer("conv", c, 1, 3, 56) for c in WIDTHS],
    "grouped 3x3": [Layer("conv", 192, g, 3, 28) for g in (2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 192)],
    "matrix": [Layer("gemm", w, points=n) for w in (256, 1024, 2048) for n in (1, 8, 49, 197)],
    # The runtime makes one operator of an addition and a norm, not of a Sum and a norm.
    "norm of a sum, fused": [Layer("Add, norm", w, points=128) for w in (128, 256, 768)],
    "norm of a sum, apart": [Layer("Sum, norm", w, points=128) for w in (128, 256, 768)],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    for kind, layers in KINDS.items():
        for layer, seconds in zip(layers, layer_seconds(layers, options.rounds), strict=True):
            row = {"kind": kind, "channels": layer.width, "group": layer.group, "points": layer.points}
            rows.append({**row, "us": seconds * 1e6, "macs": layer.macs})
            print(
                kind,
                layer.width,
                layer.group,
                layer.points,
                f"{layer.macs / seconds / 1e9:.1f} GMAC/s",
                flush=True,
            )
    (options.out / "runtime_facts.json").write_text(json.dumps(rows, indent=1) + "\n")
    (options.out / "RUNTIME.md").write_text(page(rows, options.rounds))


def page(rows: list[dict[str, object]], rounds: int) -> str:
    """The table."""
    lines = [
        "# What layers cost in onnxruntime by their widths",
        "",
        f"`python tools/runtime_facts.py` wrote this: lower quartile of {rounds} interleaved rounds, CPU time of one thread, "
        f"batch 1. Of norms the last column counts elements. {machine_note()}.",
        "",
        "| kind | channels | of a group | pixels along a side, or rows | microseconds | GMAC/s |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        us, macs = float(str(row["us"])), float(str(row["macs"]))
        lines.append(
            f"| {row['kind']} | {row['channels']} | {row['group']} | {row['points']} | {us:.1f} | {macs / us / 1e3:.1f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
