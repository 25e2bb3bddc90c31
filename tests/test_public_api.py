"""The public surface: scripts of other people rely on these names, so a change here is a decision.

``FORMS`` fixes for each function the parameters that may be given by position, in order, and options that must
exist by name.  Everything after the positional ones is keyword-only.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pickle
import pkgutil
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import fxprune
from fxprune import testing

FUNCTIONS = {
    "trace",
    "couple",
    "dependency_graph",
    "explain",
    "plan",
    "slim",
    "verify",
    "recover",
    "remove",
    "sensitivity",
    "export_onnx",
    "benchmark",
    "compress",
    "save",
    "load",
}
TYPES = {"Budget", "Group", "Plan", "Trace"}
ERRORS = {
    "ExportError",
    "FxpruneError",
    "PlanError",
    "RecipeError",
    "SliceError",
    "TraceError",
    "UnsupportedOp",
    "VerificationError",
}
MODULES = {"regularizers"}
TESTING = {
    *("Broken", "LawError", "Operand", "OperatorReport", "Sample", "check_operator", "unnoticed_faults"),
    *("MethodReport", "check_method"),
    *("buffer", "complex_parameter", "given", "parameter", "positive"),
    *("Finding", "Net", "Recipe", "Report", "Shrunk"),
    *("check", "from_source", "random_net", "random_nets", "shrink", "write"),
}

FORMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "trace": (("model", "example_inputs"), ()),
    "couple": (("trace",), ("strict",)),
    "dependency_graph": (("trace",), ()),
    "explain": (("trace", "tensor"), ("dim",)),
    "plan": (
        ("trace", "budget"),
        ("criterion", "scope", "align", "keep_at_least", "protect", "only", "ratios", "target"),
    ),
    "slim": (("trace", "plan"), ()),
    "verify": (("trace", "plan", "slim"), ()),
    "recover": (("trace", "plan", "slim", "data"), ()),
    "remove": (("trace", "removed"), ()),
    "sensitivity": (("trace", "data"), ("shares", "criterion")),
    "export_onnx": (("module", "example_inputs", "path"), ()),
    "benchmark": (("models", "example_inputs"), ()),
    "compress": (("model", "example_inputs", "budget"), ("out",)),
    "save": (("model", "plan", "path"), ()),
    "load": (("model", "path", "example_inputs"), ()),
}

ATTRIBUTES: dict[str, set[str]] = {
    "Group": {"name", "width", "members", "exact", "pinned", "blocks"},
    "Plan": {"kept", "removed", "predicted", "to_json", "from_json"},
    "Budget": {"macs", "params", "latency", "channels", "latency_ms"},
}

# What must not stand in a public signature: it says nothing about what to pass.
VAGUE = re.compile(r"\bAny\b|\b[Dd]ict\b(?!\[)|\blist\b(?!\[)|\bCallable\b(?!\[)")


def test_public_names() -> None:
    public = FUNCTIONS | TYPES | ERRORS | MODULES
    assert sorted(fxprune.__all__) == sorted(public)
    assert all(hasattr(fxprune, name) for name in public)


def test_names_for_those_who_test() -> None:
    assert sorted(testing.__all__) == sorted(TESTING)
    for name in TESTING:
        assert inspect.getdoc(getattr(testing, name)), name
    for name in ("check_operator", "unnoticed_faults", "check", "Sample"):
        assert ">>>" in (inspect.getdoc(getattr(testing, name)) or ""), f"{name} shows no example"


def test_no_module_has_the_name_of_a_function() -> None:
    """Importing a module binds its name in the package: a function of that name would be gone."""
    modules = {m.name for m in pkgutil.iter_modules([str(Path(fxprune.__file__).parent)])}
    assert not modules & (FUNCTIONS | TYPES | ERRORS)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_every_function_documents_itself(name: str) -> None:
    text = inspect.getdoc(getattr(fxprune, name)) or ""
    assert ">>>" in text, "no example"
    assert "Args:" in text


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_signature(name: str) -> None:
    function: Callable[..., object] = getattr(fxprune, name)
    parameters = inspect.signature(function).parameters.values()
    positional, options = FORMS[name]
    assert tuple(p.name for p in parameters)[: len(positional)] == positional
    assert {p.kind for p in parameters} <= {
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    }, "no *args and no **kwargs"
    loose = [
        p.name
        for p in parameters
        if p.name not in positional and p.kind is not inspect.Parameter.KEYWORD_ONLY
    ]
    assert not loose, f"{loose} must be keyword-only"
    assert set(options) <= {p.name for p in parameters}


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_signature_is_typed(name: str) -> None:
    function: Callable[..., object] = getattr(fxprune, name)
    names = inspect.signature(function).parameters
    annotations = inspect.get_annotations(function)
    assert set(annotations) == {*names, "return"}
    vague = {key: note for key, note in annotations.items() if VAGUE.search(str(note))}
    assert not vague


@pytest.mark.parametrize("name", sorted(TYPES))
def test_types_are_frozen(name: str) -> None:
    kind = getattr(fxprune, name)
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert inspect.getdoc(kind)
    fields = {field.name for field in dataclasses.fields(kind)}
    assert {a for a in ATTRIBUTES.get(name, set()) if a not in fields and not hasattr(kind, a)} == set()


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_errors_share_a_base(name: str) -> None:
    error = getattr(fxprune, name)
    assert issubclass(error, fxprune.FxpruneError)
    shown = str(error("it broke", op="aten.x", node="x_1", tensor="w", source="m.py:3", advice="mend it"))
    for part in ("it broke", "aten.x", "x_1", "w", "m.py:3", "mend it"):
        assert part in shown


def test_version() -> None:
    root = Path(__file__).resolve().parents[1]
    stated = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert fxprune.__version__ == stated
    assert f"\nversion: {stated}\n" in (root / "tools" / "docs" / "CITATION.cff").read_text()


def test_typed_package() -> None:
    assert (Path(fxprune.__file__).parent / "py.typed").exists()


def test_names_are_listed_and_others_are_errors() -> None:
    """Names are loaded when they are asked for, and are known before."""
    assert set(fxprune.__all__) <= set(dir(fxprune))
    with pytest.raises(AttributeError, match="module 'fxprune' has no attribute 'prune'"):
        fxprune.prune  # noqa: B018


@pytest.mark.parametrize(
    ("former", "name", "home"),
    [
        ("fxprune.crop", "Conv2dBorder", "fxprune.slimming.crop"),
        ("fxprune.shims", "BatchNorm", "fxprune.graph.shims"),
    ],
)
def test_models_pickled_by_earlier_versions_find_their_parts(former: str, name: str, home: str) -> None:
    found = pickle.loads(f"c{former}\n{name}\n.".encode())
    assert found is getattr(importlib.import_module(home), name)
