"""Imports follow the architecture of ``tools/imports.py``, and other facts about the source that no linter knows."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from imports import ALLOWED, JOINTS, LAYERS, LEVEL, ROOT, STAGES, entry, imported, own, sources

NEVER = frozenset({"torch_pruning", "torch_kirigami", "timm", "transformers", "onnxsim"})
NEVER_EXCEPT = frozenset({("models", "timm")})  # the user's own words "timm:NAME" ask for it

TORCH_FREE = {"labels.py", "coupling/blocks.py"}

ABSOLUTE = re.compile(r"""["'\s(=](?:/(?:home|root|work|tmp|usr|opt|var|mnt|Users)/|[A-Z]:\\)""")


def at(path: Path, line: int) -> str:
    return f"fxprune/{path.relative_to(ROOT)}:{line}"


def test_every_module_has_a_layer() -> None:
    new = {entry(path) for path, _ in sources()} - set(LEVEL)
    assert not new, f"give {sorted(new)} a line in LAYERS"


def test_imports_go_down() -> None:
    wrong = [
        f"{at(path, line)} layer {LEVEL[mine]} imports {theirs} of layer {LEVEL[theirs]}"
        for path, tree in sources()
        for name, line in imported(tree)
        if (theirs := own(name)) in LEVEL
        and (mine := entry(path)) in LEVEL
        and mine != theirs
        and (mine, theirs) not in ALLOWED
        and LEVEL[theirs] >= LEVEL[mine]
    ]
    assert not wrong, "\n".join(wrong)


def test_stages_meet_in_joints_only() -> None:
    met: dict[str, set[str]] = {}
    for path, tree in sources():
        met.setdefault(entry(path), set()).update({own(name) or "" for name, _ in imported(tree)} & STAGES)
    joints = {name for name, stages in met.items() if len(stages - {name}) > 1}
    assert joints <= JOINTS, {name: met[name] for name in joints - JOINTS}


def test_only_ops_spells_aten() -> None:
    spelled = [
        at(path, node.lineno)
        for path, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr == "aten"
        and ast.unparse(node) == "torch.ops.aten"
        and entry(path) != "ops"
    ]
    assert not spelled, f"torch.ops.aten at {spelled}: operators are the business of fxprune/ops"


def test_names_of_operators_are_spelled_where_operators_are_known() -> None:
    """Beside the rules only those that read torch's names, and the oracle that must not ask the rules, spell them."""
    knowing = {"ops", "graph", "testing", "models", "proof/masks"}
    spelled = [
        at(path, node.lineno)
        for path, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith("aten::")
        and not any(path.relative_to(ROOT).as_posix().startswith(folder) for folder in knowing)
    ]
    assert not spelled, f"operators by name at {spelled}: give them a name in fxprune/ops/named.py"


def test_peers_are_never_imported() -> None:
    met = {(entry(path), name.split(".")[0]) for path, tree in sources() for name, _ in imported(tree)}
    assert not {(importer, peer) for importer, peer in met if peer in NEVER} - NEVER_EXCEPT


def test_what_tests_need_is_loaded_by_those_who_test() -> None:
    """Nothing else imports ``fxprune.testing``, and it needs no tool of the tests itself."""
    met = {(entry(path), name) for path, tree in sources() for name, _ in imported(tree)}
    assert not {m for m in met if own(m[1]) == "testing" and m[0] != "testing"}
    tools = {"pytest", "hypothesis", "_pytest", "tests"}
    assert not {m for m in met if m[1].split(".")[0] in tools}


def test_labels_do_not_know_torch() -> None:
    knowing = {
        path.relative_to(ROOT).as_posix()
        for path, tree in sources()
        for name, _ in imported(tree)
        if name.split(".")[0] == "torch"
    }
    assert not knowing & TORCH_FREE


