"""What is wrong with arguments, said before torch is loaded: that takes seconds, and a slip of the pen should not.

Whatever is checked here is checked again where it is used; nothing in this module may load torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["check_inputs", "check_model", "check_plan", "check_samples", "check_there", "check_writable"]


def check_model(spec: str, weights: Path | None = None, inputs: Sequence[str] | None = None) -> None:
    """Refuse a MODEL, ``--weights`` and ``--input`` that name what is not there.

    Raises:
        FxpruneError: A file is missing, a text of ``--input`` says nothing, or a zoo has no such model.
    """
    from fxprune.models.zoo import check_name
    from fxprune.support.reading import regular_file

    source = spec.rpartition(":")[0]
    if spec.endswith(".pt2") or source.endswith(".py"):
        regular_file(source if source.endswith(".py") else spec, advice="check the path in MODEL")
    check_name(spec)
    check_there(weights)
    check_inputs(inputs)


def check_inputs(texts: Sequence[str] | None) -> None:
    """Refuse what ``--input`` cannot mean.

    Raises:
        FxpruneError: A text says nothing, or a file is missing.
    """
    from fxprune.models.input_texts import check_specs

    if texts:
        check_specs(texts)


def check_there(*files: Path | None) -> None:
    """Refuse files that are missing or cannot be read.

    Raises:
        FxpruneError: The first of them.
    """
    from fxprune.support.reading import regular_file

    for file in files:
        if file is not None:
            regular_file(file)


def check_plan(path: Path) -> None:
    """Refuse a plan that is missing or cannot be read; what weights hold is looked at later.

    Raises:
        FxpruneError: There is no plan.
    """
    from fxprune.planning.reading import read_plan

    if path.suffix == ".safetensors":
        check_there(path)
    else:
        read_plan(path)


def check_samples(path: Path | None) -> None:
    """Refuse a ``--calibrate`` that is neither a file nor a folder.

    Raises:
        FxpruneError: There is nothing of this name.
    """
    if path is not None and not path.is_dir():
        check_there(path)


def check_writable(path: Path | None) -> None:
    """Refuse a file that cannot be written.

    Raises:
        FxpruneError: No such folder, or no permission.
    """
    from fxprune.support.files import check_writable as check

    if path is not None:
        check(path)
