"""Floating-point operations that PyTorch's own counter passes over, by its conventions.

Two operations are one multiply-accumulate.  Counted here: products of matrices and vectors, trilinear
products, attention and recurrent layers that run as one kernel, deformable convolutions (as the convolution that follows
the sampling; the sampling itself counts nothing), and Fourier transforms as radix-2 algorithms do them:
``n / 2 * log2(n)`` complex products, of four real ones each, for a transform of ``n`` complex numbers,
half of that where one side is real and the other holds no number twice; ``log2`` is rounded up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
import torchvision  # noqa: F401 - registers its operators

__all__ = ["FORMULAS", "fourier_macs"]

Shape = Sequence[int]


def fourier_macs(shape: Shape, dims: Sequence[int], *, real: bool) -> int:
    """Multiply-accumulates of a Fourier transform.

    Args:
        shape: Of the side that is real, or of either side.
        dims: Transformed dimensions.
        real: One side is real.

    Example:
        >>> fourier_macs((3, 8, 8), (1, 2), real=True)
        1152
    """
    steps = sum((shape[d] - 1).bit_length() for d in dims)
    return (1 if real else 2) * prod(shape) * steps


def _complex(x: Shape, dims: Sequence[int], *_: object, out_shape: Shape) -> int:
    return 2 * fourier_macs(x, dims, real=False)


def _from_real(x: Shape, dims: Sequence[int], _: int, onesided: bool, *, out_shape: Shape) -> int:
    return 2 * fourier_macs(x, dims, real=onesided)


def _to_real(x: Shape, dims: Sequence[int], *_: object, out_shape: Shape) -> int:
    return 2 * fourier_macs(out_shape, dims, real=True)


def _vectors(one: Shape, two: Shape, *_: object, out_shape: Shape) -> int:
    return 2 * prod(one)


def _added_vectors(bias: Shape, one: Shape, two: Shape, *_: object, out_shape: Shape, **__: object) -> int:
    return 2 * prod(one)


def _trilinear(
    one: Shape,
    two: Shape,
    three: Shape,
    new: Shape,
    new_too: Shape,
    new_three: Shape,
    *_: object,
    out_shape: Shape,
) -> int:
    """Every point of the joint index space counts once."""
    lifted = []
    for shape, dims in ((one, new), (two, new_too), (three, new_three)):
        sizes = list(shape)
        for d in sorted(dims):
            sizes.insert(d, 1)
        lifted.append(sizes)
    points: int = prod(max(sizes) for sizes in zip(*lifted, strict=True))
    return 2 * points


def _recurrent(x: Shape, w_ih: Shape, w_hh: Shape, *_: object, out_shape: object) -> int:
    return 2 * x[0] * x[1] * (prod(w_ih) + prod(w_hh))


def _recurrent_layers(x: Shape, weights: Sequence[Shape], *_: object, out_shape: object) -> int:
    return 2 * x[0] * x[1] * sum(prod(w) for w in weights if len(w) == 2)


def _deformed(x: Shape, weight: Shape, *_: object, out_shape: Shape) -> int:
    return 2 * prod(out_shape) * prod(weight[1:])


def _attention(query: Shape, key: Shape, value: Shape, *_: object, out_shape: object, **__: object) -> int:
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


_BY_PACKET: dict[torch._ops.OpOverloadPacket, Callable[..., int]] = {
    torch.ops.aten._fft_c2c: _complex,
    torch.ops.aten._fft_r2c: _from_real,
    torch.ops.aten._fft_c2r: _to_real,
    **dict.fromkeys((torch.ops.aten.mv, torch.ops.aten.dot, torch.ops.aten.vdot), _vectors),
    torch.ops.aten.addmv: _added_vectors,
    torch.ops.aten._trilinear: _trilinear,
    torch.ops.aten.mkldnn_rnn_layer: _recurrent,
    torch.ops.aten._cudnn_rnn: _recurrent_layers,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.torchvision.deform_conv2d: _deformed,
}

# The counter looks formulas up by packet, but takes an overload apart first where it does not find that one.
FORMULAS: dict[object, Callable[..., int]] = {
    key: formula for packet, formula in _BY_PACKET.items() for key in (packet, packet.default)
}
