"""Trace: the model as a graph of ATen operators whose parameters keep their dotted names.

``torch.export`` (non-strict, training IR) does the work.  Models whose control flow depends on
data, which it refuses, are recorded from one real run instead; that graph serves the analysis and
the slim model is then a copy of the user's own module.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Literal, NoReturn

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from fxprune.errors import FxpruneError, TraceError
from fxprune.escaping import terminal
from fxprune.graph.graph_module import tensor_at
from fxprune.graph.recorder import idle_parameters, record, record_others
from fxprune.graph.shortcuts import shortcuts
from fxprune.graph.torch_export import exported
from fxprune.models.copies import copied, on_meta, unchanged_buffers
from fxprune.models.odd_models import check_operands, check_traceable, told
from fxprune.models.wrapped import unwrapped
from fxprune.support.memo import Memo
from fxprune.support.process import no_fast_path, no_garbage, quiet, uninterrupted, untouched_random_state
from fxprune.support.source_lines import source_of
from fxprune.support.words import headline

__all__ = [
    "ExampleInputs",
    "Trace",
    "call_arguments",
    "common_batch",
    "evaluating",
    "recorded",
    "trace",
    "trace_as",
]

_IMAGE = 3  # dimensions of one image

ExampleInputs = torch.Tensor | tuple[object, ...] | list[object] | dict[str, object]


@dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """A model and its graph.

    Attributes:
        model: The user's module, never changed; weights are read from it at the moment of use.
        args: Positional example inputs.
        kwargs: Example inputs by name.
        graph: The traced graph; ``get_attr`` nodes carry the model's dotted names.
        kind: ``"export"`` or ``"recorded"`` (analysis only).
        dynamic_batch: The first dimension of the inputs may take any size in ``graph``.
        batch: Size of that dimension in ``graph``'s own example (2 where it is dynamic and the
            user gave 1), or 1 where the inputs have no common first dimension.
        why_static: Why the batch is fixed, if it is.
        extras: Further graphs, so that parts that do not run on the example in evaluation follow the
            widths of the trunk: one in training mode where some parts only run there (auxiliary heads);
            of a recorded model runs on branches that its data do not take.
        idle: Of a recorded model each parameter that took part in none of the graphs, and the path of the
            module whose code may come to read it.
        parent: The trace this one was cut from (``fxprune.structures.cut``); None for a model as it is.
        cuts: Names of the structures that were cut.
    """

    model: nn.Module
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    graph: fx.GraphModule
    kind: Literal["export", "recorded"]
    dynamic_batch: bool
    batch: int
    why_static: str = ""
    extras: tuple[fx.GraphModule, ...] = ()
    idle: Mapping[str, str] = field(default_factory=dict)
    parent: Trace | None = field(default=None, repr=False)
    cuts: tuple[str, ...] = ()
    memo: Memo = field(default_factory=Memo, init=False, repr=False)

    def __repr__(self) -> str:
        nodes = sum(node.op == "call_function" for node in self.graph.graph.nodes)
        batch = "any batch size" if self.dynamic_batch else f"batch size {self.batch}"
        cut = f", without {', '.join(self.cuts)}" if self.cuts else ""
        why = f"; {self.why_static}" if self.why_static else ""
        return terminal(
            f"Trace({type(self.model).__name__}{cut}: {self.kind}, {nodes} operators, {batch}{why})"
        )

    def __copy__(self) -> Trace:
        return replace(self)

    def __deepcopy__(self, memo: dict[int, object]) -> Trace:
        """A trace of a copy of the model; what was found out about this one is not taken along."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        return Trace(**copy.deepcopy(own, memo))

    def __reduce__(self) -> NoReturn:
        raise TraceError(
            "a trace cannot be pickled: it holds your model, and a graph with sizes that are symbols",
            advice="save the plan (plan.to_json()) or the slim model (fxprune.save), and trace again where they are used",
        )

    def tensor(self, name: str) -> torch.Tensor:
        """The parameter, buffer or graph constant of that dotted name, as it is now.

        Raises:
            TraceError: The model has no such tensor (any more).
        """
        for owner in (self.model, self.graph, *self.extras):
            tensor = tensor_at(owner, name)
            if tensor is not None:
                return tensor
        raise TraceError(f"the model has no tensor '{name}'", tensor=name, advice="trace the model again")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of every parameter and buffer of the model, tied ones once."""
        parameters = [n for n, _ in self.model.named_parameters()]
        return (*parameters, *(n for n, _ in self.model.named_buffers()))

    @cached_property
    def aliases(self) -> dict[str, str]:
        """For names of tied tensors the name under which the tensor is first known."""
        first: dict[int, str] = {}
        aliases: dict[str, str] = {}
        for named in (self.model.named_parameters, self.model.named_buffers):
            for name, tensor in named(remove_duplicate=False):
                aliases[name] = first.setdefault(id(tensor), name)
        return aliases

    @cached_property
    def fingerprint(self) -> str:
        """Digest of names, shapes and operators: equal for models that a plan may be exchanged between.

        What was cut does not count: a plan names its cuts and is made for the complete model.  Nor do the
        operators of a recorded run, which depend on the weights, nor those that only make constants: some
        models keep what they made (a grid) from the first call on.
        """
        if self.parent is not None:
            return self.parent.fingerprint
        digest = hashlib.sha256()
        for name in self.names:
            digest.update(f"{name}{tuple(self.tensor(name).shape)}".encode())
        for node in _on_data(self.graph.graph, self.aliases) if self.kind == "export" else ():
            digest.update(str(node.target).encode())
        return digest.hexdigest()[:32]


def _on_data(graph: fx.Graph, own: Mapping[str, str]) -> Iterator[fx.Node]:
    """Calls that make tensors of the inputs or of the model's own tensors, directly or through other calls."""
    data: set[fx.Node] = set()
    for node in graph.nodes:
        source = node.op == "placeholder" or (node.op == "get_attr" and node.target in own)
        derived = node.op == "call_function" and not data.isdisjoint(node.all_input_nodes)
        if source or (derived and not isinstance(node.meta.get("val"), (int, torch.SymInt))):
            data.add(node)
        if derived and node in data:
            yield node


