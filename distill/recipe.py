"""How a model is trained: one value that says everything but the data and the model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import nn

from niwaki.distill import augment
from niwaki.distill.losses import Loss
from niwaki.distill.numerics import Numerics
from niwaki.distill.objects import build
from niwaki.spaces import registry
from niwaki.spaces.errors import InputError, nearest


@dataclass(frozen=True)
class Recipe:
    """Settings of one training.

    Attributes:
        images: training images seen in all (an epoch counts its images), so that trainings of different data compare.
        batch_size: images a step.
        optimizer: ``sgd`` (Nesterov momentum) or ``adamw``.
        lr: peak learning rate; linear warm-up to it, then cosine down to 0.
        momentum: of SGD; AdamW's first moment.
        weight_decay: L2 (SGD) or decoupled (AdamW).
        decay: ``all`` parameters (as most published CIFAR recipes do) or ``weights`` only: not biases and
            normalisers (dim < 2).
        warmup: share of the steps that warm up.
        label_smoothing: of the cross-entropy.
        ema: decay a step of an exponential average of the weights that replaces them in the end; 0: off.
        precision, layout: ``auto`` is measured by :func:`niwaki.distill.precision.resolve`, once a run.
        augment: ``none``, ``flip``, ``shift`` or ``crop_flip``.
        loss: file name in ``distill/losses``; ``loss_options``: the fields of its class.
        views: how many augmented views of the training images the teacher answers on; epoch e uses view ``e % views``.

    The defaults are those of short fine-tuning from a pretrained network on CIFAR.

    Example:
        >>> Recipe(images=90_000).scaled(9_000).images
        9000
    """

    images: int = 90_000
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay: Literal["all", "weights"] = "all"
    warmup: float = 0.05
    label_smoothing: float = 0.0
    ema: float = 0.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    layout: Literal["auto", "contiguous", "channels_last"] = "auto"
    augment: str = "crop_flip"
    loss: str = "hinton"
    loss_options: Mapping[str, Any] = field(default_factory=dict)
    views: int = 2

    def __post_init__(self) -> None:
        for key, low, high in _RANGES:
            value = getattr(self, key)
            if not (isinstance(value, int | float) and low <= value <= high):
                raise InputError(f"train.{key}: {value!r} is not between {low:g} and {high:g}")
        for key, valid in _CHOICES.items():
            if getattr(self, key) not in valid:
                raise InputError(
                    f"train.{key}: unknown value {getattr(self, key)!r}; {nearest(str(getattr(self, key)), valid)}"
                )
        augment.named(self.augment)
        self.build_loss()

    def scaled(self, images: int) -> Recipe:
        """The same recipe over another number of images; the schedule stretches with it."""
        return dataclasses.replace(self, images=images)

    @property
    def numerics(self) -> Numerics:
        """Precision and layout as one value; ValueError where :func:`niwaki.distill.resolve` has not settled them."""
        if self.precision == "auto" or self.layout == "auto":
            raise ValueError(
                f"precision {self.precision!r} and layout {self.layout!r} are not settled yet; call resolve()"
            )
        return Numerics(self.precision, self.layout)

    def build_loss(self) -> Loss:
        """The loss this recipe names; InputError for an unknown name or option."""
        cls = registry.load("niwaki.distill.losses", self.loss, "train.loss")
        made: Loss = build(cls, {"label_smoothing": self.label_smoothing, **self.loss_options}, "train.loss_options")
        return made

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer over the parameters that train; see ``decay`` for the two groups."""
        parameters = [p for p in model.parameters() if p.requires_grad]
        plain = [p for p in parameters if self.decay == "weights" and p.dim() < 2]
        decayed = [p for p in parameters if self.decay == "all" or p.dim() >= 2]
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        return OPTIMIZERS[self.optimizer]([g for g in groups if g["params"]], self)

    def lr_at(self, step: int, steps: int) -> float:
        """Learning rate of ``step`` (from 0) of ``steps``: linear warm-up, then a cosine that reaches 0 at ``steps``.

        Example:
            >>> r = Recipe(lr=1.0, warmup=0.5)
            >>> [round(r.lr_at(k, 4), 3) for k in range(4)]
            [0.5, 1.0, 1.0, 0.5]
        """
        warm = min(round(self.warmup * steps), steps - 1)
        if step < warm:
            return self.lr * (step + 1) / warm
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def _sgd(groups: list[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0)


def _adamw(groups: list[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999))


OPTIMIZERS: Mapping[str, Callable[[list[dict[str, Any]], Recipe], torch.optim.Optimizer]] = MappingProxyType(
    {"sgd": _sgd, "adamw": _adamw}
)

_RANGES = (
    ("images", 2, 1e12),
    ("batch_size", 2, 1e7),
    ("lr", 0, 1e3),
    ("momentum", 0, 0.99999),
    ("weight_decay", 0, 1e3),
    ("warmup", 0, 1),
    ("label_smoothing", 0, 0.99999),
    ("ema", 0, 0.9999999),
    ("views", 1, 1e6),
)

_CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "optimizer": tuple(OPTIMIZERS),
        "decay": ("all", "weights"),
        "precision": ("auto", "fp32", "bf16"),
        "layout": ("auto", "contiguous", "channels_last"),
    }
)
