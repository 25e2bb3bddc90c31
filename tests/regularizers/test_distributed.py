"""Two processes (gloo, CPU) decide and compute what one process does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from regularizers.distributed_worker import METHODS, run

# float64; the batch is averaged in another order.
ROUNDING = 1e-9
WORLD = 2
TESTS = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch has no gloo"
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, torch.Tensor]]]:
    """What each of two processes found."""
    out = tmp_path_factory.mktemp("distributed")
    worker = TESTS / "regularizers" / "distributed_worker.py"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    processes = [
        subprocess.Popen(
            [sys.executable, str(worker), str(rank), str(WORLD), str(out / "meeting"), str(out)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(WORLD)
    ]
    try:
        for process in processes:
            said, _ = process.communicate(timeout=200)
            assert process.returncode == 0, said
    finally:
        for process in processes:  # one that waits for the other forever
            process.kill()
            process.communicate()
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_do_what_one_does(mode: str, method: str, results: list) -> None:
    alone = run("single", method, 0, 1)
    assert 0 < len(alone["removed"]) < 17 + 12
    for found in results:
        together = found[f"{mode}.{method}"]
        assert together["removed"].tolist() == alone["removed"].tolist()
        for name, value in alone.items():
            torch.testing.assert_close(together[name], value, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_processes_agree_to_the_bit(mode: str, results: list) -> None:
    for method in METHODS:
        first, second = (found[f"{mode}.{method}"] for found in results)
        assert all(torch.equal(first[name], second[name]) for name in first)
