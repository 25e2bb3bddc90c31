"""The command line's arguments and options, each written once and used by several commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fxprune.errors import FxpruneError

__all__ = ["parse_align", "parse_ratios"]

_MODEL = "Model"
_BUDGET = "Budget (fraction to keep, one of)"
_PLAN = "What to prune"
_OUTPUT = "Output"

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="torchvision:resnet50, timm:NAME, package.module:factory, file.py:factory or file.pt2. "
        "Append @pretrained to the first two for published weights.",
        show_default=False,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        "-w",
        metavar="FILE",
        help="Weights of the model: safetensors, or a torch.save file of tensors. "
        "A file written by 'fxprune slim' makes the model slim.",
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
        help="Unpickle weights and .pt2 files that need it. Such a file can run any code: only if you trust it.",
        rich_help_panel=_MODEL,
    ),
]

Macs = Annotated[
    float | None,
    typer.Option("--macs", metavar="FRACTION", help="Multiply-accumulates to keep: 0.5 keeps half.", rich_help_panel=_BUDGET),
]
Params = Annotated[
    float | None,
    typer.Option("--params", metavar="FRACTION", help="Parameters to keep.", rich_help_panel=_BUDGET),
]
Channels = Annotated[
    float | None,
    typer.Option("--channels", metavar="FRACTION", help="Channels to keep in every group.", rich_help_panel=_BUDGET),
]
Latency = Annotated[
    float | None,
    typer.Option("--latency", metavar="FRACTION", help="Latency to keep, on the target.", rich_help_panel=_BUDGET),
]

Criterion = Annotated[
    str,
    typer.Option("--criterion", "-c", metavar="NAME", help="How channels are ranked.", rich_help_panel=_PLAN),
]
Scope = Annotated[
    str,
    typer.Option(
        "--scope",
        metavar="global|local",
        help="Rank channels over the whole network, or keep the same share of every group.",
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
    str | None,
    typer.Option(
        "--keep-at-least",
        metavar="N|FRACTION",
        help="Fewest channels a group may keep: a number, or a fraction with a decimal point.",
        rich_help_panel=_PLAN,
    ),
]
Protect = Annotated[
    list[str] | None,
    typer.Option("--protect", metavar="PATTERN", help="Leave these alone, as 'layer4.*'. Repeatable.", rich_help_panel=_PLAN),
]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="PATTERN", help="Prune nothing but these. Repeatable.", rich_help_panel=_PLAN),
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
Target = Annotated[
    str,
    typer.Option("--target", metavar="NAME", help="The runtime to prune for.", rich_help_panel=_PLAN),
]

Json = Annotated[
    bool,
    typer.Option("--json", help="Print the result as JSON on stdout, and nothing else.", rich_help_panel=_OUTPUT),
]
Threads = Annotated[
    int,
    typer.Option("--threads", "-t", metavar="N", min=1, help="Threads of onnxruntime.", rich_help_panel=_OUTPUT),
]


def parse_ratios(texts: list[str] | None) -> dict[str, float]:
    """``["layer1.*=0.75"]`` as a mapping.

    Raises:
        BadParameter: Not of the form ``PATTERN=FRACTION``.

    Example:
        >>> parse_ratios(["layer1.*=0.75"])
        {'layer1.*': 0.75}
    """
    ratios = {}
    for text in texts or ():
        pattern, equals, value = text.rpartition("=")
        try:
            ratios[pattern] = float(value)
        except ValueError:
            equals = ""
        if not equals or not pattern:
            raise typer.BadParameter(f"'{text}' is not PATTERN=FRACTION", param_hint="--ratio")
    return ratios
