"""Export: one file, the same results, the user's module untouched; or an error and no file."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
import torchvision
from torch import nn

from fxprune.errors import ExportError
from fxprune.models.calls import ExampleInputs, as_call, output_tensors
from fxprune.onnx import export as export_stage
from fxprune.onnx import parity as parity_module
from fxprune.onnx.export import ExportReport, export_onnx, parity

FLOAT32 = 1e-5
"""Relative error that float32 rounding alone may cause in these small nets."""

POOLING = 1e-6
"""Relative difference of two means of the same numbers added up in another order."""


def _live(model: nn.Module) -> nn.Module:
    """Batch statistics as after training: all different, none zero."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.2, 0.2),
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 2.0),
            ):
                assert tensor is not None
                with torch.no_grad():
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return model


class _Small(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5)),
            *(
                nn.Conv2d(8, 16, 3, stride=2),
                nn.SiLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(16, 5),
            ),
        )


class _Gated(nn.Module):
    """Squeeze-excite, with the squeeze written as a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = self.head(x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid())
        return x.mean(dim=(-1, -2))


class _TwoInputs(nn.Module):
    """Tokens and an image; a number, a flag and an absent input; structured outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.conv, self.out = nn.Embedding(11, 6), nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

    def forward(
        self,
        ids: torch.Tensor,
        image: torch.Tensor,
        scale: float = 1.0,
        flat: bool = True,
        mask: object = None,
    ) -> dict[str, object]:
        assert mask is None
        both = self.embed(ids).mean(1) * scale + self.conv(image).mean((2, 3))
        return {"logits": self.out(both), "features": [both, None], "width": 6, "flag": flat, "image": image}


class _Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(
        self, xs: list[torch.Tensor], extra: dict[str, list[torch.Tensor]]
    ) -> tuple[torch.Tensor, ...]:
        return self.fc(xs[0]) - xs[1], xs[1] * extra["deep"][0]


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(5, 7, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rnn(x)[0][:, -1]


class _FixedBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(2, -1).softmax(1)


def _graph_module() -> nn.Module:
    """What torch.export leaves behind: ATen operators and get_attr parameters."""
    shapes = ({0: torch.export.Dim("n")},)
    program = torch.export.export(
        _live(_Small()).eval(), (torch.rand(2, 3, 12, 12),), dynamic_shapes=shapes, strict=False
    )
    return program.module(check_guards=False)


CASES: dict[str, tuple[Callable[[], nn.Module], ExampleInputs]] = {
    "small": (lambda: _live(_Small()), torch.rand(1, 3, 12, 12)),
    "gated": (_Gated, (torch.rand(4, 3, 12, 12),)),
    "graph module": (_graph_module, torch.rand(1, 3, 12, 12)),
    "two inputs": (_TwoInputs, (torch.randint(0, 11, (2, 5)), torch.rand(2, 3, 8, 8), 0.5)),
    "keywords": (
        _TwoInputs,
        {"image": torch.rand(2, 3, 8, 8), "ids": torch.randint(0, 11, (2, 5)), "flat": False},
    ),
    "nested": (_Nested, ([torch.rand(2, 3), torch.rand(2, 3)], {"deep": [torch.rand(2, 3)]})),
    "transformer": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2, enable_nested_tensor=False
        ),
        torch.rand(2, 6, 16),
    ),
    "recurrent": (_Recurrent, torch.rand(2, 4, 5)),
    "resnet18": (lambda: _live(torchvision.models.resnet18()), torch.rand(1, 3, 64, 64)),
}


def _run(path: Path, tensors: list[torch.Tensor]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {p.name: t.numpy() for p, t in zip(session.get_inputs(), tensors)})


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ExportReport]:
    """Each case once; the file lies alone in its folder."""

    @functools.cache
    def export(name: str) -> ExportReport:
        return export_onnx(*_made(name), tmp_path_factory.mktemp("case") / "m.onnx")

    return export


def _made(name: str) -> tuple[nn.Module, ExampleInputs]:
    torch.manual_seed(0)
    make, inputs = CASES[name]
    return make(), inputs


Exporter = Callable[[str], ExportReport]


