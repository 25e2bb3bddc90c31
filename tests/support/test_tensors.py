"""Files with a digest: what was written is what is read, or it is refused."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import fxprune
from fxprune.errors import FxpruneError, IntegrityWarning, SliceError
from fxprune.support.tensors import read_tensors, write_tensors


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(x)).mean((2, 3)))


def _image() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "slim.safetensors"
    traced = fxprune.trace(_Net().eval(), _image())
    made = fxprune.plan(traced, fxprune.Budget(channels=0.5), align=1)
    fxprune.save(fxprune.slim(traced, made), made, path)
    return path


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def test_every_flipped_bit_is_noticed(saved: Path, tmp_path: Path) -> None:
    """All bits of the header's length, and a seeded share of all others: of the header and of the weights."""
    raw = saved.read_bytes()
    head = 8 + int.from_bytes(raw[:8], "little")
    draw = random.Random(0)
    bits = [*range(64), *(draw.randrange(64, 8 * head) for _ in range(150))]
    bits += [draw.randrange(8 * head, 8 * len(raw)) for _ in range(100)]
    for bit in bits:
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        (tmp_path / "flipped.safetensors").write_bytes(changed)
        with pytest.raises(FxpruneError):
            fxprune.load(_Net(), tmp_path / "flipped.safetensors", _image())


def test_what_changed_is_named_where_only_the_digest_can_tell(saved: Path, tmp_path: Path) -> None:
    tensors, facts = load_file(saved), _metadata(saved)
    tensors["head.bias"] = tensors["head.bias"] + 1
    save_file(tensors, tmp_path / "edited.safetensors", facts)
    with pytest.raises(
        SliceError, match=r"edited\.safetensors is damaged: its content is not what was written"
    ):
        fxprune.load(_Net(), tmp_path / "edited.safetensors", _image())


def test_a_file_from_before_there_were_digests_is_read_with_a_warning(saved: Path, tmp_path: Path) -> None:
    facts = {key: text for key, text in _metadata(saved).items() if key != "digest"}
    save_file(load_file(saved), tmp_path / "old.safetensors", facts)
    with pytest.warns(IntegrityWarning, match="without a digest"):
        old = fxprune.load(_Net(), tmp_path / "old.safetensors", _image())
    new = fxprune.load(_Net(), saved, _image())
    assert torch.equal(old.eval()(_image()), new.eval()(_image()))
    save_file(load_file(saved), tmp_path / "foreign.safetensors", {**facts, "diges": "x"})
    with pytest.raises(SliceError, match="was not written by fxprune"):
        fxprune.load(_Net(), tmp_path / "foreign.safetensors", _image())


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("head.bias", lambda t: t.to(torch.int8), "integer in the file, float in the model"),
        ("head.bias", lambda t: t > 0, "bool in the file, float in the model"),
        ("head.bias", lambda t: t.to(torch.complex64), "complex in the file, float in the model"),
        ("norm.num_batches_tracked", lambda t: t.float(), "float in the file, integer in the model"),
        ("head.bias", lambda t: t * torch.nan, "values that are NaN or infinite"),
        ("head.bias", lambda t: t.double() + 1e300, "values that are NaN or infinite"),
        ("norm.running_var", lambda t: -t, "negative variances"),
        ("head.bias", lambda t: t[:1], "1 in the file, 4 in the model"),
    ],
)
def test_casts_that_would_lose_something(saved: Path, tmp_path: Path, name, change, says: str) -> None:
    facts = {key: text for key, text in _metadata(saved).items() if key != "digest"}
    tensors = load_file(saved)
    save_file({**tensors, name: change(tensors[name]).contiguous()}, tmp_path / "w.safetensors", facts)
    with pytest.raises(SliceError, match=says) as caught:
        fxprune.load(_Net(), tmp_path / "w.safetensors", _image())
    assert caught.value.tensor == name


def test_diverged_weights_are_not_written(tmp_path: Path) -> None:
    traced = fxprune.trace(_Net().eval(), _image())
    made = fxprune.plan(traced, fxprune.Budget(channels=0.5), align=1)
    small = fxprune.slim(traced, made)
    with torch.no_grad():
        small.head.bias[1] = torch.nan
    with pytest.raises(SliceError, match=r"is not written: .*NaN") as caught:
        fxprune.save(small, made, tmp_path / "w.safetensors")
    assert caught.value.tensor == "head.bias" and not list(tmp_path.iterdir())


def test_every_dtype_and_shape_comes_back(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    written = {
        "half": torch.randn(3, 2).half(),
        "bfloat": torch.randn(3).bfloat16(),
        "eight": torch.randn(5).to(torch.float8_e4m3fn),
        "complex": torch.randn(2, dtype=torch.complex64),
        "flags": torch.tensor([True, False]),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 4),
        "view": base[:6],
        "other view": base[3:].view(3, 3).t(),
    }
    write_tensors(tmp_path / "all.safetensors", written, {"text": "één\x01"})
    found = read_tensors(tmp_path / "all.safetensors")
    assert found.checked and found.metadata["text"] == "één\x01"
    assert found.tensors.keys() == written.keys()
    for name, tensor in written.items():
        assert found.tensors[name].dtype == tensor.dtype and found.tensors[name].shape == tensor.shape
        raw, want = (t.contiguous().reshape(-1).view(torch.uint8) for t in (found.tensors[name], tensor))
        assert torch.equal(raw, want)


def test_the_digest_knows_names_dtypes_shapes_and_texts(tmp_path: Path) -> None:
    first = {"a": torch.zeros(4), "b": torch.ones(2)}
    variants = (
        (first, {"text": "y"}),
        ({"a": torch.zeros(4), "c": torch.ones(2)}, {"text": "x"}),
        ({"a": torch.zeros(2, 2), "b": torch.ones(2)}, {"text": "x"}),
        ({"a": torch.zeros(4, dtype=torch.int32), "b": torch.ones(2)}, {"text": "x"}),
        ({"a": torch.zeros(4)}, {"text": "x"}),
    )
    write_tensors(tmp_path / "one", first, {"text": "x"})
    digest = _metadata(tmp_path / "one")["digest"]
    for tensors, texts in variants:
        save_file(tensors, tmp_path / "two", {**texts, "digest": digest})
        with pytest.raises(FxpruneError, match="by its digest"):
            read_tensors(tmp_path / "two")
