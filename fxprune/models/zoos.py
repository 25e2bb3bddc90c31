"""Zoos of vision models: torchvision's and timm's, with published weights where they are asked for."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from torch import nn

from fxprune.errors import FxpruneError
from fxprune.models.factories import called, needed, parameters
from fxprune.models.specs import Loaded, Spec
from fxprune.support.words import near

__all__ = ["from_timm", "from_torchvision"]

_OWN_HEAD = "published weights have a head of their own size: leave out @, and pass the file of weights with --weights"


def from_torchvision(spec: Spec) -> Loaded:
    """Any model that torchvision registers; ``NAME@DEFAULT`` has its published weights.

    Raises:
        FxpruneError: No such model, weights or argument, or it cannot be made.
    """
    from torchvision import models

    name, _, weights = spec.name.partition("@")
    known = models.list_models()
    if name not in known:
        raise FxpruneError(
            f"torchvision has no model '{name}'", advice=near(name, known, otherwise="check the spelling")
        )
    builder = models.get_model_builder(name)
    # A fresh detector or segmenter would still download its backbone's weights.
    backbone = {"weights_backbone": None} if "weights_backbone" in parameters(builder)[0] else {}
    chosen = _torchvision_weights(name, weights) if weights else None

    def make(**arguments: object) -> nn.Module:
        model: nn.Module = models.get_model(
            name, weights=chosen, **(backbone if chosen is None else {}), **arguments
        )
        return model

    with warnings.catch_warnings():  # two old networks announce how they initialise
        warnings.simplefilter("ignore", FutureWarning)
        model = called(
            _told_of_downloads(make, f"{name}@{weights}") if weights else make,
            spec.arguments,
            f"torchvision's {name}",
            of=builder,
            hidden=("weights", "weights_backbone", "progress"),
            advice=_OWN_HEAD if weights else "check the arguments against torchvision's documentation",
        )
    assert isinstance(model, nn.Module)
    return Loaded(model, spec.text, pretrained=bool(weights), arguments=spec.arguments)


def _torchvision_weights(name: str, weights: str) -> object:
    from torchvision import models

    offered = models.get_model_weights(name)
    wanted = "DEFAULT" if weights.lower() == "pretrained" else weights
    if wanted not in offered.__members__:
        raise FxpruneError(
            f"torchvision's {name} has no weights '{weights}'",
            advice=f"choose from {', '.join(offered.__members__)}",
        )
    return offered[wanted]


def _told_of_downloads(make: Callable[..., nn.Module], what: str) -> Callable[..., nn.Module]:
    def told(**arguments: object) -> nn.Module:
        try:
            return make(**arguments)
        except OSError as error:
            raise FxpruneError(
                f"the weights {what} could not be downloaded: {error}",
                advice="check the network, or download the file yourself and pass it with --weights",
            ) from error

    return told


def from_timm(spec: Spec) -> Loaded:
    """Any model of timm, if that is installed; ``NAME@pretrained`` has its published weights.

    Raises:
        FxpruneError: timm is not there; no such model, weights or argument, or it cannot be made.
    """
    timm = needed("timm", spec.text)
    name, _, weights = spec.name.partition("@")
    if weights not in {"", "pretrained"}:
        raise FxpruneError(
            f"unknown weights '{weights}' in '{spec.text}'", advice=f"write timm:{name}@pretrained"
        )
    if not timm.is_model(name):
        raise FxpruneError(
            f"timm has no model '{name}'",
            advice=near(name, timm.list_models(), otherwise="check the spelling"),
        )

    def make(**arguments: object) -> nn.Module:
        model: nn.Module = timm.create_model(name, pretrained=bool(weights), **arguments)
        return model

    model = called(
        make,
        spec.arguments,
        f"timm's {name}",
        of=timm.model_entrypoint(name),
        hidden=("pretrained",),
        advice="check the network, or leave out @pretrained and pass --weights FILE"
        if weights
        else "check the arguments against timm's documentation",
    )
    assert isinstance(model, nn.Module)
    return Loaded(model, spec.text, pretrained=bool(weights), arguments=spec.arguments)
