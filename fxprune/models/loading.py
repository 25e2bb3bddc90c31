"""Models by name: from a command line's ``MODEL`` and ``--weights`` to a live ``nn.Module``.

``MODEL`` is one of

* ``torchvision:resnet50``: any model torchvision registers (classification, segmentation,
  detection, video, optical flow); ``torchvision:resnet50@DEFAULT`` with its published weights;
* ``timm:NAME`` (``timm:NAME@pretrained``), if timm is installed;
* ``package.module:factory`` or ``path/to/file.py:factory``: a callable without arguments that
  returns the model, or the model and its example inputs;
* ``path/to/model.pt2``: a program saved by ``torch.export.save``.

Weights are read from safetensors files, or from ``torch.save`` files that hold nothing but
tensors.  Whatever would have to be unpickled is refused unless the caller says ``allow_pickle``.
A factory and a ``.pt2`` file are *programs*: load only those you would run.  A factory is the caller's own code
by its name; a ``.pt2`` file looks like data, so that every one of them, too, needs ``allow_pickle``: torch hands
expressions in its JSON to a parser that evaluates them, loads shared libraries from its AOT folder, and takes
pickles from places that a check beforehand does not see (one name twice, or in another letter case).
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect as pyinspect
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MethodType, ModuleType

import torch
from torch import nn

from fxprune.errors import FxpruneError
from fxprune.support.reading import regular_file, shown
from fxprune.support.source_lines import source_of
from fxprune.support.words import near

__all__ = ["Loaded", "load_model"]

_SEED = 0
_FORMS = (
    "write torchvision:resnet50, timm:NAME, package.module:factory, path/to/file.py:factory "
    "or path/to/model.pt2"
)


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model and what its source knows about it.

    Attributes:
        model: In evaluation mode.
        spec: The text it was named by.
        inputs: Example inputs the source came with (a factory's, a ``.pt2`` file's), or None.
        pretrained: Whether the source filled in trained weights; False says nothing about a
            factory, which may have done so on its own.
    """

    model: nn.Module
    spec: str
    inputs: object | None = None
    pretrained: bool = False


def load_model(spec: str, *, allow_pickle: bool = False) -> Loaded:
    """The model that ``spec`` names; random weights are the same on every call.

    Args:
        spec: See the module's description.
        allow_pickle: Read a ``.pt2`` file, which can run code.

    Returns:
        The model in evaluation mode, with example inputs where its source has some.

    Raises:
        FxpruneError: No such model, or its factory failed.

    Example:
        >>> load_model("torchvision:resnet18").model.fc.out_features
        1000
    """
    if not spec.strip():
        raise FxpruneError("the model's name is empty", advice=_FORMS)
    if spec.endswith(".pt2"):
        return _from_pt2(spec, allow_pickle)
    source, colon, name = spec.rpartition(":")
    if not colon or not source or not name:
        file = f"name a function in the file, as {spec}:make" if spec.endswith(".py") else _FORMS
        raise FxpruneError(f"'{spec}' does not name a model", advice=file)
    loader = _ZOOS.get(source)
    # Commands that follow one another must see one model, even where its weights are random.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        loaded = loader(name, spec) if loader else _from_factory(spec)
    loaded.model.eval()
    return loaded


# --- model zoos ------------------------------------------------------------------------------


def _from_torchvision(name: str, spec: str) -> Loaded:
    from torchvision import models

    name, _, weights = name.partition("@")
    known = models.list_models()
    if name not in known:
        raise FxpruneError(
            f"torchvision has no model '{name}'", advice=near(name, known, otherwise="check the spelling")
        )
    if weights:
        return Loaded(_torchvision_pretrained(name, weights), spec, pretrained=True)
    builder = models.get_model_builder(name)
    with warnings.catch_warnings():  # two old networks announce how they initialise
        warnings.simplefilter("ignore", FutureWarning)
        if "weights_backbone" in pyinspect.signature(builder).parameters:
            # A fresh detector or segmenter would still download its backbone's weights.
            return Loaded(models.get_model(name, weights=None, weights_backbone=None), spec)
        return Loaded(models.get_model(name, weights=None), spec)


def _torchvision_pretrained(name: str, weights: str) -> nn.Module:
    from torchvision import models

    offered = models.get_model_weights(name)
    wanted = "DEFAULT" if weights.lower() == "pretrained" else weights
    if wanted not in offered.__members__:
        raise FxpruneError(
            f"torchvision's {name} has no weights '{weights}'",
            advice=f"choose from {', '.join(offered.__members__)}",
        )
    try:
        model: nn.Module = models.get_model(name, weights=offered[wanted])
        return model
    except OSError as error:
        raise FxpruneError(
            f"the weights {name}@{wanted} could not be downloaded: {error}",
            advice="check the network, or download the file yourself and pass it with --weights",
        ) from error


