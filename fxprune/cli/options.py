"""The command line's arguments and options, each written once and used by several commands."""

from __future__ import annotations

from enum import Enum
from math import isfinite
from pathlib import Path
from typing import Annotated

import typer

from fxprune.cli import completion

_MODEL = "Model"
_BUDGET = "Budget (fraction to keep, one of)"
_FLOOR = "Or the smallest model that stays good enough"
_PLAN = "What to prune"
_SHOW = "What to show"
_MEASURE = "Measurement"
_OUTPUT = "Output"

_MOST = 2**31 - 1


def _finite(seconds: float | None) -> float | None:
    """Neither infinity nor no number, which no bound keeps out."""
    if seconds is not None and not isfinite(seconds):
        raise typer.BadParameter(f"{seconds} is no time")
    return seconds


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="torchvision:resnet50, timm:NAME, hf:FOLDER, ultralytics:yolo11n.yaml, package.module:factory, file.py:factory or file.pt2. "
        "Append @pretrained to the first two for published weights, '?num_classes=10' for arguments of the factory.",
        show_default=False,
        autocompletion=completion.models,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        "-w",
        metavar="FILE",
        help="Weights of the model: safetensors, or a torch.save file of tensors. "
        "A head of another size is read off them. A file written by 'fxprune slim' makes the model slim.",
        rich_help_panel=_MODEL,
    ),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="SHAPE|FILE",
        help="Example input: 1x3x224x224, 1x128:int64:0..30521, name=1x128:int64, or an .npz or .pt file. "
        "Repeat it for several arguments. Known for torchvision and timm models.",
        rich_help_panel=_MODEL,
    ),
]
AllowPickle = Annotated[
    bool,
    typer.Option(
        "--allow-pickle",
        help="Read .pt2 files, and unpickle weights that need it. Such a file can run any code: only if you trust it.",
        rich_help_panel=_MODEL,
    ),
]

Macs = Annotated[
    float | None,
    typer.Option(
        "--macs",
        metavar="FRACTION",
        help="Multiply-accumulates to keep: 0.5 keeps half.",
        rich_help_panel=_BUDGET,
    ),
]
Params = Annotated[
    float | None,
    typer.Option("--params", metavar="FRACTION", help="Parameters to keep.", rich_help_panel=_BUDGET),
]
Channels = Annotated[
    float | None,
    typer.Option(
        "--channels", metavar="FRACTION", help="Channels to keep, over all groups.", rich_help_panel=_BUDGET
    ),
]
Latency = Annotated[
    float | None,
    typer.Option(
        "--latency",
        metavar="FRACTION",
        help="Time of one run to keep, measured in onnxruntime if this machine is the target.",
        rich_help_panel=_BUDGET,
    ),
]
LatencyMs = Annotated[
    float | None,
    typer.Option(
        "--latency-ms", metavar="MS", help="Time of one run, in milliseconds.", rich_help_panel=_BUDGET
    ),
]

Accuracy = Annotated[
    float | None,
    typer.Option(
        "--accuracy",
        metavar="LEAST",
        help="Least accuracy after recovery on --calibrate, a share of the samples with labels in --data; without --data "
        "one less the error of the outputs, relative to the dense model's spread.",
        rich_help_panel=_FLOOR,
    ),
]
Trials = Annotated[
    Path | None,
    typer.Option(
        "--trials",
        metavar="FILE.json",
        help="Keep what is known of each size there; the same command goes on from it.",
        rich_help_panel=_FLOOR,
    ),
]

Criterion = Annotated[
    str,
    typer.Option(
        "--criterion",
        "-c",
        metavar="NAME",
        help="How channels are ranked: l1, l2, bn_scale, fpgm or random; with --data also taylor, hessian or activation; with --calibrate also sensitivity (best, takes minutes) or reconstruction.",
        autocompletion=completion.criteria,
        rich_help_panel=_PLAN,
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="FILE.npz",
        help="Batches for criteria that look at data: inputs and class numbers 'y', as written by numpy.savez.",
        rich_help_panel=_PLAN,
    ),
]


Calibrate = Annotated[
    Path | None,
    typer.Option(
        "--calibrate",
        metavar="FILE|FOLDER",
        help="Samples without labels, some hundred of them: the slim model's weights are solved for what the dense model computes on them. "
        "An .npz, .npy or .pt file of inputs, a folder of such files, or a folder of pictures (normalised as for ImageNet). "
        "By default the inputs of --data, if that is given.",
        rich_help_panel=_PLAN,
    ),
]


