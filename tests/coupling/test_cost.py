"""Costs as functions of a keep mask: against brute force, and against PyTorch's own counter."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fxprune.coupling.cost import CostBuilder, CostModel, measure
from fxprune.plans import Cost


@st.composite
def recipes(
    draw: st.DrawFn,
) -> tuple[list[tuple[list[int], int]], list[tuple[int, list[int], int | None]], int]:
    """Forms (labels, offset), terms (const, forms, divisor) and a number of labels."""
    labels = draw(st.integers(1, 12))
    forms = draw(
        st.lists(
            st.tuples(st.lists(st.integers(0, labels - 1), max_size=15), st.integers(0, 3)),
            min_size=1,
            max_size=6,
        )
    )
    index = st.integers(0, len(forms) - 1)
    terms = draw(
        st.lists(
            st.tuples(st.integers(0, 9), st.lists(index, max_size=4), st.one_of(st.none(), index)), max_size=6
        )
    )
    return forms, terms, labels


@given(recipes(), st.randoms(use_true_random=False))
def test_matches_brute_force(
    recipe: tuple[list[tuple[list[int], int]], list[tuple[int, list[int], int | None]], int],
    random: np.random.RandomState,
) -> None:
    forms, terms, n_labels = recipe
    unit_of_label = np.array([random.randint(0, 5) for _ in range(n_labels)])
    builder = CostBuilder()
    index = [builder.form(np.array(labels, np.int64), offset) for labels, offset in forms]
    params = macs = 0
    keep = np.array([random.random() < 0.6 for _ in range(6)])
    counts = [offset + sum(int(keep[unit_of_label[label]]) for label in labels) for labels, offset in forms]
    for const, factors, divisor in terms:
        builder.add_params(const, *(index[f] for f in factors))
        builder.add_macs(
            const, *(index[f] for f in factors), divisor=None if divisor is None else index[divisor]
        )
        product = const * int(np.prod([counts[f] for f in factors], dtype=np.int64))
        params += product
        macs += product if divisor is None else product // max(counts[divisor], 1)
    model = builder.build(unit_of_label)
    known = model.forms.shape[1]
    assert model.cost(keep[:known]) == Cost(params, macs)


def test_equal_forms_are_one() -> None:
    """A bias and its weight's axis are different labels, but the same units once ties are closed."""
    builder = CostBuilder()
    weight, bias = builder.form(np.array([0, 1, 2])), builder.form(np.array([3, 4, 5]))
    assert builder.form(np.array([0, 1, 2])) == weight != bias
    other = builder.form(np.array([0, 1, 2]), offset=1)
    builder.add_params(1, weight)
    builder.add_params(1, bias)
    builder.add_params(1, other)
    model = builder.build(np.array([0, 1, 2, 2, 0, 1]))
    assert model.forms.shape == (2, 3)
    assert model.cost(np.array([True, False, True])).params == 2 + 2 + 3


def test_samples_divide_macs_only() -> None:
    builder = CostBuilder()
    form = builder.form(np.arange(3))
    builder.add_params(5, form)
    builder.add_macs(8, form)
    assert builder.build(np.arange(3), samples=4).dense == Cost(params=15, macs=6)


def big_model(layers: int, width: int) -> CostModel:
    """As many forms and terms as a network of that size has."""
    builder = CostBuilder()
    axes = [np.arange(k * width, (k + 1) * width) for k in range(layers)]
    forms = [builder.form(axis) for axis in axes]
    for a, b in itertools.pairwise(forms):
        builder.add_params(9, a, b)
        builder.add_macs(9 * 49, a, b)
        builder.add_params(1, b)
        builder.add_params(1, b)
    return builder.build(np.arange(layers * width))


def test_large_numbers_stay_exact() -> None:
    model = big_model(400, 4096)
    assert model.dense.macs == 399 * 9 * 49 * 4096 * 4096
    assert model.dense.params == 399 * (9 * 4096 * 4096 + 2 * 4096)


def test_cost_of_a_large_model_is_fast() -> None:
    """ResNet-152 has about 30,000 units in 150 widths; its cost is asked for hundreds of times in a search."""
    model = big_model(150, 256)
    keep = np.random.default_rng(0).random(150 * 256) < 0.5
    times = []
    for _ in range(20):
        start = time.perf_counter()
        model.cost(keep)
        times.append(time.perf_counter() - start)
    # Measured 0.1 ms; the margin is for a machine that is shared.
    assert min(times) < 1e-3


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize(
    ("module", "shape", "macs"),
    [
        (nn.Linear(5, 7), (3, 5), 35),
        (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 5, 5), 9 * 6 * 2 * 9),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (2, 4, 5, 5), 25 * 4 * 6 * 4),
        (nn.Conv1d(3, 2, 4), (5, 3, 10), 7 * 3 * 2 * 4),
        # Projections 4 * 8 * 8 a token, scores and mixture 2 * 8 a pair of tokens.
        (Attention(), (2, 6, 8), 6 * 4 * 64 + 2 * 36 * 8),
    ],
)
def test_measure(module: nn.Module, shape: tuple[int, ...], macs: int) -> None:
    module.eval()
    params = sum(p.numel() for p in module.parameters())
    assert measure(module, (torch.randn(shape),)) == Cost(params, macs)


def test_measure_leaves_no_trace() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert measure(net, (), {"input": torch.randn(2, 3, 5, 5)}).macs == 9 * 27 * 4
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training
    assert torch.backends.mha.get_fastpath_enabled()


def test_tied_parameters_count_once() -> None:
    first = nn.Linear(4, 4, bias=False)
    second = nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    assert measure(nn.Sequential(first, second), (torch.ones(1, 4),)) == Cost(params=16, macs=32)


def test_the_batch_of_nested_inputs_is_counted_as_one() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 4)

        def forward(self, given: dict[str, object]) -> torch.Tensor:
            (x,) = given["x"]  # type: ignore[misc]
            return self.layer(x)

    for batch in (1, 5):
        assert measure(Nested(), ({"x": [torch.zeros(batch, 6)], "flag": True},)).macs == 24
    images = nn.Identity()
    images.forward = lambda pictures: [
        nn.functional.conv2d(p[None], torch.zeros(2, 3, 1, 1)) for p in pictures
    ]
    # Three colours are no batch.
    assert measure(images, ([torch.zeros(3, 4, 4)] * 2,)).macs == 2 * 6 * 16
