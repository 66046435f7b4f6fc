from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from niwaki.distill import Answers, Data, Recipe, answers, augment
from niwaki.spaces.errors import InputError

PLAIN = Recipe(views=1, augment="none")


def test_the_answers_are_those_on_the_augmented_views(data: Data, model: nn.Module) -> None:
    model.train()
    done: list[tuple[int, int]] = []
    got = answers(model, data, Recipe(views=3), seed=5, report=lambda a, b: done.append((a, b)))
    images, _ = data.train.batch(torch.arange(90))
    assert got.logits.dtype == torch.float16
    assert got.logits.shape == (3, 90, 3)
    assert (got.views, got.augment, got.seed) == (3, "crop_flip", 5)
    assert done[-1] == (270, 270)
    assert model.training
    assert int(model[1].num_batches_tracked) == 0
    model.eval()
    for number in range(3):
        view = augment.view_of("crop_flip", 90, (2, 8, 8), 5, number)
        with torch.no_grad():
            expected = model(data.normalise(augment.apply(view, images, torch.arange(90))))
        # bf16 may have been measured to be faster
        torch.testing.assert_close(got.logits[number].float(), expected, rtol=0.02, atol=0.05)


def test_they_are_saved_and_read_back(tmp_path: Path) -> None:
    kept = Answers(torch.randn(2, 5, 3).half(), "shift", 11)
    kept.save(tmp_path / "answers.safetensors")
    read = Answers.load(tmp_path / "answers.safetensors")
    assert torch.equal(read.logits, kept.logits)
    assert (read.augment, read.seed, read.views) == ("shift", 11, 2)


class Says(nn.Module):
    def __init__(self, value: float, classes: int = 3) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        return self.value.expand(len(x), self.classes)


def test_huge_logits_stay_finite(data: Data) -> None:
    assert answers(Says(1e9), data, PLAIN, 0).logits.isfinite().all()


def test_broken_teachers_are_input_errors(data: Data) -> None:
    with pytest.raises(InputError, match="NaN or infinity"):
        answers(Says(float("nan")), data, PLAIN, 0)
    with pytest.raises(InputError, match="4 classes, but the data 'blobs' have 3"):
        answers(Says(0.0, 4), data, PLAIN, 0)
