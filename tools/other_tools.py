"""What other tools make of the nets of ``bench_latency.py``: torch-kirigami, and simplifiers of ONNX files.

    pip install --no-deps torch-pruning==1.6.1 torch-kirigami==0.2.1 onnxsim onnxslim

Whatever is not installed fails by that name; so does a tool that does not answer.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import nn

__all__ = ["KIRIGAMI", "SIMPLIFIERS", "NoAnswerError", "by_kirigami", "simplified", "version_of"]

KIRIGAMI = "torch-kirigami"
SIMPLIFIERS = ("onnxsim", "onnxslim")

ANSWER_S = 90
"""Seconds that torch-kirigami may take for a net, as in ``tools/results/ENGINE.md``."""

GONE = 0.3
"""Share of the channels that it is asked to remove: about half of the MACs."""


class NoAnswerError(Exception):
    """A tool that was stopped, or its own error."""


def version_of(package: str) -> str:
    """What is installed; empty if nothing is."""
    try:
        return version(package) if package else ""
    except PackageNotFoundError:
        return ""


def by_kirigami(make: Callable[[str], nn.Module], name: str, inputs: torch.Tensor) -> nn.Module:
    """A net with fewer channels everywhere, by magnitude, from a process of its own.

    Raises:
        NoAnswerError: It did not end in time, or failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "slim.pt"
        process = multiprocessing.get_context("spawn").Process(target=_prune, args=(make, name, inputs, file))
        process.start()
        process.join(ANSWER_S)
        if process.is_alive():
            process.kill()
            process.join()
            raise NoAnswerError(f"no answer in {ANSWER_S} s")
        said = file.with_suffix(".txt")
        if not file.exists():
            raise NoAnswerError(said.read_text() if said.exists() else f"exit code {process.exitcode}")
        model: nn.Module = torch.load(file, weights_only=False)
        return model


def _prune(make: Callable[[str], nn.Module], name: str, inputs: torch.Tensor, file: Path) -> None:
    torch.set_num_threads(1)
    try:
        from torch_kirigami import DependencyGraph
        from torch_kirigami.pruning import ChannelRatio, Greedy, GroupMagnitude, Pruner

        model = make(name)
        pruner = Pruner(model, graph=DependencyGraph.build(model, args=(inputs,), kwargs={}))
        strategy, found = Greedy(GroupMagnitude(p=1)), pruner.discover_candidates()
        torch.save(pruner.prune(found, budget=ChannelRatio(GONE), strategy=strategy)[0], file)
    except Exception as error:  # noqa: BLE001 - the peer's failures are part of the table
        file.with_suffix(".txt").write_text(type(error).__name__)


def simplified(path: Path, tool: str) -> Path:
    """An ONNX file as a simplifier writes it, beside the original.

    Raises:
        ImportError: It is not installed.
        RuntimeError: It says itself that its file is not the same function.
    """
    import onnx

    model = onnx.load(path)
    if tool == "onnxsim":
        import onnxsim

        model, same = onnxsim.simplify(model)
        if not same:
            raise RuntimeError("not the same function")
    else:
        import onnxslim

        model = onnxslim.slim(model)
    out = path.with_name(f"{path.stem}_{tool}.onnx")
    onnx.save(model, out)
    return out
