"""How a budget is spent: one set of options for ``plan``, ``compress``, the command line, recipes and methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Literal, get_args

from fxprune import targets
from fxprune.errors import PlanError
from fxprune.plans import Scope

if TYPE_CHECKING:
    from fxprune.planning.atoms import Mode

__all__ = ["PlanOptions"]


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """How a budget is spent.

    Attributes:
        scope: ``"global"`` removes the least important units of the model, ``"local"`` the same share
            of every group, ``"isomorphic"`` the same share of all groups of one shape and role together, the least
            important ones among them (Fang et al., "Isomorphic Pruning for Vision Models", ECCV 2024; deviation: groups are alike if
            their widths are equal and they are made and read along the same dimensions).
        align: Step on which widths of convolutions end: the target's own step, or a number of
            positions (1: any width).  An axis that has a step keeps one; a narrower one moves in halves, quarters,
            ... of a step; one that is off the step to begin with may also stay as it is.
        keep_at_least: Units that every group keeps.
        protect: Groups that must stay whole: names of groups or tensors, with wildcards.  A tensor's name
            stands for every group that has an axis of it, whether the tensor makes or reads its units.
        only: If given, all other groups stay whole.
        ratios: Fraction to keep of some groups, by pattern; the other groups serve the budget.
        target: Runtime whose steps count (``fxprune.targets``); for budgets of latency with threads and batch, as
            ``"onnxruntime-cpu?threads=2&batch=8"``.
        blocks: How matrices of units (heads x width, groups x channels) shrink: whole rows, equally many
            units inside each row, or rows from four rows on (``"auto"``).
        keep_class: Plan so that the user's own class can hold the result, where a graph would be needed else: halves of a
            ``chunk`` stay equal, heads go whole, what code has as numbers stays.
        seed: Of everything random.

    Raises:
        PlanError: An option makes no sense.

    Example:
        >>> PlanOptions(align=8, protect="head*").protect
        ('head*',)
    """

    scope: Scope = "global"
    align: Literal["auto"] | int = "auto"
    keep_at_least: int = 1
    protect: Sequence[str] = ()
    only: Sequence[str] = ()
    ratios: Mapping[str, float] = field(default_factory=dict)
    target: str = targets.DEFAULT_TARGET
    blocks: Mode = "auto"
    keep_class: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.align != "auto" and not _is_count(self.align):
            raise PlanError(
                f"align={self.align!r} is no step",
                advice="use 'auto' or a number of channels, 1 for any width",
            )
        if not _is_count(self.keep_at_least):
            raise PlanError(
                f"keep_at_least={self.keep_at_least!r} would empty a layer", advice="use 1 or more units"
            )
        for option, value, known in (
            ("scope", self.scope, get_args(Scope)),
            ("blocks", self.blocks, ("auto", "whole", "inside")),
        ):
            if value not in known:
                raise PlanError(f"{option}={value!r} is unknown", advice=f"use one of: {', '.join(known)}")
        targets.check(self.target)
        for name in ("protect", "only"):
            object.__setattr__(self, name, _listed(getattr(self, name)))

    def as_json(self) -> dict[str, object]:
        """Those that are not the defaults, as plain values."""
        plain = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.default_factory is not MISSING or getattr(self, f.name) != f.default
        }
        tidy = {
            k: dict(v) if isinstance(v, Mapping) else list(v) if isinstance(v, tuple) else v
            for k, v in plain.items()
        }
        return {k: v for k, v in tidy.items() if v not in ({}, [])}

    @property
    def step(self) -> int:
        """Positions by which widths of convolutions move."""
        return targets.get(self.target).channel_step if self.align == "auto" else self.align


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _listed(patterns: Sequence[str]) -> tuple[str, ...]:
    """A single pattern counts as a list of one: iterating over its letters is never meant."""
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)
