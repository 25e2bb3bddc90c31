"""How a model is called: names, values, batch sizes and modes."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from fxprune.errors import ExportError
from fxprune.models.calls import Call, as_call, evaluating, output_tensors, untouched_random_state

X = torch.arange(6.0).reshape(2, 3)


class _Two(nn.Module):
    def forward(self, left: torch.Tensor, right: object, *, mask: object = None) -> object:
        return left, right, mask


class _Any(nn.Module):
    def forward(self, *tensors: torch.Tensor) -> object:
        return tensors


@pytest.mark.parametrize(
    ("inputs", "args", "keywords"),
    [
        (X, 1, []),
        ([X, X], 1, []),
        ((X, [X]), 2, []),
        ({"a": X, "b": 3}, 0, ["a", "b"]),
        (OrderedDict(a=X), 0, ["a"]),
    ],
)
def test_forms_of_inputs(inputs: object, args: int, keywords: list[str]) -> None:
    call = as_call(inputs)  # type: ignore[arg-type]
    assert (len(call.args), list(call.kwargs)) == (args, keywords)
    assert all(t is X for t in call.tensors)


@pytest.mark.parametrize("inputs", [(), [], {}, 3, {"a": 1}, ("x",)])
def test_no_tensor(inputs: object) -> None:
    with pytest.raises(ExportError, match="hold no tensor"):
        as_call(inputs, error=ExportError)  # type: ignore[arg-type]


def test_names() -> None:
    nested = as_call((X, [X, {"deep key": X}, 4]))
    assert nested.names(_Two()) == ("left", "right_0", "right_1_deep_key")
    assert nested.names(_Any()) == ("input_0", "input_1_0", "input_1_1_deep_key")
    assert as_call(X).names() == ("input",)
    assert Call((X,), {"mask": X}).names(_Two()) == ("left", "mask")
    assert as_call({"a_b": X, "a": {"b": X}}).names() == ("a_b", "a_b_2")  # never twice the same


def test_outputs() -> None:
    assert list(output_tensors(X)) == ["output"]
    assert list(output_tensors({"out": X, "more": (X, None, 3, [X])})) == ["out", "more_0", "more_3_0"]
    assert list(output_tensors((X, {"a": X}))) == ["output_0", "output_1_a"]
    assert output_tensors(None) == {}


def test_other_tensors_in_the_same_places() -> None:
    call = as_call((X, [3, {"m": X}], None))
    other = call.with_tensors([X + 1, X + 2])
    assert torch.equal(other.args[0], X + 1)  # type: ignore[arg-type]
    assert other.args[1][0] == 3  # type: ignore[index]
    assert torch.equal(other.args[1][1]["m"], X + 2)  # type: ignore[index]
    assert other.args[2] is None
    assert call.args[0] is X


def test_batch_sizes() -> None:
    call = as_call((X, torch.zeros(5, 2), torch.tensor(1.0), torch.ones(2)))
    assert call.batch == 2
    assert call.batched == (True, False, False, True)
    five = call.with_batch(5)
    assert [tuple(t.shape) for t in five.tensors] == [(5, 3), (5, 2), (), (5,)]
    assert torch.equal(five.tensors[0], X[[0, 1, 0, 1, 0]])  # samples in turn
    assert [tuple(t.shape) for t in call.with_batch(1).tensors] == [(1, 3), (5, 2), (), (1,)]
    assert as_call(torch.tensor(1.0)).batch is None
    only_first = call.with_batch(4, [True, False, False, False])
    assert [len(t) for t in only_first.tensors if t.ndim] == [4, 5, 2]


def test_fresh_values_of_the_same_kind() -> None:
    ids = torch.tensor([[7, 9, 12, 7]] * 50)
    mask = torch.tensor([True] * 50)
    image = torch.rand(50, 64) * 0.5 + 0.25
    call = as_call((ids, mask, image, torch.zeros(4000), torch.zeros(0, 3), torch.rand(3).half()))
    fresh = call.resampled(0)
    drawn_ids, drawn_mask, drawn_image, drawn_zero, empty, half = fresh.tensors
    assert set(drawn_ids.flatten().tolist()) == {7, 8, 9, 10, 11, 12}  # every id in the range stays valid
    assert drawn_mask.all()
    assert (drawn_image.min(), drawn_image.max()) >= (image.min(), 0)
    assert drawn_image.max() <= image.max()
    assert not torch.equal(drawn_image, image)
    # A constant tells nothing about the spread: standard normal, to within four standard errors.
    assert abs(drawn_zero.mean()) < 4 / 4000**0.5
    assert abs(drawn_zero.std() - 1) < 4 / 8000**0.5
    assert (empty.shape, half.dtype) == ((0, 3), torch.float16)
    again = call.resampled(0)
    assert all(torch.equal(a, b) for a, b in zip(fresh.tensors, again.tensors))
    assert not torch.equal(call.resampled(1).tensors[2], drawn_image)


def test_modes_are_given_back() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(3), nn.Dropout()))
    model[1].eval()
    model[1][1].train()
    before = [m.training for m in model.modules()]
    with evaluating(model):
        assert not any(m.training for m in model.modules())
    assert [m.training for m in model.modules()] == before == [True, True, False, False, True]
    with pytest.raises(ValueError, match="inside"), evaluating(model):
        raise ValueError("inside")
    assert [m.training for m in model.modules()] == before


def test_modes_of_a_graph_that_has_only_one() -> None:
    graph = torch.export.export(nn.Linear(3, 3).eval(), (X,), strict=False).module(check_guards=False)
    before = [m.training for m in graph.modules()]
    with evaluating(graph):
        assert graph(X).shape == X.shape
    assert [m.training for m in graph.modules()] == before


def test_random_state_is_given_back() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with untouched_random_state():
        torch.rand(10)
    assert torch.equal(torch.rand(3), expected)
