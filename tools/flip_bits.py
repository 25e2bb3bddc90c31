"""Flip single bits of the files that fxprune saves, and count how many of the flips its readers notice.

    python tools/flip_bits.py                # 2,000 bits of each kind of file, into tools/results/FLIPS.md
    python tools/flip_bits.py --bits 100 --seed 1

A flip is noticed if reading ends in an ``FxpruneError``; another exception, or a file that is read, is a finding.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from machine_note import machine_note
from rich.progress import track

import fxprune
from fxprune.errors import FxpruneError
from fxprune.models.loading import load_model
from fxprune.planning.reading import read_plan
from fxprune.report.steps import SILENT, Ticks
from fxprune.support.delivery import CHECKPOINTS
from fxprune.training.checkpoint import read_checkpoint
from fxprune.training.record import read_record
from fxprune.training.run import train

PAGE = Path(__file__).resolve().parent / "results" / "FLIPS.md"

NET = """
from torch import nn


def net():
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    ).eval()
"""

RECIPE = {
    "model": "net.py:net",
    "data": {"source": "digits", "limit": 320},
    "batch": 64,
    "budget": {"macs": 0.5},
    "plan": {"align": 1},
    "method": "ssr",
    "sparse": {"epochs": 1, "lr": 0.05},
    "finetune": {"epochs": 1, "lr": 0.05},
    "checkpoints": {"every": 2},
    "export": False,
}


ABOUT = """# Flipped bits

`python tools/flip_bits.py --bits {bits} --seed {seed}`: single bits of files that one run of `fxprune train` left, each read by
its own reader. Noticed is what ends in an `FxpruneError`. {machine}.

"""


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: In the table.
        raw: What fxprune wrote.
        path: Where its reader looks for it.
        read: The reader.
    """

    name: str
    raw: bytes
    path: Path
    read: Callable[[], object]


class Keeping:
    """Keeps a checkpoint that a finished run would remove."""

    def __init__(self, run: Path) -> None:
        self.run = run

    @contextmanager
    def step(self, title: str) -> Iterator[Ticks]:
        """Copies what a step leaves."""
        with SILENT.step(title) as ticks:
            yield ticks
        for file in (self.run / CHECKPOINTS).glob("*.safetensors"):
            (self.run.parent / "kept").mkdir(exist_ok=True)
            shutil.copy(file, self.run.parent / "kept")


def kinds(folder: Path) -> Iterator[Kind]:
    """Of one training run on the digits."""
    (folder / "net.py").write_text(NET, "utf-8")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE), "utf-8")
    run = folder / "run"
    train(folder / "recipe.yaml", out=run, watcher=Keeping(run))
    slim, record, plan = (run / name for name in ("slim.safetensors", "record.json", "plan.json"))
    [kept, *_] = sorted((folder / "kept").iterdir(), reverse=True)
    net, image = load_model(f"{folder / 'net.py'}:net").model, torch.zeros(1, 1, 8, 8)
    for name, path, read in (
        ("slim model", slim, lambda: fxprune.load(net, slim, image)),
        ("checkpoint", kept, lambda: read_checkpoint(kept)),
        ("record of a run", record, lambda: read_record(record)),
        ("plan", plan, lambda: read_plan(plan)),
    ):
        yield Kind(name, path.read_bytes(), path, read)


def flipped(kind: Kind, bits: int, draw: random.Random) -> Counter[str]:
    """What came of every flip; the file is whole again afterwards."""
    kind.read()
    came: Counter[str] = Counter()
    for bit in track(draw.sample(range(8 * len(kind.raw)), min(bits, 8 * len(kind.raw))), kind.name):
        changed = bytearray(kind.raw)
        changed[bit // 8] ^= 1 << bit % 8
        kind.path.write_bytes(changed)
        try:
            kind.read()
            came["read"] += 1
        except FxpruneError:
            came["noticed"] += 1
        except Exception as error:  # noqa: BLE001 - whatever comes out is what this is about
            came[type(error).__name__] += 1
    kind.path.write_bytes(kind.raw)
    return came


def main() -> int:
    """Flip, count, write the page; 1 if anything passed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bits", type=int, default=2000, help="of each kind of file")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows, missed = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds(Path(folder)):
            came = flipped(kind, options.bits, random.Random(options.seed))
            others = ", ".join(f"{what} {n}" for what, n in came.items() if what != "noticed") or "none"
            missed += came.total() - came["noticed"]
            rows.append(
                f"| {kind.name} | {len(kind.raw):,} | {came.total():,} | {came['noticed']:,} | {others} |"
            )
    table = ["| file | bytes | bits flipped | noticed | otherwise |", "|:--|--:|--:|--:|:--|", *rows]
    page = (
        ABOUT.format(bits=options.bits, seed=options.seed, machine=machine_note()) + "\n".join(table) + "\n"
    )
    PAGE.write_text(page, "utf-8")
    print(page)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