@pytest.mark.parametrize("name", CASES)
def test_same_results_at_any_batch(name: str, exported: Exporter) -> None:
    report = exported(name)
    assert report.dynamic_batch
    assert report.why_static == ""
    assert len(report.batches) == 3
    assert report.opset == 20
    assert report.size_bytes == report.path.stat().st_size
    assert [f.name for f in report.path.parent.iterdir()] == ["m.onnx"]  # one file
    assert all(port.shape[0] == "batch" for port in report.inputs)
    assert report.max_error_inputs is not None
    assert report.max_error_inputs < FLOAT32
    assert report.max_error_random is not None
    assert report.max_error_random < FLOAT32
    # Not by our own code: the file at a batch size never seen, against torch.
    module, inputs = _made(name)
    call = as_call(inputs).with_batch(5)
    for m in module.modules():
        m.training = False
    with torch.no_grad():
        expected = list(output_tensors(call(module)).values())
    for a, b in zip(expected, _run(report.path, list(call.tensors)), strict=True):
        assert np.abs(a.numpy() - b).max() <= FLOAT32 * np.abs(a.numpy()).max()


def test_names(exported: Exporter, tmp_path: Path) -> None:
    two = exported("two inputs")
    assert [p.name for p in two.inputs] == ["ids", "image"]
    assert [p.name for p in two.outputs] == ["logits", "features_0", "image_out"]
    assert str(two.inputs[0]) == "ids: int64[batch, 5]"
    assert str(two.outputs[0]) == "logits: float32[batch, 4]"
    assert [p.name for p in exported("keywords").inputs] == ["image", "ids"]
    nested = exported("nested")
    assert [p.name for p in nested.inputs] == ["xs_0", "xs_1", "extra_deep_0"]
    assert [p.name for p in nested.outputs] == ["output_0", "output_1"]
    given = export_onnx(*_made("small"), tmp_path / "d.onnx", input_names=["pixels"], output_names=["scores"])
    assert [p.name for p in (*given.inputs, *given.outputs)] == ["pixels", "scores"]


def test_weights_keep_their_names_and_no_paths_leak(exported: Exporter) -> None:
    module, _ = _made("small")
    path = exported("small").path
    weights = {w.name for w in onnx.load(path).graph.initializer}
    assert {"0.weight", "4.weight", "8.weight", "8.bias"} <= weights
    assert str(Path(__file__).parent).encode() not in path.read_bytes()
    assert b"site-packages" not in path.read_bytes()
    floats = sum(p.numel() for p in module.parameters()) * 4
    assert path.stat().st_size < floats + 4096  # nothing but weights and a small graph