def call_arguments(example_inputs: ExampleInputs) -> tuple[tuple[object, ...], dict[str, object]]:
    """Positional and keyword arguments from what the user gave.

    A tensor or a list is one argument, a tuple holds the positional arguments, a dict the
    keyword arguments.

    Raises:
        TraceError: There is no tensor in it.
    """
    args: tuple[object, ...] = ()
    kwargs: dict[str, object] = {}
    if isinstance(example_inputs, dict):
        kwargs = dict(example_inputs)
    elif isinstance(example_inputs, tuple):
        args = example_inputs
    else:
        args = (example_inputs,)
    if not any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves((args, kwargs))):
        raise TraceError(
            f"the example inputs hold no tensor: {type(example_inputs).__name__}",
            advice="pass a Tensor, a tuple of arguments, or a dict of keyword arguments",
        )
    return args, kwargs


@contextlib.contextmanager
def evaluating(model: nn.Module, *, training: bool = False) -> Iterator[None]:
    """Put every submodule in evaluation (or training) mode and restore each one's own mode after."""
    modes = [(m, m.training) for m in model.modules()]
    try:
        for module, _ in modes:
            module.training = training
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def common_batch(args: tuple[object, ...], kwargs: Mapping[str, object]) -> int | None:
    """Size of the first dimension if all tensors share it; flags and numbers beside them, also as tensors, do not matter."""
    outer = pytree.tree_leaves((args, dict(kwargs)), is_leaf=lambda v: isinstance(v, list))
    inner = [t for t in pytree.tree_leaves(outer) if isinstance(t, torch.Tensor) and t.ndim]
    listed = not any(isinstance(leaf, torch.Tensor) and leaf.ndim for leaf in outer)
    # Unbatched images in a list share the 3 of their colours, never a batch.
    if listed and any(t.ndim == _IMAGE for t in inner):
        return None
    sizes = {t.shape[0] for t in inner}
    return sizes.pop() if len(sizes) == 1 else None


def _doubled(args: object) -> object:
    """A batch of one would be traced as the constant 1: use two copies."""
    return pytree.tree_map_only(torch.Tensor, lambda t: torch.cat([t, t]) if t.ndim else t, args)


