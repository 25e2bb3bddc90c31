"""Fuzz every reader of the package with damaged files and texts of every kind it reads.

    python tools/fuzz_readers.py --count 1000000

Each input is a valid file with seeded damage: flipped bits, cut, doubled and foreign pieces, numbers that are too
large, values of another type, members of an archive changed and packed again.  Allowed is that it is read, or
refused with an ``FxpruneError`` (or typer's, for values of the command line); anything else is a finding.  A reader
runs in a child process with a bound on memory and a clock, so that a crash or a hang is a finding, too.  Input
number ``n`` of a reader is the same on every run; a run goes on where the last one stopped.  The table is written
to ``tools/results/FUZZ.md``, inputs that were findings to ``out/fuzz``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
import typer
from onnx import TensorProto, helper
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from fxprune.cli import values
from fxprune.errors import FxpruneError
from fxprune.models.inputs import example_inputs, labelled_batches
from fxprune.models.loading import Loaded, load_model
from fxprune.models.weights import load_weights
from fxprune.onnx.cost import count, data_files
from fxprune.onnx.session import open_session
from fxprune.planning.reading import read_plan
from fxprune.plans import Cost, Plan
from fxprune.slimming.slim import FORMAT
from fxprune.slimming.slim import _read as _read_slim
from fxprune.support.tensors import write_tensors
from fxprune.training import checkpoint
from fxprune.training.data.images import open_file, read_npz
from fxprune.training.recipe.file import read_recipe
from fxprune.training.record import Record, read_record

ROOT = Path(__file__).resolve().parents[1]
MEMORY = 4 << 30  # bytes that a child may ask for beyond what it begins with
SECONDS = 20  # for one input
BLOCK = 2000  # inputs a child

Bytes = Callable[[random.Random, bytes], bytes]


@dataclass(frozen=True)
class Reader:
    """What is fuzzed.

    Attributes:
        name: In the table.
        valid: An undamaged input.
        read: The reader, told the path of a file.
        suffix: Of the file.
        share: How many of all inputs it gets, relative to the others; fast readers get more.
    """

    name: str
    valid: bytes
    read: Callable[[Path], object]
    suffix: str = ""
    share: float = 1.0


class Hang(BaseException):
    """Nothing may catch it."""


# --- valid inputs ------------------------------------------------------------------------------


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Linear(2, 2)).eval()


def _without_digest(plan: bytes) -> bytes:
    data = json.loads(plan)
    del data["digest"]
    return json.dumps(data).encode()


def _plan() -> Plan:
    cost = Cost(params=100, macs=1000)
    return Plan(kept={("0.weight", 0): (0, 2)}, predicted=cost, dense=cost, fingerprint="0" * 16)


def _record() -> Record:
    cost = Cost(params=100, macs=1000)
    return Record(
        name="small",
        recipe={"model": "a:b", "sparse": {"epochs": 2, "lr": 0.1}},
        accuracy={"dense": 0.9, "finetuned": 0.8},
        evaluated_on="test",
        dense=cost,
        slim=cost,
        decided=0.5,
        epochs={"sparse": 2, "finetune": 1},
        seconds={"sparse": 1.5},
        method={"strength": 1.0},
        latency_ms={"dense": 1.0, "slim": 0.5},
        bench=None,
        machine={"cpu": "x", "cores": 2},
        device="cpu",
        proof="equal",
        notes=("a note",),
    )


def _checkpoint() -> bytes:
    model = _net()
    running = checkpoint.Running(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    model(torch.randn(2, 1, 3, 3)).sum().backward()
    running.optimizer.step()
    tensors, split = running.tensors()
    facts = {
        "phase": 1,
        "step": 2,
        "steps": 5,
        "tensors": checkpoint._forms(tensors),
        "recipe": {"seed": 0},
        "ledger": {
            "accuracy": {},
            "seconds": {},
            "method": {},
            "decided": None,
            "proof": "",
            "notes": [],
            "resumed": 0,
        },
        "split": split,
        "optimizer": running.numbers(),
        "random": [{"python": [3], "numpy": ["MT19937"], "torch": [1, 2, 3], "cuda": None}],
        "strided": [],
    }
    texts = {
        "format": checkpoint.FORMAT,
        "version": str(checkpoint.VERSION),
        "facts": json.dumps(facts),
    }
    return _file(lambda path: write_tensors(path, tensors, texts))


def _file(write: Callable[[Path], object], suffix: str = "") -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"valid{suffix}"
        write(path)
        return path.read_bytes()


def _pt(value: object) -> bytes:
    made = io.BytesIO()
    torch.save(value, made)
    return made.getvalue()


def _npz(*, packed: bool = False, **arrays: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bytes:
    made = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(made, allow_pickle=False, **arrays)
    return made.getvalue()


def _onnx() -> bytes:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 4]) for name in "xy"]
    weights = [
        helper.make_tensor("w", TensorProto.FLOAT, [4, 4], np.ones(16, np.float32).tobytes(), raw=True),
        helper.make_tensor("c", TensorProto.FLOAT, [4], [1.0, 2.0, 3.0, 4.0]),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["h", "c"], ["k"]),
        helper.make_node("Relu", ["k"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


_RECIPE = """model: torchvision:resnet18
data: &d {source: digits, augment: {crop: 1, flip: true}}
method: {name: ssr, lam: 0.5}
budget: {macs: 0.5}
epochs: 4
sparse: {epochs: 40 %, lr: 0.05, milestones: [0.5, 0.75]}
finetune: {epochs: 2, distill: {weight: 0.5}}
plan: {align: 1, protect: [fc*]}
"""
_INPUT = b"x=1x3x8x8:float32:0.5..2"
_VALUE = b"layer1.*=0.75"


# --- readers -----------------------------------------------------------------------------------


def _weights(path: Path) -> None:
    load_weights(_NET, path)


def _slim(path: Path) -> None:
    _read_slim(path)


def _saved(path: Path) -> None:
    checkpoint.read_checkpoint(path.rename(path.with_name("1-000000002.safetensors")))


def _onnx_file(path: Path) -> None:
    count(path, {"x": (1, 4)}, 1)
    data_files(path)
    open_session(path)


def _images(path: Path) -> None:
    try:
        read_npz([path])
    except ValueError as error:  # as it says; open_data names the recipe's line
        raise FxpruneError(str(error)) from error


def _text(path: Path) -> str:
    return os.fsdecode(path.read_bytes())


def _input(path: Path) -> None:
    # No tensors of gigabytes: how large one may be is the machine's business.
    text = _text(path)
    sizes = text.split("=")[-1].split(":")[0].replace(",", "x").split("x")
    if sum(len(size) for size in sizes if size.isdecimal()) < 7:
        example_inputs(_LOADED, [text])


def _values(path: Path) -> None:
    text = _text(path)
    with contextlib.suppress(typer.BadParameter):
        values.parse_align(text)
    with contextlib.suppress(typer.BadParameter):
        values.parse_ratios([text])
    with contextlib.suppress(typer.BadParameter):
        values.parse_files([text, text])


def _program(path: Path) -> None:
    load_model(str(path))
    raise AssertionError("a program was read without the flag")


def _changed(path: Path) -> None:
    read_recipe(_RECIPE_FILE, [_text(path)])


_NET = _net()
_LOADED = Loaded(nn.Identity(), "x")
_RECIPE_FILE = Path(tempfile.gettempdir()) / f"fxprune-fuzz-{os.getpid()}.yaml"


def readers() -> tuple[Reader, ...]:
    """All of them, with a valid input each."""
    state = {name: tensor.clone() for name, tensor in _NET.state_dict().items()}
    facts = {"format": FORMAT, "kind": "module", "plan": _plan().to_json()}
    images = np.zeros((4, 3, 3), np.uint8)
    picture = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(picture, "png")
    plan = _plan().to_json().encode()
    return (
        Reader("plan (JSON, digest)", plan, read_plan, ".json", 3),
        Reader("plan (JSON, no digest)", _without_digest(plan), read_plan, ".json", 4),
        Reader(
            "slim model (safetensors, digest)",
            _file(lambda p: write_tensors(p, state, facts)),
            _slim,
            ".safetensors",
            3,
        ),
        Reader(
            "slim model (no digest)",
            _file(lambda p: save_file(state, p, facts)),
            _slim,
            ".safetensors",
            3,
        ),
        Reader("weights (safetensors)", _file(lambda p: save_file(state, p)), _weights, ".safetensors", 2),
        Reader("weights (torch.save)", _pt(state), _weights, ".pt", 0.5),
        Reader(
            "weights (torch.save, old format)",
            _file(lambda p: torch.save(state, p, _use_new_zipfile_serialization=False)),
            _weights,
            ".pth",
            0.5,
        ),
        Reader("checkpoint", _checkpoint(), _saved, "", 2),
        Reader("record (JSON)", _record().to_json().encode(), read_record, ".json", 3),
        Reader("recipe (YAML)", _RECIPE.encode(), read_recipe, ".yaml", 0.12),
        Reader("--set", b"sparse.lr=0.1", _changed, "", 0.08),
        Reader("--data (npz)", _npz(x=images, y=np.arange(4)), labelled_batches, ".npz", 2),
        Reader(
            "images (npz)",
            _npz(images=images, labels=np.arange(4), packed=True),
            _images,
            ".npz",
            2,
        ),
        Reader("--input (npz)", _npz(x=images), lambda p: example_inputs(_LOADED, [str(p)]), ".npz", 2),
        Reader(
            "--input (npy)",
            _file(lambda p: np.save(p, images), ".npy"),
            lambda p: example_inputs(_LOADED, [str(p)]),
            ".npy",
            2,
        ),
        Reader(
            "--input (torch.save)",
            _pt((torch.zeros(2, 3), {"a": torch.ones(2)})),
            lambda p: example_inputs(_LOADED, [str(p)]),
            ".pt",
            1.5,
        ),
        Reader("--input (text)", _INPUT, _input, "", 6),
        Reader("--align, --ratio, files (text)", _VALUE, _values, "", 9),
        Reader("image (png)", picture.getvalue(), lambda p: open_file([p], 0, mode="RGB"), ".png", 2),
        Reader("ONNX", _onnx(), _onnx_file, ".onnx", 1),
        Reader("program (pt2)", _pt(state), _program, ".pt2", 4),
    )


# --- damage ------------------------------------------------------------------------------------

_VALUES: tuple[object, ...] = (
    *(None, True, -1, 0, 1.5, 2**31, 2**63, -(2**70), 10**400, 1e308, float("inf"), float("nan")),
    *("", "0", "00", "\0", "\x1b[31m", "\ud800", "x" * 300, "~nobody/x", "../..", [], {}, [[]], {"a": None}),
)
_TEXTS = (
    *(
        b"\x00",
        b"\xff",
        b"\xed\xa0\x80",
        b"9" * 5000,
        b"1e999",
        b"NaN",
        b"-",
        b"~",
        b"*a",
        b"&a ",
        b"!!int x",
    ),
    *(
        b"!!python/object/apply:os.getcwd []",
        b"[" * 200,
        b"{" * 50,
        b"\n",
        b"\t",
        b"\x1b[2J",
        b"=",
        b":",
        b"..",
    ),
    *(b"<<: *d", b"\xef\xbb\xbf", b"\x80\x04", b"PK\x03\x04", b"%", b"#", b"'", b'"'),
)


def _flip(draw: random.Random, data: bytes) -> bytes:
    made = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8))):
        if made:
            made[draw.randrange(len(made))] ^= 1 << draw.randrange(8)
    return bytes(made)


def _cut(draw: random.Random, data: bytes) -> bytes:
    a, b = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    return data[:a] + data[b:] if draw.random() < 0.5 else data[:a]


def _double(draw: random.Random, data: bytes) -> bytes:
    a, b = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    return data[:b] + data[a:b][:4096] + data[b:]


def _insert(draw: random.Random, data: bytes) -> bytes:
    at = draw.randrange(len(data) + 1)
    piece = draw.choice(_TEXTS) if draw.random() < 0.8 else draw.randbytes(draw.randrange(1, 9))
    return data[:at] + piece + data[at + draw.choice((0, len(piece))) :]


def _numbers(draw: random.Random, data: bytes) -> bytes:
    """One run of digits becomes another number."""
    digits = [i for i, c in enumerate(data) if 48 <= c <= 57]
    if not digits:
        return _flip(draw, data)
    a = b = draw.choice(digits)
    while b < len(data) and 48 <= data[b] <= 57:
        b += 1
    new = draw.choice((b"0", b"-1", b"99999999999999999999", b"1e9", b"007", b"2147483648", b"3.9"))
    return data[:a] + new + data[b:]


def _hurt(draw: random.Random, value: object) -> object:
    """One value somewhere inside becomes another."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        kind = draw.random()
        if kind < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if kind < 0.2:
            return {**value, str(draw.choice(_VALUES)): 1}
        return {**value, key: _hurt(draw, value[key])}
    if isinstance(value, list) and value and draw.random() < 0.9:
        at = draw.randrange(len(value))
        return [*value[:at], _hurt(draw, value[at]), *value[at + 1 :]]
    return draw.choice(_VALUES)


