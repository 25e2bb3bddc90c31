"""Texts of the command line as values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fxprune.cli.options import BlocksName, ScopeName
    from fxprune.models.inputs import Labelled
    from fxprune.planning.options import PlanOptions
    from fxprune.plans import Budget

__all__ = [
    "check_names",
    "evidence",
    "parse_align",
    "parse_budget",
    "parse_files",
    "parse_names",
    "parse_passes",
    "parse_ratios",
    "plan_options",
]

_DIGITS = 9  # of a number of channels


def parse_budget(
    *,
    macs: float | None,
    params: float | None,
    channels: float | None,
    latency: float | None,
    latency_ms: float | None,
) -> Budget:
    """The budget that was given.

    Raises:
        BadParameter: None was given, or what does not go together.
    """
    from fxprune.errors import PlanError
    from fxprune.plans import Budget

    hint = "--macs, --params, --channels, --latency, --latency-ms"
    try:
        return Budget(macs=macs, params=params, channels=channels, latency=latency, latency_ms=latency_ms)
    except PlanError as error:
        raise typer.BadParameter(f"{error.what}; {error.advice}", param_hint=hint) from None


def plan_options(
    *,
    scope: ScopeName,
    align: str,
    keep_at_least: int,
    protect: list[str] | None,
    only: list[str] | None,
    ratio: list[str] | None,
    target: str,
    blocks: BlocksName,
    keep_class: bool,
    seed: int,
) -> PlanOptions:
    """The options of a plan.

    Raises:
        BadParameter: One cannot be read.
        PlanError: One makes no sense.
    """
    from fxprune.planning.options import PlanOptions

    return PlanOptions(
        scope=scope.value,
        align=parse_align(align),
        keep_at_least=keep_at_least,
        protect=protect or (),
        only=only or (),
        ratios=parse_ratios(ratio) or {},
        target=target,
        blocks=blocks.value,
        keep_class=keep_class,
        seed=seed,
    )


def check_names(criterion: str, target: str, *, has_data: bool, has_samples: bool = False) -> None:
    """Refuse what a plan would refuse, before the model is loaded and traced.

    Raises:
        PlanError: No such criterion or target, or a criterion that needs data.
    """
    from fxprune import targets
    from fxprune.criteria import FROM_SAMPLES
    from fxprune.criteria.named import criterion_named
    from fxprune.errors import PlanError

    targets.check(target)
    if criterion in FROM_SAMPLES:
        if has_samples:
            return
        raise PlanError(
            f"criterion '{criterion}' looks at what the model makes of samples, and --calibrate is missing",
            advice="pass --calibrate FILE|FOLDER with some hundred inputs, or choose a criterion that reads weights only",
        )
    needs = criterion_named(criterion).needs
    if needs and not has_data:
        raise PlanError(
            f"criterion '{criterion}' needs {' and '.join(sorted(needs))}, and --data is missing",
            advice="pass --data FILE.npz with inputs and class numbers 'y', or choose a criterion that reads weights only",
        )


def parse_align(text: str) -> Literal["auto"] | int:
    """``auto`` or a number.

    Raises:
        BadParameter: Neither.
    """
    if text == "auto":
        return "auto"
    if text.isdecimal() and len(text) <= _DIGITS and int(text) > 0:
        return int(text)
    shown = text if len(text) <= 2 * _DIGITS else f"{text[:_DIGITS]}..."
    raise typer.BadParameter(f"'{shown}' is neither auto nor a number of channels", param_hint="--align")


def parse_ratios(texts: Sequence[str] | None) -> dict[str, float]:
    """``["layer1.*=0.75"]`` as a mapping.

    Raises:
        BadParameter: Not of the form ``PATTERN=FRACTION``.

    Example:
        >>> parse_ratios(["layer1.*=0.75"])
        {'layer1.*': 0.75}
    """
    ratios = {}
    for text in texts or ():
        pattern, _, value = text.rpartition("=")
        try:
            ratios[pattern] = float(value)
        except ValueError:
            pattern = ""
        if not pattern:
            raise typer.BadParameter(f"'{text}' is not PATTERN=FRACTION", param_hint="--ratio")
    return ratios


def parse_files(texts: Sequence[str]) -> dict[str, Path]:
    """``["a.onnx", "small=b.onnx"]`` as files by name.

    Raises:
        BadParameter: Two have one name.

    Example:
        >>> list(parse_files(["out/a.onnx", "small=b.onnx"]))
        ['a', 'small']
    """
    files: dict[str, Path] = {}
    for text in texts:
        name, _, path = text.rpartition("=")
        name = name or Path(path).stem
        if name in files:
            raise typer.BadParameter(
                f"two files are called '{name}'; write NAME={text}", param_hint="FILE.onnx"
            )
        files[name] = Path(path)
    return files


def parse_names(text: str) -> list[str]:
    """Names with commas between.

    Example:
        >>> parse_names("all, basic"), parse_names("")
        (['all', 'basic'], [])
    """
    return [name.strip() for name in text.split(",") if name.strip()]


def parse_passes(text: str) -> list[str] | None:
    """``all`` (None), ``none``, or names with commas between.

    Example:
        >>> parse_passes("all"), parse_passes("none"), parse_passes("gemm, groups")
        (None, [], ['gemm', 'groups'])
    """
    return None if text == "all" else [] if text == "none" else parse_names(text)


def evidence(
    path: Path | None,
) -> tuple[Iterable[Labelled] | None, Callable[[nn.Module, Labelled], torch.Tensor] | None]:
    """Batches and the loss on them, for criteria that look at data."""
    from fxprune.models.inputs import Labelled, labelled_batches

    return (None, None) if path is None else (labelled_batches(path), Labelled.loss)
