"""How onnxruntime may run a file: how far it optimises the graph, and whose kernels it takes.

All optimisations on the CPU's own kernels are what everything here runs under.  They are not always the fastest: the blocked
layout that the highest level brings can lose more by conversions than it wins (onnxruntime's issue 26992), and another
provider may have better kernels for a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnxruntime as ort

from fxprune.errors import ExportError
from fxprune.onnx.memory_probe import CPU, LEVELS
from fxprune.support.words import near

__all__ = ["Setting", "settings"]

_SUFFIX = "ExecutionProvider"

_INSTALL = {
    "OpenVINO": "install onnxruntime-openvino in place of onnxruntime: pip uninstall onnxruntime, then pip install onnxruntime-openvino",
    "Xnnpack": "no wheel on PyPI has it: build onnxruntime with --use_xnnpack (onnxruntime.ai/docs/build/eps.html) and install that",
}


@dataclass(frozen=True)
class Setting:
    """How a file is run.

    Attributes:
        level: A key of ``LEVELS``.
        provider: As onnxruntime calls it.

    Example:
        >>> print(Setting(), Setting("basic", "XnnpackExecutionProvider"), sep=" / ")
        onnxruntime / onnxruntime, basic, Xnnpack
    """

    level: str = "all"
    provider: str = CPU

    def __str__(self) -> str:
        return ", ".join(("onnxruntime", *self.beside(Setting())))

    def beside(self, other: Setting) -> tuple[str, ...]:
        """What differs from another setting, in words."""
        level = (self.level,) * (self.level != other.level)
        return *level, *(self.provider.removesuffix(_SUFFIX),) * (self.provider != other.provider)


def settings(levels: Sequence[str] = ("all",), providers: Sequence[str] = ()) -> tuple[Setting, ...]:
    """The CPU's kernels at every level, then every other provider at every level.

    Args:
        levels: Of optimisation, as onnxruntime has them: ``"all"``, ``"extended"``, ``"basic"``, ``"disabled"``.
        providers: Beside the CPU's: names as onnxruntime has them, with or without ``ExecutionProvider``, in any case.

    Raises:
        ExportError: There is no such level or provider, or the onnxruntime that is installed does not have it.

    Example:
        >>> settings(["all", "extended"])[1]
        Setting(level='extended', provider='CPUExecutionProvider')
    """
    for level in levels:
        if level not in LEVELS:
            raise ExportError(
                f"there is no optimisation level '{level}'",
                advice=f"{near(level, LEVELS, most=1)} choose from {', '.join(LEVELS)}".strip(),
            )
    if not levels:
        raise ExportError("no optimisation level is left to run at", advice="pass 'all'")
    kernels = dict.fromkeys((CPU, *map(_provider, providers)))
    return tuple(Setting(level, kernel) for kernel in kernels for level in dict.fromkeys(levels))


def _provider(name: str) -> str:
    """A provider by its name, if it is there."""
    known = {
        p.removesuffix(_SUFFIX).lower(): p for p in (*ort.get_all_providers(), *ort.get_available_providers())
    }
    full: str | None = known.get(name.lower().removesuffix(_SUFFIX.lower()))
    if full is None:
        raise ExportError(
            f"onnxruntime has no execution provider '{name}'",
            advice=f"{near(name.lower(), known, most=1)} choose from {', '.join(sorted(known))}".strip(),
        )
    if full not in ort.get_available_providers():
        there = ", ".join(p.removesuffix(_SUFFIX) for p in ort.get_available_providers())
        advice = _INSTALL.get(full.removesuffix(_SUFFIX), "install an onnxruntime that was built with it")
        raise ExportError(
            f"onnxruntime {ort.__version__} as it is installed does not have {full} (it has {there})",
            advice=advice,
        )
    return full
