"""The table of all seeded faults, those that change nothing, and those that no proof can notice."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from testing.faults.rule_faults import RULE_FAULTS
from testing.faults.step_faults import STEP_FAULTS

from fxprune.testing.mutation.mutant import Mutant
from fxprune.testing.mutation.systematic import systematic

EQUIVALENT = {
    "aten::narrow: sizes do not follow": "the resolver sees that the slim operator picks others, and gathers instead",
    "aten::arange: off by one": "its labels are new ones: which of them is which does not matter",
    "aten::eye: off by one": "its labels are new ones, and rows and columns are off alike",
    "aten::roll: sizes do not follow": "the resolver sees that the slim operator picks others, and gathers instead",
    "aten::zeros: off by one": "its labels are new ones: which of them is which does not matter",
}
"""Faults that any rule can have and that change nothing in these, with the reason; they do not count."""

SMALLER = "labels that are lost, or tied to too many, keep more than they must: smaller savings, never a wrong model"
REFUSED = "what may not go is found when a plan takes it, not before: the plan is refused, no model is wrong"
NUMBERS = "a proof is about the model's results; predicted costs are compared with counted ones by laws"
FOLDING = "no plan scales anything; that a folded factor is a factor is a law of its own"

WHY = {
    "aten::zeros: loses labels": SMALLER,
    "aten::arange: loses labels": SMALLER,
    "aten::layer_norm: affine in front": SMALLER,
    "walk: rows and columns are one axis": SMALLER,
    "contract: columns of grouped transposed convolutions": SMALLER,
    "aten::index_select: pins nothing": "the entries of an index are made and read by no layer, so they stay in any case",
    "aten::mean: pins nothing": "where the largest of what is left lies is counted in what is left, by both sides",
    "aten::stack: pins nothing": "a row of a stack is a whole operand, and what would be emptied is refused",
    "aten::stack: knows no rows": "a row of a stack is a whole operand, and what would be emptied is refused",
    "walk: training parts not followed": "the proof runs the model as in evaluation, where these parts do not run",
    "walk: sizes are numbers": "where the batch is part of a width, the proof compares batches of the traced size only",
    "couple: idle units may go": "on the example's inputs nothing reads them, and on no others is anything compared",
    "aten::eye: loses labels": SMALLER,
    **dict.fromkeys(
        ("aten::reshape: shuffles need no equal columns", "walk: turned layouts are new ones"), REFUSED
    ),
    "couple: pins do not spread": "a plan that takes such a row is refused for its cells, which are pinned",
    **{m.name: NUMBERS for m in STEP_FAULTS if m.family == "cost"},
    **{m.name: FOLDING for m in STEP_FAULTS if m.family == "scaling"},
}
"""Faults that the library itself lets pass, and why; laws of the tests notice them."""

ZEROING = "only the first oracle asks where units are summed over: the slim model is right"

ALONE = {
    **{m.name: ZEROING for m in systematic() if m.name.endswith(": consumes nothing")},
    **dict.fromkeys(("aten::sum: first dimension only", "aten::cumsum: dimension one too low"), ZEROING),
    **dict.fromkeys(("walk: consumes once", "walk: inexact operators see zeros"), ZEROING),
}
"""Faults that the second oracle lets pass when it is asked alone, because no slice is wrong; laws notice them."""


@cache
def mutants() -> tuple[Mutant, ...]:
    """All seeded faults."""
    found = (*systematic(), *RULE_FAULTS, *STEP_FAULTS)
    return tuple(replace(m, why=WHY.get(m.name, "")) for m in found if m.name not in EQUIVALENT)
