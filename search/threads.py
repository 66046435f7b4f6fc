"""How many torch threads a computation gets: small steps lose more to splitting than they gain."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from niwaki.search.runners import cpu_count

SMALL = 2e9
"""Multiply-accumulates of a forward pass below which a second thread does not pay: some 30 ms of one core. On a busy
machine threads that wait for each other made steps of 15 ms ten times slower."""


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Use ``count`` threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_for(macs: float) -> int:
    """Threads for forward passes of ``macs``: one, or all that this process may use.

    A rule and not a measurement: sums depend on how they are split, and a run must come out the same on a busy day.

    Example:
        >>> threads_for(1e8), threads_for(1e10) == cpu_count()
        (1, True)
    """
    return 1 if macs < SMALL else cpu_count()
