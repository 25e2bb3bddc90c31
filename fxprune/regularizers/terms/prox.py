"""Closed-form proximal maps, as factors on the norm of each group.

Both maps scale a group, so only norms go in and one factor per group comes out; the caller
multiplies.  A factor of zero is exact: what it multiplies becomes the zero vector.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["hard", "shrink"]


def shrink(norms: Tensor, threshold: Tensor | float) -> Tensor:
    """Group shrinkage, the prox of ``t * ||v||_2``: ``max(0, 1 - t / ||v||)``.

    Args:
        norms: float[n], Euclidean norms.
        threshold: ``t``, a number or float[n].

    Returns:
        float[n], the factor on each group; 0 where the norm is at most the threshold.

    Example:
        >>> shrink(torch.tensor([5.0, 2.0, 0.0]), 2.0).tolist()
        [0.6000000238418579, 0.0, 0.0]

    References:
        Yuan and Lin, Model selection and estimation in regression with grouped variables, 2006.
    """
    return torch.where(norms > threshold, 1 - threshold / norms, torch.zeros_like(norms))


def hard(norms: Tensor, threshold: Tensor | float) -> Tensor:
    """Group hard threshold, the prox of ``t * [v != 0]``: 1 where ``||v||^2 > 2 t``, else 0.

    Args:
        norms: float[n], Euclidean norms.
        threshold: ``t``, a number or float[n].

    Returns:
        float[n] of zeros and ones; survivors are untouched.

    Example:
        >>> hard(torch.tensor([3.0, 2.0, 1.0]), 2.0).tolist()
        [1.0, 0.0, 0.0]

    References:
        The proximal map of the count of non-zero groups is standard; the norm SSR calls L2,0.
    """
    return (norms.square() > 2 * torch.as_tensor(threshold, dtype=norms.dtype, device=norms.device)).to(
        norms.dtype
    )
