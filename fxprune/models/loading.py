"""Models by name: from a command line's ``MODEL`` and ``--weights`` to a live ``nn.Module``.

``MODEL`` is one of

* ``torchvision:resnet50``: any model torchvision registers (classification, segmentation,
  detection, video, optical flow); ``torchvision:resnet50@DEFAULT`` with its published weights;
* ``timm:NAME`` (``timm:NAME@pretrained``), if timm is installed;
* ``hf:FOLDER``: what Hugging Face's ``save_pretrained`` wrote, if transformers is installed;
* ``ultralytics:yolo11n.yaml``: a network that comes with ultralytics, if that is installed;
* ``package.module:factory`` or ``path/to/file.py:factory``: a callable that returns the model, or
  the model and its example inputs;
* ``path/to/model.pt2``: a program saved by ``torch.export.save``.

``?name=value&name=value`` behind all but the last are arguments of the factory: ``torchvision:resnet18?num_classes=10``.

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
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MethodType, ModuleType

import torch
from torch import nn

from fxprune.errors import FxpruneError
from fxprune.models.factories import called, one_line
from fxprune.models.hugging_face import from_hugging_face
from fxprune.models.specs import FORMS, Argument, Loaded, Spec, read_spec
from fxprune.models.ultralytics_models import from_ultralytics
from fxprune.models.zoos import from_timm, from_torchvision
from fxprune.support.reading import regular_file, shown
from fxprune.support.source_lines import source_of
from fxprune.support.words import near

__all__ = ["Loaded", "load_model"]

_SEED = 0
_ONNX = (
    "an ONNX file is what comes out: fxprune bench measures it, and nothing else takes it. To prune, name the "
    "PyTorch model that it was exported from"
)


def load_model(
    spec: str, *, arguments: Mapping[str, Argument] | None = None, allow_pickle: bool = False
) -> Loaded:
    """The model that ``spec`` names; random weights are the same on every call.

    Args:
        spec: See the module's description.
        arguments: For the factory, beside those in ``spec``.
        allow_pickle: Read a ``.pt2`` file, which can run code.

    Returns:
        The model in evaluation mode, with example inputs where its source has some.

    Raises:
        FxpruneError: No such model, its factory takes no such argument, or failed.

    Example:
        >>> load_model("torchvision:resnet18").model.fc.out_features
        1000
        >>> load_model("torchvision:resnet18?num_classes=10").model.fc.out_features
        10
    """
    read = read_spec(spec, arguments)
    if read.name.endswith(".onnx"):
        raise FxpruneError(
            f"{shown(spec)} is an ONNX file, whose graph cannot be pruned or trained", advice=_ONNX
        )
    if not read.source:
        return _from_pt2(read.name, allow_pickle)
    # Commands that follow one another must see one model, even where its weights are random.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        loaded = _ZOOS.get(read.source, _from_factory)(read)
    loaded.model.eval()
    return loaded


_ZOOS: Mapping[str, Callable[[Spec], Loaded]] = {
    "torchvision": from_torchvision,
    "timm": from_timm,
    "hf": from_hugging_face,
    "ultralytics": from_ultralytics,
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


def _from_factory(spec: Spec) -> Loaded:
    place = f"{spec.source}:{spec.name}"
    model = named_object(place)
    if not isinstance(model, nn.Module):
        if not callable(model):
            raise FxpruneError(
                f"{place} is neither a model nor callable, but of type {type(model).__name__}",
                advice="name a function that returns the model",
            )
        advice = "the factory must return the model" + (
            "" if spec.arguments else "; it is called without arguments, which ?name=value adds"
        )
        model = called(model, spec.arguments, place, advice=advice)
    elif spec.arguments:
        raise FxpruneError(
            f"{place} is a model, and takes no arguments", advice="leave out what follows the '?'"
        )
    inputs: object | None = None
    if isinstance(model, tuple) and len(model) == 2:
        model, inputs = model
    if not isinstance(model, nn.Module):
        raise FxpruneError(
            f"{place} returned {_kind(model)}, not a torch.nn.Module",
            advice="return the model, or (model, example_inputs)",
        )
    return Loaded(model, spec.text, inputs, arguments=spec.arguments)


def _import_file(source: str) -> ModuleType:
    path = regular_file(source, advice="check the path in MODEL")
    # A name of its own: a user's models.py must not replace an installed module of that name.
    name = f"fxprune_user_{path.stem}_{abs(hash(path.resolve())):x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise FxpruneError(f"{path} is not a Python file", advice=FORMS)
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
        f"{what} could not be imported: {one_line(error)}",
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
            f"{shown(spec)} could not be read as an exported program: {one_line(error)}",
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
