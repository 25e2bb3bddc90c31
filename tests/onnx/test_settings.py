"""Levels and providers of onnxruntime by their names, and refusals that say what to install."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort
import pytest
import torch
from torch import nn

from fxprune.errors import ExportError
from fxprune.onnx.export import export_onnx
from fxprune.onnx.memory_probe import CPU, LEVELS, provider_list, session_options
from fxprune.onnx.session import open_session
from fxprune.onnx.settings import Setting, settings


def test_every_provider_at_every_level(monkeypatch: pytest.MonkeyPatch) -> None:
    openvino = "OpenVINOExecutionProvider"
    monkeypatch.setattr(ort, "get_available_providers", lambda: [openvino, CPU])
    assert settings() == (Setting(),)
    assert settings(providers=["cpu", CPU]) == (Setting(),)
    for name in ("openvino", "OpenVINO", openvino):
        assert settings(["all", "basic", "all"], [name]) == tuple(
            Setting(level, provider) for provider in (CPU, openvino) for level in ("all", "basic")
        )


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("openvino", "pip install onnxruntime-openvino"),
        ("xnnpack", "build onnxruntime with --use_xnnpack"),
        ("CUDAExecutionProvider", "install an onnxruntime that was built with it"),
    ],
)
def test_what_is_not_installed_says_how(name: str, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    with pytest.raises(ExportError, match=r"as it is installed does not have \w+ \(it has CPU\)") as caught:
        settings(providers=[name])
    assert advice in caught.value.advice


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(ExportError, match="no execution provider 'openvin'") as caught:
        settings(providers=["openvin"])
    assert "did you mean 'openvino'" in caught.value.advice
    assert "xnnpack" in caught.value.advice
    with pytest.raises(ExportError, match="no optimisation level 'most'") as caught:
        settings(["most"])
    assert "all, extended, basic, disabled" in caught.value.advice
    with pytest.raises(ExportError, match="no optimisation level is left"):
        settings([])


def test_levels_are_those_of_the_runtime() -> None:
    for level, value in LEVELS.items():
        assert session_options(1, level).graph_optimization_level == value


def test_others_take_as_many_threads_and_leave_the_rest_to_the_cpu() -> None:
    assert provider_list(CPU, 2) == [(CPU, {})]
    (openvino, options), rest = provider_list("OpenVINOExecutionProvider", 3)
    assert (openvino, rest) == ("OpenVINOExecutionProvider", (CPU, {}))
    assert (options["num_of_threads"], options["precision"]) == ("3", "FP32")
    assert provider_list("XnnpackExecutionProvider", 3)[0][1] == {"intra_op_num_threads": "3"}


def test_a_provider_that_does_not_start_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime goes on with the CPU; a table would call that the provider's time."""
    path = export_onnx(nn.Linear(3, 2), torch.ones(1, 3), tmp_path / "m.onnx").path
    monkeypatch.setattr("fxprune.onnx.session.provider_list", lambda *_: [(CPU, {})])
    with pytest.raises(ExportError, match="has OpenVINOExecutionProvider but could not start it"):
        open_session(path, setting=Setting(provider="OpenVINOExecutionProvider"))
