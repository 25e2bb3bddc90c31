"""Detection, as in SSR's last experiment: a detector is pruned as a classifier is, sparse training and all.

    pip install faster-coco-eval                       # torchmetrics counts with it
    python tools/reproduce/detection.py                # about half an hour of a core; writes DETECTION.md

torchvision's SSD with a small residual backbone finds discs, squares and triangles of any colour on noise, 96 x 96 pixels, one to four of them, drawn
here from seeds: 1,500 pictures to train on, 400 to test.  The trained detector goes to 0.4 of its MACs by several ways with the same number
of epochs: sparse training under SSR, DWGL or group lasso and fine-tuning of what is left, fine-tuning after a one-shot cut, the slim shape from scratch.
Where the control flow of a model depends on its data, as that of a detector's last stage does, the trace is of the kind "recorded".
Ways that have rows are not run again.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD

import fxprune
from fxprune.regularizers import Regularizer
from fxprune.regularizers.registry import make_method
from fxprune.report.sheets import Sheet
from fxprune.support.files import write_text

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine_note import machine_note

HERE = Path(__file__).resolve().parent
ROWS, PAGE = HERE / "detection.json", HERE / "DETECTION.md"
SIDE, SHAPES = 96, ("disc", "square", "triangle")
TRAIN, TEST, BATCH = 1500, 400, 25
DENSE_EPOCHS, SPARSE_EPOCHS, TUNE_EPOCHS = 12, 4, 8
KEPT = 0.4
SEEDS = 2

Row = dict[str, object]
Target = dict[str, Tensor]


# --- pictures --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures float32[3, SIDE, SIDE] in [0, 1], and where what is on them."""

    images: list[Tensor]
    targets: list[Target]

    @staticmethod
    def drawn(count: int, seed: int) -> Pictures:
        """From a seed."""
        pairs = [_picture(np.random.default_rng((seed, k))) for k in range(count)]
        return Pictures([image for image, _ in pairs], [target for _, target in pairs])


