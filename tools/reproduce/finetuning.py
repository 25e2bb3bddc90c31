"""How long, and how, to fine-tune: ``python tools/reproduce/finetuning.py`` writes ``FINETUNING.md``.

ResNet-20 on CIFAR-10, pruned by magnitude to 47.5 % of its MACs, is fine-tuned in many ways by ``fxprune train``: where it starts (as sliced,
with new statistics of batch norm, recovered, with widths by sensitivity and recovered), learning rate, length, distillation, a running average, batch size, optimizer, precision.
Choices are made on the first half of the test images; the second half is reported beside it and decides nothing.
A line goes to ``finetuning.jsonl`` for each run when it is there, so the command may be stopped and repeated at will, and several may share
the work (``--part 0/2``).
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot as plt
from torch import nn

import fxprune
from fxprune.models.loading import load_model
from fxprune.models.samples import MEAN, STD
from fxprune.report.palette import BETWEEN, DENSE, LINE, SLIM
from fxprune.report.sheets import Sheet
from fxprune.support.files import atomic_path, write_text
from fxprune.training.data.batches import Look
from fxprune.training.data.sources import open_data
from fxprune.training.recipe.file import read_recipe
from fxprune.training.recipe.schema import NpzData
from fxprune.training.run import train

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine_note import machine_note

matplotlib.use("Agg")

HERE = Path(__file__).resolve().parent
RECIPE = HERE / "recipes" / "resnet20_magnitude.yaml"
ROWS, PAGE, PICTURE = HERE / "finetuning.jsonl", HERE / "FINETUNING.md", HERE / "finetuning.png"
PACE = HERE / "finetuning_pace.json"
PACED = 15
"""Steps that are timed."""

STEPS = 390
"""Of an epoch, in batches of 128."""

STARTS = {
    "sliced": (),
    "statistics": ("finetune.recalibrate=4",),
    "recovered": ("finetune.recover=512",),
    "planned by sensitivity, recovered": (
        "method=none",
        "plan.criterion=sensitivity",
        "finetune.recover=512",
    ),
}
LENGTHS = {"100 steps": 100 / STEPS, "1 epoch": 1, "3 epochs": 3, "10 epochs": 10}

Row = dict[str, object]


@dataclass(frozen=True)
class Arm:
    """One way to fine-tune.

    Attributes:
        start: Of ``STARTS``.
        length: Of ``LENGTHS``.
        lr: Highest learning rate.
        extra: What else differs, for the table.
        changes: The same for the recipe.
        seeds: How many runs.
    """

    start: str
    length: str
    lr: float
    extra: str = ""
    changes: tuple[str, ...] = ()
    seeds: int = 3

    @property
    def key(self) -> str:
        """Unique, for files."""
        return f"{self.start}, {self.length}, lr {self.lr:g}{', ' + self.extra if self.extra else ''}"

    def asked(self, seed: int) -> list[str]:
        """The recipe's changes."""
        return [
            *("export=false", "bench=false", f"seed={seed}", "epochs=null", "sparse.epochs=0"),
            *(f"finetune.epochs={LENGTHS[self.length]}", f"finetune.lr={self.lr}"),
            *STARTS[self.start],
            *self.changes,
        ]


def arms() -> list[Arm]:
    """All of them, what is worth most first."""
    grid = {"100 steps": (0.005, 0.02, 0.05), "1 epoch": (0.01, 0.03, 0.1), "3 epochs": (0.02, 0.05, 0.1)}
    # A layer that is trained goes by the statistics of its batch: new running ones change nothing but what they are at the end.
    made = [Arm("statistics", "100 steps", 0.005)]
    made += [
        Arm(start, length, lr)
        for length, rates in grid.items()
        for lr in rates
        for start in ("sliced", "recovered")
    ]
    rates = {"100 steps": 0.02, "1 epoch": 0.03, "3 epochs": 0.05}
    made += [Arm("planned by sensitivity, recovered", length, lr) for length, lr in rates.items()]
    ways: Mapping[str, tuple[str, ...]] = {
        "distilled .5": ("finetune.distill={weight: 0.5, temperature: 4}",),
        "distilled .9": ("finetune.distill={weight: 0.9, temperature: 4}",),
        "average .99": ("finetune.ema=0.99",),
        "average .998": ("finetune.ema=0.998",),
        "weight decay 1e-4": ("finetune.weight_decay=1e-4",),
        "no warm-up": ("finetune.warmup=0",),
        "smoothing .1": ("finetune.label_smoothing=0.1",),
        "batch 64": ("batch=64",),
        "batch 256": ("batch=256",),
        "float32": ("mixed_precision=no",),
        "not channels last": ("channels_last=false",),
    }
    made += [Arm("recovered", "1 epoch", 0.03, words, changes) for words, changes in ways.items()]
    adamw = ("finetune.optimizer=adamw", "finetune.weight_decay=0.01")
    made += [Arm("recovered", "1 epoch", 0.002, "AdamW", adamw)]
    made += [
        Arm("recovered", "3 epochs", 0.05, words, ways[words]) for words in ("distilled .9", "average .998")
    ]
    made += [Arm(start, "10 epochs", 0.05, seeds=1) for start in ("recovered", "sliced")]
    made += [Arm("recovered", "10 epochs", 0.1, seeds=1)]
    return made


