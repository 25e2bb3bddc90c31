"""Accuracy at equal measured latency: widths planned for time against widths planned for MACs, CIFAR-10 ResNets.

    python tools/reproduce/equal_latency.py --data ../shared/data/cifar10 --weights ../shared/weights

For each net and wish one plan is made for ``latency=wish`` and one for the share of the MACs whose file takes as long,
found by measuring files side by side (one image, one thread, processor time).  Both are recovered on the same 512 images without
labels and then trained by the same steps (SGD, momentum 0.9, lr 0.03 to 0 by a cosine, batch 128, crop and flip, bf16), once for each seed.
Rows go to ``equal_latency.json``, the table to ``EQUAL_LATENCY.md``; what has rows is not run again.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from models import ResNet
from safetensors.torch import load_file
from torch import Tensor, nn

import fxprune
from fxprune.bench.benchmark import benchmark
from fxprune.models.samples import MEAN, STD
from fxprune.training.data.batches import Choices, Look, augmented
from fxprune.training.recipe.schema import Augment

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine_note import machine_note

HERE = Path(__file__).resolve().parent
CLOSE = 0.02
"""Times that differ by less are equal."""

Row = dict[str, object]


@dataclass(frozen=True, eq=False)
class Images:
    """CIFAR-10.

    Attributes:
        train: uint8[50000, 32, 32, 3].
        labels: int64[50000].
        test: uint8[10000, 32, 32, 3].
        test_labels: int64[10000].
    """

    train: Tensor
    labels: Tensor
    test: Tensor
    test_labels: Tensor

    @staticmethod
    def read(folder: Path) -> Images:
        """All files of a folder."""
        parts = [np.load(folder / f"train_{k}.npz") for k in range(5)]
        test = np.load(folder / "test.npz")
        train = [torch.from_numpy(np.concatenate([p[k] for p in parts])) for k in ("images", "labels")]
        return Images(
            train[0],
            train[1].long(),
            torch.from_numpy(test["images"]),
            torch.from_numpy(test["labels"]).long(),
        )


LOOK = Look.of(MEAN, STD, channels_last=True, device=torch.device("cpu"))


@torch.no_grad()
def accuracy(model: nn.Module, images: Images) -> float:
    """On the test images."""
    model.eval()
    right = 0
    for pixels, labels in zip(images.test.split(500), images.test_labels.split(500), strict=True):
        right += int((model(LOOK(pixels)).argmax(1) == labels).sum())
    return right / len(images.test)


def trained(model: nn.Module, images: Images, steps: int, seed: int) -> nn.Module:
    """A copy of a model after some steps."""
    model = copy.deepcopy(model).to(memory_format=torch.channels_last).train()
    random = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), 0.03, momentum=0.9, weight_decay=1e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    how, order = Augment(crop=4, flip=True), torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < 128:
            order = torch.randperm(len(images.labels), generator=random)
        index, order = order[:128], order[128:]
        x = LOOK(augmented(images.train[index], how, Choices.draw(128, how, random)))
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(x)
        loss = nn.functional.cross_entropy(logits.float(), images.labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model


def shares(models: Sequence[nn.Module], folder: Path) -> list[float]:
    """Processor times of models' files, the first one's as 1, measured side by side."""
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    files: dict[str, Path | nn.Module] = {}
    for k, model in enumerate(models):
        files[str(k)] = fxprune.export_onnx(model.eval(), x, folder / f"{k}.onnx").path
    table = benchmark(files, x, repeats=60, memory=False)
    return [1 / float(row.cpu_speedup or row.speedup) for row in table.rows]


def as_long(
    trace: fxprune.Trace, timed: nn.Module, wish: float, folder: Path
) -> tuple[fxprune.Plan, float, float]:
    """The plan for MACs whose file takes as long as a model's; shares of the dense time of that and of it."""
    low, high = 0.02, 1.0
    best: tuple[float, fxprune.Plan, float, float] | None = None
    for _ in range(8):
        middle = (low + high) / 2
        plan = fxprune.plan(trace, fxprune.Budget(macs=middle))
        _, wanted, got = shares([trace.model, timed, fxprune.slim(trace, plan)], folder)
        if best is None or abs(got / wanted - 1) < best[0]:
            best = (abs(got / wanted - 1), plan, wanted, got)
        if best[0] < CLOSE:
            break
        low, high = (middle, high) if got < wanted else (low, middle)
    assert best is not None
    print(f"  latency={wish}: takes {best[2]:.3f}, by MACs {best[3]:.3f}", flush=True)
    return best[1], best[2], best[3]


