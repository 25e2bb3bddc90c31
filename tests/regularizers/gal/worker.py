"""One of several processes that play GAL's game on the same net; run by test_processes."""

from __future__ import annotations

import torch
from processes import tell
from torch import nn

import fxprune
from fxprune.regularizers import GAL

STEPS = 24


class Blocks(nn.Module):
    """Three residual blocks without statistics over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 4)
        self.up = nn.ModuleList(nn.Linear(8, 12) for _ in range(3))
        self.down = nn.ModuleList(nn.Linear(12, 8) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(torch.relu(up(x)))
        return self.head(x)


def play(rank: int, world: int) -> dict[str, torch.Tensor]:
    """Masks, weights and the discriminator after some steps on this process's part of every batch."""
    torch.manual_seed(0)
    net = Blocks().double()
    net.down[1].weight.data.mul_(0.01)
    trace = fxprune.trace(net, torch.zeros(2, 6, dtype=torch.float64))
    model = nn.parallel.DistributedDataParallel(net) if world > 1 else net
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    reg = GAL(model, fxprune.couple(trace), on=("block", "channel"), lam=0.8, lr=sgd, mask_step=2)
    random = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        x = 3 * torch.randn(8, 6, dtype=torch.float64, generator=random)
        sgd.zero_grad()
        loss = reg.loss(x[rank * 8 // world : (rank + 1) * 8 // world])
        (loss + reg.penalty()).backward()
        sgd.step()
        reg.step()
    found = {f"state.{k}": v for k, v in reg.state_dict().items() if not k.startswith("teacher")}
    return found | {n: p.detach().clone() for n, p in net.named_parameters()}


if __name__ == "__main__":
    tell(play)
