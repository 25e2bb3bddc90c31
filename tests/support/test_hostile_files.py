"""Files and names that are not what a reader hopes for: one clear error each, no hang, no memory."""

from __future__ import annotations

import contextlib
import os
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from fxprune.bench.benchmark import benchmark
from fxprune.errors import ExportError, FxpruneError, PlanError, RecipeError
from fxprune.models.inputs import example_inputs, labelled_batches
from fxprune.models.loading import Loaded, load_model
from fxprune.models.weights import load_pt, load_weights, read_metadata, read_weights
from fxprune.onnx.cost import count, data_files
from fxprune.onnx.session import open_session
from fxprune.pipeline import onnx_inputs
from fxprune.planning.reading import read_plan
from fxprune.slimming.slim import load
from fxprune.support.arrays import read_arrays
from fxprune.support.delivery import check_folder
from fxprune.support.reading import MIB, read_text, regular_file, shown
from fxprune.training.recipe.file import read_recipe
from fxprune.training.record import read_record


def _inputs(path: Path, suffix: str) -> object:
    return example_inputs(Loaded(nn.Identity(), "x"), [f"{path}{suffix}"])


READERS: dict[str, Callable[[Path], object]] = {
    "weights": read_weights,
    "torch.save": load_pt,
    "metadata": read_metadata,
    "slim": lambda path: load(nn.Linear(2, 2), path, torch.zeros(1, 2)),
    "fill": lambda path: load_weights(nn.Linear(2, 2), path),
    "plan": read_plan,
    "recipe": read_recipe,
    "record": read_record,
    "npz": read_arrays,
    "labels": labelled_batches,
    "inputs of npz": lambda path: _inputs(path, ".npz"),
    "inputs of pt": lambda path: _inputs(path, ".pt"),
    "program": lambda path: load_model(f"{path}.pt2", allow_pickle=True),
    "factory": lambda path: load_model(f"{path}.py:make"),
    "onnx": open_session,
    "onnx inputs": onnx_inputs,
    "onnx cost": lambda path: count(path, {}, 1),
    "onnx files": data_files,
}


def _pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _dangling(path: Path) -> Path:
    path.symlink_to(path.with_name("nowhere"))
    return path


