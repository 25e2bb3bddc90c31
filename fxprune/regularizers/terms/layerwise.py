"""The layer-wise order of SSR: one group after the other, sparse steps, then masked fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fxprune.errors import PlanError
from fxprune.regularizers.protocol import State
from fxprune.regularizers.terms.local import held
from fxprune.regularizers.terms.view import GroupView

__all__ = ["Stages"]


class Stages:
    """Which family is worked on at which step, and what must not move meanwhile.

    In a family's sparse steps only its own parameters train.  The others are put back after the
    optimizer's step instead of being frozen, so that wrappers which expect every gradient keep working.

    Args:
        view: The parameters of the groups.
        owner: The module; all its parameters are put back.
        steps: Sparse and fine-tuning steps for each family.
    """

    def __init__(self, view: GroupView, owner: nn.Module, steps: tuple[int, int]) -> None:
        if steps[0] < 1 or steps[1] < 0:
            raise PlanError(
                f"stage_steps={steps} leaves nothing to do", advice="pass (sparse >= 1, fine-tune >= 0)"
            )
        self._view = view
        self._owner = owner
        self._sparse, self._tune = steps
        self._kept: list[Tensor] = []
        self._kept_for = -1

    def stage(self, step: int) -> int:
        """The family whose turn it is; the number of families when all are done."""
        return min(step // (self._sparse + self._tune), len(self._view.layout.families))

    def offset(self, step: int) -> int:
        """Steps since that family's turn began."""
        return step % (self._sparse + self._tune)

    def is_sparse(self, step: int) -> bool:
        """The step is one of a family's sparse steps."""
        done = self.stage(step) == len(self._view.layout.families)
        return not done and self.offset(step) < self._sparse

    def active_terms(self, step: int) -> Tensor:
        """bool[n_terms] of the family whose turn it is."""
        return self._view.atom_family[self._view.term_atom] == self.stage(step)

    def done_terms(self, step: int) -> Tensor:
        """bool[n_terms] of families whose sparse steps are over: their masks hold."""
        limit = self.stage(step) + (not self.is_sparse(step))
        return self._view.atom_family[self._view.term_atom] < limit

    def _others(self, stage: int) -> list[Tensor]:
        term = self._view.atom_family[self._view.term_atom] == stage
        mine = set()
        for slot, tensor in zip(self._view.layout.slots, self._view.tensors(), strict=True):
            index = self._view.position_term[slot.start : slot.stop]
            if bool(term[index[index < len(term)]].any()):
                mine.add(id(tensor))
        return [held(p) for p in self._owner.parameters() if id(p) not in mine]

    def freeze(self, step: int) -> None:
        """Remember what must not move, at the first sparse step of a family."""
        if self.is_sparse(step) and self._kept_for != self.stage(step):
            self._kept = [p.clone() for p in self._others(self.stage(step))]
            self._kept_for = self.stage(step)

    @torch.no_grad()
    def restore(self, step: int) -> None:
        """Put back what must not have moved in the optimizer's step number ``step``."""
        if self.is_sparse(step) and self._kept_for == self.stage(step):
            torch._foreach_copy_(self._others(self.stage(step)), self._kept)

    def state(self) -> State:
        """Tensors that a bit-equal continuation needs."""
        kept = {f"kept.{k}": value for k, value in enumerate(self._kept)}
        return kept | {"kept_for": torch.tensor(self._kept_for)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` gave."""
        self._kept_for = int(state["kept_for"])
        self._kept = [state[f"kept.{k}"] for k in range(len(state) - 1)]