def methods() -> tuple[set[str], set[str]]:
    """Classes of ``fxprune/regularizers`` that are methods, and the names that recipes know them by."""
    classes = {
        node.name: node
        for path, tree in sources()
        if entry(path) == "regularizers"
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    known = {"Regularizer"}
    while (
        grown := {
            name for name, node in classes.items() if {ast.unparse(base) for base in node.bases} & known
        }
        - known
    ):
        known |= grown
    names = {
        word.value
        for name in known
        for node in ast.walk(classes[name])
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).removeprefix("self.") == "name"
        for word in ast.walk(node.value)
        if isinstance(word, ast.Constant)
    }
    return known, names


def asks_which_method(tree: ast.AST, classes: set[str], names: set[str]) -> Iterator[int]:
    """Lines that tell methods apart by name, by class, or by what they happen to have."""

    def words(node: ast.AST) -> set[object]:
        return {inner.value for inner in ast.walk(node) if isinstance(inner, ast.Constant)}

    for node in ast.walk(tree):
        match node:
            case ast.Compare() | ast.MatchValue():
                asked = bool(words(node) & names)
            case ast.Dict(keys=keys):
                asked = len({word for key in keys if key for word in words(key)} & names) > 1
            case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[_, kinds]):
                asked = bool(set(re.findall(r"\w+", ast.unparse(kinds))) & classes)
            case ast.Call(func=ast.Name(id="getattr" | "hasattr"), args=[what, *_]):
                asked = bool(re.search(r"\b(method|reg|regularizer)\b", ast.unparse(what)))
            case _:
                asked = False
        if asked:
            yield node.lineno


def test_nobody_asks_which_method_it_is() -> None:
    """The protocol says what differs: a method of somebody else can then do all that ours can."""
    classes, names = methods()
    found = [
        at(path, line)
        for path, tree in sources()
        if entry(path) != "regularizers"
        for line in asks_which_method(tree, classes, names)
    ]
    assert not found, f"{found}: give the protocol (fxprune/regularizers/protocol.py) a member for it"


def test_no_absolute_path() -> None:
    found = [
        f"{at(path, number)} {line.strip()}"
        for path, _ in sources()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if ABSOLUTE.search(line)
    ]
    assert not found, "\n".join(found)


def test_every_module_says_what_it_is() -> None:
    silent = [at(path, 1) for path, tree in sources() if not ast.get_docstring(tree)]
    assert not silent


def test_the_checks_can_fail() -> None:
    """Each helper sees what it is there to see."""
    tree = ast.parse(
        "from fxprune.planning.plan import plan\n"
        "import fxprune\n"
        "if TYPE_CHECKING:\n    from fxprune.cli.app import main\n"
        "def f():\n    import importlib\n    importlib.import_module('timm')\n"
    )
    names = [name for name, _ in imported(tree)]
    assert names == ["fxprune.planning.plan.plan", "fxprune", "importlib", "timm"]
    assert [own(name) for name in names] == ["planning", "__init__", None, None]
    assert ABSOLUTE.search('open("/home/someone/x")')
    assert not ABSOLUTE.search('split("/")')
    classes, names = methods()
    assert {"GAL", "IncReg", "Magnitude", "Compose", "GroupRegularizer"} <= classes
    assert {"gal", "increg", "increg_columns", "magnitude", "uniform", "ssr"} <= names
    for line, asked in (
        ("method.name == 'ssr'", True),
        ("'gal' != name", True),
        ("name in ('magnitude', 'uniform')", True),
        ("isinstance(method, (GAL, regularizers.SSR))", True),
        ("issubclass(kind, OneShot)", True),
        ("getattr(job.method, 'loss', None)", True),
        ("hasattr(method, 'student')", True),
        ("{'ssr': 1, 'dwgl': 2}", True),
        ("method.steerable and isinstance(value, Mapping) and name == 'macs'", False),
        ("getattr(plan.predicted, quantity)", False),
    ):
        assert bool(list(asks_which_method(ast.parse(line), classes, names))) == asked, line
    assert len(LEVEL) == sum(map(len, LAYERS)), "a module stands in two layers"


def test_what_is_remembered_has_no_string_keys() -> None:
    """Results live in the memo under the function that makes them (``fxprune.support.memo``), not in shared dictionaries."""
    keyed = [
        at(path, node.lineno)
        for path, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith((".cache", ".memo"))
    ]
    assert not keyed, f"remembered by hand at {keyed}"
