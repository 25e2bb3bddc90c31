"""Peak memory of one ONNX file: load it and run it in a process that does nothing else.

    python -P memory_probe.py MODEL.onnx INPUTS.npz THREADS LEVEL PROVIDER

prints ``{"peak_bytes": …, "baseline_bytes": …}``.  The baseline is the resident memory with
onnxruntime imported and the inputs made; the peak is the highest the process reached after that,
while loading the file and running it three times.

The file imports nothing of the package, so that torch's memory is not part of the baseline.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

__all__ = ["CPU", "LEVELS", "main", "provider_list", "session_options"]

CPU = "CPUExecutionProvider"

LEVELS = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
"""What onnxruntime may do to a graph before it runs it; each level has what those after it have."""

_RUNS = 3
_QUIET = 4  # only fatal messages: what goes wrong comes back as an exception


def session_options(threads: int, level: str = "all") -> ort.SessionOptions:
    """The options under which the package runs every ONNX model."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = LEVELS[level]
    options.log_severity_level = _QUIET
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def provider_list(provider: str, threads: int) -> list[tuple[str, dict[str, str]]]:
    """A provider, held to as many threads and to float32, and the CPU for what it does not take."""
    own = {
        "OpenVINOExecutionProvider": {
            "device_type": "CPU",
            "num_of_threads": f"{threads}",
            "precision": "FP32",
        },
        "XnnpackExecutionProvider": {"intra_op_num_threads": f"{threads}"},
    }
    return [(provider, own.get(provider, {})), *([(CPU, {})] if provider != CPU else [])]


def main(path: str, inputs: str, threads: str, level: str, provider: str) -> None:
    """Measure and print."""
    with np.load(inputs) as arrays:
        feeds = {name: arrays[name] for name in arrays.files}
    options, providers = session_options(int(threads), level), provider_list(provider, int(threads))
    baseline = _status("VmRSS")
    # Else the peak would be that of importing libraries, if it was higher.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    session = ort.InferenceSession(path, options, providers=providers)
    for _ in range(_RUNS):
        session.run(None, feeds)
    sys.stdout.write(json.dumps({"peak_bytes": _status("VmHWM"), "baseline_bytes": baseline}))


def _status(field: str) -> int:
    """Bytes: resident now (VmRSS) or at most since the last reset (VmHWM)."""
    status = Path("/proc/self/status")
    if status.is_file():
        lines = [line for line in status.read_text().splitlines() if line.startswith(field)]
        if lines:
            return int(lines[0].split()[1]) * 1024
    import psutil  # systems without /proc

    info = psutil.Process().memory_info()
    if field == "VmRSS":
        return int(info.rss)
    peak = getattr(info, "peak_wset", None)
    if peak is not None:
        return int(peak)
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # bytes on macOS


if __name__ == "__main__":
    main(*sys.argv[1:])
