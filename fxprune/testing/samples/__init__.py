"""Samples of every operator in the table of rules, a file a family; a new operator comes with one here."""

from __future__ import annotations

from fxprune.testing.samples.base import Sample
from fxprune.testing.samples.contract import CONTRACT
from fxprune.testing.samples.factory import FACTORY
from fxprune.testing.samples.lines import LINES
from fxprune.testing.samples.movement import MOVEMENT
from fxprune.testing.samples.normalise import NORMALISE
from fxprune.testing.samples.pointwise import ALIASED, POINTWISE, SAME, TAGGED
from fxprune.testing.samples.recurrent import RECURRENT
from fxprune.testing.samples.reduce import REDUCE
from fxprune.testing.samples.square import SQUARE
from fxprune.testing.samples.window import WINDOW

__all__ = ["SAMPLES", "WITHOUT_SAMPLE"]

SAMPLES: tuple[Sample, ...] = (
    *TAGGED,
    *POINTWISE,
    *ALIASED,
    *SAME,
    *CONTRACT,
    *MOVEMENT,
    *REDUCE,
    *NORMALISE,
    *WINDOW,
    *FACTORY,
    *LINES,
    *RECURRENT,
    *SQUARE,
)

# Operators that return no tensor, cannot run on a CPU, or exist only as in-place variants.
WITHOUT_SAMPLE: dict[str, str] = {
    "aten::ctc_loss": "only pins: a loss of classes",
    "aten::_ctc_loss": "only pins: a loss of classes",
    "torchvision::ps_roi_align": "only pins: channels are cells of a region",
    "torchvision::ps_roi_pool": "only pins: channels are cells of a region",
    "aten::_assert_async": "returns nothing",
    "aten::_assert_tensor_metadata": "returns nothing",
    "aten::_assert_scalar": "returns nothing",
    "aten::sym_constrain_range_for_size": "returns nothing",
    "aten::requires_grad": "in place only",
    "aten::cudnn_batch_norm": "needs a GPU",
    "aten::_batch_norm_with_update": "updates statistics: training only",
    "aten::tensor": "Python bindings turn it into a constant",
}
