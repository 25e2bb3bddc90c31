"""Two methods in a file as somebody outside of fxprune would write it: one on groups, one on the bare protocol."""

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

import fxprune
from fxprune.regularizers import GroupRegularizer, Regularizer, Report, energy
from fxprune.regularizers.decisions import cut_by, trace_of


class Fading(GroupRegularizer):
    """Weight decay on whole units that grows; a unit goes where it has lost a share of its size."""

    name = "fading"

    def __init__(self, model, groups, *, lost: float, growth: float = 0.5, every: int = 2, **options) -> None:
        super().__init__(model, groups, **options)
        self._lost, self._growth, self._every = lost, growth, every
        self._factor = torch.zeros((), dtype=self.view.dtype)
        self._before = self._size()

    def _size(self) -> Tensor:
        return self.view.per_atom(self.view.sums(2)).sqrt()

    @property
    def period(self) -> int:
        return self._every

    def _penalty(self) -> Tensor:
        factor = self.strength * self._factor
        return energy(self.view, lambda squares: (factor * squares.sum(), factor.expand_as(squares)))

    def _step(self) -> None:
        if self.steps % self._every == 0:
            self._factor = self._factor + self._growth

    def _alive(self) -> Tensor:
        return self._importance() > 1 - self._lost

    def _importance(self) -> Tensor:
        return self._size() / self._before

    def _own_state(self) -> dict[str, Tensor]:
        return {"factor": self._factor, "before": self._before}

    def _load_own_state(self, state: Mapping[str, Tensor]) -> None:
        self._factor, self._before = state["factor"], state["before"]


class Faithful(Regularizer):
    """No labels: the model stays near what it was while its inputs are shaken; then the smallest units go."""

    name = "faithful"

    def __init__(self, model, groups, *, lr, keep: float = 0.6, shake: tuple[float, ...] = (0.1,)) -> None:
        self.groups = tuple(groups)
        self.student = model
        self._before = copy.deepcopy(model).requires_grad_(False)
        self._lr, self._keep, self._shake = lr, keep, shake
        self._steps, self._decided = 0, None

    @property
    def finished(self) -> bool:
        return self._decided is not None

    @property
    def objective(self):
        def loss(inputs: Tensor) -> Tensor:
            target = self._before(inputs)
            return sum((self.student(inputs * (1 + by)) - target).square().mean() for by in self._shake)

        return loss

    def penalty(self) -> Tensor:
        return torch.zeros(())

    def step(self) -> None:
        self._steps += 1
        if self.finished:
            self._zero()

    def finish(self, plan=None) -> None:
        self._decided = self._decided or plan or self.plan()
        self._zero()

    def plan(self, budget=None, options=None):
        if budget is None and self._decided is not None:
            return self._decided
        given = {} if options is None else {"align": options.align, "protect": options.protect}
        return fxprune.plan(trace_of(self.groups), budget or fxprune.Budget(params=self._keep), **given)

    def removed_units(self) -> np.ndarray:
        return cut_by(self.groups, self.plan())

    @torch.no_grad()
    def _zero(self) -> None:
        gone, parameters = self.removed_units(), dict(self.student.named_parameters())
        for group in self.groups:
            for (name, dim), index in group.indices.items():
                if name in parameters:
                    dead = torch.from_numpy(index[np.isin(group.units, gone)].ravel())
                    parameters[name].index_fill_(dim, dead, 0.0)

    def report(self) -> Report:
        rate = self._lr.param_groups[0]["lr"]
        return Report(self.name, self._steps, 1 - self._keep, 0.0, 0.0, 0.0, {"rate": rate})

    def state_dict(self) -> dict[str, Tensor]:
        before = {f"before.{name}": value for name, value in self._before.state_dict().items()}
        text = b"" if self._decided is None else self._decided.to_json().encode()
        return {
            "steps": torch.tensor(self._steps),
            "decided": torch.tensor(list(text), dtype=torch.uint8),
            **{name: value.clone() for name, value in before.items()},
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if "decided" not in state:
            raise fxprune.PlanError("this state does not belong to faithful", advice="load its own")
        self._steps, text = int(state["steps"]), bytes(state["decided"].tolist()).decode()
        self._decided = fxprune.Plan.from_json(text) if text else None
        own = {name.removeprefix("before."): v for name, v in state.items() if name.startswith("before.")}
        self._before.load_state_dict(own)
