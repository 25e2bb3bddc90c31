"""The table of all seeded faults, and which of them change nothing."""

from __future__ import annotations

from functools import cache

from engine.mutation import Mutant, systematic
from engine.rule_faults import RULE_FAULTS
from engine.step_faults import STEP_FAULTS

EQUIVALENT: dict[str, str] = {}
"""Faults that any rule can have and that are none in these rules, with the reason; they do not count."""


@cache
def mutants() -> tuple[Mutant, ...]:
    """All seeded faults."""
    found = (*systematic(), *RULE_FAULTS, *STEP_FAULTS)
    return tuple(m for m in found if m.name not in EQUIVALENT)
