"""Recipes: what a training run is to do, as validated data.

A recipe is a YAML file.  ``base: other.yaml`` takes everything from another recipe that is not written here.
Relative paths start from the folder of the file they are written in.  Every error names the line.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import annotated_types
from pydantic import BaseModel, BeforeValidator, ConfigDict, field_validator, model_validator

from fxprune import targets
from fxprune.criteria import CRITERIA, FROM_SAMPLES
from fxprune.errors import PlanError
from fxprune.models.specs import Argument
from fxprune.onnx.opsets import DEFAULT_OPSET, OLDEST_OPSET
from fxprune.planning.options import PlanOptions
from fxprune.plans import Budget, Scope
from fxprune.training.recipe.data import (
    Augment,
    Data,
    DataOptions,
    DigitsData,
    FolderData,
    NpzData,
    TorchvisionData,
    files_named,
)
from fxprune.training.recipe.phases import Distill, Finetune, Phase, Sparse, Steer
from fxprune.training.recipe.sections import Count, Kept, Positive, Section, Switch

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


class Method(Section):
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


class BudgetOptions(Section):
    """How much to keep; see ``fxprune.plans.Budget``."""

    macs: Kept | None = None
    params: Kept | None = None
    channels: Kept | None = None
    latency: Kept | None = None
    latency_ms: Positive | None = None

    @model_validator(mode="after")
    def _together(self) -> BudgetOptions:
        try:
            self.budget()
        except PlanError as error:
            raise ValueError(f"{error.what}: {error.advice}") from None
        return self

    def budget(self) -> Budget:
        """As the planner takes it."""
        return Budget(**{name: getattr(self, name) for name in type(self).model_fields})

    @property
    def steers(self) -> bool:
        """A method can be led to it while it trains: work alone changes with every unit, and is known without a file."""
        return [part.quantity for part in self.budget().parts] in (["macs"], ["params"])


class PlanSection(Section):
    """How the budget is spent; see ``fxprune.planning.options.PlanOptions``.

    Attributes:
        criterion: Importance for ``method: none``; other methods bring their own order.
        batches: Training batches for criteria that look at data.
    """

    criterion: str = "l1"
    scope: Scope = "global"
    align: Literal["auto"] | Count = "auto"
    keep_at_least: Count = 1
    protect: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    ratios: dict[str, Kept] = {}
    target: str = targets.DEFAULT_TARGET
    blocks: Literal["auto", "whole", "inside"] = "auto"
    keep_class: bool = False
    batches: Count = 4

    def options(self, seed: int) -> PlanOptions:
        """As the planner takes them."""
        own = {f.name for f in dataclasses.fields(PlanOptions)} - {"seed"}
        return PlanOptions(seed=seed, **self.model_dump(include=own))

    @field_validator("criterion")
    @classmethod
    def _known(cls, value: str) -> str:
        known = [*(criterion.name for criterion in CRITERIA), *FROM_SAMPLES]
        if value not in known and ":" not in value:
            raise ValueError(f"there is no criterion '{value}'; choose one of {', '.join(known)}")
        return value

    @field_validator("target")
    @classmethod
    def _runtime(cls, value: str) -> str:
        try:
            targets.check(value)
        except PlanError as error:
            raise ValueError(f"{error.what}; {error.advice}") from error
        return value


class Checkpoints(Section):
    """When the state of a run is saved.

    Attributes:
        every: Steps between checkpoints; None saves after each epoch.
        keep: How many stay.
    """

    every: Count | None = None
    keep: Count = 2


class ExportOptions(Section):
    """How ONNX files are written; see ``fxprune.export_onnx``."""

    opset: Annotated[int, annotated_types.Ge(OLDEST_OPSET)] = DEFAULT_OPSET

    @field_validator("opset")
    @classmethod
    def _there(cls, value: int) -> int:
        import onnx

        newest = onnx.defs.onnx_opset_version()
        if value > newest:
            raise ValueError(f"onnx {onnx.__version__} knows opsets up to {newest}")
        return value


class BenchOptions(Section):
    """How the ONNX files are measured; see ``fxprune.benchmark``."""

    threads: Count = 1
    seconds: Positive | None = None
    batch: Count | None = None
    memory: bool = False


class Recipe(Section):
    """A complete training run.

    Attributes:
        model: As on the command line: ``torchvision:resnet18``, ``file.py:factory``, ...
        data: Where images come from.
        model_args: Arguments of the model's factory, ``{num_classes: 10}``, beside those in ``model``.
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
    model_args: dict[str, Argument] | None = None
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
        timed = self.budget is not None and self.budget.latency_ms is not None
        if timed and not targets.measurable(self.plan.target):
            raise ValueError(
                f"budget.latency_ms is measured, and plan.target '{self.plan.target}' is another machine"
            )
        if self.bench is not None and self.export is None:
            raise ValueError("bench measures the ONNX files: it needs export")
        if self.sparse.steer is not None and (self.budget is None or not self.budget.steers):
            raise ValueError("sparse.steer needs a budget of macs or params to steer to")
        if self.sparse.steer is not None and not self.method:
            raise ValueError("sparse.steer needs a method whose strength it can set")
        for name, phase in (("sparse", self.sparse), ("finetune", self.finetune)):
            if isinstance(phase.epochs, str) and self.epochs is None:
                raise ValueError(f"{name}.epochs is a percentage: write the recipe's epochs, too")
        return self

    def epochs_of(self, phase: Literal["sparse", "finetune"]) -> float:
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
        if isinstance(value, (int, float)):
            return value
        assert self.epochs is not None
        sparse = round(shares.get("sparse", 0.0) * self.epochs)
        if phase == "finetune" and len(shares) == 2 and abs(sum(shares.values()) - 1) < 1e-9:
            return self.epochs - sparse
        return sparse if phase == "sparse" else round(shares[phase] * self.epochs)

    def steps_of(self, phase: Literal["sparse", "finetune"], per_epoch: int) -> int:
        """Steps of a phase, of as many in an epoch; a part of an epoch is one step at least."""
        epochs = self.epochs_of(phase)
        return max(round(epochs * per_epoch), 1) if epochs else 0


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
