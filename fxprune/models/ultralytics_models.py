"""``ultralytics:yolo11n.yaml``: a network that comes with ultralytics, with new weights."""

from __future__ import annotations

from pathlib import Path

import torch

from fxprune.errors import FxpruneError
from fxprune.models.factories import called, needed
from fxprune.models.specs import Loaded, Spec

__all__ = ["from_ultralytics"]

_SIDE = 640  # pixels, of ultralytics' own models


def from_ultralytics(spec: Spec) -> Loaded:
    """A network by the name of its configuration.

    A configuration of one's own, and a ``.pt`` file, are refused: ultralytics evaluates text in the one and unpickles the
    other, so that both can run code.

    Raises:
        FxpruneError: ultralytics is not there; no such network, or no such argument.
    """
    if not spec.name.endswith(".yaml") or Path(spec.name).name != spec.name or Path(spec.name).exists():
        raise FxpruneError(
            f"'{spec.name}' is not the name of a network that comes with ultralytics",
            advice="write ultralytics:yolo11n.yaml; for a network or weights of your own write a factory file, "
            "def make(): return ultralytics.YOLO('mine.pt').model, and pass file.py:make",
        )
    package = needed("ultralytics", spec.text)
    found = called(
        lambda: package.YOLO(spec.name, verbose=False),
        {},
        f"ultralytics' {spec.name}",
        advice="see ultralytics/cfg/models for the names there are",
    )
    network = found.model  # type: ignore[attr-defined]
    if spec.arguments:
        kind = type(network)
        network = called(
            lambda **arguments: kind(network.yaml, verbose=False, **arguments),
            spec.arguments,
            f"ultralytics' {spec.name}",
            of=kind,
            hidden=("cfg", "verbose"),
        )
    channels = network.yaml.get("channels", 3)
    inputs = (torch.rand(1, channels, _SIDE, _SIDE, generator=torch.Generator().manual_seed(0)),)
    return Loaded(network, spec.text, inputs, arguments=spec.arguments)
