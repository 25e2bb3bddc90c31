"""Writes ``RESULTS.md`` from the records of the runs: ``python tools/reproduce/results.py``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.patches import Patch

from fxprune.report.palette import BETWEEN, SLIM
from fxprune.report.sheets import Sheet
from fxprune.report.words import count
from fxprune.support.files import atomic_path, write_text
from fxprune.training.record import Record, read_record

matplotlib.use("Agg")

HERE = Path(__file__).resolve().parent
RECORDS = HERE / "records"
RESULTS = HERE / "RESULTS.md"
PICTURE = HERE / "results.png"
LATENCY = HERE / "latency.json"

NETS = {"resnet20": "ResNet-20", "resnet56": "ResNet-56"}
LABELS = {
    "dwgl": "DWGL",
    "dwgl_reorder": "DWGL, reordered",
    "gal": "GAL",
    "greg1": "GReg-1",
    "group_lasso": "group lasso",
    "group_lasso_constant": "group lasso, constant (SSL)",
    "increg": "IncReg",
    "increg_global": "IncReg, ranked globally",
    "magnitude": "magnitude, one shot",
    "network_slimming": "network slimming",
    "scratch": "from scratch",
    "ssr": "SSR-L2,1 (AULM)",
    "ssr_l20": "SSR-L2,0 (AULM)",
    "ssr_l21": "SSR-L2,1 (AULM)",
    "uniform": "uniform random",
}

# Published figures beside which ours stand: method, accuracy before, after, fewer MACs in percent.
PUBLISHED: Mapping[str, Sequence[tuple[str, float | None, float | None, str]]] = {
    "resnet20": (
        ("Hinge (prunes and factorises)", 92.54, 91.84, "54.5 %"),
        ("SCOP", 92.22, 90.75, "55.7 %"),
        ("SSS", 92.53, 90.85, "54.8 %"),
        ("FPGM", 92.20, 90.44, "54.0 %"),
        ("DWGL (error +0.72)", None, None, '52.06 % "compression"'),
    ),
    "resnet56": (
        ("DepGraph, group sparse learning", 93.53, 93.77, "53.1 %"),
        ("ResRep", 93.71, 93.71, "52.9 %"),
        ("plain L1, good retraining", 93.78, 93.51, "49.7 %"),
        ("GAL-0.6", 93.26, 93.38, "37.6 %"),
        ("GAL-0.8", 93.26, 91.58, "60.2 %"),
        ("PPSM", 93.44, 93.22, "75.6 %"),
        ("TPP", 93.78, 92.35, "72.1 %"),
        ("HRank", 93.26, 90.72, "74.1 %"),
        ("DWGL (error +0.94)", None, None, '75.34 % "compression"'),
    ),
}


Bench = Mapping[str, Any]
"""A ``BenchTable`` as JSON."""


def read_records(folder: Path) -> list[Record]:
    """Every record in a folder."""
    return [read_record(path) for path in sorted(folder.glob("*.json"))]


def read_latencies(path: Path) -> dict[str, Bench]:
    """What ``latency.py`` measured: a benchmark by network; nothing where there is no file."""
    if not path.exists():
        return {}
    found: dict[str, Bench] = json.loads(path.read_text("utf-8"))
    return found


def net_of(record: Record) -> str:
    """Which net a run was about."""
    return record.name.partition("_")[0]


def budget_of(record: Record) -> float:
    """Epochs of the whole run."""
    return sum([*record.epochs.values()])


def reduction(record: Record) -> float:
    """Fewer MACs, in percent."""
    return 100 * (1 - record.slim.macs / record.dense.macs)


def render(records: Sequence[Record], latencies: Mapping[str, Bench]) -> str:
    """The page.

    Args:
        records: Finished runs.
        latencies: All rows of a network, measured side by side, by network.

    Returns:
        Markdown text.
    """
    parts = ["# Results on CIFAR-10", _INTRODUCTION]
    parts += [f"![error increase by method]({PICTURE.name})"] if records else []
    if not records:
        parts.append("There is no record yet.")
    ordered = sorted(records, key=lambda r: (net_of(r), budget_of(r)))
    for (net, epochs), group in groupby(ordered, key=lambda r: (net_of(r), budget_of(r))):
        rows = sorted(group, key=lambda r: (round(reduction(r) / 10), -r.accuracy["finetuned"]))
        parts += [f"## {NETS.get(net, net)}, {epochs:g} epochs in all"]
        if epochs < SHORT:
            parts.append(_SHORT)
        parts.append(_accuracies(rows).markdown())
        bench = latencies.get(net, {"rows": ()})
        parts += [_costs(rows, bench).markdown(), "\n".join([*_measured(rows, bench), _conditions(rows)])]
        if net in PUBLISHED:
            parts += [_published(PUBLISHED[net]).markdown()]
    return "\n\n".join(parts) + "\n"


def draw(records: Sequence[Record], path: Path) -> None:
    """The error increases as bars: a panel for each network, budget of epochs and reduction.

    Args:
        records: Finished runs, at least one.
        path: The file.
    """
    panels: dict[str, list[Record]] = {}
    for r in sorted(records, key=lambda r: (net_of(r), budget_of(r), round(reduction(r) / 10))):
        net = NETS.get(net_of(r), net_of(r))
        panels.setdefault(f"{net}, {int(reduction(r))} % fewer MACs, {budget_of(r):g} epochs", []).append(r)
    heights = [len(rows) + 1.5 for rows in panels.values()]
    figure, axes = plt.subplots(
        len(panels),
        figsize=(7.5, 0.27 * sum(heights) + 0.8),
        layout="constrained",
        height_ratios=heights,
        squeeze=False,
    )
    for panel, (title, rows) in zip(axes.flat, panels.items(), strict=True):
        rows.sort(key=lambda r: -r.accuracy["finetuned"])
        bars = panel.barh(
            [_label(r) for r in rows],
            [100 * (r.accuracy["dense"] - r.accuracy["finetuned"]) for r in rows],
            color=[SLIM if r.epochs["sparse"] else BETWEEN for r in rows],
        )
        panel.bar_label(bars, fmt="%+.2f", padding=3, fontsize=8)
        panel.invert_yaxis()
        panel.margins(x=0.12)
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_title(title, fontsize=9, loc="left")
    axes.flat[-1].set_xlabel("error increase after fine-tuning, points")
    kinds = {"with a sparse phase": SLIM, "pruned at once": BETWEEN}
    axes.flat[0].legend([Patch(color=c) for c in kinds.values()], kinds, frameon=False, fontsize=8)
    where = _once(
        f"{r.machine['cpu']}, {r.machine['capability']}, torch {r.machine['torch']}" for r in records
    )
    figure.supxlabel("; ".join(where), fontsize=6)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130)
    plt.close(figure)


# Published schedules after pruning have at least so many epochs.
SHORT = 40

_SHORT = (
    "**A short schedule**: the longest that the machine named below allowed for all methods alike.  Published figures come "
    "from a hundred epochs and more, so these rows compare how quickly methods recover, not how far."
)

_INTRODUCTION = (
    "Made by `python tools/reproduce/results.py` from the records in `tools/reproduce/records`; the runs themselves "
    "are started by `python tools/reproduce/run.py`.\n\n"
    "Every run had the same budget of epochs: those with a sparse phase spend a part of it there, one-shot baselines "
    "all of it on fine-tuning.  Schedules were fixed in advance, the last checkpoint counts, and the 10,000 test "
    "images were looked at once for each figure.  MACs are multiply-accumulates of convolutions and linear layers for "
    "one image.  *own decision*: MACs that the method's own zeros would have left at the moment when the budget was "
    "spent, in the order it had learned until then; where strengths are steered that is within the sparse phase (see "
    "the notes), otherwise at its end.  The dense weights were trained by others on all training images.  Exceptions: "
    "GAL's settings on ResNet-20 were changed, and a teacher for fine-tuning ResNet-56 was given up, after earlier runs had "
    "been evaluated on the test images; earlier, shorter schedules of all rows had been, too.  "
    "Wall times are of a machine that did other work besides."
)


def _label(record: Record) -> str:
    text = record.name.partition("_")[2].removesuffix("_50").removesuffix("_75")
    return LABELS.get(text, text) + (" (held-out images!)" if record.evaluated_on != "test" else "")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def _accuracies(records: Sequence[Record]) -> Sheet:
    return Sheet(
        "Accuracy, %",
        (
            "method",
            "fewer MACs>",
            "dense>",
            "after sparse phase>",
            "pruned>",
            "fine-tuned>",
            "error increase>",
            "own decision>",
        ),
        tuple(
            (
                _label(r),
                f"{reduction(r):.1f} %",
                *(_percent(r.accuracy.get(moment)) for moment in ("dense", "sparse", "pruned", "finetuned")),
                f"{100 * (r.accuracy['dense'] - r.accuracy['finetuned']):+.2f}",
                "–" if r.decided is None else f"{100 * r.decided:.1f} %",
            )
            for r in records
        ),
    )


def _costs(records: Sequence[Record], bench: Bench) -> Sheet:
    return Sheet(
        "Cost and conditions",
        (
            "method",
            "MACs>",
            "parameters>",
            "latency, ms>",
            "speed-up>",
            "epochs>",
            "lr>",
            "seed>",
            "wall time, min>",
            "method's share of a step>",
        ),
        tuple(_cost_row(r, bench) for r in records),
        footer="latency: onnxruntime, median of one image, dense -> slim; epochs and lr: sparse + fine-tuning",
    )


def _cost_row(r: Record, bench: Bench) -> tuple[str, ...]:
    sparse, finetune = (_section(r.recipe, name).get("lr") for name in ("sparse", "finetune"))
    rates = f"{sparse} + {finetune}" if r.epochs["sparse"] else f"{finetune}"
    overhead = r.method.get("overhead")
    return (
        _label(r),
        f"{count(r.dense.macs)} -> {count(r.slim.macs)}",
        f"{count(r.dense.params)} -> {count(r.slim.params)}",
        *_latency(r, bench),
        f"{r.epochs['sparse']} + {r.epochs['finetune']}",
        rates,
        str(r.recipe.get("seed")),
        f"{sum(r.seconds.get(phase, 0.0) for phase in ('sparse', 'finetune')) / 60:.1f}",
        f"{100 * overhead:.1f} %" if overhead else "–",
    )


def _section(recipe: Mapping[str, object], name: str) -> Mapping[str, object]:
    found = recipe.get(name)
    return found if isinstance(found, Mapping) else {}


def _beside(record: Record, bench: Bench) -> tuple[Bench, Bench] | None:
    """The dense model and the row's, if they were measured beside the other rows; an older file had other MACs."""
    rows = {row["name"]: row for row in bench["rows"]}
    own = rows.get(record.name)
    return (rows["dense"], own) if own is not None and own["macs"] == record.slim.macs else None


