"""onnxruntime on the CPU: sessions with stated options, inputs checked before they are run.

Options of every session, unless a `Setting` says otherwise: CPUExecutionProvider, all graph optimisations; sequential execution,
``threads`` threads inside an operator and one across operators, and threads that stop spinning
when a run ends (else the idle threads of one session would slow the next one down).
"""

from __future__ import annotations

import platform
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import psutil
import torch
from torch import nn

from fxprune.errors import ExportError
from fxprune.models.calls import Call
from fxprune.onnx.memory_probe import provider_list, session_options
from fxprune.onnx.settings import Setting
from fxprune.support.reading import regular_file

__all__ = [
    "RUN_LIMIT_S",
    "SESSION_OPTIONS",
    "Array",
    "Machine",
    "OnnxModel",
    "Port",
    "Session",
    "machine",
    "open_session",
]

Array = npt.NDArray[np.generic]

RUN_LIMIT_S = 60.0
"""Seconds that one run may take unless the caller allows more."""

SESSION_OPTIONS = (
    "CPUExecutionProvider, all graph optimisations, sequential, threads stop spinning after a run"
)

DEFAULT = Setting()

# "[ONNXRuntimeError] : 1 : FAIL : " in front, and "/onnxruntime_src/model.cc:256 Model(...) " inside.
_CODE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |/\S*onnxruntime_src/\S+:\d+ .*\) (?=\S)")
_DTYPES: Mapping[str, str] = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16",
    "tensor(bool)": "bool",
    **{f"tensor({kind}{bits})": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}


