from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from niwaki.distill import Data, Numerics, accuracy, evaluate, main_logits, recalibrate


class Generated(nn.Module):
    """Normalises in code, not in a BatchNorm module, as a carved model with generated source does."""

    def __init__(self, momentum: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm = nn.Module()
        self.norm.register_buffer("running_mean", torch.zeros(2))
        self.norm.register_buffer("running_var", torch.ones(2))
        self.norm.register_buffer("num_batches_tracked", torch.tensor(5))
        self.linear = nn.Linear(128, 3)
        self.momentum = momentum

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.norm.num_batches_tracked.add_(1)
        x = F.dropout(3 * x + 2, self.dropout, self.training)
        mean, variance = self.norm.running_mean, self.norm.running_var
        x = F.batch_norm(x, mean, variance, training=self.training, momentum=self.momentum)
        return self.linear(x.flatten(1))


def everything(data: Data) -> Tensor:
    return data.normalise(data.train.batch(torch.arange(len(data.train)))[0])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_accuracy_counts_right_answers(data: Data, model: nn.Module, split: str) -> None:
    images, labels = data.part(split).batch(torch.arange(len(data.part(split))))
    right = (model.eval()(data.normalise(images)).argmax(1) == labels).float().mean().item()
    model.train()
    model[1].eval()
    modes = [m.training for m in model.modules()]
    assert accuracy(model, data, split, batch_size=7) == pytest.approx(right)
    assert [m.training for m in model.modules()] == modes


def test_accuracy_in_other_numerics_leaves_contiguous_trainable_parameters(data: Data, model: nn.Module) -> None:
    plain = accuracy(model, data)
    fast = accuracy(model, data, numerics=Numerics("bf16", "channels_last"))
    assert abs(plain - fast) <= 3 / len(data.validation)
    assert all(p.is_contiguous() and p.dtype == torch.float32 and not p.is_inference() for p in model.parameters())


def test_logits_of_every_kind_of_output() -> None:
    z = torch.zeros(2, 3)
    for output in (z, (z, None), [z], SimpleNamespace(logits=z)):
        assert main_logits(output) is z
    with pytest.raises(TypeError, match="must return logits, got a dict"):
        main_logits({"out": z})


def test_recalibration_equals_the_cumulative_average(data: Data, model: nn.Module) -> None:
    """Against torch's own ``momentum=None`` over the same batches (30 images each, all of one size)."""
    reference = copy.deepcopy(model)
    norm = reference[1]
    norm.reset_running_stats()
    norm.momentum = None
    with torch.no_grad():
        for batch in everything(data).split(30):
            reference.train()(batch)
    model.eval()
    model[1].running_mean.fill_(9.0)
    assert recalibrate(model, data, images=90, batch_size=30) == 90
    torch.testing.assert_close(model[1].running_mean, norm.running_mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model[1].running_var, norm.running_var, rtol=1e-5, atol=1e-6)
    assert not any(m.training for m in model.modules())
    assert model[1].momentum == 0.1
    assert int(model[1].num_batches_tracked) == 0


@pytest.mark.parametrize("momentum", [0.1, 0.01, 1.0])
def test_recalibration_of_a_model_that_normalises_in_code(data: Data, momentum: float) -> None:
    model = Generated(momentum).eval()
    x = 3 * everything(data) + 2
    recalibrate(model, data, images=90, batch_size=90)
    torch.testing.assert_close(model.norm.running_mean, x.mean((0, 2, 3)), rtol=1e-3, atol=2e-5)
    torch.testing.assert_close(model.norm.running_var, x.var((0, 2, 3)), rtol=1e-3, atol=2e-5)
    assert int(model.norm.num_batches_tracked) == 5
    assert not model.training


def test_the_momentum_is_measured_under_dropout(data: Data) -> None:
    model = Generated(0.1, dropout=0.5).train()
    with torch.no_grad():
        found = evaluate._measured(model, evaluate._statistics(model), everything(data))
    assert found == pytest.approx([0.1], rel=1e-4)


def test_recalibration_without_momentum_dropout_or_normalisers(data: Data) -> None:
    free = nn.Sequential(nn.BatchNorm2d(2, momentum=None), nn.Dropout(0.9), nn.Flatten(), nn.Linear(128, 3)).eval()
    recalibrate(free, data, images=90, batch_size=90)
    torch.testing.assert_close(free[0].running_mean, everything(data).mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert free[0].momentum is None
    assert recalibrate(nn.Sequential(nn.Flatten(), nn.Linear(128, 3)), data) == 0


def test_a_normaliser_that_never_runs_keeps_its_statistics(data: Data, model: nn.Module) -> None:
    model.add_module("unused", nn.Identity())
    model.unused.norm = nn.BatchNorm2d(4)
    model.unused.norm.running_mean.fill_(3.0)
    recalibrate(model, data, images=64)
    assert model.unused.norm.running_mean.tolist() == [3.0] * 4
    assert model[1].running_mean.abs().sum() > 0


def test_recalibration_repairs_a_model(data: Data, model: nn.Module) -> None:
    from niwaki.distill import Recipe, fit

    fit(
        model,
        data,
        Recipe(900, 30, augment="none", loss="cross_entropy", precision="fp32", layout="contiguous", lr=0.05),
    )
    good = accuracy(model, data, "test")
    model[1].running_mean.add_(5.0)
    model[1].running_var.mul_(50.0)
    broken = accuracy(model, data, "test")
    recalibrate(model, data)
    assert good > 0.9 > broken
    assert accuracy(model, data, "test") >= good - 0.05
