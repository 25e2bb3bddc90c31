"""Evidence: what a comparison of a slim model with its dense one came to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

__all__ = ["Proof"]


@dataclass(frozen=True)
class Proof:
    """What was compared and how close it came.

    Attributes:
        error: Largest difference between the slim model and what an oracle expects of it, relative to the effect of
            the removal on the same output channel (at least a thousandth of the channel's largest entry in
            float64); the worst oracle, input, output and channel.
        tolerance: What ``error`` had to stay below.
        dtype: Floating type of the comparison.
        effect: How much the removal changes the output at all, relative; 0 where nothing was
            removed or where what was removed was already zero.
        inexact: Units removed that others see through statistics (layer norm, say).  For them
            the dense model computes those statistics over what is left.
        inexact_difference: How far simply zeroing these units would be from the slim model.
        units: Units removed.
        inputs: Number of inputs compared (the example, and random ones of its shape).
        livened: The comparison ran with random weights because the model's own output is
            constant, as with a zero-initialised head, and would have proved nothing.
        structures: Structures cut whole; the dense model was run with their results multiplied by
            zero and compared with the model that was cut, before anything else was removed.
        crops: Kernels that lost a border; it was zeroed in the dense model.
        judged: For each oracle the share of the outputs' numbers that it could judge: ``"graph"`` zeroes what the
            rules say is dead in the traced graph, ``"masks"`` knows the plan and no rules (``fxprune.proof``).
        unjudged: Why an oracle could not judge the rest.
    """

    error: float
    tolerance: float
    dtype: str
    effect: float
    inexact: int
    inexact_difference: float
    units: int
    inputs: int
    livened: bool
    structures: int = 0
    crops: int = 0
    judged: Mapping[str, float] = field(default_factory=dict)
    unjudged: str = ""

    def to_json(self) -> str:
        """The proof as JSON text."""
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        note = (
            f", {self.inexact} of them inexact (zeroing alone would differ by {self.inexact_difference:.1e})"
        )
        cuts = f"{self.structures} structures cut, " if self.structures else ""
        cuts += f"{self.crops} kernels cropped, " if self.crops else ""
        return (
            f"zeroed == slim within {self.error:.1e} (limit {self.tolerance:.0e}, {self.dtype}, {self.inputs} inputs); "
            f"{cuts}{self.units} units removed{note if self.inexact else ''}, effect {self.effect:.1e}; {self.evidence()}"
        )

    def evidence(self) -> str:
        """Which oracle judged which share of the outputs, in words.

        Example:
            >>> Proof(0, 1, "float64", 1, 0, 0, 1, 1, False, judged={"graph": 1.0, "masks": 0.5}).evidence()
            'judged by the graph oracle 100 %, by the mask oracle 50 %'
        """
        named = {"graph": "graph", "masks": "mask"}
        shares = ", ".join(
            f"by the {named[oracle]} oracle {100 * share:.3g} %" for oracle, share in self.judged.items()
        )
        return f"judged {shares}" + (f" ({self.unjudged})" if self.unjudged else "")