def _latency(record: Record, bench: Bench) -> tuple[str, str]:
    """Milliseconds and speed-up (the median of the paired ratios), side by side with the other rows or as the run ended."""
    both = _beside(record, bench)
    if both is not None:
        dense, slim = both
        return (
            f"{dense['median_ms']:.2f} -> {slim['median_ms']:.2f}",
            f"{slim['speedup']:.2f} ({slim['speedup_low']:.2f}..{slim['speedup_high']:.2f})",
        )
    if record.bench is None:
        return "–", "–"
    rows = {row["name"]: row for row in record.bench["rows"]}  # type: ignore[attr-defined]
    dense, slim = rows["dense"], rows["slim"]
    return f"{dense['median_ms']:.2f} -> {slim['median_ms']:.2f}", f"{slim['speedup']:.2f}"


def _measured(records: Sequence[Record], bench: Bench) -> list[str]:
    """Where the latencies come from."""
    apart = [_label(r) for r in records if r.bench is not None and _beside(r, bench) is None]
    lines = []
    if len(apart) < len(records) and bench["rows"]:
        m = bench["machine"]
        lines.append(
            f"- Latency: all rows in one interleaved run of {bench['rounds']} rounds (`tools/reproduce/latency.py`), "
            f"{m['cpu']}, {m['capability']}, {bench['threads']} thread, onnxruntime {m['onnxruntime']}; in brackets the "
            "95 % interval."
        )
    if apart and lines:
        lines.append(f"- Latency of {', '.join(apart)}: measured as the run ended.")
    return lines


