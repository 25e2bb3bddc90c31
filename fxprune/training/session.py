"""Everything a run needs before its first step: checked data, the dense model, the processes, the folder."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxprune.errors import FxpruneError, RecipeError
from fxprune.models.inputs import Inputs
from fxprune.pipeline import Opened, open_model
from fxprune.support.delivery import Delivery, make_folder, occupied
from fxprune.support.files import write_text
from fxprune.training.checkpoint import Checkpoint, Folder
from fxprune.training.data.batches import Batches, Look, generator
from fxprune.training.data.sources import DataSet, open_data
from fxprune.training.recipe.file import RecipeFile
from fxprune.training.recipe.schema import Recipe
from fxprune.training.record import Ledger, Record, read_record
from fxprune.training.team import Team

__all__ = ["RunSession", "finished", "open_session", "owned", "plain_recipe", "seed_everything"]

_EVALUATED = 250  # images a step; evaluation keeps no activations
_HELD_ON_GPU = 2 << 30  # bytes

# What may differ when a run is continued: it changes how, not what.
_FREE = frozenset({"checkpoints", "export", "bench", "device", "parallel"})
_FREE_IN_PHASES = frozenset({"sparse", "finetune"})
# What may differ when a run is finished: none of it shows in what the run has made.
_HOW = frozenset({"checkpoints", "device", "parallel"})


@dataclass(frozen=True, eq=False)
class RunSession:
    """What all phases of a run share.

    Attributes:
        file: The recipe.
        team: The processes.
        out: Where files go.
        data: Images.
        opened: The dense model and its example inputs.
        look: How pixels become input.
        checkpoints: The folder of checkpoints.
        ledger: What is known so far.
        saved: Where to go on, or None.
    """

    file: RecipeFile
    team: Team
    out: Path
    data: DataSet
    opened: Opened
    look: Look
    checkpoints: Folder
    ledger: Ledger
    saved: Checkpoint | None

    @property
    def recipe(self) -> Recipe:
        """The values of the recipe."""
        return self.file.recipe

    @property
    def dense(self) -> nn.Module:
        """The dense model on the CPU, in evaluation mode, never trained."""
        return self.opened.model

    @property
    def example(self) -> Inputs:
        """Example inputs on the CPU."""
        return self.opened.inputs

    def training(self) -> Batches:
        """Batches of the training images."""
        world = self.team.world
        size = min(self.recipe.batch, len(self.data.train.labels) // world * world)
        return Batches(self.data.train, self.look, size, self.recipe.seed, self.team.rank, world)

    def testing(self) -> Batches:
        """Batches of the images to evaluate on."""
        size = max(_EVALUATED, self.recipe.batch)
        return Batches(self.data.test, self.look, size, self.recipe.seed, self.team.rank, self.team.world)

    def on_device(self, model: nn.Module) -> nn.Module:
        """The model on this process's device, in the memory format of the recipe."""
        model.to(self.team.device)
        if self.recipe.channels_last:
            model.to(memory_format=torch.channels_last)
        return model

    def teacher(self) -> nn.Module:
        """A frozen copy of the dense model on the device."""
        return self.on_device(copy.deepcopy(self.dense)).requires_grad_(False).eval()


def seed_everything(*numbers: int) -> None:
    """Seed python, numpy and torch from a tuple of integers."""
    seed = int(torch.randint(2**31, (), generator=generator(*numbers)))
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  the model's code may draw from it
    torch.manual_seed(seed)


def open_session(
    file: RecipeFile, team: Team, out: Path, *, resume: bool, allow_pickle: bool = False
) -> RunSession:
    """Open and check everything that can be wrong before the first step.

    Raises:
        RecipeError: Data, model and recipe do not fit together; with the line.
        FxpruneError: The folder holds another run, or cannot be written.
    """
    recipe = file.recipe
    if recipe.batch % team.world:
        raise file.error(
            "batch",
            f"a batch of {recipe.batch} images cannot be shared by {team.world} processes",
            advice=f"use a multiple of {team.world}",
        )
    if recipe.finetune.ema is not None and team.sharded:
        raise file.error(
            "finetune.ema",
            "a running average needs whole parameters, and here they are sharded",
            advice="use parallel: ddp, or leave ema out",
        )
    make_folder(out)
    checkpoints = Folder(out / "checkpoints", team, keep=recipe.checkpoints.keep)
    saved, ledger = _continued(file, out, checkpoints, resume=resume)
    seed_everything(recipe.seed)
    data = open_data(file)
    opened = _open_model(file, data, allow_pickle)
    for note in opened.notes:
        ledger.note(note)
    look = Look.of(recipe.data.mean, recipe.data.std, channels_last=recipe.channels_last, device=team.device)
    session = RunSession(file, team, out, data, opened, look, checkpoints, ledger, saved)
    _dry_run(session)
    team.wait()
    if team.main:
        write_text(out / "recipe.json", json.dumps(plain_recipe(file), indent=1))
    return replace(session, data=_near(data, team.device))


def _near(data: DataSet, device: torch.device) -> DataSet:
    """Images on the GPU where they fit easily: cutting and mirroring is faster there."""
    pixels = (len(data.train.labels) + len(data.test.labels)) * int(np.prod(data.train.shape))
    if device.type == "cpu" or pixels > _HELD_ON_GPU:
        return data
    return replace(data, train=data.train.to(device), test=data.test.to(device))


