"""SSR's claim, measured: ``python tools/reproduce/solvers.py`` writes ``SOLVERS.md`` and ``solvers.json``.

AULM and the direct sub-gradient solver minimise the same objective, ``loss + lambda * sum of group norms``, from the
same trained network with the same optimizer.  What is timed is how long each takes to reach a sparsity *and* a
loss: at least so many channels decided to go, and at most so large a training loss of the network that is left when
they are cut out.  The network is the demo's residual one on scikit-learn's handwritten digits, so the command
takes minutes anywhere.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import matplotlib
import torch
from matplotlib import pyplot as plt
from torch import nn

import fxprune
from fxprune.demo import BATCH, Digits, DigitsNet
from fxprune.demo import train as train_dense
from fxprune.errors import PlanError
from fxprune.graph.trace import Trace
from fxprune.onnx.session import machine
from fxprune.regularizers import SSR
from fxprune.report.palette import LINES
from fxprune.report.sheets import Sheet
from fxprune.support.files import write_text

HERE = Path(__file__).resolve().parent
VARIANTS: dict[str, dict[str, object]] = {
    "AULM, rho 1": {"solver": "aulm", "rho": 1.0},
    "AULM, rho 0.1": {"solver": "aulm", "rho": 0.1},
    "AULM, rho 0.01": {"solver": "aulm", "rho": 0.01},
    "sub-gradient, gone below 1 %": {"solver": "subgradient", "threshold": 1e-2},
    "sub-gradient, gone below 0.1 %": {"solver": "subgradient", "threshold": 1e-3},
}
"""AULM decides on exact zeros (rho 1 was read in the released code).  The direct solver never makes any: a channel
counts as gone where its norm is below a share of what its layer's mean was at the start."""

WIDTHS = (16, 32, 64)
SIDE = 8
DENSE_EPOCHS = 10
LEARNING_RATE = 0.02
PERIOD = 10
EVERY = 10
"""Steps between two looks at what is left; they are not timed."""


@dataclass(frozen=True)
class Point:
    """Where a run was at a step.

    Attributes:
        step: Optimizer steps so far.
        seconds: Processor time of these steps.
        sparsity: Share of all channels that the solver has decided to remove.
        loss: Loss of the network without them on all training images, with their own statistics in batch norm: running
            ones lag behind weights that shrink, for either solver.
    """

    step: int
    seconds: float
    sparsity: float
    loss: float


@dataclass(frozen=True)
class Run:
    """One solver's way."""

    variant: str
    lam: float
    seed: int
    points: tuple[Point, ...]

    def reached(self, sparsity: float, loss: float) -> Point | None:
        """The first point that is as sparse and as good as asked for."""
        return next((p for p in self.points if p.sparsity >= sparsity and p.loss <= loss), None)


