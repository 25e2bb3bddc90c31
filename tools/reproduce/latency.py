"""Measures all rows of a network side by side: ``python tools/reproduce/latency.py [--seconds S]``.

Each run measures its own slim model against the dense one as it ends, beside whatever else the machine does then.
This takes the ONNX files that the runs left and times the dense model and every slim one in turn, in one process, so
that the rows can be compared with one another.  ``results.py`` reads ``latency.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from fxprune.bench.benchmark import benchmark
from fxprune.bench.table import BenchTable
from fxprune.support.files import write_text
from fxprune.training.record import read_record

HERE = Path(__file__).resolve().parent
RECORDS = HERE / "records"
LATENCY = HERE / "latency.json"
RUNS = HERE.parent.parent / "runs" / "reproduce"
SECONDS = 60.0


def models(net: str, runs: Path, records: Path = RECORDS) -> dict[str, Path]:
    """ONNX files by row, the dense model first.

    Args:
        net: Beginning of the rows' names.
        runs: Where the runs are; one is taken if its record is the one that the tables are made of.
        records: Where those are.
    """
    found: dict[str, Path] = {}
    for path in sorted(records.glob(f"{net}_*.json")):
        record, run = read_record(path), runs / path.stem
        own = run / "record.json"
        if own.exists() and read_record(own) == record and (run / "slim.onnx").exists():
            found.setdefault("dense", run / "dense.onnx")
            found[path.stem] = run / "slim.onnx"
    return found


def measure(chosen: Mapping[str, Path], seconds: float, console: Console) -> BenchTable:
    """All of them in turn, one image, one thread."""
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("latency", total=1.0)
        return benchmark(
            chosen,
            image,
            seconds=seconds,
            memory=False,
            progress=lambda done, what: progress.update(task, completed=done, description=what),
        )


def main() -> int:
    """Measure what there is, print it and write it beside the other network's figures."""
    parser = argparse.ArgumentParser(description="Measures all rows of a network side by side.")
    parser.add_argument(
        "--runs", type=Path, default=RUNS, metavar="FOLDER", help="where run.py keeps the runs"
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="S", help="for each network")
    given = parser.parse_args()
    console = Console()
    tables = json.loads(LATENCY.read_text("utf-8")) if LATENCY.exists() else {}
    for net in sorted({path.stem.partition("_")[0] for path in RECORDS.glob("*.json")}):
        chosen = models(net, given.runs)
        if not chosen:
            console.print(f"{net}: no run in {given.runs} belongs to a record", markup=False)
            continue
        table = measure(chosen, given.seconds, console)
        console.print(table)
        tables[net] = json.loads(table.to_json())
    write_text(LATENCY, json.dumps(tables, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
