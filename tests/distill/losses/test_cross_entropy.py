from __future__ import annotations

import math

import pytest
import torch

from niwaki.distill.losses.cross_entropy import CrossEntropy
from niwaki.spaces.errors import InputError


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_it_is_the_sum_written_out(smoothing: float) -> None:
    logits = torch.tensor([[1.0, 2.0, -1.0], [0.5, 0.0, 3.0]])
    target = torch.tensor([1, 0])
    expected = 0.0
    for row, label in zip(logits.tolist(), target.tolist(), strict=True):
        total = sum(math.exp(z) for z in row)
        for index, z in enumerate(row):
            share = smoothing / 3 + (1 - smoothing) * (index == label)
            expected -= share * math.log(math.exp(z) / total) / 2
    found = CrossEntropy(smoothing).loss(logits, None, target)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_smoothing_out_of_range() -> None:
    with pytest.raises(InputError, match=r"label_smoothing -0\.1"):
        CrossEntropy(-0.1)