def batches(digits: Digits, seed: int) -> Iterator[torch.Tensor]:
    """Indices of training images, epoch after epoch."""
    random = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(digits.train_labels), generator=random)
        yield from order[: len(order) // BATCH * BATCH].split(BATCH)


def follow(dense: nn.Module, digits: Digits, variant: str, lam: float, seed: int, steps: int) -> Run:
    """Train with one solver and look at what is left every few steps."""
    net = copy.deepcopy(dense).train()
    trace = fxprune.trace(net, digits.test_images[:2])
    groups = fxprune.couple(trace)
    sgd = torch.optim.SGD(net.parameters(), LEARNING_RATE, momentum=0.9)
    reg = SSR(net, groups, lam=lam, period=PERIOD, **VARIANTS[variant])  # type: ignore[arg-type]
    points, spent = [], 0.0
    for step, batch in zip(range(1, steps + 1), batches(digits, seed), strict=False):
        began = time.process_time()
        loss = nn.functional.cross_entropy(net(digits.train_images[batch]), digits.train_labels[batch])
        sgd.zero_grad()
        (loss + reg.penalty()).backward()
        sgd.step()
        reg.step()
        spent += time.process_time() - began
        if step % EVERY == 0:
            points.append(Point(step, spent, reg.report().zero_share, what_is_left(trace, reg, digits)))
    return Run(variant, lam, seed, tuple(points))


def what_is_left(trace: Trace, reg: SSR, digits: Digits) -> float:
    """Training loss without the channels that are decided to go."""
    try:
        left = fxprune.slim(trace, reg.plan())
    except PlanError:  # a whole layer is decided to go: nothing would be left
        return float("inf")
    with torch.no_grad():
        logits = left.train()(digits.train_images)
    return float(nn.functional.cross_entropy(logits, digits.train_labels))


def table(runs: Sequence[Run], sparsities: Sequence[float], loss: float) -> Sheet:
    """Steps and seconds to each sparsity at that loss, every solver with the strength that gets it there first."""
    rows = []
    for variant in VARIANTS:
        cells: list[str] = []
        for sparsity in sparsities:
            best, missed = _fastest([r for r in runs if r.variant == variant], sparsity, loss)
            if missed:
                cells += [f"not in {missed} of {missed + len(best)}", "–"]
                continue
            steps, seconds = [p.step for p in best], [p.seconds for p in best]
            cells += [
                f"{statistics.median(steps):.0f} ({min(steps)}..{max(steps)})",
                f"{statistics.median(seconds):.1f} ({min(seconds):.1f}..{max(seconds):.1f})",
            ]
        rows.append((variant, *cells))
    return Sheet(
        f"To a training loss of at most {loss:g}",
        ("solver", *(c for s in sparsities for c in (f"steps to {s:.0%} gone>", "s>"))),
        tuple(rows),
        footer="median over seeds (smallest..largest), each solver with the lambda that gets it there first; s: "
        "processor time of training steps on one thread",
    )


def _fastest(runs: Sequence[Run], sparsity: float, loss: float) -> tuple[list[Point], int]:
    """The first to arrive for each seed, and for how many seeds none did."""
    seeds = sorted({r.seed for r in runs})
    arrived = [[p for r in runs if r.seed == s and (p := r.reached(sparsity, loss))] for s in seeds]
    return [min(a, key=lambda p: p.step) for a in arrived if a], sum(not a for a in arrived)


def picture(runs: Sequence[Run], path: Path, where: str) -> None:
    """Sparsity and loss against steps, one line a run of the first seed, and the machine."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained")
    lams, variants = sorted({r.lam for r in runs}), list(VARIANTS)
    for run in (r for r in runs if r.seed == 0):
        style = {
            "color": LINES[variants.index(run.variant) % len(LINES)],
            "linestyle": ("-", "--", ":", "-.")[lams.index(run.lam) % 4],
        }
        steps = [p.step for p in run.points]
        label = f"{run.variant}; lambda {run.lam:g}"
        left.plot(steps, [100 * p.sparsity for p in run.points], label=label, **style)
        right.plot(steps, [min(p.loss, 10.0) for p in run.points], **style)
    left.set(xlabel="steps", ylabel="channels gone, %", ylim=(0, 100))
    right.set(xlabel="steps", ylabel="training loss of what is left", yscale="log")
    fig.legend(loc="outside lower center", ncols=3, fontsize=6)
    right.set_title(where, fontsize=6, loc="right")
    fig.savefig(path, dpi=110)
    plt.close(fig)


def main() -> int:
    """Train, compare, write."""
    parser = argparse.ArgumentParser(
        description="Compares SSR's solver AULM with the direct sub-gradient solver."
    )
    parser.add_argument("--lam", type=float, nargs="+", default=[0.02, 0.03, 0.04])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.3, 0.5])
    parser.add_argument("--loss", type=float, default=0.25)
    parser.add_argument("--out", type=Path, default=HERE, metavar="FOLDER")
    given = parser.parse_args()
    matplotlib.use("agg")
    torch.set_num_threads(1)
    digits = Digits.load(SIDE)
    runs: list[Run] = []
    dense_losses = []
    for seed in range(given.seeds):
        torch.manual_seed(seed)
        dense = DigitsNet(WIDTHS).to(memory_format=torch.channels_last)
        train_dense(dense, digits, epochs=DENSE_EPOCHS, seed=seed)
        with torch.no_grad():
            dense_losses.append(
                float(nn.functional.cross_entropy(dense(digits.train_images), digits.train_labels))
            )
        for lam, variant in product(given.lam, VARIANTS):
            runs.append(follow(dense, digits, variant, lam, seed, given.steps))
            last = runs[-1].points[-1]
            print(
                f"seed {seed}, lambda {lam:g}, {variant}: {last.sparsity:.0%} gone, loss {last.loss:.3f}, "
                f"{last.seconds:.0f} s",
                flush=True,
            )
    where = machine()
    about = (
        f"The demo's network with {', '.join(map(str, WIDTHS))} channels, trained for {DENSE_EPOCHS} epochs (training "
        f"loss {min(dense_losses):.3f}..{max(dense_losses):.3f}); then SGD, lr {LEARNING_RATE}, momentum 0.9, batch "
        f"{BATCH}, {given.steps} steps at lambda {', '.join(f'{x:g}' for x in given.lam)}, {given.seeds} seeds; AULM "
        f"renews F every {PERIOD} steps. {where.cpu}, {where.capability}, torch {where.torch}."
    )
    sheet = table(runs, given.sparsities, given.loss)
    given.out.mkdir(parents=True, exist_ok=True)
    picture(runs, given.out / "solvers.png", f"{where.cpu}, {where.capability}, torch {where.torch}")
    write_text(given.out / "solvers.json", json.dumps([asdict(r) for r in runs]) + "\n")
    introduction = __doc__.split("\n\n", 1)[1].rstrip()
    write_text(
        given.out / "SOLVERS.md",
        f"# AULM and the direct solver\n\n{introduction}\n\n{about}\n\n{sheet.markdown()}\n\n![ways](solvers.png)\n",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