def _from_timm(name: str, spec: str) -> Loaded:
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise FxpruneError(
            f"'{spec}' needs timm, which is not installed", advice="pip install timm"
        ) from error
    name, _, weights = name.partition("@")
    if weights not in {"", "pretrained"}:
        raise FxpruneError(f"unknown weights '{weights}' in '{spec}'", advice=f"write timm:{name}@pretrained")
    if not timm.is_model(name):
        raise FxpruneError(
            f"timm has no model '{name}'",
            advice=near(name, timm.list_models(), otherwise="check the spelling"),
        )
    try:
        model = timm.create_model(name, pretrained=bool(weights))
    except Exception as error:  # timm and its hub client raise many kinds
        raise FxpruneError(
            f"timm could not make '{name}': {_one_line(error)}",
            advice="check the network, or leave out @pretrained and pass --weights FILE",
        ) from error
    return Loaded(model, spec, pretrained=bool(weights))


_ZOOS: dict[str, Callable[[str, str], Loaded]] = {
    "torchvision": _from_torchvision,
    "timm": _from_timm,
}


# --- factories -------------------------------------------------------------------------------


def named_object(spec: str) -> object:
    """What ``package.module:name`` or ``file.py:name`` stands for; the module is imported.

    Raises:
        FxpruneError: It cannot be imported, or has nothing of that name.

    Example:
        >>> named_object("collections:OrderedDict")
        <class 'collections.OrderedDict'>
    """
    source, _, name = spec.rpartition(":")
    module = _import_file(source) if source.endswith(".py") else _import_module(source)
    value: object = module
    for part in name.split("."):
        if not hasattr(value, part):
            public = [key for key in vars(module) if not key.startswith("_")]
            raise FxpruneError(
                f"{source} has no '{name}'", advice=near(name, public, otherwise="check the spelling")
            )
        value = getattr(value, part)
    return value


def _from_factory(spec: str) -> Loaded:
    model = named_object(spec)
    if not isinstance(model, nn.Module):
        if not callable(model):
            raise FxpruneError(
                f"{spec} is neither a model nor callable, but of type {type(model).__name__}",
                advice="name a function without arguments that returns the model",
            )
        model = _call(model, spec)
    inputs: object | None = None
    if isinstance(model, tuple) and len(model) == 2:
        model, inputs = model
    if not isinstance(model, nn.Module):
        raise FxpruneError(
            f"{spec} returned {_kind(model)}, not a torch.nn.Module",
            advice="return the model, or (model, example_inputs)",
        )
    return Loaded(model, spec, inputs)


def _call(factory: Callable[[], object], spec: str) -> object:
    try:
        return factory()
    except Exception as error:  # the user's code may raise anything
        raise FxpruneError(
            f"{spec} failed: {_one_line(error)}",
            source=source_of(error),
            advice="the factory is called without arguments and must return the model",
        ) from error


def _import_file(source: str) -> ModuleType:
    path = regular_file(source, advice="check the path in MODEL")
    # A name of its own: a user's models.py must not replace an installed module of that name.
    name = f"fxprune_user_{path.stem}_{abs(hash(path.resolve())):x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise FxpruneError(f"{path} is not a Python file", advice=_FORMS)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look their module up
    _on_path(path.resolve().parent)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        raise _import_error(str(path), error) from error
    return module


def _import_module(name: str) -> ModuleType:
    _on_path(Path.cwd())
    try:
        return importlib.import_module(name)
    except BaseException as error:
        raise _import_error(name, error) from error


def _import_error(what: str, error: BaseException) -> BaseException:
    if isinstance(error, KeyboardInterrupt):
        return error
    # The line that looked for a missing module is Python's own.
    missing = isinstance(error, ModuleNotFoundError) and what.partition(".")[0] == error.name
    return FxpruneError(
        f"{what} could not be imported: {_one_line(error)}",
        source="" if missing else source_of(error),
        advice="run it with python first; a module is looked up from the current folder",
    )


def _on_path(folder: Path) -> None:
    # At the end, so that nothing there can shadow an installed module; left there, because a
    # model may import its neighbours as late as in forward().
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


# --- exported programs -----------------------------------------------------------------------


def _from_pt2(spec: str, allow_pickle: bool) -> Loaded:
    path = regular_file(spec, advice="check the path in MODEL")
    if not allow_pickle:
        raise FxpruneError(
            f"{shown(spec)} is a program, and reading it can run any code: torch evaluates expressions in it, "
            "loads compiled libraries from it and unpickles objects",
            advice="pass --allow-pickle (allow_pickle=True) if you trust whoever made the file",
        )
    try:
        with warnings.catch_warnings():  # of formats older than torch's own
            warnings.simplefilter("ignore", UserWarning)
            program = torch.export.load(str(path))
        model = program.module(check_guards=False)
    except Exception as error:  # the reader asserts, indexes and parses
        raise FxpruneError(
            f"{shown(spec)} could not be read as an exported program: {_one_line(error)}",
            advice="write it with torch.export.save under this version of torch",
        ) from error
    # The exported module refuses train() and eval(); its mode is part of the graph, so they
    # may as well do nothing but set the flag.
    vars(model).update(train=MethodType(nn.Module.train, model), eval=MethodType(nn.Module.eval, model))
    inputs: object | None = None
    if program.example_inputs is not None:
        args, kwargs = program.example_inputs
        inputs = dict(kwargs) if kwargs and not args else tuple(args) if not kwargs else None
    return Loaded(model.eval(), spec, inputs, pretrained=True)


# --- words -----------------------------------------------------------------------------------


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a value of type {type(value).__name__}"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    name = type(error).__name__
    return f"{name}: {text[:300]}" if text else name
