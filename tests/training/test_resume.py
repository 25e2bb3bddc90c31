"""A run that is killed at any moment goes on to the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.test_files import short_of_space
from training.runs import Killed, run, train_and_kill, write

from fxprune.errors import FxpruneError, RecipeError
from fxprune.report.steps import SILENT, Ticks
from fxprune.training.checkpoint import read_checkpoint
from fxprune.training.run import train

METHODS = {
    "ssr": {"name": "ssr", "lam": 0.5, "scale": "norm", "period": 3},
    "ssr_l20": {"name": "ssr", "norm": "l2,0", "lam": 0.1, "scale": "norm", "period": 2, "rho_growth": 1.1},
    "dwgl": {"name": "dwgl", "lam": 0.5, "scale": "norm", "reorder": True},
    "increg": {"name": "increg", "ratio": 0.4, "increment": 0.05, "removal": "ceiling", "ceiling": 0.3},
    "group_lasso": {"name": "group_lasso", "lam": 0.2, "scale": "norm"},
    "network_slimming": {"name": "network_slimming", "lam": 1e-3},
    "greg": {"name": "greg", "ratio": 0.4, "delta": 0.01, "every": 2},
    "increg_columns": {"name": "increg", "granularity": "columns", "ratio": 0.9, "increment": 0.05},
    "gal": {"name": "gal", "on": ["block"], "lam": 0.5, "mask_step": 2},
}
FREE = {
    "gal",
    "increg_columns",
}  # whole blocks are too coarse for a budget, columns have no order of channels


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "slim.safetensors")


def assert_same(one: Path, two: Path) -> None:
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    assert [n for n in first if not torch.equal(first[n], second[n])] == []
    assert (one / "plan.json").read_text() == (two / "plan.json").read_text()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_goes_on_to_the_same_bits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write(
        tmp_path,
        method=METHODS[name],
        channels_last=name in ("ssr", "greg"),
        checkpoints={"every": 3},
        **({"budget": None} if name in FREE else {}),
    )
    whole = run(recipe, tmp_path / "whole")
    for after in (4, 5):  # in the sparse phase; in the fine-tuning that follows, counted anew
        train_and_kill(recipe, tmp_path / "killed", after, monkeypatch)
    continued = run(recipe, tmp_path / "killed", resume=True)
    assert_same(tmp_path / "whole", tmp_path / "killed")
    assert continued.accuracy == whole.accuracy
    assert (whole.resumed, continued.resumed) == (0, 2)
    # What the method took is a mean over all its steps, also over those before the interruption.
    assert continued.method["steps_timed"] == whole.method["steps_timed"] > 0
    assert continued.method["overhead"] > 0


def test_adam_smoothing_and_distillation_go_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phase = {
        "epochs": 1,
        "lr": 1e-3,
        "optimizer": "adamw",
        "label_smoothing": 0.1,
        "clip": 1.0,
        "distill": {},
    }
    recipe = write(
        tmp_path, method="ssr", sparse=phase, finetune={**phase, "recalibrate": 2}, checkpoints={"every": 2}
    )
    run(recipe, tmp_path / "whole")
    for after in (3, 3, 3):
        train_and_kill(recipe, tmp_path / "killed", after, monkeypatch)
    run(recipe, tmp_path / "killed", resume=True)
    assert_same(tmp_path / "whole", tmp_path / "killed")


def test_a_running_average_goes_on_to_the_same_bits_and_is_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune = {"epochs": 1.4, "lr": 0.05, "ema": 0.9}
    recipe = write(
        tmp_path, method="magnitude", sparse={"epochs": 0}, finetune=finetune, checkpoints={"every": 2}
    )
    record = run(recipe, tmp_path / "whole")
    assert record.epochs["finetune"] == 1.4
    last = read_checkpoint(tmp_path / "whole" / "checkpoints" / "2-000000007.safetensors")
    slim, average, model = weights(tmp_path / "whole"), last.part("average.module."), last.part("model.")
    assert all(torch.equal(slim[name], average[name]) for name in slim)
    assert not all(torch.equal(slim[name], model[name]) for name in slim)
    for after in (3, 3):
        train_and_kill(recipe, tmp_path / "killed", after, monkeypatch)
    run(recipe, tmp_path / "killed", resume=True)
    assert_same(tmp_path / "whole", tmp_path / "killed")


def test_an_average_does_not_begin_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write(tmp_path, method="magnitude", sparse={"epochs": 0}, checkpoints={"every": 2})
    train_and_kill(recipe, tmp_path / "out", 3, monkeypatch)
    with pytest.raises(FxpruneError, match="does not fit this run"):
        run(recipe, tmp_path / "out", "finetune.ema=0.9", resume=True)


def test_a_process_that_is_killed_for_real(tmp_path: Path) -> None:
    recipe = write(
        tmp_path, method=METHODS["ssr"], checkpoints={"every": 1}, finetune={"epochs": 3, "lr": 0.05}
    )
    run(recipe, tmp_path / "whole")
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-m", "fxprune", "train", str(recipe), "--out", str(tmp_path / "killed")],
        cwd=root,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    folder, until = tmp_path / "killed" / "checkpoints", time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        if folder.is_dir() and len(list(folder.glob("*.safetensors"))) > 1:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    said = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL, said
    run(recipe, tmp_path / "killed", resume=True)
    assert_same(tmp_path / "whole", tmp_path / "killed")


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write(tmp_path, method=METHODS["group_lasso"], checkpoints={"every": 2})
    run(recipe, tmp_path / "whole")
    train_and_kill(recipe, tmp_path / "killed", 9, monkeypatch)
    newest = max((tmp_path / "killed" / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:200])
    record = run(recipe, tmp_path / "killed", resume=True)
    assert_same(tmp_path / "whole", tmp_path / "killed")
    assert [note for note in record.notes if "passed over" in note and newest.name in note]


def test_a_failing_save_leaves_older_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fxprune.support import tensors

    recipe = write(tmp_path, method=METHODS["greg"], checkpoints={"every": 2})
    run(recipe, tmp_path / "whole")
    saved, real = [], tensors.save_file

    def fails_the_third_time(*args: object) -> None:
        saved.append(args)
        if len(saved) == 3:
            Path(str(args[1])).write_bytes(b"half")
            raise Killed
        real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(tensors, "save_file", fails_the_third_time)
        with pytest.raises(Killed):
            run(recipe, tmp_path / "killed")
    names = sorted(path.name for path in (tmp_path / "killed" / "checkpoints").iterdir())
    assert names == ["1-000000002.safetensors", "1-000000004.safetensors"]
    run(recipe, tmp_path / "killed", resume=True)
    assert_same(tmp_path / "whole", tmp_path / "killed")


def test_a_full_disk_leaves_older_checkpoints(tmp_path: Path) -> None:
    recipe = write(tmp_path, method=METHODS["greg"], checkpoints={"every": 2})
    train(recipe, out=tmp_path / "whole")
    with pytest.raises(FxpruneError, match=r"safetensors cannot be written: .*[Tt]oo large") as caught:
        train(recipe, out=tmp_path / "full", watcher=_Filling())
    assert "a disk with space left" in caught.value.advice
    names = [path.name for path in (tmp_path / "full" / "checkpoints").iterdir()]
    assert "1-000000010.safetensors" in names
    assert not [name for name in names if name.startswith((".", "2"))]
    run(recipe, tmp_path / "full", resume=True)
    assert_same(tmp_path / "whole", tmp_path / "full")


class _Filling:
    """A watcher under whose eyes the disk is full when fine-tuning begins."""

    @contextmanager
    def step(self, title: str) -> Iterator[Ticks]:
        with short_of_space(4096) if title == "fine-tune" else nullcontext(), SILENT.step(title) as ticks:
            yield ticks


def test_what_may_not_change_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write(tmp_path, method=METHODS["ssr"], checkpoints={"every": 2})
    train_and_kill(recipe, tmp_path / "out", 4, monkeypatch)
    with pytest.raises(FxpruneError, match="holds a run already"):
        run(recipe, tmp_path / "out")
    with pytest.raises(RecipeError, match=r"was started with seed: 0, not 1") as caught:
        run(recipe, tmp_path / "out", "seed=1", resume=True)
    assert caught.value.source == "--set seed=1"
    record = run(recipe, tmp_path / "out", "sparse.lr=0.01", resume=True)
    assert any("sparse.lr: 0.01 instead of 0.05" in note for note in record.notes)
    (tmp_path / "out" / ".fxprune.lock").touch()  # killed after its record
    # Nothing is left to do; where things ran and what they left on the way does not matter.
    again = run(recipe, tmp_path / "out", "sparse.lr=0.01", "device=cpu", "checkpoints.keep=1", resume=True)
    assert again == record
    assert not (tmp_path / "out" / ".fxprune.lock").exists()
    for change in ("sparse.lr=0.02", "finetune.epochs=3", "seed=1", "budget.macs=0.4"):
        with pytest.raises(RecipeError, match=rf"is finished, with {change.split('=')[0]}: ") as caught:
            run(recipe, tmp_path / "out", "sparse.lr=0.01", change, resume=True)
        assert caught.value.source == f"--set {change}"
