"""Example inputs from texts, from files, and guessed for torchvision's families."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fxprune.errors import FxpruneError
from fxprune.models.inputs import Labelled, describe_inputs, example_inputs, labelled_batches
from fxprune.models.loading import Loaded, load_model


class _Two(nn.Module):
    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return left + right


LOADED = Loaded(_Two(), "nets.py:make")


def test_shapes_in_order() -> None:
    inputs = example_inputs(LOADED, ["1x3x4x4", "2,5:int64:10..12"])
    assert isinstance(inputs, tuple)
    image, ids = inputs
    assert image.shape == (1, 3, 4, 4)
    assert image.dtype == torch.float32
    assert ids.dtype == torch.int64
    assert set(ids.flatten().tolist()) <= {10, 11, 12}
    assert torch.equal(image, example_inputs(LOADED, ["1x3x4x4", "2x5:int64"])[0])  # the same on every run


def test_names_dtypes_and_ranges() -> None:
    inputs = example_inputs(LOADED, ["ids=1x64:long", "mask=1x64:bool", "x=8:float16", "u=1000:float:2..3"])
    assert isinstance(inputs, dict)
    assert (inputs["ids"].min(), inputs["ids"].max()) == (0, 9)
    assert inputs["mask"].dtype == torch.bool
    assert inputs["x"].dtype == torch.float16
    assert 2 <= inputs["u"].min() < 2.1
    assert 2.9 < inputs["u"].max() <= 3


@pytest.mark.parametrize(
    ("specs", "says"),
    [
        (["1x3xax4"], "is not a shape or a file"),
        (["1x0x4"], "dimension of size 0"),
        (["1x3:int65"], "no dtype 'int65'"),
        (["1x3:int64:9..1"], "range is empty"),
        (["x=1x3", "1x3"], "some --input have a name"),
        (["a.npz", "1x3"], "cannot be combined"),
        (["nofile.npz"], "there is no file"),
        (["nofile.pt"], "there is no file"),
    ],
)
def test_texts_refused(specs: list[str], says: str) -> None:
    with pytest.raises(FxpruneError, match=says):
        example_inputs(LOADED, specs)


def test_npz_by_name_or_in_order(tmp_path: Path) -> None:
    np.savez(tmp_path / "named.npz", right=np.ones((2, 3), np.float32), left=np.zeros((2, 3), np.float32))
    named = example_inputs(LOADED, [str(tmp_path / "named.npz")])
    assert isinstance(named, dict)
    assert named["right"].sum() == 6
    np.savez(tmp_path / "plain.npz", np.zeros(2), np.ones(2))
    plain = example_inputs(LOADED, [str(tmp_path / "plain.npz")])
    assert isinstance(plain, tuple)
    assert plain[1].sum() == 2


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "o.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(FxpruneError, match="no arrays could be read"):
        example_inputs(LOADED, [str(tmp_path / "o.npz")])


def test_pt(tmp_path: Path) -> None:
    torch.save({"left": torch.zeros(1), "right": torch.ones(1)}, tmp_path / "x.pt")
    assert isinstance(example_inputs(LOADED, [str(tmp_path / "x.pt")]), dict)
    torch.save([torch.zeros(1), torch.ones(1)], tmp_path / "y.pt")
    assert isinstance(example_inputs(LOADED, [str(tmp_path / "y.pt")]), tuple)
    torch.save(3, tmp_path / "z.pt")
    with pytest.raises(FxpruneError, match="holds a int"):
        example_inputs(LOADED, [str(tmp_path / "z.pt")])


def test_own_inputs_come_before_guesses() -> None:
    x = torch.zeros(3)
    assert example_inputs(Loaded(_Two(), "f.py:make", inputs=x)) is x
    assert example_inputs(Loaded(_Two(), "f.py:make", inputs=[x, x])) == ([x, x],)


def test_nothing_to_guess() -> None:
    with pytest.raises(
        FxpruneError, match=r"input shape of nets.py:make is not known[\s\S]*--input 1x3x224x224"
    ):
        example_inputs(LOADED)


@pytest.mark.parametrize(
    ("name", "described"),
    [
        ("squeezenet1_1", "1x3x224x224 float32"),
        ("swin_v2_t", "1x3x256x256 float32"),
        ("vit_b_32", "1x3x224x224 float32"),
        ("lraspp_mobilenet_v3_large", "1x3x224x224 float32"),
        ("r3d_18", "1x3x16x112x112 float32"),
        ("s3d", "1x3x16x224x224 float32"),
        ("raft_small", "1x3x128x128 float32, 1x3x128x128 float32"),
        ("ssdlite320_mobilenet_v3_large", "3x224x224 float32"),
    ],
)
def test_guesses_by_family(name: str, described: str) -> None:
    with torch.device("meta"):
        loaded = load_model(f"torchvision:{name}")
    assert describe_inputs(example_inputs(loaded)) == described


def test_a_guess_runs() -> None:
    loaded = load_model("torchvision:raft_small")
    inputs = example_inputs(loaded)
    assert isinstance(inputs, tuple)
    with torch.no_grad():
        assert loaded.model(*inputs, num_flow_updates=1)[-1].shape == (1, 2, 128, 128)


def test_labelled_batches(tmp_path: Path) -> None:
    images, labels = np.random.default_rng(0).normal(size=(70, 3)).astype(np.float32), np.arange(70) % 5
    np.savez(tmp_path / "d.npz", x=images, y=labels.astype(np.int32))
    batches = labelled_batches(tmp_path / "d.npz")
    assert [len(batch.labels) for batch in batches] == [32, 32, 6]
    model = nn.Linear(3, 5)
    expected = nn.functional.cross_entropy(model(torch.tensor(images[64:])), torch.tensor(labels[64:]))
    torch.testing.assert_close(Labelled.loss(model, batches[-1]), expected)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": np.zeros((4, 3))}, "no class numbers 'y'"),
        ({"y": np.zeros(4, int)}, "no class numbers 'y' beside its inputs: it holds nothing"),
        ({"x": np.zeros((4, 3)), "y": np.zeros(4)}, "no class numbers"),
        (
            {"x": np.zeros((4, 3)), "y": np.zeros(5, int)},
            "differ in length or are empty: x=4x3 float64, y=5 int64",
        ),
    ],
)
def test_labelled_batches_refused(tmp_path: Path, arrays: dict[str, np.ndarray], says: str) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(FxpruneError, match=says):
        labelled_batches(tmp_path / "d.npz")
