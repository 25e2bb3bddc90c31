"""Passes that make files faster: what they change, what they leave alone, and that nothing is computed otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fxprune.errors import ExportError, PlanError
from fxprune.onnx.export import ExportReport, export_onnx, parity
from fxprune.onnx.passes import PASSES

AVX512 = "onnxruntime-cpu-avx512"
EQUAL = 1e-5  # float32, other kernels


def _live(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias)
            nn.init.normal_(m.running_mean)
            nn.init.uniform_(m.running_var, 0.5, 1.5)
    return module.eval()


def _exported(
    module: nn.Module,
    x: torch.Tensor,
    folder: Path,
    passes: Sequence[str] | None = None,
    target: str = AVX512,
) -> tuple[ExportReport, list[onnx.NodeProto], dict[str, list[int]]]:
    """The file is equal to the module; its nodes, and the shapes of its weights."""
    report = export_onnx(module, x, folder / "m.onnx", passes=passes, target=target)
    assert parity(report.path, module, x) < EQUAL
    graph = onnx.load(report.path).graph
    return report, list(graph.node), {w.name: list(w.dims) for w in graph.initializer}


def _convs(nodes: Sequence[onnx.NodeProto], shapes: dict[str, list[int]]) -> list[tuple[list[int], int]]:
    """Shape of the weight and number of groups of every convolution."""
    return [
        (shapes[n.input[1]], next((a.i for a in n.attribute if a.name == "group"), 1))
        for n in nodes
        if n.op_type == "Conv"
    ]


# --- narrow groups ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "groups", "merged"),
    [(48, 6, 3), (64, 16, 4), (64, 32, 4), (128, 4, 4), (48, 48, 48), (96, 4, 2)],
)
def test_narrow_groups_are_merged(channels: int, groups: int, merged: int, tmp_path: Path) -> None:
    conv = nn.Conv2d(channels, channels, 3, padding=1, groups=groups)
    report, nodes, shapes = _exported(_live(conv), torch.randn(2, channels, 9, 9), tmp_path, ["groups"])
    assert _convs(nodes, shapes) == [([channels, channels // merged, 3, 3], merged)]
    assert report.passes == ({"groups": 1} if merged < groups else {})


def test_groups_that_make_more_than_they_read(tmp_path: Path) -> None:
    conv = nn.Conv1d(32, 64, 3, groups=4, bias=False)
    _, nodes, shapes = _exported(_live(conv), torch.randn(2, 32, 9), tmp_path, ["groups"])
    assert _convs(nodes, shapes) == [([64, 16, 3], 2)]


def test_on_a_target_without_facts_nothing_is_merged_or_padded(tmp_path: Path) -> None:
    conv = nn.Conv2d(48, 48, 3, groups=6)
    report, _, _ = _exported(_live(conv), torch.randn(2, 48, 9, 9), tmp_path, target="any")
    assert report.passes == {}


def test_one_weight_of_two_convolutions(tmp_path: Path) -> None:
    """Both are merged, and each keeps the numbers of its own."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(32, 32, 3, padding=1, groups=4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.conv(x).relu())

    report, nodes, shapes = _exported(_live(Twice()), torch.randn(2, 32, 9, 9), tmp_path, ["groups"])
    assert [groups for _, groups in _convs(nodes, shapes)] == [2, 2]
    assert report.passes == {"groups": 2}


# --- padding ---------------------------------------------------------------------------------


class Gated(nn.Module):
    """Inverted residual blocks with a gate, of any widths."""

    def __init__(self, stream: int = 18, inner: int = 50, squeezed: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, stream, 3, padding=1)
        self.up = nn.Sequential(nn.Conv2d(stream, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.SiLU())
        self.depth = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.squeeze, self.excite = nn.Conv2d(inner, squeezed, 1), nn.Conv2d(squeezed, inner, 1)
        self.down = nn.Conv2d(inner, stream, 1)
        self.scale = nn.Parameter(torch.randn(stream, 1, 1))
        self.head = nn.Linear(stream, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = F.relu6(self.depth(self.up(x)))
        gate = self.excite(self.squeeze(y.mean((2, 3), keepdim=True)).relu()).sigmoid()
        x = x + self.scale * self.down(y * gate)
        return self.head(F.max_pool2d(x, 2).mean((2, 3)))


def test_streams_are_filled_up(tmp_path: Path) -> None:
    report, nodes, shapes = _exported(_live(Gated()), torch.randn(2, 3, 12, 12), tmp_path)
    assert report.passes["padding"] == 3
    assert _convs(nodes, shapes) == [
        ([32, 3, 3, 3], 1),
        ([64, 32, 1, 1], 1),
        ([64, 1, 3, 3], 64),
        ([16, 64, 1, 1], 1),
        ([64, 16, 1, 1], 1),
        ([32, 64, 1, 1], 1),
    ]
    assert [10, 32] in shapes.values()  # the head reads zeros


def test_whole_blocks_stay(tmp_path: Path) -> None:
    report, _, _ = _exported(_live(Gated(32, 64, 16)), torch.randn(2, 3, 12, 12), tmp_path, ["padding"])
    assert report.passes == {}


def test_an_odd_number_of_narrow_groups_is_filled_up_and_merged(tmp_path: Path) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 104, 1), nn.ReLU(), nn.Conv2d(104, 104, 3, groups=13), nn.ReLU(), nn.Conv2d(104, 32, 1)
    )
    _, nodes, shapes = _exported(_live(net), torch.randn(2, 3, 9, 9), tmp_path)
    assert _convs(nodes, shapes)[1] == ([112, 16, 3, 3], 7)


