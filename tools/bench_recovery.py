"""Recovery without labels on trained nets: what a slim model can do as it was sliced, recovered, and cut by a peer.

    python tools/bench_recovery.py                                  # nets trained here on digits, about an hour of a core
    python tools/bench_recovery.py --cifar ../shared                # the CIFAR-10 ResNets, too
    python tools/bench_recovery.py --models mobilenet vit --anew
    python tools/bench_recovery.py --table                          # only the table, from the rows that are there

The nets on digits are torchvision's architectures in small and a few of our own, trained for some epochs on scikit-learn's
scanned digits (1,347 to train, 450 to test), 15 or 40 of them, from one seed.  They are cut by magnitude to half and to 0.3 of their MACs.
Recovery sees 512 training images without labels.  Torch-Pruning (the ``peers`` extra) cuts the same model by magnitude at the
one ratio that comes closest to the same MACs.  Accuracies are on all test images, errors are of the outputs on them, relative to the
spread of the dense model's.  ``--cifar FOLDER`` wants ``data/cifar10`` and ``weights`` in it, as the README of tools/reproduce says.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torchvision
from latency_nets import UNet
from machine_note import machine_note
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer

import fxprune
from fxprune.demo import Digits
from fxprune.models.samples import normalised
from fxprune.recovery.recover import run_recovery

sys.path.insert(0, str(Path(__file__).resolve().parent / "reproduce"))

from models import ResNet

RESULTS = Path(__file__).resolve().parent / "results"
SHARES = (0.5, 0.3)
SAMPLES = 512
CIFAR = ("resnet20", "resnet32", "resnet44", "resnet56")

Row = dict[str, object]


class Reader(nn.Module):
    """A transformer over 64 tokens, the grey levels of a digit, as BERT has it: int64[n, 64] to float[n, 10]."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(17, width), nn.Parameter(torch.randn(1, 64, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, "gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of grey levels."""
        logits: Tensor = self.head(self.layers(self.embed(x) + self.positions).mean(1))
        return logits


def _dense() -> nn.Module:
    net: nn.Module = torchvision.models.DenseNet(16, (4, 6, 6), 32, num_classes=10)
    return net


def _convnext() -> nn.Module:
    widths = (48, 96, 192)
    blocks = [CNBlockConfig(a, b, 2) for a, b in zip(widths, [*widths[1:], None], strict=True)]
    net: nn.Module = ConvNeXt(blocks, stochastic_depth_prob=0.0, layer_scale=1.0, num_classes=10)
    return net


def _vit() -> nn.Module:
    net: nn.Module = VisionTransformer(32, 4, 4, 4, 128, 512, num_classes=10)
    return net


def _swin() -> nn.Module:
    net: nn.Module = SwinTransformer(
        [2, 2], 48, [2, 2], [2, 4], [4, 4], num_classes=10, stochastic_depth_prob=0.0
    )
    return net


_zoo = partial(torchvision.models.get_model, num_classes=10)

NETS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "resnet18": (partial(_zoo, "resnet18"), 32, 15),
    "mobilenet_v2": (partial(_zoo, "mobilenet_v2", width_mult=0.5), 64, 15),
    "mobilenet_v3_small": (partial(_zoo, "mobilenet_v3_small"), 64, 15),
    "efficientnet_b0": (partial(_zoo, "efficientnet_b0"), 64, 15),
    "densenet, 16 layers": (_dense, 32, 15),
    "regnet_y_400mf": (partial(_zoo, "regnet_y_400mf"), 64, 15),
    "shufflenet_v2_x0_5": (partial(_zoo, "shufflenet_v2_x0_5"), 64, 15),
    "googlenet": (partial(_zoo, "googlenet", aux_logits=False, init_weights=True), 64, 15),
    "convnext, 6 blocks": (_convnext, 32, 15),
    "vit, 4 layers": (_vit, 32, 40),
    "swin, 4 layers": (_swin, 32, 40),
    "text encoder, 3 layers": (Reader, 0, 40),
    "u-net, noise off digits": (UNet, 16, 15),
}
"""Factories, the side of the pictures that they look at (0 for tokens), and epochs of training."""


@dataclass(frozen=True, eq=False)
class Task:
    """A trained model, what to calibrate on, and how good a model is.

    Attributes:
        model: In evaluation mode.
        calibration: Inputs without labels.
        test: Inputs.
        labels: int64[n]; None where outputs are pictures.
    """

    model: nn.Module
    calibration: Tensor
    test: Tensor
    labels: Tensor | None

    @torch.no_grad()
    def outputs(self, model: nn.Module) -> Tensor:
        """What a model makes of the test inputs."""
        return torch.cat([model.eval()(x) for x in self.test.split(250)])

    def accuracy(self, outputs: Tensor) -> float | None:
        """Share of right answers."""
        return None if self.labels is None else float((outputs.argmax(1) == self.labels).double().mean())


def digits(name: str) -> Task:
    """Train a net on digits."""
    make, side, epochs = NETS[name]
    torch.manual_seed(0)
    data, model = Digits.load(side or 8), make()
    inputs = [_inputs(name, side, x) for x in (data.train_images, data.test_images)]
    targets = [
        _targets(name, *pair)
        for pair in ((data.train_images, data.train_labels), (data.test_images, data.test_labels))
    ]
    random = torch.Generator().manual_seed(0)
    batches = [
        b
        for _ in range(epochs)
        for b in torch.randperm(len(inputs[0]), generator=random).split(64)
        if len(b) == 64
    ]
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=len(batches))
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = 0.1  # some architectures average over more steps than are made here
    model.train()
    for batch in batches:
        made = model(inputs[0][batch])
        wanted = targets[0][batch]
        loss = (
            nn.functional.mse_loss(made, wanted)
            if wanted.ndim > 1
            else nn.functional.cross_entropy(made, wanted)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    labels = targets[1] if targets[1].ndim == 1 else None
    return Task(model.eval(), inputs[0][:SAMPLES], inputs[1], labels)


def _inputs(name: str, side: int, images: Tensor) -> Tensor:
    if not side:
        grey = (images - images.min()) / (images.max() - images.min())
        return (16 * grey).round().long().flatten(1)
    if name.startswith("u-net"):
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
        return (images + 0.5 * noise).expand(-1, 3, -1, -1).contiguous()
    return images.expand(-1, 3, -1, -1).contiguous()


def _targets(name: str, images: Tensor, labels: Tensor) -> Tensor:
    return images.expand(-1, 2, -1, -1) if name.startswith("u-net") else labels


def cifar(name: str, folder: Path) -> Task:
    """A CIFAR-10 ResNet with trained weights."""
    model = ResNet((int(name.removeprefix("resnet")) - 2) // 6)
    model.load_state_dict(load_file(folder / "weights" / f"cifar10_{name}.safetensors"))
    parts = [np.load(folder / "data" / "cifar10" / file) for file in ("train_0.npz", "test.npz")]
    images = [normalised(torch.from_numpy(part["images"])) for part in parts]
    chosen = torch.randperm(len(images[0]), generator=torch.Generator().manual_seed(0))[:SAMPLES]
    return Task(model.eval(), images[0][chosen], images[1], torch.from_numpy(parts[1]["labels"]).long())


# --- measurement ---------------------------------------------------------------------------------------


def measured(name: str, task: Task, share: float, scope: str) -> Row:
    """One plan: sliced, recovered, and the peer's slice."""
    trace = fxprune.trace(task.model, task.calibration[:2])
    plan = fxprune.plan(trace, fxprune.Budget(macs=share), scope=scope, align=1)  # type: ignore[arg-type]
    slim = fxprune.slim(trace, plan).eval()
    dense = task.outputs(task.model)
    spread = float((dense - dense.mean(0)).norm())

    def judged(model: nn.Module) -> Row:
        made = task.outputs(model)
        return {"accuracy": task.accuracy(made), "error": float((made - dense).norm()) / spread}

    row: Row = {"model": name, "share": share, "scope": scope, "macs": plan.predicted.macs / plan.dense.macs}
    row["dense"], row["sliced"] = {"accuracy": task.accuracy(dense)}, judged(slim)
    began = time.process_time()
    recovery = run_recovery(trace, plan, slim, task.calibration)
    row["seconds"], row["peak"] = time.process_time() - began, recovery.peak
    row["recovered"], row["layers"], row["solved"] = judged(slim), len(recovery.layers), recovery.solved
    try:
        peer, row["peer_macs"] = by_peer(task, share)
        row["peer"] = judged(peer)
    except Exception as error:  # noqa: BLE001 - the peer's failures are part of the table
        row["peer"] = {"failed": type(error).__name__}
    return row


