"""Recipes: every mistake is found before anything starts, with its line and what to do."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from torch import nn
from training.runs import NETS, SMALL, write

from fxprune.errors import ExportError, RecipeError
from fxprune.onnx.export import export_onnx
from fxprune.regularizers.registry import METHODS, MethodInfo, method_info
from fxprune.training.recipe.file import read_recipe
from fxprune.training.recipe.schema import OLDEST_OPSET, Recipe, model_fields_at
from fxprune.training.session import open_session
from fxprune.training.team import team

LINES = f"""\
model: {NETS}:residual
data:
  source: digits
  augment:
    crop: 1
method:
  name: ssr
  lam: 0.1
budget:
  macs: 0.5
sparse:
  epochs: 2
  lr: 1e-2
finetune:
  epochs: 1
"""


def lines(folder: Path, old: str = "", new: str = "") -> Path:
    assert old in LINES
    path = folder / "r.yaml"
    path.write_text(LINES.replace(old, new, 1) if old else LINES)
    return path


def test_a_right_recipe(tmp_path: Path) -> None:
    recipe = read_recipe(lines(tmp_path)).recipe
    assert (recipe.sparse.lr, recipe.data.augment.crop, recipe.epochs_of("finetune")) == (0.01, 1, 1)
    assert recipe.method[0].options == {"lam": 0.1}


@pytest.mark.parametrize(
    ("old", "new", "line", "what", "advice"),
    [
        ("  lr: 1e-2", "  lrr: 1e-2", 13, "unknown key 'lrr' in sparse", "did you mean 'lr'?"),
        ("    crop: 1", "    corp: 1", 5, "unknown key 'corp' in data.augment", "did you mean 'crop'?"),
        ("budget:", "bugdet:", 9, "unknown key 'bugdet'", "did you mean 'budget'?"),
        ("  lr: 1e-2", "  lr: fast", 13, 'sparse.lr ("fast"): input should be a valid number', ""),
        ("  lr: 1e-2", "  lr: true", 13, "sparse.lr (true)", ""),
        ("  lr: 1e-2", "  lr: .nan", 13, "should be a finite number", ""),
        ("  lr: 1e-2", "  lr: -1", 13, "should be greater than 0", ""),
        ("epochs: 2", "epochs: '2'", 12, "neither a number of epochs nor a percentage", ""),
        ("epochs: 2", "epochs: -2", 12, "less than no epochs", ""),
        ("epochs: 2", "epochs: 40 %", 1, "sparse.epochs is a percentage", ""),
        ("epochs: 2", "epochs: 0", 6, "method ssr needs epochs to act in", "set sparse.epochs above 0"),
        ("macs: 0.5", "macs: 1.5", 10, "should be less than or equal to 1", ""),
        (
            "macs: 0.5",
            "macs: 0.5\n  channels: 0.5",
            9,
            "a budget of macs and channels is two of one kind",
            "",
        ),
        ("macs: 0.5", "latency: 0.5\n  latency_ms: 2", 9, "is two of one kind", ""),
        ("macs: 0.5", "latency_ms: 0", 10, "should be greater than 0", ""),
        ("macs: 0.5", "latency_ms: 3\nplan: {target: any}", 1, "plan.target 'any' is another machine", ""),
        ("source: digits", "source: digit", 3, "data.source (digit) is unknown", "did you mean 'digits'?"),
        ("source: digits", "source: npz", 2, "'train' is missing in data", "add 'train:'"),
        ("name: ssr", "name: srs", 7, "there is no method 'srs'", "did you mean 'ssr'?"),
        ("  lam: 0.1", "  lamda: 0.1", 8, "ssr has no option 'lamda'", "did you mean 'lam'?"),
        ("  lam: 0.1", "  lam: much", 8, "ssr: lam='much': input should be a valid number", ""),
        ("  lam: 0.1", "  norm: l2", 8, "ssr: norm='l2': input should be 'l2,1' or 'l2,0'", ""),
        ("  lam: 0.1", "  lam: 0.1\n  lam: 0.2", 9, "'lam' stands twice, first in line 8", ""),
        ("  lr: 1e-2", "  lr: 1e-2\n\tclip: 1", 14, "this is not YAML", ""),
        ("residual\n", "residual\nplan: {criterion: l3}\n", 2, "there is no criterion 'l3'", ""),
        ("residual\n", "residual\nweights: none.pt\n", 2, "there is no file", "starts from the folder"),
        ("nets.py", "knots.py", 1, "there is no file", ""),
        ("residual\n", "residual\nbase: base.yaml\n", 2, "the base base.yaml does not exist", ""),
        ("residual\n", "residual\nbase: r.yaml\n", 2, "the base r.yaml is based on this one", ""),
        ("residual\n", "residual\nexport: false\nbench: {}\n", 1, "it needs export", ""),
        ("  lr: 1e-2", "  milestones: [0.7, 0.2]", 11, "do not increase", ""),
    ],
)
def test_mistakes(old: str, new: str, line: int, what: str, advice: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(lines(tmp_path, old, new))
    assert what in caught.value.what
    assert caught.value.source == f"r.yaml:{line}"
    assert advice in caught.value.advice
    assert caught.value.advice


@pytest.mark.parametrize(
    ("section", "what"),
    [
        ("plan: {target: nobodys-runtime}", "there is no target 'nobodys-runtime'"),
        ("plan: {align: 0}", "plan.align (0)"),
        ("plan: {align: wide}", "plan.align"),
        ("plan: {scope: all}", "plan.scope"),
        ("plan: {blocks: half}", "plan.blocks"),
        ("plan: {keep_at_least: 0}", "plan.keep_at_least"),
        ("plan: {protect: head}", "plan.protect"),
        ("plan: {only: [1]}", "plan.only.0"),
        ("plan: {ratios: {stem: 1.5}}", "plan.ratios.stem (1.5)"),
        ("plan: {batches: 0}", "plan.batches"),
        ("export: {opset: 6}", "export.opset (6)"),
        ("export: {opset: 99}", "knows opsets up to"),
        ("bench: {threads: 0}", "bench.threads"),
        ("bench: {seconds: 0}", "bench.seconds"),
        ("bench: {batch: 0}", "bench.batch"),
        ("plan: {criterion: none.py:Mine}", "there is no file"),
        ("plan: {criterion: math:pi}", "math:pi is no criterion"),
    ],
)
def test_what_is_used_last_is_checked_first(section: str, what: str, tmp_path: Path) -> None:
    """The sections on planning, export and measuring matter after hours of training."""
    with pytest.raises(RecipeError) as caught:
        read_recipe(lines(tmp_path, "residual\n", f"residual\n{section}\n"))
    assert what in caught.value.what
    assert caught.value.source == "r.yaml:2"
    assert caught.value.advice


def test_opsets_are_those_of_the_export(tmp_path: Path) -> None:
    newest = onnx.defs.onnx_opset_version()
    net, x = nn.Linear(2, 2), torch.zeros(1, 2)
    for opset in (OLDEST_OPSET - 1, newest + 1):
        with pytest.raises(RecipeError, match=r"export\.opset"):
            read_recipe(lines(tmp_path), [f"export.opset={opset}"])
        with pytest.raises(ExportError, match="there is no opset"):
            export_onnx(net, x, tmp_path / "net.onnx", opset=opset)
    for opset in (OLDEST_OPSET, newest):
        assert read_recipe(lines(tmp_path), [f"export.opset={opset}"]).recipe.export.opset == opset


def test_only_a_method_is_steered(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"sparse\.steer needs a method"):
        read_recipe(lines(tmp_path), ["method=none", "sparse.steer=true"])


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    path = lines(tmp_path, "  lr: 1e-2", "  lrr: 1e-2")
    path.write_text(path.read_text().replace("macs: 0.5", "macs: 5"))
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    assert caught.value.source == "r.yaml:10"
    assert "\nr.yaml:13: unknown key 'lrr' in sparse" in caught.value.what


def test_changes_win_and_are_named_in_errors(tmp_path: Path) -> None:
    path = lines(tmp_path)
    recipe = read_recipe(path, ["sparse.lr=0.5", "method.lam=1e-3", "budget={params: 0.3}"]).recipe
    assert (recipe.sparse.lr, recipe.method[0].options) == (0.5, {"lam": 0.001})
    with pytest.raises(RecipeError) as caught:
        read_recipe(path, ["sparse.lr=x"])
    assert caught.value.source == "--set sparse.lr=x"
    with pytest.raises(RecipeError, match="not of the form key=value"):
        read_recipe(path, ["sparse.lr"])


def test_bases_and_their_paths(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    np.savez(tmp_path / "deep" / "a.npz", images=np.zeros((2, 8, 8), np.uint8), labels=np.arange(2))
    base = {**SMALL, "data": {"source": "npz", "train": "*.npz", "test": "a.npz"}, "epochs": 10}
    (tmp_path / "deep" / "base.yaml").write_text(yaml.safe_dump(base))
    own = tmp_path / "own.yaml"
    own.write_text("base: deep/base.yaml\nsparse: {epochs: 30 %}\nfinetune: {lr: 7}\nmethod: ssr\n")
    recipe = read_recipe(own).recipe
    assert recipe.data.train == str(tmp_path / "deep" / "*.npz")
    assert (recipe.epochs_of("sparse"), recipe.finetune.lr, recipe.finetune.schedule) == (3, 7, "cosine")
    with pytest.raises(RecipeError) as caught:
        read_recipe(own, ["data.test=b.npz"])
    assert f"no file is named {Path.cwd() / 'b.npz'}" in caught.value.what


@pytest.mark.parametrize(
    ("total", "sparse", "finetune", "expected"),
    [
        (10, "40 %", "60 %", (4, 6)),
        (3, "50 %", "50%", (2, 1)),
        (1, "40 %", "60 %", (0, 1)),
        (7, "33.3 %", 5, (2, 5)),
    ],
)
def test_shares_of_the_epochs(
    total: int, sparse: str | int, finetune: str | int, expected: tuple[int, int]
) -> None:
    values = {**SMALL, "epochs": total, "sparse": {"epochs": sparse}, "finetune": {"epochs": finetune}}
    recipe = Recipe.model_validate(values)
    assert (recipe.epochs_of("sparse"), recipe.epochs_of("finetune")) == expected


def test_several_methods(tmp_path: Path) -> None:
    several = [{"name": "ssr", "lam": 0.1}, {"name": "network_slimming", "lamm": 1}]
    path = write(tmp_path, method=several)
    with pytest.raises(RecipeError, match="network_slimming has no option 'lamm'"):
        read_recipe(path)
    assert read_recipe(path, ["method=none"]).recipe.method == ()
    assert [m.name for m in read_recipe(path, ["method=[ssr, greg]"]).recipe.method] == ["ssr", "greg"]


@pytest.mark.parametrize("info", METHODS, ids=lambda info: info.name)
def test_every_option_of_a_method_is_known(info: MethodInfo) -> None:
    """Options come from signatures, down the classes that get them handed on; defaults pass their own checks."""
    parameters: dict[str, inspect.Parameter] = {}
    for cls in info.method.__mro__:
        own = {**inspect.signature(cls.__init__).parameters} if "__init__" in vars(cls) else {}
        parameters = {**own, **parameters}
        if own and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values()):
            break
    named = {n for n, parameter in parameters.items() if parameter.kind is not parameter.VAR_KEYWORD}
    assert named - set(info.options) <= {"self", "model", "groups", "lr", "budget"}
    assert set(info.options) <= named
    plain = {
        option: list(value) if isinstance(value, tuple) else value
        for option in info.options
        if isinstance(value := parameters[option].default, (bool, int, float, str, tuple))
    }
    assert set(info.check(plain)) == set(plain)
    assert method_info(info.name) == method_info(info.method.__name__) == info


def test_near_misses_know_every_section() -> None:
    assert model_fields_at(("data", "npz"))[-2:] == ("train", "test")
    assert "temperature" in model_fields_at(("finetune", "distill"))
    assert "start" in model_fields_at(("finetune",))
    assert "start" not in model_fields_at(("sparse",))


def test_arguments_of_the_model(tmp_path: Path) -> None:
    path = write(tmp_path, model=f"{NETS}:Residual?width=6", model_args={"classes": 10})
    file = read_recipe(path)
    with team(device="cpu", mixed_precision="no", parallel="ddp") as crew:
        session = open_session(file, crew, tmp_path / "run", resume=False)
    assert session.dense.stem.out_channels == 6
    assert session.opened.arguments == {"classes": 10}


def test_paths_of_models_start_from_the_folder_of_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text("")
    (tmp_path / "bert").mkdir()
    for text, path in (
        ("nets.py:make?name=a:b", f"{tmp_path}/nets.py:make?name=a:b"),
        ("hf:bert?num_labels=3", f"hf:{tmp_path}/bert?num_labels=3"),
    ):
        assert read_recipe(write(tmp_path, model=text)).recipe.model == path
    with pytest.raises(RecipeError, match="there is no folder"):
        read_recipe(write(tmp_path, model="hf:brt"))


def opened(path: Path, out: Path, *changes: str) -> None:
    file = read_recipe(path, changes)
    with team(device="cpu", mixed_precision="no", parallel="ddp") as crew:
        open_session(file, crew, out, resume=False)


@pytest.mark.parametrize(
    ("changes", "key", "what"),
    [
        (["model={nets}:three_classes"], "model", "tells 3 classes apart, but the labels have 10"),
        (["model=torchvision:resnet18"], "model", "the model refuses a batch of images 2x1x8x8"),
        (["model={nets}:nothing"], "model", "has no 'nothing'"),
        (
            ["model={nets}:Residual", "model_args={wdth: 8}"],
            "model_args",
            "takes no argument 'wdth'",
        ),
        (
            ["model={nets}:Residual?width=8", "model_args={width: 8}"],
            "model_args",
            "is given twice",
        ),
        (["data.classes=3"], "data.classes", "classes is 3, but there is a label 9"),
        (["data.classes=12"], "model", "tells 10 classes apart, but the labels have 12"),
        (["data.mean=[0.1, 0.2]"], "data.mean", "2 values for images with 1 channels"),
        (["input=[1x1x8]"], "", ""),
    ],
)
def test_what_only_a_dry_run_shows(changes: list[str], key: str, what: str, tmp_path: Path) -> None:
    path = lines(tmp_path)
    changes = [change.replace("{nets}", str(NETS)) for change in changes]
    if not what:
        opened(path, tmp_path / "out", *changes)
        return
    with pytest.raises(RecipeError) as caught:
        opened(path, tmp_path / "out", *changes)
    assert what in caught.value.what
    assert caught.value.source.startswith((f"--set {key}=", f"r.yaml:{1 if key == 'model' else 0}"))
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from torch import zeros

    save_file({"stem.weight": zeros(3, 1, 3, 3)}, tmp_path / "w.safetensors")
    path = lines(tmp_path, "budget:", "weights: w.safetensors\nbudget:")
    with pytest.raises(RecipeError) as caught:
        opened(path, tmp_path / "out")
    assert "do not fit the model" in caught.value.what
    assert caught.value.source == "r.yaml:9"
