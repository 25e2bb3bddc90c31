"""GAL's discriminator: tells the dense model's logits from the masked one's."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fxprune.regularizers.gal.averaging import Averaging

__all__ = ["Adversary", "Discriminator", "Restraint", "alignment_loss", "discriminator_loss"]

Restraint = Literal["ar", "l2", "l1", "none"]
"""What keeps the discriminator from winning: adversarial regularisation (students also count as real, once
more), a larger L2 penalty on its weights, an L1 penalty, or nothing."""

HIDDEN = (128, 256, 128)
MOMENTUM, DECAY = 0.9, 2e-4  # of its optimizer, as in the released code


class Discriminator(nn.Module):
    """Linear layers of 128, 256 and 128 units and one output.

    Args:
        inputs: Number of features (classes).
        paper_code: As in the released code: no activation between the layers, weights drawn from
            ``N(0, 0.01)``, biases zero, and a sigmoid at the end.  Otherwise leaky ReLU between the
            layers, torch's own initial weights, and no sigmoid.

    Example:
        >>> Discriminator(10)(torch.zeros(4, 10)).shape
        torch.Size([4])
    """

    def __init__(self, inputs: int, *, paper_code: bool = False) -> None:
        super().__init__()
        widths = (inputs, *HIDDEN, 1)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            linear = nn.Linear(before, after)
            if paper_code:
                nn.init.normal_(linear.weight, std=0.01)
                nn.init.zeros_(linear.bias)
            layers += [linear] if paper_code else [linear, nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*(layers if paper_code else layers[:-1]))
        self._sigmoid = paper_code

    def forward(self, features: Tensor) -> Tensor:
        """float[n] scores of float[n, inputs]; higher is more like the dense model."""
        score: Tensor = self.layers(features).squeeze(1)
        return score.sigmoid() if self._sigmoid else score


def _judged(score: Tensor, *, real: bool) -> Tensor:
    return F.binary_cross_entropy_with_logits(score, torch.full_like(score, float(real)))


def discriminator_loss(teacher: Tensor, student: Tensor, *, restraint: Restraint = "ar") -> Tensor:
    """``-log D(teacher) - log(1 - D(student))``, and ``-log D(student)`` with adversarial regularisation.

    Args:
        teacher: float[n], scores of the dense model.
        student: float[n], scores of the masked model.
        restraint: Only ``"ar"`` acts here; penalties on weights are the caller's.

    Example:
        >>> zeros = torch.zeros(3)
        >>> round(float(discriminator_loss(zeros, zeros)) / 0.6931472, 4)
        3.0
    """
    loss = _judged(teacher, real=True) + _judged(student, real=False)
    return loss + _judged(student, real=True) if restraint == "ar" else loss


def alignment_loss(score: Tensor, student: Tensor, teacher: Tensor, mu: float) -> Tensor:
    """The generator's loss: ``mu * mean (student - teacher)^2 - log D(student)``.

    Args:
        score: float[n], the discriminator's scores of the student.
        student: float[n, d], features of the masked model.
        teacher: float[n, d], features of the dense model.
        mu: Weight of the data term.
    """
    return mu * F.mse_loss(student, teacher) + _judged(score, real=True)


class Adversary:
    """A discriminator and its optimizer.

    Args:
        inputs: Number of features.
        like: A tensor of the model's type and device.
        seed: Of the first weights.
        restraint: What keeps it from winning.
        strength: Coefficient of the ``"l1"`` and ``"l2"`` restraints.
        averaging: Over data-parallel processes.
        paper_code: See ``Discriminator``.
    """

    def __init__(
        self,
        inputs: int,
        *,
        like: Tensor,
        seed: int,
        restraint: Restraint,
        strength: float,
        averaging: Averaging,
        paper_code: bool,
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            judge = Discriminator(inputs, paper_code=paper_code)
        self.judge = judge.to(device=like.device, dtype=like.dtype)
        self._restraint: Restraint = restraint
        self._strength = strength
        self._averaging = averaging
        decay = DECAY + (strength if restraint == "l2" else 0.0)
        self._optimizer = torch.optim.SGD(
            self.judge.parameters(), lr=1.0, momentum=MOMENTUM, weight_decay=decay
        )

    def loss(self, teacher: Tensor, student: Tensor) -> Tensor:
        """What the discriminator minimises, on features float[n, inputs]."""
        loss = discriminator_loss(self.judge(teacher), self.judge(student), restraint=self._restraint)
        if self._restraint == "l1":
            loss = loss + self._strength * sum(p.abs().sum() for p in self.judge.parameters())
        return loss

    @torch.enable_grad()
    def learn(self, teacher: Tensor, student: Tensor, rate: float) -> Tensor:
        """One step on features float[n, inputs] that carry no gradient; returns the loss before it."""
        self._optimizer.zero_grad(set_to_none=True)
        loss = self.loss(teacher, student)
        loss.backward()
        for parameter in self.judge.parameters():
            assert parameter.grad is not None
            self._averaging.mean(parameter.grad)
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.step()
        return loss.detach()

    def score(self, features: Tensor) -> Tensor:
        """float[n]; gradients reach the features and not the discriminator."""
        frozen = {name: p.detach() for name, p in self.judge.named_parameters()}
        score: Tensor = torch.func.functional_call(self.judge, frozen, (features,))
        return score

    def state(self) -> dict[str, Tensor]:
        """Tensors that a bit-equal continuation needs."""
        state = {f"weights.{k}": v.clone() for k, v in self.judge.state_dict().items()}
        for k, parameter in enumerate(self.judge.parameters()):
            momentum = self._optimizer.state.get(parameter, {}).get("momentum_buffer")
            if momentum is not None:
                state[f"momentum.{k}"] = momentum.clone()
        return state

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` gave."""
        mine = self.judge.state_dict()
        self.judge.load_state_dict({k: state[f"weights.{k}"] for k in mine})
        for k, parameter in enumerate(self.judge.parameters()):
            if f"momentum.{k}" in state:
                self._optimizer.state[parameter]["momentum_buffer"] = state[f"momentum.{k}"].to(
                    parameter.device, copy=True
                )
