"""What an ONNX file costs to make: fxprune's export beside torch's own, with and without the comparison with torch.

    python tools/bench_export.py                       # into tools/results/EXPORT.md, some minutes

``export_onnx`` is torch's exporter and what comes before and after it: nested shapes are made plain, patterns are written as
one operator, the file is held against the standard, opened in onnxruntime, and compared with the module on the example, on
random inputs and at two other batch sizes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torchvision
from machine_note import machine_note

import fxprune

MODELS = ("resnet18", "resnet50", "mobilenet_v3_large", "densenet121", "vit_b_16")
PAGE = Path(__file__).resolve().parent / "results" / "EXPORT.md"


def seconds(run: Callable[[], object]) -> float:
    """Processor time of one call."""
    began = time.process_time()
    run()
    return time.process_time() - began


def row(name: str, rounds: int) -> str:
    model, x = torchvision.models.get_model(name).eval(), torch.randn(1, 3, 224, 224)
    any_batch = ({0: torch.export.Dim("batch", min=1, max=64)},)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.onnx"
        ways: list[Callable[[], object]] = [
            lambda: torch.onnx.export(
                model, (x,), str(path), dynamo=True, verbose=False, dynamic_shapes=any_batch
            ),
            lambda: fxprune.export_onnx(model, x, path, verify=False),
            lambda: fxprune.export_onnx(model, x, path),
        ]
        times = [[seconds(way) for way in ways] for _ in range(rounds + 1)][1:]  # the first one warms up
    torchs, plain, whole = (median(column) for column in zip(*times, strict=True))
    cells = (
        f"{torchs:.1f} s",
        f"{plain:.1f} s ({plain / torchs:.2f})",
        f"{whole:.1f} s ({whole / torchs:.2f})",
    )
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lines = [
        "# What an export costs",
        "",
        f"`python tools/bench_export.py --models {' '.join(options.models)} --rounds {options.rounds}` wrote this: processor time, one thread, any batch size, medians of {options.rounds} rounds in turn; in brackets the share of torch's own time. {machine_note()}.",
        "",
        "| model | torch.onnx.export | export_onnx, verify=False | export_onnx |",
        "|---|---|---|---|",
        *(row(name, options.rounds) for name in options.models),
    ]
    PAGE.write_text("\n".join(lines) + "\n", "utf-8")
    print(PAGE.read_text("utf-8"))


if __name__ == "__main__":
    main()
