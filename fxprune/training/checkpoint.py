"""Checkpoints: everything a run needs to go on as if nothing had happened, in one safetensors file.

Numbers and texts are JSON in the file's metadata; nothing is pickled.  A file is written completely or not at
all, with a digest, and older ones go only when a newer one is on the disk.  One that is broken in any way is
passed over for the one before it.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import annotated_types
import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from torch import Tensor, nn

from fxprune.errors import FxpruneError
from fxprune.plans import Plan
from fxprune.regularizers import Regularizer
from fxprune.regularizers.terms.local import assembled
from fxprune.support.tensors import read_tensors, write_tensors
from fxprune.training.record import Ledger, reason
from fxprune.training.team import Team, laid_like, shard_dims

__all__ = [
    "Checkpoint",
    "Folder",
    "Running",
    "load_model_state",
    "model_state",
    "read_checkpoint",
    "set_random_state",
]

FORMAT = "fxprune-checkpoint"
VERSION = 2
_NAME = re.compile(r"(?P<phase>\d)-(?P<step>\d{9})\.safetensors")

_Count = Annotated[int, annotated_types.Ge(0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Optimizer(_Strict):
    """Settings of the parameter groups, and what of the state is no tensor."""

    groups: list[dict[str, JsonValue]]
    state: dict[str, dict[str, JsonValue]]


class _Random(_Strict):
    """The generators of one process."""

    python: list[JsonValue]
    numpy: list[JsonValue]
    torch: list[_Count]
    cuda: list[_Count] | None


class _Facts(_Strict):
    """What a checkpoint holds besides tensors.

    Attributes:
        phase: Also in the file's name.
        step: Also in the file's name.
        steps: Of the whole phase.
        recipe: As it was.
        ledger: As it was.
        plan: Of the slim model, in the phase that trains it.
        kind: Of the slim model.
        split: Dimensions by tensor of the method that is sharded.
        optimizer: Its numbers.
        random: One for each process.
        strided: Names of tensors that lie in memory channels last.
        tensors: Names of all tensors, with dtype and shape.
    """

    phase: Annotated[int, annotated_types.Ge(1), annotated_types.Le(9)]
    step: _Count
    steps: _Count
    recipe: dict[str, JsonValue]
    ledger: dict[str, JsonValue]
    plan: str | None = None
    kind: Literal["module", "graph"] | None = None
    split: dict[str, list[int]]
    optimizer: _Optimizer
    random: Annotated[list[_Random], annotated_types.MinLen(1)]
    strided: list[str]
    tensors: dict[str, str]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The content of a file.

    Attributes:
        phase: Number of the phase.
        step: Steps of the phase that are done.
        tensors: By name: ``model.``, ``average.``, ``optimizer.`` and ``method.`` and their own names.
        facts: Everything that is no tensor.
        path: The file.
    """

    phase: int
    step: int
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, object]
    path: Path

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose names begin so, without that."""
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


@dataclass(frozen=True, eq=False)
class Running:
    """What is being trained.

    Attributes:
        model: The user's module.
        optimizer: Of its parameters.
        method: The regularizer, if one acts.
        average: Of the model's tensors over the steps, if one is kept.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    method: Regularizer | None = None
    average: nn.Module | None = None

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
        """All tensors, whole and on the CPU, and how those of the method are split; every process has to ask."""
        tensors = {f"model.{name}": tensor for name, tensor in model_state(self.model).items()}
        if self.average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in model_state(self.average).items()}
        for number, entries in self.optimizer.state_dict()["state"].items():
            for name, value in entries.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{number}.{name}"] = assembled(value)
        state = {} if self.method is None else self.method.state_dict()
        split = {name: dims for name, value in state.items() if (dims := shard_dims(value)) is not None}
        return tensors | {f"method.{name}": assembled(value) for name, value in state.items()}, split

    def numbers(self) -> dict[str, object]:
        """What of the optimizer's state is no tensor."""
        state = self.optimizer.state_dict()
        plain = {
            str(number): {name: value for name, value in entries.items() if not isinstance(value, Tensor)}
            for number, entries in state["state"].items()
        }
        return {"groups": [{**g, "params": list(g["params"])} for g in state["param_groups"]], "state": plain}

    def restore(self, saved: Checkpoint) -> None:
        """Put a checkpoint's state into what is being trained.

        Raises:
            FxpruneError: It is of another model, optimizer or method.
        """
        try:
            load_model_state(self.model, saved.part("model."))
            if self.average is not None:
                load_model_state(self.average, saved.part("average."))
            self._restore_optimizer(saved)
            if self.method is not None:
                like = next(self.model.parameters())
                split = saved.facts["split"]
                assert isinstance(split, dict)
                self.method.load_state_dict(
                    {
                        k: laid_like(v, like, split.get(k, [])) if k in split else v
                        for k, v in saved.part("method.").items()
                    }
                )
        except (LookupError, ValueError, RuntimeError, AssertionError, TypeError, AttributeError) as error:
            raise FxpruneError(
                f"{saved.path} does not fit this run: {type(error).__name__}: {error}",
                advice="resume with the recipe and the version the run was started with",
            ) from error

    def _restore_optimizer(self, saved: Checkpoint) -> None:
        numbers = saved.facts["optimizer"]
        assert isinstance(numbers, dict)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, object]] = {int(k): dict(v) for k, v in numbers["state"].items()}
        for key, value in saved.part("optimizer.").items():
            number, _, name = key.partition(".")
            like = parameters[int(number)]
            if value.shape != like.shape and value.numel() != 1:
                raise ValueError(f"{list(value.shape)} for '{name}' of a parameter {list(like.shape)}")
            laid = laid_like(value, like) if value.shape == like.shape else value
            state.setdefault(int(number), {})[name] = laid
        self.optimizer.load_state_dict({"state": state, "param_groups": numbers["groups"]})


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a model, whole and on the CPU; every process has to ask."""
    return {name: assembled(value) for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def load_model_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Fill a model, sharded or not, with whole tensors.

    Raises:
        KeyError: A tensor is missing.
        ValueError: There is one too many, or one of another shape or kind.
    """
    own = {n: v for n, v in model.state_dict(keep_vars=True).items() if isinstance(v, Tensor)}
    if state.keys() - own.keys():
        raise ValueError(f"the model has no '{min(state.keys() - own.keys())}'")
    with torch.no_grad():
        for name, value in own.items():
            kinds = (
                state[name].is_floating_point(),
                state[name].is_complex(),
                state[name].dtype == torch.bool,
            )
            if kinds != (value.is_floating_point(), value.is_complex(), value.dtype == torch.bool):
                raise ValueError(f"'{name}' is {value.dtype} in the model, not {state[name].dtype}")
            if state[name].shape != value.shape:
                raise ValueError(
                    f"'{name}' is {list(value.shape)} in the model, not {list(state[name].shape)}"
                )
            value.detach().copy_(laid_like(state[name].to(value.dtype), value))


