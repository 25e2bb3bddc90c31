"""What a benchmark measures: an ONNX file in onnxruntime, or a module in torch, and their sizes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from fxprune.coupling import cost as torch_cost
from fxprune.errors import ExportError
from fxprune.models.calls import Call
from fxprune.onnx import memory_probe
from fxprune.onnx.cost import count, data_files
from fxprune.onnx.parity import check_module, relative_difference, run_module
from fxprune.onnx.session import DEFAULT, RUN_LIMIT_S, Array, Session, open_session
from fxprune.onnx.settings import Setting
from fxprune.plans import Cost

__all__ = ["Contestant", "Facts", "Model", "contestant", "difference", "peak_memory"]

Model = str | Path | nn.Module
"""An ONNX file or a torch module."""

_PROBE_SECONDS = 600


@dataclass(frozen=True)
class Facts:
    """What is known of a model apart from its latency."""

    size_bytes: int | None
    peak_memory_bytes: int | None
    params: int | None
    macs: int | None
    notes: tuple[str, ...]


class Contestant(Protocol):
    """A model with its inputs, ready to be called."""

    @property
    def runtime(self) -> str:
        """``"onnxruntime"``, with its setting where that is another one, or ``"torch"``."""

    @property
    def setting(self) -> Setting | None:
        """Of onnxruntime."""

    @property
    def outputs(self) -> tuple[Array, ...]:
        """What a file gave on its inputs."""

    def __call__(self) -> object:
        """Run once."""

    def facts(self, call: Call, threads: int, cost: Cost | None, *, memory: bool) -> Facts:
        """Sizes; a given cost is taken over instead of being counted."""


def contestant(
    name: str,
    model: Model,
    call: Call,
    threads: int,
    *,
    limit_s: float = RUN_LIMIT_S,
    setting: Setting = DEFAULT,
) -> Contestant:
    """Load a model and run it once, so that what does not fit is refused before anything is timed.

    Raises:
        ExportError: The file is missing or corrupt, the inputs do not fit, or the model fails.
    """
    if isinstance(model, nn.Module):
        check_module(model)
        run_module(model, call, f"the inputs of '{name}'")
        return _InTorch(model, call, _writes(model, call))
    if not isinstance(model, (str, Path)):
        raise ExportError(
            f"'{name}' is a {type(model).__name__}",
            advice="pass the path of an ONNX file or a torch.nn.Module",
        )
    session = open_session(model, threads=threads, setting=setting)
    feeds = session.feeds(call)
    return _InOnnxruntime(session, feeds, setting, tuple(session.run(feeds, limit_s=limit_s)))


def difference(expected: Contestant, got: Contestant) -> float:
    """``max|got - expected| / max|expected|`` of the worst output of a file under two settings; infinite for other shapes."""
    pairs = list(zip(expected.outputs, got.outputs, strict=True))
    if any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    return max((relative_difference(a, b) for a, b in pairs), default=0.0)


@dataclass(frozen=True, eq=False)
class _InOnnxruntime:
    session: Session
    feeds: Mapping[str, Array]
    setting: Setting
    outputs: tuple[Array, ...]

    @property
    def runtime(self) -> str:
        return str(self.setting)

    def __call__(self) -> object:
        return self.session.handle.run(None, self.feeds)

    def facts(self, call: Call, threads: int, cost: Cost | None, *, memory: bool) -> Facts:
        path = self.session.path
        notes = []
        params, macs = (cost.params, cost.macs) if cost else (None, None)
        if cost is None:
            shapes = {name: tuple(array.shape) for name, array in self.feeds.items()}
            counted = count(path, shapes, call.batch or 1, feeds=self.feeds)
            params, macs = counted.params, counted.macs
            notes += [counted.note] if counted.note else []
        peak, problem = peak_memory(path, self.feeds, threads, setting=self.setting) if memory else (None, "")
        notes += [problem] if problem else []
        size = sum(file.stat().st_size for file in data_files(path))
        return Facts(size, peak, params, macs, tuple(notes))


@dataclass(frozen=True, eq=False)
class _InTorch:
    module: nn.Module
    call: Call
    writes: bool
    runtime: str = "torch"
    setting: None = None
    outputs: tuple[Array, ...] = ()

    def __call__(self) -> object:
        return (_own(self.call) if self.writes else self.call)(self.module)

    def facts(self, call: Call, threads: int, cost: Cost | None, *, memory: bool) -> Facts:
        notes: tuple[str, ...] = ("run in torch, in evaluation and inference mode",)
        if self.writes:
            notes += ("writes into its inputs: the time includes a copy of them at each call",)
        with torch.inference_mode(False):  # its operators are the ones that the counter knows
            counted = cost or torch_cost.measure(self.module, call.args, call.kwargs)
        return Facts(None, None, counted.params, counted.macs, notes)


def _own(call: Call) -> Call:
    return call.with_tensors([tensor.clone() for tensor in call.tensors])


def _writes(module: nn.Module, call: Call) -> bool:
    """Whether a module changes what it is given; what is timed again and again must be the same work."""
    with torch.inference_mode(False), torch.no_grad():  # only then tensors count their versions
        own = _own(call)
        before = [tensor._version for tensor in own.tensors]
        own(module)
    return before != [tensor._version for tensor in own.tensors]


def peak_memory(
    path: str | Path,
    feeds: Mapping[str, Array],
    threads: int = 1,
    *,
    timeout: float = _PROBE_SECONDS,
    setting: Setting = DEFAULT,
) -> tuple[int | None, str]:
    """Highest resident memory while a process of its own loads and runs an ONNX file.

    Args:
        path: The file.
        feeds: One array per input.
        threads: Threads inside an operator.
        timeout: Seconds to wait.
        setting: How it is run.

    Returns:
        Bytes above the bare runtime, or None and why there is no figure.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _probed(path, feeds, threads, timeout, setting, Path(folder)), ""
    except subprocess.CalledProcessError as error:
        last = (error.stderr or "").strip().splitlines()[-1:] or [f"exit code {error.returncode}"]
        return None, f"peak memory not measured: {last[0][:200]}"
    except OSError as error:  # no temporary folder, or no space in it
        said = error.strerror or str(error)
        return None, f"peak memory not measured: {type(error).__name__}: {said}".rstrip(": ")
    except (ValueError, KeyError, subprocess.TimeoutExpired) as error:
        return None, f"peak memory not measured: {type(error).__name__}"


def _probed(
    path: str | Path,
    feeds: Mapping[str, Array],
    threads: int,
    timeout: float,
    setting: Setting,
    folder: Path,
) -> int:
    inputs = folder / "inputs.npz"
    np.savez(inputs, allow_pickle=False, **feeds)
    # By its path, not as a module: the probe must not import torch, and runs from anywhere.
    # -P, or the package's own types.py would hide the standard library's.
    script = str(Path(memory_probe.__file__).resolve())
    words = [str(Path(path).resolve()), str(inputs), str(threads), setting.level, setting.provider]
    command = [sys.executable, "-P", script, *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout, check=True)
    figures = json.loads(done.stdout)
    return int(figures["peak_bytes"]) - int(figures["baseline_bytes"])