class Around(nn.Module):
    """A convolution of 18 channels, something, and another that reads them."""

    def __init__(self, between: nn.Module, reads: int = 18) -> None:
        super().__init__()
        self.first, self.between, self.second = nn.Conv2d(3, 18, 1), between, nn.Conv2d(reads, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.between(self.first(x)))


class Fn(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)  # type: ignore[operator,no-any-return]


UNLIKE = {
    "softmax over channels": (Fn(lambda x: x.softmax(1)), 18),
    "a layer norm over channels": (
        Fn(lambda x: F.layer_norm(x.permute(0, 2, 3, 1), [18]).permute(0, 3, 1, 2)),
        18,
    ),
    "a mean over channels": (Fn(lambda x: x + x.mean(1, keepdim=True)), 18),
    "a shuffle": (nn.ChannelShuffle(3), 18),
    "a concat": (Fn(lambda x: torch.cat([x, x.relu()], 1)), 36),
    "a slice": (Fn(lambda x: x[:, 1:]), 17),
    "a group norm": (nn.GroupNorm(3, 18), 18),
    "an inverse": (Fn(lambda x: 1 / (x * x + 1)), 18),
    "a running sum": (Fn(lambda x: x.cumsum(1)), 18),
    "a sorting": (Fn(lambda x: x.sort(1).values), 18),
    "positions mixed with channels": (Fn(lambda x: x.flatten(1).relu().view_as(x)), 18),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_what_is_not_understood_is_left_alone(name: str, tmp_path: Path) -> None:
    between, reads = UNLIKE[name]
    torch.manual_seed(0)
    module, x = Around(between, reads).eval(), torch.randn(2, 3, 6, 6)
    _, nodes, shapes = _exported(module, x, tmp_path)
    assert _convs(nodes, shapes)[0] == ([18, 3, 1, 1], 1)


def test_outputs_keep_their_width(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 18, 3), nn.ReLU())
    report, nodes, shapes = _exported(_live(module), torch.randn(2, 3, 9, 9), tmp_path)
    assert (_convs(nodes, shapes), report.passes) == ([([18, 3, 3, 3], 1)], {})


# --- linear layers ---------------------------------------------------------------------------


class Rows(nn.Module):
    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(8, 12), nn.Linear(12, 8, bias=bias), nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


def test_linear_layers_on_rows_are_one_operator(tmp_path: Path) -> None:
    report, nodes, _ = _exported(_live(Rows()), torch.randn(2, 5, 8), tmp_path)
    kinds = [n.op_type for n in nodes]
    assert (kinds.count("Gemm"), kinds.count("MatMul"), kinds.count("Gelu")) == (2, 0, 1)
    assert (report.passes, report.dynamic_batch) == ({"gemm": 2}, True)


def test_without_bias_there_is_nothing_to_join(tmp_path: Path) -> None:
    report, _, _ = _exported(_live(Rows(bias=False)), torch.randn(2, 4, 5, 8), tmp_path)
    assert report.passes == {"gemm": 1}


def test_a_fixed_batch_is_left_to_the_runtime(tmp_path: Path) -> None:
    report = export_onnx(_live(Rows()), torch.randn(2, 5, 8), tmp_path / "m.onnx", dynamic_batch=False)
    assert report.passes == {}


# --- names -----------------------------------------------------------------------------------


def test_passes_are_switched_by_name(tmp_path: Path) -> None:
    module, x = _live(Gated()), torch.randn(2, 3, 12, 12)
    assert set(_exported(module, x, tmp_path)[0].passes) == {"pooling", "padding"}
    assert set(_exported(module, x, tmp_path, ["pooling"])[0].passes) == {"pooling"}
    assert _exported(module, x, tmp_path, [])[0].passes == {}


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="there is no pass 'paddings'") as caught:
        export_onnx(nn.Linear(2, 2), torch.ones(1, 2), tmp_path / "m.onnx", passes=["paddings"])
    assert "'padding'" in caught.value.advice
    assert list(PASSES) == ["pooling", "gemm", "padding", "groups", "norms"]
    with pytest.raises(PlanError, match="no target"):
        export_onnx(nn.Linear(2, 2), torch.ones(1, 2), tmp_path / "m.onnx", target="abacus")


# --- norms -----------------------------------------------------------------------------------


class Residual(nn.Module):
    """A branch added before or after its norm."""

    def __init__(self, *, after: bool) -> None:
        super().__init__()
        self.branch, self.norm, self.after = nn.Linear(32, 32), nn.LayerNorm(32), after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.after:
            return self.norm(x + self.branch(x))
        y = x + self.branch(x)
        return y + self.norm(y)


@pytest.mark.parametrize("after", [True, False])
def test_sums_are_kept_apart_from_the_norms_that_alone_read_them(after: bool, tmp_path: Path) -> None:
    report, nodes, _ = _exported(_live(Residual(after=after)), torch.randn(2, 5, 32), tmp_path)
    assert report.passes.get("norms", 0) == int(after)
    assert [n.op_type for n in nodes].count("Sum") == int(after)


def _optimised(path: Path) -> list[onnx.NodeProto]:
    """Operators that the runtime makes of a file."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(path.with_suffix(".optimised.onnx"))
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return list(onnx.load(options.optimized_model_filepath).graph.node)


def test_without_the_pass_the_runtime_fuses_them(tmp_path: Path) -> None:
    """Else there would be nothing to keep apart."""
    net, x = _live(Residual(after=True)), torch.randn(2, 5, 32)
    plain, _, _ = _exported(net, x, tmp_path, ["gemm"])
    assert "SkipLayerNormalization" in [n.op_type for n in _optimised(plain.path)]
    apart, _, _ = _exported(net, x, tmp_path)
    assert "SkipLayerNormalization" not in [n.op_type for n in _optimised(apart.path)]