def _json(draw: random.Random, data: bytes) -> bytes:
    """Values of JSON, or of the header of a safetensors file."""
    size = int.from_bytes(data[:8], "little")
    inside = data[8:9] == b"{" and size < len(data)
    try:
        value = json.loads(data[8 : 8 + size] if inside else data)
        if inside and draw.random() < 0.5 and "facts" in value.get("__metadata__", {}):
            facts = json.loads(value["__metadata__"]["facts"])
            value["__metadata__"]["facts"] = json.dumps(_hurt(draw, facts))
            text = json.dumps(value)
        else:
            text = json.dumps(_hurt(draw, value))
    except (ValueError, AttributeError, TypeError, RecursionError):
        return _insert(draw, data)
    made = text.encode("utf-8", "surrogatepass")
    return len(made).to_bytes(8, "little") + made + data[8 + size :] if inside else made


def _packed(draw: random.Random, data: bytes) -> bytes:
    """One member of an archive is damaged, and the archive is whole again."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
    except Exception:  # noqa: BLE001 - no archive, or not any more
        return _flip(draw, data)
    if not parts:
        return data
    made, hit = io.BytesIO(), draw.choice(list(parts))
    kind = zipfile.ZIP_DEFLATED if draw.random() < 0.3 else zipfile.ZIP_STORED
    with warnings.catch_warnings(), zipfile.ZipFile(made, "w", kind) as archive:
        warnings.simplefilter("ignore", UserWarning)
        for name, part in parts.items():
            archive.writestr(name, draw.choice(_DAMAGE[:5])(draw, part) if name == hit else part)
        if draw.random() < 0.1:
            archive.writestr(draw.choice((hit, hit.upper(), "x.npy", "../up")), parts[hit])
    return made.getvalue()


def _protobuf(draw: random.Random, data: bytes) -> bytes:
    """An ONNX graph that is well-formed and makes no sense; any other file is cut."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
        graph, kind = model.graph, draw.randrange(6)
        if kind == 0 and graph.initializer:
            draw.choice(graph.initializer).dims.append(draw.choice((0, -1, 2, 2**40)))
        elif kind == 1 and graph.initializer:
            draw.choice(graph.initializer).raw_data = draw.randbytes(draw.randrange(20))
        elif kind == 2 and graph.node:
            draw.choice(graph.node).op_type = draw.choice(("Conv", "Gemm", "Loop", "Reshape", "Einsum", ""))
        elif kind == 3 and graph.node:
            draw.choice(graph.node).input.append(draw.choice(("x", "w", "y", "", "none")))
        elif kind == 4 and graph.initializer:
            draw.choice(graph.initializer).data_type = draw.randrange(25)
        elif graph.initializer:
            weight = draw.choice(graph.initializer)
            weight.data_location = TensorProto.EXTERNAL
            weight.external_data.add(key="location", value=draw.choice(("/dev/zero", "../x", "\0", "", "y")))
        return bytes(model.SerializeToString())
    except Exception:  # noqa: BLE001 - no such graph, or not any more
        return _cut(draw, data)


