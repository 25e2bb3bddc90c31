"""Batch norm behind a cut: statistics of what it reads now, its function kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from fxprune.graph.drafts import arguments_by_name

__all__ = ["Norm"]


@dataclass(frozen=True, eq=False)
class Norm:
    """A batch norm of the slim graph.

    Attributes:
        weight: float[channels], None without an affine part.
        bias: Likewise.
        mean: float[channels], running statistics.
        variance: Likewise.
        eps: Is added to the variance.
    """

    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor
    variance: Tensor
    eps: float

    @staticmethod
    def of(node: fx.Node, tensors: Mapping[str, Tensor]) -> Norm:
        """What a call of batch norm reads."""
        values = arguments_by_name(node)

        def held(name: str) -> Tensor | None:
            value = values.get(name)
            return tensors[str(value.target)] if isinstance(value, fx.Node) else None

        mean, variance = held("running_mean"), held("running_var")
        assert mean is not None and variance is not None
        return Norm(held("weight"), held("bias"), mean, variance, float(values["eps"]))  # type: ignore[arg-type]

    @property
    def affine(self) -> bool:
        """Its function can be kept whatever the statistics are."""
        return self.weight is not None and self.bias is not None

    def scale(self, rank: int) -> Tensor:
        """What it multiplies each channel by, for tensors of that rank."""
        scale = (self.variance + self.eps).rsqrt()
        scale = scale if self.weight is None else scale * self.weight
        return scale.view(1, -1, *(1,) * (rank - 2))

    def absorb(self, offset: Tensor) -> None:
        """Act as if its input were larger by so much, float[channels]."""
        self.mean.sub_(offset.to(self.mean))

    def off(self, x: Tensor, wanted: Tensor) -> float:
        """Squared distance of what it makes of an input from what is wanted."""
        made = F.batch_norm(x, self.mean, self.variance, self.weight, self.bias, False, 0.0, self.eps)
        return float((made - wanted).double().square().sum()) if made.shape == wanted.shape else 0.0

    def copy(self) -> Norm:
        """The same numbers in tensors of their own."""
        weight, bias, mean, variance = (None if t is None else t.clone() for t in self._tensors)
        assert mean is not None and variance is not None
        return Norm(weight, bias, mean, variance, self.eps)

    def take(self, other: Norm) -> None:
        """Become like another one."""
        for mine, its in zip(self._tensors, other._tensors, strict=True):
            if mine is not None and its is not None:
                mine.copy_(its)

    @property
    def _tensors(self) -> tuple[Tensor | None, ...]:
        return self.weight, self.bias, self.mean, self.variance

    def restate(self, inputs: Sequence[Tensor], *, keep: bool) -> None:
        """Take the statistics of these inputs, float[n, channels, ...] each.

        Args:
            inputs: What it reads, chunk by chunk.
            keep: Its function stays what it was: weight and bias follow the statistics.
        """
        mean, variance = _moments(inputs)
        if keep and self.weight is not None and self.bias is not None:
            before = (self.variance.double() + self.eps).sqrt()
            after = (variance + self.eps).sqrt()
            scale = self.weight.double() / before
            self.bias.add_((scale * (mean - self.mean.double())).to(self.bias))
            self.weight.copy_(scale * after)
        self.mean.copy_(mean)
        self.variance.copy_(variance)


def _moments(inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance of every channel, float64; the variance is that of a sample, as in training."""
    rows = [x.transpose(0, 1).flatten(1) for x in inputs]
    count = sum(r.shape[1] for r in rows)
    mean = torch.stack([r.sum(1, dtype=torch.float64) for r in rows]).sum(0) / count
    off = torch.stack([(r - mean[:, None].to(r)).double().square().sum(1) for r in rows]).sum(0)
    return mean, off / max(count - 1, 1)