def test_the_module_is_untouched(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    module, inputs = _made("small")
    module.train()
    module[1].eval()  # frozen statistics: its own mode, unlike its parent's
    module[0].weight.grad = torch.ones_like(module[0].weight)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    modes = [m.training for m in module.modules()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    grad_enabled = torch.is_grad_enabled()
    export_onnx(module, inputs, tmp_path / "m.onnx")
    parity(tmp_path / "m.onnx", module, inputs)
    assert [m.training for m in module.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert module[0].weight.requires_grad
    assert torch.equal(module[0].weight.grad, torch.ones_like(module[0].weight))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])  # noqa: NPY002
    assert torch.is_grad_enabled() == grad_enabled
    assert capfd.readouterr() == ("", "")  # the exporters narrate; we do not


def test_modes_by_overridden_train(tmp_path: Path) -> None:
    class Frozen(nn.Sequential):
        def train(self, mode: bool = True) -> nn.Module:
            super().train(mode)
            self[1].eval()
            return self

    module = Frozen(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    module.train()
    export_onnx(module, torch.rand(1, 3, 4, 4), tmp_path / "m.onnx")
    assert [m.training for m in module.modules()] == [True, True, False, True]


def test_the_same_file_every_time(tmp_path: Path) -> None:
    module, inputs = _made("small")
    files = [export_onnx(module, inputs, tmp_path / name).path.read_bytes() for name in ("a.onnx", "a.onnx")]
    assert files[0] == files[1]


def test_a_model_that_writes_into_its_input(tmp_path: Path) -> None:
    class InPlace(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mul_(2).add_(1)

    x = torch.rand(2, 3)
    before = x.clone()
    assert export_onnx(InPlace(), x, tmp_path / "m.onnx").max_error_inputs == 0
    assert torch.equal(x, before)


# --- batch -----------------------------------------------------------------------------------


def test_fixed_batch_says_why(tmp_path: Path) -> None:
    report = export_onnx(_FixedBatch(), torch.rand(2, 3), tmp_path / "m.onnx")
    assert not report.dynamic_batch
    assert re.search(r"batch.*constant \(2\)", report.why_static)
    assert report.inputs[0].shape == (2, 3)
    assert report.batches == (2,)


def test_fixed_batch_on_demand(tmp_path: Path) -> None:
    report = export_onnx(*_made("small"), tmp_path / "m.onnx", dynamic_batch=False)
    assert (report.dynamic_batch, report.why_static) == (False, "")
    assert report.inputs[0].shape == (1, 3, 12, 12)


def test_a_table_with_as_many_rows_as_the_batch(tmp_path: Path) -> None:
    """The second input only looks batched; torch.export tells them apart."""

    class Projection(nn.Module):
        def forward(self, x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
            return x @ table

    report = export_onnx(Projection(), (torch.rand(3, 3), torch.rand(3, 3)), tmp_path / "m.onnx")
    assert [p.shape for p in report.inputs] == [("batch", 3), (3, 3)]
    assert report.batches == (3, 1, 2)


def test_images_in_a_list_have_no_batch(tmp_path: Path) -> None:
    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, images: list[torch.Tensor]) -> torch.Tensor:
            return self.conv(torch.stack(images))

    report = export_onnx(Stack(), [torch.rand(3, 8, 8), torch.rand(3, 8, 8)], tmp_path / "m.onnx")
    assert not report.dynamic_batch
    assert [p.shape for p in report.inputs] == [(3, 8, 8), (3, 8, 8)]


def test_a_graph_wrong_at_other_sizes_becomes_static(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter bakes a size in without saying so: parity at a second batch size notices."""

    def baked(model: ir.Model, *_: object) -> dict[str, int]:
        for node in list(model.graph):
            if node.op_type == "Reshape" and isinstance(node.inputs[0].shape[0], ir.SymbolicDim):
                shape = ir.Value(name="baked", const_value=ir.tensor([2, 16], name="baked"))
                model.graph.initializers["baked"] = shape
                node.replace_input_with(1, shape)
        return {}

    monkeypatch.setattr("fxprune.onnx.capture.apply_passes", baked)
    report = export_onnx(_live(_Small()), torch.rand(2, 3, 12, 12), tmp_path / "m.onnx")
    assert not report.dynamic_batch
    assert report.why_static
    assert report.max_error_inputs is not None
    assert report.max_error_inputs < FLOAT32


# --- gate ------------------------------------------------------------------------------------


def _perturbed(model: ir.Model, *_: object) -> dict[str, int]:
    weight = model.graph.initializers["module.8.weight"]
    wrong = weight.const_value.numpy().copy()
    wrong[3, 2] += 0.05
    weight.const_value = ir.tensor(wrong, name=weight.name)
    return {}


def test_a_wrong_graph_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, inputs = _made("small")
    monkeypatch.setattr("fxprune.onnx.capture.apply_passes", _perturbed)
    with pytest.raises(ExportError, match=r"m\.onnx differs from the module by \d\.\de-0[123]") as caught:
        export_onnx(module, inputs, tmp_path / "m.onnx")
    assert "this is no rounding" in caught.value.advice
    assert list(tmp_path.iterdir()) == []


def test_a_refused_export_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, inputs = _made("small")
    (tmp_path / "m.onnx").write_bytes(b"old")
    monkeypatch.setattr("fxprune.onnx.capture.apply_passes", _perturbed)
    with pytest.raises(ExportError):
        export_onnx(module, inputs, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_bytes() == b"old"
    # Without the gate the wrong file is written, and parity() tells.
    report = export_onnx(module, inputs, tmp_path / "m.onnx", verify=False)
    assert (report.max_error_inputs, report.max_error_random, report.batches) == (None, None, ())
    assert parity(tmp_path / "m.onnx", module, inputs) > 1e-3


def test_rounding_is_told_from_mistakes(tmp_path: Path) -> None:
    class Noisy(nn.Module):
        """Subtracts nearly equal numbers: float32 keeps few digits."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(*[nn.Linear(64, 64, bias=False) for _ in range(4)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.layers(x)
            return (y.sum(1) * 1e4 + 1e5) - 1e5 - y.sum(1) * 1e4

    with pytest.raises(ExportError, match="differs from the module") as caught:
        export_onnx(Noisy(), torch.rand(2, 64), tmp_path / "m.onnx", tolerance=1e-7)
    assert "loses as much to rounding" in caught.value.advice


def test_random_numbers_are_told_from_mistakes(tmp_path: Path) -> None:
    class Sampling(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(x)
            return y + torch.randn_like(y)

    module, x = Sampling(6, 4), torch.rand(2, 6)
    state = torch.get_rng_state()
    with pytest.raises(ExportError, match="differs from the module") as caught:
        export_onnx(module, x, tmp_path / "m.onnx")
    assert "draws random numbers" in caught.value.advice
    assert torch.equal(state, torch.get_rng_state())
    assert export_onnx(module, x, tmp_path / "m.onnx", verify=False).path.exists()


def test_error_measure() -> None:
    port = export_stage.Port("y", "float32", (3,))
    measure = parity_module._difference
    a = np.array([1.0, -4.0, 2.0], np.float32)
    assert measure(a, a + np.float32(0.5), port, "") == 0.125  # largest difference over largest magnitude
    assert measure(np.zeros(3), np.array([0, 0.25, 0]), port, "") == 0.25  # nothing to be relative to
    bad = np.array([1.0, np.inf, np.nan])
    assert measure(bad, bad.copy(), port, "") == 0
    assert measure(bad, np.array([1.0, -np.inf, np.nan]), port, "") == float("inf")
    assert measure(a, np.array([1.0, np.nan, 2.0]), port, "") == float("inf")
    assert measure(np.array([True, False]), np.array([True, True]), port, "") == 1
    assert measure(np.zeros((0, 2)), np.zeros((0, 2)), port, "") == 0
    with pytest.raises(ExportError, match=r"output 'y' has shape \[2\] in onnxruntime, \[3\] in torch"):
        measure(a, a[:2], port, "")


def test_parity_of_the_wrong_module(exported: Exporter) -> None:
    module, inputs = _made("small")
    path = exported("small").path
    assert parity(path, module, inputs) < FLOAT32
    torch.manual_seed(1)
    other = _live(_Small())
    assert parity(path, other, inputs) > 1e-2
    with pytest.raises(ExportError, match=r"do not fit .*m\.onnx: 'x|do not fit .*m\.onnx: 'input"):
        parity(path, module, torch.rand(1, 3, 14, 14))


# --- operators and opsets ----------------------------------------------------------------------


@pytest.mark.parametrize("opset", [17, 21])
def test_opset_is_what_was_asked_for(opset: int, tmp_path: Path) -> None:
    path = export_onnx(nn.Linear(3, 4), torch.rand(2, 3), tmp_path / "m.onnx", opset=opset).path
    assert {i.version for i in onnx.load(path).opset_import if i.domain == ""} == {opset}


def test_unknown_opset_is_refused_before_the_export(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="there is no opset 99"):
        export_onnx(nn.LayerNorm(3), torch.rand(2, 3), tmp_path / "m.onnx", opset=99)


@pytest.mark.parametrize("opset", [9, 99])
def test_impossible_opset(opset: int, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"opset|cannot load"):
        export_onnx(nn.LayerNorm(3), torch.rand(2, 3), tmp_path / "m.onnx", opset=opset)
    assert list(tmp_path.iterdir()) == []


def test_spatial_means_become_poolings(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = _Gated(), torch.rand(2, 3, 12, 12)
    report = export_onnx(module, x, tmp_path / "pool.onnx")
    assert report.passes == {"pooling": 2}
    kinds = [n.op_type for n in onnx.load(report.path).graph.node]
    assert (kinds.count("GlobalAveragePool"), kinds.count("Flatten"), kinds.count("ReduceMean")) == (2, 1, 0)
    plain = export_onnx(module, x, tmp_path / "mean.onnx", passes=[])
    assert plain.passes == {}
    a, b = (_run(path, [x])[0] for path in (report.path, plain.path))
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= POOLING * np.abs(a).max()


@pytest.mark.parametrize(
    ("dims", "shape", "dtype"),
    [
        ((1, 2), (2, 3, 4, 5), torch.float32),
        ((3,), (2, 3, 4, 5), torch.float32),
        ((1, 2, 3), (2, 3, 4, 5), torch.float32),
        ((2,), (2, 3, 4), torch.float32),  # a normalisation more often than a pooling
        ((2, 3, 4), (2, 3, 4, 5, 2), torch.float32),
        ((2, 3), (2, 3, 4, 5), torch.float64),
    ],
)
def test_other_means_stay(
    dims: tuple[int, ...], shape: tuple[int, ...], dtype: torch.dtype, tmp_path: Path
) -> None:
    class Mean(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * 2).mean(dims)

    report = export_onnx(Mean(), torch.rand(shape, dtype=dtype), tmp_path / "m.onnx")
    assert "pooling" not in report.passes


def test_pooling_of_channels_last_images_stays_simple(tmp_path: Path) -> None:
    class Last(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            image = x.permute(0, 3, 1, 2)
            one = nn.functional.adaptive_avg_pool2d(image, output_size=(1, 1))
            return (
                one,
                nn.functional.adaptive_avg_pool2d(image, 2),
                nn.functional.adaptive_avg_pool1d(x[0], 1),
            )

    report = export_onnx(Last(), torch.rand(2, 4, 4, 6), tmp_path / "m.onnx", output_names=["a", "b", "c"])
    kinds = {n.op_type for n in onnx.load(report.path).graph.node}
    assert "Range" not in kinds
    assert "GlobalAveragePool" in kinds
    assert report.max_error_random is not None
    assert report.max_error_random < FLOAT32


def test_outputs_that_prove_nothing_are_named(tmp_path: Path) -> None:
    module = nn.Linear(3, 4)
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
    (note,) = export_onnx(module, torch.rand(2, 3), tmp_path / "m.onnx").notes
    assert note == "output 'output' is zero on the example inputs: that it agrees proves nothing"


def test_large_weights_lie_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_stage, "_SINGLE_FILE_BYTES", 1000)
    module, inputs = _made("small")
    report = export_onnx(module, inputs, tmp_path / "m.onnx")
    assert re.fullmatch(r"m\.onnx\.[0-9a-f]{16}\.data", report.external_data)
    assert sorted(f.name for f in tmp_path.iterdir()) == sorted(["m.onnx", report.external_data])
    assert report.size_bytes == sum(f.stat().st_size for f in tmp_path.iterdir())
    assert parity(report.path, module, inputs) < FLOAT32


def test_a_graph_never_has_the_weights_of_another_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_stage, "_SINGLE_FILE_BYTES", 100)
    x, old, new = torch.rand(2, 8), nn.Linear(8, 6).eval(), nn.Linear(8, 6).eval()
    path = tmp_path / "m.onnx"
    first = export_onnx(old, x, path).external_data
    (tmp_path / "m.onnx.notes.data").write_text("the user's own")
    moved: list[str] = []
    real = Path.replace

    def killed(self: Path, target: Path) -> Path:
        # At each move the graph in sight is the old one with its own weights, or the new one with its own.
        assert parity(path, old, x) < FLOAT32
        moved.append(Path(target).name)
        return real(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        second = export_onnx(new, x, path).external_data
    assert moved == [second, "m.onnx"]
    assert second != first
    assert parity(path, new, x) < FLOAT32
    assert sorted(f.name for f in tmp_path.iterdir()) == sorted(["m.onnx", second, "m.onnx.notes.data"])
    assert export_onnx(new, x, path).external_data == second  # the same weights, the same name
    # Weights of a killed export, and those beside a large file that a small one replaces, go.
    (tmp_path / f"m.onnx.{'0' * 16}.data").write_text("of a killed export")
    monkeypatch.setattr(export_stage, "_SINGLE_FILE_BYTES", 10**6)
    assert export_onnx(new, x, path).external_data == ""
    assert sorted(f.name for f in tmp_path.iterdir()) == ["m.onnx", "m.onnx.notes.data"]


def test_weights_beside_under_their_former_name(tmp_path: Path) -> None:
    module, x = nn.Linear(8, 6).eval(), torch.rand(2, 8)
    export_onnx(module, x, tmp_path / "m.onnx")
    former = onnx.load(tmp_path / "m.onnx")
    onnx.save(
        former, tmp_path / "m.onnx", save_as_external_data=True, location="m.onnx.data", size_threshold=0
    )
    assert (tmp_path / "m.onnx.data").exists()
    export_onnx(module, x, tmp_path / "m.onnx")
    assert [f.name for f in tmp_path.iterdir()] == ["m.onnx"]
    (tmp_path / "m.onnx.data").write_text("not the graph's")
    export_onnx(module, x, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx.data").exists()


# --- refusals ----------------------------------------------------------------------------------


class _Untranslatable(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x + 1
        return torch.special.bessel_j0(y)


class _Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def test_an_operator_onnx_lacks(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"ONNX has no translation of prims\.bessel_j0") as caught:
        export_onnx(_Untranslatable(), torch.rand(2, 3), tmp_path / "m.onnx")
    assert caught.value.op == "prims.bessel_j0.default"
    assert "bessel_j0" in caught.value.node
    assert re.match(r"test_export\.py:\d+ in forward", caught.value.source)
    assert caught.value.__cause__ is not None
    assert list(tmp_path.iterdir()) == []


def test_data_dependent_control_flow(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExportError, match=r"torch\.export refused the model: GuardOnDataDependent") as caught:
        export_onnx(_Branching(), torch.rand(2, 3), tmp_path / "m.onnx")
    assert re.match(r"test_export\.py:\d+ in forward", caught.value.source)
    assert "torch.where" in caught.value.advice
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


class _NoTensor(nn.Module):
    def forward(self, x: torch.Tensor) -> int:
        return x.shape[0]


@pytest.mark.parametrize(
    ("module", "inputs", "options", "says"),
    [
        (nn.Linear(3, 4), torch.rand(2, 5), {}, "does not run on the example inputs"),
        (nn.Linear(3, 4), (), {}, "hold no tensor"),
        (nn.Linear(3, 4), {"x": 3}, {}, "hold no tensor"),
        ("model.pt", torch.rand(2, 3), {}, r"expected a torch\.nn\.Module, got str"),
        (nn.Linear(3, 4, device="meta"), torch.rand(2, 3), {}, "meta device"),
        (_NoTensor(), torch.rand(2, 3), {}, "returns no tensor"),
        (nn.Linear(3, 4), torch.rand(2, 3), {"input_names": ["a", "b"]}, "2 input names for 1 input tensors"),
        (nn.Linear(3, 4), torch.rand(2, 3), {"output_names": []}, "0 output names for 1 output"),
        (nn.Linear(3, 4), torch.rand(2, 3), {"input_names": "x"}, "lists of names"),
        (nn.Linear(3, 4), torch.rand(2, 3), {"input_names": ["y"], "output_names": ["y"]}, "repeat: y, y"),
    ],
)
def test_bad_input(
    module: nn.Module, inputs: ExampleInputs, options: dict[str, list[str]], says: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=says) as caught:
        export_onnx(module, inputs, tmp_path / "m.onnx", **options)
    assert caught.value.advice
    assert list(tmp_path.iterdir()) == []


def test_unwritable_output_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> ExportReport:
        raise AssertionError("the work was done first")

    monkeypatch.setattr(export_stage, "capture", never)
    with pytest.raises(ExportError, match=r"folder .* does not exist"):
        export_onnx(*_made("small"), tmp_path / "none" / "m.onnx")


def test_disk_full_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(model: ir.Model, path: Path, data: str) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_stage, "_write", full)
    with pytest.raises(ExportError, match=r"m\.onnx cannot be written: No space left on device"):
        export_onnx(nn.Linear(3, 4), torch.rand(2, 3), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


# --- names, types, counters ---------------------------------------------------------------------


class _Collides(nn.Module):
    """Tensors of the model under the names of an input and of the output, and a counter that runs in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 3)
        self.register_buffer("mask", torch.rand(3))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.output = nn.Parameter(torch.rand(3))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.a(x) * (self.mask + mask) + self.output


def test_names_of_the_model_may_be_those_of_inputs_and_outputs(tmp_path: Path) -> None:
    module = _Collides()
    report = export_onnx(module, (torch.rand(2, 6), torch.rand(2, 3)), tmp_path / "m.onnx")
    assert [p.name for p in (*report.inputs, *report.outputs)] == ["x", "mask", "output"]
    assert report.max_error_random is not None
    assert report.max_error_random < FLOAT32
    names = {i.name for i in onnx.load(str(report.path)).graph.initializer}
    assert {"module.mask", "module.output"} <= names
    assert int(module.calls) == 0, "the user's counter stands where it stood"


def test_the_tolerance_goes_with_the_type(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.GELU()) for _ in range(4))).half()
    x = torch.randn(2, 64).half()
    report = export_onnx(module, x, tmp_path / "m.onnx")
    assert report.max_error_random is not None
    assert report.max_error_random < 8 * torch.finfo(torch.float16).eps
    with pytest.raises(ExportError, match="more than the tolerance 1e-07"):
        export_onnx(module, x, tmp_path / "m.onnx", tolerance=1e-7)


def test_bfloat16_is_refused_with_what_to_do(tmp_path: Path) -> None:
    for layers in ([nn.Linear(8, 4)], [nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 3, 1)]):
        net, x = nn.Sequential(*layers).bfloat16().eval(), torch.randn(2, 8).bfloat16()
        with pytest.raises(ExportError, match=r"in bfloat16, which onnxruntime does not(?s:.*)\.float\(\)"):
            export_onnx(net, x, tmp_path / "m.onnx")
        assert not list(tmp_path.iterdir())
        assert export_onnx(net.float(), x.float(), tmp_path / "m.onnx").opset == 20
        (tmp_path / "m.onnx").unlink()