_DAMAGE: tuple[Bytes, ...] = (
    _flip,
    _cut,
    _double,
    _insert,
    _numbers,
    _json,
    _json,
    _packed,
    _packed,
    _protobuf,
)


def damaged(reader: Reader, seed: int, number: int) -> bytes:
    """Input number so and so of a reader, the same on every run."""
    draw = random.Random(f"{seed} {reader.name} {number}")
    data = reader.valid
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        data = draw.choice(_DAMAGE)(draw, data)
    return data


# --- running -----------------------------------------------------------------------------------


def judge(reader: Reader, data: bytes, folder: Path) -> str:
    """``read``, ``refused``, or what else a reader did."""
    path = folder / f"input{reader.suffix}"
    path.write_bytes(data)
    try:
        reader.read(path)
        return "read"
    except FxpruneError as error:
        try:
            str(error).encode()
        except UnicodeEncodeError:
            return "an error that cannot be printed"
        return "refused"
    except Hang:
        return f"hang: {SECONDS} s"
    except BaseException as error:  # noqa: BLE001 - everything else is a finding
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    finally:
        for left in folder.iterdir():
            left.unlink()


def _alarm(_number: int, _frame: object) -> None:
    raise Hang


def _child(reader: Reader, seed: int, numbers: range, write: int) -> None:
    """Judge a block and report one line each; the last one begun is known if it crashes."""
    signal.signal(signal.SIGALRM, _alarm)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)  # onnxruntime and PIL complain to the terminal
    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    found: dict[int, str] = {}
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        for number in numbers:
            os.pwrite(write, str(number).ljust(20).encode(), 0)
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            verdict = judge(reader, damaged(reader, seed, number), Path(folder))
            signal.setitimer(signal.ITIMER_REAL, 0)
            counts[verdict if verdict in ("read", "refused") else "found"] += 1
            if verdict not in ("read", "refused"):
                found[number] = verdict
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    os.pwrite(write, json.dumps({"counts": counts, "found": found, "peak_mib": peak}).encode(), 20)


