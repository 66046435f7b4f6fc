from __future__ import annotations

import pytest
import torch
from torch import nn

from niwaki.distill.ema import Average


def test_the_average_follows_its_formula() -> None:
    model = nn.BatchNorm1d(1)
    values, expected = [3.0, -1.0, 4.0, 1.0, 5.0], 1.0  # a normaliser's weight starts at 1
    average = Average(model, 0.3)
    for step, value in enumerate(values):
        nn.init.constant_(model.weight, value)
        model.num_batches_tracked.fill_(step)
        average.update(model)
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    average.copy_to(model)
    assert model.weight.item() == pytest.approx(expected)
    assert int(model.num_batches_tracked) == 4


def test_masked_zeros_stay_zero() -> None:
    model = nn.Linear(4, 1)
    with torch.no_grad():
        model.weight[0, :2] = 0
    average = Average(model, 0.9)
    for _ in range(5):
        with torch.no_grad():
            model.weight[0, 2:] += torch.randn(2)
        average.update(model)
    average.copy_to(model)
    assert model.weight[0, :2].tolist() == [0.0, 0.0]
    assert model.weight[0, 2:].all()
