"""How many torch threads pay for a model on this machine, measured: small networks on a busy machine want one."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from niwaki.distill import main_logits
from niwaki.search.runners import cpu_count

_ROUNDS = 3
_GAIN = 0.8  # more threads must save a fifth of the time: they take it from everything else that runs here
_SMALL = 0.03  # seconds: a step that takes less on one thread is not worth splitting, or finding out


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Use ``count`` threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fastest_threads(model: nn.Module, images: Tensor) -> int:
    """One thread, or as many as this process may use where a training step on ``images`` is clearly faster with them.

    Example:
        >>> fastest_threads(nn.Linear(4, 2), torch.zeros(8, 4)) in (1, cpu_count())
        True
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if cpu_count() == 1 or device.type != "cpu":
        return 1
    probe = copy.deepcopy(model).train()
    with torch_threads(1):
        times = {1: _step_seconds(probe, images), cpu_count(): float("inf")}
    if times[1] < _SMALL:
        return 1
    for _ in range(_ROUNDS):
        for count, best in list(times.items()):
            with torch_threads(count):
                times[count] = min(best, _step_seconds(probe, images))
    return cpu_count() if times[cpu_count()] < _GAIN * times[1] else 1


def _step_seconds(model: nn.Module, images: Tensor) -> float:
    """Of the second of two steps: the first one after a change makes its threads."""
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        logits: Tensor = main_logits(model(images))
        logits.logsumexp(1).sum().backward()  # type: ignore[no-untyped-call]
        seconds = time.perf_counter() - start
    return seconds
