"""What ``--out`` may replace: an earlier result of the same model. Anything else only with ``--force``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from fxprune.errors import FxpruneError

__all__ = ["refuse"]

Kind = Literal["plan", "weights", "onnx", "target"]


def refuse(path: Path | None, kind: Kind, mine: str = "", *, force: bool = False) -> None:
    """Refuse to replace what is of another kind (trained weights, say), or belongs to another model.

    Args:
        path: The file to write; None if there will be none.
        kind: What will be written.
        mine: Whose it will be: the fingerprint of a plan's model, or the name of an ONNX file's class; empty while it is not
            known.
        force: Replace whatever is there.

    Raises:
        FxpruneError: It would be lost.
    """
    if path is None or force or not path.expanduser().is_file():
        return
    words, other, read = _KINDS[kind]
    its = read(path.expanduser())
    advice = "choose another name, or pass --force to replace it"
    if its is None:
        raise FxpruneError(f"{path} is there already, and is not {words}", advice=advice)
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


_KINDS: Mapping[str, tuple[str, str, Callable[[Path], str | None]]] = {
    "plan": ("a plan", "made for another model", _plan),
    "weights": ("slim weights of fxprune", "of another model", _weights),
    "onnx": ("an ONNX file of fxprune", "of another model", _onnx),
    "target": ("a file of fxprune calibrate", "", _target),
}
"""What a file of each kind is called, what is said of another model's, and how it tells whose it is."""
