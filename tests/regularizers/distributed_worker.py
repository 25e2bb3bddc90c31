"""One of several processes that train the same net; run by test_distributed."""

from __future__ import annotations

import torch
from processes import tell
from regularizers.nets import linear_chain
from torch import nn

from fxprune.coupling.groups import Group
from fxprune.regularizers import DWGL, SSR, GReg, IncReg, Regularizer

METHODS = {
    "ssr": lambda m, g, o: SSR(m, g, lam=1.0, scale="norm", period=2),
    "ssr_all": lambda m, g, o: SSR(m, g, lam=0.8, norm="l2,0", scale="norm", members="all", period=2),
    "ssr_subgradient": lambda m, g, o: SSR(m, g, lam=0.5, scale="norm", solver="subgradient", threshold=0.9),
    "dwgl": lambda m, g, o: DWGL(m, g, lam=0.2, lr=o, scale="norm", everywhere=True),
    "increg": lambda m, g, o: IncReg(m, g, ratio=0.4, increment=0.5, removal="ceiling", ceiling=1.0),
    "greg": lambda m, g, o: GReg(m, g, ratio=0.4, delta=0.1, every=2),
}
STEPS = 6


def build() -> tuple[nn.Sequential, tuple[Group, ...]]:
    torch.manual_seed(0)
    net, groups = linear_chain(6, 17, 12, 3)  # 17 rows do not split evenly
    return net.double(), groups


def train(
    net: nn.Module, reg: Regularizer, optimizer: torch.optim.Optimizer, rank: int, world: int
) -> dict[str, torch.Tensor]:
    """Train on this process's part of every batch; return the decisions and the penalties."""
    random = torch.Generator().manual_seed(1)
    penalties = []
    for _ in range(STEPS):
        x = torch.randn(8, 6, dtype=torch.float64, generator=random)
        y = torch.randn(8, 3, dtype=torch.float64, generator=random)
        mine = slice(rank * 8 // world, (rank + 1) * 8 // world)
        optimizer.zero_grad()
        loss = (net(x[mine]) - y[mine]).square().mean()
        penalty = reg.penalty()
        penalties.append(penalty.detach().clone())
        (loss + penalty).backward()
        optimizer.step()
        reg.step()
    before = torch.from_numpy(reg.removed_units())
    reg.finish()
    reg.step()
    return {"removed": before, "penalties": torch.stack(penalties)}


def whole(parameter: torch.Tensor) -> torch.Tensor:
    full = getattr(parameter, "full_tensor", None)
    return (parameter if full is None else full()).detach().clone()


def run(mode: str, method: str, rank: int, world: int) -> dict[str, torch.Tensor]:
    net, groups = build()
    model: nn.Module = net
    if mode == "ddp":
        model = nn.parallel.DistributedDataParallel(net)
    if mode == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (world,))
        fully_shard(net[2], mesh=mesh)
        fully_shard(net, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    reg = METHODS[method](model, groups, optimizer)
    found = train(model, reg, optimizer, rank, world)
    return found | {name: whole(p) for name, p in net.named_parameters()}


def find(rank: int, world: int) -> dict[str, dict[str, torch.Tensor]]:
    """Every method, the model copied and sharded."""
    return {f"{mode}.{m}": run(mode, m, rank, world) for mode in ("ddp", "fsdp") for m in METHODS}


if __name__ == "__main__":
    tell(find)
