"""Processes that work together: started at once, met, waited for, and never left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

WORLD = 2
TESTS = Path(__file__).resolve().parent
PATIENCE_S = 200

needs_gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch has no gloo"
)


@contextmanager
def together(module: str, *arguments: str) -> Iterator[None]:
    """``python -m module RANK WORLD arguments`` once a rank; the block runs meanwhile, and all must end well after it."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, str(rank), str(WORLD), *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(WORLD)
    ]
    try:
        yield
        for process in processes:
            said, _ = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0, said
    finally:
        for process in processes:  # one that waits for the other forever
            process.kill()
            process.communicate()


def found_by_all(folder: Path) -> list[dict]:
    """What each rank's ``tell`` has left."""
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


def tell(find: Callable[[int, int], object]) -> None:
    """In a worker started with one folder: meet the others there, and leave what this rank finds."""
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=world)
    torch.save(find(rank, world), folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
