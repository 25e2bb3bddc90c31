"""Slim: apply a plan, as a copy of the user's module where that is enough, else as a graph that trains."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from fxprune.coupling.couple import analyse
from fxprune.errors import FxpruneError, PlanError, SliceError
from fxprune.graph.trace import ExampleInputs, Trace
from fxprune.graph.trace import trace as _trace
from fxprune.models.weights import check_values, fill
from fxprune.models.wrapped import unwrapped
from fxprune.plans import Plan
from fxprune.resizing.resolve import Resolution, keep_mask, resolve
from fxprune.slimming.crop import crop_
from fxprune.slimming.graph_copy import Parts
from fxprune.slimming.module_copy import module_copy
from fxprune.slimming.own_numbers import own_numbers
from fxprune.slimming.recount import recounted
from fxprune.slimming.rehearsal import stumble
from fxprune.slimming.sameness import difference
from fxprune.structures.cut import cut, cut_sources
from fxprune.support.process import no_garbage
from fxprune.support.reading import shown
from fxprune.support.source_lines import source_of
from fxprune.support.tensors import DIGEST, Content, read_tensors, warn_unchecked, write_tensors
from fxprune.support.words import headline

__all__ = ["load", "save", "slim"]

Kind = Literal["auto", "module", "graph"]

FORMAT = "fxprune"
"""What files of slim models call themselves."""

# Arguments that torch.nn modules cache and ``modules.refresh`` updates.
CACHED = frozenset({"groups", "normalized_shape", "num_groups", "group"})


def slim(trace: Trace, plan: Plan, *, kind: Kind = "auto") -> nn.Module:
    """Apply a plan to the weights of the moment; the traced model is left untouched.

    Args:
        trace: A traced model.
        plan: A plan made for it.
        kind: ``"module"`` insists on a copy of the user's class, ``"graph"`` on a GraphModule;
            ``"auto"`` takes the copy whenever it reproduces the graph's result.

    Returns:
        The slim model.  ``.fxprune_kind`` is ``"module"`` or ``"graph"``; for a graph,
        ``.fxprune_sources`` names the source lines whose hard-coded sizes, or whose joins that lost
        a structure, forced it.  A graph is traced anew, from the user's code without numbers, when it
        is first called at another size, in another type, on another device, or in training where the
        code does more there than batch norm and plain dropout: that call takes as long as a trace.
        Other graphs than the first are not in its ``.graph``.

    Raises:
        PlanError: The plan was made for another model, or contradicts itself.
        SliceError: The model cannot be had in the asked kind.

    Example:
        >>> import torch, fxprune
        >>> net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> t = fxprune.trace(net, torch.zeros(1, 6))
        >>> small = fxprune.slim(t, fxprune.plan(t, fxprune.Budget(channels=0.5)))
        >>> small[0].out_features, small[2].in_features, net[0].out_features
        (4, 4, 8)
    """
    return _applied(trace, plan, kind)


@no_garbage()
def _applied(trace: Trace, plan: Plan, kind: Kind, *, trusted: bool = False) -> nn.Module:
    """Apply a plan; ``trusted`` weights come from a file that says which kind was right."""
    recounted(trace, plan)
    plans = (*_plans_before(trace.model), plan)
    if plan.removed:
        if kind == "module":
            raise SliceError(
                f"the user's own code cannot leave out {', '.join(plan.removed)}",
                advice="use kind='graph' or 'auto' where a plan cuts structures",
            )
        trace, kind = cut(trace, plan.removed), "graph"
    analysis = analyse(trace)
    parts = Parts(trace, resolve(analysis, keep_mask(analysis, plan)), plan)
    if kind != "graph":
        module, problem = _own_class(parts, trusted=trusted, insist=kind == "module")
        if module is not None:
            return _marked(crop_(module, plan.crops), "module", plans)
        if kind == "module" or trace.kind == "recorded":
            # Plans for a recorded model keep its class anyway.
            otherwise = trace.why_static if trace.kind == "recorded" else "or plan with keep_class=True"
            raise SliceError(
                f"the model's own code does not run on fewer channels: {problem}",
                source=", ".join(_hard_coded(parts.resolution)),
                advice=f"replace the hard-coded sizes by those of the tensors, or protect what they concern; {otherwise}",
            )
    graph = crop_(parts.graph, plan.crops)
    graph.fxprune_sources = (*cut_sources(trace), *_hard_coded(parts.resolution))  # type: ignore[assignment]
    return _marked(graph, "graph", plans)


def _plans_before(model: nn.Module) -> tuple[Plan, ...]:
    """By which a model became slim; those that removed nothing left it as it was."""
    plans: tuple[Plan, ...] = getattr(model, "fxprune_plans", ())
    return tuple(plan for plan in plans if plan.kept or plan.removed or plan.crops)


def _marked(model: nn.Module, kind: Kind, plans: tuple[Plan, ...]) -> nn.Module:
    """Say of a slim model what it is, and by which plans it came about, one after the other."""
    model.fxprune_kind, model.fxprune_plans = kind, plans  # type: ignore[assignment]
    return model


def _own_class(parts: Parts, *, trusted: bool, insist: bool) -> tuple[nn.Module | None, str]:
    """A copy of the user's module that computes what the graph does; without one, why not.

    Numbers of the user's own modules follow the widths where they seem to mean them; should that be a mistake, they stay.
    """
    on_meta = any(t.device.type == "meta" for t in parts.trace.model.parameters())
    problem, why = "", ""
    for numbers in (True, False) if own_numbers(parts.trace.model, parts.resolution) else (False,):
        module: nn.Module | None = None
        try:
            module = module_copy(parts, numbers=numbers)
            problem = "" if trusted and not numbers else _difference(parts, module)
        except FxpruneError:
            raise
        except Exception as error:  # noqa: BLE001 - the user's own code may raise anything on fewer channels
            problem = headline(error)
        if module is not None and (not problem or (insist and on_meta)):
            return module, ""
        why = why or problem
    return None, why


def _hard_coded(resolution: Resolution) -> tuple[str, ...]:
    """Source lines of the nodes whose sizes no torch.nn module caches."""
    nodes = [n for n, r in resolution.rewrites.items() if not set(r.args) <= CACHED]
    return tuple(dict.fromkeys(s for n in [*nodes, *resolution.gathers] if (s := source_of(n))))


def _difference(parts: Parts, module: nn.Module) -> str:
    """Why the module copy cannot stand for the graph, or empty."""
    trace = parts.trace
    if trace.kind == "recorded":
        problem, node = stumble(parts, module)
        where = source_of(node) if problem and node is not None else ""
        return f"{problem} ({where})" if where else problem
    inputs = trace.args, dict(trace.kwargs)
    work = parts.resolution.cost.macs, parts.resolution.analysis.coupling.cost.dense.macs
    return difference(module, lambda: parts.calls, lambda: parts.graph, trace.model, inputs, work)


# --- files -------------------------------------------------------------------------------------


def save(model: nn.Module, plan: Plan, path: str | Path) -> None:
    """Write a slim model's weights with its plan as metadata and a digest of everything; nothing is pickled.

    Args:
        model: A model that ``slim`` made (and training may have changed), also in a wrapper of torch.
        plan: The plan it was made with; the last one, where a slim model was pruned again: the file holds one plan for the dense model.
        path: A ``.safetensors`` file.

    Raises:
        SliceError: The file cannot be written, or weights are no numbers.
        PlanError: The last plan cuts structures of a model that was slim already.

    Example:
        >>> import tempfile, torch, fxprune
        >>> net, x = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Linear(8, 2)), torch.zeros(1, 6)
        >>> t = fxprune.trace(net, x)
        >>> p = fxprune.plan(t, fxprune.Budget(channels=0.5))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     fxprune.save(fxprune.slim(t, p), p, f"{folder}/slim.safetensors")
        ...     fxprune.load(net, f"{folder}/slim.safetensors", x)
        Sequential(
          (0): Linear(in_features=6, out_features=4, bias=True)
          (1): Linear(in_features=4, out_features=2, bias=True)
        )
    """
    model = unwrapped(model)
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen and isinstance(tensor, torch.Tensor):
            seen.add(id(tensor))
            tensors[name] = tensor
    facts = {
        "format": FORMAT,
        "kind": str(getattr(model, "fxprune_kind", "module")),
        "plan": _from_dense(model, plan).to_json(),
    }
    check_values(tensors, str(path))
    write_tensors(path, tensors, facts, error=SliceError)


def _from_dense(model: nn.Module, plan: Plan) -> Plan:
    """The plan that makes the model of the dense one, where it was pruned in rounds."""
    plans: tuple[Plan, ...] = getattr(model, "fxprune_plans", (plan,))
    return functools.reduce(Plan.then, plans) if plan == plans[-1] else plan


def load(model: nn.Module, path: str | Path, example_inputs: ExampleInputs) -> nn.Module:
    """Make the slim model of a file from a fresh dense one.

    Args:
        model: A model of the dense architecture; its weights do not matter and do not change.
        path: A file that ``save`` wrote.
        example_inputs: As for ``trace``.

    Returns:
        The slim model with the weights of the file.

    Raises:
        SliceError: The file is foreign or does not agree with its digest; or its tensors differ in name, shape or
            kind from the model's, or are no numbers.
        PlanError: The plan in it was made for another model.

    Example:
        See ``save``, whose example loads the file again:

        >>> import torch, fxprune
        >>> fxprune.load(torch.nn.Linear(2, 2), "no-such-file.safetensors", torch.zeros(1, 2))
        Traceback (most recent call last):
            ...
        fxprune.errors.SliceError: there is no file no-such-file.safetensors
              what to do: pass a file written by fxprune.save
    """
    plan, kind, content = _read(path)
    result = _applied(_trace(model, example_inputs), plan, kind, trusted=True)
    fill(result, content.tensors, path, what="the slim model")
    if not content.checked:
        warn_unchecked(path)
    return result


def _read(path: str | Path) -> tuple[Plan, Kind, Content]:
    """Plan, kind and content of a file; never unpickles."""
    content = read_tensors(path, error=SliceError, advice="pass a file written by fxprune.save")
    facts = dict(content.metadata)
    if facts.get("format") != FORMAT or facts.keys() - {DIGEST} != {"format", "kind", "plan"}:
        raise SliceError(f"{shown(path)} was not written by fxprune.save", advice="pass such a file")
    kinds: dict[str, Kind] = {"module": "module", "graph": "graph"}
    if facts["kind"] not in kinds:
        raise PlanError(
            f"{shown(path)} names an unknown kind of model: {facts['kind']!r}",
            advice="pass a file written by fxprune.save",
        )
    return Plan.from_json(facts["plan"]), kinds[facts["kind"]], content
