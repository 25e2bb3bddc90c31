"""Checkpoints and records that are not what was written: noticed, and the one before is used."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from training.runs import run, train_and_kill, write

from fxprune.errors import FxpruneError, IntegrityWarning
from fxprune.support.tensors import write_tensors
from fxprune.training.checkpoint import Folder, Running
from fxprune.training.record import read_record

Facts = dict[str, object]
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped with two checkpoints on the disk."""
    folder = tmp_path_factory.mktemp("run")
    recipe = write(
        folder, method="ssr", checkpoints={"every": 2}, sparse={"epochs": 1, "lr": 0.05, "optimizer": "adamw"}
    )
    with pytest.MonkeyPatch.context() as patch:
        train_and_kill(recipe, folder / "out", 4, patch)
    assert [p.name for p in _files(folder / "out")] == ["1-000000004.safetensors", "1-000000002.safetensors"]
    return folder / "out"


def _files(out: Path) -> list[Path]:
    return sorted((out / "checkpoints").iterdir(), reverse=True)


def _facts(path: Path) -> tuple[dict[str, str], Facts]:
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    return metadata, json.loads(metadata["facts"])


def _forged(change: Callable[[Tensors, Facts], object]) -> Callable[[Path], None]:
    """Written again with a digest that fits."""

    def forge(path: Path) -> None:
        (metadata, facts), tensors = _facts(path), load_file(path)
        change(tensors, facts)
        texts = {"format": metadata["format"], "version": metadata["version"], "facts": json.dumps(facts)}
        path.unlink()
        write_tensors(path, tensors, texts)

    return forge


def _flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 4
    path.write_bytes(raw)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _later(path: Path) -> None:
    path.rename(path.with_name("1-000000099.safetensors"))


def _without_digest(path: Path) -> None:
    metadata, _ = _facts(path)
    save_file(load_file(path), path, {key: text for key, text in metadata.items() if key != "digest"})


BROKEN: dict[str, Callable[[Path], None]] = {
    "one bit": _flip,
    "a pipe": _pipe,
    "a folder": _folder,
    "another step in its name": _later,
    "no digest": _without_digest,
    "weights that broadcast": _forged(lambda t, f: t.update({"model.stem.weight": torch.zeros(1)})),
    "weights of another kind": _forged(lambda t, f: t.update({"model.stem.bias": torch.zeros(12).int()})),
    "no state of the optimizer": _forged(
        lambda t, f: [t.pop(name) for name in list(t) if name.startswith("optimizer.")]
    ),
    "step 99 of 5": _forged(lambda t, f: f.update(step=99)),
    "a text for a step": _forged(lambda t, f: f.update(steps="5")),
    "no ledger": _forged(lambda t, f: f.pop("ledger")),
    "a list for a ledger": _forged(lambda t, f: f.update(ledger=[])),
    "an accuracy above one": _forged(lambda t, f: f["ledger"].update(accuracy={"dense": 7.0})),
    "no random state": _forged(lambda t, f: f.update(random=[])),
    "an unknown key": _forged(lambda t, f: f.update(more=1)),
    "a plan that is none": _forged(lambda t, f: f.update(plan="{}", kind="module")),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_one_before_is_used(name: str, stopped: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(stopped, out)
    BROKEN[name](_files(out)[0])
    saved, troubles = Folder(out / "checkpoints", None, keep=2).newest()  # type: ignore[arg-type]
    assert saved is not None and saved.step == 2
    [trouble] = troubles
    assert "cannot be read" in trouble and _files(out)[0].name in trouble


def test_the_run_goes_on_from_it_and_says_so(stopped: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(stopped, out)
    _flip(_files(out)[0])
    record = run(stopped.parent / "small.yaml", out, resume=True)
    assert [n for n in record.notes if "passed over" in n and "by its digest" in n]


def test_what_does_not_fit_the_model_is_refused(stopped: Path) -> None:
    saved, _ = Folder(stopped / "checkpoints", None, keep=2).newest()  # type: ignore[arg-type]
    assert saved is not None
    model = torch.nn.Linear(3, 3)
    running = Running(model, torch.optim.SGD(model.parameters(), lr=0.1))
    before = model.weight.clone()
    with pytest.raises(FxpruneError, match="does not fit this run"):
        running.restore(saved)
    assert torch.equal(model.weight, before)


@pytest.fixture(scope="module")
def record(stopped: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("finished") / "out"
    shutil.copytree(stopped, out)
    run(stopped.parent / "small.yaml", out, resume=True)
    return (out / "record.json").read_text()


def test_every_flipped_bit_of_a_record_is_noticed(record: str, tmp_path: Path) -> None:
    path, raw = tmp_path / "record.json", record.encode()
    path.write_bytes(raw)
    assert json.loads(read_record(path).to_json()) == json.loads(record)
    for bit in range(0, 8 * len(raw), 61):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(FxpruneError, match=r"is no record of a run|cannot be read"):
            read_record(path)


@pytest.mark.parametrize(
    "change",
    [
        {"dense": {"params": 1, "macs": -1}},
        {"dense": {"params": 1.5, "macs": 1}},
        {"accuracy": {"dense": float("nan")}},
        {"notes": "abc"},
        {"recipe": None},
        {"resumed": "1"},
        {"more": 1},
        {"version": 2},
    ],
)
def test_values_that_no_record_holds(change: Facts, record: str, tmp_path: Path) -> None:
    values = {key: value for key, value in json.loads(record).items() if key != "digest"}
    (tmp_path / "record.json").write_text(json.dumps({**values, **change}))
    with pytest.raises(FxpruneError, match=rf"is no record of a run: {next(iter(change))}"):
        read_record(tmp_path / "record.json")


def test_a_record_from_before_there_were_digests(record: str, tmp_path: Path) -> None:
    values = {key: value for key, value in json.loads(record).items() if key != "digest"}
    (tmp_path / "record.json").write_text(json.dumps(values, indent=1))
    with pytest.warns(IntegrityWarning, match="without a digest"):
        assert read_record(tmp_path / "record.json").to_json() == record


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 5000, "9" * 5000, "null", "[]", "\ufeff{}", ""])
def test_json_that_is_no_record(text: str, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(FxpruneError, match="is no record of a run"):
        read_record(tmp_path / "record.json")
