"""Latency in onnxruntime: what fxprune's plans and files are worth beside the peers'.

    python tools/bench_latency.py                          # table into tools/results/LATENCY.md, some hours of a core
    python tools/bench_latency.py --models resnet18 mobilenet_v2 --rounds 30
    python tools/bench_latency.py --table                  # only the table, from the rows that are there

Every model has random weights of one seed (widths decide the latency, not values) and is cut by magnitude: to half
of its MACs (fxprune's default, and without steps), to half and 0.7 of its measured time, and by Torch-Pruning
to half of the MACs, as it is and with ``round_to=16`` (one ratio for all layers, found by bisection); torch-kirigami is given 90 s
for it, and onnxsim and onnxslim get fxprune's file for half the MACs.  Beside each wish
stands a plan for MACs that takes as long by the latency model.  Dense files are torch's own export and fxprune's.  Files of one model are timed in one run, interleaved: those for half the MACs with the peers', each wish with the dense
file and its twin (what else runs in between empties the caches, which favours small models).  Each of fxprune's has passed the parity check with torch.  Ratios are of processor time on one thread.  Peers need the ``peers`` extra,
and onnxsim and onnxslim beside it.
Models that have a row are not measured again, unless with ``--anew``.  With ``--threads`` and ``--batch`` other than one
there are no peers, and times of several threads are those of the clock.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torchvision
from latency_nets import NETS
from machine_note import machine_note
from other_tools import KIRIGAMI, SIMPLIFIERS, NoAnswerError, by_kirigami, simplified, version_of
from torch import nn

import fxprune
from fxprune import targets
from fxprune.bench.table import BenchRow
from fxprune.coupling.couple import analyse
from fxprune.criteria.score import score
from fxprune.planning.latency import LatencyModel, latency_model
from fxprune.plans import Budget, Plan
from fxprune.resizing.resolve import keep_mask

MODELS = (
    *(
        "resnet18",
        "resnet50",
        "vgg16_bn",
        "mobilenet_v2",
        "mobilenet_v3_large",
        "efficientnet_b0",
        "densenet121",
    ),
    *("regnet_y_400mf", "shufflenet_v2_x1_0", "googlenet", "convnext_tiny", "vit_b_16", "swin_t"),
    *NETS,
)
RESULTS = Path(__file__).resolve().parent / "results"
WISHES = (0.5, 0.7)
TORCH, DENSE, DEFAULT, FREE = "torch's dense file", "dense", "half the MACs", "half the MACs, align=1"
PEER, ROUNDED = "Torch-Pruning", "Torch-Pruning round_to=16"

Row = dict[str, object]


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name in NETS:
        return NETS[name][0]().eval()
    options = {"init_weights": True, "aux_logits": False} if name == "googlenet" else {}
    model: nn.Module = torchvision.models.get_model(name, **options).eval()
    return model


def by_peer(name: str, x: torch.Tensor, round_to: int | None, seconds: float) -> nn.Module:
    """Torch-Pruning at the uniform ratio that comes closest to half the MACs."""
    import torch_pruning as tp

    low, high, until = 0.05, 0.8, time.monotonic() + seconds
    best: tuple[float, nn.Module] | None = None
    for _ in range(7):
        if time.monotonic() > until:
            raise TimeoutError
        ratio = (low + high) / 2
        model = made(name)
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


def importance(trace: fxprune.Trace, plan: Plan) -> float:
    """Share of the l1 scores of units that may go that a plan keeps."""
    scores = score(trace, "l1").units
    scored = ~np.isnan(scores)
    return float(scores[scored & keep_mask(analyse(trace), plan)].sum() / scores[scored].sum())


def as_long(trace: fxprune.Trace, plan: Plan, model: LatencyModel) -> Plan:
    """The plan for a share of the MACs that takes as long as another plan, by the latency model."""

    def time_of(made: Plan) -> float:
        return model.milliseconds(keep_mask(analyse(trace), made))

    low, high, wanted = 0.02, 1.0, time_of(plan)
    best = plan
    for _ in range(9):
        middle = (low + high) / 2
        made = fxprune.plan(trace, Budget(macs=middle))
        if time_of(made) <= wanted:
            low, best = middle, made
        else:
            high = middle
    return best


def measured(
    name: str, rounds: int, seconds: float, threads: int, batch: int, *, with_peers: bool
) -> list[Row]:
    """Half the MACs, and what the peers make of it, in one run with the dense files."""
    trace = traced(name)
    plans = {
        DEFAULT: fxprune.plan(trace, Budget(macs=0.5)),
        FREE: fxprune.plan(trace, Budget(macs=0.5), align=1),
    }
    failed: dict[str, str] = {}
    peers: dict[str, nn.Module] = {}
    for label, step in ((PEER, None), (ROUNDED, 16)) if with_peers else ():
        try:
            peers[label] = by_peer(name, trace.args[0], step, seconds)  # type: ignore[arg-type]
        except Exception as error:  # noqa: BLE001 - the peer's failures are part of the table
            failed[label] = type(error).__name__
    if with_peers:
        try:
            peers[KIRIGAMI] = by_kirigami(made, name, trace.args[0])  # type: ignore[arg-type]
        except NoAnswerError as error:
            failed[KIRIGAMI] = str(error)
    rows = in_one_run(
        trace, plans, peers, rounds, threads, batch, simplifiers=SIMPLIFIERS if with_peers else ()
    )
    rows += [{"tool": tool, "failed": why} for tool, why in failed.items()]
    for row in rows:
        row.update({"version": v} if (v := version_of(_package(str(row["tool"])))) else {})
    return [{"model": name, "threads": threads, "batch": batch, **row} for row in rows]


def wished(name: str, rounds: int, threads: int, batch: int) -> list[Row]:
    """Budgets of time, each in a run of its own with the dense file and the plan for MACs that takes as long."""
    trace, target = traced(name), f"onnxruntime-cpu?threads={threads}&batch={batch}"
    model = latency_model(analyse(trace), targets.get(target), batch=batch)
    rows: list[Row] = []
    for wish in WISHES:
        timed = fxprune.plan(trace, Budget(latency=wish), target=target)
        plans = {f"latency={wish}": timed, f"MACs for {wish}": as_long(trace, timed, model)}
        rows += [r for r in in_one_run(trace, plans, {}, rounds, threads, batch) if r["tool"] in plans]
    return [{"model": name, "threads": threads, "batch": batch, **row} for row in rows]


def traced(name: str) -> fxprune.Trace:
    return fxprune.trace(made(name), NETS[name][1]() if name in NETS else torch.randn(1, 3, 224, 224))


def in_one_run(
    trace: fxprune.Trace,
    plans: Mapping[str, Plan],
    peers: Mapping[str, nn.Module],
    rounds: int,
    threads: int,
    batch: int,
    *,
    simplifiers: Sequence[str] = (),
) -> list[Row]:
    """Files of the dense model, of plans and of peers' models, interleaved; with peers torch's own dense file, too."""
    failed: list[Row] = []
    x = trace.args[0]
    models = {DENSE: trace.model, **{label: fxprune.slim(trace, plan) for label, plan in plans.items()}}
    facts: dict[str, Row] = {
        label: {
            "macs": plan.predicted.macs / plan.dense.macs,
            "importance": importance(trace, plan),
            "notes": list(plan.notes),
        }
        for label, plan in plans.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        if DEFAULT in plans:
            files[TORCH] = Path(folder) / "torch.onnx"
            torch.onnx.export(trace.model, (x,), str(files[TORCH]), dynamo=True, verbose=False)
        for number, (label, model) in enumerate((models | dict(peers)).items()):
            # Peers' models are written as torch writes them: our passes are ours.
            passes: list[str] | None = [] if label in peers else None
            report = fxprune.export_onnx(model, x, Path(folder) / f"{number}.onnx", passes=passes)  # type: ignore[arg-type]
            files[label] = report.path
            facts.setdefault(label, {})["passes"] = dict(report.passes)
        for tool in simplifiers:
            try:
                files[f"{DEFAULT}, {tool}"] = simplified(Path(files[DEFAULT]), tool)
            except Exception as error:  # noqa: BLE001 - the peer's failures are part of the table
                failed.append({"tool": f"{DEFAULT}, {tool}", "failed": type(error).__name__})
        table = fxprune.benchmark(
            files,
            x,  # type: ignore[arg-type]
            repeats=rounds,
            memory=False,
            threads=threads,
            batch=batch if batch > 1 else None,
        )
    for label in peers:
        facts[label]["macs"] = (table[label].macs or 0) / (table[TORCH].macs or 1)
    return [{**row_of(row, table[DENSE]), **facts.get(row.name, {})} for row in table.rows] + failed


def _package(tool: str) -> str:
    """Whose tool made a row; empty for fxprune's own."""
    if tool.startswith(PEER):
        return "torch-pruning"
    return next((name for name in (KIRIGAMI, *SIMPLIFIERS) if tool.endswith(name)), "")


