"""The state of a training, written down while it runs: one that was stopped goes on as if it had not been."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor


class Checkpoint(Protocol):
    """Where :func:`niwaki.distill.fit` leaves the state of a training, and finds that of an earlier one."""

    @property
    def due(self) -> bool:
        """Whether it is time to write; asked after every step."""

    def read(self) -> Mapping[str, Tensor] | None:
        """The latest state, on the CPU; None where there is none."""

    def write(self, state: Mapping[str, Tensor]) -> None:
        """Keep this state instead of the latest one."""


def optimizer_state(prefix: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimizer remembers of each parameter, as ``prefix/number of the parameter/name``.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = torch.optim.SGD([weight], 0.1, momentum=0.9)
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> optimizer_state("sgd", optimizer)
        {'sgd/0/momentum_buffer': tensor([1., 1.])}
    """
    states = [(i, optimizer.state[p]) for i, p in enumerate(_parameters(optimizer)) if p in optimizer.state]
    return {f"{prefix}/{i}/{k}": v for i, state in states for k, v in state.items() if isinstance(v, Tensor)}


def restore_optimizer(prefix: str, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of :func:`optimizer_state`; other entries of ``tensors`` are passed over."""
    parameters = _parameters(optimizer)
    for key, value in tensors.items():
        owner, _, rest = key.partition("/")
        if owner == prefix:
            number, _, name = rest.partition("/")
            parameter = parameters[int(number)]
            optimizer.state[parameter][name] = value if name == "step" else value.to(parameter.device)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Of the global generators that a training on ``device`` draws from."""
    found = {"random/cpu": torch.get_rng_state()}
    if device.type == "cuda":
        found["random/cuda"] = torch.cuda.get_rng_state(device)
    return found


def restore_random(device: torch.device, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of :func:`random_state`."""
    torch.set_rng_state(tensors["random/cpu"])
    if device.type == "cuda" and "random/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random/cuda"], device)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]
