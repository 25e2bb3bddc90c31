"""Two processes (gloo, CPU), copying or sharding the model, take one process's decisions and get its weights."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from training.runs import NETS, run, write

# float64; the gradients of two half batches are averaged, so sums run in another order.
ROUNDING = 1e-9
WORLD = 2
TESTS = Path(__file__).resolve().parents[1]
METHOD = {"name": "ssr", "lam": 0.8, "scale": "norm", "period": 2}

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch has no gloo"
)


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
    command = [sys.executable, str(TESTS / "training" / "distributed_worker.py")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    ports = json.dumps(free_ports(5))
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(WORLD), ports, str(recipe), str(out)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(WORLD)
    ]
    try:
        run(recipe, out / "single")
        for process in processes:
            said, _ = process.communicate(timeout=200)
            assert process.returncode == 0, said
    finally:
        for process in processes:  # one that waits for the other forever
            process.kill()
            process.communicate()
    return out


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_two_processes_do_what_one_does(mode: str, outputs: Path) -> None:
    decided = json.loads((outputs / "single" / "plan.json").read_text())
    assert decided["kept"] == json.loads((outputs / mode / "plan.json").read_text())["kept"]
    assert len(decided["kept"]["0.weight"]["0"]) < 9 or len(decided["kept"]["2.weight"]["0"]) < 14
    alone, together = (load_file(outputs / name / "slim.safetensors") for name in ("single", mode))
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("mode", ["ddp", "fsdp", "killed"])
def test_all_processes_know_the_same_accuracy(mode: str, outputs: Path) -> None:
    alone = json.loads((outputs / "single" / "record.json").read_text())["accuracy"]
    for rank in range(WORLD):
        assert json.loads((outputs / f"{rank}.json").read_text())[mode] == alone


def test_sharded_run_goes_on_to_the_same_bits(outputs: Path) -> None:
    whole, continued = (load_file(outputs / name / "slim.safetensors") for name in ("fsdp", "killed"))
    assert [name for name in whole if not torch.equal(whole[name], continued[name])] == []
    assert json.loads((outputs / "killed" / "record.json").read_text())["resumed"] == 2
