"""Every file in ``distill/sources`` is a source: a frozen dataclass with a docstring and ``read``."""

from __future__ import annotations

import dataclasses

import pytest

from niwaki.spaces import registry

PACKAGE = "niwaki.distill.sources"


@pytest.mark.parametrize("name", registry.names(PACKAGE))
def test_it_is_a_frozen_dataclass_that_reads(name: str) -> None:
    cls = registry.load(PACKAGE, name)
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    assert cls.__doc__
    assert callable(getattr(cls, "read", None))


def test_the_folder_holds_what_the_documentation_names() -> None:
    wanted = {"digits", "cifar10", "cifar100", "mnist", "fashion_mnist", "svhn", "image_folder", "npz", "python"}
    assert wanted <= set(registry.names(PACKAGE))
