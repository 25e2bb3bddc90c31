"""Two processes (gloo, CPU, DDP) play the game that one process plays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from regularizers.gal.worker import play

# float64; the batch is averaged in another order.
ROUNDING = 1e-9
WORLD = 2
TESTS = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch has no gloo"
)


def test_two_processes_play_what_one_does(tmp_path: Path) -> None:
    worker = TESTS / "regularizers" / "gal" / "worker.py"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    processes = [
        subprocess.Popen(
            [sys.executable, str(worker), str(rank), str(WORLD), str(tmp_path / "meeting"), str(tmp_path)],
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
    alone = play(0, 1)
    masks = alone["state.fista.value"]
    assert 0 < int((masks == 0).sum()) < len(masks)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(WORLD))
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name, value in alone.items():
        torch.testing.assert_close(first[name], value, rtol=ROUNDING, atol=ROUNDING, msg=name)
