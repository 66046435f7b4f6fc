"""The public names, as DESIGN writes them."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys

import pytest
import torch
from torch import nn

import niwaki
from tests.zoo import build


def test_the_promise_of_the_front_page() -> None:
    model, x = build("residual_a")
    space = niwaki.derive(model, x)
    candidate = space.uniform(0.5)
    student = niwaki.carve(model, space, candidate)
    assert space.cost(candidate) == niwaki.count(student, x)
    assert isinstance(student, nn.Module)


def test_the_largest_weights_stay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    with torch.no_grad():
        model[0].weight.mul_(torch.tensor([1.0, 9, 1, 9, 1, 9, 1, 9])[:, None, None, None])
        model[2].weight.fill_(1.0)
    space = niwaki.derive(model, torch.zeros(2, 3, 4, 4))
    student = niwaki.carve(model, space, space.uniform(0.5))
    assert torch.equal(student[0].weight, model[0].weight[1::2])


def test_import_is_light() -> None:
    code = (
        "import sys, niwaki; print([m for m in ('ray', 'optuna', 'onnx', 'plotly', 'torchvision') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


def test_every_public_name_exists() -> None:
    assert all(hasattr(niwaki, name) for name in niwaki.__all__)
    with pytest.raises(AttributeError, match="no attribute 'prune'"):
        _ = niwaki.prune  # type: ignore[attr-defined]


MODULES = sorted(
    m.name
    for package in ("spaces", "search")
    for m in pkgutil.walk_packages(importlib.import_module(f"niwaki.{package}").__path__, f"niwaki.{package}.")
)


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0
