"""Weights from files: what fits, what is refused, and that nothing is unpickled unasked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fxprune.errors import FxpruneError, SliceError
from fxprune.models.weights import load_weights, read_metadata, read_weights


class _Net(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.embed = nn.Embedding(5, width)
        self.head = nn.Linear(width, 5, bias=False)
        self.head.weight = self.embed.weight


def _filled(width: int = 4) -> dict[str, torch.Tensor]:
    return {key: torch.rand_like(t.float()).to(t.dtype) for key, t in _Net(width).state_dict().items()}


def _same(model: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items() if key in state)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    state = _filled()
    state["head.weight"] = state["embed.weight"]
    return state


def test_safetensors_with_a_tied_tensor_stored_once(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    del state["head.weight"], state["norm.num_batches_tracked"]
    save_file(state, tmp_path / "w.safetensors")
    model = _Net()
    load_weights(model, tmp_path / "w.safetensors")
    assert _same(model, state)
    assert torch.equal(model.head.weight, state["embed.weight"])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s, "optimizer": {"lr": 0.1}},
        lambda s: {f"module.{key}": tensor for key, tensor in s.items()},
        lambda s: {"state_dict": {f"module._orig_mod.{key}": tensor for key, tensor in s.items()}},
        lambda s: {f"_orig_mod.module.{key}": tensor for key, tensor in s.items()},
        lambda s: {"n_averaged": torch.tensor(3), **{f"module.{key}": tensor for key, tensor in s.items()}},
    ],
    ids=["plain", "state_dict", "model", "ddp", "ddp+compile", "compile+ddp", "averaged"],
)
def test_torch_checkpoints(tmp_path: Path, state: dict[str, torch.Tensor], wrap) -> None:
    torch.save(wrap(state), tmp_path / "w.pth")
    model = _Net()
    notes = load_weights(model, tmp_path / "w.pth")
    assert _same(model, state)
    names = wrap(state).get("state_dict", wrap(state))
    assert bool(notes) == any("module." in name or "_orig_mod." in name for name in names)


def test_misfits_are_named_with_their_shapes(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    state = {**state, "conv.weight": torch.zeros(8, 3, 3, 3), "extra.bias": torch.zeros(2)}
    del state["norm.weight"]
    torch.save(state, tmp_path / "w.pt")
    model = _Net()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(SliceError) as caught:
        load_weights(model, tmp_path / "w.pt")
    text = str(caught.value)
    assert "conv.weight: 8x3x3x3 in the file, 4x3x3x3 in the model" in text
    assert "missing in the file (1):\n    norm.weight 4" in text
    assert "not in the model (1):\n    extra.bias 2" in text
    assert _same(model, before)


def test_long_lists_are_cut(tmp_path: Path) -> None:
    save_file({f"other.{i}": torch.zeros(1) for i in range(40)}, tmp_path / "w.safetensors")
    with pytest.raises(SliceError, match=r"not in the model \(40\):(\n    other.*){6}\n    ... and 34 more"):
        load_weights(_Net(), tmp_path / "w.safetensors")


class _Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.target,))


def test_pickles_are_refused_and_not_run(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save({"state_dict": state, "args": _Bomb(tmp_path / "ran")}, tmp_path / "w.pth")
    with pytest.raises(FxpruneError, match=r"pickled objects.*: getattr\n[\s\S]*--allow-pickle"):
        load_weights(_Net(), tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()
    model = _Net()
    load_weights(model, tmp_path / "w.pth", allow_pickle=True)
    assert _same(model, state)
    assert (tmp_path / "ran").exists()


def test_a_pickled_module_needs_permission(tmp_path: Path) -> None:
    source = nn.Linear(2, 3)
    torch.save(source, tmp_path / "w.pt")
    with pytest.raises(FxpruneError, match=r"torch\.nn\.modules\.linear\.Linear\n[\s\S]*--allow-pickle"):
        read_weights(tmp_path / "w.pt")
    read = read_weights(tmp_path / "w.pt", allow_pickle=True)
    assert torch.equal(read["weight"], source.weight)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.bin"])
@pytest.mark.parametrize("content", [b"", b"hello, I am no weights file", b"\x80\x02garbage", b"\xff" * 64])
def test_damaged_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FxpruneError, match="damaged or not a weights file"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_truncated_files(tmp_path: Path, name: str, state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / name
    if name.endswith("pth"):
        torch.save(state, path)
    else:
        save_file({key: tensor.clone() for key, tensor in state.items()}, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(FxpruneError, match="damaged or not a weights file"):
        read_weights(path)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(FxpruneError, match="there is no file"):
        read_weights(tmp_path / "none.safetensors")
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "w.pt")
    with pytest.raises(FxpruneError, match="holds no weights: a dict with epoch, lr"):
        read_weights(tmp_path / "w.pt")


def test_metadata(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors", metadata={"plan": "x"})
    assert read_metadata(tmp_path / "w.safetensors") == {"plan": "x"}
    torch.save({}, tmp_path / "w.pt")
    assert read_metadata(tmp_path / "w.pt") == {}
