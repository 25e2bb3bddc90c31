"""Named architectures with the groups that must be found, written out, and the proof on each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from models import ACCURACY, DEPTHS, CifarResNet, cifar_test, trained_resnet
from torch import nn
from torchvision import models as tv

from fxprune.coupling.cost import measure
from fxprune.coupling.couple import analyse
from fxprune.graph.live import liven
from fxprune.graph.trace import Trace, trace
from fxprune.planning.plan import plan, plan_units, remove
from fxprune.plans import Budget, Plan
from fxprune.proof.evidence import Proof
from fxprune.proof.verify import verify
from fxprune.slimming.slim import slim
from fxprune.testing.probes.sharing import GroupedQuery

EXACT = 1e-10
"""Largest relative difference in float64: small nets of live weights lose a few of sixteen digits."""

EFFECT = 1e-3
"""Least relative effect of taking out half of a live network: agreement must mean something."""


def vit() -> tv.VisionTransformer:
    return tv.VisionTransformer(
        image_size=32, patch_size=16, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=48, num_classes=7
    )


def swin() -> nn.Module:
    return tv.SwinTransformer(
        patch_size=[4, 4], embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=[4, 4], num_classes=7
    )


def maxvit() -> nn.Module:
    return tv.MaxVit(
        input_size=(32, 32),
        stem_channels=8,
        partition_size=4,
        block_channels=[8, 16],
        block_layers=[1, 1],
        head_dim=4,
        stochastic_depth_prob=0.0,
        num_classes=7,
    )


def resnext() -> nn.Module:
    return tv.ResNet(tv.resnet.Bottleneck, [1, 1, 1, 1], groups=4, width_per_group=4, num_classes=7)


def shufflenet() -> nn.Module:
    return tv.ShuffleNetV2([2, 2, 2], [8, 16, 32, 64, 32], num_classes=7)


def densenet() -> nn.Module:
    return tv.DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, bn_size=2, num_classes=7)


def googlenet() -> nn.Module:
    return tv.GoogLeNet(num_classes=7, aux_logits=True, init_weights=False)


def image(size: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size)


@cache
def traced(build: Callable[[], nn.Module], make: Callable[[], torch.Tensor]) -> Trace:
    torch.manual_seed(0)
    x = make()
    return trace(liven(build(), x), x)


PICTURE = partial(image, 32)
TOKENS = partial(torch.randn, 2, 5, 16)


def groups_of(found: Trace, short: Sequence[tuple[str, str]] = ()) -> dict[str, str]:
    """Free groups by name: width and members; biases and statistics follow their weight and are left out."""
    table = {}
    for group in analyse(found).coupling.groups:
        if group.pinned is None:
            members = [
                f"{name.removesuffix('.weight')}:{dim}"
                for name, dim in group.members
                if not name.endswith(("bias", "running_mean", "running_var"))
            ]
            line = f"{group.width}{'' if group.exact else '~'} {' '.join(members)}"
            name = group.name
            for long, brief in short:
                line, name = line.replace(long, brief), name.replace(long, brief)
            table[name] = line
    return table


def blocks_of(found: Trace, group: str) -> set[tuple[int, int]]:
    """Shapes (rows, columns) of the layouts that a group's units take part in."""
    (one,) = (g for g in analyse(found).coupling.groups if g.name == group)
    return {b.cells.shape for b in one.blocks}


def proved(found: Trace, made: Plan, **options: object) -> Proof:
    """The plan's slim model equals the zeroed dense one, costs what it says, and runs on another batch."""
    small = slim(found, made, **options)  # type: ignore[arg-type]
    proof = verify(found, made, small, tolerance=EXACT)
    assert proof.dtype == "float64"
    assert proof.effect > EFFECT
    assert measure(small, found.args) == made.predicted
    if found.dynamic_batch:
        (x,) = found.args
        assert isinstance(x, torch.Tensor)
        with torch.no_grad():
            single, three = small(x[:1]), small(torch.cat([x, x[:1]]))
        assert single.shape[0] == 1
        assert torch.allclose(three[2:], single, atol=1e-4 * float(single.abs().max()))
    return proof


# --- convolutional networks --------------------------------------------------------------------


