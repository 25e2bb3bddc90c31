"""Who obeys which law: one table by operator.

Operators that torch tags as pointwise, as copies of views, or composes of others need no row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from fxprune.proof.masks.call import Law
from fxprune.proof.masks.contracting import (
    attention,
    contracted,
    convolution,
    deformed,
    distances,
    folded,
    glu,
    scattered,
    weight_norm,
)
from fxprune.proof.masks.moving import (
    along,
    bagged,
    composed,
    copied,
    drawn,
    elementwise,
    last,
    likeness,
    literal,
    moved,
    named,
    nothing,
    overwritten,
    parts,
    picked,
    same,
)
from fxprune.proof.masks.reducing import (
    batch_norm,
    compared,
    extremes,
    found_at,
    group_norm,
    layer_norm,
    mean,
    median,
    rms_norm,
    scanned,
    softmax,
    spread,
    summed,
)

__all__ = ["law_of"]

INF = math.inf


def _table(rows: Mapping[str, Law]) -> dict[str, Law]:
    """One entry for each of the operators that a row names."""
    laws: dict[str, Law] = {}
    for names, law in rows.items():
        laws.update({n if "::" in n else f"aten::{n}": law for n in names.split()})
    return laws


_LAWS: Mapping[str, Law] = _table(
    {
        "floor_divide hardswish log_sigmoid_forward _prelu_kernel where clamp rrelu_with_noise masked_fill logical_not heaviside nan_to_num": elementwise,
        "clone _to_copy contiguous tril triu _conj_physical conj_physical": same,
        "lift_fresh_copy _fw_primal rrelu alias_copy dropout": same,
        "copy": copied,
        "fill zero": literal,
        "new_zeros new_ones new_full new_empty new_empty_strided": literal,
        "zeros_like ones_like full_like": likeness,
        "empty_like rand_like randn_like randint_like bernoulli uniform normal exponential random cauchy log_normal geometric": drawn,
        "native_dropout": lambda call: (call.run(), [call.states.of(call.tensor("input"))] * 2),
        # movement
        "constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d "
        "replication_pad3d roll flip cat stack repeat pixel_shuffle pixel_unshuffle im2col unfold_copy channel_shuffle "
        "native_channel_shuffle _reshape_copy diag_embed unsafe_split unsafe_split_with_sizes unsafe_chunk "
        "block_diag rot90": moved(),
        "gather take": picked,
        "_embedding_bag _embedding_bag_forward_only": bagged,
        "index_select embedding": moved("index", "indices"),
        "index _unsafe_index": moved("indices"),
        "slice_scatter select_scatter diagonal_scatter as_strided_scatter": overwritten(),
        "index_copy scatter index_fill": overwritten("index"),
        "index_put _unsafe_index_put": overwritten("indices"),
        "mse_loss smooth_l1_loss huber_loss binary_cross_entropy_with_logits": compared,
        # reductions
        "sum nansum any linalg_vector_norm norm count_nonzero frobenius_norm": summed(0.0),
        "prod all": summed(1.0),
        "amax logsumexp": summed(-INF),
        "amin": summed(INF),
        "max argmax": found_at(-INF),
        "min argmin": found_at(INF),
        "aminmax": composed(extremes),
        "median nanmedian": median,
        "cumsum": scanned(0.0),
        "cumprod": scanned(1.0),
        "cummax logcumsumexp": scanned(-INF),
        "cummin": scanned(INF),
        "_softmax _log_softmax _safe_softmax softmax log_softmax": softmax,
        "mean nanmean": mean,
        "var": spread(lambda m, v: v),
        "std": spread(lambda m, v: v.sqrt()),
        "var_mean": spread(lambda m, v: v, lambda m, v: m),
        "std_mean": spread(lambda m, v: v.sqrt(), lambda m, v: m),
        # norms
        "native_layer_norm": layer_norm,
        "_fused_rms_norm": rms_norm,
        "native_group_norm": group_norm,
        "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
        "_native_batch_norm_legit_functional _batch_norm_no_update _batch_norm_with_update cudnn_batch_norm": batch_norm,
        # by lines
        "sort argsort topk kthvalue mode unfold_backward": along(named("dim")),
        "linalg_inv_ex _linalg_det _linalg_slogdet linalg_cholesky_ex linalg_qr _linalg_eigh linalg_lu_factor_ex "
        "linalg_matrix_exp": along(last(2)),
        "_fft_r2c _fft_c2r _fft_c2c": along(named("dim")),
        "max_pool1d avg_pool1d adaptive_avg_pool1d adaptive_max_pool1d upsample_nearest1d _upsample_nearest_exact1d "
        "upsample_linear1d": along(last(1)),
        "max_pool2d max_pool2d_with_indices avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d "
        "upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa "
        "_upsample_bicubic2d_aa mkldnn_max_pool2d": along(last(2)),
        "max_pool3d max_pool3d_with_indices avg_pool3d adaptive_avg_pool3d _adaptive_avg_pool3d adaptive_max_pool3d "
        "upsample_nearest3d _upsample_nearest_exact3d upsample_trilinear3d": along(last(3)),
        "max_unpool2d": along(last(2), beside="indices"),
        "max_unpool3d": along(last(3), beside="indices"),
        "fractional_max_pool2d": along(last(2), "random_samples"),
        "torchvision::roi_align torchvision::roi_pool": along(last(2), "rois"),
        "grid_sampler_2d": along(last(2), "grid"),
        "grid_sampler_3d": along(last(3), "grid"),
        # contractions
        "mm": contracted("self", "mat2"),
        "bmm": contracted("self", "mat2"),
        "mv": contracted("self", "vec"),
        "dot": contracted("self", "tensor"),
        "vdot": contracted("self", "other"),
        "addmm": contracted("mat1", "mat2", added=("self",)),
        "addmv": contracted("mat", "vec", added=("self",)),
        "baddbmm addbmm": contracted("batch1", "batch2", added=("self",)),
        "addr": contracted("vec1", "vec2", added=("self",)),
        "_trilinear": contracted("i1", "i2", "i3"),
        "linear": contracted("input", "weight", added=("bias",)),
        "convolution _convolution": convolution,
        "torchvision::deform_conv2d": deformed,
        "_cdist_forward _euclidean_dist": distances,
        "index_add": scattered("index", source="source"),
        "scatter_add": scattered("index", source="src"),
        "col2im": folded,
        # composed
        "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention "
        "_scaled_dot_product_flash_attention _scaled_dot_product_cudnn_attention": composed(attention),
        "glu": composed(glu),
        "_weight_norm_interface": composed(weight_norm),
        "_unsafe_view squeeze_ unsqueeze_ transpose_ t_ swapaxes_ swapdims_ as_strided_ detach_ requires_grad_": nothing,
    }
)


def law_of(func: torch._ops.OpOverload) -> Law | None:
    """The law that an operator obeys, its variants in place included; None if nobody knows."""
    name = func._schema.name
    law = _LAWS.get(name) or _LAWS.get(name.removesuffix("_"))
    if law is not None:
        return law
    if torch.Tag.view_copy in func.tags:
        return moved()
    if torch.Tag.pointwise in func.tags:
        return elementwise
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
        return composed(parts)
    return None