def _open_model(file: RecipeFile, data: DataSet, allow_pickle: bool) -> Opened:
    recipe = file.recipe
    height, width, channels = data.train.shape
    shape = recipe.input or (f"1x{channels}x{height}x{width}",)
    try:
        opened = open_model(
            recipe.model,
            weights=recipe.weights,
            inputs=shape,
            arguments=recipe.model_args,
            allow_pickle=allow_pickle,
        )
    except FxpruneError as error:
        about_weights = recipe.weights is not None and str(recipe.weights) in error.what
        key = "weights" if about_weights else "input" if "--input" in error.what else "model"
        if recipe.model_args and "argument" in error.what:
            key = "model_args"
        raise file.error(key, error.what, advice=error.advice) from error
    if recipe.input:
        return opened
    dtype = next(opened.model.parameters()).dtype
    example: Inputs = pytree.tree_map_only(Tensor, lambda t: t.to(dtype), opened.inputs)
    return replace(opened, inputs=example)


def _dry_run(session: RunSession) -> None:
    """The model takes a batch of these images and names one of these classes."""
    file, data = session.file, session.data
    pixels = data.train.take(torch.arange(min(2, len(data.train.labels))), None)
    look = replace(session.look, scale=session.look.scale.cpu(), shift=session.look.shift.cpu())
    images = look(pixels).to(next(session.dense.parameters()).dtype)
    shape = "x".join(map(str, images.shape))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            logits = session.dense.eval()(images)
    except Exception as error:  # the user's own code may raise anything
        text = " ".join(str(error).split())[:300]
        raise file.error(
            "model",
            f"the model refuses a batch of images {shape}: {type(error).__name__}: {text}",
            advice="check that model and data belong together (size and number of channels)",
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        given = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise file.error(
            "model",
            f"the model returns {given}, not logits [{len(images)}, classes]",
            advice="train classifiers",
        )
    if logits.shape[1] != data.classes:
        raise file.error(
            "model",
            f"the model tells {logits.shape[1]} classes apart, but the labels have {data.classes}",
            advice=f"use a model with {data.classes} outputs"
            + (f", or write data.classes: {logits.shape[1]}" if logits.shape[1] > data.classes else ""),
        )


# --- going on --------------------------------------------------------------------------------


@contextmanager
def owned(out: Path, team: Team) -> Iterator[None]:
    """Have the folder for this run alone, and no litter of killed ones in it.

    Raises:
        FxpruneError: Another process works there, or it cannot be written; on all processes of the run.
    """
    trouble: FxpruneError | None = None
    with ExitStack() as stack:
        if team.main:
            try:
                stack.enter_context(occupied(out, "train"))
            except FxpruneError as error:
                trouble = error
        told = team.each(trouble)[0]
        if isinstance(told, FxpruneError):
            raise told
        yield


def finished(file: RecipeFile, out: Path) -> Record | None:
    """The record of a folder whose run is finished; None if it is not.

    Raises:
        RecipeError: The run was made by another recipe than this one.
    """
    path = out / "record.json"
    if not path.exists():
        return None
    record = read_record(path)
    with suppress(FxpruneError), occupied(out, "train"):
        pass  # what its last process has left, had it no time to clean up
    for key, before, now in _differences(record.recipe, plain_recipe(file)):
        if key.partition(".")[0] not in _HOW:
            raise RecipeError(
                f"the run in {out} is finished, with {key}: {before}, not {now}",
                source=file.error(key, "", advice="").source,
                advice="choose another folder (--out, out=) to run this recipe; fxprune export and bench work on a finished run",
            )
    return record


def _continued(
    file: RecipeFile, out: Path, checkpoints: Folder, *, resume: bool
) -> tuple[Checkpoint | None, Ledger]:
    """Where to go on, and what was known there."""
    if Delivery(out).holds_result:
        raise FxpruneError(
            f"{out} holds a result of fxprune compress",
            advice="choose another folder for the run (--out, out=)",
        )
    there = bool(checkpoints.files()) or (out / "record.json").exists()
    if there and not resume:
        raise FxpruneError(
            f"{out} holds a run already",
            advice="go on with it (--resume, resume=True), or choose another folder (--out, out=)",
        )
    saved, troubles = checkpoints.newest()
    if saved is None:
        if troubles:
            raise FxpruneError(troubles[0], advice="remove the damaged checkpoints to begin anew")
        return None, Ledger()
    ledger = Ledger.of(saved.facts["ledger"])
    ledger.resumed += 1
    for text in troubles:
        ledger.note(f"a damaged checkpoint was passed over: {text}")
    for key, before, now in _differences(saved.facts["recipe"], plain_recipe(file)):
        head, _, rest = key.partition(".")
        free = head in _FREE or (head in _FREE_IN_PHASES and rest != "epochs")
        if not free:
            raise RecipeError(
                f"the run in {out} was started with {key}: {before}, not {now}",
                source=file.error(key, "", advice="").source,
                advice="resume with the same recipe, or choose another folder (--out, out=)",
            )
        ledger.note(f"from step {saved.step} of phase {saved.phase} on {key}: {now} instead of {before}")
    return saved, ledger


def plain_recipe(file: RecipeFile) -> dict[str, object]:
    """Every value of a recipe, for JSON; paths start from the recipe's folder, so that runs may move with it."""
    values: dict[str, object] = file.recipe.model_dump(mode="json")
    return {key: _relative(value, file.tree.where.folder) for key, value in values.items()}


def _relative(value: object, folder: Path) -> object:
    if isinstance(value, dict):
        return {key: _relative(item, folder) for key, item in value.items()}
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(os.path.relpath(value, folder)).as_posix()
    return value


def _differences(before: object, now: object, key: Sequence[str] = ()) -> list[tuple[str, object, object]]:
    """Values that differ between two recipes, with their keys."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = dict.fromkeys([*before, *now])
        return [d for n in names for d in _differences(before.get(n), now.get(n), (*key, str(n)))]
    return [] if before == now else [(".".join(key), before, now)]
