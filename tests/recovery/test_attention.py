"""Queries and keys: where inner channels are gone the keys are asked for what keeps the logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxprune
from fxprune.planning.plan import remove
from fxprune.recovery import visit
from fxprune.recovery.recover import Recovery, run_recovery

HEADS, WIDTH = 4, 8


class Written(nn.Module):
    """Attention as people write it.

    Args:
        how: ``fused``, ``product`` or ``packed``.
        keys_first: Keys are made before queries.
    """

    def __init__(self, how: str, *, keys_first: bool = False) -> None:
        super().__init__()
        self.how, self.keys_first = how, keys_first
        self.q, self.k, self.v = (nn.Linear(16, HEADS * WIDTH) for _ in range(3))
        self.out = nn.Linear(HEADS * WIDTH, 5)
        with torch.no_grad():
            for layer in (self.q, self.k, self.v):
                layer.bias.zero_()
                # Half of a head's channels say what the others do.
                mixed = torch.randn(HEADS, WIDTH, WIDTH // 2) @ torch.randn(HEADS, WIDTH // 2, 16)
                layer.weight.copy_(mixed.flatten(0, 1))
        self.qkv = nn.Linear(16, 3 * HEADS * WIDTH)
        with torch.no_grad():
            self.qkv.weight.copy_(torch.cat([self.q.weight, self.k.weight, self.v.weight]))
            self.qkv.bias.copy_(torch.cat([self.q.bias, self.k.bias, self.v.bias]))

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        if self.how == "packed":
            q, k, v = self.qkv(x).view(n, t, 3, HEADS, WIDTH).permute(2, 0, 3, 1, 4).unbind()
        else:
            if self.keys_first:
                k, q = self.k(x), self.q(x)
            else:
                q, k = self.q(x), self.k(x)
            q, k, v = (y.view(n, t, HEADS, WIDTH).transpose(1, 2) for y in (q, k, self.v(x)))
        if self.how == "product":
            y = (torch.matmul(q, k.transpose(-1, -2)) / WIDTH**0.5).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(n, t, HEADS * WIDTH))


def recovered(model: nn.Module, weight: str, gone: Sequence[int]) -> Recovery:
    traced = fxprune.trace(model.eval(), torch.randn(2, 6, 16))
    plan = remove(traced, {(weight, 0): gone})
    torch.manual_seed(1)
    return run_recovery(traced, plan, fxprune.slim(traced, plan), torch.randn(256, 6, 16))


def inner(channels: Callable[[int], Sequence[int]]) -> list[int]:
    return [head * WIDTH + c for head in range(HEADS) for c in channels(head)]


SAME, OTHERS = inner(lambda _: (0, 2, 5)), inner(lambda head: (head, head + 1, head + 2))

CASES: dict[str, tuple[str, str, bool, list[int]]] = {
    "fused": ("fused", "q.weight", False, SAME),
    "product": ("product", "q.weight", False, SAME),
    # Heads that are unbound together keep equally many channels: values lose some, too.
    "packed": ("packed", "qkv.weight", False, [*SAME, *(2 * HEADS * WIDTH + c for c in SAME)]),
    "other channels in each head": ("fused", "q.weight", False, OTHERS),
    "keys first": ("product", "q.weight", True, SAME),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_survive_where_the_channels_left_can_make_them(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    how, weight, keys_first, gone = CASES[case]
    torch.manual_seed(0)
    model = Written(how, keys_first=keys_first)
    report = recovered(model, weight, gone)
    assert report.before > 0.3
    assert report.after < 0.25  # the ridge's share
    monkeypatch.setattr(visit, "factors", lambda *_: {})
    assert recovered(model, weight, gone).after > 3 * report.after, "channels alone do not make up for it"


def test_heads_and_channels_gone_at_once() -> None:
    torch.manual_seed(0)
    model = Written("fused")
    with torch.no_grad():
        model.out.weight[:, :WIDTH] = 0  # nobody hears the first head
    traced = fxprune.trace(model.eval(), torch.randn(2, 6, 16))
    gone = [*range(WIDTH), *(c for c in SAME if c >= WIDTH)]
    plan = remove(traced, {("q.weight", 0): gone})
    assert len(plan.kept["q.weight", 0]) == (HEADS - 1) * (WIDTH - 3)
    report = run_recovery(traced, plan, fxprune.slim(traced, plan), torch.randn(256, 6, 16))
    assert report.after < 0.1 < report.before


def test_whole_heads_leave_queries_and_keys_alone() -> None:
    torch.manual_seed(0)
    report = recovered(Written("fused"), "q.weight", range(WIDTH))
    assert [layer.name for layer in report.layers] == ["out.weight"]
