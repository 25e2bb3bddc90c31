"""``hf:FOLDER``: a model as Hugging Face's ``save_pretrained`` writes it.  Nothing is downloaded, no code of the folder is run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fxprune.errors import FxpruneError
from fxprune.models.factories import needed, one_line
from fxprune.models.specs import Loaded, Spec
from fxprune.support.reading import MIB, read_text, shown
from fxprune.support.words import near

__all__ = ["from_hugging_face"]

_LARGEST = 16 * MIB  # of config.json
_TOKENS, _SEED = 16, 0
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def from_hugging_face(spec: Spec) -> Loaded:
    """A folder with ``config.json``, and with ``model.safetensors`` for trained weights.

    Arguments replace values of the configuration.  A cache of keys and values is switched off, if no argument says
    otherwise: one forward pass needs none, and torch.export takes no cache among the outputs.

    Raises:
        FxpruneError: transformers is not there, the folder holds no such model, or it cannot be made.
    """
    folder = Path(spec.name).expanduser()
    if not (folder / "config.json").is_file():
        raise FxpruneError(
            f"{shown(spec.name)} is no folder with a config.json",
            advice="pass a folder that save_pretrained wrote; nothing is downloaded by name",
        )
    kind = _kind_in(folder)
    trained = any((folder / name).is_file() for name in _WEIGHTS)
    if not trained and any((folder / name).is_file() for name in _PICKLED):
        raise FxpruneError(
            f"the weights in {shown(spec.name)} are pickled, and reading them can run code",
            advice="write them with model.save_pretrained(folder), which makes model.safetensors",
        )
    transformers = needed("transformers", spec.text)
    config, notes = _configured(transformers, folder, spec)
    made = getattr(transformers, kind, None) if kind else transformers.AutoModel
    if made is None:
        raise FxpruneError(
            f"transformers has no model '{kind}', which {shown(spec.name)} is of",
            advice="install a newer transformers; a model whose code lies in the folder needs a factory file that makes it",
        )
    try:
        model = _filled(made, folder, config) if trained else _fresh(made, config)
    except FxpruneError:
        raise
    except Exception as error:  # transformers raises many kinds
        raise FxpruneError(
            f"transformers could not make the model in {shown(spec.name)}: {one_line(error)}",
            advice="check that config.json and the weights belong together",
        ) from error
    return Loaded(model, spec.text, _inputs(model, config), trained, spec.arguments, notes)


def _kind_in(folder: Path) -> str:
    """The model's class, as its configuration names it; empty if it does not."""
    try:
        config = json.loads(read_text(folder / "config.json", limit=_LARGEST, advice="pass a whole folder"))
    except ValueError as error:
        raise FxpruneError(
            f"{shown(folder / 'config.json')} is no JSON: {error}", advice="copy the folder again"
        ) from error
    kinds = config.get("architectures") if isinstance(config, Mapping) else None
    first = kinds[0] if isinstance(kinds, list) and kinds else ""
    return first if isinstance(first, str) and first.isidentifier() else ""


def _configured(transformers: Any, folder: Path, spec: Spec) -> tuple[Any, tuple[str, ...]]:
    try:
        config, unused = transformers.AutoConfig.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            return_unused_kwargs=True,
            **spec.arguments,
        )
    except Exception as error:  # transformers raises many kinds
        raise FxpruneError(
            f"transformers cannot read the configuration in {shown(spec.name)}: {one_line(error)}",
            advice="install a newer transformers; code that lies in the folder is never run: "
            "write a factory file that makes such a model",
        ) from error
    names = sorted(config.to_dict())
    for name in unused:
        some = f"it takes {', '.join(names)}"
        raise FxpruneError(
            f"the configuration in {shown(spec.name)} takes no argument '{name}'",
            advice=near(name, names, otherwise=some),
        )
    if getattr(config, "use_cache", False) and "use_cache" not in spec.arguments:
        config.use_cache = False
        return config, ("the cache of keys and values is off (?use_cache=true keeps it)",)
    return config, ()


def _fresh(made: Any, config: Any) -> nn.Module:
    model: nn.Module = made.from_config(config) if hasattr(made, "from_config") else made(config)
    return model


def _filled(made: Any, folder: Path, config: Any) -> nn.Module:
    model: nn.Module
    model, told = made.from_pretrained(
        folder, config=config, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    for what in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        names = sorted(str(name) for name in told.get(what, ()))
        if names:
            more = f" and {len(names) - 1} more" * (len(names) > 1)
            raise FxpruneError(
                f"the weights in {shown(folder)} do not fit its configuration: {what.replace('_', ' ')}: {names[0]}{more}",
                tensor=names[0],
                advice="a file that fits in part belongs to another model: save the folder again",
            )
    return model


def _inputs(model: nn.Module, config: Any) -> dict[str, object] | None:
    """What the model is called with, where its configuration tells enough."""
    random = torch.Generator().manual_seed(_SEED)
    main = getattr(model, "main_input_name", "")
    text = getattr(config, "text_config", config)
    words = getattr(text, "vocab_size", None)
    size = getattr(config, "image_size", None)
    if main == "input_ids" and isinstance(words, int):
        ids = torch.randint(words, (1, _TOKENS), generator=random)
        more = {"decoder_input_ids": ids.clone()} if getattr(config, "is_encoder_decoder", False) else {}
        return {"input_ids": ids, **more}
    if main == "pixel_values" and (isinstance(size, int) or size is None):
        shape = (1, getattr(config, "num_channels", 3), size or 224, size or 224)
        floats = next(model.parameters()).dtype
        return {"pixel_values": torch.randn(shape, generator=random).to(floats)}
    return None
