from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from niwaki.distill import Recipe
from niwaki.distill.losses.hinton import Hinton
from niwaki.spaces.errors import InputError


@given(steps=st.integers(1, 500), warmup=st.floats(0, 1))
def test_the_learning_rate_rises_then_falls(steps: int, warmup: float) -> None:
    recipe = Recipe(lr=0.3, warmup=warmup)
    rates = [recipe.lr_at(k, steps) for k in range(steps)]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.3)
    assert min(rates) > 0
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_without_warmup_it_is_torchs_cosine() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    recipe = Recipe(lr=0.2, warmup=0)
    for step in range(20):
        assert recipe.lr_at(step, 20) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


def test_scaled_changes_images_alone() -> None:
    recipe = Recipe(lr=0.1, ema=0.9)
    assert recipe.scaled(500) == dataclasses.replace(recipe, images=500)


def test_decay_leaves_out_biases_and_normalisers_on_request() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    model[0].weight.requires_grad_(False)
    for decay, expected in (("all", [(5, 5e-4)]), ("weights", [(1, 5e-4), (4, 0.0)])):
        optimizer = Recipe(decay=decay).build_optimizer(model)
        assert [(len(g["params"]), g["weight_decay"]) for g in optimizer.param_groups] == expected


def test_optimizers_by_name() -> None:
    model = nn.Linear(2, 2)
    assert Recipe().build_optimizer(model).defaults["nesterov"]
    assert not Recipe(momentum=0).build_optimizer(model).defaults["nesterov"]
    assert Recipe(optimizer="adamw", momentum=0.8).build_optimizer(model).defaults["betas"] == (0.8, 0.999)


def test_the_loss_takes_its_options_and_the_recipes_smoothing() -> None:
    recipe = Recipe(label_smoothing=0.1, loss_options={"alpha": 0.5, "temperature": "2"})
    assert recipe.build_loss() == Hinton(alpha=0.5, temperature=2.0, label_smoothing=0.1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lr": -1.0}, "train.lr: -1.0"),
        ({"lr": math.nan}, "train.lr: nan"),
        ({"batch_size": 1}, "train.batch_size: 1"),
        ({"images": 0}, "train.images: 0"),
        ({"ema": 1.0}, "train.ema"),
        ({"optimizer": "sdg"}, "train.optimizer: unknown value 'sdg'; did you mean 'sgd'"),
        ({"precision": "fp16"}, "train.precision: unknown value 'fp16'; did you mean"),
        ({"augment": "flipped"}, "train.augment: unknown augmentation 'flipped'"),
        ({"loss": "hintn"}, "unknown name 'hintn'; did you mean 'hinton'"),
        ({"loss_options": {"temprature": 3}}, "train.loss_options: unknown option 'temprature' = 3; did you mean"),
        ({"loss_options": {"alpha": 2.0}}, "alpha 2.0 is not between 0 and 1"),
    ],
)
def test_wrong_settings_name_the_key_and_the_nearest(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Recipe(**options)
