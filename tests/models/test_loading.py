"""Models by name: zoos, factories, exported programs, and what is refused."""

from __future__ import annotations

import contextlib
import pickle
import re
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from fxprune.errors import FxpruneError
from fxprune.models.inputs import example_inputs
from fxprune.models.loading import load_model

FACTORIES = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.fc = nn.Linear(3, width)

    def forward(self, x):
        from neighbour import SCALE
        return self.fc(x) * SCALE

def make():
    return Net()

def with_inputs():
    return Net(5), (torch.zeros(2, 3),)

def broken():
    raise RuntimeError("no luck")

def nothing():
    return None

number = 3
instance = Net(7)

class Zoo:
    @staticmethod
    def small():
        return Net(2)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("SCALE = 2.0\n")
    (tmp_path / "nets.py").write_text(FACTORIES)
    return tmp_path / "nets.py"


def test_factory_in_a_file(file: Path) -> None:
    loaded = load_model(f"{file}:make")
    assert loaded.model.fc.weight.shape == (4, 3)
    assert not loaded.model.training
    assert loaded.inputs is None
    x = torch.ones(1, 3)
    torch.testing.assert_close(loaded.model(x), loaded.model.fc(x) * 2)  # imports its neighbour late


@pytest.mark.parametrize(
    ("name", "width"), [("Net", 4), ("instance", 7), ("Zoo.small", 2), ("with_inputs", 5)]
)
def test_what_a_factory_may_be(file: Path, name: str, width: int) -> None:
    assert load_model(f"{file}:{name}").model.fc.out_features == width


def test_factory_brings_its_inputs(file: Path) -> None:
    inputs = load_model(f"{file}:with_inputs").inputs
    assert isinstance(inputs, tuple)
    assert inputs[0].shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mak", "did you mean 'make'?"),
        ("broken", r"RuntimeError: no luck[\s\S]*nets.py:21"),
        ("nothing", "returned nothing, not a"),
        ("number", "is neither a model nor callable, but of type int"),
    ],
)
def test_factory_refused(file: Path, name: str, says: str) -> None:
    with pytest.raises(FxpruneError, match=says):
        load_model(f"{file}:{name}")


def test_a_file_that_does_not_import(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("import torch\nimport no_such_package\n")
    with pytest.raises(
        FxpruneError, match=r"bad.py could not be imported: ModuleNotFoundError[\s\S]*bad.py:2"
    ):
        load_model(f"{path}:make")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("", "empty"),
        ("resnet50", "does not name a model"),
        ("torchvision:", "does not name a model"),
        ("torchvision:resnet51", r"did you mean .*resnet50"),
        ("torchvision:resnet50@V9", "choose from IMAGENET1K_V1"),
        ("timm:resnet18@best", "unknown weights"),
        ("no_such_module:make", "could not be imported"),
        ("no_such_file.py:make", "there is no file"),
        ("no_such_file.pt2", "there is no file"),
    ],
)
def test_unknown_names(spec: str, says: str) -> None:
    if spec.startswith("timm"):
        pytest.importorskip("timm")
    with pytest.raises(FxpruneError, match=says):
        load_model(spec)


def test_module_is_found_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fxprune_test_nets.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    assert load_model("fxprune_test_nets:make").model.fc.out_features == 4


def test_torchvision() -> None:
    loaded = load_model("torchvision:squeezenet1_1")
    assert not loaded.pretrained
    assert sum(p.numel() for p in loaded.model.parameters()) == 1_235_496


def test_detector_is_made_without_a_download() -> None:
    model = load_model("torchvision:ssdlite320_mobilenet_v3_large").model
    assert sum(p.numel() for p in model.parameters()) > 3_000_000


class _Buffered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.conv(x)))


@pytest.fixture
def program(tmp_path: Path) -> tuple[nn.Module, Path]:
    model = _Buffered().eval()
    sizes = {"x": {0: torch.export.Dim("batch", min=2)}}
    exported = torch.export.export(model, (torch.randn(2, 3, 8, 8),), dynamic_shapes=sizes, strict=False)
    torch.export.save(exported, tmp_path / "net.pt2")
    return model, tmp_path / "net.pt2"


def test_exported_program(program: tuple[nn.Module, Path]) -> None:
    model, path = program
    loaded = load_model(str(path), allow_pickle=True)
    assert set(dict(loaded.model.named_parameters())) == set(dict(model.named_parameters()))
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(loaded.model(x), model(x), rtol=0, atol=0)
    assert loaded.inputs is not None
    assert loaded.model.train() is loaded.model  # torch's own refuses to switch
    assert not loaded.model.eval().training


def _rewrite(path: Path, part: str, content: bytes) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, content if name.endswith(part) else data)