def _conditions(records: Sequence[Record]) -> str:
    """Machines, versions and precision, each said once, with its rows where there are several."""
    rows: dict[str, list[str]] = {}
    for r in records:
        where = (
            f"{r.machine['cpu']}, {r.machine['cores']} cores, {r.machine['capability']}; trained on {r.device}; "
            f"torch {r.machine['torch']}, onnxruntime {r.machine['onnxruntime']}, python {r.machine['python']}"
        )
        rows.setdefault(where, []).append(f"{_label(r)} at {reduction(r):.0f} %")
    lines = [where if len(rows) == 1 else f"{where}: {', '.join(names)}" for where, names in rows.items()]
    notes = _once(f"{_label(r)}: {note}" for r in records for note in r.notes)
    masks = [
        f"{_label(r)}: {100 * share:.0f} % of the masks on {kind.removesuffix('_gone')} were zero by themselves"
        for r in records
        for kind, share in r.method.items()
        if kind.endswith("_gone")
    ]
    resumed = [f"{_label(r)} was continued {r.resumed} times" for r in records if r.resumed]
    return "\n".join(f"- {line}." for line in (*lines, *notes, *masks, *resumed))


def _once(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _published(rows: Sequence[tuple[str, float | None, float | None, str]]) -> Sheet:
    return Sheet(
        "Published, for comparison",
        ("method", "fewer MACs>", "dense>", "pruned>", "error increase>"),
        tuple(
            (
                name,
                macs,
                "–" if before is None else f"{before:.2f}",
                "–" if after is None else f"{after:.2f}",
                "–" if before is None or after is None else f"{before - after:+.2f}",
            )
            for name, before, after, macs in rows
        ),
        footer="other dense weights and longer schedules: compare differences, not values",
    )


def main() -> int:
    """Write the page, or say whether it is up to date."""
    parser = argparse.ArgumentParser(description="Writes RESULTS.md from the records of the runs.")
    parser.add_argument("--records", type=Path, default=RECORDS, metavar="FOLDER", help="where records lie")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE", help="the page")
    parser.add_argument("--check", action="store_true", help="only compare; exit code 1 where it differs")
    given = parser.parse_args()
    records = read_records(given.records)
    page = render(records, read_latencies(LATENCY))
    if given.check:
        same = given.out.exists() and given.out.read_text(encoding="utf-8") == page
        print(
            f"{given.out.name} is {'up to date' if same else 'stale: run python tools/reproduce/results.py'}"
        )
        return int(not same)
    write_text(given.out, page)
    if records:
        draw(records, given.out.with_name(PICTURE.name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
