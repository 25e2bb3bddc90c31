"""Parameters and multiply-accumulates of an ONNX file.

Counted: the elements of weights with more than one element, floating-point ones and quantised ones (their scales and zero
points are no weights); the multiply-accumulates of convolutions and products of matrices, quantised or not, for one sample.
Not counted: biases' additions, recurrent cells, and everything inside If, Loop and Scan.  Exporters fold batch
normalisation into convolutions, so there are fewer parameters than in the module.

Shapes are inferred; where a file computes them from its inputs in a way that cannot be, onnxruntime is asked in one run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, shape_inference

from fxprune.errors import ExportError
from fxprune.support.reading import regular_file, shown, usable
from fxprune.support.words import headline

__all__ = ["MODEL_NAME", "OnnxCost", "count", "data_files", "model_name"]

MODEL_NAME = "fxprune.model"
"""Key of the metadata under which a file says of which class its model is."""

Shape = tuple[int, ...]

_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
# Bits of an element, of the types that are stored as raw bytes in practice.
_BITS: dict[int, int] = {
    TensorProto.DOUBLE: 64,
    TensorProto.INT64: 64,
    TensorProto.UINT64: 64,
    TensorProto.FLOAT: 32,
    TensorProto.INT32: 32,
    TensorProto.UINT32: 32,
    TensorProto.FLOAT16: 16,
    TensorProto.BFLOAT16: 16,
    TensorProto.INT16: 16,
    TensorProto.UINT16: 16,
    TensorProto.INT8: 8,
    TensorProto.UINT8: 8,
    TensorProto.BOOL: 8,
}
_UNCOUNTED = frozenset(
    [
        "Attention",
        "Einsum",
        "GRU",
        "If",
        "LSTM",
        "Loop",
        "MultiHeadAttention",
        "RNN",
        "Scan",
    ]
)
_NARROW = (
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.INT4,
    TensorProto.UINT4,
    TensorProto.FLOAT8E4M3FN,
    TensorProto.FLOAT8E5M2,
)
# Inputs of quantised operators that are scales and zero points.
_SCALING: Mapping[str, tuple[int, ...]] = {
    "ConvInteger": (2, 3),
    "DequantizeLinear": (1, 2),
    "DynamicQuantizeLSTM": (8, 9, 10, 11),
    "DynamicQuantizeMatMul": (2, 3),
    "MatMulInteger": (2, 3),
    "MatMulIntegerToFloat": (2, 3, 4, 5),
    "MatMulNBits": (2, 3),
    "QGemm": (1, 2, 4, 5, 7, 8),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QuantizeLinear": (1, 2),
}
# Inputs that are biases in int32, as sums of products of int8 are.
_BIASES: Mapping[str, int] = {"DequantizeLinear": 0, "QGemm": 6, "QLinearConv": 8}
_SHAPE_ELEMENTS = 1024  # constants up to this size may be shapes, which inference computes with


@dataclass(frozen=True)
class OnnxCost:
    """What was counted in a file.

    Attributes:
        params: Elements of weights.
        macs: Multiply-accumulates for one sample, or None where a shape is not known.
        note: What was not counted, or why there is no figure.
    """

    params: int
    macs: int | None
    note: str = ""


def count(
    path: str | Path,
    shapes: Mapping[str, Shape],
    samples: int,
    *,
    feeds: Mapping[str, npt.NDArray[np.generic]] | None = None,
) -> OnnxCost:
    """Count the weights and the work of an ONNX file.

    Args:
        path: The file.
        shapes: Shape of every input.
        samples: The batch size in these shapes.
        feeds: The inputs themselves; with them it is run once if shapes cannot be inferred.

    Raises:
        ExportError: The file is missing or no ONNX model.
    """
    model = _load(path)
    params = _params(model.graph)
    kinds = sorted({node.op_type for node in model.graph.node} & _UNCOUNTED)
    note = f"not counted: {', '.join(kinds)}" if kinds else ""
    try:
        known = _infer(model, shapes)
        if feeds is not None:
            known |= _measured(path, feeds, _missing(model.graph, known))
        total = sum(_MACS[node.op_type](node, known) for node in model.graph.node if node.op_type in _MACS)
    except KeyError as error:
        return OnnxCost(params, None, f"no MACs: the shape of {error} is not known")
    except Exception as error:  # noqa: BLE001 - inference says in many ways that a graph makes no sense
        return OnnxCost(params, None, f"no MACs: {headline(error)}")
    return OnnxCost(params, total // max(samples, 1), note)


def _params(graph: onnx.GraphProto) -> int:
    """Elements of weights."""
    scaling, biases = (
        {node.input[at] for node in graph.node for at in of(node) if at < len(node.input)}
        for of in (
            lambda node: _SCALING.get(node.op_type, ()),
            lambda node: [_BIASES[node.op_type]] if node.op_type in _BIASES else (),
        )
    )
    packed = {
        node.input[1]: _attribute(node, "K") * _attribute(node, "N")
        for node in graph.node
        if node.op_type == "MatMulNBits"
    }
    total = 0
    for weight in graph.initializer:
        narrow = weight.data_type in _NARROW or (
            weight.data_type == TensorProto.INT32 and weight.name in biases
        )
        if (narrow or weight.data_type in _FLOATS) and weight.name not in scaling:
            size = packed.get(weight.name, prod(weight.dims))
            total += size if size > 1 else 0
    return total


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), 0)


def _missing(graph: onnx.GraphProto, known: Mapping[str, Shape]) -> tuple[str, ...]:
    """Values that operators which are counted read or make, and whose shape is not known."""
    counted = [node for node in graph.node if node.op_type in _MACS]
    names = dict.fromkeys(name for node in counted for name in (*node.input, node.output[0]) if name)
    return tuple(name for name in names if name not in known)


def _measured(
    path: str | Path, feeds: Mapping[str, npt.NDArray[np.generic]], names: Sequence[str]
) -> dict[str, Shape]:
    """Shapes of values in a run, which gives them out in place of the values."""
    if not names:
        return {}
    model = _load(path)
    del model.graph.output[:]
    outs = [f"{name}/shape" for name in names]
    for name, out in zip(names, outs, strict=True):
        model.graph.node.append(helper.make_node("Shape", [name], [out]))
        model.graph.output.append(helper.make_tensor_value_info(out, TensorProto.INT64, None))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    # Weights in a file beside the graph, which has no place of its own here.
    folder = str(usable(path).resolve().parent)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    shapes = session.run(outs, dict(feeds))
    return {name: tuple(map(int, np.asarray(shape))) for name, shape in zip(names, shapes, strict=True)}


def model_name(path: str | Path) -> str:
    """The class of the model that a file was made of; empty if it does not say so.

    Raises:
        ExportError: The file is missing or no ONNX model.
    """
    return next((str(entry.value) for entry in _load(path).metadata_props if entry.key == MODEL_NAME), "")


def data_files(path: str | Path) -> tuple[Path, ...]:
    """The file and those beside it that hold its weights.

    Raises:
        ExportError: The file is missing or no ONNX model.
    """
    folder = usable(path).parent
    weights = _load(path).graph.initializer
    return (
        usable(path),
        *(_beside(folder, name, path) for name in sorted(set(map(_location, weights)) - {""})),
    )


def _beside(folder: Path, name: str, path: str | Path) -> Path:
    """A file of weights, which must lie in the model's own folder."""
    file = usable(folder / name, error=ExportError)
    if not file.resolve().is_relative_to(folder.resolve()):
        raise ExportError(
            f"{shown(path)} keeps weights outside its folder: {shown(name)}", advice="export it again"
        )
    return regular_file(file, error=ExportError, advice="copy it beside the ONNX file")


