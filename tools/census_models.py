"""The models of the census and the inputs they are run on.

Inputs are as small as an architecture allows: what is checked does not depend on the resolution.  Nothing here
is known to the package itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType

import torch
import torchvision.models as zoo
from torch import nn
from torchvision.models import get_model, list_models

__all__ = ["BATCHES", "KINDS", "TORCHVISION", "Case", "Inputs", "case", "names"]

Inputs = torch.Tensor | tuple[object, ...]

TORCHVISION: Mapping[str, ModuleType] = {
    "classification": zoo,
    "segmentation": zoo.segmentation,
    "video": zoo.video,
    "optical_flow": zoo.optical_flow,
    "detection": zoo.detection,
}

TIMM = Path(__file__).with_name("census_timm.txt").read_text("utf-8").split()
"""One small model of each family (module) of timm, which only this kind needs."""

KINDS = (*TORCHVISION, "timm")

BATCHES = (1, 3)
"""Batch sizes at which a slim model is run, besides that of the trace."""


@dataclass(frozen=True)
class Shape:
    """How one family of models is run.

    Attributes:
        size: Shape of one sample.
        batch: Samples in the example inputs.
        copies: Number of input tensors of that shape (optical flow reads two images).
    """

    size: tuple[int, ...]
    batch: int = 2
    copies: int = 1


# The first pattern that fits decides.
SHAPES: tuple[tuple[str, Shape], ...] = (
    ("inception_v3", Shape((3, 299, 299), batch=1)),  # the auxiliary head needs it
    ("vit_*", Shape((3, 224, 224), batch=1)),  # a table of positions
    ("maxvit_*", Shape((3, 224, 224), batch=1)),
    ("swin_*", Shape((3, 224, 224), batch=1)),
    ("raft_*", Shape((3, 128, 128), copies=2)),  # four levels of correlations
    ("mvit_*", Shape((3, 16, 224, 224), batch=1)),
    ("s3d", Shape((3, 16, 224, 224), batch=1)),
    ("swin3d_*", Shape((3, 8, 112, 112), batch=1)),
    ("alexnet", Shape((3, 96, 96))),
    ("*_18", Shape((3, 8, 48, 48))),
    ("*", Shape((3, 64, 64))),
)

# Small images, so that two-stage detectors fit in minutes; thresholds that keep random detections.
DETECTORS: tuple[tuple[str, Mapping[str, object]], ...] = (
    ("ssd*", {"score_thresh": 0.0, "detections_per_img": 20, "topk_candidates": 50}),
    ("fcos*", {"min_size": 192, "max_size": 256, "score_thresh": 0.0, "detections_per_img": 20}),
    ("retinanet*", {"min_size": 192, "max_size": 256, "score_thresh": 0.0, "detections_per_img": 20}),
    ("*", {"min_size": 192, "max_size": 256, "box_score_thresh": 0.0, "box_detections_per_img": 20}),
)


@dataclass(frozen=True)
class Case:
    """One model of the census.

    Attributes:
        name: torchvision's name, or timm's after ``timm:``.
        kind: One of ``KINDS``.
        build: Makes it with random weights.
        inputs: Makes inputs of a batch size.
        batch: Batch size of the example inputs.
    """

    name: str
    kind: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], Inputs] = field(repr=False)
    batch: int

    @property
    def example(self) -> Inputs:
        """The example inputs."""
        return self.inputs(self.batch)


def names(kind: str) -> list[str]:
    """The models of a kind, sorted; timm's carry its name in front."""
    if kind == "timm":
        return sorted(f"timm:{name}" for name in TIMM)
    return sorted(list_models(module=TORCHVISION[kind]))


def case(name: str) -> Case:
    """How to build and run a model.

    Raises:
        KeyError: There is no such model.
    """
    kind = next((k for k in KINDS if name in names(k)), None)
    if kind is None:
        raise KeyError(f"there is no model '{name}' of these kinds: {', '.join(KINDS)}")
    if kind == "timm":
        return _timm(name)
    shape = next(s for pattern, s in SHAPES if fnmatch(name, pattern))
    options: dict[str, object] = {}
    if kind in ("segmentation", "detection"):
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    if kind == "detection":
        options.update(next(o for pattern, o in DETECTORS if fnmatch(name, pattern)))
    make = _images if kind == "detection" else _tensors
    return Case(
        name=name,
        kind=kind,
        build=lambda: get_model(name, weights=None, **options).eval(),
        inputs=lambda batch: make(shape, batch),
        batch=shape.batch,
    )


def _timm(name: str) -> Case:
    import timm

    model = name.removeprefix("timm:")
    config = timm.get_pretrained_cfg(model, allow_unregistered=False)
    shape = Shape(tuple(config.input_size) if config is not None else (3, 224, 224), batch=1)
    return Case(
        name=name,
        kind="timm",
        build=lambda: timm.create_model(model).eval(),
        inputs=lambda batch: _tensors(shape, batch),
        batch=1,
    )


def _tensors(shape: Shape, batch: int) -> Inputs:
    generator = torch.Generator().manual_seed(batch)
    given = [torch.randn(batch, *shape.size, generator=generator) for _ in range(shape.copies)]
    return given[0] if len(given) == 1 else tuple(given)


def _images(shape: Shape, batch: int) -> Inputs:
    """Unlike images in a list, as detectors take them."""
    generator = torch.Generator().manual_seed(batch)
    sizes = [(3, 192 + 16 * k, 224 - 16 * k) for k in range(batch)]
    return ([torch.rand(size, generator=generator) for size in sizes],)
