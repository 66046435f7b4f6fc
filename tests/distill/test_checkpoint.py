"""A training that was stopped anywhere and goes on ends with the very weights of one that was not."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from niwaki.distill import Data, FitRun, Recipe, fit

RECIPE = Recipe(
    images=1_000, batch_size=10, lr=0.05, augment="crop_flip", loss="cross_entropy", precision="fp32",
    layout="contiguous",
)  # fmt: skip


class Kept:
    """A checkpoint in memory that is due every ``every``-th time it is asked."""

    def __init__(self, every: int = 1) -> None:
        self.state: dict[str, Tensor] | None = None
        self.every, self.asked = every, 0

    @property
    def due(self) -> bool:
        self.asked += 1
        return self.asked % self.every == 0

    def read(self) -> Mapping[str, Tensor] | None:
        return self.state

    def write(self, state: Mapping[str, Tensor]) -> None:
        self.state = {k: v.detach().cpu().clone() for k, v in state.items()}


def stopped(model: nn.Module, data: Data, recipe: Recipe, kept: Kept, at: int) -> None:
    """Train until after step ``at``."""
    steps: list[int] = []

    def stop() -> None:
        steps.append(1)
        if len(steps) == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(copy.deepcopy(model), data, recipe, FitRun(seed=3, after_step=stop, checkpoint=kept))


@pytest.mark.parametrize(
    "changes", [{}, {"optimizer": "adamw", "lr": 0.01}, {"ema": 0.9, "warmup": 0.2}, {"images": 997}],
    ids=["sgd", "adamw", "ema", "a tail"],
)  # fmt: skip
@pytest.mark.parametrize("at", [5, 16, 17, 70])
def test_the_same_end(data: Data, model: nn.Module, changes: dict[str, Any], at: int) -> None:
    recipe = dataclasses.replace(RECIPE, **changes)
    model = nn.Sequential(*model, nn.Dropout(0.2))  # draws from the global generator
    whole, kept = copy.deepcopy(model), Kept()
    expected = fit(whole, data, recipe, FitRun(seed=3))
    stopped(model, data, recipe, kept, at)
    assert (kept.state is None) == (at <= 16), "states are written where losses are looked at"
    result = fit(model, data, recipe, FitRun(seed=3, checkpoint=kept))
    for key, value in whole.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    assert (result.images, result.loss) == (expected.images, expected.loss)


def test_stopped_twice_and_rarely_written(data: Data, model: nn.Module) -> None:
    whole, kept = copy.deepcopy(model), Kept(every=2)
    fit(whole, data, RECIPE, FitRun(seed=3))
    for at in (40, 40):
        stopped(model, data, RECIPE, kept, at)
    assert kept.state is not None
    assert len(kept.state["losses"]) == 64
    fit(model, data, RECIPE, FitRun(seed=3, checkpoint=kept))
    assert all(torch.equal(v, whole.state_dict()[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("changes", [{"lr": 0.04}, {"images": 900}])
def test_the_state_of_another_training_is_passed_over(data: Data, model: nn.Module, changes: dict[str, Any]) -> None:
    recipe, kept, whole = dataclasses.replace(RECIPE, **changes), Kept(), copy.deepcopy(model)
    stopped(model, data, RECIPE, kept, 40)
    fit(whole, data, recipe, FitRun(seed=3))
    fit(model, data, recipe, FitRun(seed=3, checkpoint=kept))
    assert all(torch.equal(v, whole.state_dict()[k]) for k, v in model.state_dict().items())