def test_resnext() -> None:
    found = traced(resnext, PICTURE)
    expected = {"conv1": "64 conv1:0 bn1:0 layer1.0.conv1:1 layer1.0.downsample.0:1"}
    for stage, (width, out) in enumerate([(16, 256), (32, 512), (64, 1024), (128, 2048)], 1):
        at, following = f"layer{stage}.0", f"layer{stage + 1}.0"
        readers = f"{following}.conv1:1 {following}.downsample.0:1" if stage < 4 else "fc:1"
        expected |= {
            f"{at}.conv1": f"{width} {at}.conv1:0 {at}.bn1:0",
            f"{at}.conv2": f"{width} {at}.conv2:0 {at}.bn2:0 {at}.conv3:1",
            f"{at}.conv2:1": f"{width // 4} {at}.conv2:1",
            f"{at}.conv3": f"{out} {at}.conv3:0 {at}.bn3:0 {at}.downsample.0:0 {at}.downsample.1:0 {readers}",
        }
    assert groups_of(found) == expected
    # Four groups of four: rows are groups, and the input columns of the grouped weight are shared by all.
    assert blocks_of(found, "layer1.0.conv1") == {(4, 4)}
    assert blocks_of(found, "layer1.0.conv2:1") == {(4, 4)}
    made = plan(found, Budget(macs=0.4), align=1)
    assert proved(found, made).inexact == 0


def test_resnext_loses_whole_groups() -> None:
    found = traced(resnext, PICTURE)
    made = remove(
        found, {("layer1.0.conv1.weight", 0): range(4, 8), ("layer1.0.conv2.weight", 0): range(4, 8)}
    )
    small = slim(found, made)
    conv = small.get_submodule("layer1.0.conv2")
    assert isinstance(conv, nn.Conv2d)
    assert (conv.groups, conv.in_channels, conv.out_channels) == (3, 12, 12)
    proved(found, made)


def test_shufflenet() -> None:
    found = traced(shufflenet, partial(image, 64))
    expected = {
        "conv1.0": "8 conv1.0:0 conv1.1:0 stage2.0.branch1.0:0 stage2.0.branch1.1:0 stage2.0.branch1.2:1 stage2.0.branch2.0:1"
    }
    for stage, width in ((2, 8), (3, 16), (4, 32)):
        first, second = f"stage{stage}.0", f"stage{stage}.1"
        after = f"stage{stage + 1}.0"
        onward = "conv5.0:1"
        if stage < 4:
            onward = f"{after}.branch1.0:0 {after}.branch1.1:0 {after}.branch1.2:1 {after}.branch2.0:1"
        one, two = f"{first}.branch1", f"{first}.branch2"
        inner = f"{second}.branch2"
        # The shuffle deals the channels of both branches out: half of each goes round the second block.
        expected |= {
            f"{one}.2": f"{width // 2} {one}.2:0 {one}.3:0 {onward}",
            f"{one}.2#2": f"{width // 2} {one}.2:0 {one}.3:0 {inner}.0:1",
            f"{two}.0": f"{width} {two}.0:0 {two}.1:0 {two}.3:0 {two}.4:0 {two}.5:1",
            f"{two}.5": f"{width // 2} {two}.5:0 {two}.6:0 {onward}",
            f"{two}.5#2": f"{width // 2} {two}.5:0 {two}.6:0 {inner}.0:1",
            f"{inner}.0": f"{width} {inner}.0:0 {inner}.1:0 {inner}.3:0 {inner}.4:0 {inner}.5:1",
            f"{inner}.5": f"{width} {inner}.5:0 {inner}.6:0 {onward}",
        }
    expected["conv5.0"] = "32 conv5.0:0 conv5.1:0 fc:1"
    assert groups_of(found) == expected
    assert blocks_of(found, "stage2.0.branch1.2") == {(8, 2)}, "8 pairs, one of each branch"
    assert proved(found, plan(found, Budget(macs=0.5), align=1)).inexact == 0


