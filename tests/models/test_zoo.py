"""Names of models from the sources of the zoos are those that the zoos themselves list."""

from __future__ import annotations

import pytest
from torchvision import models

from fxprune.errors import FxpruneError
from fxprune.models import zoo


def test_torchvision_lists_the_same() -> None:
    assert list(zoo.names("torchvision")) == sorted(models.list_models())


def test_timm_lists_the_same() -> None:
    timm = pytest.importorskip("timm")
    assert set(zoo.names("timm")) == set(timm.list_models())


def test_names_that_are_there_and_not() -> None:
    for spec in ("torchvision:resnet18", "torchvision:resnet18@pretrained", "timm:anything", "a.b:resnet19"):
        zoo.check_name(spec)
    with pytest.raises(FxpruneError, match="torchvision has no model 'resnet19'") as caught:
        zoo.check_name("torchvision:resnet19@DEFAULT")
    assert "'resnet18'" in caught.value.advice
    assert zoo.names("nowhere_to_be_found") == ()
