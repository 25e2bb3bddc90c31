"""DWGL's claim, measured: ``python tools/reproduce/votes.py`` writes ``VOTES.md``.

A channel of a residual stream can go only where every producer of the stream has given it up.  The claim is that an
increasing coefficient shared by the producers makes their votes agree, so that at the same lambda and in
the same time more goes than under plain group lasso.  Here both train ResNet-20 under the same lambda for the
same steps; what is compared is their own decision, exact zeros only, without a budget and without fine-tuning.

Finished runs are skipped, so the command may be stopped and repeated at will.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fxprune.plans import Plan
from fxprune.report.sheets import Sheet
from fxprune.report.steps import Steps
from fxprune.support.files import write_text
from fxprune.training.record import Record
from fxprune.training.run import train

HERE = Path(__file__).resolve().parent
RECIPES = HERE / "recipes"
RUNS = HERE.parent.parent / "runs" / "votes"
PAGE = HERE / "VOTES.md"

HELD_OUT = 0.04
WIDTHS = {"layer1": 16, "layer2": 32, "layer3": 64}


@dataclass(frozen=True)
class Way:
    """One way to decide.

    Attributes:
        label: For the table.
        recipe: Where it starts from.
        options: Of the method.
    """

    label: str
    recipe: str
    options: tuple[str, ...] = ()


WAYS = {
    "lasso": Way("group lasso, every producer for itself", "resnet20_group_lasso", ("coupling=votes",)),
    "dwgl": Way("DWGL, the same ramp for all producers", "resnet20_dwgl"),
    "joint": Way("group lasso, one norm over all producers", "resnet20_group_lasso"),
}


def changes(way: Way, lam: float, images: int, batch: int, epochs: int) -> list[str]:
    """What makes the recipe a run without budget, steering and fine-tuning, on held-out training images."""
    return [
        "budget=null",
        "sparse.steer=false",
        f"sparse.epochs={epochs}",
        "finetune.epochs=0",
        "export=false",
        "bench=false",
        f"batch={batch}",
        f"data.limit={images}",
        f"data.holdout={HELD_OUT}",
        f"method.lam={lam}",
        *(f"method.{option}" for option in way.options),
    ]


def streams(plan: Plan) -> dict[str, int]:
    """Channels that are left of each residual stream: what its last convolution makes."""
    last = {name: f"{name}.2.conv2.weight" for name in WIDTHS}
    return {name: len(plan.kept.get((weight, 0), range(WIDTHS[name]))) for name, weight in last.items()}


def inner(plan: Plan) -> tuple[int, int]:
    """Channels between the two convolutions of the blocks: how many are left, and how many there were."""
    widths = [(f"{stage}.{k}.conv1.weight", n) for stage, n in WIDTHS.items() for k in range(3)]
    left = sum(len(plan.kept.get((weight, 0), range(n))) for weight, n in widths)
    return left, sum(n for _, n in widths)


def row(lam: float, way: Way, record: Record, plan: Plan) -> tuple[str, ...]:
    """One line of the table."""
    left, whole = inner(plan)
    stream = streams(plan)
    return (
        f"{lam:g}",
        way.label,
        *(f"{stream[name]} of {width}" for name, width in WIDTHS.items()),
        f"{left} of {whole}",
        f"{100 * (1 - plan.predicted.macs / plan.dense.macs):.1f} %",
        f"{100 * record.accuracy['sparse']:.1f} %",
        f"{100 * record.accuracy['pruned']:.1f} %",
    )


def render(rows: Sequence[tuple[str, ...]], about: str) -> str:
    """The page."""
    sheet = Sheet(
        "Own decisions at equal lambda",
        (
            "lambda>",
            "method",
            *(f"stream of {name}>" for name in WIDTHS),
            "inside blocks>",
            "fewer MACs>",
            "accuracy>",
            "pruned>",
        ),
        tuple(rows),
        footer="channels that stay; accuracy on held-out images that the dense weights were trained on, before and "
        "after what is zero was cut",
    )
    return f"# Do the votes agree?\n\n{_INTRODUCTION}\n\n{about}\n\n{sheet.markdown()}\n"


_INTRODUCTION = (
    "Made by `python tools/reproduce/votes.py`.  ResNet-20, sparse training without budget or fine-tuning; only what "
    "is exactly zero at the end is cut.  *Every producer for itself* is plain group lasso on single layers: a channel of "
    "a stream goes where all of its producers happen to give it up.  DWGL adds the coefficient that grows with the "
    "index, from 0.5 to 1.5 of lambda, in the streams only.  *One norm* is the other way out, a group over all "
    "producers, for comparison."
)


def _conditions(record: Record, images: int, batch: int) -> str:
    sparse, machine = record.recipe["sparse"], record.machine
    assert isinstance(sparse, dict)
    return (
        f"{record.epochs['sparse']} epochs over {images - round(HELD_OUT * images):,} training images in batches of "
        f"{batch}, lr {sparse['lr']}, seed {record.recipe['seed']}; {machine['cpu']}, {machine['capability']}, torch "
        f"{machine['torch']}."
    )


def main() -> int:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description="Compares DWGL's decisions with plain group lasso's.")
    parser.add_argument("--lam", type=float, nargs="+", default=[0.008])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--images", type=int, default=50000, help="training images, before some are held out")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="FOLDER", help="where runs are kept")
    given = parser.parse_args()
    rows = []
    for lam in given.lam:
        for name in given.ways:
            way = WAYS[name]
            out = given.runs / f"{name}-{lam:g}"
            asked = changes(way, lam, given.images, given.batch, given.epochs)
            record = train(
                RECIPES / f"{way.recipe}.yaml", out=out, changes=asked, resume=True, watcher=Steps()
            )
            plan = Plan.from_json((out / "plan.json").read_text("utf-8"))
            rows.append(row(lam, way, record, plan))
            write_text(PAGE, render(rows, _conditions(record, given.images, given.batch)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
