"""The demo: a small residual network on real handwritten digits, from training to a faster ONNX file.

Data: scikit-learn's 1,797 scanned digits of 8x8 pixels, enlarged to 16x16, split once into 1,347
for training and 450 for testing, the same share of every digit in both.  The network has three
stages of residual blocks; the blocks of a stage write into one stream, so its channels can only
go together with those of every block and of the projection shortcut at its start.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Group, RenderableType
from torch import nn

from fxprune.onnx.session import OnnxModel
from fxprune.pipeline import Result, compress
from fxprune.plans import Budget
from fxprune.report.plots import plot_demo
from fxprune.report.sheets import Sheet
from fxprune.report.steps import SILENT, Ticks, Watcher
from fxprune.report.words import count, share
from fxprune.support.delivery import Asked, check_folder, make_folder, refuse_other
from fxprune.support.extras import need
from fxprune.support.files import write_text

__all__ = ["DemoResult", "Digits", "DigitsNet", "accuracy", "demo_view", "run_demo", "train"]

SIDE = 16
WIDTHS = (48, 96, 192)
TEST_SHARE = 0.25
BATCH = 64
EPOCHS = 10
FINETUNE_EPOCHS = 6
LEARNING_RATE = 0.05
KEEP_MACS = 0.45
BENCH_SECONDS = 5.0
CALIBRATION = 512  # images, without labels
STREAM_AXES = 12  # a layer alone has six: its weight, its batch norm and the next weight
_TITLE = "fxprune demo: handwritten digits"

Ticker = Callable[[int, int, float], None]
"""Called after each step with steps done, steps in all and the loss."""


class DigitsNet(nn.Module):
    """A residual network: a stem, three stages of two blocks, a linear head.

    Args:
        widths: Channels of each stage; each stage after the first halves the resolution and
            starts with a projection shortcut.

    Example:
        >>> DigitsNet((8, 16, 32))(torch.zeros(2, 1, 16, 16)).shape
        torch.Size([2, 10])
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        ins = (widths[0], *widths[:-1])
        self.stages = nn.Sequential(
            *(nn.Sequential(_Block(i, o, 1 if i == o else 2), _Block(o, o, 1)) for i, o in zip(ins, widths))
        )
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits float32[n, 10] of images float32[n, 1, side, side]."""
        logits: torch.Tensor = self.head(self.stages(self.stem(images)).mean((2, 3)))
        return logits


class _Block(nn.Module):
    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(ins, outs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outs)
        self.conv2 = nn.Conv2d(outs, outs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outs)
        projection = nn.Sequential(nn.Conv2d(ins, outs, 1, stride, bias=False), nn.BatchNorm2d(outs))
        self.shortcut = nn.Identity() if ins == outs and stride == 1 else projection

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


@dataclass(frozen=True, eq=False)
class Digits:
    """The data: images float32[n, 1, side, side] with mean 0 and deviation 1, labels int64[n]."""

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor

    @staticmethod
    def load(side: int = SIDE) -> Digits:
        """scikit-learn's digits, split in the same way on every call."""
        need("the digits", "sklearn")
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        data = load_digits()
        train, test = train_test_split(
            np.arange(len(data.target)), test_size=TEST_SHARE, stratify=data.target, random_state=0
        )
        images = torch.tensor(data.images, dtype=torch.float32)[:, None]
        images = nn.functional.interpolate(images, size=(side, side), mode="bilinear")
        images = (images - images[train].mean()) / images[train].std()
        labels = torch.tensor(data.target)
        return Digits(images[train], labels[train], images[test], labels[test])


