"""What ``--out`` may replace: an earlier result of the same model. Anything else only with ``--force``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from fxprune.errors import FxpruneError

__all__ = ["refuse_onnx", "refuse_plan", "refuse_target", "refuse_weights"]


def refuse_plan(path: Path | None, fingerprint: str = "", *, force: bool = False) -> None:
    """Refuse to replace what is no plan, or a plan for another model.

    Args:
        path: The file to write; None if there will be none.
        fingerprint: Of the model; empty while it is not known.
        force: Replace whatever is there.

    Raises:
        FxpruneError: It would be lost.
    """
    _refuse(path, _plan, "a plan", fingerprint, "made for another model", force)


def refuse_weights(path: Path, fingerprint: str = "", *, force: bool = False) -> None:
    """Refuse to replace weights that ``fxprune slim`` did not write, trained ones say, or those of another model.

    Args:
        path: As for ``refuse_plan``, like the others.
        fingerprint: Of the model.
        force: Replace whatever is there.

    Raises:
        FxpruneError: It would be lost.
    """
    _refuse(path, _weights, "slim weights of fxprune", fingerprint, "of another model", force)


def refuse_onnx(path: Path, model: str = "", *, force: bool = False) -> None:
    """Refuse to replace what ``fxprune export`` did not write, or the file of another model.

    Args:
        path: As for ``refuse_plan``.
        model: Name of the model's class; empty while it is not known.
        force: Replace whatever is there.

    Raises:
        FxpruneError: It would be lost.
    """
    _refuse(path, _onnx, "an ONNX file of fxprune", model, "of another model", force)


def refuse_target(path: Path, *, force: bool = False) -> None:
    """Refuse to replace what ``fxprune calibrate`` did not write.

    Args:
        path: As for ``refuse_plan``.
        force: Replace whatever is there.

    Raises:
        FxpruneError: It would be lost.
    """
    _refuse(path, _target, "a file of fxprune calibrate", "", "", force)


def _refuse(
    path: Path | None, read: Callable[[Path], str | None], kind: str, mine: str, other: str, force: bool
) -> None:
    if path is None or force or not path.expanduser().is_file():
        return
    its = read(path.expanduser())
    advice = "choose another name, or pass --force to replace it"
    if its is None:
        raise FxpruneError(f"{path} is there already, and is not {kind}", advice=advice)
    if mine and its != mine:
        raise FxpruneError(f"{path} is there already, {other}", advice=advice)


# --- whose a file is: None if it is not of the kind ------------------------------------------------


def _plan(path: Path) -> str | None:
    from fxprune.support.reading import json_object

    data = json_object(path)
    return str(data.get("fingerprint", "")) if data.get("format") == "fxprune-plan" else None


def _target(path: Path) -> str | None:
    from fxprune.support.reading import json_object

    return "" if json_object(path).get("format") == "fxprune-target" else None


def _weights(path: Path) -> str | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            said = dict(file.metadata() or {})
        plan = json.loads(said.get("plan", "{}"))
    except (OSError, ValueError, RecursionError, SafetensorError):
        return None
    return str(plan.get("fingerprint", "")) if said.get("format") == "fxprune" else None


def _onnx(path: Path) -> str | None:
    from fxprune.onnx.cost import model_name

    try:
        return model_name(path) or None
    except FxpruneError:
        return None