PLACES: dict[str, Callable[[Path], Path]] = {
    "a device": lambda path: Path("/dev/zero"),
    "a pipe": _pipe,
    "a folder": lambda path: path.parent,
    "a dangling link": _dangling,
    "NUL": lambda path: Path(f"{path}\0x"),
    "300 letters": lambda path: path.with_name("x" * 300),
    "5000 letters": lambda path: Path("/".join(["x" * 200] * 25)),
    "nobody's home": lambda path: Path("~nobody-of-that-name/x"),
    "no UTF-8": lambda path: Path(os.fsdecode(b"caf\xe9")),
    "below a file": lambda path: Path(__file__) / "x",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("reader", READERS)
def test_only_regular_files_are_read(reader: str, place: str, tmp_path: Path) -> None:
    with pytest.raises(FxpruneError) as caught:
        READERS[reader](PLACES[place](tmp_path / "file"))
    str(caught.value).encode()  # it can be printed
    assert len(str(caught.value)) < 1000


def test_what_is_there_is_said(tmp_path: Path) -> None:
    for place, says in (
        ("a device", r"/dev/zero is not a regular file but a device"),
        ("a pipe", r"is not a regular file but a pipe"),
        ("a folder", r"is a folder"),
        ("a dangling link", r"is a link to a file that does not exist"),
        ("NUL", r"holds the character NUL"),
        ("300 letters", r"longer than 255 bytes"),
        ("nobody's home", r"there is no user 'nobody-of-that-name' with a home"),
        ("no UTF-8", r"its bytes are not UTF-8"),
    ):
        with pytest.raises(PlanError, match=says):
            regular_file(PLACES[place](tmp_path / place), error=PlanError)
    letters = tmp_path / ("\N{PARTY POPPER}" * 61)  # 244 bytes: a legal name
    letters.write_text("é")
    assert read_text(letters, limit=2) == "é"
    with pytest.raises(FxpruneError, match=r"has more than .* MiB"):
        read_text(letters, limit=1)
    assert shown("a\x1b[31m\ud800") == "a\\x1b[31m\\ud800"


def test_folders_to_write_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert check_folder("~/x") == tmp_path / "x"
    for place in ("NUL", "300 letters", "5000 letters", "nobody's home"):
        with pytest.raises(FxpruneError):
            check_folder(PLACES[place](tmp_path / "x"))


# --- archives --------------------------------------------------------------------------------


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _bomb(path: Path, name: str, head: bytes, size: int) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(name, "w") as member:
        member.write(head)
        for _ in range(size // MIB):
            member.write(bytes(MIB))


def _header(shape: tuple[int, ...]) -> bytes:
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def test_archives_that_unfold_to_a_thousand_times_their_size(tmp_path: Path) -> None:
    size = 130
    _bomb(tmp_path / "bomb.npz", "x.npy", _header((size * MIB,)), size * MIB)
    torch.save({"a": torch.zeros(3)}, tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data if not name.endswith("data/0") else bytes(100 * MIB))
    del parts, data
    made = _peak_mib()
    with pytest.raises(FxpruneError, match=r"would unfold to 130 MiB, more than 100 times its size"):
        read_arrays(tmp_path / "bomb.npz")
    with pytest.raises(FxpruneError, match=r"would unfold to 100 MiB"):
        load_pt(tmp_path / "bomb.pt")
    assert _peak_mib() - made < 60


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((10**12,), r"says it is uint8\[1000000000000\], but 4 bytes follow"),
        ((10**30, 10**30), "but 4 bytes follow"),
        ((-4, -1), "but 4 bytes follow"),
        ((3,), "but 4 bytes follow"),
        ((), "but 4 bytes follow"),
    ],
)
def test_arrays_that_lie_about_their_size(shape: tuple[int, ...], says: str, tmp_path: Path) -> None:
    for path in (tmp_path / "a.npy", tmp_path / "a.npz"):
        if path.suffix == ".npy":
            path.write_bytes(_header(shape) + bytes(4))
        else:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("x.npy", _header(shape) + bytes(4))
        with pytest.raises(FxpruneError, match=says):
            read_arrays(path)


def test_a_sparse_file_larger_than_the_memory(tmp_path: Path) -> None:
    size = 10**13
    with (tmp_path / "a.npy").open("wb") as file:
        file.write(_header((size,)))
        try:
            file.truncate(file.tell() + size)
        except OSError:
            pytest.skip("this file system has no files of ten terabytes")
    with pytest.raises(FxpruneError, match=r"would take .* MiB of memory, and .* are free"):
        read_arrays(tmp_path / "a.npy")


def test_names_that_stand_twice(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", _header((1,)) + b"1")
        archive.writestr("X.npy", _header((1,)) + b"2")
    with pytest.raises(FxpruneError, match=r"holds 'X\.npy' twice: what is read depends on the reader"):
        read_arrays(tmp_path / "a.npz")


def test_arrays_that_are_no_tensors(tmp_path: Path) -> None:
    for name, array, says in (
        ("objects", np.array([{}], object), "holds objects, not numbers"),
        ("texts", np.array(["a"]), "not numbers"),
        ("dates", np.array(["2020"], "datetime64[D]"), "not numbers"),
        ("records", np.zeros(2, [("a", int)]), "not numbers"),
    ):
        np.savez(tmp_path / name, x=array)
        with pytest.raises(FxpruneError, match=says):
            read_arrays(tmp_path / f"{name}.npz")


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=">i4").reshape(3, 4),
        np.asfortranarray(np.random.default_rng(0).random((2, 3, 4))),
        np.float32(3.5) * np.ones(()),
        np.zeros((0, 3), bool),
        np.array([1 + 2j], np.complex64),
    ],
)
def test_honest_arrays_are_read_as_numpy_reads_them(array: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "plain.npz", x=array)
    np.savez_compressed(tmp_path / "packed.npz", x=array)
    np.save(tmp_path / "one.npy", array)
    for name in ("plain.npz", "packed.npz", "one.npy"):
        read = read_arrays(tmp_path / name)["x"]
        assert read.dtype == array.dtype.newbyteorder("=") and read.shape == array.shape
        assert np.array_equal(read, array) and read.flags.writeable


