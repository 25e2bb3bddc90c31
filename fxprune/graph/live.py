"""Make an untrained model live: no zero-initialised heads, no trivial affine, calibrated batch norm."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fxprune.graph.trace import ExampleInputs, call_arguments

__all__ = ["live_value", "liven"]

NEGLIGIBLE = 1e-4
"""Largest entry of a tensor that takes no visible part in the result."""


def liven(model: nn.Module, example_inputs: ExampleInputs, *, seed: int = 0) -> nn.Module:
    """Give every parameter a value that matters and calibrate batch-norm statistics by one run.

    A freshly built network can hide mistakes: scales of one, biases of zero, heads of zero (a
    constant output equals any other).  Changes the model in place.

    Args:
        model: The model; its parameters are overwritten.
        example_inputs: As for ``fxprune.trace``.
        seed: Of the random values.

    Returns:
        The same model, in evaluation mode.
    """
    generator = torch.Generator().manual_seed(seed)
    args, kwargs = call_arguments(example_inputs)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(live_value(name, parameter, generator))
        _calibrate(model, args, kwargs)
    return model.eval()


def live_value(name: str, parameter: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """What a parameter is given so that it matters: the parameter itself where it does already."""
    noise = torch.randn(parameter.shape, generator=generator).to(parameter)
    if parameter.ndim <= 1:
        # Scales near one and small offsets keep deep networks in range.
        scale = name.endswith("weight") or "gamma" in name or "scale" in name
        return 1 + 0.2 * noise if scale else 0.1 * noise
    if parameter.numel() and float(parameter.abs().max()) < NEGLIGIBLE:
        # Heads of zero, and layer scales that hide a branch behind a millionth.
        line = parameter.squeeze()
        return noise * line[0].numel() ** -0.5 if line.ndim > 1 else 1 + 0.2 * noise
    return parameter


def _calibrate(model: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    """One forward pass that sets running statistics to those of the batch."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    if not norms:
        return
    momenta = [m.momentum for m in norms]
    model.eval()
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    try:
        model(*args, **kwargs)
    except ValueError:  # a batch of one value per channel has no variance: keep the statistics
        pass
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