class ScopeName(Enum):
    """What the ranking spans."""

    everywhere = "global"
    each = "local"
    alike = "isomorphic"


Scope = Annotated[
    ScopeName,
    typer.Option(
        "--scope",
        help="Rank channels over the whole network, keep the same share of every group, or of all groups of one shape and role together.",
        rich_help_panel=_PLAN,
    ),
]
Align = Annotated[
    str,
    typer.Option(
        "--align",
        metavar="auto|N",
        help="Widths are multiples of N; auto takes the steps of the target (1 for none).",
        rich_help_panel=_PLAN,
    ),
]
KeepAtLeast = Annotated[
    int,
    typer.Option(
        "--keep-at-least",
        metavar="N",
        min=1,
        max=_MOST,
        help="Channels that every group keeps.",
        rich_help_panel=_PLAN,
    ),
]
Protect = Annotated[
    list[str] | None,
    typer.Option(
        "--protect",
        metavar="PATTERN",
        help="Leave these alone, as 'layer4.*'. Repeatable.",
        rich_help_panel=_PLAN,
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only", metavar="PATTERN", help="Prune nothing but these. Repeatable.", rich_help_panel=_PLAN
    ),
]
Ratio = Annotated[
    list[str] | None,
    typer.Option(
        "--ratio",
        metavar="PATTERN=FRACTION",
        help="Keep this share of the matching groups, as 'layer1.*=0.75'. Repeatable.",
        rich_help_panel=_PLAN,
    ),
]


class BlocksName(Enum):
    """How matrices of units shrink."""

    auto = "auto"
    whole = "whole"
    inside = "inside"


Blocks = Annotated[
    BlocksName,
    typer.Option(
        "--blocks",
        help="Heads and groups go whole, or shrink inside; auto: whole from four of them on.",
        rich_help_panel=_PLAN,
    ),
]
KeepClass = Annotated[
    bool,
    typer.Option(
        "--keep-class",
        help="Plan so that the model's own class can hold the slim model, where a graph would come out else.",
        rich_help_panel=_PLAN,
    ),
]
PlanSeed = Annotated[
    int,
    typer.Option(
        "--seed",
        metavar="N",
        min=0,
        max=_MOST,
        help="Of everything random in the plan.",
        rich_help_panel=_PLAN,
    ),
]
Target = Annotated[
    str,
    typer.Option(
        "--target",
        metavar="NAME|FILE",
        help="The runtime to prune for: onnxruntime-cpu (this machine's), onnxruntime-cpu-avx512, onnxruntime-cpu-avx2 or any; or the FILE.json that 'fxprune calibrate' wrote on the machine that is meant.",
        autocompletion=completion.targets,
        rich_help_panel=_PLAN,
    ),
]

Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print the result as JSON on stdout, and nothing else there.", rich_help_panel=_OUTPUT
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Replace what is there of another model or budget.", rich_help_panel=_OUTPUT
    ),
]
Threads = Annotated[
    int,
    typer.Option(
        "--threads",
        "-t",
        metavar="N",
        min=1,
        max=_MOST,
        help="Threads of onnxruntime.",
        rich_help_panel=_MEASURE,
    ),
]

Why = Annotated[
    str | None,
    typer.Option(
        "--why",
        metavar="NAME",
        help="Explain one tensor, module or group of the table: its ties, or why it is pinned.",
        rich_help_panel=_SHOW,
    ),
]
Dim = Annotated[
    int | None,
    typer.Option(
        "--dim",
        metavar="N",
        help="Which dimension of that tensor (default: 0, or where a group is made).",
        rich_help_panel=_SHOW,
    ),
]
SensitivityTable = Annotated[
    bool,
    typer.Option(
        "--sensitivity",
        help="How far the outputs are off when a quarter, a half, three quarters of one group go, as sliced and recovered on --calibrate.",
        rich_help_panel=_SHOW,
    ),
]
Graph = Annotated[
    list[Path] | None,
    typer.Option(
        "--graph",
        metavar="FILE",
        help="Write the dependency graph: .dot, .graphml or .json. Repeatable.",
        rich_help_panel=_SHOW,
    ),
]
Everything = Annotated[
    bool, typer.Option("--all", help="List pinned axes that are no channels, too.", rich_help_panel=_SHOW)
]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="Fail at an op without a rule instead of pinning.", rich_help_panel=_SHOW),
]

