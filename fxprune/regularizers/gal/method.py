"""GAL: soft masks on blocks, branches and channels, learned without labels against a discriminator."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxprune.coupling.groups import Group
from fxprune.errors import PlanError
from fxprune.graph.trace import ExampleInputs, call_arguments, evaluating
from fxprune.labels import IntArray
from fxprune.planning.options import PlanOptions
from fxprune.planning.spend import spend
from fxprune.plans import Budget, Plan
from fxprune.regularizers.clock import Clock
from fxprune.regularizers.decisions import no_plan_of_channels, trace_of
from fxprune.regularizers.gal.averaging import Averaging
from fxprune.regularizers.gal.discriminator import Adversary, Restraint, alignment_loss
from fxprune.regularizers.gal.fista import Fista
from fxprune.regularizers.gal.masked_plan import (
    alive_masks,
    channels_left,
    decided,
    fold_,
    silence_,
    spend_on_structures,
)
from fxprune.regularizers.gal.masks import Kind, Masks, make_masks
from fxprune.regularizers.gal.student import Student
from fxprune.regularizers.options import choose
from fxprune.regularizers.protocol import Objective, Regularizer, Report, State
from fxprune.regularizers.terms.layout import find_parameters

__all__ = ["GAL"]

Rate = torch.optim.Optimizer | Callable[[], float] | float
Features = Callable[[object], Tensor]
Start = Literal["ones", "half_normal", "uniform", "normal"]

PLURAL = {"block": "blocks", "branch": "branches", "channel": "channels"}


def first_logits(output: object) -> Tensor:
    """The first floating tensor of an output, one row a sample: float[n, d]."""
    leaves = [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]
    if not leaves:
        raise PlanError("the model returns no floating tensor to align", advice="pass features=")
    return leaves[0].flatten(1)


class GAL(Regularizer):
    """Generative adversarial learning of soft masks.

    The dense model is copied as a frozen teacher.  The student is the model itself with a mask ``m >= 0`` on
    every block (residual branch), concat branch or channel; it learns to return the teacher's logits while a
    discriminator learns to tell the two apart and FISTA drives masks to exact zeros.  Labels are not used::

        reg = GAL(model, groups, on=("block",), lam=0.1, lr=optimizer)
        for x in batches:
            optimizer.zero_grad()
            loss = reg.loss(x) + reg.penalty(); loss.backward(); optimizer.step(); reg.step()
        plan = reg.plan()                      # folds the masks into the model's weights
        slim = fxprune.slim(trace, plan)       # then fine-tune it with labels

    ``plan`` and ``finish`` take the decisions for good: masks that stay are multiplied into the weights, so
    ``model(x)`` is from then on what the masked student was, and the slim model has no multiplications.

    Args:
        model: The model in training, dense; its modes (``train``, ``eval``) are followed.
        groups: Coupling groups of its trace; channels of these get masks where ``on`` says so.
        on: Kinds of masks: ``"block"``, ``"branch"``, ``"channel"``, alone or jointly.
        lam: Coefficient of ``|m|_1``, by kind if you like.
        mu: Weight of the squared distance of the logits.
        lr: Step size for masks and discriminator: the optimizer (its first group), a function or a number.
        lr_scale: Multiplies ``lr``.  Weights that learn as fast as the masks grow as these shrink: no mask meets
            resistance, all fall alike, and their order means little.  With weights that all but stand still (a small
            ``lr``, 100 here) the masks settle where their blocks' worth balances ``lam`` (ours; 1 is published).
        mask_step: Steps between updates of the masks; their gradient is averaged over them.
        restraint: What keeps the discriminator from winning (``discriminator.Restraint``).
        restraint_strength: Coefficient of ``"l1"`` and ``"l2"``.
        init: Masks begin at one, at ``|N(0, 1)|``, uniformly in [0, 1], or at ``N(0, 1)``, of which the first
            update zeroes about half, whatever they stand for; None: at one, with ``paper_code`` at ``N(0, 1)``.
        features: From the model's output to float[n, d]; None: the first tensor, flattened.
        teacher: Another teacher than a copy of the model.
        protect: Patterns of structures and groups that get no mask.
        paper_code: Reproduce what the released code does differently, see below.
        seed: Of the discriminator's and the masks' first values.

    Attributes:
        masks: What carries a mask, and what was skipped and why.
        student: The masked model, to look at: ``reg.student(x)``.
        strength: Multiplies ``lam``.

    Raises:
        PlanError: Options make no sense, or nothing can carry a mask.

    Example:
        >>> import fxprune, torchvision
        >>> net = torchvision.models.resnet18(num_classes=10)
        >>> trace = fxprune.trace(net, torch.zeros(2, 3, 32, 32))
        >>> sgd = torch.optim.SGD(net.parameters(), lr=0.01)
        >>> reg = GAL(net, fxprune.couple(trace), on=("block",), lam=0.1, lr=sgd)
        >>> loss = reg.loss(torch.randn(4, 3, 32, 32)) + reg.penalty()
        >>> loss.backward(); sgd.step(); reg.step()
        >>> len(reg.masks), reg.report().zero_share
        (8, 0.0)

    References:
        Lin et al., Towards optimal structured CNN pruning via generative adversarial learning, CVPR 2019, and
        its released code.  ``paper_code`` restores, of that code: a sigmoid inside the discriminator before a
        loss that applies one, no activation between its layers; ``lam`` acting as a gradient and as a
        threshold; the gradient of the masks taken at ``m`` instead of the momentum point, from the last batch
        only; no restart when the step size drops; a teacher in training mode; masks drawn from ``N(0, 1)``.
        Deviation: masks of channels and branches act on whole coupling groups, where they are read.
    """

    name = "gal"
    spends = frozenset({"macs", "params", "channels"})

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        *,
        lr: Rate,
        on: Sequence[Kind] = ("block", "branch"),
        lam: float | Mapping[str, float] = 0.1,
        mu: float = 1.0,
        lr_scale: float = 1.0,
        mask_step: int = 200,
        restraint: Restraint = "ar",
        restraint_strength: float = 1e-3,
        init: Start | None = None,
        features: Features | None = None,
        teacher: nn.Module | None = None,
        protect: Sequence[str] = (),
        paper_code: bool = False,
        seed: int = 0,
    ) -> None:
        init = init or ("normal" if paper_code else "ones")
        choose("restraint", restraint, get_args(Restraint))
        choose("init", init, get_args(Start))
        _check_numbers(mask_step, lr_scale, mu, restraint_strength)
        self.groups = tuple(groups)
        self._trace = trace_of(groups)
        self._owner, _ = find_parameters(model, self._trace.names)
        self._averaging = Averaging(model)
        self.masks: Masks = make_masks(self._trace, self.groups, on, protect)
        self._paper, self._mu, self._mask_step = paper_code, mu, mask_step
        self._lr, self._lr_scale = lr, lr_scale
        self._features = features or first_logits
        self._like = next(self._owner.parameters())
        generator = torch.Generator().manual_seed(seed)
        start = _first_values(len(self.masks), init, generator).to(self._like)
        self._lam = self._coefficients(lam)
        self._fista = Fista(start, adaptive=not paper_code)
        self.student: Student = Student(self._trace, self._owner, self.masks, start)
        self._averaging.watch(self._owner.parameters())
        self._own_teacher = teacher is None
        self._teacher = copy.deepcopy(self._owner if teacher is None else teacher)
        self._teacher.requires_grad_(False).train(paper_code)
        self._adversary = Adversary(
            self._width(),
            like=self._like,
            seed=int(torch.randint(2**31, (), generator=generator)),
            restraint=restraint,
            strength=restraint_strength,
            averaging=self._averaging,
            paper_code=paper_code,
        )
        self.strength = 1.0
        self.steps = 0
        self._seen = 0
        self._rate = self._read_rate()
        self._alive: Tensor | None = None
        self._watched: dict[str, Tensor] = {}
        self._clock = Clock()

    def _coefficients(self, lam: float | Mapping[str, float]) -> Tensor:
        by_kind = lam if isinstance(lam, Mapping) else dict.fromkeys(set(self.masks.kinds), lam)
        unknown = set(by_kind) - {"block", "branch", "channel"}
        if unknown or any(not value >= 0 for value in by_kind.values()):
            raise PlanError(
                f"lam={lam!r}", advice='pass a number or {"block": 0.6, "channel": 0.1}, none negative'
            )
        values = [float(by_kind.get(kind, 0.0)) for kind in self.masks.kinds]
        return torch.tensor(values, dtype=self._like.dtype, device=self._like.device)

    def _width(self) -> int:
        """Number of features the model gives on its example inputs."""
        args, kwargs = pytree.tree_map_only(
            Tensor, lambda t: t.to(self._like.device), (self._trace.args, dict(self._trace.kwargs))
        )
        with torch.no_grad(), evaluating(self._teacher):
            return self._features(self._teacher(*args, **kwargs)).shape[1]

    def _read_rate(self) -> float:
        if isinstance(self._lr, torch.optim.Optimizer):
            rate = self._lr.param_groups[0]["lr"]
        else:
            rate = self._lr() if callable(self._lr) else self._lr
        return self._lr_scale * float(rate)

    # --- the game --------------------------------------------------------------------------------

    def loss(self, inputs: ExampleInputs) -> Tensor:
        """One move of the game: the discriminator learns, and the student's loss comes back.

        Args:
            inputs: A batch, in the form of the trace's example inputs.

        Returns:
            float[], to be minimised over the model's parameters (and, by ``step``, over the masks).
        """
        args, kwargs = call_arguments(inputs)
        with torch.no_grad():
            target = self._features(self._teacher(*args, **kwargs)).detach()
        if self._paper:
            self.student.vector.point.grad = None
        self.student.vector.moving = True
        try:
            features = self._features(self.student(*args, **kwargs))
        finally:
            self.student.vector.moving = False
        with self._clock.running(is_step=False):
            judged = self._adversary.learn(target, features.detach(), self._read_rate())
            result = alignment_loss(self._adversary.score(features), features, target, self._mu)
        self._seen += 1
        self._watched = {"discriminator": judged, "distance": (features.detach() - target).square().mean()}
        return result

    @property
    def objective(self) -> Objective:
        """``loss``: GAL learns from the dense model instead of the labels."""
        return self.loss

    def penalty(self) -> Tensor:
        """``lam * |m|_1``: zero here, as FISTA's threshold stands for it; with ``paper_code`` both act."""
        if not self._paper or self._alive is not None:
            return torch.zeros((), dtype=self._like.dtype, device=self._like.device)
        return (self.strength * self._lam * self.student.vector.point.abs()).sum()

    @torch.no_grad()
    def step(self) -> None:
        """Update the masks every ``mask_step`` steps; call it once per step, before the scheduler's."""
        with self._clock.running(is_step=True):
            self.steps += 1
            if self._alive is not None:
                self._silence()
            elif self.steps % self._mask_step == 0:
                self._step_masks()

    def _step_masks(self) -> None:
        vector = self.student.vector
        rate = self._read_rate()
        if rate < self._rate and not self._paper:
            self._fista.restart()
        self._rate = rate
        if vector.point.grad is None:
            raise PlanError(
                "no loss has reached the masks since they last moved", advice="minimise reg.loss(batch)"
            )
        batches = 1 if self._paper else max(self._seen, 1)
        gradient = self._averaging.mean(vector.point.grad / batches)
        if not bool(gradient.isfinite().all()):
            raise PlanError(
                f"the masks' gradient is not finite after {self.steps} steps",
                advice="the student has diverged: lower the optimizer's step size, or mu",
            )
        self._fista.step(gradient, rate=rate, penalty=self.strength * self._lam)
        vector.point.grad = None
        self._seen = 0
        self._show()

    def _show(self) -> None:
        """Give the student the masks of the moment, and the point at which their gradient is wanted.

        Once they are folded into the weights, what is left of them is zero or one.
        """
        vector = self.student.vector
        value = self._fista.value if self._alive is None else self._alive.to(self._like.dtype)
        vector.value.copy_(value)
        steady = self._paper or self._alive is not None
        vector.point.data.copy_(value if steady else self._fista.point)

    # --- decisions -------------------------------------------------------------------------------

    def values(self) -> Tensor:
        """float[n], the masks."""
        return self._fista.value.clone()

    def alive(self) -> Tensor:
        """bool[n], masks whose structure or channel stays."""
        if self._alive is not None:
            return self._alive
        return torch.from_numpy(alive_masks(self.masks, self._fista.value.double().cpu().numpy())).to(
            self._like.device
        )

    def removed_structures(self) -> tuple[str, ...]:
        """Names of blocks and branches that would go now."""
        return tuple(s.name for s, a in zip(self.masks.structures, self.alive().tolist()) if not a)

    def removed_units(self) -> IntArray:
        """Ids (in the coupling) of the units that would go now, ascending: channels, and those of branches."""
        dead = ~self.alive().cpu().numpy()
        units = [s.units for s, d in zip(self.masks.structures, dead) if d]
        channels = np.flatnonzero((self.masks.units >= 0) & dead[self.masks.units])
        return np.unique(np.concatenate([channels, *units])).astype(np.int64)

    @torch.no_grad()
    def finish(self, plan: Plan | None = None) -> None:
        """Take the decisions for good and fold the masks into the model's weights.

        The model then computes what the masked student did; what goes is zero in it, now and after every
        later step.

        Args:
            plan: Must be None.

        Raises:
            PlanError: There is a plan.
        """
        no_plan_of_channels(plan, "masks")
        if self._alive is None:
            self._alive = self.alive()
            fold_(self._owner, self.masks, self._fista.value)
            self._silence()
            self._show()
            self._averaging.stop()

    def _silence(self) -> None:
        """Every parameter slice of what went is zero."""
        assert self._alive is not None
        silence_(self._owner, self._trace, self.masks, self._alive.cpu().numpy(), self.removed_units())

    @property
    def finished(self) -> bool:
        """Whether the decisions are taken and the masks folded."""
        return self._alive is not None

    def decision(self) -> Plan:
        """What would go by the masks of the moment, which stay as they are.

        Raises:
            PlanError: Nothing would be left of a layer.
        """
        return decided(self._trace, self.masks, self.alive().cpu().numpy())

    def plan(self, budget: Budget | None = None, options: PlanOptions | None = None) -> Plan:
        """What the method decided, as a plan for ``slim``; calls ``finish``.

        Args:
            budget: Spend this budget in the order of the masks, where the decision is not of the size wanted.
            options: How the budget is spent where it goes to channels.

        Raises:
            PlanError: Nothing is left of a layer, or the budget cannot be spent.
        """
        self.finish()
        if budget is None:
            return self.decision()
        alive = self.alive().cpu().numpy()
        order = self._fista.value.double().cpu().numpy()
        if not self.masks.of_kind("channel").any():
            return spend_on_structures(self._trace, self.masks, alive, order, budget)
        small, rest, learned = channels_left(self._trace, self.masks, alive, order, budget)
        if rest is None:
            return self.decision()
        return spend(small, rest, options or PlanOptions(), criterion=learned)

    # --- protocol --------------------------------------------------------------------------------

    def report(self) -> Report:
        """Quantities to watch; reading them waits for the device."""
        values, alive = self._fista.value, self.alive()
        shares = {
            f"{PLURAL[kind]}_gone": float((~alive.cpu().numpy()[self.masks.of_kind(kind)]).mean())
            for kind in dict.fromkeys(self.masks.kinds)
        }
        return Report(
            method=self.name,
            steps=self.steps,
            zero_share=float((~alive).double().mean()),
            penalty=float((self.strength * self._lam * values.abs()).sum()),
            overhead_ms=self._clock.milliseconds,
            overhead=self._clock.share,
            details={**{k: float(v) for k, v in self._watched.items()}, **shares},
        )

    def _signature(self) -> Tensor:
        text = ",".join((*self.masks.names, *self.masks.kinds))
        return torch.tensor([len(self.masks), zlib.crc32(text.encode())])

    def state_dict(self) -> State:
        """Everything that a bit-equal continuation needs, apart from the model and the optimizer."""
        state = {
            "method": torch.tensor(list(self.name.encode()), dtype=torch.uint8),
            "signature": self._signature(),
            "steps": torch.tensor([self.steps, self._seen]),
            "numbers": torch.tensor([self.strength, self._rate], dtype=torch.float64),
            **{f"fista.{k}": v for k, v in self._fista.state().items()},
            **{f"adversary.{k}": v for k, v in self._adversary.state().items()},
        }
        if self._own_teacher:
            state |= {f"teacher.{k}": v.clone() for k, v in self._teacher.state_dict().items()}
        if self.student.vector.point.grad is not None:
            state["gradient"] = self.student.vector.point.grad.clone()
        if self._alive is not None:
            state["alive"] = self._alive.clone()
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state.

        Raises:
            PlanError: The state is of another method or of other masks.
        """
        mine = {
            "method": torch.tensor(list(self.name.encode()), dtype=torch.uint8),
            "signature": self._signature(),
        }
        for key, value in mine.items():
            if key not in state or not torch.equal(state[key].cpu(), value):
                raise PlanError(
                    f"this state does not belong to {self.name} on these masks ({key} differs)",
                    advice="make the method with the same model, groups and options as before",
                )
        device = self._like.device
        self.steps, self._seen = (int(v) for v in state["steps"])
        self.strength, self._rate = (float(v) for v in state["numbers"])
        self._fista.load(_below(state, "fista"))
        self._adversary.load(_below(state, "adversary"))
        if self._own_teacher:
            self._teacher.load_state_dict(_below(state, "teacher"))
        self._alive = state["alive"].to(device, copy=True) if "alive" in state else None
        self._show()
        self.student.vector.point.grad = (
            state["gradient"].to(device, copy=True) if "gradient" in state else None
        )


def _check_numbers(mask_step: int, lr_scale: float, mu: float, restraint_strength: float) -> None:
    """Refuse numbers that make no sense."""
    if mask_step < 1 or lr_scale <= 0 or mu < 0 or restraint_strength < 0:
        raise PlanError(
            f"mask_step={mask_step}, lr_scale={lr_scale}, mu={mu}, restraint_strength={restraint_strength}",
            advice="mask_step is at least 1, lr_scale above 0, the others are not negative",
        )


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(f"{prefix}."): v for k, v in state.items() if k.startswith(f"{prefix}.")}


def _first_values(n: int, init: str, generator: torch.Generator) -> Tensor:
    if init == "ones":
        return torch.ones(n, dtype=torch.float64)
    if init == "uniform":
        return torch.rand(n, generator=generator, dtype=torch.float64)
    drawn = torch.randn(n, generator=generator, dtype=torch.float64)
    return drawn if init == "normal" else drawn.abs()