def trace(model: nn.Module, example_inputs: ExampleInputs) -> Trace:
    """Trace a model on example inputs.

    The model is traced in evaluation mode, as a copy that shares its parameters; modes, parameters,
    buffers, inputs and random numbers are left as they are, also in the eyes of other threads.
    The batch (first dimension of every input tensor) is kept symbolic where the model allows it.

    Several threads may trace: they take turns, as torch.export works for one at a time.  Meanwhile
    it has cuDNN, oneDNN and fused attention switched off for all threads, which costs them time and
    changes no result.  A model must not be changed by one thread while another one traces it.  Ctrl-C is
    answered when the attempt in progress has ended, the second one at once.

    Args:
        model: Any module; its tensors may be on the meta device.  What torch wraps around one (``DataParallel``,
            ``DistributedDataParallel``, ``torch.compile``) is looked through: ``trace.model`` is the module inside.
        example_inputs: A tensor, a tuple of positional arguments (nested lists and dicts are
            fine), or a dict of keyword arguments.

    Returns:
        The trace, on which every other stage works.

    Raises:
        TraceError: The inputs do not fit the model, or it can neither be exported nor recorded.

    Example:
        >>> import torch
        >>> t = trace(torch.nn.Linear(3, 4), torch.zeros(1, 3))
        >>> t.kind, t.dynamic_batch
        ('export', True)
    """
    if not isinstance(model, nn.Module):
        raise TraceError(f"expected a torch.nn.Module, got {type(model).__name__}")
    model = unwrapped(model)
    check_traceable(model)
    args, kwargs = call_arguments(example_inputs)
    if any(p.device.type == "meta" for p in model.parameters()):  # only shapes matter then
        args, kwargs = pytree.tree_map_only(torch.Tensor, lambda t: t.to("meta"), (args, kwargs))
    size = common_batch(args, kwargs)
    with _alone():
        with told():
            result = _traced(model, args, kwargs, size)
        check_operands(result.graph.graph)
        return _with_training_parts(result)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """torch.export works for one thread at a time, narrates, and makes millions of small objects."""
    with uninterrupted(), quiet(), no_fast_path(), no_garbage(), untouched_random_state(), shortcuts():
        yield


def _traced(model: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], size: int | None) -> Trace:
    """The best trace to be had: dynamic export, static export, recording."""
    with _working_copy(model, _shared) as working:
        graph = _dynamic(working, args, kwargs, size)
        if not isinstance(graph, str):
            return Trace(model, args, kwargs, graph, "export", True, max(size or 0, 2))
        try:
            fixed = exported(working, args, kwargs, dynamic=False)
            return Trace(model, args, kwargs, fixed, "export", False, size or 1, graph)
        except Exception as error:  # noqa: BLE001 - whatever it was, recording may still work
            declined = headline(error)
    return _recorded(model, args, kwargs, size or 1, declined)


def _dynamic(
    model: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], size: int | None
) -> fx.GraphModule | str:
    """A graph for any batch size, or why there is none."""
    if not size:
        return "the inputs have no common first dimension"
    try:
        many = _doubled((args, kwargs)) if size == 1 else (args, kwargs)
        graph = exported(model, *many, dynamic=True)  # type: ignore[misc]
    except Exception as error:  # noqa: BLE001 - torch.export raises a dozen kinds; the next attempt decides
        return f"the model fixes the batch size ({headline(error)})"
    return graph if _is_dynamic(graph) else "the model fixes the batch size"


def _recorded(
    model: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], size: int, declined: str
) -> Trace:
    """A trace of one real run, and of runs on the branches that its data do not take; ``declined`` is empty where export would do."""
    # The model's code runs here, and may write into buffers and inputs: these are copies.
    mine, named = pytree.tree_map_only(torch.Tensor, torch.clone, (args, kwargs))
    with _working_copy(model, _with_own_buffers) as working:
        try:
            first = record(working, mine, named)
        except FxpruneError:
            raise
        except Exception as error:
            what = headline(error)
            raise TraceError(
                f"the model does not run on the example inputs: {what}",
                source=source_of(error),
                advice="check the inputs' shapes, dtypes and devices"
                + (f"; torch.export said: {declined}" if declined and what not in declined else ""),
            ) from error
        others = record_others(working, mine, named, first)
        idle = idle_parameters(working, (first, *others))
    cause = f"for torch.export declines it: {declined.partition('. ')[0]}{_hint(declined)}"
    why = f"the model was recorded from one run, {cause if declined else 'to see what its own code does'}"
    return Trace(
        *(model, args, kwargs, first.graph, "recorded", False, size, why),
        extras=tuple(other.graph for other in others),
        idle=idle,
    )