def row_of(row: BenchRow, base: BenchRow) -> Row:
    """Ratios to the first file and to fxprune's dense one: of processor time where one thread ran."""
    times: tuple[float | None, ...] = (
        row.median_ms,
        base.median_ms,
        row.speedup,
        row.speedup_low,
        row.speedup_high,
    )
    if row.cpu_ms is not None:
        times = (row.cpu_ms, base.cpu_ms, row.cpu_speedup, row.cpu_speedup_low, row.cpu_speedup_high)
    mine, dense, ratio, low, high = (float(str(t)) for t in times)
    return {
        "tool": row.name,
        "ms": mine,
        "over_torch": ratio,
        "low": low,
        "high": high,
        "of_dense": dense / mine,
        "wall_over_torch": row.speedup,
    }


def page(rows: list[Row], rounds: int) -> str:
    """The tables."""
    by: dict[tuple[object, object], dict[str, dict[str, Row]]] = {}
    for row in rows:
        way = row["threads"], row["batch"]
        by.setdefault(way, {}).setdefault(str(row["model"]), {})[str(row["tool"])] = row
    lines = [
        "# Latency in onnxruntime",
        "",
        f"`python tools/bench_latency.py` wrote this: 224 x 224 (the last three: 128 tokens, 128 x 128, 256 x 256), medians of {rounds} "
        f"interleaved rounds with paired ratios, of processor time where one thread runs. {machine_note()}.",
        "",
        "Cells, one thread and batch 1: times as fast as torch's own dense file · efficiency (that times the MACs left). A star: what fxprune makes faster "
        "in the file (narrow groups, Gemm, padding) is in it. Errors of Torch-Pruning are of this tool's plain call of it; attention may "
        "want options that it is not given here. A dash: not measured.",
        "",
        "onnxsim, onnxslim: times as fast as fxprune's file for half the MACs once they have been over it. torch-kirigami is asked for 0.7 of the "
        f"channels of every layer, and stopped after 90 s. {_versions(rows)}",
        "",
        f"| model | dense file | half the MACs | the same, align=1 | Torch-Pruning | its round_to=16 | {KIRIGAMI} | {' | '.join(SIMPLIFIERS)} |",
        f"|---|---|---|---|---|---|---|{'---|' * len(SIMPLIFIERS)}",
    ]
    for name, tools in by.get((1, 1), {}).items():
        cells = [_plain(tools.get(DENSE))]
        cells += [_cell(tools.get(t)) for t in (DEFAULT, FREE, PEER, ROUNDED, KIRIGAMI)]
        cells += [_beside(tools.get(f"{DEFAULT}, {t}"), tools.get(DEFAULT)) for t in SIMPLIFIERS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for (threads, batch), models in sorted(by.items(), key=str):
        lines += ["", f"## Budgets of time, threads: {threads}, batch: {batch}", "", *_wishes(models)]
    return "\n".join(lines) + "\n"


def _wishes(models: Mapping[str, Mapping[str, Row]]) -> list[str]:
    """How wishes were met, and what is kept beside a plan for MACs that takes as long."""
    columns = [
        f"{w}: {what}"
        for w in WISHES
        for what in ("time", "MACs", "importance", "by MACs: time", "importance")
    ]
    lines = [
        "What is left of the time of fxprune's own dense file, measured after the plan in a run of its own with it; of the MACs; of the l1 importance. Beside it the plan for MACs that "
        "takes as long by the latency model, measured as well.",
        "",
        f"| model | half the MACs: time | {' | '.join(columns)} |",
        f"|---|---{'|---' * len(columns)}|",
    ]
    met, total = 0, 0
    for name, tools in models.items():
        cells = [_share(tools.get(DEFAULT, {}), "time")]
        for wish in WISHES:
            row, other = tools.get(f"latency={wish}", {}), tools.get(f"MACs for {wish}", {})
            cells += [_share(row, what) for what in ("time", "macs", "importance")]
            cells += [_share(other, what) for what in ("time", "importance")]
            if "of_dense" in row:
                total += 1
                met += abs(1 / float(str(row["of_dense"])) / wish - 1) <= 0.05
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, "", f"{met} of {total} wishes met within 5 %."]


