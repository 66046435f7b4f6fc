"""Draws of widths and depths from logits: Gumbel-softmax, of which two widths are tried (TAS, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from niwaki.spaces.types import Variable

Schedule = Literal["linear", "cosine"]
_RANGES: Mapping[Schedule, tuple[float, float]] = {"linear": (10.0, 0.1), "cosine": (5.0, 0.1)}


@dataclass(frozen=True, eq=False)
class Pair:
    """Two different choices of a variable, by index, and their weights: (2,), summing to 1."""

    first: int
    second: int
    weights: Tensor


@dataclass(frozen=True, eq=False)
class Draw:
    """What one step runs: width variable -> two choices; stage -> weights of all its depths, ``(choices,)``."""

    widths: Mapping[str, Pair]
    depths: Mapping[str, Tensor]


def label(variable: Variable) -> str:
    """The key of a variable's logits: a group, a stage and a layer may have one name."""
    return f"{variable.kind} {variable.name}"


def temperature(progress: float, schedule: Schedule = "linear") -> float:
    """The temperature after a share ``progress`` (0 .. 1) of a search.

    ``linear``: 10 to 0.1, as the paper says; ``cosine``: 5 to 0.1, as its code does.

    Example:
        >>> [round(temperature(p), 2) for p in (0.0, 0.5, 1.0)]
        [10.0, 5.05, 0.1]
    """
    high, low = _RANGES[schedule]
    share = 1 - progress if schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return low + (high - low) * share


def relaxed(logits: Tensor, tau: float, generator: torch.Generator) -> Tensor:
    """Gumbel noise on the log-probabilities, over the temperature: ``(choices,)`` -> ``(choices,)``, unnormalised.

    Jang, Gu, Poole 2017 (arXiv 1611.01144), equation 2, before its softmax.
    """
    noise = -torch.empty_like(logits).exponential_(generator=generator).log()
    return (logits.log_softmax(0) + noise) / tau


def pair(logits: Tensor, tau: float, generator: torch.Generator) -> Pair:
    """Two choices without replacement by their relaxed probabilities; gradients reach these two logits alone."""
    noisy = relaxed(logits, tau, generator)
    chances = noisy.detach().softmax(0) + 1e-7  # at low temperatures all but one are zero to rounding
    first, second = torch.multinomial(chances, 2, replacement=False, generator=generator).tolist()
    return Pair(first, second, torch.stack([noisy[first], noisy[second]]).softmax(0))


def draw(
    variables: tuple[Variable, ...], logits: Mapping[str, Tensor], tau: float, generator: torch.Generator
) -> Draw:
    """One draw of every variable that has logits, by its label (single choices and sparsities have none).

    Example:
        >>> v = (Variable("conv", "width", (4, 8, 16)),)
        >>> d = draw(v, {"width conv": torch.zeros(3)}, 1.0, torch.Generator().manual_seed(0))
        >>> d.widths["conv"].first != d.widths["conv"].second
        True
    """
    given = [(v, logits[label(v)]) for v in variables if label(v) in logits]
    widths = {v.name: pair(values, tau, generator) for v, values in given if v.kind == "width"}
    depths = {v.name: relaxed(values, tau, generator).softmax(0) for v, values in given if v.kind == "depth"}
    return Draw(widths, depths)
