"""Heads of another size: read off the weights, or said in code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import fxprune
from fxprune.errors import SliceError
from fxprune.pipeline import open_model

NET = """
from torch import nn

def make(num_classes=6, width=8):
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, num_classes))

def fixed():
    return make()
"""


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(NET)
    return tmp_path / "nets.py"


def _sequential(classes: int, width: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, classes))


@pytest.mark.parametrize("name", ["squeezenet1_1", "inception_v3", "resnet18"])
def test_torchvision(name: str, tmp_path: Path) -> None:
    own = (
        torchvision.models.get_model(name, num_classes=7, init_weights=False)
        if name == "inception_v3"
        else None
    )
    own = own or torchvision.models.get_model(name, num_classes=7)
    save_file(own.state_dict(), tmp_path / "w.safetensors")
    opened = open_model(f"torchvision:{name}", weights=tmp_path / "w.safetensors")
    state = opened.model.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in own.state_dict().items())
    assert opened.notes[0].startswith("num_classes=7, as '")
    assert opened.arguments == {"num_classes": 7}


def test_a_factory_of_ones_own_and_a_wrapped_model(nets: Path, tmp_path: Path) -> None:
    own = _sequential(9)
    torch.save({f"module.{key}": tensor for key, tensor in own.state_dict().items()}, tmp_path / "w.pt")
    opened = open_model(f"{nets}:make", weights=tmp_path / "w.pt", inputs=["1x3"])
    assert torch.equal(opened.model[2].weight, own[2].weight)
    assert any("'module.' was taken off every name" in note for note in opened.notes)


def test_a_slim_model_with_a_head_of_its_own(nets: Path, tmp_path: Path) -> None:
    own, x = _sequential(9), torch.zeros(1, 3)
    traced = fxprune.trace(own, x)
    plan = fxprune.plan(traced, fxprune.Budget(channels=0.5))
    small = fxprune.slim(traced, plan)
    fxprune.save(small, plan, tmp_path / "slim.safetensors")
    opened = open_model(f"{nets}:make", weights=tmp_path / "slim.safetensors", inputs=["1x3"])
    assert torch.equal(opened.model(x), small.eval()(x))


def test_the_size_that_was_asked_for_stays(nets: Path, tmp_path: Path) -> None:
    save_file(_sequential(9).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(SliceError, match=r"2\.weight: 9x8 in the file, 4x8 in the model"):
        open_model(f"{nets}:make?num_classes=4", weights=tmp_path / "w.safetensors", inputs=["1x3"])


def test_the_advice_is_code_that_works(nets: Path, tmp_path: Path) -> None:
    """What the error says to write into a file makes the model that the weights fit."""
    own = torchvision.models.vgg11(num_classes=10)
    own.classifier[3], own.classifier[6] = nn.Linear(4096, 12), nn.Linear(12, 10, bias=False)
    save_file(own.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(SliceError) as caught:
        open_model("torchvision:vgg11", weights=tmp_path / "w.safetensors")
    _, _, code = caught.value.advice.partition("with this in it:\n")
    (tmp_path / "mine.py").write_text("\n".join(line[4:] for line in code.splitlines()))
    opened = open_model(
        f"{tmp_path / 'mine.py'}:mine", weights=tmp_path / "w.safetensors", inputs=["1x3x224x224"]
    )
    assert torch.equal(opened.model.classifier[6].weight, own.classifier[6].weight)


def test_the_advice_names_a_head_of_several_layers(tmp_path: Path) -> None:
    own = torchvision.models.squeezenet1_1()
    own.classifier[1] = nn.Sequential(nn.Conv2d(512, 20, 1), nn.Conv2d(20, 10, 1))
    save_file(own.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(
        SliceError, match=r'set_submodule\("classifier.1", ...\)  # holds .*1.0.weight 20x512x1x1'
    ):
        open_model("torchvision:squeezenet1_1", weights=tmp_path / "w.safetensors")


def test_another_network_is_no_other_head(nets: Path, tmp_path: Path) -> None:
    save_file(torchvision.models.resnet18().state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(SliceError) as caught:
        open_model(f"{nets}:fixed", weights=tmp_path / "w.safetensors", inputs=["1x3"])
    assert "mine.py" not in caught.value.advice
