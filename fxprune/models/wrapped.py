"""Models inside of what torch wraps around them to train or run them."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

__all__ = ["unwrapped"]

_COMPILED = (
    "_orig_mod"  # what torch.compile calls the module in its own: the class lies in a module slow to import
)


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's module, by whose names everything goes; wrappers of parts of it stay.

    Args:
        model: Any module, also one in ``DataParallel``, ``DistributedDataParallel``, ``torch.compile`` or
            ``AveragedModel``, or several of them.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> unwrapped(nn.DataParallel(AveragedModel(net))) is net  # AveragedModel holds a copy
        False
        >>> unwrapped(nn.DataParallel(net)) is net
        True
    """
    while True:
        inner = getattr(model, _COMPILED, None)
        if isinstance(model, (nn.DataParallel, DistributedDataParallel, AveragedModel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner
