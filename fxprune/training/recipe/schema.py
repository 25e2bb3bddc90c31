"""Recipes: what a training run is to do, as validated data.

A recipe is a YAML file.  ``base: other.yaml`` takes everything from another recipe that is not written here.
Relative paths start from the folder of the file they are written in.  Every error names the line.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import annotated_types
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from fxprune.criteria import CRITERIA
from fxprune.errors import RecipeError
from fxprune.planning.options import PlanOptions
from fxprune.plans import Budget
from fxprune.support.reading import usable

__all__ = [
    "Augment",
    "BenchOptions",
    "BudgetOptions",
    "Checkpoints",
    "DataOptions",
    "DigitsData",
    "Distill",
    "ExportOptions",
    "Finetune",
    "FolderData",
    "Method",
    "NpzData",
    "Phase",
    "PlanSection",
    "Recipe",
    "Sparse",
    "Steer",
    "TorchvisionData",
    "files_named",
    "model_fields_at",
]

Scalar = bool | int | float | str
Positive = Annotated[float, annotated_types.Gt(0)]
NotNegative = Annotated[float, annotated_types.Ge(0)]
Share = Annotated[float, annotated_types.Ge(0), annotated_types.Lt(1)]
Kept = Annotated[float, annotated_types.Gt(0), annotated_types.Le(1)]
Count = Annotated[int, annotated_types.Ge(1), annotated_types.Le(2**31)]
_PERCENT = re.compile(r"(\d+(?:\.\d+)?) ?%")


def _epochs(value: int | str) -> int | str:
    if isinstance(value, str) and not _PERCENT.fullmatch(value):
        raise ValueError("neither a number of epochs nor a percentage such as 40 %")
    if isinstance(value, str) and float(value.rstrip(" %")) > 100:
        raise ValueError("more than all epochs")
    if isinstance(value, int) and value < 0:
        raise ValueError("a phase cannot have less than no epochs")
    return value


Epochs = Annotated[Annotated[int, annotated_types.Le(2**31)] | str, AfterValidator(_epochs)]


class _Section(BaseModel):
    """Unknown keys are errors, and nothing changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# --- data ------------------------------------------------------------------------------------


class Augment(_Section):
    """What is done to training images.

    Attributes:
        crop: Pixels of black border to add before cutting a random window of the original size.
        flip: Mirror left and right, every second image on average.
    """

    crop: Annotated[int, annotated_types.Ge(0), annotated_types.Le(2**15)] = 0
    flip: bool = False


class DataOptions(_Section):
    """What all sources of images share.

    Attributes:
        mean: Of each channel, on a scale from 0 to 1; none is 0.
        std: Of each channel, likewise; none is 1.
        augment: For training.
        classes: Number of classes, where the labels do not show all of them.
        limit: Use that many training images, spread evenly over all of them.
        holdout: Share of the training images to set apart and to evaluate on instead of the test images:
            for choosing strengths without touching the test set.
    """

    mean: tuple[float, ...] = ()
    std: tuple[Positive, ...] = ()
    augment: Augment = Augment()
    classes: Count | None = None
    limit: Count | None = None
    holdout: Share = 0.0

    @model_validator(mode="after")
    def _same_length(self) -> DataOptions:
        if self.mean and self.std and len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values and std {len(self.std)}")
        return self


class NpzData(DataOptions):
    """Arrays ``images`` uint8[N, H, W] or [N, H, W, C] and ``labels`` int[N] in ``.npz`` files.

    Attributes:
        train: Files, wildcards in their names; joined in the order of their names.
        test: Likewise.
    """

    source: Literal["npz"]
    train: str
    test: str


def files_named(pattern: str) -> list[Path]:
    """Files by a path whose last part may hold wildcards, in the order of their names."""
    path = usable(pattern, error=RecipeError)
    if not path.name:
        return []
    return sorted(found for found in path.parent.glob(path.name) if found.is_file())


class FolderData(DataOptions):
    """One folder for each class, image files in it.

    Attributes:
        train: Folder of folders.
        test: Likewise, with the same classes.
        size: Side of the square the images are cut to; None where all are of one size.
        workers: Threads that decode.
    """

    source: Literal["folder"]
    train: Path
    test: Path
    size: Count | None = None
    workers: Count = 2


class TorchvisionData(DataOptions):
    """A data set of torchvision that gives an image and a class.

    Attributes:
        name: Its class, as ``CIFAR10``.
        root: Where it lies, if it is read from files.
        train: Name of the training part, for data sets with a ``split``.
        test: Likewise.
        download: Fetch it if it is not there.
        options: Other arguments of the class.
        size: Side of the square the images are cut to; None where all are of one size.
        workers: Threads that decode.
    """

    source: Literal["torchvision"]
    name: str
    root: Path | None = None
    train: str = "train"
    test: str = "test"
    download: bool = False
    options: dict[str, Scalar | tuple[Scalar, ...]] = {}
    size: Count | None = None
    workers: Count = 2


class DigitsData(DataOptions):
    """scikit-learn's handwritten digits, 8 x 8 grey pixels, a fifth of them for testing."""

    source: Literal["digits"]


Data = Annotated[NpzData | FolderData | TorchvisionData | DigitsData, Field(discriminator="source")]


# --- what is to go ---------------------------------------------------------------------------


class Method(_Section):
    """A regularizer by name, with its own options.

    Attributes:
        name: As its class in ``fxprune.regularizers`` or that class's ``name``.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str

    @property
    def options(self) -> Mapping[str, object]:
        """Everything but the name."""
        return dict(self.model_extra or {})


def _methods(value: object) -> object:
    """``none``, ``ssr``, ``{name: ssr, ...}`` or a list of such, as mappings."""
    items = value if isinstance(value, list) else [value]
    named = [{"name": item} if isinstance(item, str) else item for item in items]
    return () if named == [{"name": "none"}] else tuple(named)


class BudgetOptions(_Section):
    """Fraction to keep of one quantity."""

    macs: Kept | None = None
    params: Kept | None = None
    channels: Kept | None = None

    @model_validator(mode="after")
    def _one(self) -> BudgetOptions:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of macs, params and channels, not {' and '.join(given) or 'none'}")
        return self

    def budget(self) -> Budget:
        """As the planner takes it."""
        return Budget(macs=self.macs, params=self.params, channels=self.channels)


class PlanSection(_Section):
    """How the budget is spent; see ``fxprune.planning.options.PlanOptions``.

    Attributes:
        criterion: Importance for ``method: none``; other methods bring their own order.
        batches: Training batches for criteria that look at data.
    """

    criterion: str = "l1"
    scope: Literal["global", "local"] = "global"
    align: Literal["auto"] | Count = "auto"
    keep_at_least: Count = 1
    protect: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    ratios: dict[str, Kept] = {}
    target: str = "onnxruntime-cpu"
    blocks: Literal["auto", "whole", "inside"] = "auto"
    batches: Count = 4

    def options(self, seed: int) -> PlanOptions:
        """As the planner takes them."""
        own = {f.name for f in dataclasses.fields(PlanOptions)} - {"seed"}
        return PlanOptions(seed=seed, **self.model_dump(include=own))

    @field_validator("criterion")
    @classmethod
    def _known(cls, value: str) -> str:
        known = [criterion.name for criterion in CRITERIA]
        if value not in known and ":" not in value:
            raise ValueError(f"there is no criterion '{value}'; choose one of {', '.join(known)}")
        return value


# --- training --------------------------------------------------------------------------------


class Distill(_Section):
    """Learn from the dense model as well.

    Attributes:
        weight: Share of the loss that is its; the rest is the labels'.
        temperature: Divides both models' logits.
    """

    weight: Annotated[float, annotated_types.Gt(0), annotated_types.Le(1)] = 0.5
    temperature: Positive = 4.0


class Phase(_Section):
    """Epochs of training under one schedule.

    Attributes:
        epochs: Passes over the training images; ``40 %`` is a share of the recipe's ``epochs``.
        lr: Learning rate at its highest.
        schedule: ``constant``; ``cosine`` down to ``final``; ``step``: times ``gamma`` at each milestone.
        milestones: Shares of the phase.
        gamma: For ``step``.
        final: For ``cosine``, as a share of ``lr``.
        warmup: Epochs in which the rate rises linearly from 0.
        optimizer: ``sgd`` or ``adamw``.
        momentum: Of SGD.
        nesterov: Of SGD.
        weight_decay: Of every parameter.
        label_smoothing: Of the cross entropy.
        clip: Largest norm of the gradient; None does not clip.
        distill: Learn from the dense model; None from the labels alone.
    """

    epochs: Epochs = 0
    lr: Positive = 0.01
    schedule: Literal["constant", "cosine", "step"] = "constant"
    milestones: tuple[Annotated[float, annotated_types.Gt(0), annotated_types.Lt(1)], ...] = (0.5, 0.75)
    gamma: Positive = 0.1
    final: Share = 0.0
    warmup: NotNegative = 0.0
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: Share = 0.9
    nesterov: bool = False
    weight_decay: NotNegative = 5e-4
    label_smoothing: Share = 0.0
    clip: Positive | None = None
    distill: Distill | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Phase:
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"milestones {list(self.milestones)} do not increase")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum above 0")
        return self


def _switch(value: object) -> object:
    """``true`` is all defaults, ``false`` is nothing."""
    return {True: {}, False: None}.get(value, value) if isinstance(value, bool) else value


Switch = BeforeValidator(_switch)


class Steer(_Section):
    """How the strength of a method follows the budget; see ``fxprune.training.steering``.

    Attributes:
        until: Share of the phase after which the method's own decision should meet the budget; where it does not,
            the budget is spent then.
        every: Steps between corrections; rounded up to whole periods of the method.
        gain: Logarithm of the strength where nothing has gone by then.
    """

    until: Kept = 0.8
    every: Count = 10
    gain: Positive = 2.0


class Sparse(Phase):
    """Training under the method.

    Attributes:
        steer: Adapt the method's strength so that its own decision meets the budget; for methods whose
            decision depends on a strength.
    """

    steer: Annotated[Steer | None, Switch] = None


class Finetune(Phase):
    """Training of the slim model.

    Attributes:
        start: ``pruned`` weights, or ``scratch``: the slim shape with new random weights.
        recalibrate: Training batches that renew the statistics of batch norm before the first step.
    """

    start: Literal["pruned", "scratch"] = "pruned"
    recalibrate: Annotated[int, annotated_types.Ge(0)] = 0


class Checkpoints(_Section):
    """When the state of a run is saved.

    Attributes:
        every: Steps between checkpoints; None saves after each epoch.
        keep: How many stay.
    """

    every: Count | None = None
    keep: Count = 2


class ExportOptions(_Section):
    """How ONNX files are written; see ``fxprune.export_onnx``."""

    opset: Count = 18


class BenchOptions(_Section):
    """How the ONNX files are measured; see ``fxprune.benchmark``."""

    threads: Count = 1
    seconds: Positive | None = None
    batch: Count | None = None
    memory: bool = False


class Recipe(_Section):
    """A complete training run.

    Attributes:
        model: As on the command line: ``torchvision:resnet18``, ``file.py:factory``, ...
        data: Where images come from.
        weights: Of the dense model; None keeps what the factory gives.
        input: Example inputs as on the command line; None takes the shape of the images.
        method: What makes groups sparse; ``none`` prunes at once by the plan's criterion.
        budget: Fraction to keep.  Without it the method's own decision counts.
        plan: How the budget is spent.
        epochs: What percentages in the phases refer to.
        sparse: Training under the method.
        finetune: Training of the slim model.
        batch: Images a step, over all processes.
        seed: Of everything random.
        device: ``auto`` takes an accelerator if there is one.
        mixed_precision: ``no``, ``bf16`` or ``fp16``; ``auto`` is bf16 where the device computes it natively.
        channels_last: Memory format of images and weights.
        parallel: With several processes: ``ddp`` copies the model, ``fsdp`` shards it.
        checkpoints: When the state is saved.
        export: ONNX files of the dense and the slim model.
        bench: Measure them.
    """

    model: str
    data: Data
    weights: Path | None = None
    input: tuple[str, ...] = ()
    method: Annotated[tuple[Method, ...], BeforeValidator(_methods)] = ()
    budget: BudgetOptions | None = None
    plan: PlanSection = PlanSection()
    epochs: Count | None = None
    sparse: Sparse = Sparse()
    finetune: Finetune = Finetune()
    batch: Count = 128
    seed: Annotated[int, annotated_types.Ge(0), annotated_types.Lt(2**32)] = 0
    device: Literal["auto", "cpu"] = "auto"
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    channels_last: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
    checkpoints: Checkpoints = Checkpoints()
    export: Annotated[ExportOptions | None, Switch] = ExportOptions()
    bench: Annotated[BenchOptions | None, Switch] = None

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.budget is None and not self.method:
            raise ValueError("without a method there must be a budget, such as {macs: 0.5}")
        if self.bench is not None and self.export is None:
            raise ValueError("bench measures the ONNX files: it needs export")
        if self.sparse.steer is not None and (self.budget is None or self.budget.channels is not None):
            raise ValueError("sparse.steer needs a budget of macs or params to steer to")
        for name, phase in (("sparse", self.sparse), ("finetune", self.finetune)):
            if isinstance(phase.epochs, str) and self.epochs is None:
                raise ValueError(f"{name}.epochs is a percentage: write the recipe's epochs, too")
        return self

    def epochs_of(self, phase: Literal["sparse", "finetune"]) -> int:
        """Epochs of a phase; shares that make up the whole also do so when rounded.

        Example:
            >>> kinds = {"model": "a:b", "data": {"source": "digits"}, "budget": {"macs": 0.5}, "epochs": 3}
            >>> made = Recipe.model_validate({**kinds, "sparse": {"epochs": "50 %"}, "finetune": {"epochs": "50 %"}})
            >>> made.epochs_of("sparse"), made.epochs_of("finetune")
            (2, 1)
        """
        given = {"sparse": self.sparse.epochs, "finetune": self.finetune.epochs}
        shares = {name: float(e.rstrip(" %")) / 100 for name, e in given.items() if isinstance(e, str)}
        value = given[phase]
        if isinstance(value, int):
            return value
        assert self.epochs is not None
        sparse = round(shares.get("sparse", 0.0) * self.epochs)
        if phase == "finetune" and len(shares) == 2 and abs(sum(shares.values()) - 1) < 1e-9:
            return self.epochs - sparse
        return sparse if phase == "sparse" else round(shares[phase] * self.epochs)


def model_fields_at(key: tuple[str | int, ...]) -> tuple[str, ...]:
    """Names that may stand at a place of a recipe, for near misses.

    Example:
        >>> model_fields_at(("data", "npz", "augment"))
        ('crop', 'flip')
    """
    sections: list[type[BaseModel]] = [Recipe]
    for part in key:
        annotations = [s.model_fields[part].annotation for s in sections if part in s.model_fields]
        # A discriminated union puts its tag into the path.
        tagged = [s for s in sections if str(part) in _tags(s)]
        if annotations or tagged:
            sections = tagged or [s for a in annotations for s in _sections(a)]
    return tuple(dict.fromkeys(name for section in sections for name in section.model_fields))


def _tags(section: type[BaseModel]) -> tuple[object, ...]:
    field = section.model_fields.get("source")
    return typing.get_args(field.annotation) if field else ()


def _sections(annotation: object) -> list[type[BaseModel]]:
    """Sections an annotation may hold."""
    if typing.get_origin(annotation) is None and isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [s for part in typing.get_args(annotation) for s in _sections(part)]
