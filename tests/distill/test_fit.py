from __future__ import annotations

import copy
import dataclasses
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from niwaki.distill import (
    Answers,
    Data,
    FitProgress,
    FitRun,
    Recipe,
    accuracy,
    answers,
    augment,
    fit,
    from_datasets,
)
from niwaki.distill.stream import Plan

CE = Recipe(
    images=600, batch_size=30, lr=0.05, augment="none", loss="cross_entropy", precision="fp32", layout="contiguous"
)
KD = dataclasses.replace(CE, loss="hinton", augment="crop_flip")


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def test_it_learns_and_reports(data: Data, model: nn.Module) -> None:
    seen: list[FitProgress] = []
    steps: list[int] = []
    before = accuracy(model, data, "test")
    result = fit(model, data, CE, FitRun(report=seen.append, after_step=lambda: steps.append(1)))
    assert before < 0.7
    assert accuracy(model, data, "test") > 0.9
    assert result.images == 600
    assert len(steps) == 20
    assert [p.images for p in seen] == [480, 600]
    assert all(p.total == 600 for p in seen)
    assert result.loss < seen[0].loss
    assert not model.training


def test_it_equals_a_loop_written_out_plainly(data: Data, model: nn.Module) -> None:
    """Hinton KD with stored answers, SGD with Nesterov momentum, warm-up and cosine."""
    teacher = copy.deepcopy(model)
    nn.init.normal_(teacher[4].weight)
    stored = answers(teacher, data, Recipe(views=2), seed=3)
    reference = copy.deepcopy(model).train()
    recipe = dataclasses.replace(KD, images=250, label_smoothing=0.1)
    optimizer = torch.optim.SGD(reference.parameters(), lr=1.0, momentum=0.9, nesterov=True, weight_decay=5e-4)
    images, labels = data.train.batch(torch.arange(90))
    plan = Plan(90, 250, 30, seed=7)
    for step, pieces in enumerate(plan):
        order = [(epoch % 2, int(i)) for epoch, indices in pieces for i in indices]
        views = {v: augment.view_of("crop_flip", 90, (2, 8, 8), 3, v) for v, _ in order}
        x = torch.cat([augment.apply(views[v], images[[i]], torch.tensor([i])) for v, i in order])
        y = labels[[i for _, i in order]]
        teach = torch.stack([stored.logits[v, i].float() for v, i in order])
        out = reference(data.normalise(x))
        soft = (F.softmax(teach / 4, 1) * (F.log_softmax(teach / 4, 1) - F.log_softmax(out / 4, 1))).sum(1).mean() * 16
        loss = 0.1 * F.cross_entropy(out, y, label_smoothing=0.1) + 0.9 * soft
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr_at(step, len(plan))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    fit(model, data, recipe, FitRun(answers=stored, seed=7))
    for key, value in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=1e-4, atol=1e-5)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_state(data: Data, model: nn.Module) -> None:
    model.append(nn.Dropout(0.5))
    one, two, three = model, copy.deepcopy(model), copy.deepcopy(model)
    state = torch.get_rng_state()
    fit(one, data, CE, FitRun(seed=1))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    fit(two, data, CE, FitRun(seed=1))
    fit(three, data, CE, FitRun(seed=2))
    assert same(one, two)
    assert not same(one, three)


def test_stored_answers_equal_a_live_teacher(data: Data, model: nn.Module) -> None:
    """Without augmentation the images are the same, so a live teacher must give the same training (to float16)."""
    teacher = copy.deepcopy(model).eval()
    nn.init.normal_(teacher[4].weight)
    recipe = dataclasses.replace(KD, augment="none", images=180)
    live, stored = copy.deepcopy(model), copy.deepcopy(model)
    kept = answers(teacher, data, Recipe(views=2, augment="none"), 0)
    with torch.no_grad():
        exact = teacher(data.normalise(data.train.batch(torch.arange(90))[0]))
    kept = dataclasses.replace(kept, logits=exact.half().expand(2, -1, -1))
    fit(live, data, recipe, FitRun(teacher=teacher))
    fit(stored, data, recipe, FitRun(answers=kept))
    for key, value in live.state_dict().items():
        torch.testing.assert_close(stored.state_dict()[key], value, rtol=5e-3, atol=5e-3)
    assert not any(p.grad is not None for p in teacher.parameters())


