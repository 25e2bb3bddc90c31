"""Facts about runtimes."""

from __future__ import annotations

import pytest
import torch

from fxprune import targets
from fxprune.errors import PlanError


@pytest.mark.parametrize(("capability", "step"), [("AVX512", 16), ("AVX2", 8), ("DEFAULT", 8), ("NO AVX", 8)])
def test_this_machine(capability: str, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    target = targets.get()
    assert (target.name, target.channel_step) == ("onnxruntime-cpu", step)


def test_another_machine() -> None:
    assert targets.get("onnxruntime-cpu-avx512").channel_step == 16
    assert targets.get("onnxruntime-cpu-avx2").channel_step == 8
    assert targets.get("any").channel_step == 1


def test_every_name_is_known_by_its_name() -> None:
    assert targets.DEFAULT_TARGET in targets.names()
    for name in targets.names():
        assert targets.get(name).name == name


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(PlanError, match="no target 'nobodys-runtime'") as caught:
        targets.get("nobodys-runtime")
    assert "onnxruntime-cpu, onnxruntime-cpu-avx512" in caught.value.advice


# --- what convolutions cost --------------------------------------------------------------------

AVX512 = targets.get("onnxruntime-cpu-avx512")


def cost(channels: int, taps: int = 9, groups: int = 1) -> float:
    return AVX512.convolution(channels, channels, taps, groups)


def test_widths_cost_what_the_table_of_the_tool_says() -> None:
    assert cost(100) == cost(112)
    assert cost(24) == cost(32)
    for channels in (30, 62, 97, 98, 127):
        assert cost(channels) > cost(AVX512.filled(channels))
        assert cost(channels, 1) > cost(AVX512.filled(channels), 1)
        assert cost(channels, groups=channels) > 3 * cost(
            AVX512.filled(channels), groups=AVX512.filled(channels)
        )
    assert cost(12, 1) > 1.5 * cost(16, 1)
    assert cost(8, 9) < cost(16, 9)


@pytest.mark.parametrize(
    ("groups", "inputs", "outputs", "together"),
    [
        (24, 8, 8, 2),
        (48, 4, 4, 4),
        (96, 2, 2, 8),
        (13, 8, 8, 1),
        (12, 16, 16, 1),
        (32, 1, 1, 1),
        (6, 8, 16, 2),
    ],
)
def test_narrow_groups_fill_blocks(groups: int, inputs: int, outputs: int, together: int) -> None:
    assert AVX512.groups_together(groups, inputs, outputs) == together
    assert targets.get("any").groups_together(groups, inputs, outputs) == 1
    assert targets.get("onnxruntime-cpu-avx2").groups_together(24, 8, 8) == 1


def test_without_facts_a_convolution_costs_its_multiply_accumulates() -> None:
    assert targets.get("any").convolution(6, 8, 9, 2) == 6 * 8 * 9 / 2 / 100