def _share(row: Mapping[str, object], what: str) -> str:
    value = 1 / float(str(row["of_dense"])) if what == "time" and "of_dense" in row else row.get(what)
    return "–" if value is None else f"{float(str(value)):.3f}"


def _plain(row: Row | None) -> str:
    if row is None:
        return "–"
    return f"{float(str(row['over_torch'])):.2f}{_star(row)}"


def _cell(row: Row | None) -> str:
    if row is None or "failed" in row:
        return "–" if row is None else str(row["failed"])
    speed = float(str(row["over_torch"]))
    return f"{speed:.2f} · {speed * float(str(row['macs'])):.2f}{_star(row)}"


def _beside(row: Row | None, base: Row | None) -> str:
    """Times as fast as another file of the same run."""
    if row is None or base is None or "failed" in row:
        return "–" if row is None or base is None else str(row["failed"])
    return f"{float(str(base['ms'])) / float(str(row['ms'])):.2f}"


def _versions(rows: Sequence[Row]) -> str:
    """Of the other tools when they were measured; of rows that do not say, what is installed."""
    said: dict[str, set[str]] = {}
    for row in rows:
        if package := _package(str(row["tool"])):
            said.setdefault(package, set()).add(str(row.get("version", version_of(package))))
    return ", ".join(f"{package} {' and '.join(sorted(found))}" for package, found in said.items()) + "."


