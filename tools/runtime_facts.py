"""What a convolution costs in onnxruntime on this machine, by its widths: ``python tools/runtime_facts.py``.

Layers are timed as ``fxprune calibrate`` times them (``fxprune/onnx/calibrate.py``), at more widths.  The facts in
``fxprune/targets.py`` follow from this table, which keeps the last run of each instruction set.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TypedDict

from machine_note import machine_note

from fxprune.onnx.calibrate import LEAST, Layer, layer_seconds
from fxprune.onnx.session import machine

RESULTS = Path(__file__).resolve().parent / "results"

Row = dict[str, object]


class Table(TypedDict):
    """What one machine measured."""

    machine: str
    rounds: int
    rows: list[Row]


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
    rows: list[Row] = []
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
    file = options.out / "runtime_facts.json"
    tables: dict[str, Table] = json.loads(file.read_text()) if file.exists() else {}
    tables[machine().capability] = {"machine": machine_note(), "rounds": options.rounds, "rows": rows}
    file.write_text(json.dumps(tables, indent=1) + "\n")
    (options.out / "RUNTIME.md").write_text(page(tables))


def page(tables: dict[str, Table]) -> str:
    """The machines side by side."""
    lines = [
        "# What layers cost in onnxruntime by their widths",
        "",
        "`python tools/runtime_facts.py` wrote this, each machine's columns in a run of its own: lower quartile of interleaved rounds, CPU "
        "time of one thread, batch 1. Of norms the last column counts elements. – where the machine was too fast, or too noisy, to tell.",
        "",
        *(f"* {name}: {table['machine']}; {table['rounds']} rounds." for name, table in tables.items()),
        "",
        "| kind | channels | of a group | pixels along a side, or rows |"
        + "".join(f" {name}: microseconds | GMAC/s |" for name in tables),
        "|---|---|---|---|" + "---|---|" * len(tables),
    ]
    for rows in zip(*(table["rows"] for table in tables.values()), strict=True):
        shape = " | ".join(str(rows[0][key]) for key in ("kind", "channels", "group", "points"))
        lines.append(f"| {shape} | {' | '.join(map(_cells, rows))} |")
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> str:
    us, macs = float(str(row["us"])), float(str(row["macs"]))
    return f"{us:.1f} | {macs / us / 1e3:.1f}" if us > LEAST else "– | –"


if __name__ == "__main__":
    main()