def test_labels_without_samples(tmp_path: Path) -> None:
    for arrays, says in (
        ({"x": np.zeros((2, 3)), "y": np.array(1)}, "has no class numbers"),
        ({"x": np.array(1.0), "y": np.zeros(2, int)}, "differ in length"),
        ({"x": np.zeros((0, 3)), "y": np.zeros(0, int)}, "are empty"),
        ({"x": np.zeros((2, 3)), "y": np.array([0, -1])}, "below 0"),
    ):
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(FxpruneError, match=says):
            labelled_batches(tmp_path / "a.npz")


# --- ONNX ------------------------------------------------------------------------------------


def _onnx(path: Path, nodes: list[onnx.NodeProto], weights: list[TensorProto]) -> Path:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path


def _endless(path: Path) -> Path:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["v", "v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [1]),
        ],
    )
    loop = helper.make_node("Loop", ["", "true", "x"], ["y"], body=body)
    return _onnx(path, [loop], [helper.make_tensor("true", TensorProto.BOOL, [], [True])])


def test_a_loop_without_an_end_is_stopped(tmp_path: Path) -> None:
    path = _endless(tmp_path / "loop.onnx")
    session = open_session(path)
    with pytest.raises(ExportError, match=r"one run of .* did not end within 0\.5 s and was stopped"):
        session.run({"x": np.ones(1, np.float32)}, limit_s=0.5)
    with pytest.raises(ExportError, match=r"did not end within 0\.5 s"):
        benchmark({"loop": path}, torch.ones(1), limit_s=0.5, repeats=1)


@pytest.mark.parametrize(("dims", "size"), [([2], 4), ([-1], 4), ([2**40], 4), ([2**62, 4], 0), ([], 8)])
def test_weights_whose_bytes_are_not_their_shape(dims: list[int], size: int, tmp_path: Path) -> None:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(size))
    path = _onnx(tmp_path / "a.onnx", [helper.make_node("Add", ["x", "w"], ["y"])], [weight])
    with pytest.raises(ExportError, match=r"a\.onnx is damaged: \d bytes for a weight of shape"):
        count(path, {"x": (1,)}, 1)


@pytest.mark.parametrize("name", ["../outside.bin", "missing.bin", "/dev/zero"])
def test_weights_elsewhere(name: str, tmp_path: Path) -> None:
    (tmp_path / "outside.bin").write_bytes(bytes(4))
    (tmp_path / "in").mkdir()
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=name)
    path = tmp_path / "in" / "a.onnx"
    graph = helper.make_graph([], "g", [], [], [weight])
    path.write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(ExportError):
        data_files(path)


def test_graphs_that_make_no_sense_have_no_figure(tmp_path: Path) -> None:
    """Nodes without inputs or outputs, and a matrix product of scalars."""
    for number, node in enumerate(
        (
            helper.make_node("Conv", [], ["y"]),
            helper.make_node("Conv", ["x", "x"], []),
            helper.make_node("MatMul", ["x"], ["y"]),
            helper.make_node("Gemm", ["x", "x"], ["y"]),
        )
    ):
        path = _onnx(tmp_path / f"{number}.onnx", [node], [])
        assert count(path, {"x": ()}, 1).macs is None