def _star(row: Row) -> str:
    passes = row.get("passes")
    return "*" if isinstance(passes, dict) and set(passes) - {"pooling"} else ""


def _key(row: Row) -> tuple[object, ...]:
    return tuple(row[k] for k in ("model", "threads", "batch", "tool"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument(
        "--seconds", type=float, default=600.0, help="most that a peer may take for one model"
    )
    parser.add_argument("--what", nargs="*", default=["halves", "wishes"], help="halves, wishes")
    parser.add_argument("--no-peers", action="store_true", help="Torch-Pruning does not finish on Swin")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--anew", action="store_true", help="measure models that have rows again")
    parser.add_argument("--table", action="store_true", help="only write the table")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "latency.json"
    rows: list[Row] = json.loads(file.read_text()) if file.exists() else []
    way = options.threads, options.batch
    with_peers = way == (1, 1) and not options.no_peers
    for name in () if options.table else options.models:
        tools = {row["tool"] for row in rows if (row["model"], row["threads"], row["batch"]) == (name, *way)}
        new: list[Row] = []
        if "halves" in options.what and (options.anew or DEFAULT not in tools):
            new += measured(name, options.rounds, options.seconds, *way, with_peers=with_peers)
        if "wishes" in options.what and (options.anew or f"latency={WISHES[0]}" not in tools):
            new += wished(name, options.rounds, *way)
        keys = {_key(row) for row in new}
        rows = [row for row in rows if _key(row) not in keys] + new
        file.write_text(json.dumps(rows, indent=1) + "\n")
        (options.out / "LATENCY.md").write_text(page(rows, options.rounds))
        print(name, "done", flush=True)
    (options.out / "LATENCY.md").write_text(page(rows, options.rounds))


if __name__ == "__main__":
    main()