def _location(weight: TensorProto) -> str:
    """Name of the file that holds a weight, empty if it is the model's own."""
    return next((str(entry.value) for entry in weight.external_data if entry.key == "location"), "")


def _load(path: str | Path) -> onnx.ModelProto:
    target = regular_file(path, error=ExportError, advice="check the path; fxprune export writes ONNX files")
    try:
        model = onnx.load(str(target), load_external_data=False)
    except Exception as error:
        raise ExportError(
            f"{shown(path)} is not a readable ONNX file: {type(error).__name__}", advice="export it again"
        ) from error
    try:
        for weight in model.graph.initializer:
            _check_size(weight, path)
        _ = [(node.op_type, *node.input, *node.output) for node in model.graph.node]
    except UnicodeDecodeError as error:
        raise ExportError(
            f"{shown(path)} is damaged: a name in it is not UTF-8", advice="export it again"
        ) from error
    return model


def _check_size(weight: TensorProto, path: str | Path) -> None:
    """Refuse a weight whose bytes are not those of its shape."""
    known = _BITS.get(weight.data_type)
    held = weight.HasField("raw_data") and known is not None
    needed = -(-prod(weight.dims) * (known or 0) // 8)
    if min(weight.dims, default=0) < 0 or (held and len(weight.raw_data) != needed):
        raise ExportError(
            f"{shown(path)} is damaged: {len(weight.raw_data)} bytes for a weight of shape {list(weight.dims)}",
            tensor=weight.name,
            advice="export it again",
        )


def _infer(model: onnx.ModelProto, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Static shapes of all values, for the given inputs."""
    graph = model.graph
    known: dict[str, Shape] = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    for weight in graph.initializer:
        if prod(weight.dims) > _SHAPE_ELEMENTS:
            weight.ClearField("raw_data")  # inference copies the model, and needs no large weights
    for value in graph.input:
        if value.name in shapes:
            _set_shape(value, shapes[value.name])
    # What the exporter noted is about any batch; what is inferred now is about this one.
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            known[value.name] = tuple(dim.dim_value for dim in dims)
    return known


def _set_shape(value: onnx.ValueInfoProto, shape: Sequence[int]) -> None:
    dims = value.type.tensor_type.shape
    del dims.dim[:]
    for size in shape:
        dims.dim.add().dim_value = size


def _conv(node: onnx.NodeProto, known: Mapping[str, Shape]) -> int:
    return prod(known[node.output[0]]) * prod(known[node.input[1]][1:])  # weight: out, in / groups, *kernel


def _quantised_conv(node: onnx.NodeProto, known: Mapping[str, Shape]) -> int:
    return prod(known[node.output[0]]) * prod(
        known[node.input[3]][1:]
    )  # input, scale and zero point come first


def _conv_transpose(node: onnx.NodeProto, known: Mapping[str, Shape]) -> int:
    return prod(known[node.input[0]]) * prod(known[node.input[1]][1:])  # weight: in, out / groups, *kernel


def _gemm(node: onnx.NodeProto, known: Mapping[str, Shape]) -> int:
    return prod(known[node.output[0]]) * known[node.input[0]][0 if _attribute(node, "transA") else 1]


def _matmul(node: onnx.NodeProto, known: Mapping[str, Shape]) -> int:
    return prod(known[node.output[0]]) * known[node.input[0]][-2 if _attribute(node, "transA") else -1]


_MACS: Mapping[str, Callable[[onnx.NodeProto, Mapping[str, Shape]], int]] = {
    "Conv": _conv,
    "ConvInteger": _conv,
    "ConvTranspose": _conv_transpose,
    "DynamicQuantizeMatMul": _matmul,
    "FusedConv": _conv,
    "FusedGemm": _gemm,
    "FusedMatMul": _matmul,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "MatMulIntegerToFloat": _matmul,
    "MatMulNBits": _matmul,
    "QGemm": _gemm,
    "QLinearConv": _quantised_conv,
    "QLinearMatMul": _matmul,
}