def block(reader: Reader, seed: int, numbers: range) -> tuple[Counter[str], dict[int, str], float]:
    """Judge a block in a child; inputs after one that kills it are judged by another."""
    with tempfile.TemporaryFile() as file:
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                _child(reader, seed, numbers, file.fileno())
                os._exit(0)
            os._exit(1)
        _, status = os.waitpid(child, 0)
        said = os.pread(file.fileno(), 1 << 24, 0)
    if os.WIFEXITED(status) and len(said) > 20:
        told = json.loads(said[20:])
        return Counter(told["counts"]), {int(n): text for n, text in told["found"].items()}, told["peak_mib"]
    last = int(said[:20] or numbers.start)
    crash = {last: f"the process died: status {status}"}
    before = block(reader, seed, range(numbers.start, last)) if last > numbers.start else (Counter(), {}, 0.0)
    after = block(reader, seed, range(last + 1, numbers.stop)) if last + 1 < numbers.stop else before[:0]
    counts, found, peak = before
    counts = counts + Counter({"found": 1})
    if after:
        counts, found, peak = counts + after[0], {**found, **after[1]}, max(peak, after[2])
    return counts, {**found, **crash}, peak


def work(count_of: Mapping[str, int], state: dict[str, dict[str, float]], seed: int) -> Iterator[str]:
    """Judge what is left, block by block, all readers in turn."""
    known = {reader.name: reader for reader in readers()}
    while True:
        left = [name for name, total in count_of.items() if state[name]["done"] < total]
        if not left:
            return
        for name in left:
            begun, row = time.monotonic(), state[name]
            first = int(row["done"])
            numbers = range(first, min(first + BLOCK, count_of[name]))
            counts, found, peak = block(known[name], seed, numbers)
            for kind in ("read", "refused", "found"):
                row[kind] += counts[kind]
            row["done"] = numbers.stop
            row["seconds"] += time.monotonic() - begun
            row["peak_mib"] = max(row["peak_mib"], peak)
            for number, verdict in found.items():
                folder = ROOT / "out" / "fuzz"
                folder.mkdir(parents=True, exist_ok=True)
                slug = "".join(c if c.isalnum() else "-" for c in name)
                (folder / f"{slug}-{number}").write_bytes(damaged(known[name], seed, number))
                yield f"{name} {number}: {verdict}"
        yield ""