def test_densenet() -> None:
    found = traced(densenet, PICTURE)
    one, two = "denseblock1.denselayer", "denseblock2.denselayer"
    assert groups_of(found, [("features.", "")]) == {
        "conv0": f"8 conv0:0 norm0:0 {one}1.norm1:0 {one}1.conv1:1 {one}2.norm1:0 {one}2.conv1:1 "
        "transition1.norm:0 transition1.conv:1",
        f"{one}1.conv1": f"8 {one}1.conv1:0 {one}1.norm2:0 {one}1.conv2:1",
        f"{one}1.conv2": f"4 {one}1.conv2:0 {one}2.norm1:0 {one}2.conv1:1 transition1.norm:0 transition1.conv:1",
        f"{one}2.conv1": f"8 {one}2.conv1:0 {one}2.norm2:0 {one}2.conv2:1",
        f"{one}2.conv2": f"4 {one}2.conv2:0 transition1.norm:0 transition1.conv:1",
        "transition1.conv": f"8 transition1.conv:0 {two}1.norm1:0 {two}1.conv1:1 {two}2.norm1:0 {two}2.conv1:1 "
        "norm5:0 classifier:1",
        f"{two}1.conv1": f"8 {two}1.conv1:0 {two}1.norm2:0 {two}1.conv2:1",
        f"{two}1.conv2": f"4 {two}1.conv2:0 {two}2.norm1:0 {two}2.conv1:1 norm5:0 classifier:1",
        f"{two}2.conv1": f"8 {two}2.conv1:0 {two}2.norm2:0 {two}2.conv2:1",
        f"{two}2.conv2": f"4 {two}2.conv2:0 norm5:0 classifier:1",
    }
    # Where in the concatenation a layer's channels sit: behind the 8 of the stem and the 4 of the first layer.
    groups = {g.name: g for g in analyse(found).coupling.groups}
    place = groups["features.denseblock1.denselayer2.conv2"].indices["features.transition1.conv.weight", 1]
    assert place.ravel().tolist() == [12, 13, 14, 15]
    assert proved(found, plan(found, Budget(macs=0.5), align=1)).inexact == 0


INCEPTIONS = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")


def readers(module: str) -> str:
    """The four branches of an inception module that read its concatenated input."""
    return " ".join(f"{module}.branch{k}.conv:1" for k in ("1", "2.0", "3.0", "4.1"))


def test_googlenet() -> None:
    """Every branch is a group of its own, and the auxiliary heads of training read 4a and 4d as well."""
    found = traced(googlenet, partial(image, 64))
    assert found.extras, "the auxiliary heads only run in training"
    inside = {
        "3a": (96, 16),
        "3b": (128, 32),
        "4a": (96, 16),
        "4b": (112, 24),
        "4c": (128, 24),
        "4d": (144, 32),
        "4e": (160, 32),
        "5a": (160, 32),
        "5b": (192, 48),
    }
    outside = {
        "3a": (64, 128, 32, 32),
        "3b": (128, 192, 96, 64),
        "4a": (192, 208, 48, 64),
        "4b": (160, 224, 64, 64),
        "4c": (128, 256, 64, 64),
        "4d": (112, 288, 64, 64),
        "4e": (256, 320, 128, 128),
        "5a": (256, 320, 128, 128),
        "5b": (384, 384, 128, 128),
    }
    expected = {
        "conv1.conv": "64 conv1.conv:0 conv1.bn:0 conv2.conv:1",
        "conv2.conv": "64 conv2.conv:0 conv2.bn:0 conv3.conv:1",
        "conv3.conv": f"192 conv3.conv:0 conv3.bn:0 {readers('inception3a')}",
    }
    for name, after in zip(INCEPTIONS, [*INCEPTIONS[1:], ""], strict=True):
        at = f"inception{name}"
        onward = readers(f"inception{after}") if after else "fc:1"
        onward += {"4a": " aux1.conv.conv:1", "4d": " aux2.conv.conv:1"}.get(name, "")
        for k, width in zip(("2", "3"), inside[name], strict=True):
            first = f"{at}.branch{k}.0"
            expected[f"{first}.conv"] = f"{width} {first}.conv:0 {first}.bn:0 {at}.branch{k}.1.conv:1"
        for k, width in zip(("1", "2.1", "3.1", "4.1"), outside[name], strict=True):
            last = f"{at}.branch{k}"
            expected[f"{last}.conv"] = f"{width} {last}.conv:0 {last}.bn:0 {onward}"
    for aux in ("aux1", "aux2"):
        expected[f"{aux}.conv.conv"] = f"128 {aux}.conv.conv:0 {aux}.conv.bn:0 {aux}.fc1:1"
        expected[f"{aux}.fc1"] = f"1024 {aux}.fc1:0 {aux}.fc2:1"
    assert groups_of(found) == expected