@dataclass(frozen=True, eq=False)
class Judge:
    """The test images in two halves."""

    images: torch.Tensor
    labels: torch.Tensor

    @torch.no_grad()
    def halves(self, model: nn.Module) -> tuple[float, float]:
        """Accuracy on the first half and on the second."""
        model.eval()
        right = torch.cat([model(part).argmax(1) for part in self.images.split(500)]) == self.labels
        first, second = right.double().chunk(2)
        return float(first.mean()), float(second.mean())


def judge() -> Judge:
    """All test images, as the recipe has them."""
    data = open_data(read_recipe(RECIPE))
    look = Look.of(MEAN, STD, channels_last=True, device=torch.device("cpu"))
    every = torch.arange(len(data.test.labels))
    return Judge(look(data.test.take(every, None)), data.test.labels)


def few(folder: Path) -> Path:
    """Some test images: a run has to look at some, and what counts is looked at here."""
    data = read_recipe(RECIPE).recipe.data
    assert isinstance(data, NpzData)
    with np.load(data.test) as every:
        path = folder / "few.npz"
        np.savez(path, images=every["images"][:200], labels=every["labels"][:200])
    return path


def run(arm: Arm, seed: int, by: Judge, out: Path) -> Row:
    """One run, from the dense weights."""
    asked = [*arm.asked(seed), f"data.test={few(out)}"]
    record = train(RECIPE, out=out / "run", changes=asked)
    slim = fxprune.load(
        load_model(f"{HERE / 'models.py'}:resnet20").model,
        out / "run" / "slim.safetensors",
        torch.zeros(1, 3, 32, 32),
    )
    chosen, reported = by.halves(slim)
    steps = round(record.epochs["finetune"] * STEPS * 128 / record.recipe["batch"])  # type: ignore[operator]
    return {
        "arm": arm.key,
        "seed": seed,
        "chosen": chosen,
        "reported": reported,
        "seconds": record.seconds["finetune"],
        "steps": steps,
        "device": record.device,
        "machine": machine_note(),
    }


# --- pace --------------------------------------------------------------------------------------------------


def pace() -> list[Row]:
    """Processor time of a step in several precisions and layouts, of widths as they come and on steps, and compiled."""
    model = load_model(f"{HERE / 'models.py'}:resnet20").model.eval()
    trace = fxprune.trace(model, torch.zeros(2, 3, 32, 32))
    nets = {
        "dense": model,
        "slim": fxprune.slim(trace, fxprune.plan(trace, fxprune.Budget(macs=0.475), align=1)),
        "slim, widths on steps": fxprune.slim(trace, fxprune.plan(trace, fxprune.Budget(macs=0.475))),
    }
    rows: list[Row] = []
    for name, net in nets.items():
        for bf16, last in product((False, True), (False, True)):
            rows.append(
                {
                    "net": name,
                    "bf16": bf16,
                    "channels last": last,
                    "compiled": False,
                    "ms": _paced(net, bf16, last),
                }
            )
    began = time.monotonic()
    made = _paced(nets["slim"], bf16=True, last=True, compiled=True)
    compiling = time.monotonic() - began - 1e-3 * made * PACED
    rows.append(
        {
            "net": "slim",
            "bf16": True,
            "channels last": True,
            "compiled": True,
            "ms": made,
            "compiling": compiling,
        }
    )
    return [{**row, "machine": machine_note()} for row in rows]


def _paced(net: nn.Module, bf16: bool, last: bool, *, compiled: bool = False) -> float:
    """Milliseconds of processor time of a training step of 128 images, the median of some."""
    form = torch.channels_last if last else torch.contiguous_format
    net = copy.deepcopy(net).train().to(memory_format=form)
    x = torch.randn(128, 3, 32, 32).contiguous(memory_format=form)
    y = torch.randint(10, (128,))
    optimizer = torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9)
    called = torch.compile(net) if compiled else net
    times = []
    for _ in range(PACED):
        began = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = called(x)
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(logits.float(), y).backward()
        optimizer.step()
        times.append(time.process_time() - began)
    return 1e3 * statistics.median(times)


def pace_table(rows: Sequence[Row]) -> str:
    """A line for each net and way."""
    cells = [
        (
            *(str(row["net"]), "bf16" if row["bf16"] else "float32"),
            *("yes" if row["channels last"] else "", "yes" if row["compiled"] else ""),
            f"{float(str(row['ms'])):.0f}",
        )
        for row in rows
    ]
    words = (
        f"compiling took {float(str(rows[-1]['compiling'])):.0f} s (`torch.compile`); {rows[0]['machine']}"
    )
    return Sheet(
        "", ("net", "precision", "channels last", "compiled", "ms a step>"), tuple(cells), footer=words
    ).markdown()


# --- the page --------------------------------------------------------------------------------------------