def measured(name: str, weights: Path, images: Images, wish: float, steps: int, seeds: int) -> Row:
    """One wish of one net."""
    model = ResNet((int(name.removeprefix("resnet")) - 2) // 6)
    model.load_state_dict(load_file(weights / f"cifar10_{name}.safetensors"))
    trace = fxprune.trace(model.eval(), torch.zeros(1, 3, 32, 32))
    timed = fxprune.plan(trace, fxprune.Budget(latency=wish))
    with tempfile.TemporaryDirectory() as folder:
        macs, wanted, got = as_long(trace, fxprune.slim(trace, timed), wish, Path(folder))
    chosen = torch.randperm(len(images.labels), generator=torch.Generator().manual_seed(0))[:512]
    row: Row = {"net": name, "wish": wish, "steps": steps}
    for key, plan, takes in (("latency", timed, wanted), ("macs", macs, got)):
        slim = fxprune.slim(trace, plan)
        fxprune.recover(trace, plan, slim, LOOK(images.train[chosen]).contiguous())
        made: dict[str, object] = {"time": takes, "macs": plan.predicted.macs / plan.dense.macs}
        made["params"], made["recovered"] = plan.predicted.params / plan.dense.params, accuracy(slim, images)
        made["trained"] = [accuracy(trained(slim, images, steps, seed), images) for seed in range(seeds)]
        row[key] = made
        print(f"  {name} {key} {made}", flush=True)
    return row


def page(rows: list[Row]) -> str:
    """The table."""
    lines = [
        "# Accuracy at equal measured latency",
        "",
        "`python tools/reproduce/equal_latency.py` wrote this: CIFAR-10, widths planned for time and for MACs, files that take equally long (one image, one thread), "
        f"recovered on 512 images, then trained alike; accuracies on the 10,000 test images, mean and range over seeds. {machine_note()}.",
        "",
        "| net | wish | planned for | time | MACs | params | recovered | steps | trained |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for key, words in (("latency", "time"), ("macs", "MACs")):
            made = row[key]
            assert isinstance(made, dict)
            runs = [100 * float(v) for v in made["trained"]]
            spread = f"{statistics.mean(runs):.2f} ({min(runs):.2f}..{max(runs):.2f})" if runs else "–"
            cells = [row["net"], row["wish"], words, *(f"{made[k]:.3f}" for k in ("time", "macs", "params"))]
            cells += [f"{100 * made['recovered']:.2f}", row["steps"], spread]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--nets", nargs="*", default=["resnet20", "resnet56"])
    parser.add_argument("--wishes", nargs="*", type=float, default=[0.5, 0.7])
    parser.add_argument("--steps", type=int, default=390)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    file = options.out / "equal_latency.json"
    rows: list[Row] = json.loads(file.read_text()) if file.exists() else []
    images = Images.read(options.data)
    for name in options.nets:
        for wish in options.wishes:
            if any((row["net"], row["wish"], row["steps"]) == (name, wish, options.steps) for row in rows):
                continue
            began = time.monotonic()
            rows.append(measured(name, options.weights, images, wish, options.steps, options.seeds))
            file.write_text(json.dumps(rows, indent=1) + "\n")
            (options.out / "EQUAL_LATENCY.md").write_text(page(rows))
            print(f"{name} {wish} done in {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
