"""Methods and criteria of the user's own, each in a file of its own, named in recipes and plans."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from training.runs import run, write

import fxprune
from fxprune.criteria.score import score
from fxprune.errors import PlanError, RecipeError
from fxprune.regularizers.registry import WrongOption, method_class

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
            method_class(name)


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
