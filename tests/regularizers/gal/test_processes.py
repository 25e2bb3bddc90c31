"""Two processes (gloo, CPU, DDP) play the game that one process plays."""

from __future__ import annotations

from pathlib import Path

import torch
from processes import found_by_all, needs_gloo, together
from regularizers.gal.worker import play

# float64; the batch is averaged in another order.
ROUNDING = 1e-9

pytestmark = needs_gloo


def test_two_processes_play_what_one_does(tmp_path: Path) -> None:
    with together("regularizers.gal.worker", str(tmp_path)):
        alone = play(0, 1)
    masks = alone["state.fista.value"]
    assert 0 < int((masks == 0).sum()) < len(masks)
    first, second = found_by_all(tmp_path)
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name, value in alone.items():
        torch.testing.assert_close(first[name], value, rtol=ROUNDING, atol=ROUNDING, msg=name)
