"""Methods and criteria of the user's own, each in a file of its own, named in recipes and plans."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from training.runs import run, train_and_kill, write
from training.test_resume import assert_same
from typer.testing import CliRunner

import fxprune
from fxprune.cli.app import app
from fxprune.criteria.score import score
from fxprune.errors import PlanError, RecipeError
from fxprune.regularizers.registry import WrongOption, method_info
from fxprune.training.record import Record, read_record

OWN = Path(__file__).resolve().parents[1] / "regularizers" / "own_methods.py"
ONE = {"epochs": 1, "lr": 0.05}

METHOD = '''
from fxprune.regularizers import GroupLasso


class Mine(GroupLasso):
    """Group lasso under another name."""

    name = "mine"
'''

CRITERION = '''
import numpy as np


class Last:
    """The first units go first."""

    name, needs, normalise = "last", frozenset(), "none"

    def score(self, view):
        return np.arange(view.coupling.n_units, dtype=float)
'''


def test_a_method_in_a_file_of_ones_own_is_trained(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(METHOD)
    one, two = ({"epochs": 1, "lr": 0.05}, {"epochs": 1, "lr": 0.05})
    own = run(
        write(tmp_path, method={"name": "mine.py:Mine", "lam": 0.2}, sparse=one, finetune=two), tmp_path / "a"
    )
    (tmp_path / "known").mkdir()
    known = run(
        write(tmp_path / "known", method={"name": "group_lasso", "lam": 0.2}, sparse=one, finetune=two),
        tmp_path / "b",
    )
    assert own.accuracy == known.accuracy and own.slim == known.slim


def command(*words: object) -> None:
    """``fxprune train``, as from a shell."""
    done = CliRunner().invoke(app, ["train", *map(str, words)])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("method", "sparse", "seen"),
    [
        # Its own option, an option of its base, steering, and the strength that steering gives it.
        (
            {"name": "own.py:Fading", "lost": 0.02, "growth": 0.2, "members": "rows"},
            {"epochs": 2, "lr": 0.05, "steer": {"every": 2, "until": 0.6}},
            lambda record: record.method["strength"] != 1 and "the budget was spent" in record.notes[0],
        ),
        # Its own objective, student, optimizer and plan.
        (
            {"name": "own.py:Faithful", "keep": 0.6, "shake": [0.1, 0.2]},
            {"epochs": 2, "lr": 0.05},
            lambda record: record.method["rate"] == 0.05 and record.slim.macs < 0.52 * record.dense.macs,
        ),
    ],
    ids=["fading", "faithful"],
)
def test_a_method_of_somebody_else_can_do_what_ours_can(
    method: dict[str, object],
    sparse: dict[str, object],
    seen: Callable[[Record], bool],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From a file of its own through recipe, checkpoints, steering and plan; killed, it goes on to the same bits."""
    shutil.copy(OWN, tmp_path / "own.py")
    recipe = write(tmp_path, method=method, sparse=sparse, finetune=ONE, checkpoints={"every": 3})
    command(recipe, "--out", tmp_path / "whole")
    for after in (4, 3):
        train_and_kill(recipe, tmp_path / "killed", after, monkeypatch)
    command(recipe, "--out", tmp_path / "killed", "--resume")
    assert_same(tmp_path / "whole", tmp_path / "killed")
    whole, continued = (read_record(tmp_path / name / "record.json") for name in ("whole", "killed"))
    assert seen(whole) and seen(continued)
    assert (whole.resumed, continued.resumed) == (0, 2)
    assert whole.accuracy == continued.accuracy


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("nowhere_at_all:Mine", "could not be imported"),
        ("mine.py:Other", "has no 'Other'"),
        ("collections:OrderedDict", "is no method"),
    ],
)
def test_what_is_no_method_is_refused_with_its_line(name: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(METHOD)
    with pytest.raises(RecipeError, match=what) as caught:
        run(write(tmp_path, method=name), tmp_path / "out")
    assert "small.yaml" in caught.value.source
    if ".py" not in name:
        with pytest.raises(WrongOption, match=what):
            method_info(name)


def test_a_criterion_of_ones_own_ranks(tmp_path: Path) -> None:
    (tmp_path / "last.py").write_text(CRITERION)
    name = f"{tmp_path / 'last.py'}:Last"
    trace = fxprune.trace(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(2, 4))
    plan = fxprune.plan(trace, fxprune.Budget(channels=0.5), criterion=name, align=1)
    assert plan.kept["0.weight", 0] == (4, 5, 6, 7)
    for wrong, what in (
        ("collections:OrderedDict", "is no criterion"),
        ("pathlib:nobody", "has no 'nobody'"),
    ):
        with pytest.raises(PlanError, match=what):
            score(trace, wrong)


def test_a_criterion_of_ones_own_decides_in_a_recipe(tmp_path: Path) -> None:
    """Named by a file beside the recipe; what it asks for (gradients here) it gets."""
    (tmp_path / "last.py").write_text(
        CRITERION.replace("frozenset()", 'frozenset({"gradients"})').replace(
            "        return", "        assert view.evidence.squares\n        return"
        )
    )
    plan = {"align": 1, "scope": "local", "criterion": "last.py:Last"}
    recipe = write(
        tmp_path, method="none", plan=plan, budget={"channels": 0.5}, sparse={"epochs": 0}, finetune=ONE
    )
    command(recipe, "--out", tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "plan.json").read_text())["kept"]
    assert kept["blocks.0.conv1.weight"]["0"] == list(range(6, 12))
    command(recipe, "--out", tmp_path / "out", "--resume")  # nothing is left to do
