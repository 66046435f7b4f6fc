"""The running average of a model's weights over its training steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of every floating-point entry of a state dict (Polyak averaging).

    The decay warms up as ``min(decay, (1 + k) / (10 + k))`` over steps k, so that short trainings do not remember
    their start.
    Zeros that a mask holds stay zero: they are averages of zeros.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> average = Average(layer, 0.9)
        >>> average.update(layer)
        >>> average.copy_to(layer)
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.values: dict[str, Tensor] = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step; integer entries (counters) are copied."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                self.values[key].lerp_(value, 1 - decay)
            else:
                self.values[key].copy_(value)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Replace the model's weights by the average."""
        for key, value in model.state_dict().items():
            value.copy_(self.values[key])
