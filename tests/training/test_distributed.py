"""Two processes (gloo, CPU), copying or sharding the model, take one process's decisions and get its weights."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import torch
from processes import WORLD, needs_gloo, together
from safetensors.torch import load_file
from training.runs import NETS, run, write

# float64; the gradients of two half batches are averaged, so sums run in another order.
ROUNDING = 1e-9
METHOD = {"name": "ssr", "lam": 0.8, "scale": "norm", "period": 2}

pytestmark = needs_gloo


def free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of one process (``single``) and of two."""
    out = tmp_path_factory.mktemp("distributed")
    recipe = write(
        out,
        model=f"{NETS}:plain",
        method=METHOD,
        sparse={"epochs": 1, "lr": 0.2, "clip": 5.0},
        finetune={"epochs": 1, "lr": 0.1, "distill": {}},
        checkpoints={"every": 2},
        data={"source": "digits", "augment": {"crop": 1, "flip": True}, "limit": 256},
    )
    with together("training.distributed_worker", json.dumps(free_ports(6)), str(recipe), str(out)):
        run(recipe, out / "single")
        run(recipe, out / "single_at_once", "method=magnitude")
    return out


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_two_processes_do_what_one_does(mode: str, outputs: Path) -> None:
    decided = json.loads((outputs / "single" / "plan.json").read_text())
    assert decided["kept"] == json.loads((outputs / mode / "plan.json").read_text())["kept"]
    assert len(decided["kept"]["0.weight"]["0"]) < 9 or len(decided["kept"]["2.weight"]["0"]) < 14
    alone, together = (load_file(outputs / name / "slim.safetensors") for name in ("single", mode))
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=ROUNDING, atol=ROUNDING)


def test_criteria_see_whole_weights_of_a_sharded_model(outputs: Path) -> None:
    alone, together = (
        json.loads((outputs / n / "plan.json").read_text()) for n in ("single_at_once", "at_once")
    )
    assert together["kept"] == alone["kept"]
    assert len(alone["kept"]["0.weight"]["0"]) < 9 or len(alone["kept"]["2.weight"]["0"]) < 14


@pytest.mark.parametrize("mode", ["ddp", "fsdp", "killed"])
def test_all_processes_know_the_same_accuracy(mode: str, outputs: Path) -> None:
    alone = json.loads((outputs / "single" / "record.json").read_text())["accuracy"]
    for rank in range(WORLD):
        assert json.loads((outputs / f"{rank}.json").read_text())[mode] == alone


def test_sharded_run_goes_on_to_the_same_bits(outputs: Path) -> None:
    whole, continued = (load_file(outputs / name / "slim.safetensors") for name in ("fsdp", "killed"))
    assert [name for name in whole if not torch.equal(whole[name], continued[name])] == []
    assert json.loads((outputs / "killed" / "record.json").read_text())["resumed"] == 2