# --- texts of a command line -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("9" * 5000, "too large to be a shape"),
        ("1x" * 100 + "1", "too large to be a shape"),
        ("99999999999999999999x3", "too large to be a shape"),
        ("999999999999999999", "GiB, and"),
        ("1000000x1000000x8", "GiB, and"),
        ("2:int8:0..300", "int8 does not hold this range"),
        ("2:uint8:-1..3", "uint8 does not hold this range"),
        ("2:int64:0..99999999999999999999", "int64 does not hold this range"),
        ("2:int64:0.5..3", "int64 does not hold this range"),
        ("2:float16:0..99999", "float16 does not hold this range"),
        ("2:float32:0.." + "9" * 400, "float32 does not hold this range"),
        ("2:bool:0..1", "truth values have no range"),
        ("2:float32:1.2.3..4", "the range is not low..high"),
        ("x=2\0", "is not a shape or a file"),
    ],
)
def test_shapes_no_tensor_has(spec: str, says: str) -> None:
    with pytest.raises(FxpruneError, match=says) as caught:
        example_inputs(Loaded(nn.Identity(), "x"), [spec])
    assert len(caught.value.what) < 500


def test_two_arguments_of_one_name() -> None:
    with pytest.raises(FxpruneError, match="two --input have one name"):
        example_inputs(Loaded(nn.Identity(), "x"), ["a=1", "a=2"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("sparse.epochs=.inf", "sparse.epochs"),
        ("sparse.epochs=999999999999999999999", "sparse.epochs"),
        ("sparse.epochs=" + "9" * 300 + " %", "more than all epochs"),
        ("data.train=", "data.train"),
        ("data.train=a\0b", "this is not YAML"),
        ("data.train=~nobody-of-that-name/x", "there is no user"),
        ("a." * 100 + "b=1", "no key is that deep"),
        ("seed=99999999999", "seed"),
        ("batch=0x", "batch"),
        ("method=[{name: []}]", "method"),
    ],
)
def test_values_no_recipe_takes(change: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "model: torchvision:resnet18\ndata: {source: npz, train: 'a*.npz', test: 'b*.npz'}\n"
        "budget: {macs: 0.5}\nepochs: 2\n"
    )
    with pytest.raises(RecipeError, match=says):
        read_recipe(tmp_path / "r.yaml", [change])


@pytest.mark.parametrize("old", [b"MatMul", b"xw", b"y"])
def test_onnx_names_that_are_no_utf8(old: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    node = helper.make_node("MatMul", ["x", "xw"], ["y"])
    weight = helper.make_tensor("xw", TensorProto.FLOAT, [1, 1], [1.0])
    path = _onnx(tmp_path / "a.onnx", [node], [weight])
    path.write_bytes(path.read_bytes().replace(old, old[:-1] + b"\xff"))
    for read in (open_session, data_files, lambda p: count(p, {"x": (1, 1)}, 1)):
        with contextlib.suppress(ExportError):  # nothing else may come
            read(path)
    assert capfd.readouterr().out == ""


def test_archives_of_several_disks(tmp_path: Path) -> None:
    """Python's reader refuses them before it has said whether they are archives."""
    torch.save({"a": torch.zeros(2)}, tmp_path / "w.pt")
    raw = bytearray((tmp_path / "w.pt").read_bytes())
    at = raw.rfind(b"PK\x06\x07")  # where the end of a large archive is looked for
    if at < 0:
        at = raw.rfind(b"PK\x05\x06")
        raw[at:at] = b"PK\x06\x07" + bytes(12) + (2).to_bytes(4, "little")
    else:
        raw[at + 16 : at + 20] = (2).to_bytes(4, "little")
    (tmp_path / "w.pt").write_bytes(raw)
    with pytest.raises(FxpruneError, match="damaged or not a weights file"):
        read_weights(tmp_path / "w.pt")