class _Bomb:
    """Unpickling it writes a file: the proof that nobody unpickled it is that there is none."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.target,))


def _expression(path: Path, mark: Path) -> None:
    """An expression for a size, which torch hands to a parser that evaluates it."""
    with zipfile.ZipFile(path) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("models/model.json")]
        text = archive.read(name).decode()
    symbol = re.search(r'"expr_str": "(Symbol[^"]*)"', text)
    assert symbol is not None
    code = f"__import__('pathlib').Path('{mark}').touch() or {symbol[1]}"
    _rewrite(path, "models/model.json", text.replace(symbol[0], f'"expr_str": "{code}"').encode())


def _pickle(path: Path, mark: Path) -> None:
    _rewrite(path, "sample_inputs/model.pt", pickle.dumps(_Bomb(mark)))


def _twice(path: Path, mark: Path) -> None:
    """The pickle beside an honest entry of the same name: two readers take different ones."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore", UserWarning)
        archive.writestr("net/data/sample_inputs/model.pt", pickle.dumps(_Bomb(mark)))


def _case(path: Path, mark: Path) -> None:
    """The same under another letter case, which torch's reader of archives does not tell apart."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("net/data/sample_inputs/MODEL.PT", pickle.dumps(_Bomb(mark)))


def _library(path: Path, mark: Path) -> None:
    """Compiled code under the folder of ahead-of-time models."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("net/data/aotinductor/model/model.wrapper.so", b"\x7fELF" + str(mark).encode())


@pytest.mark.parametrize("hostile", [_expression, _pickle, _twice, _case, _library, lambda path, mark: None])
def test_no_program_is_read_without_the_flag(
    hostile, program: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    _, path = program
    hostile(path, tmp_path / "ran")
    with pytest.raises(
        FxpruneError, match=r"is a program, and reading it can run any code[\s\S]*--allow-pickle"
    ):
        load_model(str(path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("hostile", [_expression, _pickle])
def test_such_programs_do_run_code_with_it(hostile, program: tuple[nn.Module, Path], tmp_path: Path) -> None:
    """Else the test above would show nothing."""
    _, path = program
    hostile(path, tmp_path / "ran")
    with contextlib.suppress(FxpruneError):
        load_model(str(path), allow_pickle=True)
    assert (tmp_path / "ran").exists()


def test_file_that_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(FxpruneError, match="could not be read as an exported program"):
        load_model(str(path), allow_pickle=True)


def test_random_weights_are_the_same_on_every_call(file: Path) -> None:
    state = torch.get_rng_state()
    one, two = (load_model(f"{file}:make").model.fc.weight for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(state, torch.get_rng_state())


# --- arguments of factories ------------------------------------------------------------------

SIZED = """
from torch import nn

def make(width: int, bias=True, name="net", scale=1.0, other=None):
    net = nn.Linear(3, width, bias)
    net.given = (name, scale, other)
    return net

class Free(nn.Linear):
    def __init__(self, **kwargs):
        super().__init__(3, **kwargs)

instance = nn.Linear(1, 1)
"""


@pytest.fixture
def sized(tmp_path: Path) -> Path:
    (tmp_path / "sized.py").write_text(SIZED)
    return tmp_path / "sized.py"


def test_arguments_have_the_types_they_are_written_in(sized: Path) -> None:
    net = load_model(f"{sized}:make?width=5&bias=false&name='7'&scale=1e-2&other=none").model
    assert net.weight.shape == (5, 3)
    assert net.bias is None
    assert net.given == ("7", 0.01, None)


def test_arguments_from_two_places_go_together(sized: Path) -> None:
    loaded = load_model(f"{sized}:make?width=5", arguments={"bias": False})
    assert loaded.arguments == {"width": 5, "bias": False}
    assert loaded.model.bias is None
    with pytest.raises(FxpruneError, match=r"'width' of '.*make' is given twice"):
        load_model(f"{sized}:make?width=5", arguments={"width": 6})


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("make?widht=5", r"takes no argument 'widht'\n.*did you mean 'width'\?"),
        ("make?zzz=5", r"takes no argument 'zzz'\n.*it takes width, bias, name, scale, other"),
        ("make?width", "'width' in .* is no argument"),
        ("make?2=3", "'2=3' in .* is no argument"),
        ("make?width=5&width=6", "given twice"),
        ("make?width=wide", r"failed with width='wide': TypeError[\s\S]*sized.py:5 in make"),
        ("make", r"failed: TypeError[\s\S]*called without arguments, which \?name=value adds"),
        ("Free?out_features=2&out=3", "takes no argument 'out'"),
        ("instance?x=1", "is a model, and takes no arguments"),
    ],
)
def test_arguments_refused(sized: Path, name: str, says: str) -> None:
    with pytest.raises(FxpruneError, match=says):
        load_model(f"{sized}:{name}")


def test_arguments_of_torchvision() -> None:
    model = load_model("torchvision:resnet18?num_classes=10&zero_init_residual=true").model
    assert model.fc.weight.shape == (10, 512)
    assert not model.layer1[0].bn2.weight.any()
    vit = load_model("torchvision:vit_b_16?image_size=64").model
    assert vit.encoder.pos_embedding.shape == (1, 17, 768)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("resnet18?num_clases=10", r"resnet18 takes no argument 'num_clases'\n.*did you mean 'num_classes'"),
        ("resnet18?num_classes=ten", "failed with num_classes='ten': TypeError"),
        ("resnet18?weights=DEFAULT", "takes no argument 'weights'"),
        ("resnet18@DEFAULT?num_classes=10", r"expected value 1000 but got 10[\s\S]*--weights"),
    ],
)
def test_arguments_that_torchvision_refuses(spec: str, says: str) -> None:
    with pytest.raises(FxpruneError, match=says):
        load_model(f"torchvision:{spec}")


