"""Transfer, as in SSR's last experiment: a model learnt in one domain is pruned while it is taken to another.

    python tools/reproduce/transfer.py          # some ten minutes of a core; writes TRANSFER.md

The source domain is scikit-learn's scanned digits, bright on dark.  The targets are the same digits dark on bright, and under noise: of the
dense model little is left there.  Every way has the same epochs on the target's training images, from the same dense weights of the source:
training alone (dense), sparse training under a method and fine-tuning of the slim model, or fine-tuning after a one-shot cut.
Finished runs are skipped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from fxprune.demo import Digits
from fxprune.demo import train as learn
from fxprune.models.loading import load_model
from fxprune.report.sheets import Sheet
from fxprune.support.files import write_text
from fxprune.training.run import train

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine_note import machine_note

HERE = Path(__file__).resolve().parent
RECIPE = HERE / "recipes" / "base_transfer.yaml"
ROWS, PAGE = HERE / "transfer.json", HERE / "TRANSFER.md"
SEEDS = 3
SOURCE_EPOCHS = 20

DOMAINS = {
    "dark on bright": ("data.inverted=true",),
    "noise of .3": ("data.noise=0.3",),
}
_STEERED = ("sparse.steer=true",)
_ONE_SHOT = ("sparse.epochs=0", "finetune.epochs=100 %")
WAYS = {
    "dense": (*_ONE_SHOT, "method=none", "budget.macs=1.0"),
    "SSR-L2,1 (AULM)": ("method={name: ssr, norm: 'l2,1', lam: 0.05, scale: norm, period: 5}", *_STEERED),
    "SSR-L2,0 (AULM)": ("method={name: ssr, norm: 'l2,0', lam: 0.01, scale: norm, period: 5}", *_STEERED),
    "DWGL": ("method={name: dwgl, lam: 0.03, scale: norm}", *_STEERED),
    "group lasso": ("method={name: group_lasso, lam: 0.003, scale: norm}", *_STEERED),
    "magnitude, one shot": (*_ONE_SHOT, "method=magnitude"),
    "magnitude, recovered on the target": (*_ONE_SHOT, "method=magnitude", "finetune.recover=512"),
    "from scratch": (*_ONE_SHOT, "method=magnitude", "finetune.start=scratch", "finetune.lr=0.1"),
}

Row = dict[str, object]


@dataclass(frozen=True)
class Source:
    """The dense model of the source domain.

    Attributes:
        weights: Its file.
        accuracy: There.
    """

    weights: Path
    accuracy: float

    @staticmethod
    def learnt(folder: Path) -> Source:
        """Trained here."""
        torch.manual_seed(0)
        model, data = load_model(f"{HERE / 'models.py'}:digits_net").model, Digits.load(8)
        learn(model, data, epochs=SOURCE_EPOCHS)
        with torch.no_grad():
            right = model(data.test_images).argmax(1) == data.test_labels
        save_file(model.state_dict(), folder / "source.safetensors")
        return Source(folder / "source.safetensors", float(right.double().mean()))


def run(domain: str, way: str, seed: int, source: Source, folder: Path) -> Row:
    """One run."""
    asked = [f"weights={source.weights}", f"seed={seed}", *DOMAINS[domain], *WAYS[way]]
    record = train(RECIPE, out=folder / "run", changes=asked)
    return {
        "domain": domain,
        "way": way,
        "seed": seed,
        "source": source.accuracy,
        "before": record.accuracy["dense"],
        "pruned": record.accuracy["pruned"],
        "after": record.accuracy["finetuned"],
        "macs": record.slim.macs / record.dense.macs,
        "params": record.slim.params / record.dense.params,
        "decided": record.decided,
    }


def page(rows: Sequence[Row]) -> str:
    """The tables."""
    lines = [
        "# Transfer: pruned on the way to another domain",
        "",
        f"`python tools/reproduce/transfer.py` wrote this. A residual net trained on scanned digits ({100 * float(str(rows[0]['source'])):.1f} % there) is taken to another look of them; "
        "every way has 15 epochs on the target's 1,437 training images, from the same dense weights. Accuracies on the target's 360 test images, mean (lowest..highest) "
        f"over {SEEDS} seeds; one image is 0.28 points. The strengths of SSR-L2,0 and group lasso were lowered once, after runs in which all channels had become zero. {machine_note()}.",
    ]
    for domain in DOMAINS:
        mine = [row for row in rows if row["domain"] == domain]
        if not mine:
            continue
        table = [_cells(way, [row for row in mine if row["way"] == way]) for way in WAYS]
        sheet = Sheet(
            "",
            ("way", "MACs>", "params>", "pruned>", "in the end>"),
            tuple(cells for cells in table if cells),
            footer=f"the dense model of the source has {100 * float(str(mine[0]['before'])):.1f} % here; pruned: before fine-tuning",
        )
        lines += ["", f"## {domain}", "", sheet.markdown()]
    return "\n".join(lines) + "\n"


def _cells(way: str, rows: Sequence[Row]) -> tuple[str, ...]:
    if not rows:
        return ()
    shares = [f"{statistics.mean(float(str(row[k])) for row in rows):.3f}" for k in ("macs", "params")]
    return (way, *shares, _spread(rows, "pruned"), _spread(rows, "after"))


def _spread(rows: Sequence[Row], key: str) -> str:
    values = [100 * float(str(row[key])) for row in rows]
    return f"{statistics.mean(values):.1f} ({min(values):.1f}..{max(values):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", action="store_true", help="only write the page")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = json.loads(ROWS.read_text()) if ROWS.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        source = None if options.page else Source.learnt(Path(folder))
        for domain in DOMAINS if source is not None else ():
            for way, seed in ((way, seed) for way in WAYS for seed in range(SEEDS)):
                assert source is not None
                if any((row["domain"], row["way"], row["seed"]) == (domain, way, seed) for row in rows):
                    continue
                with tempfile.TemporaryDirectory() as out:
                    rows.append(run(domain, way, seed, source, Path(out)))
                ROWS.write_text(json.dumps(rows, indent=1) + "\n")
                print(domain, way, seed, f"{100 * float(str(rows[-1]['after'])):.1f} %", flush=True)
    write_text(PAGE, page(rows))


if __name__ == "__main__":
    main()
