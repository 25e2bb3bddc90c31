"""Facts about runtimes."""

from __future__ import annotations

import pytest
import torch

from fxprune.errors import PlanError
from fxprune.planning import targets


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