def _picture(random: np.random.Generator) -> tuple[Tensor, Target]:
    canvas = random.normal(0.5, 0.12, (SIDE, SIDE, 3))
    rows, columns = np.mgrid[:SIDE, :SIDE]
    boxes: list[list[float]] = []
    labels: list[int] = []
    for _ in range(int(random.integers(1, 5))):
        half, kind = random.uniform(6, 18), int(random.integers(len(SHAPES)))
        x, y = random.uniform(half, SIDE - half, 2)
        if any(abs(x - (a + c) / 2) + abs(y - (b + d) / 2) < half + (c - a) / 2 for a, b, c, d in boxes):
            continue  # hardly any overlap
        right, down = np.abs(columns - x), rows - y
        inside = (
            right**2 + down**2 <= half**2,
            (right <= half) & (np.abs(down) <= half),
            (np.abs(down) <= half) & (right <= (down + half) / 2),
        )[kind]
        colour = random.uniform(0, 1, 3)
        canvas[inside] = np.where(np.abs(colour - 0.5) < 0.2, colour + 0.4, colour) + random.normal(
            0, 0.05, 3
        )
        boxes.append([x - half, y - half, x + half, y + half])
        labels.append(kind + 1)
    image = torch.from_numpy(np.clip(canvas, 0, 1)).permute(2, 0, 1).float().contiguous()
    return image, {"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.tensor(labels)}


# --- the detector ----------------------------------------------------------------------------------------


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(ins, outs, 3, stride, 1, bias=False), nn.BatchNorm2d(outs)
        self.conv2, self.bn2 = nn.Conv2d(outs, outs, 3, 1, 1, bias=False), nn.BatchNorm2d(outs)
        self.shortcut = nn.Sequential(nn.Conv2d(ins, outs, 1, stride, bias=False), nn.BatchNorm2d(outs))

    def forward(self, x: Tensor) -> Tensor:
        """float[n, ins, h, w] to float[n, outs, h / stride, w / stride]."""
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


class Backbone(nn.Module):
    """Feature maps of 12, 6 and 3 pixels a side."""

    def __init__(self, widths: tuple[int, ...] = (24, 48, 96, 128, 128)) -> None:
        super().__init__()
        first, *rest = widths
        self.stem = nn.Sequential(nn.Conv2d(3, first, 3, 2, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU())
        self.blocks = nn.ModuleList(Block(a, b, 2) for a, b in zip(widths, rest, strict=False))
        self.out_channels = widths[2:]

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Feature maps by name."""
        x = self.blocks[0](self.stem(x))
        maps: OrderedDict[str, Tensor] = OrderedDict()
        for k, block in enumerate(list(self.blocks)[1:]):
            x = block(x)
            maps[str(k)] = x
        return maps


def detector(seed: int) -> SSD:
    """torchvision's SSD around the backbone."""
    torch.manual_seed(seed)
    anchors = DefaultBoxGenerator([[2]] * 3, scales=[0.12, 0.25, 0.4, 0.6])
    return SSD(Backbone(), anchors, (SIDE, SIDE), len(SHAPES) + 1, image_mean=[0.5] * 3, image_std=[0.25] * 3)


# --- training and judging --------------------------------------------------------------------------------


def train(
    model: nn.Module,
    data: Pictures,
    epochs: int,
    lr: float,
    seed: int,
    reg: Callable[[torch.optim.Optimizer], Regularizer] | None = None,
) -> Regularizer | None:
    """SGD, a cosine after a short warm-up (constant under a regularizer), mirrored pictures."""
    random = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=5e-4)
    method = None if reg is None else reg(optimizer)
    steps = epochs * (len(data.images) // BATCH)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(data.images), generator=random)
        for batch in order[: len(order) // BATCH * BATCH].split(BATCH):
            flips = torch.rand(len(batch), generator=random) < 0.5
            pairs = [
                _mirrored(data.images[k], data.targets[k], bool(f)) for k, f in zip(batch, flips, strict=True)
            ]
            losses = model([image for image, _ in pairs], [target for _, target in pairs])
            loss = sum(losses.values())
            optimizer.zero_grad()
            (loss if method is None else loss + method.penalty()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            if method is None:
                rates.step()
            else:
                method.step()
    model.eval()
    return method


def _mirrored(image: Tensor, target: Target, flip: bool) -> tuple[Tensor, Target]:
    if not flip:
        return image, target
    a, b, c, d = target["boxes"].unbind(1)
    return image.flip(2), {"boxes": torch.stack([SIDE - c, b, SIDE - a, d], 1), "labels": target["labels"]}


@torch.no_grad()
def precision(model: nn.Module, data: Pictures) -> tuple[float, float]:
    """Mean average precision over overlaps of .5 to .95, and at .5."""
    from torchmetrics.detection import MeanAveragePrecision  # wants a package of its own

    metric = MeanAveragePrecision(backend="faster_coco_eval")
    model.eval()
    for first in range(0, len(data.images), BATCH):
        metric.update(model(data.images[first : first + BATCH]), data.targets[first : first + BATCH])
    found = metric.compute()
    return float(found["map"]), float(found["map_50"])


# --- ways ------------------------------------------------------------------------------------------------

WAYS: Mapping[str, tuple[str, Mapping[str, object]] | None] = {
    "SSR-L2,1 (AULM)": ("ssr", {"norm": "l2,1", "lam": 0.02, "scale": "norm", "period": 10}),
    "DWGL": ("dwgl", {"lam": 0.01, "scale": "norm"}),
    "magnitude, one shot": None,
    "SSR-L2,0 (AULM)": ("ssr", {"norm": "l2,0", "lam": 0.01, "scale": "norm", "period": 10}),
    "group lasso": ("group_lasso", {"lam": 0.01, "scale": "norm"}),
    "from scratch": None,
}
"""Methods as recipes name them."""


def run(way: str, seed: int, dense: SSD, data: Pictures, test: Pictures) -> Row:
    """From the dense detector to the slim one."""
    model, budget, began = copy.deepcopy(dense), fxprune.Budget(macs=KEPT), time.monotonic()
    example = [data.images[0]]
    trace, make = fxprune.trace(model.eval(), (example,)), WAYS[way]
    if make is not None:
        groups = fxprune.couple(trace)

        def method_of(optimizer: torch.optim.Optimizer) -> Regularizer:
            return make_method([make], model, groups, optimizer=optimizer, budget=budget)

        method = train(model, data, SPARSE_EPOCHS, 0.01, seed, method_of)
        assert method is not None
        plan = method.plan(budget)
    else:
        plan = fxprune.plan(trace, budget)
    slim = fxprune.slim(trace, plan)
    proof = fxprune.verify(trace, plan, slim)
    before = precision(slim, test)
    if way == "from scratch":
        slim = fxprune.slim(fxprune.trace(detector(seed + 100).eval(), (example,)), plan)
    train(slim, data, TUNE_EPOCHS + SPARSE_EPOCHS * (make is None), 0.02, seed)
    after = precision(slim, test)
    share = plan.predicted.macs / plan.dense.macs
    return {
        "way": way,
        "seed": seed,
        "macs": share,
        "params": plan.predicted.params / plan.dense.params,
        "kind": trace.kind,
        "pruned": before,
        "after": after,
        "seconds": time.monotonic() - began,
        "proof": str(proof),
    }


def page(rows: Sequence[Row], dense: tuple[float, float]) -> str:
    """The table."""
    cells = []
    for way in WAYS:
        mine = [row for row in rows if row["way"] == way]
        if mine:
            shares = [
                f"{statistics.mean(float(str(row[k])) for row in mine):.3f}" for k in ("macs", "params")
            ]
            cells.append(
                (
                    way,
                    *shares,
                    _spread(mine, "pruned", 1),
                    _spread(mine, "after", 1),
                    _spread(mine, "after", 0),
                )
            )
    sheet = Sheet("", ("way", "MACs>", "params>", "pruned, AP50>", "in the end, AP50>", "AP>"), tuple(cells))
    return "\n".join(
        [
            "# Detection: an SSD pruned as a classifier is",
            "",
            f"`python tools/reproduce/detection.py` wrote this: discs, squares and triangles on noise, {TRAIN} pictures to train on, {TEST} to test. The dense detector, trained for {DENSE_EPOCHS} epochs, has "
            f"AP {100 * dense[0]:.1f} (AP50 {100 * dense[1]:.1f}). Sparse ways have {SPARSE_EPOCHS} + {TUNE_EPOCHS} epochs, the others {SPARSE_EPOCHS + TUNE_EPOCHS}; mean (lowest..highest) of {len({row['seed'] for row in rows})} seeds, in percent. "
            f"Every slim detector was proved equal to the dense one with zeroed channels before it was fine-tuned. {machine_note()}.",
            "",
            sheet.markdown(),
            "",
        ]
    )


def _spread(rows: Sequence[Row], key: str, which: int) -> str:
    values = [100 * float(row[key][which]) for row in rows]  # type: ignore[index]
    return f"{statistics.mean(values):.1f} ({min(values):.1f}..{max(values):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows: list[Row] = json.loads(ROWS.read_text()) if ROWS.exists() else []
    data, test, dense = Pictures.drawn(TRAIN, 0), Pictures.drawn(TEST, 1), detector(0)
    train(dense, data, DENSE_EPOCHS, 0.02, 0)
    best = precision(dense, test)
    print(f"dense: AP {100 * best[0]:.1f}, AP50 {100 * best[1]:.1f}", flush=True)
    for seed, way in product(range(SEEDS), WAYS):
        if any((row["way"], row["seed"]) == (way, seed) for row in rows):
            continue
        rows.append(run(way, seed, dense, data, test))
        ROWS.write_text(json.dumps(rows, indent=1) + "\n")
        write_text(PAGE, page(rows, best))
        print(
            way,
            seed,
            rows[-1]["pruned"],
            rows[-1]["after"],
            f"{float(str(rows[-1]['seconds'])):.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
