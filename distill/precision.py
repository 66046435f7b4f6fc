"""bfloat16 and channels-last, where a measurement on this machine says that they pay."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from niwaki.distill.data import Data
from niwaki.distill.evaluate import device_of, main_logits
from niwaki.distill.numerics import Layout, Numerics, Precision
from niwaki.distill.recipe import Recipe

_GAIN = 0.95  # another setting must save 5 % of the time to be worth its rounding
_ROUNDS = 3


def resolve(recipe: Recipe, student: nn.Module, data: Data) -> Recipe:
    """The recipe with ``auto`` replaced by what trains fastest here. Call it once a run, so that trials do not measure.

    Every setting that ``auto`` leaves open runs a few steps of forward and backward on a copy of ``student``; float32
    and the contiguous layout stay unless another is at least 5 % faster. A setting without kernels is left out.

    Example:
        >>> from niwaki.distill import DataSpec, build, load
        >>> r = resolve(Recipe(precision="fp32"), build("small_cnn", 10), load(DataSpec("digits")))
        >>> r.precision, r.layout in ("contiguous", "channels_last")
        ('fp32', True)
    """
    precisions: tuple[Precision, ...] = ("fp32", "bf16") if recipe.precision == "auto" else (recipe.precision,)
    layouts: tuple[Layout, ...] = ("contiguous", "channels_last") if recipe.layout == "auto" else (recipe.layout,)
    options = [Numerics(p, layout) for p in precisions for layout in layouts]
    if len(options) > 1:
        images = _images(data, recipe.batch_size, device_of(student))
        model = copy.deepcopy(student).train()
        options = [_fastest(options, lambda n: _train_time(model, images, n))]
    return dataclasses.replace(recipe, precision=options[0].precision, layout=options[0].layout)


def fastest_forward(model: nn.Module, data: Data) -> Numerics:
    """The numerics in which ``model`` (in eval mode) answers fastest; its parameters are left in their layout."""
    images = _images(data, 64, device_of(model))
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    layouts: tuple[Layout, ...] = ("contiguous", "channels_last")
    options = [Numerics(p, layout) for p in precisions for layout in layouts]
    return _fastest(options, lambda n: _forward_time(model, images, n))


def _images(data: Data, count: int, device: torch.device) -> Tensor:
    """At most 64 images, or 8 where they are large, so that the trial stays short on slow machines."""
    large = torch.Size(data.shape).numel() > 64 * 64 * 3
    return data.example(min(count, 8 if large and device.type == "cpu" else 64)).to(device)


def _fastest(options: Sequence[Numerics], timed: Callable[[Numerics], float]) -> Numerics:
    """The first (plainest) option unless others beat it by the gain; rounds are interleaved against noise."""
    times = dict.fromkeys(options, math.inf)
    for _ in range(_ROUNDS):
        for option in options:
            times[option] = min(times[option], timed(option))
    best = min(options, key=lambda n: times[n])
    return best if times[best] < _GAIN * times[options[0]] else options[0]


def _train_time(model: nn.Module, images: Tensor, numerics: Numerics) -> float:
    numerics.arrange(model)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with numerics.autocast(images.device):
            logits = main_logits(model(numerics.arranged(images)))
        logits.float().logsumexp(1).sum().backward()  # type: ignore[no-untyped-call]

    return _seconds(step, images.device)


def _forward_time(model: nn.Module, images: Tensor, numerics: Numerics) -> float:
    def step() -> None:
        with numerics.autocast(images.device):
            model(numerics.arranged(images))

    return _seconds(step, images.device)


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    """Of the second of two runs: the first one chooses kernels. A setting without kernels takes forever."""
    try:
        step()
        _wait(device)
        start = time.perf_counter()
        step()
        _wait(device)
        return time.perf_counter() - start
    except (RuntimeError, NotImplementedError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return math.inf


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        cast(Callable[[], None], getattr(torch, device.type).synchronize)()
