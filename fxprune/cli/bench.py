"""``fxprune bench``."""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.console import Group

from fxprune.cli import options as o
from fxprune.cli.common import show, steps
from fxprune.cli.early import check_inputs, check_there
from fxprune.cli.values import parse_files, parse_names

__all__ = ["EXAMPLES", "bench"]

EXAMPLES = (
    "Examples:\n\n"
    "  fxprune bench dense.onnx slim.onnx --threads 2 --profile\n\n"
    "  fxprune bench before=a.onnx after=b.onnx -i 8x3x224x224 --seconds 20 --json > bench.json\n\n"
    "  fxprune bench slim.onnx --levels all,extended,basic,disabled --providers openvino"
)


def bench(
    files: o.OnnxFiles,
    inputs: o.Inputs = None,
    threads: o.Threads = 1,
    repeats: o.Repeats = 50,
    seconds: o.Seconds = None,
    batch: o.BatchSize = None,
    memory: o.Memory = True,
    levels: o.Levels = "all",
    providers: o.Providers = None,
    limit: o.Limit = 60.0,
    profile: o.Profile = False,
    as_json: o.Json = False,
) -> None:
    """Measure ONNX files against the first of them, interleaved, in onnxruntime."""
    from fxprune.onnx.settings import settings

    named = parse_files(files)
    check_there(*named.values())
    check_inputs(inputs)
    settings(parse_names(levels), parse_names(providers or ""))
    from fxprune.bench.benchmark import benchmark
    from fxprune.bench.profile import profile as operators
    from fxprune.pipeline import onnx_inputs, percent
    from fxprune.report.sheets import operator_sheet

    example = onnx_inputs(next(iter(named.values())), inputs or ())
    with steps().step("benchmark") as ticks:
        table = benchmark(
            named,
            example,
            threads=threads,
            repeats=repeats,
            seconds=seconds,
            batch=batch,
            memory=memory,
            levels=parse_names(levels),
            providers=parse_names(providers or ""),
            limit_s=limit,
            progress=percent(ticks),
        )
    if not profile:
        show(table, table.to_json(), as_json)
        return
    with steps().step("profile"):
        times = operators(named, example, threads=threads)
    data = {**json.loads(table.to_json()), "operators": [asdict(entry) for entry in times]}
    show(Group(table, operator_sheet(times).rich()), data, as_json)