def test_an_onnx_file_is_told_what_it_is_for() -> None:
    with pytest.raises(FxpruneError, match=r"net.onnx is an ONNX file[\s\S]*fxprune bench measures it"):
        load_model("out/net.onnx")


def test_a_program_takes_no_arguments() -> None:
    with pytest.raises(FxpruneError, match="is a file, and takes no arguments"):
        load_model("net.pt2?width=3", allow_pickle=True)


# --- other zoos, and what stands for them where they are not installed --------------------------


@pytest.mark.parametrize(
    ("spec", "package"),
    [("timm:resnet18", "timm"), ("hf:{folder}", "transformers"), ("ultralytics:yolo11n.yaml", "ultralytics")],
)
def test_a_zoo_that_is_not_installed(
    spec: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setitem(sys.modules, package, None)  # Python's way to say that there is none
    with pytest.raises(
        FxpruneError, match=rf"needs {package}, which is not installed\n.*pip install {package}"
    ):
        load_model(spec.format(folder=tmp_path))


def test_a_zoo_that_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "timm.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(
        FxpruneError, match=r"needs timm, which cannot be imported: ModuleNotFoundError: .*no_such"
    ):
        load_model("timm:resnet18")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "no folder with a config.json"),
        ({"config.json": "{"}, "config.json is no JSON"),
        ({"config.json": "{}", "pytorch_model.bin": ""}, "are pickled, and reading them can run code"),
    ],
)
def test_folders_that_hold_no_model(files: dict[str, str], says: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(FxpruneError, match=says):
        load_model(f"hf:{tmp_path}")


@pytest.mark.parametrize("name", ["yolo11n.pt", "folder/mine.yaml", "mine.yaml"])
def test_networks_that_would_run_code(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("activation: __import__('os').abort()")
    with pytest.raises(
        FxpruneError, match=r"not the name of a network that comes with ultralytics\n.*factory"
    ):
        load_model(f"ultralytics:{name}")


def _llama(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


def test_a_folder_of_hugging_face(tmp_path: Path) -> None:
    _llama(tmp_path)
    loaded = load_model(f"hf:{tmp_path}")
    assert loaded.pretrained
    assert "cache" in loaded.notes[0]
    assert loaded.inputs is not None
    assert loaded.model(**loaded.inputs).logits.shape == (1, 16, 50)
    (tmp_path / "model.safetensors").unlink()
    assert not load_model(f"hf:{tmp_path}?num_hidden_layers=2").pretrained
    with pytest.raises(FxpruneError, match=r"takes no argument 'num_hidden_layer'.*\n.*num_hidden_layers"):
        load_model(f"hf:{tmp_path}?num_hidden_layer=2")


def test_code_in_a_folder_is_not_run(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(
        '{"model_type": "mine", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}'
    )
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(FxpruneError, match="cannot read the configuration"):
        load_model(f"hf:{tmp_path}")
    assert not (tmp_path / "ran").exists()


def test_weights_that_fit_a_configuration_in_part_are_refused(tmp_path: Path) -> None:
    _llama(tmp_path)
    with pytest.raises(FxpruneError, match=r"missing keys: model.layers.1"):
        load_model(f"hf:{tmp_path}?num_hidden_layers=2")


def test_arguments_of_timm() -> None:
    pytest.importorskip("timm")
    loaded = load_model("timm:resnet18?num_classes=10&in_chans=1")
    assert loaded.model.fc.out_features == 10
    [image] = example_inputs(loaded)
    assert image.shape == (1, 1, 224, 224)
    with pytest.raises(FxpruneError, match="takes no argument 'num_clases'"):
        load_model("timm:resnet18?num_clases=10")


def test_a_network_of_ultralytics() -> None:
    pytest.importorskip("ultralytics")
    loaded = load_model("ultralytics:yolo11n.yaml?nc=3")
    assert loaded.model.yaml["nc"] == 3
    assert loaded.inputs[0].shape == (1, 3, 640, 640)
    with pytest.raises(FxpruneError, match=r"yolo99n\.yaml failed"):
        load_model("ultralytics:yolo99n.yaml")