# --- random numbers --------------------------------------------------------------------------


def random_state() -> dict[str, object]:
    """The generators of python, numpy and torch, as JSON."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002  the model's code may use it
    version, words, next_gauss = random.getstate()
    return {
        "python": [version, list(words), next_gauss],
        "numpy": [str(kind), np.asarray(keys).tolist(), int(position), int(has_gauss), float(gauss)],
        "torch": torch.get_rng_state().tolist(),
        "cuda": torch.cuda.get_rng_state().tolist() if torch.cuda.is_available() else None,
    }


def set_random_state(state: Mapping[str, object]) -> None:
    """Put the generators back.

    Raises:
        FxpruneError: The state is none of theirs.
    """
    try:
        _set_random_state(state)
    except (LookupError, ValueError, RuntimeError, AssertionError, TypeError, OverflowError) as error:
        raise FxpruneError(
            f"the random state of a checkpoint cannot be put back: {error}",
            advice="resume with the versions of Python, numpy and torch the run was started with",
        ) from error


def _set_random_state(state: Mapping[str, object]) -> None:
    python, numpy = state["python"], state["numpy"]
    assert isinstance(python, list) and isinstance(numpy, list)
    random.setstate((python[0], tuple(python[1]), python[2]))
    np.random.set_state((numpy[0], np.array(numpy[1], np.uint32), *numpy[2:]))  # noqa: NPY002
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.tensor(state["cuda"], dtype=torch.uint8))


# --- files -----------------------------------------------------------------------------------


class Folder:
    """The checkpoints of a run.

    Args:
        path: A folder; made at the first save.
        team: The main process writes.
        keep: How many files stay.
    """

    def __init__(self, path: Path, team: Team, *, keep: int) -> None:
        self.path = path
        self._team = team
        self._keep = keep

    def save(self, running: Running, phase: int, step: int, facts: Mapping[str, object]) -> Path:
        """Write a checkpoint; every process has to ask.

        Args:
            running: What is being trained.
            phase: Number of the phase.
            step: Steps of the phase that are done.
            facts: Everything else to remember, as JSON.

        Raises:
            FxpruneError: A parameter is no number, or the file cannot be written.
        """
        tensors, split = running.tensors()
        sick = [n for n, t in tensors.items() if n.startswith("model.") and not _finite(t)]
        path = self.path / f"{phase}-{step:09d}.safetensors"
        if sick:
            raise FxpruneError(
                f"after step {step} of phase {phase}, {len(sick)} tensors hold values that are no numbers",
                tensor=sick[0].removeprefix("model."),
                advice=f"lower the learning rate; {self.advice()}",
            )
        everything = {
            **facts,
            "phase": phase,
            "step": step,
            "tensors": _forms(tensors),
            "split": split,
            "optimizer": running.numbers(),
            "random": self._team.each(random_state()),
            "strided": [n for n, t in tensors.items() if _channels_last(t)],
        }
        if self._team.main:
            self._write(path, tensors, everything)
        self._team.wait()
        return path

    def _write(self, path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, object]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        texts = {"format": FORMAT, "version": str(VERSION), "facts": json.dumps(facts)}
        write_tensors(path, tensors, texts)
        for old in self.files()[self._keep :]:
            with contextlib.suppress(OSError):  # not a file, perhaps
                old.unlink(missing_ok=True)

    def files(self) -> list[Path]:
        """Complete checkpoints, the newest first."""
        if not self.path.is_dir():
            return []
        return sorted((f for f in self.path.iterdir() if _NAME.fullmatch(f.name)), reverse=True)

    def advice(self) -> str:
        """Where the last good state is, in words."""
        files = self.files()
        return f"the last good checkpoint is {files[0]}" if files else "there is no checkpoint yet"

    def newest(self) -> tuple[Checkpoint | None, tuple[str, ...]]:
        """The newest checkpoint that can be read, and what is wrong with newer ones."""
        troubles: list[str] = []
        for path in self.files():
            try:
                return read_checkpoint(path), tuple(troubles)
            except FxpruneError as error:
                troubles.append(error.what)
        return None, tuple(troubles)


def _forms(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: f"{tensor.dtype}{list(tensor.shape)}" for name, tensor in tensors.items()}


def _channels_last(tensor: Tensor) -> bool:
    if tensor.ndim != 4 or tensor.is_contiguous():
        return False
    return tensor.is_contiguous(memory_format=torch.channels_last)


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def read_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint from its file.

    Raises:
        FxpruneError: It is damaged, or was not written by this version.
    """
    match = _NAME.fullmatch(path.name)
    assert match is not None
    try:
        contents = read_tensors(path)
        if contents.metadata.get("format") != FORMAT or contents.metadata.get("version") != str(VERSION):
            raise ValueError("it was not written by this version of fxprune train")
        if not contents.checked:
            raise ValueError("its digest is missing")
        text = contents.metadata["facts"]
        facts = _Facts.model_validate_json(text)
        _check(facts, int(match["phase"]), int(match["step"]), contents.tensors)
    except FxpruneError as error:
        raise FxpruneError(f"{path.name} cannot be read: {error.what}", advice="remove it") from error
    except (ValidationError, ValueError, KeyError) as error:
        raise FxpruneError(f"{path.name} cannot be read: {reason(error)}", advice="remove it") from error
    tensors = dict(contents.tensors)
    for name in facts.strided:
        # Sums run in the order of the memory: the same bits need the same layout.
        tensors[name] = tensors[name].contiguous(memory_format=torch.channels_last)
    return Checkpoint(facts.phase, facts.step, tensors, json.loads(text), path)


def _check(facts: _Facts, phase: int, step: int, tensors: Mapping[str, Tensor]) -> None:
    """What no schema can say.

    Raises:
        ValueError: The parts contradict each other.
        FxpruneError: Ledger or plan are none.
    """
    if (facts.phase, facts.step) != (phase, step) or step > facts.steps:
        raise ValueError(f"it is of step {facts.step} of {facts.steps} of phase {facts.phase}")
    odd = dict(_forms(tensors).items() ^ facts.tensors.items())
    if odd:
        raise ValueError(f"{len(odd)} tensors are not what was saved: {', '.join(sorted(odd)[:3])}")
    if not set(facts.strided) <= {name for name, tensor in tensors.items() if tensor.ndim == 4}:
        raise ValueError("it says of a tensor that is no image that it lies channels last")
    Ledger.of(facts.ledger)
    if facts.plan is not None:
        Plan.from_json(facts.plan)