def page(rows: Sequence[Row]) -> str:
    """The tables."""
    by = _by_arm(rows)
    notes = sorted({str(row["machine"]).partition(", load average")[0] for row in rows})
    lines = [
        "# How long to fine-tune, and how",
        "",
        "`python tools/reproduce/finetuning.py` wrote this: ResNet-20 on CIFAR-10 (91.73 %), 52.5 % fewer MACs by magnitude, SGD with momentum .9, cosine to 0, "
        "a tenth of an epoch of warm-up, weight decay 5e-4, batch 128, crop and flip, bf16 and channels last, unless a row says otherwise. "
        "Accuracies in percent, mean (lowest..highest) over seeds, on the first half of the test images, by which choices were made, "
        f"and on the second. Seconds are of one thread of a busy machine. {'; '.join(notes)}.",
    ]
    if _several_lengths(rows):
        lines += ["", "![accuracy by length and start](finetuning.png)"]
    for length in LENGTHS:
        table = [(arm, by[arm.key]) for arm in arms() if arm.length == length and arm.key in by]
        if not table:
            continue
        sheet = Sheet(
            "",
            ("start", "lr>", "else", "seeds>", "first half>", "second half>", "s>", "ms a step>"),
            tuple(_cells(arm, found) for arm, found in table),
        )
        lines += ["", f"## {length}", "", sheet.markdown()]
    if PACE.exists():
        paced = pace_table(json.loads(PACE.read_text()))
        lines += [
            "",
            "## A step",
            "",
            "`--pace`: processor time of a training step of 128 images on one thread, medians.",
            "",
            paced,
        ]
    return "\n".join(lines) + "\n"


def _several_lengths(rows: Sequence[Row]) -> bool:
    """There is something to draw."""
    return len({arm.length for arm in arms() if arm.key in _by_arm(rows)}) > 1


def _by_arm(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(str(row["arm"]), []).append(row)
    return found


def _cells(arm: Arm, found: Sequence[Row]) -> tuple[str, ...]:
    seconds = [float(str(row["seconds"])) for row in found]
    pace = statistics.median(s / int(str(row["steps"])) for s, row in zip(seconds, found, strict=True))
    return (
        *(arm.start, f"{arm.lr:g}", arm.extra, str(len(found))),
        *(_spread(found, half) for half in ("chosen", "reported")),
        *(f"{statistics.median(seconds):.0f}", f"{1e3 * pace:.0f}"),
    )


def _spread(found: Sequence[Row], half: str) -> str:
    values = [100 * float(str(row[half])) for row in found]
    return f"{statistics.mean(values):.2f} ({min(values):.2f}..{max(values):.2f})"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Accuracy of each start at its best rate, by length."""
    by = _by_arm(rows)
    figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for start, colour in zip(STARTS, (LINE, DENSE, BETWEEN, SLIM), strict=True):
        points: list[tuple[float, list[float]]] = []
        for length, epochs in LENGTHS.items():
            plain = [a for a in arms() if (a.start, a.length, a.extra) == (start, length, "") and a.key in by]
            if plain:
                runs = [[100 * float(str(row["chosen"])) for row in by[a.key]] for a in plain]
                points.append((epochs * STEPS, max(runs, key=statistics.mean)))
        if points:
            means = [statistics.mean(values) for _, values in points]
            off = [
                [m - min(v) for m, (_, v) in zip(means, points, strict=True)],
                [max(v) - m for m, (_, v) in zip(means, points, strict=True)],
            ]
            axes.errorbar(
                [x for x, _ in points], means, off, color=colour, marker="o", capsize=3, label=start
            )
    axes.set_xscale("log")
    axes.set_xlabel("steps of 128 images")
    axes.set_ylabel("accuracy, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130)
    plt.close(figure)


def read() -> list[Row]:
    """Runs that are there."""
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", default="0/1", metavar="K/N", help="every N-th run, from the K-th")
    parser.add_argument("--only", default="", metavar="WORDS", help="arms whose name holds this")
    parser.add_argument("--pace", action="store_true", help="measure steps")
    parser.add_argument("--page", action="store_true", help="only write the page")
    options = parser.parse_args()
    torch.set_num_threads(1)
    part, parts = map(int, options.part.split("/"))
    work = [(arm, seed) for arm in arms() for seed in range(arm.seeds) if options.only in arm.key]
    by = None if options.page or options.pace else judge()
    for arm, seed in work[part::parts] if by is not None else ():
        assert by is not None
        if any((row["arm"], row["seed"]) == (arm.key, seed) for row in read()):
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            row = run(arm, seed, by, Path(folder))
        with ROWS.open("a") as file:  # one write, so that several processes may share it
            file.write(json.dumps(row) + "\n")
        print(
            f"{arm.key}, seed {seed}: {100 * float(str(row['chosen'])):.2f} % ({time.monotonic() - began:.0f} s)",
            flush=True,
        )
    if options.pace:
        PACE.write_text(json.dumps(pace(), indent=1) + "\n")
    rows = read()
    if rows:
        if _several_lengths(rows):
            draw(rows, PICTURE)
        write_text(PAGE, page(rows))


if __name__ == "__main__":
    main()
