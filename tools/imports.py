"""Who may import whom: the architecture as data, and what the sources really import.

``LAYERS`` is the whole architecture: a module imports from layers above its own line only (the list runs from
the ground up), never from its own layer.  Stages of one layer thus cannot see each other; ``JOINTS`` are the
modules in which stages meet.  A package (``ops``) is one entry, and its modules may import one another.
Imports under ``if TYPE_CHECKING`` are annotations and do not count.  ``tests/test_architecture.py`` holds the
sources to it, ``tools/draw_folders.py`` draws it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

__all__ = ["ALLOWED", "JOINTS", "LAYERS", "LEVEL", "ROOT", "STAGES", "entry", "imported", "own", "sources"]

ROOT = Path(__file__).resolve().parents[1] / "fxprune"

LAYERS: tuple[tuple[str, ...], ...] = (
    ("escaping",),
    ("errors",),
    ("support",),
    ("plans", "models", "targets"),
    ("labels", "onnx", "report"),
    ("ops",),
    ("graph",),
    ("coupling",),
    ("criteria", "resizing", "structures", "bench"),
    ("inspection", "slimming"),
    ("recovery",),
    ("planning", "proof", "crop", "shims"),
    ("pipeline", "regularizers"),
    ("__init__",),
    ("training",),
    ("demo", "testing"),
    ("cli",),
    ("__main__",),
)

ALLOWED: frozenset[tuple[str, str]] = frozenset()
"""Single imports that break the order and why they may: (importer, imported)."""

STAGES = frozenset({"planning", "slimming", "recovery", "proof", "onnx", "bench", "inspection", "report"})
JOINTS = frozenset(
    {"planning", "regularizers", "pipeline", "cli", "proof", "demo", "training", "testing", "__init__"}
)

LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def entry(path: Path) -> str:
    """The entry of ``LAYERS`` that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node outside ``if TYPE_CHECKING`` blocks."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from (inner for child in node.orelse for inner in (child, *statements(child)))
            continue
        yield node
        yield from statements(node)


def imported(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Dotted names that a module imports, by statement or by ``import_module("name")``, with their line."""
    for node in statements(tree):
        match node:
            case ast.Import(names=names):
                yield from ((alias.name, node.lineno) for alias in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield from ((f"{module}.{alias.name}", node.lineno) for alias in names)
            case ast.Call(func=func, args=[ast.Constant(value=str(name)), *_]) if ast.unparse(func).endswith(
                "import_module"
            ):
                yield name, node.lineno


def own(name: str) -> str | None:
    """The entry of ``LAYERS`` that an imported name belongs to, None for other libraries."""
    parts = name.split(".")
    if parts[0] != "fxprune":
        return None
    known = len(parts) > 1 and (parts[1] in LEVEL or (ROOT / parts[1]).with_suffix(".py").exists())
    return parts[1] if known else "__init__"


@cache
def sources() -> tuple[tuple[Path, ast.Module], ...]:
    """Every source file of the package with its syntax tree."""
    return tuple((path, ast.parse(path.read_text("utf-8"), str(path))) for path in sorted(ROOT.rglob("*.py")))
