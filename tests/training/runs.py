"""Short runs for tests: recipes on the digits, and a way to stop them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from fxprune.training import loop
from fxprune.training.record import Record
from fxprune.training.run import train

NETS = Path(__file__).with_name("nets.py")

SMALL: Mapping[str, object] = {
    "model": f"{NETS}:fresh_weights",
    "data": {"source": "digits", "augment": {"crop": 1, "flip": True}, "limit": 320},
    "batch": 64,
    "budget": {"macs": 0.5},
    "plan": {"align": 1},
    "sparse": {"epochs": 2, "lr": 0.05},
    "finetune": {"epochs": 2, "lr": 0.05, "schedule": "cosine"},
    "export": False,
}
"""Five steps an epoch."""


def write(folder: Path, **changes: object) -> Path:
    """A recipe file: the small one with changes."""
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **changes}), encoding="utf-8")
    return path


class Killed(BaseException):
    """Stands for a signal: nothing may catch it."""


def train_and_kill(
    recipe: Path, out: Path, after: int, monkeypatch: pytest.MonkeyPatch, *changes: str
) -> None:
    """Run until that many steps have been taken, over all phases, then stop in the middle of the next."""
    taken = 0
    whole_step = loop._step

    def step(*args: object) -> object:
        nonlocal taken
        if taken == after:
            raise Killed
        taken += 1
        return whole_step(*args)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "_step", step)
        with pytest.raises(Killed):
            run(recipe, out, *changes, resume=True)


def run(recipe: Path, out: Path, *changes: str, resume: bool = False) -> Record:
    return train(recipe, out=out, changes=changes, resume=resume)