@dataclass(frozen=True)
class Port:
    """An input or output of an ONNX model.

    Attributes:
        name: Its name.
        dtype: ``"float32"``, ``"int64"``, …
        shape: Sizes; a name where any size will do, and equal sizes for equal names.

    Example:
        >>> print(Port("x", "float32", ("batch", 3, 224, 224)))
        x: float32[batch, 3, 224, 224]
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, eq=False)
class Session:
    """A loaded ONNX model.

    Attributes:
        path: The file, as named in errors.
        inputs: What it takes.
        outputs: What it gives.
    """

    path: Path
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    handle: ort.InferenceSession

    def run(self, feeds: Mapping[str, Array], *, limit_s: float = RUN_LIMIT_S) -> list[Array]:
        """Run the model.

        Args:
            feeds: One array per input, as `feeds` makes them.
            limit_s: Seconds after which it is stopped: a loop in a file may have no end.

        Raises:
            ExportError: onnxruntime stopped, or had to be stopped.
        """
        options, over = ort.RunOptions(), threading.Event()

        def stop() -> None:
            over.set()
            options.terminate = True

        clock = threading.Timer(limit_s, stop)
        clock.daemon = True
        clock.start()
        try:
            return list(self.handle.run(None, dict(feeds), options))
        except Exception as error:
            if over.is_set():
                raise ExportError(
                    f"one run of {self.path} did not end within {limit_s:g} s and was stopped",
                    advice="a loop in it may have no end; if it is only slow, allow it more (--limit, limit_s=)",
                ) from error
            raise ExportError(
                f"onnxruntime could not run {self.path}: {_reason(error, self.path, self.path)}",
                advice="export the model again with other example inputs or a fixed batch (dynamic_batch=False)",
            ) from error
        finally:
            clock.cancel()

    def feeds(self, call: Call) -> dict[str, Array]:
        """The tensors of a call as this model's inputs.

        Keyword arguments are matched by name where the model has inputs of these names, other
        tensors by their order.

        Raises:
            ExportError: Number, dtype or shape do not fit; the message says what is expected.
        """
        by_name = dict(zip(call.names(), call.tensors))
        names = [port.name for port in self.inputs]
        if call.kwargs and set(names) <= set(by_name):
            chosen = [by_name[name] for name in names]
        elif len(call.tensors) == len(names):
            chosen = list(call.tensors)
        else:
            raise self._unfit(f"{len(call.tensors)} tensors were given for {len(names)} inputs")
        sizes: dict[str, int] = {}
        for port, tensor in zip(self.inputs, chosen):
            if not _fits(port, tensor, sizes):
                given = f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
                raise self._unfit(f"'{port.name}' was given {given}")
        return {port.name: _array(tensor) for port, tensor in zip(self.inputs, chosen)}

    def _unfit(self, what: str) -> ExportError:
        expected = "; ".join(map(str, self.inputs))
        return ExportError(
            f"the inputs do not fit {self.path}: {what}",
            advice=f"it expects {expected}",
        )


@dataclass(frozen=True)
class Machine:
    """Where a measurement was made."""

    cpu: str
    cores: int
    logical_cores: int
    capability: str
    memory_gib: float
    system: str
    python: str
    torch: str
    onnxruntime: str


def open_session(
    path: str | Path, *, threads: int = 1, name: str | Path | None = None, setting: Setting = DEFAULT
) -> Session:
    """Load an ONNX file.

    Args:
        path: The file.
        threads: Threads inside an operator.
        name: What errors call the file, if not its path (a temporary one, say).
        setting: How far the graph is optimised, and whose kernels run.

    Raises:
        ExportError: The file is missing or corrupt, or onnxruntime cannot run what is in it, or not on that provider.
    """
    shown = Path(path if name is None else name)
    path = regular_file(path, error=ExportError, advice="check the path; fxprune export writes ONNX files")
    try:
        # Without its fallback, which prints on stdout and tries the same again.
        handle = ort.InferenceSession(
            str(path),
            session_options(threads, setting.level),
            providers=provider_list(setting.provider, threads),
            enable_fallback=0,
        )
        ports = _ports(handle.get_inputs()), _ports(handle.get_outputs())
    except Exception as error:
        raise ExportError(
            f"onnxruntime cannot load {shown}: {_reason(error, path, shown)}",
            advice="the file is not a whole ONNX model, or needs an operator or data type that "
            f"onnxruntime {ort.__version__} does not have on the CPU; export it again",
        ) from error
    if setting.provider not in handle.get_providers():  # it takes the CPU in its place, and says nothing
        raise ExportError(
            f"onnxruntime has {setting.provider} but could not start it",
            advice="its libraries are missing or do not fit; leave it out",
        )
    return Session(shown, *ports, handle)


class OnnxModel(nn.Module):
    """An ONNX file that is called like the torch model it was made of, so that a metric can be asked of it.

    Args:
        path: The file.
        threads: Threads inside an operator.

    Raises:
        ExportError: See ``open_session``.
    """

    def __init__(self, path: str | Path, *, threads: int = 1) -> None:
        super().__init__()
        self.session = open_session(path, threads=threads)

    def forward(self, *args: object, **kwargs: object) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """What the file makes of the tensors: one tensor, or as many as it has outputs."""
        call = Call(args, kwargs)
        results = tuple(torch.from_numpy(r) for r in self.session.run(self.session.feeds(call)))
        return results[0] if len(results) == 1 else results


def machine() -> Machine:
    """Facts about this machine, without its name or paths.

    Example:
        >>> machine().cores >= 1
        True
    """
    logical = psutil.cpu_count(logical=True) or 1
    return Machine(
        cpu=_cpu_name(),
        cores=psutil.cpu_count(logical=False) or logical,
        logical_cores=logical,
        capability=torch.backends.cpu.get_cpu_capability(),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        torch=str(torch.__version__),
        onnxruntime=ort.__version__,
    )


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown"


def _ports(args: Sequence[ort.NodeArg]) -> tuple[Port, ...]:
    # onnxruntime gives None for a dimension that has neither a size nor a name.
    return tuple(
        Port(arg.name, _DTYPES.get(arg.type, arg.type), tuple("?" if d is None else d for d in arg.shape))
        for arg in args
    )


def _fits(port: Port, tensor: torch.Tensor, sizes: dict[str, int]) -> bool:
    """Whether a tensor fits; sizes of named dimensions are noted, as a name means one size."""
    if port.dtype != str(tensor.dtype).removeprefix("torch.") or len(port.shape) != tensor.ndim:
        return False
    for expected, given in zip(port.shape, tensor.shape):
        wanted = (
            sizes.setdefault(expected, given) if isinstance(expected, str) and expected != "?" else expected
        )
        if wanted not in ("?", given):
            return False
    return True


def _array(tensor: torch.Tensor) -> Array:
    try:
        array: Array = tensor.detach().cpu().contiguous().numpy()
    except TypeError as error:  # bfloat16 has no numpy dtype
        raise ExportError(
            f"inputs of {tensor.dtype} cannot be given to onnxruntime",
            advice="export the model in float32: model.float()",
        ) from error
    return array


def _reason(error: BaseException, path: Path, shown: Path) -> str:
    """The first line of what onnxruntime says, without its codes, under the name the user knows."""
    text = str(error).strip().splitlines() or [type(error).__name__]
    return _CODE.sub("", text[0]).replace(str(path), shown.name)[:400]
