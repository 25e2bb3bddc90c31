"""Two processes (gloo, CPU) decide and compute what one process does."""

from __future__ import annotations

import pytest
import torch
from processes import found_by_all, needs_gloo, together
from regularizers.distributed_worker import METHODS, run

# float64; the batch is averaged in another order.
ROUNDING = 1e-9

pytestmark = needs_gloo


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, torch.Tensor]]:
    """What one process finds, by method."""
    return {method: run("single", method, 0, 1) for method in METHODS}


@pytest.fixture(scope="module")
def results(
    alone: dict[str, dict[str, torch.Tensor]], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, dict[str, torch.Tensor]]]:
    """What each of two processes found."""
    out = tmp_path_factory.mktemp("distributed")
    with together("regularizers.distributed_worker", str(out)):
        pass
    return found_by_all(out)


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_do_what_one_does(mode: str, method: str, alone: dict, results: list) -> None:
    single = alone[method]
    assert 0 < len(single["removed"]) < 17 + 12
    for found in results:
        together = found[f"{mode}.{method}"]
        assert together["removed"].tolist() == single["removed"].tolist()
        for name, value in single.items():
            torch.testing.assert_close(together[name], value, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_processes_agree_to_the_bit(mode: str, results: list) -> None:
    for method in METHODS:
        first, second = (found[f"{mode}.{method}"] for found in results)
        assert all(torch.equal(first[name], second[name]) for name in first)
