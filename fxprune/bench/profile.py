"""Where the time goes: onnxruntime's own profile of several files, operator by operator, side by side."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from fxprune.errors import ExportError
from fxprune.models.calls import Call, ExampleInputs, as_call
from fxprune.onnx.memory_probe import session_options
from fxprune.onnx.session import open_session

__all__ = ["OperatorTimes", "profile"]

_WARM_UP = 3


@dataclass(frozen=True)
class OperatorTimes:
    """Times of a file's operators, of the graph as the runtime has optimised it.

    Attributes:
        name: Of the file.
        milliseconds: By kind of operator, the mean of a call, the slowest first.
        nodes: How many there are of each kind.
    """

    name: str
    milliseconds: Mapping[str, float]
    nodes: Mapping[str, int]

    @property
    def total(self) -> float:
        """Milliseconds of all operators; what the runtime does between them is not in it."""
        return sum(self.milliseconds.values())


def profile(
    files: Mapping[str, str | Path], example_inputs: ExampleInputs, *, threads: int = 1, runs: int = 20
) -> tuple[OperatorTimes, ...]:
    """Profile ONNX files in onnxruntime.

    Args:
        files: By name.
        example_inputs: What all of them are called with.
        threads: Threads inside an operator.
        runs: Calls of each file, after a few that do not count.

    Returns:
        One entry for each file, in the order given.

    Raises:
        ExportError: A file is missing, corrupt, or does not fit the inputs.

    Example:
        >>> import torch
        >>> from fxprune.onnx.export import export_onnx
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = export_onnx(torch.nn.Linear(3, 4), torch.ones(1, 3), Path(folder) / "m.onnx").path
        ...     (times,) = profile({"m": file}, torch.ones(1, 3), runs=2)
        >>> dict(times.nodes)
        {'Gemm': 1}
    """
    call = as_call(example_inputs, error=ExportError)
    return tuple(_profiled(name, Path(path), call, threads, runs) for name, path in files.items())


def _profiled(name: str, path: Path, call: Call, threads: int, runs: int) -> OperatorTimes:
    checked = open_session(path, threads=threads)  # errors in words, and the inputs checked
    feeds = checked.feeds(call)
    with tempfile.TemporaryDirectory() as folder:
        options = session_options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for _ in range(_WARM_UP + runs):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    kernels = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    each = len(kernels) // (_WARM_UP + runs)  # events of one call: all calls run the same nodes
    counted = kernels[each * _WARM_UP :]
    times: dict[str, float] = {}
    for event in counted:
        kind = str(event["args"]["op_name"])
        times[kind] = times.get(kind, 0.0) + event["dur"] / 1e3 / runs
    nodes: dict[str, int] = {}
    for event in kernels[:each]:
        kind = str(event["args"]["op_name"])
        nodes[kind] = nodes.get(kind, 0) + 1
    return OperatorTimes(name, dict(sorted(times.items(), key=lambda item: -item[1])), nodes)