def by_peer(task: Task, share: float) -> tuple[nn.Module, float]:
    """Torch-Pruning at the uniform ratio that comes closest to a share of the MACs."""
    import torch_pruning as tp

    x, low, high = task.calibration[:2], 0.02, 0.9
    best: tuple[float, nn.Module] | None = None
    for _ in range(8):
        ratio, model = (low + high) / 2, copy.deepcopy(task.model)
        whole, _ = tp.utils.count_ops_and_params(model, x)
        last = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == 10]
        importance = tp.importance.GroupMagnitudeImportance(p=1)
        tp.pruner.MagnitudePruner(model, x, importance, pruning_ratio=ratio, ignored_layers=last).step()
        macs, _ = tp.utils.count_ops_and_params(model, x)
        left = macs / whole
        if best is None or abs(left - share) < abs(best[0] - share):
            best = (left, model)
        low, high = (ratio, high) if left > share else (low, ratio)
    assert best is not None
    return best[1], best[0]


# --- table ------------------------------------------------------------------------------------------------


def page(rows: list[Row]) -> str:
    """The page."""
    lines = [
        "# Recovery without labels",
        "",
        "`python tools/bench_recovery.py --cifar FOLDER` wrote this. One seed; accuracies in %, errors of the outputs on the test inputs relative to the spread of the dense model's; "
        f"seconds of processor time, memory of activations at most. {SAMPLES} training images without labels, l1, align=1; Torch-Pruning's l1 magnitude at one ratio for all layers. {machine_note()}.",
        "",
        "| model | scope | MACs | dense | sliced | **recovered** | Torch-Pruning's slice | error sliced | error recovered | its error | layers solved | s | MB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        sliced, made, peer = (row[k] for k in ("sliced", "recovered", "peer"))
        assert isinstance(sliced, dict) and isinstance(made, dict) and isinstance(peer, dict)
        cells = [row["model"], row["scope"], f"{float(str(row['macs'])):.3f}", _accuracy(row["dense"])]
        cells += [_accuracy(sliced), f"**{_accuracy(made)}**"]
        cells += [
            peer["failed"] if "failed" in peer else f"{_accuracy(peer)} ({float(str(row['peer_macs'])):.2f})"
        ]
        cells += [_error(sliced), _error(made), _error(peer), f"{row['solved']} of {row['layers']}"]
        cells += [f"{float(str(row['seconds'])):.1f}", f"{int(str(row['peak'])) / 1e6:.0f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    worse = [r for r in rows if _worse(r)]
    lines += [
        "",
        f"{len(rows)} plans, {len({r['model'] for r in rows})} nets; the outputs' error is larger after recovery in {len(worse)} of them.",
    ]
    return "\n".join(lines) + "\n"


def _accuracy(value: object) -> str:
    assert isinstance(value, Mapping)
    return "–" if value.get("accuracy") is None else f"{100 * float(value['accuracy']):.2f}"


def _error(value: Mapping[str, object]) -> str:
    return "–" if "error" not in value else f"{float(str(value['error'])):.3f}"


def _worse(row: Row) -> bool:
    sliced, made = row["sliced"], row["recovered"]
    assert isinstance(sliced, dict) and isinstance(made, dict)
    return float(made["error"]) > float(sliced["error"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", help="names, or parts of them")
    parser.add_argument("--cifar", type=Path, help="folder with data/cifar10 and weights")
    parser.add_argument("--anew", action="store_true", help="measure models that have rows again")
    parser.add_argument("--table", action="store_true", help="only write the table")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "recovery.json"
    rows: list[Row] = json.loads(file.read_text()) if file.exists() else []
    tasks: dict[str, Callable[[], Task]] = {}
    if options.cifar:
        tasks |= {f"CIFAR {n}": partial(cifar, n, options.cifar) for n in CIFAR}
    tasks |= {n: partial(digits, n) for n in NETS}
    wanted = [n for n in tasks if not options.models or any(part in n for part in options.models)]
    for name in () if options.table else wanted:
        if not options.anew and any(row["model"] == name for row in rows):
            continue
        task = tasks[name]()
        plans = [
            (s, scope)
            for s in ((0.5, 0.475, 0.25) if "CIFAR" in name else SHARES)
            for scope in ("global", "local")
        ]
        new = [measured(name, task, *plan) for plan in plans]
        rows = [row for row in rows if row["model"] != name] + new
        file.write_text(json.dumps(rows, indent=1) + "\n")
        (options.out / "RECOVERY.md").write_text(page(rows))
        print(name, "done", flush=True)
    (options.out / "RECOVERY.md").write_text(page(rows))


if __name__ == "__main__":
    main()
