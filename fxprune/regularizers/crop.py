"""Kernels without their empty borders: the weight is cropped and the padding shrinks along."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fxprune.errors import PlanError
from fxprune.regularizers.columns import Crop

__all__ = ["Conv1dBorder", "Conv2dBorder", "Conv3dBorder", "crop_kernels"]


class _Border(nn.modules.conv._ConvNd):
    """A convolution whose zero padding differs at the two ends of a dimension; below zero it cuts the input.

    Attributes:
        border: Before and after each dimension, the last dimension first, as ``torch.nn.functional.pad`` takes it.
    """

    border: tuple[int, ...]

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of the padded input."""
        return self._conv_forward(F.pad(x, self.border), self.weight, self.bias)

    def extra_repr(self) -> str:
        """Adds the border."""
        return f"{super().extra_repr()}, border={self.border}"  # type: ignore[no-untyped-call]


class Conv1dBorder(_Border, nn.Conv1d):
    """``nn.Conv1d`` with another padding at each end."""


class Conv2dBorder(_Border, nn.Conv2d):
    """``nn.Conv2d`` with another padding at each end."""


class Conv3dBorder(_Border, nn.Conv3d):
    """``nn.Conv3d`` with another padding at each end."""


_CLASSES: dict[type[nn.modules.conv._ConvNd], type[_Border]] = {
    nn.Conv1d: Conv1dBorder,
    nn.Conv2d: Conv2dBorder,
    nn.Conv3d: Conv3dBorder,
}


def crop_kernels(model: nn.Module, crops: Sequence[Crop]) -> nn.Module:
    """A copy of a model whose kernels have lost the borders that no channel uses.

    Names of parameters stay.  ``fxprune.verify(trace, plan, cropped)`` proves the result like any slim model; train it
    on as it is, it has no masks.

    Args:
        model: What ``slim`` made of a plan of ``IncReg(granularity="columns")``, or the masked model itself.
        crops: ``IncReg.crops()`` at the time of the plan.

    Returns:
        The copy; convolutions whose padding would differ at the two ends are ``Conv2dBorder`` and the like.

    Raises:
        PlanError: What is named is no weight of a zero-padding convolution module, or is not zero where it would be
            cropped.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1))
        >>> net[0].weight.data[:, :, 0] = 0
        >>> small = crop_kernels(net, [Crop("0.weight", (3, 3), (1, 0), (0, 0))])
        >>> small[0].weight.shape, small[0].border
        (torch.Size([1, 1, 2, 3]), (1, 1, 0, 1))
    """
    cropped = copy.deepcopy(model)
    for crop in crops:
        path, _, leaf = crop.tensor.rpartition(".")
        conv = _convolution(cropped, path, leaf, crop)
        made = _cropped(conv, crop)
        parent, _, name = path.rpartition(".")
        if made is conv:
            continue
        if not path:
            return made
        setattr(cropped.get_submodule(parent), name, made)
    return cropped


def _convolution(model: nn.Module, path: str, leaf: str, crop: Crop) -> nn.modules.conv._ConvNd:
    """The convolution that a crop is about, if it may be cropped."""
    conv = dict(model.named_modules()).get(path)
    if (
        not isinstance(conv, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
        or leaf != "weight"
        or conv.padding_mode != "zeros"
    ):
        raise PlanError(
            f"'{crop.tensor}' is not the weight of a convolution module with zero padding",
            tensor=crop.tensor,
            advice="leave this crop out: its border stays masked",
        )
    if tuple(conv.weight.shape[2:]) != crop.kernel:
        raise PlanError(
            f"the kernel of '{crop.tensor}' is {tuple(conv.weight.shape[2:])}, not {crop.kernel}",
            tensor=crop.tensor,
            advice="use the crops of the same model, once",
        )
    return conv


def _cropped(conv: nn.modules.conv._ConvNd, crop: Crop) -> nn.modules.conv._ConvNd:
    """The convolution itself with a smaller kernel, or one with a border in its place."""
    inside = (
        slice(None),
        slice(None),
        *(slice(b, b + k) for b, k in zip(crop.before, crop.cropped, strict=True)),
    )
    outside = torch.ones_like(conv.weight, dtype=torch.bool)
    outside[inside] = False
    if bool(conv.weight[outside].any()):
        raise PlanError(
            f"the border of '{crop.tensor}' is not zero",
            tensor=crop.tensor,
            advice="call finish() first; training on without the method brings masked columns back",
        )
    ends = [
        (start - b * d, end - a * d)
        for (start, end), b, a, d in zip(_padding(conv), crop.before, crop.after, conv.dilation, strict=True)
    ]
    conv.weight = nn.Parameter(conv.weight.detach()[inside].clone(), requires_grad=conv.weight.requires_grad)
    conv.kernel_size = crop.cropped
    if not isinstance(conv, _Border) and all(start == end >= 0 for start, end in ends):
        conv.padding = tuple(start for start, _ in ends)
        return conv
    border = next(border for kind, border in _CLASSES.items() if isinstance(conv, kind))
    made = border.__new__(border)
    made.__dict__.update(conv.__dict__)
    made.padding = (0,) * len(ends)
    made.border = tuple(amount for pair in reversed(ends) for amount in pair)
    return made


def _padding(conv: nn.modules.conv._ConvNd) -> list[tuple[int, int]]:
    """Zeros before and after each spatial dimension."""
    if isinstance(conv, _Border):
        pairs = list(zip(conv.border[::2], conv.border[1::2], strict=True))
        return pairs[::-1]
    if conv.padding == "same":
        totals = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    if conv.padding == "valid":
        return [(0, 0)] * len(conv.kernel_size)
    return [(int(p), int(p)) for p in conv.padding]