def test_googlenet_trains_with_its_auxiliary_heads() -> None:
    """They are in no evaluation graph, but follow the widths of the trunk they read."""
    found = traced(googlenet, partial(image, 64))
    made = plan(found, Budget(macs=0.5))
    small = slim(found, made)
    verify(found, made, small, tolerance=EXACT)
    assert small.fxprune_kind == "module"
    lost = {name for name, _ in made.kept}
    assert {"aux1.conv.conv.weight", "aux2.conv.conv.weight"} <= lost
    result = small.train()(torch.randn(3, 3, 64, 64))
    assert [tuple(t.shape) for t in result] == [(3, 7)] * 3
    sum(t.sum() for t in result).backward()
    assert all(p.grad is not None for p in small.parameters())


# --- residual networks with padded shortcuts ---------------------------------------------------


def stream(depth: int, stage: int) -> list[str]:
    """What a residual stream of a CIFAR ResNet occupies from a stage on, in the order of the graph."""
    blocks = [(s, k) for s in (1, 2, 3) for k in range(DEPTHS[depth])]
    axes = ["conv1:0", "bn1:0"] if stage == 1 else []
    for s, k in blocks:
        if s > stage or (s == stage and (k or stage == 1)):
            axes.append(f"layer{s}.{k}.conv1:1")
        if s >= stage:
            axes += [f"layer{s}.{k}.conv2:0", f"layer{s}.{k}.bn2:0"]
    return [*axes, "linear:1"]


@pytest.mark.parametrize("depth", [20, 56])
def test_cifar_resnet(depth: int) -> None:
    """Padding makes three streams: 16 channels through all stages, 16 more from the second on, 32 from the third."""
    found = traced(partial_net(depth), PICTURE)
    expected = {}
    for stage, (name, width) in enumerate([("conv1", 16), ("layer2.0.conv2", 16), ("layer3.0.conv2", 32)], 1):
        expected[name] = f"{width} {' '.join(stream(depth, stage))}"
        for k in range(DEPTHS[depth]):
            at = f"layer{stage}.{k}"
            expected[f"{at}.conv1"] = f"{8 * 2**stage} {at}.conv1:0 {at}.bn1:0 {at}.conv2:1"
    assert groups_of(found) == expected
    groups = {g.name: g for g in analyse(found).coupling.groups}
    # Stage 2 holds the 16 channels of stage 1 in its middle, stage 3 those 32 in its middle.
    assert groups["conv1"].indices["layer2.0.conv2.weight", 0].ravel().tolist() == list(range(8, 24))
    assert groups["conv1"].indices["linear.weight", 1].ravel().tolist() == list(range(24, 40))
    outer = [*range(8), *range(24, 32)]
    assert groups["layer2.0.conv2"].indices["layer2.0.conv2.weight", 0].ravel().tolist() == outer
    assert groups["layer2.0.conv2"].indices["linear.weight", 1].ravel().tolist() == [i + 16 for i in outer]
    assert groups["layer3.0.conv2"].indices["linear.weight", 1].ravel().tolist() == [
        *range(16),
        *range(48, 64),
    ]


@cache
def partial_net(depth: int) -> Callable[[], nn.Module]:
    return partial(CifarResNet, depth)


def test_cifar_resnet_loses_channels_through_the_padding() -> None:
    """Any channels of the streams go, unevenly on both sides of the padding: new pad amounts, a graph."""
    found = traced(partial_net(20), PICTURE)
    gone = {
        ("conv1.weight", 0): [0, 5, 6],
        ("layer2.0.conv2.weight", 0): [0, 1, 2, 30],
        ("layer3.0.conv2.weight", 0): [63],
    }
    made = remove(found, gone)
    assert len(made.kept["layer2.0.conv2.weight", 0]) == 32 - 3 - 4
    assert len(made.kept["linear.weight", 1]) == 64 - 3 - 4 - 1
    small = slim(found, made)
    assert small.fxprune_kind == "graph"
    assert any("models.py" in line for line in small.fxprune_sources), "the padding's own line forced it"
    assert proved(found, made).inexact == 0


