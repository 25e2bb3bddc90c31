"""Samples without labels from files and folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fxprune.errors import FxpruneError
from fxprune.models.samples import MEAN, STD, read_samples

X = torch.zeros(1, 3, 8, 8)


def picture(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (20, 12)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


def test_arrays_without_their_labels(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(5, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "a.npz", y=np.arange(5), x=values)
    [(given,)] = read_samples(tmp_path / "a.npz", X)  # type: ignore[misc]
    assert np.array_equal(given, values)
    np.save(tmp_path / "b.npy", values)
    torch.save(torch.from_numpy(values), tmp_path / "c.pt")
    every = read_samples(tmp_path, X)
    assert [len(batch[0]) for batch in every] == [5, 5, 5]  # type: ignore[index, arg-type]


def test_arrays_by_name(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "a.npz", mask=np.ones((4, 2), np.int64), ids=np.zeros((4, 2), np.int64), labels=np.zeros(4)
    )
    example = {
        "ids": torch.zeros(1, 2, dtype=torch.int64),
        "mask": torch.zeros(1, 2, dtype=torch.int64),
        "loud": True,
    }
    [batch] = read_samples(tmp_path / "a.npz", example)
    assert isinstance(batch, dict)
    assert list(batch) == ["ids", "mask", "loud"]
    assert int(batch["mask"].sum()) == 8  # type: ignore[union-attr]
    with pytest.raises(FxpruneError, match="has no more: it holds"):
        read_samples(tmp_path / "a.npz", {"more": X})


def test_bytes_are_normalised_where_the_model_wants_decimals(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.full((2, 8, 8, 3), 255, np.uint8), labels=np.zeros(2, np.int64))
    [(given,)] = read_samples(tmp_path / "a.npz", X)  # type: ignore[misc]
    assert given.shape == (2, 3, 8, 8)
    expected = (1 - torch.tensor(MEAN)) / torch.tensor(STD)
    assert torch.allclose(given[0, :, 0, 0], expected)
    [(raw,)] = read_samples(tmp_path / "a.npz", torch.zeros(1, 8, 8, 3, dtype=torch.uint8))  # type: ignore[misc]
    assert raw.dtype == torch.uint8


def test_pictures_of_folders_are_gone_through_evenly(tmp_path: Path) -> None:
    for k in range(6):
        picture(tmp_path / f"class{k // 3}" / f"{k}.png", (k, 0, 0))
    [every] = read_samples(tmp_path, X)
    assert isinstance(every, torch.Tensor)
    assert every.shape == (6, 3, 8, 8)
    red = (every[:, 0, 4, 4] * STD[0] + MEAN[0]) * 255
    assert torch.allclose(red, torch.arange(6.0), atol=1e-3)
    [some] = read_samples(tmp_path, (X,), most=3)
    assert torch.equal(some, every[::2])  # type: ignore[arg-type]


def test_the_middle_of_a_picture_is_taken(tmp_path: Path) -> None:
    wide = Image.new("RGB", (90, 30), (0, 0, 0))
    wide.paste((255, 255, 255), (30, 0, 60, 30))
    wide.save(tmp_path / "wide.png")
    [batch] = read_samples(tmp_path, X)
    assert isinstance(batch, torch.Tensor)
    assert float((batch - batch[:, :, :1, :1]).abs().max()) < 1e-5
    assert float(batch.min()) > 1


@pytest.mark.parametrize(
    ("name", "content", "example", "message"),
    [
        ("empty", None, X, "nothing to calibrate with"),
        ("text.txt", b"hello", X, "no file of arrays"),
        ("broken/a.png", b"no picture", X, "is no picture"),
        ("missing.npz", None, X, "missing.npz"),
    ],
)
def test_what_cannot_be_read_is_said(
    tmp_path: Path, name: str, content: bytes | None, example: torch.Tensor, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        path = path.parent if path.parent != tmp_path else path
    elif not path.suffix:
        path.mkdir()
    with pytest.raises(FxpruneError, match=message):
        read_samples(path, example)


def test_pictures_for_a_model_that_takes_none(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (1, 2, 3))
    with pytest.raises(FxpruneError, match="holds pictures, and the model takes 1x4 int64"):
        read_samples(tmp_path, torch.zeros(1, 4, dtype=torch.int64))
    np.save(tmp_path / "b.npy", np.zeros((2, 3)))
    with pytest.raises(FxpruneError, match="the model takes"):
        read_samples(tmp_path / "b.npy", (X, X))
