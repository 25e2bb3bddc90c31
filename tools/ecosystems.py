"""Slim models in the loops that people train and predict with: ``python tools/ecosystems.py``.

    pip install timm transformers ultralytics          # beside the torch that is there; none is imported by fxprune
    python tools/ecosystems.py [NAMES]                 # a few minutes; writes tools/results/ECOSYSTEMS.md

Every model is planned with ``keep_class=True``, so that the slim one is an instance of the library's own class; it is verified, trained for some steps
with what the library trains by (the Trainer of transformers; in a plain loop the loss of ultralytics, an optimizer and a scheduler of timm) and asked for predictions as the
library is.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine_note import machine_note
from torch import Tensor, nn

import fxprune

RESULTS = Path(__file__).resolve().parent / "results"
KEPT = 0.6
STEPS = 8


@dataclass(frozen=True, eq=False)
class Case:
    """A model as its library makes it.

    Attributes:
        model: In evaluation mode.
        inputs: As ``fxprune.trace`` takes them.
        train: Trains a model for some steps by the library's loop; returns first and last loss.
        predict: Asks it as the library is asked; returns what came, in words.
    """

    model: nn.Module
    inputs: Any
    train: Callable[[nn.Module], tuple[float, float]]
    predict: Callable[[nn.Module], str]


def _steps(
    optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor], after: Callable[[int], object] | None = None
) -> tuple[float, float]:
    """The first loss and the last of some steps."""
    losses = list[float]()
    for step in range(STEPS):
        now = loss()
        optimizer.zero_grad()
        now.backward()
        optimizer.step()
        if after is not None:
            after(step)
        losses.append(float(now.detach()))
    return losses[0], losses[-1]


def _trainer(model: nn.Module, rows: list[dict[str, Tensor]]) -> tuple[float, float]:
    """transformers' Trainer."""
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        settings = transformers.TrainingArguments(
            folder,
            max_steps=STEPS,
            per_device_train_batch_size=4,
            learning_rate=5e-3,
            logging_steps=1,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = transformers.Trainer(model, settings, train_dataset=rows)
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses[0], losses[-1]


def _language(model: nn.Module) -> Case:
    ids = torch.randint(0, 100, (2, 12))
    rows = [{"input_ids": r, "labels": r} for r in torch.randint(0, 100, (4, 12))] * STEPS

    def predict(slim: Any) -> str:
        made = slim.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0)
        return f"generate: {tuple(made.shape)}"

    return Case(model, {"input_ids": ids}, lambda slim: _trainer(slim, rows), predict)


def gpt2() -> Case:
    """GPT-2 with its cache, small."""
    import transformers as t

    config = t.GPT2Config(
        n_embd=64, n_head=4, n_layer=2, vocab_size=100, n_positions=64, bos_token_id=1, eos_token_id=2
    )
    return _language(t.GPT2LMHeadModel(config).eval())


def llama() -> Case:
    """Llama with its cache and grouped queries, small."""
    import transformers as t

    config = t.LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=2,
        vocab_size=100,
    )
    return _language(t.LlamaForCausalLM(config).eval())


def bert() -> Case:
    """BERT for classification, small."""
    import transformers as t

    config = t.BertConfig(
        hidden_size=64, num_attention_heads=4, intermediate_size=128, num_hidden_layers=2, vocab_size=100
    )
    inputs = {
        "input_ids": torch.randint(0, 100, (2, 12)),
        "attention_mask": torch.ones(2, 12, dtype=torch.long),
    }
    ids = torch.randint(0, 100, (4, 12))
    rows = [{"input_ids": r, "attention_mask": torch.ones_like(r), "labels": r[0] % 2} for r in ids] * STEPS
    return Case(
        t.BertForSequenceClassification(config).eval(),
        inputs,
        lambda slim: _trainer(slim, rows),
        lambda slim: f"logits: {tuple(slim(torch.randint(0, 100, (3, 20))).logits.shape)}",
    )


def yolo() -> Case:
    """YOLOv8n from its YAML; its class predicts pictures of any size."""
    from ultralytics import YOLO

    whole = YOLO("yolov8n.yaml")

    def train(slim: Any) -> tuple[float, float]:
        from ultralytics.utils import DEFAULT_CFG

        torch.manual_seed(0)
        slim.args = DEFAULT_CFG
        slim.train()
        count, middle = 4, [[0.5, 0.5, 0.6, 0.6]]
        batch = {"img": torch.rand(count, 3, 128, 128), "batch_idx": torch.arange(count).float()}
        batch |= {"cls": torch.zeros(count, 1), "bboxes": torch.tensor(middle * count)}

        def loss() -> Any:
            return slim.loss(batch)[0].sum()

        return _steps(torch.optim.AdamW(slim.parameters(), 1e-3), loss)

    def predict(slim: nn.Module) -> str:
        asked = copy.copy(whole)
        asked.model, asked.predictor = slim, None
        (result,) = asked.predict(np.zeros((120, 160, 3), np.uint8), imgsz=96, verbose=False)
        return f"predict: {len(result.boxes)} boxes in a picture of {result.orig_shape}"

    return Case(whole.model.eval(), torch.randn(1, 3, 64, 64), train, predict)


