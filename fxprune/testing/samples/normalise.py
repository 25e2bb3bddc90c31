"""Samples of norms and softmax."""

from __future__ import annotations

from fxprune.testing.samples.base import aten as a
from fxprune.testing.samples.base import parameter as p
from fxprune.testing.samples.base import positive as q

NORMALISE = (
    a("batch_norm", p(4, 3, 2), p(3), p(3), p(3), q(3), False, 0.1, 1e-5, True, free="012 0 0 0 0"),
    a("batch_norm", p(4, 3), None, None, p(3), q(3), False, 0.1, 1e-5, True, free="01 0 0"),
    a("native_batch_norm", p(4, 3, 2), p(3), p(3), p(3), q(3), False, 0.1, 1e-5, free="012 0 0 0 0"),
    a(
        "_native_batch_norm_legit_no_training",
        p(4, 3, 2),
        p(3),
        p(3),
        p(3),
        q(3),
        0.1,
        1e-5,
        free="012 0 0 0 0",
    ),
    a("_native_batch_norm_legit.no_stats", p(4, 3, 2), p(3), p(3), True, 0.1, 1e-5, free="012 0 0"),
    a("_batch_norm_no_update", p(4, 3, 2), p(3), p(3), p(3), q(3), 0.1, 1e-5, free="012 0 0 0 0"),
    a("instance_norm", p(2, 3, 5), p(3), p(3), None, None, True, 0.1, 1e-5, True, free="012 0 0"),
    a("layer_norm", p(2, 5, 4), [4], p(4), p(4), free="012 0 0"),
    a("layer_norm", p(2, 5, 4), [5, 4], p(5, 4), None, free="012 01"),
    a("native_layer_norm", p(2, 5, 4), [4], p(4), p(4), 1e-5, free="012 0 0"),
    a("rms_norm", p(2, 5, 4), [4], p(4), free="012 0"),
    a("group_norm", p(2, 6, 4), 3, p(6), p(6), free="012 0 0"),
    a("group_norm", p(2, 3, 4), 3, p(3), p(3), free="012 0 0"),
    a("native_group_norm", p(2, 6, 4), p(6), p(6), 2, 6, 4, 2, 1e-5, free="012 0 0"),
    a("_weight_norm", p(3, 4, 2), p(3, 1, 1), 0, free="012 0"),
    a("_weight_norm_interface", p(3, 4), p(3, 1), 0, free="01 0"),
)
