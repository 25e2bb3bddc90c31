"""One of two processes that run recipes together; started by test_distributed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from training.runs import run, train_and_kill


def main(rank: int, world: int, ports: list[int], recipe: Path, out: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
    records = {}
    for mode, port in zip(("ddp", "fsdp"), ports, strict=False):
        os.environ["MASTER_PORT"] = str(port)
        records[mode] = run(recipe, out / mode, f"parallel={mode}").accuracy
    for after, port in zip((3, 4), ports[2:], strict=False):
        os.environ["MASTER_PORT"] = str(port)
        train_and_kill(recipe, out / "killed", after, pytest.MonkeyPatch(), "parallel=fsdp")
    os.environ["MASTER_PORT"] = str(ports[4])
    records["killed"] = run(recipe, out / "killed", "parallel=fsdp", resume=True).accuracy
    os.environ["MASTER_PORT"] = str(ports[5])
    records["at_once"] = run(recipe, out / "at_once", "parallel=fsdp", "method=magnitude").accuracy
    (out / f"{rank}.json").write_text(json.dumps(records))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5]))