def vit() -> Case:
    """A ViT of timm."""
    import timm
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler

    def train(slim: nn.Module) -> tuple[float, float]:
        torch.manual_seed(0)
        x, y = torch.randn(4, 3, 64, 64), torch.arange(4)
        optimizer = create_optimizer_v2(slim, "adamw", lr=3e-4)
        schedule = CosineLRScheduler(optimizer, STEPS)
        return _steps(optimizer, lambda: nn.functional.cross_entropy(slim(x), y), schedule.step)

    model = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=10, depth=4).eval()
    return Case(
        model,
        torch.randn(2, 3, 64, 64),
        train,
        lambda slim: f"forward_features: {tuple(slim.forward_features(torch.randn(3, 3, 64, 64)).shape)}",  # type: ignore[operator]
    )


class UNet(nn.Module):
    """As people write it: halving, doubling, joining with what was there before."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        w = (width, 2 * width, 4 * width)
        self.down = nn.ModuleList(self._block(i, o) for i, o in zip((3, *w), w, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, 2) for i, o in ((w[2], w[1]), (w[1], w[0])))
        self.join = nn.ModuleList(self._block(2 * o, o) for o in (w[1], w[0]))
        self.out = nn.Conv2d(width, 2, 1)

    @staticmethod
    def _block(ins: int, outs: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(ins, outs, 3, padding=1), nn.BatchNorm2d(outs), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Maps of two classes."""
        seen: list[Tensor] = []
        for k, block in enumerate(self.down):
            x = block(x if k == 0 else nn.functional.max_pool2d(x, 2))
            seen.append(x)
        for up, join, before in zip(self.up, self.join, seen[-2::-1], strict=True):
            x = join(torch.cat([up(x), before], 1))
        maps: Tensor = self.out(x)
        return maps


def unet() -> Case:
    """A U-Net, trained at one size and asked at another."""

    def train(slim: nn.Module) -> tuple[float, float]:
        torch.manual_seed(0)
        x, y = torch.randn(4, 3, 48, 48), torch.randint(0, 2, (4, 48, 48))
        slim.train()
        optimizer = torch.optim.AdamW(slim.parameters(), 1e-2)
        return _steps(optimizer, lambda: nn.functional.cross_entropy(slim(x), y))

    def predict(slim: nn.Module) -> str:
        return ", ".join(str(tuple(slim(torch.randn(1, 3, s, 2 * s)).shape)) for s in (32, 80))

    return Case(UNet().eval(), torch.randn(2, 3, 32, 32), train, predict)


CASES: dict[str, Callable[[], Case]] = {
    "BERT (transformers)": bert,
    "GPT-2 (transformers)": gpt2,
    "Llama (transformers)": llama,
    "YOLOv8n (ultralytics)": yolo,
    "ViT (timm)": vit,
    "U-Net": unet,
}


def row(name: str) -> str:
    """One line of the table."""
    torch.manual_seed(0)
    case = CASES[name]()
    began = time.monotonic()
    trace = fxprune.trace(case.model, case.inputs)
    plan = fxprune.plan(trace, fxprune.Budget(params=KEPT), keep_class=True)
    slim = fxprune.slim(trace, plan)
    took = time.monotonic() - began
    proof = fxprune.verify(trace, plan, slim)
    if type(slim) is not type(case.model):
        raise SystemExit(f"{name}: {type(slim).__name__} instead of {type(case.model).__name__}")
    first, last = case.train(slim)
    if not last < first:
        raise SystemExit(f"{name}: the loss went from {first} to {last}")
    said, kept = case.predict(slim.eval()), plan.predicted.params / plan.dense.params
    cells = (name, type(slim).__name__, trace.kind, f"{100 * kept:.1f} %", f"{proof.error:.1e}")
    return f"| {' | '.join(cells)} | {first:.3f} -> {last:.3f} | {said} | {took:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="parts of names")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lines = [
        "# Slim models in their own libraries",
        "",
        f"`python tools/ecosystems.py` wrote this: untrained models, {100 * KEPT:.0f} % of the parameters asked for, `keep_class=True`; {STEPS} steps of training with "
        f"the library's Trainer, loss, or optimizer and scheduler, on random data. {machine_note()}.",
        "",
        "| model | slim is a | traced by | parameters | proof: largest difference | loss | asked | s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in CASES:
        if not options.names or any(part.lower() in name.lower() for part in options.names):
            lines.append(row(name))
            print(lines[-1], flush=True)
    if not options.names:
        (options.out / "ECOSYSTEMS.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
