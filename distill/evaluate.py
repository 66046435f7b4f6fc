"""Accuracy on a split, and batch-normalisation statistics estimated anew before an untrained candidate is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from niwaki.distill import augment as augmentation
from niwaki.distill.augment import derived_seed
from niwaki.distill.data import Data
from niwaki.distill.numerics import Numerics
from niwaki.distill.recipe import Recipe
from niwaki.distill.splits import chunks

_NO_MOMENTUM = 1e-6


def main_logits(output: Any) -> Tensor:
    """The logits (B, classes) in what a classifier returns: the tensor itself, ``.logits``, or the first of a tuple.

    GoogLeNet and Inception answer with auxiliary logits beside the main ones while they train.

    Example:
        >>> main_logits((torch.zeros(2, 10), torch.ones(2, 10))).sum()
        tensor(0.)
    """
    found = getattr(output, "logits", output[0] if isinstance(output, tuple | list) else output)
    if not isinstance(found, Tensor):
        raise TypeError(f"a classifier must return logits, got a {type(output).__name__}")
    return found


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters (or buffers) are."""
    tensor = next(model.parameters(), next(model.buffers(), None))
    return tensor.device if tensor is not None else torch.device("cpu")


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Put every module back into its own train or eval mode afterwards."""
    modes = [(m, m.training) for m in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def accuracy(
    model: nn.Module,
    data: Data,
    split: str = "validation",
    batch_size: int = 256,
    numerics: Numerics | None = None,
) -> float:
    """Share (0 .. 1) of the examples of ``split`` that ``model`` classifies rightly, in eval mode.

    ``numerics`` None: float32, as a figure to publish should be. To rank candidates, ``recipe.numerics`` is as good and
    can be several times faster. The model is left as it was (with contiguous parameters).

    Example:
        >>> from niwaki.distill import DataSpec, build, load
        >>> 0 <= accuracy(build("small_cnn", 10), load(DataSpec("digits"))) <= 1
        True
    """
    part = data.part(split)
    device = device_of(model)
    numerics = numerics or Numerics()
    right = torch.zeros((), dtype=torch.int64, device=device)
    with modes_kept(model), numerics.running(model, device), torch.inference_mode():
        model.eval()
        for rows in chunks(torch.arange(len(part)), batch_size):
            images, labels = part.batch(rows)
            logits = main_logits(model(numerics.arranged(data.normalise(images.to(device)))))
            right += (logits.argmax(1) == labels.to(device)).sum()
    return int(right) / len(part)


@dataclass(frozen=True, eq=False)
class _Statistics:
    """The running mean and variance that one normaliser keeps: buffers of the model, by whatever module holds them."""

    mean: Tensor
    variance: Tensor
    counter: Tensor | None

    def fill(self, value: float) -> None:
        self.mean.fill_(value)
        self.variance.fill_(value)
        if self.counter is not None:
            self.counter.zero_()


def recalibrate(
    model: nn.Module,
    data: Data,
    images: int = 2048,
    batch_size: int = 256,
    seed: int = 0,
    recipe: Recipe | None = None,
) -> int:
    """Estimate the statistics of every batch normaliser anew from training images; returns how many were used.

    ``recipe``: the images are augmented as it says, and run in its precision and layout. That matters: black borders
    of padded crops are part of the statistics that a network was trained with (without them the CIFAR-10 ResNet-20 of
    the benchmarks loses 4 points of validation accuracy). None: images as they are, float32.

    The result is the average over batches of the batch mean and (unbiased) variance, weighted by batch size: what
    ``momentum=None`` computes. It is read off the buffers instead of set on modules, so that it also works for networks
    whose normalisers run in generated code: a buffer that starts at ``s`` ends at ``(1 - m) s + m * batch``; two passes
    over the first batch (s = 0 and s = 1) give ``m``. Modes, momenta and parameters are left as they were.

    Example:
        >>> from niwaki.distill import DataSpec, build, load
        >>> recalibrate(build("small_cnn", 10), load(DataSpec("digits")), images=64)
        64
    """
    found = _statistics(model)
    count = min(images, len(data.train))
    if not found or count < 2:
        return 0
    recipe = recipe or Recipe(augment="none", precision="fp32", layout="contiguous")
    numerics = Numerics() if "auto" in (recipe.precision, recipe.layout) else recipe.numerics
    view = augmentation.view_of(recipe.augment, len(data.train), data.shape, derived_seed(seed, "recalibrate"), 0)
    generator = torch.Generator().manual_seed(derived_seed(seed, "recalibrate"))
    rows = torch.randperm(len(data.train), generator=generator)[:count].sort().values
    batches = [b for b in chunks(rows, batch_size) if len(b) > 1]
    with modes_kept(model), numerics.running(model, device_of(model)), torch.no_grad():
        counters = [(s.counter, s.counter.clone()) for s in found if s.counter is not None]
        _average(model, found, lambda batch: numerics.arranged(_images(data, view, batch, model)), batches)
        for counter, before in counters:
            counter.copy_(before)
    return sum(len(b) for b in batches)


def _average(
    model: nn.Module, found: list[_Statistics], images: Callable[[Tensor], Tensor], batches: list[Tensor]
) -> None:
    moving = _momenta(model, found, images(batches[0]))
    sums = [(torch.zeros_like(s.mean), torch.zeros_like(s.variance)) for s in found]
    for batch in batches:
        _pass(model, found, images(batch), 0.0)
        for (mean, variance), statistics, momentum in zip(sums, found, moving, strict=True):
            mean.add_(statistics.mean, alpha=len(batch) / momentum)
            variance.add_(statistics.variance, alpha=len(batch) / momentum)
    used = sum(len(b) for b in batches)
    for (mean, variance), statistics in zip(sums, found, strict=True):
        statistics.mean.copy_(mean / used)
        statistics.variance.copy_(variance / used)


def _statistics(model: nn.Module) -> list[_Statistics]:
    found = []
    for module in model.modules():
        mean, variance = getattr(module, "running_mean", None), getattr(module, "running_var", None)
        if isinstance(mean, Tensor) and isinstance(variance, Tensor):
            counter = getattr(module, "num_batches_tracked", None)
            found.append(_Statistics(mean, variance, counter if isinstance(counter, Tensor) else None))
    return found


def _images(data: Data, view: augmentation.View, rows: Tensor, model: nn.Module) -> Tensor:
    return data.normalise(augmentation.apply(view, data.train.batch(rows)[0], rows).to(device_of(model)))


def _pass(model: nn.Module, found: list[_Statistics], images: Tensor, start: float) -> None:
    for statistics in found:
        statistics.fill(start)
    model(images)


def _momenta(model: nn.Module, found: list[_Statistics], images: Tensor) -> list[float]:
    """Measure the momentum of each; drop from ``found`` what no pass moves (a normaliser that is unused or frozen).

    First only normalisers are in train mode, so that dropout does not disturb them. A network in which that moves
    nothing (its code has one switch for all) is put into train mode as a whole.
    """
    before = [(s.mean.clone(), s.variance.clone()) for s in found]
    model.eval()
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            module.training = True
    moving = _measured(model, found, images)
    if max(moving) < _NO_MOMENTUM:
        model.train()
        moving = _measured(model, found, images)
    still = [i for i, m in enumerate(moving) if m < _NO_MOMENTUM]
    for i in still:
        found[i].mean.copy_(before[i][0])
        found[i].variance.copy_(before[i][1])
    found[:] = [s for i, s in enumerate(found) if i not in still]
    return [m for i, m in enumerate(moving) if i not in still]


def _measured(model: nn.Module, found: list[_Statistics], images: Tensor) -> list[float]:
    """The share of a batch that enters each running mean, read where the batch's mean is smallest (least rounding)."""
    ends = []
    for start in (0.0, 1.0):
        # Both passes start from the same random state, so that dropout (should it be on) is the same in both.
        with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
            _pass(model, found, images, start)
        ends.append([s.mean.double() for s in found])
    shares = []
    for from_zero, from_one in zip(*ends, strict=True):
        i = from_zero.abs().argmin()
        shares.append(1.0 - float(from_one[i] - from_zero[i]))
    return shares
