"""``fxprune train``."""

from __future__ import annotations

import os

from fxprune.cli import options as o
from fxprune.cli.common import show, steps

__all__ = ["EXAMPLES", "train"]

EXAMPLES = (
    "Examples:\n\n"
    "  fxprune train recipe.yaml\n\n"
    "  fxprune train recipe.yaml --out runs/trial --set sparse.lr=0.1 --set method.lam=1e-3\n\n"
    "  torchrun --nproc-per-node 2 -m fxprune train recipe.yaml --resume"
)


def train(
    recipe: o.RecipePath,
    out: o.RunFolder = None,
    resume: o.Resume = False,
    changes: o.Changes = None,
    allow_pickle: o.AllowPickle = False,
    as_json: o.Json = False,
) -> None:
    """Train a model sparse, prune it and fine-tune it, as a recipe says; one process or several."""
    from fxprune.errors import RecipeError
    from fxprune.support.delivery import check_folder
    from fxprune.support.reading import regular_file

    regular_file(recipe, error=RecipeError, advice="pass a YAML file")
    from fxprune.training.recipe.file import outline

    outline(recipe, changes or ())
    if out is not None:
        check_folder(out)
    from fxprune.report.steps import SILENT
    from fxprune.training.record import record_sheet
    from fxprune.training.run import train as run

    speaks = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started
    watcher = steps() if speaks else SILENT
    record = run(
        recipe, out=out, changes=changes or (), resume=resume, allow_pickle=allow_pickle, watcher=watcher
    )
    if speaks:
        show(record_sheet(record).rich(), record.to_json(), as_json)