PlanFile = Annotated[
    Path,
    typer.Option(
        "--plan", "-p", metavar="FILE", help="A plan written by 'fxprune plan'.", show_default=False
    ),
]
PlanOut = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="FILE.json", help="Write the plan to a file.", rich_help_panel=_OUTPUT
    ),
]
SlimOut = Annotated[
    Path,
    typer.Option("--out", "-o", metavar="FILE.safetensors", help="The file to write.", show_default=False),
]
OnnxOut = Annotated[
    Path, typer.Option("--out", "-o", metavar="FILE.onnx", help="The file to write.", show_default=False)
]
OutFolder = Annotated[
    Path,
    typer.Option("--out", "-o", metavar="FOLDER", help="The folder to write into; made if it is not there."),
]
Check = Annotated[
    bool,
    typer.Option("--verify/--no-verify", help="Refuse to write what is not equal.", rich_help_panel=_OUTPUT),
]
Opset = Annotated[
    int,
    typer.Option(
        "--opset", metavar="N", min=1, max=_MOST, help="ONNX operator set.", rich_help_panel=_OUTPUT
    ),
]
Passes = Annotated[
    str,
    typer.Option(
        "--passes",
        metavar="all|none|NAME,NAME",
        help="What may be changed in the graph to run faster: pooling, gemm, padding, groups, norms; none for torch's graph.",
        rich_help_panel=_OUTPUT,
    ),
]
FileTarget = Annotated[
    str,
    typer.Option(
        "--target",
        metavar="NAME|FILE",
        help="The runtime to make the file fast for: onnxruntime-cpu (this machine's), -avx512 or -avx2 after it, or any; or a FILE.json of 'fxprune calibrate'.",
        autocompletion=completion.targets,
        rich_help_panel=_OUTPUT,
    ),
]
StaticBatch = Annotated[
    bool, typer.Option("--static-batch", help="Fix the batch size to the example's.", rich_help_panel=_OUTPUT)
]

RecipePath = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE.yaml",
        help="What to do; see python -m pydoc fxprune.training.recipe.schema.",
        autocompletion=completion.recipes,
    ),
]
RunFolder = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FOLDER",
        help="Where everything is written (default: runs/NAME of the recipe).",
        rich_help_panel=_OUTPUT,
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint, if there is one.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value, as sparse.lr=0.1. Repeatable."),
]

OnnxFiles = Annotated[
    list[str],
    typer.Argument(
        metavar="[NAME=]FILE.onnx...", help="ONNX files; the first is what the others are compared with."
    ),
]
Repeats = Annotated[
    int,
    typer.Option(
        "--repeats",
        metavar="N",
        min=1,
        max=_MOST,
        help="Rounds: timed samples of each file.",
        rich_help_panel=_MEASURE,
    ),
]
Seconds = Annotated[
    float | None,
    typer.Option(
        "--seconds",
        metavar="S",
        min=0,
        callback=_finite,
        help="Measure for this long instead.",
        rich_help_panel=_MEASURE,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch",
        metavar="N",
        min=1,
        max=_MOST,
        help="Repeat the example's samples to this batch size.",
        rich_help_panel=_MEASURE,
    ),
]
Memory = Annotated[
    bool, typer.Option("--memory/--no-memory", help="Measure peak memory, too.", rich_help_panel=_MEASURE)
]
Levels = Annotated[
    str,
    typer.Option(
        "--levels",
        metavar="NAME,NAME",
        help="Optimisation levels of onnxruntime to run every file at: all, extended, basic, disabled.",
        rich_help_panel=_MEASURE,
    ),
]
Providers = Annotated[
    str | None,
    typer.Option(
        "--providers",
        metavar="NAME,NAME",
        help="Execution providers of onnxruntime to run every file on beside the CPU's own: openvino, xnnpack, ...",
        rich_help_panel=_MEASURE,
    ),
]
Profile = Annotated[
    bool,
    typer.Option(
        "--profile", help="Show where the time goes, operator by operator, too.", rich_help_panel=_MEASURE
    ),
]
Limit = Annotated[
    float,
    typer.Option(
        "--limit",
        metavar="S",
        min=0.1,
        callback=_finite,
        help="Stop the first run of a file after this long.",
        rich_help_panel=_MEASURE,
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed", metavar="N", min=0, max=_MOST, help="Of the weights and of the order of the data."
    ),
]