@pytest.mark.parametrize("numerics", [("bf16", "channels_last"), ("fp32", "channels_last"), ("bf16", "contiguous")])
def test_every_numerics_trains_and_ends_contiguous_in_float32(
    data: Data, model: nn.Module, numerics: tuple[Any, Any]
) -> None:
    recipe = dataclasses.replace(CE, precision=numerics[0], layout=numerics[1])
    fit(model, data, recipe)
    assert all(v.is_contiguous() for v in model.state_dict().values())
    assert accuracy(model, data, "test") > 0.9
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize(
    "change", [{"optimizer": "adamw", "lr": 0.01}, {"ema": 0.9}, {"decay": "weights"}, {"label_smoothing": 0.1}]
)
def test_every_option_trains(data: Data, model: nn.Module, change: dict[str, Any]) -> None:
    plain = copy.deepcopy(model)
    fit(plain, data, CE)
    fit(model, data, dataclasses.replace(CE, **change))
    assert accuracy(model, data, "test") > 0.9
    assert not same(plain, model)


def test_masks_hold_through_momentum_and_average(data: Data, model: nn.Module) -> None:
    weight = model[4].weight
    mask = torch.rand_like(weight) < 0.5

    def hold() -> None:
        with torch.no_grad():
            weight.mul_(mask)

    hold()
    fit(model, data, dataclasses.replace(CE, ema=0.9), FitRun(after_step=hold))
    assert torch.equal(weight != 0, mask)


class Main(NamedTuple):
    logits: Tensor
    aux: Tensor


class Auxiliary(nn.Module):
    """Answers with a named tuple while it trains, as GoogLeNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.aux = nn.Linear(128, 3), nn.Linear(128, 3)

    def forward(self, x: Tensor) -> Tensor | Main:
        main, aux = self.main(x.flatten(1)), self.aux(x.flatten(1))
        return Main(main, aux) if self.training else main


def test_auxiliary_outputs_are_left_out(data: Data) -> None:
    model = Auxiliary()
    before = model.aux.weight.clone()
    fit(model, data, dataclasses.replace(CE, weight_decay=0.0))
    assert torch.equal(model.aux.weight, before)
    assert accuracy(model, data, "test") > 0.9


def test_a_continued_training_sees_what_follows(data: Data, model: nn.Module) -> None:
    """With a constant model (lr 0) the loss of a step tells which images it saw."""
    still = dataclasses.replace(CE, lr=0.0, augment="crop_flip", images=30, batch_size=30)
    model[1].momentum = 0.0
    first = fit(model, data, still, FitRun()).loss
    second = fit(model, data, still, FitRun(first_image=30)).loss
    both = fit(model, data, still.scaled(60), FitRun()).loss  # the last tenth: its last step
    assert second == pytest.approx(both, rel=1e-5)
    assert second != pytest.approx(first, rel=1e-5)


def test_data_read_on_demand_train_like_data_in_memory(pairs: Any, model: nn.Module) -> None:
    images, labels = torch.randint(0, 256, (60, 2, 8, 8), dtype=torch.uint8), [0, 1, 2] * 20
    held, read = (from_datasets(pairs(images, labels), pairs(images, labels), memory=m) for m in (1.0, 0.0))
    assert read.train.lazy
    other = copy.deepcopy(model)
    fit(model, held, CE.scaled(120))
    fit(other, read, CE.scaled(120))
    assert same(model, other)


def test_a_loss_that_is_not_finite_names_its_step(data: Data, model: nn.Module) -> None:
    calls: list[int] = []

    def spoil() -> None:
        calls.append(1)
        if len(calls) == 3:
            nn.init.constant_(model[4].bias, float("nan"))

    with pytest.raises(FloatingPointError, match="loss nan at step 4 of 20"):
        fit(model, data, CE, FitRun(after_step=spoil))
    assert not model.training

    def late() -> None:
        nn.init.constant_(model[0].bias, float("inf"))

    with pytest.raises(FloatingPointError, match=r"'0.bias' is not finite after step 1"):
        fit(copy_into(model), data, CE.scaled(30), FitRun(after_step=late))


def copy_into(model: nn.Module) -> nn.Module:
    for module in model:
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return model


def test_answers_must_belong_to_the_data_and_the_augmentation(data: Data, model: nn.Module) -> None:
    with pytest.raises(ValueError, match="needs the teacher's answers"):
        fit(model, data, KD)
    with pytest.raises(ValueError, match="augmented by 'none', the recipe says 'crop_flip'"):
        fit(model, data, KD, FitRun(answers=Answers(torch.zeros(1, 90, 3), "none", 0)))
    with pytest.raises(ValueError, match=r"are for \(80, 3\) .*have \(90, 3\)"):
        fit(model, data, KD, FitRun(answers=Answers(torch.zeros(1, 80, 3), "crop_flip", 0)))


def test_frozen_parameters_stay(data: Data, model: nn.Module) -> None:
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    fit(model, data, CE.scaled(90))
    assert torch.equal(model[0].weight, before)
