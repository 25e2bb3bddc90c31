"""Images: where they come from, what is done to them, and that chance depends on numbers alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from training.runs import write

from fxprune.errors import RecipeError
from fxprune.training.data.batches import Batches, Choices, Look, augmented, generator
from fxprune.training.data.images import DecodedImages, HeldImages
from fxprune.training.data.sources import DataSet, open_data
from fxprune.training.recipe.file import read_recipe
from fxprune.training.recipe.schema import Augment

CPU = torch.device("cpu")
# float32 arithmetic on values of about one
ROUNDING = 1e-6


def load(folder: Path, **data: object) -> DataSet:
    return open_data(read_recipe(write(folder, data=data)))


# --- sources ---------------------------------------------------------------------------------


def npz(path: Path, n: int, first: int, channels: int = 3) -> None:
    images = np.full((n, 6, 5, channels), first, np.uint8) + np.arange(n, dtype=np.uint8)[:, None, None, None]
    np.savez(path, images=images, labels=np.arange(n) % 4)


def test_npz_files_are_joined_in_order(tmp_path: Path) -> None:
    npz(tmp_path / "b_1.npz", 3, 100)
    npz(tmp_path / "b_0.npz", 5, 50)
    npz(tmp_path / "t.npz", 2, 0)
    data = load(tmp_path, source="npz", train="b_*.npz", test="t.npz")
    assert data.train.take(torch.arange(8), None)[:, 0, 0, 0].tolist() == [50, 51, 52, 53, 54, 100, 101, 102]
    assert (data.train.shape, data.classes, data.held_out) == ((6, 5, 3), 4, False)
    assert data.train.labels.tolist() == [0, 1, 2, 3, 0, 0, 1, 2]


def test_cifar(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "cifar10"
    data = load(tmp_path, source="npz", train=f"{folder}/test.npz", test=f"{folder}/test.npz", limit=100)
    assert (data.test.shape, data.classes, len(data.test.labels)) == ((32, 32, 3), 10, 10_000)
    assert torch.bincount(data.test.labels).tolist() == [1000] * 10
    assert len(data.train.labels) == 100


def test_digits_of_another_domain(tmp_path: Path) -> None:
    every = torch.arange(1437)
    plain = load(tmp_path, source="digits").train.take(every, None).float()
    inverted = load(tmp_path, source="digits", inverted=True).train.take(every, None).float()
    assert (inverted - (255 - plain)).abs().max() <= 1  # halves are rounded
    noisy = load(tmp_path, source="digits", noise=0.1)
    off = (noisy.train.take(every, None).float() - plain)[(plain > 100) & (plain < 155)] / 255
    assert abs(float(off.std()) - 0.1) < 5e-3
    again = load(tmp_path, source="digits", noise=0.1)
    assert torch.equal(noisy.train.take(every, None), again.train.take(every, None))


def test_digits_are_the_same_split_every_time(tmp_path: Path) -> None:
    one, two = load(tmp_path, source="digits"), load(tmp_path, source="digits")
    assert (len(one.train.labels), len(one.test.labels), one.classes) == (1437, 360, 10)
    assert torch.equal(one.test.labels, two.test.labels)
    assert one.train.take(torch.arange(1437), None).max() == 255


def pictures(root: Path, part: str, sizes: list[tuple[int, int]], names: str = "ab") -> Path:
    for k, name in enumerate(names):
        (root / part / name).mkdir(parents=True)
        for i, size in enumerate(sizes):
            Image.new("RGB", size, (80 * k, 10 * i, 0)).save(root / part / name / f"{i}.png")
    return root / part


def test_folders_of_one_size_are_held(tmp_path: Path) -> None:
    train, test = (pictures(tmp_path, part, [(7, 6)] * 3) for part in ("train", "test"))
    data = load(tmp_path, source="folder", train=str(train), test=str(test))
    assert isinstance(data.train, HeldImages)
    assert (data.train.shape, data.train.labels.tolist(), data.classes) == ((6, 7, 3), [0, 0, 0, 1, 1, 1], 2)
    assert data.train.take(torch.tensor([4]), None)[0, 0, 0].tolist() == [80, 10, 0]


def test_folders_of_many_sizes_are_cut_to_a_square(tmp_path: Path) -> None:
    train, test = (pictures(tmp_path, part, [(20, 30), (40, 25)]) for part in ("train", "test"))
    with pytest.raises(RecipeError, match="images have 2 sizes: 25x40x3, 30x20x3"):
        load(tmp_path, source="folder", train=str(train), test=str(test))
    data = load(tmp_path, source="folder", train=str(train), test=str(test), size=16)
    assert isinstance(data.train, DecodedImages)
    assert data.train.subset(torch.tensor([3, 1])).take(torch.tensor([0]), None).shape == (1, 16, 16, 3)
    part = torch.rand(4, 3, generator=generator(0))
    once, again = (data.train.take(torch.arange(4), part) for _ in range(2))
    assert torch.equal(once, again)


def test_a_part_of_a_picture(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(0, 200, 2, dtype=np.uint8)[None, :, None], (100, 1, 3))
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.fromarray(ramp).save(tmp_path / part / "a" / "0.png")
    data = load(
        tmp_path, source="folder", train=str(tmp_path / "train"), test=str(tmp_path / "test"), size=10
    )

    def row(part: Tensor | None) -> Tensor:
        return data.train.take(torch.tensor([0]), part)[0, 5, :, 0].double()

    whole = row(torch.tensor([[1.0, 0.0, 0.0]]))
    middle = row(None)
    left, right = (row(torch.tensor([[0.0, x, 0.0]])) for x in (0.0, 1.0))
    for found, low, high in ((whole, 0, 200), (middle, 12.5, 187.5), (left, 0, 118.3), (right, 81.7, 200)):
        step = (high - low) / 10
        expected = low + step * (torch.arange(10) + 0.5)
        torch.testing.assert_close(found, expected.double(), rtol=0, atol=4.0)  # the ramp's step is 2


def test_torchvision_data_sets(tmp_path: Path) -> None:
    options = {"size": 12, "image_size": [3, 8, 8], "num_classes": 5}
    data = load(tmp_path, source="torchvision", name="FakeData", options=options, classes=5)
    assert (data.train.shape, data.classes, len(data.train.labels)) == ((8, 8, 3), 5, 12)
    with pytest.raises(RecipeError, match="torchvision has no data set 'FakeDat'"):
        load(tmp_path, source="torchvision", name="FakeDat")
    with pytest.raises(RecipeError, match="cannot be read") as caught:
        load(tmp_path, source="torchvision", name="CIFAR10", root=str(tmp_path))
    assert "data.name" in caught.value.advice


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({"images": np.zeros((2, 4, 4), np.uint8)}, "there is no array 'labels' in it; it holds images"),
        ({"images": np.zeros((2, 4, 4)), "labels": np.arange(2)}, r"are float64\[2, 4, 4\], not uint8"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.arange(3)}, "not 2 integers"),
    ],
)
def test_npz_files_that_are_something_else(arrays: dict, what: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(RecipeError, match=what) as caught:
        load(tmp_path, source="npz", train="a.npz", test="a.npz")
    assert caught.value.source.startswith("small.yaml:")


def test_limits_and_held_out_images(tmp_path: Path) -> None:
    data = load(tmp_path, source="digits", limit=200, holdout=0.25)
    assert (len(data.train.labels), len(data.test.labels), data.held_out) == (150, 50, True)
    every = load(tmp_path, source="digits", limit=200)
    together = torch.cat([s.take(torch.arange(len(s.labels)), None) for s in (data.train, data.test)])
    whole = every.train.take(torch.arange(200), None)
    assert torch.equal(together.flatten(1).sum(1).sort().values, whole.flatten(1).sum(1).sort().values)
    assert set(data.test.labels.tolist()) == set(range(10))


# --- batches ---------------------------------------------------------------------------------


def held(n: int = 40, channels: int = 3) -> HeldImages:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 6, 7, channels), dtype=torch.uint8, generator=random)
    return HeldImages(images, torch.arange(n) % 10)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("mean", "std"), [((), ()), ((0.1, 0.5, 0.9), (0.2, 0.3, 0.4))])
def test_normalisation(channels_last: bool, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    look = Look.of(mean, std, channels_last=channels_last, device=CPU)
    images = held().images
    found = look(images)
    m, s = torch.tensor(mean or (0.0,) * 3), torch.tensor(std or (1.0,) * 3)
    expected = ((images.double() / 255 - m) / s).permute(0, 3, 1, 2)
    torch.testing.assert_close(found.double(), expected, rtol=ROUNDING, atol=ROUNDING)
    memory = torch.channels_last if channels_last else torch.contiguous_format
    assert found.is_contiguous(memory_format=memory)


@pytest.mark.parametrize("how", [Augment(crop=2, flip=True), Augment(crop=3), Augment(flip=True), Augment()])
def test_augmentation_against_slices(how: Augment) -> None:
    images = held().images
    chosen = Choices.draw(len(images), how, generator(1))
    found = augmented(images, how, chosen)
    border = torch.zeros(len(images), 6 + 2 * how.crop, 7 + 2 * how.crop, 3, dtype=torch.uint8)
    border[:, how.crop : how.crop + 6, how.crop : how.crop + 7] = images
    for k, (y, x) in enumerate(chosen.offset.T.tolist()):
        window = border[k, y : y + 6, x : x + 7]
        assert torch.equal(found[k], window.flip(1) if how.flip and chosen.mirror[k] else window)
    if how.crop:
        assert set(chosen.offset.flatten().tolist()) == set(range(2 * how.crop + 1))


def batches(rank: int = 0, world: int = 1, seed: int = 3) -> Batches:
    return Batches(held(), Look.of((), (), channels_last=False, device=CPU), 12, seed, rank, world)


HOW = Augment(crop=1, flip=True)


def test_batches_depend_on_numbers_alone() -> None:
    whole = list(batches().training(1, 0, 7, HOW))
    later = list(batches().training(1, 4, 7, HOW))
    assert all(torch.equal(a, b) for one, two in zip(whole[4:], later, strict=True) for a, b in zip(one, two))
    other_phase, other_seed = (
        next(batches().training(2, 0, 1, HOW)),
        next(batches(seed=4).training(1, 0, 1, HOW)),
    )
    assert not torch.equal(whole[0][0], other_phase[0])
    assert not torch.equal(whole[0][0], other_seed[0])


def test_an_epoch_sees_every_image_once() -> None:
    several = Batches(held(36), Look.of((), (), channels_last=False, device=CPU), 12, 0)
    assert several.per_epoch == 3
    epoch = [torch.cat([x for x, _ in several.training(1, 3 * e, 3 * e + 3, Augment())]) for e in range(2)]
    sums = [e.flatten(1).sum(1) for e in epoch]
    assert torch.equal(sums[0].sort().values, sums[1].sort().values)
    assert not torch.equal(sums[0], sums[1])


def test_processes_share_what_one_would_see() -> None:
    alone = list(batches().training(1, 0, 4, HOW))
    shares = [list(batches(rank, 3).training(1, 0, 4, HOW)) for rank in range(3)]
    for step, (images, labels) in enumerate(alone):
        assert torch.equal(torch.cat([share[step][0] for share in shares]), images)
        assert torch.equal(torch.cat([share[step][1] for share in shares]), labels)


@pytest.mark.parametrize("world", [1, 3, 5])
def test_evaluation_counts_every_image_once(world: int) -> None:
    # 40 images in batches of 12: the last holds 4, which 5 processes cannot share.
    shares = [list(batches(rank, world).evaluation()) for rank in range(world)]
    assert {len(share) for share in shares} == {4}
    counted = torch.cat([labels[real] for share in shares for _, labels, real in share])
    assert torch.equal(counted.sort().values, held().labels.sort().values)
