from __future__ import annotations

import pytest
import torch

from niwaki.distill import DataSpec, FitRun, Recipe, accuracy, build, fit, load
from niwaki.distill.small_cnn import ResidualBlock, SmallCNN
from niwaki.spaces.errors import InputError


def test_three_stages_with_removable_blocks() -> None:
    model = SmallCNN(10, width=4, blocks=3)
    for stage, width in ((model.stage1, 4), (model.stage2, 8), (model.stage3, 16)):
        blocks = [m for m in stage if isinstance(m, ResidualBlock)]
        assert len(blocks) == 3
        x = torch.randn(2, width, 4, 4)
        assert all(b(x).shape == x.shape for b in blocks)


def test_it_learns_the_digits_in_seconds() -> None:
    torch.manual_seed(0)
    model, data = build("small_cnn", 10, {"width": 8}), load(DataSpec("digits"))
    recipe = Recipe(
        10_000, 64, lr=0.1, warmup=0.1, augment="shift", loss="cross_entropy", precision="fp32", layout="contiguous"
    )
    fit(model, data, recipe, FitRun())
    assert accuracy(model, data, "test") > 0.95


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(InputError, match="blocks 0"):
        SmallCNN(10, blocks=0)