def table(state: Mapping[str, Mapping[str, float]], seed: int, found: list[str]) -> str:
    """The result for people."""
    total = sum(int(row["done"]) for row in state.values())
    lines = [
        "# Every reader, fuzzed",
        "",
        f"`python tools/fuzz_readers.py --seed {seed}`: {total:,} damaged inputs. Allowed is that an input is read, or "
        "refused with an `FxpruneError`; anything else (another exception, a crash, more than "
        f"{SECONDS} s, more than {MEMORY >> 30} GiB) is a finding.",
        "",
        "| reader | inputs | refused | read | found | ms an input | peak MiB of the process |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in state.items():
        done = max(int(row["done"]), 1)
        lines.append(
            f"| {name} | {int(row['done']):,} | {int(row['refused']):,} | {int(row['read']):,} | "
            f"{int(row['found']):,} | {1000 * row['seconds'] / done:.2f} | {row['peak_mib']:.0f} |"
        )
    lines.append(
        f"| all | {total:,} | {sum(int(r['refused']) for r in state.values()):,} | "
        f"{sum(int(r['read']) for r in state.values()):,} | {sum(int(r['found']) for r in state.values()):,} | | |"
    )
    lines += ["", "The process holds torch and onnxruntime, some 500 MiB, before it reads anything."]
    lines += ["", "Found:", "", *(f"* {text}" for text in found)] if found else []
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000, help="inputs, over all readers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="readers whose name holds this")
    parser.add_argument("--state", type=Path, default=ROOT / "out" / "fuzz.json", help="where a run goes on")
    parser.add_argument("--out", type=Path, default=ROOT / "tools" / "results" / "FUZZ.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    _RECIPE_FILE.write_text(_RECIPE, encoding="utf-8")
    chosen = [reader for reader in readers() if given.only in reader.name]
    whole = sum(reader.share for reader in chosen)
    count_of = {reader.name: round(given.count * reader.share / whole) for reader in chosen}
    zero = {"done": 0.0, "read": 0.0, "refused": 0.0, "found": 0.0, "seconds": 0.0, "peak_mib": 0.0}
    saved = json.loads(given.state.read_text()) if given.state.exists() else {"seed": given.seed, "rows": {}}
    state = {name: saved["rows"].get(name, dict(zero)) for name in count_of}
    found: list[str] = saved.get("found", [])
    given.state.parent.mkdir(parents=True, exist_ok=True)
    for said in work(count_of, state, given.seed):
        if said:
            found.append(said)
            print(said, flush=True)
        given.state.write_text(json.dumps({"seed": given.seed, "rows": state, "found": found}))
        given.out.write_text(table(state, given.seed, found[:50]), encoding="utf-8")
    _RECIPE_FILE.unlink()
    print(table(state, given.seed, found[:50]))
    return int(any(row["found"] for row in state.values()))


if __name__ == "__main__":
    sys.exit(main())