@pytest.mark.parametrize("depth", [20, 56])
def test_cifar_resnet_accuracy(shared: Path, depth: int) -> None:
    """The dense copy is the network that the weights were trained as: its accuracy on 1,000 real images."""
    x, y = cifar_test(shared, 1000)
    model = trained_resnet(shared, depth)
    with torch.no_grad():
        hits = torch.cat([model(part).argmax(1) for part in x.split(250)]) == y
    assert round(float(hits.float().mean()), 4) == {20: 0.9050, 56: 0.9210}[depth]


@pytest.mark.slow
@pytest.mark.parametrize("depth", DEPTHS)
def test_cifar_resnet_accuracy_on_the_complete_test_set(shared: Path, depth: int) -> None:
    x, y = cifar_test(shared)
    model = trained_resnet(shared, depth)
    with torch.no_grad():
        hits = torch.cat([model(part).argmax(1) for part in x.split(250)]) == y
    assert round(float(hits.float().mean()), 4) == ACCURACY[depth]


@pytest.mark.parametrize("depth", [20, 56])
def test_cifar_resnet_zeroed_equals_slim_on_real_images(shared: Path, depth: int) -> None:
    """Trained weights, real images, half the operations, residual streams pruned."""
    x, _ = cifar_test(shared, 16)
    found = trace(trained_resnet(shared, depth), x[:2])
    made = plan(found, Budget(macs=0.5), align=1)
    streams = {"conv1.weight", "layer2.0.conv2.weight", "layer3.0.conv2.weight"}
    keep = analyse(found).coupling.axes
    rng = np.random.default_rng(0)
    mask = np.ones(analyse(found).coupling.n_units, bool)
    for name in streams:
        units = keep[name, 0]
        mask[rng.choice(units, len(units) // 3, replace=False)] = False
    for one in (made, plan_units(found, mask))[depth == 56 :]:
        small = slim(found, one)
        proof = verify(found, one, small, inputs=x, tolerance=EXACT)
        assert proof.dtype == "float64"
        assert proof.effect > EFFECT
    assert all(len(one.kept[name, 0]) < len(keep[name, 0]) for name in streams)


# --- transformers ------------------------------------------------------------------------------


def test_vit() -> None:
    found = traced(vit, PICTURE)
    short = [
        ("encoder.layers.encoder_layer_", "L"),
        ("self_attention.in_proj_weight", "qkv"),
        ("self_attention.out_proj", "out"),
        ("encoder.", ""),
    ]
    layers = " ".join(
        f"L{k}.ln_1:0 L{k}.qkv:1 L{k}.out:0 L{k}.ln_2:0 L{k}.mlp.0:1 L{k}.mlp.3:0" for k in (0, 1)
    )
    expected = {"conv_proj": f"32~ class_token:2 conv_proj:0 pos_embedding:2 {layers} ln:0 heads.head:1"}
    for k in (0, 1):
        expected |= {
            f"L{k}.qkv": f"32 L{k}.qkv:0",  # queries and keys of one head dimension go together
            f"L{k}.qkv#2": f"32 L{k}.qkv:0 L{k}.out:1",  # values
            f"L{k}.mlp.0": f"48 L{k}.mlp.0:0 L{k}.mlp.3:1",
        }
    assert groups_of(found, short) == expected
    qkv = "encoder.layers.encoder_layer_0.self_attention.in_proj_weight"
    assert blocks_of(found, qkv) == {(4, 8), (2, 32)}, "4 heads of 8; as many queries and keys as values"
    groups = {g.name: g for g in analyse(found).coupling.groups}
    assert groups[qkv].indices[qkv, 0][:2].tolist() == [[0, 32], [1, 33]]
    assert groups[f"{qkv}#2"].indices[qkv, 0][:2].tolist() == [[64], [65]]


def test_vit_loses_heads() -> None:
    """A head is 8 queries, 8 keys, 8 values and 8 columns of the output projection, and goes exactly."""
    found = traced(vit, PICTURE)
    at = "encoder.layers.encoder_layer_0.self_attention"
    made = remove(found, {(f"{at}.in_proj_weight", 0): range(8, 16)})
    head = set(range(8, 16)) | set(range(40, 48)) | set(range(72, 80))
    assert set(made.kept[f"{at}.in_proj_weight", 0]) == set(range(96)) - head
    assert set(made.kept[f"{at}.out_proj.weight", 1]) == set(range(32)) - set(range(8, 16))
    assert set(made.kept) == {
        (f"{at}.in_proj_weight", 0),
        (f"{at}.in_proj_bias", 0),
        (f"{at}.out_proj.weight", 1),
    }
    assert proved(found, made).inexact == 0


def test_vit_loses_mlp_features() -> None:
    found = traced(vit, PICTURE)
    made = plan(found, Budget(params=0.8), only=["*.mlp.0"], align=1)
    assert {name.split(".")[-3] for name, _ in made.kept} == {"mlp"} or all(
        "mlp" in name for name, _ in made.kept
    )
    assert slim(found, made).fxprune_kind == "module"
    assert proved(found, made).inexact == 0


def test_vit_loses_everything_a_bit() -> None:
    found = traced(vit, PICTURE)
    proof = proved(found, plan(found, Budget(params=0.4), align=1))
    assert proof.inexact > 0
    assert proof.inexact_difference > EFFECT, "layer norm sees the width of the stream"


def test_swin() -> None:
    found = traced(swin, PICTURE)
    short = [("features.", "f"), (".attn.relative_position_bias_table", ".table")]

    def reads(stage: int) -> str:
        return " ".join(
            f"f{stage}.{k}.norm1:0 f{stage}.{k}.attn.qkv:1 f{stage}.{k}.attn.proj:0 f{stage}.{k}.norm2:0 "
            f"f{stage}.{k}.mlp.0:1 f{stage}.{k}.mlp.3:0"
            for k in (0, 1)
        )

    expected = {
        "f0.0": f"16~ f0.0:0 f0.2:0 {reads(1)} f2.reduction:1 f2.norm:0",
        "f2.reduction": f"32~ f2.reduction:0 {reads(3)} norm:0 head:1",
    }
    for stage, heads in ((1, 2), (3, 4)):
        for k in (0, 1):
            at, width = f"f{stage}.{k}", 8 * heads
            expected |= {
                f"{at}.table:1": f"{heads} {at}.table:1",  # rows of the layouts: one unit a head
                f"{at}.attn.qkv": f"{width} {at}.attn.qkv:0",
                f"{at}.attn.qkv#2": f"{width} {at}.attn.qkv:0 {at}.attn.proj:1",
                f"{at}.mlp.0": f"{4 * width} {at}.mlp.0:0 {at}.mlp.3:1",
            }
    assert groups_of(found, short) == expected
    # Patch merging reads the four pixels of a square side by side: every channel occupies four columns.
    groups = {g.name: g for g in analyse(found).coupling.groups}
    assert groups["features.0.0"].indices["features.2.reduction.weight", 1][0].tolist() == [0, 16, 32, 48]
    assert proved(found, plan(found, Budget(params=0.5), align=1)).inexact > 0


def test_swin_loses_a_head_with_its_position_table() -> None:
    found = traced(swin, PICTURE)
    at = "features.3.0.attn"
    made = remove(found, {(f"{at}.relative_position_bias_table", 1): [2]})
    assert made.kept[f"{at}.relative_position_bias_table", 1] == (0, 1, 3)
    assert len(made.kept[f"{at}.qkv.weight", 0]) == 3 * 24
    assert len(made.kept[f"{at}.proj.weight", 1]) == 24
    assert proved(found, made).inexact == 0


def test_maxvit() -> None:
    found = traced(maxvit, PICTURE)
    short = [
        (".layers.0.layers", ""),
        ("blocks.", "b"),
        ("MBconv.layers.", "mb."),
        ("MBconv.", "mb."),
        ("_attention.attn_layer", ""),
        ("_attention.mlp_layer", ".mlp"),
        ("squeeze_excitation", "se"),
        ("relative_position_bias_table", "table"),
    ]
    expected = {
        "stem.0.0": "8 stem.0.0:0 stem.0.1:0 stem.1.0:1",
        "stem.1.0": "8 stem.1.0:0 b0.mb.proj.1:1 b0.mb.pre_norm:0 b0.mb.conv_a.0:1",
        "classifier.3": "16 classifier.3:0 classifier.5:1",
    }
    for block, width in ((0, 8), (1, 16)):
        b = f"b{block}"
        attention = " ".join(
            f"{b}.{kind}.0:0 {b}.{kind}.1.to_qkv:1 {b}.{kind}.1.merge:0 {b}.{kind}.mlp.0:0 {b}.{kind}.mlp.1:1 {b}.{kind}.mlp.3:0"
            for kind in ("window", "grid")
        )
        onward = (
            "classifier.2:0 classifier.3:1" if block else "b1.mb.proj.1:1 b1.mb.pre_norm:0 b1.mb.conv_a.0:1"
        )
        expected |= {
            f"{b}.mb.proj.1": f"{width}~ {b}.mb.proj.1:0 {b}.mb.conv_c:0 {attention} {onward}",
            f"{b}.mb.conv_a.0": f"{4 * width} {b}.mb.conv_a.0:0 {b}.mb.conv_a.1:0 {b}.mb.conv_b.0:0 {b}.mb.conv_b.1:0 "
            f"{b}.mb.se.fc1:1 {b}.mb.se.fc2:0 {b}.mb.conv_c:1",
            f"{b}.mb.se.fc1": f"{width // 4} {b}.mb.se.fc1:0 {b}.mb.se.fc2:1",
        }
        for kind in ("window", "grid"):
            at = f"{b}.{kind}"
            expected |= {
                f"{at}.1.table:1": f"{width // 4} {at}.1.table:1",
                f"{at}.1.to_qkv": f"{width} {at}.1.to_qkv:0",
                f"{at}.1.to_qkv#2": f"{width} {at}.1.to_qkv:0 {at}.1.merge:1",
                f"{at}.mlp.1": f"{4 * width} {at}.mlp.1:0 {at}.mlp.3:1",
            }
    assert groups_of(found, short) == expected
    assert proved(found, plan(found, Budget(params=0.5), align=1)).inexact > 0


@pytest.mark.parametrize("fused", [False, True])
def test_grouped_query_attention(fused: bool) -> None:
    """Two query heads share one key and value head: q and k tie, and heads go by pairs."""
    found = traced(cached_attention(False, fused), TOKENS)
    assert groups_of(found) == {"q": "16 q:0 k:0", "v": "16 v:0 o:1"}
    groups = {g.name: g for g in analyse(found).coupling.groups}
    assert groups["q"].indices["q.weight", 0][:2].tolist() == [[0, 8], [1, 9]]
    assert groups["v"].indices["o.weight", 1][8:10].tolist() == [[16, 24], [17, 25]]
    assert blocks_of(found, "q") == blocks_of(found, "v") == {(2, 8)}
    for gone in ([0, 17], list(range(16))):
        made = remove(found, {("q.weight", 0): gone})
        assert len(made.kept["q.weight", 0]) == 2 * len(made.kept["k.weight", 0])
        assert proved(found, made).inexact == 0


def test_grouped_query_attention_with_rotary_positions() -> None:
    """The tables of sines tie a dimension across all heads, and its partner half a head away."""
    found = traced(cached_attention(True, True), TOKENS)
    assert groups_of(found) == {"q": "8 q:0 k:0", "v": "16 v:0 o:1", "cos:1": "8 cos:1", "sin:1": "8 sin:1"}
    made = remove(found, {("cos", 1): [1]})
    gone = {8 * head + d for head in range(4) for d in (1, 5)}
    assert set(made.kept["q.weight", 0]) == set(range(32)) - gone
    assert set(made.kept["sin", 1]) == set(range(8)) - {1, 5}
    assert proved(found, made).inexact == 0


@cache
def cached_attention(rotary: bool, fused: bool) -> Callable[[], nn.Module]:
    return partial(GroupedQuery, rotary=rotary, fused=fused)