def _hint(declined: str) -> str:
    """What to do about it, where the cause is a common one."""
    if "not a known type" in declined or "not a registered" in declined:
        return "; let the model return tensors only (a model of transformers: model.config.use_cache = False)"
    return ""


def _shared(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _with_own_buffers(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if isinstance(tensor, nn.Parameter) else tensor.detach().clone()


@contextlib.contextmanager
def _working_copy(model: nn.Module, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[nn.Module]:
    """A copy in evaluation mode, with the model's own parameters; the model itself where none can be made."""
    try:
        working = model if _reaches_itself(model) else copied(model, change)
    except FxpruneError:
        working = model
    with evaluating(working), unchanged_buffers(working):
        yield working


def _reaches_itself(model: nn.Module) -> bool:
    """A function among its attributes holds a module or tensor: a copy would go on using that one."""
    for module in model.modules():
        for value in pytree.tree_leaves(list(vars(module).values())):
            for cell in getattr(value, "__closure__", None) or ():
                with contextlib.suppress(ValueError):  # an empty cell
                    if isinstance(cell.cell_contents, (nn.Module, torch.Tensor)):
                        return True
    return False


def _is_dynamic(graph: fx.GraphModule) -> bool:
    """Whether the first dimension of every input is a free symbol; code may have settled it at a number."""
    inputs = [n.meta.get("val") for n in graph.graph.nodes if n.op == "placeholder"]
    sizes = [t.shape[0] for t in inputs if isinstance(t, torch.Tensor) and t.ndim]
    return bool(sizes) and all(map(_is_free, sizes))


def _is_free(size: object) -> bool:
    return isinstance(size, torch.SymInt) and not size.node.expr.is_number


def _used_names(graph: fx.GraphModule) -> set[str]:
    return {str(n.target) for n in graph.graph.nodes if n.op == "get_attr"}


def _with_training_parts(result: Trace) -> Trace:
    """Add a training-mode graph if some parameters only take part there."""
    used = {result.aliases.get(n, n) for n in _used_names(result.graph)}
    idle = {n for n, _ in result.model.named_parameters()} - used
    if not idle or result.kind == "recorded":
        return result
    many = _doubled((result.args, result.kwargs)) if result.batch > 1 else (result.args, result.kwargs)
    try:
        meta = on_meta(result.model)
        with evaluating(meta, training=True):
            args, kwargs = pytree.tree_map_only(torch.Tensor, lambda t: t.to("meta"), many)
            extra = exported(meta, args, kwargs, dynamic=False)
    except Exception:  # noqa: BLE001 - no training graph: the idle parameters stay as they are, and say so
        return result
    if not idle & _used_names(extra):
        return result
    return replace(result, extras=(extra,))


def recorded(trace: Trace) -> Trace:
    """The same model, recorded from one run on the same inputs: operator by operator what its own code does.

    Args:
        trace: Of torch.export.

    Raises:
        TraceError: The code does not run alone.
    """
    with _alone():
        return _recorded(trace.model, trace.args, dict(trace.kwargs), trace.batch, "")


def trace_as(
    model: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], *, training: bool
) -> Trace:
    """Trace a model in a given mode by torch.export alone; whatever it raises comes out.

    Args:
        model: Any module; its tensors may be fakes.
        args: Positional arguments.
        kwargs: Arguments by name.
        training: The mode.
    """
    size = common_batch(args, kwargs)
    with _alone(), evaluating(model, training=training):
        graph = _dynamic(model, args, kwargs, size)
        if isinstance(graph, str):
            graph = exported(model, args, kwargs, dynamic=False)
            return Trace(model, args, kwargs, graph, "export", False, size or 1)
    assert size is not None
    return Trace(model, args, kwargs, graph, "export", True, max(size, 2))