def train(
    model: nn.Module,
    digits: Digits,
    *,
    epochs: int,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
    tick: Ticker | None = None,
) -> None:
    """Train a classifier in place; ends in evaluation mode.

    SGD with Nesterov momentum under a one-cycle schedule, label smoothing, and shifts by one
    pixel.  The same seed gives the same weights on the same machine and number of threads.

    Args:
        model: Takes images, returns logits.
        digits: The data.
        epochs: Passes over the training images.
        learning_rate: At the peak of the cycle.
        seed: Of the order of the images and of the shifts.
        tick: Called after each step.
    """
    random = torch.Generator().manual_seed(seed)
    batches = [epoch_batch for _ in range(epochs) for epoch_batch in _shuffled(digits, random)]
    optimizer = torch.optim.SGD(
        model.parameters(), learning_rate, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=len(batches))
    model.train()
    for step, batch in enumerate(batches, start=1):
        shift = torch.randint(-1, 2, (2,), generator=random).tolist()
        images = torch.roll(digits.train_images[batch], shift, (2, 3)).contiguous(
            memory_format=torch.channels_last
        )
        loss = nn.functional.cross_entropy(model(images), digits.train_labels[batch], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if tick:
            tick(step, len(batches), loss.item())
    model.eval()


def _shuffled(digits: Digits, random: torch.Generator) -> tuple[torch.Tensor, ...]:
    order = torch.randperm(len(digits.train_labels), generator=random)
    # A last batch of few images would give batch norm poor statistics.
    batches: tuple[torch.Tensor, ...] = order[: len(order) // BATCH * BATCH].split(BATCH)
    return batches


def accuracy(model: nn.Module, digits: Digits) -> float:
    """Share of the test images that the model names rightly."""
    model.eval()
    with torch.inference_mode():
        right = model(digits.test_images).argmax(1) == digits.test_labels
    return float(right.double().mean())


@dataclass(frozen=True, eq=False)
class DemoResult:
    """What the demo measured.

    Attributes:
        accuracy: Share of right answers on the test images: ``dense``, ``sliced`` (as it was cut), ``recovered`` (without
            labels) and ``fine-tuned``.
        onnx_accuracy: The same of the two ONNX files in onnxruntime: ``dense`` and ``slim``.
        result: Of the compression.
        picture: All of it in one picture.
        seconds: Wall time of the whole demo.
    """

    accuracy: Mapping[str, float]
    onnx_accuracy: Mapping[str, float]
    result: Result
    picture: Path
    seconds: float

    def sheet(self) -> Sheet:
        """The figures that matter in one table."""
        plan, table = self.result.plan, self.result.bench
        dense, slim = table["dense"], table["slim"]
        before, after = plan.dense, plan.predicted
        rows = (
            ("accuracy", share(self.accuracy["dense"]), share(self.accuracy["fine-tuned"]), self._change()),
            ("MACs", count(before.macs), count(after.macs), share(after.macs / before.macs)),
            ("parameters", count(before.params), count(after.params), share(after.params / before.params)),
            (
                "ONNX file",
                count(dense.size_bytes or 0, "B"),
                count(slim.size_bytes or 0, "B"),
                share((slim.size_bytes or 0) / (dense.size_bytes or 1)),
            ),
            (
                "latency, onnxruntime",
                f"{dense.median_ms:.2f} ms",
                f"{slim.median_ms:.2f} ms",
                f"{slim.speedup:.2f} times faster ({slim.speedup_low:.2f}..{slim.speedup_high:.2f})",
            ),
        )
        return Sheet(
            title="A residual network on handwritten digits",
            columns=("", "dense>", "slim>", "slim to dense"),
            rows=rows,
            footer=f"accuracy as it was cut {share(self.accuracy['sliced'])}, recovered without labels "
            f"{share(self.accuracy['recovered'])}, then fine-tuned; latency: one image, "
            f"{table.threads} thread{'s' * (table.threads > 1)}",
        )

    def _change(self) -> str:
        points = 100 * (self.accuracy["fine-tuned"] - self.accuracy["dense"])
        return f"{points:+.1f} points"

    def as_json(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return {
            **self.result.as_json(),
            "accuracy": dict(self.accuracy),
            "onnx_accuracy": dict(self.onnx_accuracy),
            "picture": str(self.picture),
            "total_seconds": self.seconds,
        }


def run_demo(
    out: str | Path,
    *,
    seed: int = 0,
    epochs: int = EPOCHS,
    finetune_epochs: int = FINETUNE_EPOCHS,
    widths: tuple[int, ...] = WIDTHS,
    bench_seconds: float = BENCH_SECONDS,
    watcher: Watcher = SILENT,
    force: bool = False,
) -> DemoResult:
    """Train, prune, fine-tune, export and measure; every figure comes from a real run.

    Torch computes with one thread meanwhile: accuracies are then the same whatever the number of
    cores, and a machine that is busy with other things does not stall at every step.

    Args:
        out: The folder to write into.
        seed: Of the first weights and of the order of the images.
        epochs: Of training.
        finetune_epochs: Of fine-tuning.
        widths: Channels of the network's stages.
        bench_seconds: How long to measure.
        watcher: Is told about each step.
        force: Replace the result of another model or budget in ``out``.

    Raises:
        FxpruneError: The folder cannot be written or holds another result, a package is missing, or a step failed.
    """
    need("the demo", "sklearn", "matplotlib")
    folder = check_folder(out)
    refuse_other(
        folder, Asked(DigitsNet.__name__, {"macs": KEEP_MACS}), force=force
    )  # before a minute of training
    started = time.monotonic()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        make_folder(folder)
        outcome = _run(folder, seed, epochs, finetune_epochs, widths, bench_seconds, watcher, force)
    finally:
        torch.set_num_threads(threads)
    return replace(outcome, seconds=round(time.monotonic() - started, 1))


def _run(
    folder: Path,
    seed: int,
    epochs: int,
    finetune_epochs: int,
    widths: tuple[int, ...],
    bench_seconds: float,
    watcher: Watcher,
    force: bool,
) -> DemoResult:
    with watcher.step("load the digits") as ticks:
        digits = Digits.load()
        ticks.note(f"{len(digits.train_labels)} for training, {len(digits.test_labels)} for testing")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DigitsNet(widths).to(memory_format=torch.channels_last)
    _learn("train", model, digits, epochs, seed, watcher)

    def finetune(slim: nn.Module) -> None:
        _learn("fine-tune", slim, digits, finetune_epochs, seed + 1, watcher)

    example = digits.test_images[:1].contiguous()
    result = compress(
        model,
        example,
        Budget(macs=KEEP_MACS),
        out=folder,
        calibrate=digits.train_images[:CALIBRATION],
        metric=lambda net: accuracy(net, digits),
        finetune=finetune,
        seconds=bench_seconds,
        watcher=watcher,
        force=force,
    )
    reached = {moment: value for moment, value in result.accuracy.items() if moment != "onnx"}
    with watcher.step("accuracy of the ONNX files") as ticks:
        onnx = {name: accuracy(OnnxModel(report.path), digits) for name, report in result.exports.items()}
        ticks.note(", ".join(f"{name} {share(value)}" for name, value in onnx.items()))
    outcome = DemoResult(reached, onnx, result, folder / "demo.png", 0.0)
    plot_demo(reached, result.widths, result.bench, outcome.picture)
    write_text(
        result.paths.report, result.markdown(_TITLE, first=(outcome.sheet().markdown(), "![demo](demo.png)"))
    )
    return outcome


def _learn(title: str, model: nn.Module, digits: Digits, epochs: int, seed: int, watcher: Watcher) -> float:
    """Train in one step of the watcher; the accuracy afterwards."""
    before = accuracy(model, digits)
    with watcher.step(title) as ticks:
        train(model, digits, epochs=epochs, seed=seed, tick=_showing(ticks, epochs))
        after = accuracy(model, digits)
        ticks.note(f"{epochs} epochs, accuracy {share(before)} -> {share(after)}")
    return after


def _showing(ticks: Ticks, epochs: int) -> Ticker:
    return lambda step, steps, loss: ticks.tick(
        step, steps, f"epoch {-(-step * epochs // steps)} of {epochs}, loss {loss:.3f}"
    )


def demo_view(result: DemoResult) -> RenderableType:
    """The demo's figures for a terminal."""
    residual = [row for row in result.result.widths if row.axes >= STREAM_AXES]
    streams = Sheet(
        title="Residual streams, pruned as one across all their blocks",
        columns=("stream", "tensor axes>", "dense>", "slim>"),
        rows=tuple((row.name, str(row.axes), str(row.before), str(row.after)) for row in residual),
    )
    return Group(streams.rich(), result.sheet().rich())
